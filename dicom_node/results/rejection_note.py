"""The note that withdraws an earlier draft at an archive that takes such notes (IHE RAD IOCM).

A key object selection (PS3.3 A.35.4) with the title of a rejection. It is made of the frozen bytes of the draft that
replaces the earlier one and of nothing else, so the same draft always sends the same note.
"""

from pydicom.dataset import Dataset

from dicom_node.results.derived_uids import series_instance_uid
from dicom_node.results.report_codes import DEVICE, DEVICE_OBSERVER_UID, OBSERVER_TYPE, dcm
from dicom_node.results.sr_document import seal
from dicom_node.results.sr_elements import code_item, put

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
#: PS3.16 CID 7010. Of the four titles of a rejection this is the one that takes a document out of sight because it is
#: not good enough; the others speak of a harmed patient, a wrong order and an expired retention.
TITLE = dcm("113001", "Rejected for Quality Reasons")
SERIES_DESCRIPTION = "Superseded AI drafts withdrawn"
#: Behind the series of the drafts.
SERIES_NUMBER = 9902
_DESCRIPTION = dcm("113012", "Key Object Description")
_REASON = "Unverified AI draft, superseded by a newer draft of this study."

#: What the note says of patient, study, equipment and time is what the draft says.
_COPIED = (
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC", "InstanceCreationDate", "InstanceCreationTime"),
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "ProcedureCodeSequence", "AdmissionID"),
    *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
    *("StationName", "InstitutionName", "DeviceUID", "InstanceNumber", "ContentDate", "ContentTime"),
)


def build(document: Dataset) -> Dataset | None:
    """Build the note that rejects what a document replaces (PS3.16 TID 2010); None where it replaces nothing.

    Parameters
    ----------
    document
        A draft as it was frozen.
    """
    replaced = document.get("PredecessorDocumentsSequence")
    if not replaced:
        return None
    ds = Dataset()
    for keyword in _COPIED:
        if keyword in document:
            ds[keyword] = document[keyword]
    put(ds, "Modality", "KO")
    # Each note has a series of its own, dated: OHIF lists dated series of documents behind undated ones, the drafts.
    kind = f"rejection note of {document.SOPInstanceUID}"
    put(ds, "SeriesInstanceUID", series_instance_uid(str(document.StudyInstanceUID), kind))
    put(ds, "SeriesDate", str(document.ContentDate))
    put(ds, "SeriesTime", str(document.ContentTime))
    put(ds, "SeriesNumber", SERIES_NUMBER)
    put(ds, "SeriesDescription", SERIES_DESCRIPTION)
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = replaced
    _add_content(ds, document, replaced)
    seal(ds, KEY_OBJECT_SELECTION, str(document.SOPInstanceUID))
    return ds


def _add_content(ds: Dataset, document: Dataset, replaced: list[Dataset]) -> None:
    template = Dataset()
    put(template, "MappingResource", "DCMR")
    put(template, "MappingResourceUID", "1.2.840.10008.8.1.1")
    put(template, "TemplateIdentifier", "2010")
    put(ds, "ValueType", "CONTAINER")
    ds.ConceptNameCodeSequence = [code_item(TITLE)]
    put(ds, "ContinuityOfContent", "SEPARATE")
    ds.ContentTemplateSequence = [template]
    observer_type = _item("HAS OBS CONTEXT", "CODE")
    observer_type.ConceptNameCodeSequence = [code_item(OBSERVER_TYPE)]
    observer_type.ConceptCodeSequence = [code_item(DEVICE)]
    observer_uid = _item("HAS OBS CONTEXT", "UIDREF")
    observer_uid.ConceptNameCodeSequence = [code_item(DEVICE_OBSERVER_UID)]
    put(observer_uid, "UID", str(document.DeviceUID))
    reason = _item("CONTAINS", "TEXT")
    reason.ConceptNameCodeSequence = [code_item(_DESCRIPTION)]
    reason.TextValue = _REASON
    references = []
    for study in replaced:
        for series in study.ReferencedSeriesSequence:
            for one in series.ReferencedSOPSequence:
                reference = _item("CONTAINS", "COMPOSITE")
                reference.ReferencedSOPSequence = [one]
                references.append(reference)
    ds.ContentSequence = [observer_type, observer_uid, reason, *references]


def _item(relationship: str, value_type: str) -> Dataset:
    item = Dataset()
    put(item, "RelationshipType", relationship)
    put(item, "ValueType", value_type)
    return item
