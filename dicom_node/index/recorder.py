"""Rows of durable objects: described, compared where they repeat, and committed in one transaction a batch.

Headers are read here, off the acknowledgement path, and in a process of its own where a listener runs (see
`recorder_process`). Only objects that share a SOP Instance UID are hashed. A file that cannot be understood is moved
aside with its reason. One that the disk does not give out waits alone, and where it is the older of two copies, the
newer gets its row as one that nobody has compared yet.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from casebook import audit, device, intake, store
from casebook.clock import Clock, DatabaseClock
from casebook.database import write
from casebook.errors import InvalidObject, OverBounds, StoreUnavailable, WetreadError
from casebook.logs import get_logger
from casebook.settings import Settings
from casebook.study import Copy, ReceivedInstance
from dicom_node.index.description import describe, sha256_of
from dicom_node.objects.own_results import is_own_result
from dicom_node.storage.inbox import Inbox, StoredInstance

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What still has no row, by its path; everything else has one, or is set aside with its reason."""

    #: The database does not answer.
    refused: frozenset[str] = frozenset()
    #: The disk does not give the file out now, which concerns no other object.
    unread: frozenset[str] = frozenset()


class RecorderEnded(WetreadError):
    """The recorder ended while it was at work on a batch."""


class AnyRecorder(Protocol):
    """Who makes the rows."""

    def record(self, stored: Sequence[StoredInstance]) -> Recorded:
        """Make rows and return what still has none.

        Raises
        ------
        StoreUnavailable
            When there is no recorder now.
        RecorderEnded
            When it ended while it was at work on these.
        """
        ...

    def set_aside(self, path: str, reason: str) -> None:
        """Move an object aside that got no row, with a static name of the reason, and write it into the timeline."""
        ...

    def touch(self, quiet_period_s_of: Mapping[str, float]) -> None:
        """Let the quiet period of received studies begin anew, each with its own length in seconds.

        Raises
        ------
        StoreUnavailable
            When the database does not answer.
        """
        ...


class Recorder:
    """Makes rows of stored instances, in the caller's thread."""

    def __init__(self, inbox: Inbox, engine: Engine, settings: Settings, clock: Clock | None = None) -> None:
        self._inbox = inbox
        self._engine = engine
        self._settings = settings
        self._clock = clock or DatabaseClock()
        #: Paths of which the timeline tells already that they cannot be read.
        self._told: set[str] = set()

    def record(self, stored: Sequence[StoredInstance]) -> Recorded:
        """Make rows and return what still has none."""
        unread: set[str] = set()
        described = self._describe_all(stored, unread)
        refused: set[str] = set()
        try:
            self._record(described, unread)
        except _Poisoned:
            refused = self._record_one_by_one(described, unread)
        except StoreUnavailable:
            refused = {one.path for one in described}
        return Recorded(refused=frozenset(refused - unread), unread=frozenset(unread))

    def set_aside(self, path: str, reason: str) -> None:
        """Move an object aside that got no row, with a static name of the reason, and write it into the timeline."""
        self._set_aside(path, reason)

    def touch(self, quiet_period_s_of: Mapping[str, float]) -> None:
        """Let the quiet period of received studies begin anew, each with its own length in seconds.

        Raises
        ------
        StoreUnavailable
            When the database does not answer.
        """
        try:
            with write(self._engine) as connection:
                store.touch(connection, quiet_period_s_of, now=self._clock.now(connection))
        except SQLAlchemyError:
            raise StoreUnavailable from None

    def _describe_all(self, stored: Sequence[StoredInstance], unread: set[str]) -> list[ReceivedInstance]:
        described: list[ReceivedInstance] = []
        for one in stored:
            try:
                found = self._describe(one)
            except _Unread:
                unread.add(one.path)
                continue
            if found is not None:
                described.append(found)
        return described

    def _record_one_by_one(self, described: Sequence[ReceivedInstance], unread: set[str]) -> set[str]:
        refused = set()
        for one in described:
            try:
                self._record([one], unread)
            except _Poisoned:
                self._set_aside(one.path, "unstorable_row", one.study_instance_uid)
            except StoreUnavailable:
                refused.add(one.path)
        return refused

    def _describe(self, stored: StoredInstance) -> ReceivedInstance | None:
        try:
            listener = self._settings.listener
            found = describe(self._inbox.data_directory, stored, listener.quiet_period_of, listener.character_set_of)
        except OverBounds:
            self._set_aside(stored.path, "header_over_bounds")
        except InvalidObject:
            self._set_aside(stored.path, "unreadable_header")
        except FileNotFoundError as error:
            # The file was durable a moment ago, and was taken away by hand. Its sender may send it again.
            _log.error("object_lost", path=stored.path, error=type(error).__name__)
            self._tell_timeline("object_lost", stored.path)
        except (OSError, MemoryError) as error:
            # A bad block, a network drive that is away, out of descriptors: the object is there and acknowledged.
            self._tell_unread(stored.path, error)
            raise _Unread from None
        else:
            return found
        return None

    def _record(self, described: list[ReceivedInstance], unread: set[str]) -> None:
        if not described:
            return
        digests: dict[str, str] = {}
        try:
            while (equal := self._write(described, digests, unread)) is None:
                pass
        except DBAPIError as error:
            if error.connection_invalidated or type(error).__name__ in _TRANSIENT:
                raise StoreUnavailable from None
            raise _Poisoned from None
        except SQLAlchemyError:
            raise StoreUnavailable from None
        except (ValueError, TypeError, KeyError):
            raise _Poisoned from None

        # Committed, and so is the row of the other.
        for path, twin in equal.items():
            self._remove_repetition(self._inbox.data_directory / path, self._inbox.data_directory / twin)

    def _remove_repetition(self, path: Path, twin: Path) -> None:
        try:
            if twin.exists():
                self._inbox.files.remove(path)
            else:
                # Taken away by hand, and its sender has sent it again.
                self._inbox.files.rename(path, twin)
        except OSError as error:
            # Superfluous, and looked at again at the next start.
            _log.warning("repetition_not_removed", error=type(error).__name__)

    def _write(
        self, described: list[ReceivedInstance], digests: dict[str, str], unread: set[str]
    ) -> dict[str, str] | None:
        """Commit the rows and return who needs none, with who has the same; or add digests that it takes: None."""
        with write(self._engine) as connection:
            store.lock_recording(connection)
            held = store.copies(connection, {one.sop_instance_uid for one in described})
            unhashed = _repeated(described, held) - digests.keys()
            if not unhashed:
                for copy in held:
                    if not copy.sha256:
                        store.set_digest(connection, copy.path, digests[copy.path])
                held = [replace(copy, sha256=copy.sha256 or digests[copy.path]) for copy in held]
                own = store.is_issued(connection, [one.sop_instance_uid for one in described])
                devices = device.known_uids(connection)
                marked = [_marked(one, own, devices, digests) for one in described]
                return intake.record_instances(connection, marked, self._clock.now(connection), held)
        # With nothing locked: to hash a long object takes seconds.
        study_of = {copy.path: copy.study_instance_uid for copy in held}
        for path in unhashed:
            digest = self._digest(path, study_of.get(path))
            if digest is None:
                unread.add(path)
            else:
                digests[path] = digest
        # A repetition that was removed comes again when nobody could be told so.
        described[:] = [
            one
            for one in described
            if one.path not in unread and (one.path not in unhashed or self._is_there(one.path))
        ]
        return None

    def _is_there(self, path: str) -> bool:
        try:
            return (self._inbox.data_directory / path).exists()
        except OSError:
            # Nobody can say that it is not.
            return True

    def _digest(self, path: str, study_instance_uid: str | None) -> str | None:
        """Return the digest of an object; empty of one with a row that cannot be read, None of any other.

        Parameters
        ----------
        study_instance_uid
            Of an object that has its row; None of one that has just come.
        """
        try:
            return sha256_of(self._inbox.data_directory / path)
        except InvalidObject:
            # Damaged on the disk.
            return ""
        except (OSError, MemoryError) as error:
            if study_instance_uid is None:
                if isinstance(error, FileNotFoundError):
                    # Taken away by hand, or a repetition that was removed.
                    return ""
                self._tell_unread(path, error)
                return None
            # The newer copy gets its row, and is compared once the older one can be read.
            _log.error(
                "first_copy_not_read", path=path, error=type(error).__name__, study_instance_uid=study_instance_uid
            )
            self._tell_timeline("first_copy_not_read", path, study_instance_uid)
            return ""

    def _tell_unread(self, path: str, error: Exception) -> None:
        _log.error("object_not_read", path=path, error=type(error).__name__)
        if path not in self._told:
            self._told.add(path)
            self._tell_timeline("object_not_read", path)

    def _set_aside(self, path: str, reason: str, study_instance_uid: str = "") -> None:
        try:
            self._inbox.set_aside(path, reason)
        except OSError as error:
            _log.error("object_not_set_aside", path=path, error=type(error).__name__)
            return
        self._tell_timeline("object_set_aside", f"{reason}: {path}", study_instance_uid)

    def _tell_timeline(self, action: str, detail: str, study_instance_uid: str = "") -> None:
        try:
            with write(self._engine) as connection:
                audit.record(
                    connection,
                    at=self._clock.now(connection),
                    actor="listener",
                    action=action,
                    study_instance_uid=study_instance_uid,
                    detail=detail,
                )
        except SQLAlchemyError:
            _log.warning("audit_row_missing", reason=action)


def _marked(
    one: ReceivedInstance, issued: set[str], devices: frozenset[str], digests: Mapping[str, str]
) -> ReceivedInstance:
    # A result of ours that comes back starts nothing: by its UID, by the device that made it, or by its program.
    is_own = one.sop_instance_uid in issued or is_own_result(
        device_uid=one.attributes.get("DeviceUID", ""),
        manufacturer=one.attributes.get("Manufacturer", ""),
        sop_class_uid=one.sop_class_uid,
        devices=devices,
    )
    if not is_own and one.path not in digests:
        return one
    return replace(one, is_own=is_own, sha256=digests.get(one.path, ""))


def _repeated(described: Sequence[ReceivedInstance], held: Sequence[Copy]) -> set[str]:
    """Return the paths whose digest has to be known: to hash every object would cost more than to receive it."""
    every: list[ReceivedInstance | Copy] = [*described, *held]
    uses = Counter(one.sop_instance_uid for one in every)
    return {one.path for one in every if uses[one.sop_instance_uid] > 1 and not one.sha256}


class _Poisoned(WetreadError):
    """One row of a batch cannot be stored."""


class _Unread(WetreadError):
    """The disk does not give a file out now."""


#: Errors after which the same rows may be stored later; all others condemn a row.
_TRANSIENT = frozenset({"OperationalError", "InterfaceError", "InternalError"})
