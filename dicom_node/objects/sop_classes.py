"""Which SOP classes carry a picture of the patient (PS3.4 B.5), and the few that mean something of their own."""

#: Key Object Selection Document Storage (PS3.3 A.35.4).
KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
#: Encapsulated PDF Storage (PS3.3 A.45.1).
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
#: Basic Text, Enhanced, Comprehensive and Comprehensive 3D SR, and Encapsulated PDF.
_REPORTS = frozenset({*(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 22, 33, 34)), ENCAPSULATED_PDF})
#: Objects that carry no picture, by the beginning of their SOP Class UID: waveforms, presentation states,
#: parametric maps, registrations and segmentations, value mappings, surface scans, reports, annotations,
#: encapsulated documents, radiotherapy objects, protocols and procedure objects. A test holds this list against
#: that of the reader, which may not import this package.
NO_PICTURES = (
    "1.2.840.10008.5.1.4.1.1.9.",
    "1.2.840.10008.5.1.4.1.1.11.",
    "1.2.840.10008.5.1.4.1.1.30",
    "1.2.840.10008.5.1.4.1.1.66",
    "1.2.840.10008.5.1.4.1.1.67",
    "1.2.840.10008.5.1.4.1.1.68.",
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.91.",
    "1.2.840.10008.5.1.4.1.1.104.",
    "1.2.840.10008.5.1.4.1.1.481.",
    "1.2.840.10008.5.1.4.1.1.200.",
    "1.2.840.10008.5.1.4.34.",
)


def is_picture(sop_class_uid: str) -> bool:
    """Say whether objects of a class may carry a picture of the patient; an unknown class may."""
    return not sop_class_uid.startswith(NO_PICTURES)


def is_report(sop_class_uid: str) -> bool:
    """Say whether objects of a class are reports a person wrote; doses, logs and markings of machines are not."""
    return sop_class_uid in _REPORTS
