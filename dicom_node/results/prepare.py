"""The step `prepare`: one Reading for one destination becomes the exact bytes that will be sent."""

from casebook.case import Case
from casebook.errors import InvalidObject, UnencodableText, UnwritableText
from casebook.outcomes import Held, Prepared
from casebook.reading import Reading
from casebook.settings import DicomDestination, Settings
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
    held = identity.examine(case, case.reading, "sr" if isinstance(destination, DicomDestination) else "oru")
    if held is not None:
        return held
    try:
        if isinstance(destination, DicomDestination):
            return _sr(case, case.reading, settings)
        content, control_id = oru.build(
            case.reading,
            destination,
            settings.device,
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


def _sr(case: Case, reading: Reading, settings: Settings) -> Prepared:
    predecessor = (case.predecessor_class, case.predecessor_uid) if case.predecessor_uid else None
    ds = sr_document.build(reading, settings.device, revision=case.revision, predecessor=predecessor)
    content = sr_document.to_bytes(ds)
    guards.check_sr(content, reading, ds.SOPInstanceUID)
    return Prepared(kind="sr", content=content, object_uid=str(ds.SOPInstanceUID), object_class=sr_document.ENHANCED_SR)
