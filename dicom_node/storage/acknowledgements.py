"""In which order objects were acknowledged, by one clock that every receiving process reads.

Of two objects under one SOP Instance UID the first that was acknowledged counts. Processes hand theirs on for their
rows in batches, each at its own time, so the order of the rows says nothing. Each object therefore takes its place
when it is durable and its sender has not been answered yet: whoever sends another one after that answer comes later.
"""

import time


class AcknowledgementClock:
    """Numbers that grow: nanoseconds since the epoch at the start, and from there the monotonic clock of the system.

    That clock is one for all processes and never steps back, as the wall clock does. Processes that are forked have the
    same beginning, so their numbers are comparable.
    """

    def __init__(self, after_ns: int = 0) -> None:
        """Begin.

        Parameters
        ----------
        after_ns
            The last number of an earlier start: ours are greater, though the wall clock was set back meanwhile.
        """
        self._offset_ns = max(time.time_ns(), after_ns + 1) - time.monotonic_ns()

    def now_ns(self) -> int:
        """Return the next place in the order."""
        return self._offset_ns + time.monotonic_ns()
