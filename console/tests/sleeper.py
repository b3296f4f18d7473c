"""A role that does nothing until SIGTERM."""

import signal
import threading

from casebook import presence
from casebook.settings import load_settings


def main() -> None:
    """Be present until told to stop."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    presence.announce(load_settings(), "sleeper")
    stop.wait()
