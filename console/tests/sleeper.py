"""A role that does nothing until SIGTERM."""

import signal
import threading

from casebook.heartbeat import Heartbeat
from casebook.wiring import wire


def main() -> None:
    """Be present until told to stop."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Heartbeat(wire(), "sleeper").start()
    stop.wait()
