"""The one error tree of Wetread; the docstring of a class is its default message.

::

    WetreadError
    ├── SettingsError              the configuration is wrong: file, key, nearest right key
    ├── SchemaMismatch             the database is on another revision than the code
    ├── UnsafeStorage              the configured storage cannot keep what it acknowledges
    ├── InvalidObject              a DICOM object or HL7 message that cannot be used
    │   ├── OverBounds             a header, or what it inflates to, is larger than any reader here takes
    │   ├── UnreadablePixels       the picture cannot be decoded
    │   └── UnwritableText         a text that its destination cannot carry
    │       └── UnencodableText    only because of the character set of that destination
    ├── IdentityConflict           a send would put a result on another patient
    ├── UnsafeOutput               an output that pretends to be more than a draft
    ├── ModelRefused               a model directory that is not what its entry says
    ├── RejectedByPeer             the destination refused for good
    ├── WrongState                 what a person asks for does not fit where the study stands
    ├── LostLease                  another worker owns the job now
    └── Retryable                  may work later
        ├── PeerUnavailable        no connection, no answer, or a busy answer
        ├── PatientNotConfirmed    the archive that has to say whose a study is does not say it yet
        ├── NotCompared            a repeated image has to be compared first
        ├── StorageFull            no room for what arrives
        └── StoreUnavailable       the database does not answer
"""


class WetreadError(Exception):
    """Something went wrong in Wetread."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").splitlines()[0])


class SettingsError(WetreadError):
    """The configuration is wrong."""


class SchemaMismatch(WetreadError):
    """The database schema is on another revision than this program; run `wetread migrate`."""


class UnsafeStorage(WetreadError):
    """The configured storage cannot keep what it acknowledges."""


class InvalidObject(WetreadError):
    """The object cannot be used."""


class OverBounds(InvalidObject):
    """The header of the object is too large: too many bytes, elements or sequences inside of sequences."""


class UnreadablePixels(InvalidObject):
    """The picture cannot be decoded."""


class UnwritableText(InvalidObject):
    """The text cannot be carried by its destination."""


class UnencodableText(UnwritableText):
    """The character set of the destination lacks a character of the text."""


class IdentityConflict(WetreadError):
    """The result and the study disagree about the patient."""


class UnsafeOutput(WetreadError):
    """The output pretends to be more than a draft."""


class ModelRefused(WetreadError):
    """The model directory is not what its entry says."""


class RejectedByPeer(WetreadError):
    """The destination refused the object for good."""


class WrongState(WetreadError):
    """The study does not stand where this could be done."""


class LostLease(WetreadError):
    """Another worker owns this job now."""


class Retryable(WetreadError):
    """It may work later."""


class PeerUnavailable(Retryable):
    """The destination cannot be reached or is busy."""


class PatientNotConfirmed(Retryable):
    """The archive has not said yet whose the study is."""


class NotCompared(Retryable):
    """An image that arrived twice with other bytes is still being compared."""


class StorageFull(Retryable):
    """There is no room for what arrives."""


class StoreUnavailable(Retryable):
    """The database does not answer."""
