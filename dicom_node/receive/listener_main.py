"""The DICOM listener as a process."""

import resource
import signal
import threading
from types import FrameType

from casebook.heartbeat import Heartbeat
from casebook.logs import configure_logs, get_logger
from casebook.private_files import begin_process
from casebook.wiring import wire
from dicom_node.receive.listener import serve


def main() -> None:
    """Receive until SIGTERM; the objects in flight are finished."""
    begin_process()
    configure_logs("listener")
    _allow_many_connections()
    stop = threading.Event()

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    wiring = wire()
    settings = wiring.settings
    heartbeats: list[Heartbeat] = []

    def on_ready(port: int) -> None:
        # Now and not before: a thread and a connection to the database must not be there when processes are forked.
        facts = {"port": str(port), "host": settings.listener.host, "ae_title": settings.listener.ae_title}
        heartbeats.append(Heartbeat(wiring, "listener", facts=facts))
        heartbeats[0].start()
        get_logger().info("role_started", port=port)

    serve(settings, wiring.engine, stop, on_ready)
    for heartbeat in heartbeats:
        heartbeat.stop()


def _allow_many_connections() -> None:
    # Connections that have not said a word cost a descriptor each, and files must still be had beside them.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
