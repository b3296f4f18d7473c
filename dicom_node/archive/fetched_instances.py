"""Objects that we fetch ourselves land in the listener's inbox, as durable as those that are sent to us."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from casebook.errors import InvalidObject
from casebook.logs import get_logger
from casebook.settings import Settings
from casebook.study import ReceivedInstance
from dicom_node.index.description import describe
from dicom_node.objects.file_meta import Envelope
from dicom_node.receive.storage_service import StorageService
from dicom_node.storage.disk_gate import DiskGate
from dicom_node.storage.inbox import Inbox, SharedInbox, StoredInstance

_log = get_logger(__name__)


class FetchedInstances:
    """Takes fetched objects of one study; stands where the listener's index does."""

    keeps_up = True
    may_refuse = True

    def __init__(self, inbox: Inbox, settings: Settings, study_instance_uid: str) -> None:
        """Take where objects land and the one study they may belong to."""
        self._inbox = inbox
        self._settings = settings
        self._study_instance_uid = study_instance_uid
        gate = DiskGate(inbox.directory, settings.listener.min_free_bytes, inbox.files, time.monotonic)
        self._storage_service = StorageService(inbox, gate, self)
        self.received: list[ReceivedInstance] = []

    def take(self, envelope: Envelope, data_set: memoryview) -> int:
        """Make one object durable and return the status to answer (PS3.4 B.2.3)."""
        operation = self._storage_service.begin(envelope)
        operation.write([data_set])
        return operation.finish()

    def touch(self, study_instance_uid: str, calling_ae_title: str) -> None:
        """Do nothing: whoever fetches a study does not let it complete meanwhile."""

    def submit(self, stored: StoredInstance) -> None:
        """Describe a durable object.

        Raises
        ------
        InvalidObject
            When it is not of the study that was asked for; nothing of it is left.
        """
        try:
            listener = self._settings.listener
            directory = self._inbox.data_directory
            described = describe(directory, stored, listener.quiet_period_of, listener.character_set_of)
            if described.study_instance_uid != self._study_instance_uid:
                raise InvalidObject("the archive sent an object of another study")
        except InvalidObject:
            # Left in the inbox it would start a study of its own at the next start.
            self._inbox.files.remove(self._inbox.data_directory / stored.path)
            raise
        self.received.append(described)


@contextmanager
def open_fetched_instances(settings: Settings, study_instance_uid: str) -> Iterator[FetchedInstances]:
    """Open the inbox as a shared for the objects of one study."""
    with contextlib.closing(SharedInbox(settings.data_directory)) as inbox:
        fetched = FetchedInstances(inbox, settings, study_instance_uid)
        yield fetched
        if fetched.received:
            _log.info("objects_fetched", count=len(fetched.received), study_instance_uid=study_instance_uid)
