"""The step `prepare`: one Reading for one destination becomes the exact bytes that will be sent."""

import io

from pydicom import dcmread

from casebook.case import Case
from casebook.errors import InvalidObject, UnencodableText, UnsafeOutput, UnwritableText
from casebook.outcomes import Held, Prepared
from casebook.reading import InstanceReference, Reading
from casebook.settings import DeviceSettings, DicomDestination, Settings
from dicom_node.hl7.structure_check import check_structure
from dicom_node.results import guards, identity, oru, sr_document


def prepare(case: Case, settings: Settings) -> Prepared | Held:
    """Render, validate and gate one output; pure but for what it is given.

    Parameters
    ----------
    case
        A prepare job; its subject is the name of the destination.
    settings
        Of this node.

    Returns
    -------
        The bytes to freeze, or why a person has to decide.

    Raises
    ------
    SettingsError
        When the destination is not configured.
    UnsafeOutput, IdentityConflict
        When a builder made something it never should: an error of ours.
    """
    destination = settings.destination(case.job.subject)
    if case.reading is None:
        raise InvalidObject("a prepare job without a reading")
    device = _device_of(case, settings)
    held = identity.examine(case, case.reading, "sr" if isinstance(destination, DicomDestination) else "oru")
    if held is not None:
        return held
    try:
        if isinstance(destination, DicomDestination):
            return _sr(case, case.reading, device)
        content, control_id = oru.build(
            case.reading,
            destination,
            device,
            revision=case.revision,
            replaces_earlier=bool(case.predecessor_uid),
        )
        check_structure(content.decode(oru.CODECS[destination.charset]))
    except UnwritableText as error:
        # Our own messages name elements and sizes, never a value.
        return Held(
            reason="text_unencodable" if isinstance(error, UnencodableText) else "text_unwritable",
            detail=f"The draft cannot be written for {destination.name}: {error}.",
            only_this_output=True,
        )
    guards.check_oru(content, case.reading, destination, control_id)
    return Prepared(kind="oru", content=content, object_uid=control_id, object_class=oru.MESSAGE_TYPE)


def _device_of(case: Case, settings: Settings) -> DeviceSettings:
    """Return how this installation names itself: the DeviceUID is that of the database, the rest of the settings."""
    if not case.device_uid:
        raise UnsafeOutput("this installation has no DeviceUID yet, so nobody could tell whose result it is")
    return settings.device.model_copy(update={"device_uid": case.device_uid})


def _sr(case: Case, reading: Reading, device: DeviceSettings) -> Prepared:
    ds = sr_document.build(reading, device, revision=case.revision, predecessor=_predecessor(case))
    content = sr_document.to_bytes(ds)
    guards.check_sr(content, reading, ds.SOPInstanceUID)
    return Prepared(kind="sr", content=content, object_uid=str(ds.SOPInstanceUID), object_class=sr_document.ENHANCED_SR)


def _predecessor(case: Case) -> InstanceReference | None:
    # A destination that took HL7 before has no document that this one could replace.
    if case.predecessor_class != sr_document.ENHANCED_SR:
        return None
    earlier = dcmread(io.BytesIO(case.predecessor_content), specific_tags=["SeriesInstanceUID"])
    return InstanceReference(
        series_instance_uid=str(earlier.SeriesInstanceUID),
        sop_instance_uid=case.predecessor_uid,
        sop_class_uid=case.predecessor_class,
    )
