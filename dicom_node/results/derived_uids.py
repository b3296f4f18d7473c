"""UIDs and message ids derived from what they name: the same content always gets the same id (PS3.5 B.2).

The SHA-256 of the Reading and the SHA-256 of the rendering without its own id go into each id, so other
bytes can never carry the same one, whatever changed: the reading, a setting or the wording.
"""

import uuid

#: Fixed once for the product; another value would give every object of a site a second identity.
_NAMESPACE = uuid.UUID("b7f1c1de-6a0b-5f0e-9c55-2f4d6c1f2a77")
#: Cannot stand in a UID, a digest or a name, so joined parts cannot be confused.
_SEPARATOR = "\x1f"


def derived_uuid(*parts: str) -> uuid.UUID:
    """Return the name-based UUID (version 5) of the parts in their order."""
    return uuid.uuid5(_NAMESPACE, _SEPARATOR.join(parts))


def derived_uid(*parts: str) -> str:
    """Return a UID under 2.25 (PS3.5 B.2), at most 44 characters."""
    return f"2.25.{derived_uuid(*parts).int}"


def series_instance_uid(study_instance_uid: str, kind: str) -> str:
    """Return the series in which every revision of one kind of output of a study lies."""
    return derived_uid("series", study_instance_uid, kind)


def sop_instance_uid(source: str, rendering_sha256: str) -> str:
    """Return the UID of one rendered object.

    Parameters
    ----------
    source
        Names what it was rendered from: the SHA-256 of a Reading, or the UID of a document.
    rendering_sha256
        Of the object's bytes without this UID.
    """
    return derived_uid("instance", source, rendering_sha256)


def message_control_id(reading_sha256: str, rendering_sha256: str) -> str:
    """Return MSH-10 of one rendered message: 20 hexadecimal digits, the longest HL7 2.5.1 allows.

    Parameters
    ----------
    reading_sha256
        Of the Reading, 64 hexadecimal digits.
    rendering_sha256
        Of the message's bytes without MSH-10.
    """
    return derived_uuid("message", reading_sha256, rendering_sha256).hex[:20].upper()
