"""The line of durable objects that wait for their rows: in batches, about 100 ms after their acknowledgement.

Only where a site wants each row before its acknowledgement does a sender wait for it. Nothing depends on this thread
having run: at start it takes up every file without a row.
"""

import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from casebook import store
from casebook.clock import Clock, DatabaseClock
from casebook.database import read, write
from casebook.errors import StoreUnavailable
from casebook.logs import get_logger
from casebook.settings import Settings
from dicom_node.index.recorder import AnyRecorder, RecorderEnded
from dicom_node.storage.inbox import Inbox, StoredInstance

#: An object's row is committed at most about this long after its acknowledgement, while the database is quick.
BATCH_INTERVAL_S = 0.05
#: Past this much lag new objects are refused: the index would no longer tell the truth about what is here.
MAX_LAG_S = 2.0
_MAX_BATCH = 500
_RETRY_INTERVAL_S = 0.5
#: What the disk does not give out is tried again after so long, and then after twice as long, up to the last.
_FIRST_UNREAD_PAUSE_S, _LAST_UNREAD_PAUSE_S = 5.0, 600.0
#: An object over which the recorder ended so often, at last alone, is set aside: once, anything may have killed it.
_MOST_DEATHS = 2
#: The recorder is looking for what ends it, and the database answers: for so long rows may lag.
_LONGEST_SEARCH_S = 60.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A durable object in line for its row."""

    stored: StoredInstance
    #: On the monotonic clock.
    since: float
    #: Set once it has its row, or was set aside; None where nobody waits for that.
    is_done: threading.Event | None = None

    #: How often the recorder ended over it.
    deaths: int = 0
    #: How often the disk did not give it out, and when it is tried again, on the monotonic clock.
    refusals: int = 0
    again_at: float = 0.0

    def leave(self) -> None:
        if self.is_done is not None:
            self.is_done.set()


class Indexer:
    """Turns stored instances into rows; one thread."""

    def __init__(self, inbox: Inbox, records: AnyRecorder, settings: Settings, clock: Clock | None = None) -> None:
        self._inbox = inbox
        self._records = records
        self._settings = settings
        self._clock = clock or DatabaseClock()
        self._waiting: deque[_Entry] = deque()
        self._batch: list[_Entry] = []
        #: Batches over which the recorder ended, in halves.
        self._suspects: deque[list[_Entry]] = deque()
        self._searching_until = 0.0
        self._is_turn_of_suspects = True
        #: What the disk does not give out now.
        self._unread: list[_Entry] = []
        self._row_before_ack = settings.listener.row_before_ack
        self._touching = threading.Lock()
        #: Study Instance UID to the quiet period in seconds that begins anew, not yet written down.
        self._touched: dict[str, float] = {}
        self._something_waits = threading.Event()
        self._stopping = threading.Event()
        self._database_refuses = False
        self._thread = threading.Thread(target=self._run, name="indexer", daemon=True)

    @property
    def lag_s(self) -> float:
        """Seconds for which the oldest durable object has been without its row; what waits alone does not count."""
        for queue in (self._batch, self._waiting):
            if queue:
                # The thread may have taken it meanwhile.
                with contextlib.suppress(IndexError):
                    return max(0.0, time.monotonic() - queue[0].since)
        return 0.0

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def keeps_up(self) -> bool:
        """False while rows lag or the database refuses; one object alone closes nothing."""
        if self._database_refuses:
            return False
        return self.lag_s <= MAX_LAG_S or time.monotonic() < self._searching_until

    @property
    def may_refuse(self) -> bool:
        """Whether a sender is answered only when its object has its row."""
        return self._row_before_ack

    def submit(self, stored: StoredInstance) -> None:
        """Take over a durable object; called by every association's thread.

        Raises
        ------
        StoreUnavailable
            With `row_before_ack`, when the row does not come in time; the object stays in line for it.
        """
        is_done = threading.Event() if self._row_before_ack else None
        self._take(stored, is_done)
        if is_done is not None and not is_done.wait(self._settings.listener.longest_delay_s):
            raise StoreUnavailable

    def touch(self, study_instance_uid: str, calling_ae_title: str) -> None:
        """Keep a received study from completing for another quiet period; called by every association's thread."""
        quiet_period_s = self._settings.listener.quiet_period_of(calling_ae_title, "")
        with self._touching:
            self._touched[study_instance_uid] = quiet_period_s
        self._something_waits.set()

    def take_up(self, engine: Engine) -> int:
        """Put in line what an earlier process left without a row, and return how many they are.

        Nothing was received meanwhile, so that no study was quiet: each waits for another quiet period.
        """
        with write(engine) as connection:
            store.touch_all(connection, self._settings.listener.quiet_period_s, now=self._clock.now(connection))
        with read(engine) as connection:
            known = store.known_paths(connection)
        count = 0
        for stored in self._inbox.scan(known):
            self._take(stored)
            count += 1
        if count:
            _log.info("inbox_scanned", count=count)
        return count

    def start(self) -> None:
        """Make rows from now on."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Index what waits, then end; what is left is taken up at the next start."""
        self._stopping.set()
        self._something_waits.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def index_waiting(self) -> int:
        """Index one batch of what waits and return its size; the body of the thread.

        Raises
        ------
        StoreUnavailable
            When the database does not answer; what has no row stays in line.
        """
        self._write_touches()
        self._fill_batch()
        if not self._batch:
            return 0
        count = len(self._batch)
        try:
            found = self._records.record([entry.stored for entry in self._batch])
        except RecorderEnded:
            self._suspect_batch()
            return count
        for entry in self._batch:
            if entry.stored.path in found.unread:
                self._put_off(entry)
            elif entry.stored.path not in found.refused:
                entry.leave()
        self._batch = [entry for entry in self._batch if entry.stored.path in found.refused]
        if self._batch:
            raise StoreUnavailable
        return count

    def _fill_batch(self) -> None:
        now = time.monotonic()
        # Suspects take turns with what has come since, and are never together with it.
        if any(entry.deaths for entry in self._batch):
            return
        if not self._batch and self._suspects and (not self._waiting or self._is_turn_of_suspects):
            self._is_turn_of_suspects = False
            self._batch = self._suspects.popleft()
            return
        self._is_turn_of_suspects = True
        due = [entry for entry in self._unread if entry.again_at <= now]
        self._unread = [entry for entry in self._unread if entry.again_at > now]
        self._batch += due
        while self._waiting and len(self._batch) < _MAX_BATCH:
            self._batch.append(self._waiting.popleft())

    def _put_off(self, entry: _Entry) -> None:
        pause_s = min(_FIRST_UNREAD_PAUSE_S * 2.0**entry.refusals, _LAST_UNREAD_PAUSE_S)
        again_at = time.monotonic() + pause_s
        self._unread.append(replace(entry, refusals=entry.refusals + 1, again_at=again_at))

    def _suspect_batch(self) -> None:
        """Divide the batch over which the recorder ended, down to the one object that ends it."""
        batch, self._batch = [replace(entry, deaths=entry.deaths + 1) for entry in self._batch], []
        self._searching_until = time.monotonic() + _LONGEST_SEARCH_S
        if len(batch) == 1 and batch[0].deaths >= _MOST_DEATHS:
            try:
                self._records.set_aside(batch[0].stored.path, "recorder_ended_over_it")
            except StoreUnavailable:
                self._suspects.append(batch)
                raise
            batch[0].leave()
            return
        middle = (len(batch) + 1) // 2
        self._suspects.extend(half for half in (batch[:middle], batch[middle:]) if half)

    def _take(self, stored: StoredInstance, is_done: threading.Event | None = None) -> None:
        if stored.head and len(self._waiting) > _MAX_BATCH:
            # A long line is kept on disk and not in memory.
            stored = replace(stored, head=b"")
        self._waiting.append(_Entry(stored=stored, since=time.monotonic(), is_done=is_done))
        self._something_waits.set()

    def _run(self) -> None:
        while True:
            self._something_waits.wait(_FIRST_UNREAD_PAUSE_S if self._unread else None)
            # Cleared before the look: what is set from here on is seen the next time round.
            self._something_waits.clear()
            if self._stopping.is_set():
                self._drain()
                return
            if not self._row_before_ack:
                # Objects come in bursts: one transaction for what arrives in this interval.
                self._stopping.wait(BATCH_INTERVAL_S)
            try:
                # One more only for a full batch: a transaction for each of the few that came meanwhile would cost as
                # much as one for all of them.
                while self.index_waiting() == _MAX_BATCH or self._suspects:
                    pass
                self._tell_refusal(refuses=False)
            except StoreUnavailable:
                self._tell_refusal(refuses=True)
                self._stopping.wait(_RETRY_INTERVAL_S)
                self._something_waits.set()
            except Exception:  # noqa: BLE001 - logged with its place
                # Process edge: an unforeseen error must not end the index in silence.
                _log.exception("indexing_failed")
                self._tell_refusal(refuses=True)
                self._stopping.wait(_RETRY_INTERVAL_S)
                self._something_waits.set()

    def _drain(self) -> None:
        try:
            while self.index_waiting():
                pass
        except Exception:  # noqa: BLE001 - logged with its place
            # Process edge: the next start scans the inbox.
            suspects = sum(map(len, self._suspects))
            _log.exception("rows_left_for_the_next_start", count=len(self._batch) + len(self._waiting) + suspects)

    def _tell_refusal(self, *, refuses: bool) -> None:
        if refuses != self._database_refuses:
            self._database_refuses = refuses
            _log.warning("index_refused" if refuses else "index_recovered", lag_s=round(self.lag_s, 1))

    def _write_touches(self) -> None:
        with self._touching:
            touched, self._touched = self._touched, {}
        if not touched:
            return
        try:
            self._records.touch(touched)
        except StoreUnavailable:
            with self._touching:
                # What came in between is newer.
                self._touched = touched | self._touched
            raise
