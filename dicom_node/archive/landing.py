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
from dicom_node.receive.reception import Receiver
from dicom_node.storage.disk_gate import DiskGate
from dicom_node.storage.inbox import GuestInbox, Inbox, Landed

_log = get_logger(__name__)


class Landing:
    """Takes fetched objects of one study; stands where the listener's index does."""

    keeps_up = True
    may_refuse = True

    def __init__(self, inbox: Inbox, settings: Settings, study_instance_uid: str) -> None:
        """Take where objects land and the one study they may belong to."""
        self._inbox = inbox
        self._settings = settings
        self._study_instance_uid = study_instance_uid
        gate = DiskGate(inbox.directory, settings.listener.min_free_bytes, inbox.files, time.monotonic)
        self._receiver = Receiver(inbox, gate, self)
        self.received: list[ReceivedInstance] = []

    def take(self, envelope: Envelope, data_set: memoryview) -> int:
        """Make one object durable and return the status to answer (PS3.4 B.2.3)."""
        reception = self._receiver.begin(envelope)
        reception.write([data_set])
        return reception.finish()

    def touch(self, study_instance_uid: str, calling_ae_title: str) -> None:
        """Do nothing: whoever fetches a study does not let it complete meanwhile."""

    def submit(self, landed: Landed) -> None:
        """Describe a durable object.

        Raises
        ------
        InvalidObject
            When it is not of the study that was asked for; nothing of it is left.
        """
        try:
            described = describe(self._inbox.data_directory, landed, self._settings.listener.quiet_period_of)
            if described.study_instance_uid != self._study_instance_uid:
                raise InvalidObject("the archive sent an object of another study")
        except InvalidObject:
            # Left in the inbox it would start a study of its own at the next start.
            self._inbox.files.remove(self._inbox.data_directory / landed.path)
            raise
        self.received.append(described)


@contextmanager
def open_landing(settings: Settings, study_instance_uid: str) -> Iterator[Landing]:
    """Open the inbox as a guest for the objects of one study."""
    with contextlib.closing(GuestInbox(settings.data_directory)) as inbox:
        landing = Landing(inbox, settings, study_instance_uid)
        yield landing
        if landing.received:
            _log.info("objects_fetched", count=len(landing.received), study_instance_uid=study_instance_uid)
