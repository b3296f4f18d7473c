"""The sweeper as a process: completes quiet studies, ends expired leases, wakes queues. Any number may run."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

from casebook.heartbeat import Heartbeat
from casebook.logs import configure_logs, get_logger
from casebook.private_files import begin_process
from casebook.settings import load_settings
from casebook.sweeper import sweep_until
from casebook.wakeups import build_app, waker
from casebook.watchdog import Watchdog, kernel_timer
from casebook.wiring import wire


def main() -> None:
    """Sweep until SIGTERM."""
    begin_process()
    configure_logs("sweeper")
    stop = threading.Event()

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    settings = load_settings()
    wiring = wire(wake=waker(build_app(settings, name="sweeper"), settings))
    heartbeat = Heartbeat(wiring, "sweeper")
    watchdog = Watchdog(settings.queue.hard_limit_s, timer=kernel_timer)
    watchdog.start()
    heartbeat.start()
    get_logger().info("role_started")

    def watched(once: Callable[[], object]) -> None:
        # A broker that takes every byte and says nothing must not hold it for ever.
        with watchdog.watch(step="sweep"):
            once()
        heartbeat.progressed()

    sweep_until(wiring, stop, watched)
    heartbeat.stop()


if __name__ == "__main__":
    main()
