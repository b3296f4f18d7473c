"""Celery as a wake-up bus: a message says "look at queue X", is acknowledged early and carries nothing else.

Losing, repeating or reordering one costs at most one sweep, because the database decides what is to be done.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from casebook import wakeup_folder
from casebook.flow import QUEUES
from casebook.logs import get_logger
from casebook.private_files import private_directory
from casebook.settings import Settings

LOOK_TASK = "wetread.look"
#: Of ``filesystem://``.
FOLDER_TRANSPORT = "casebook.wakeup_folder:Transport"
#: A wake-up that finds the queue full is not needed: one is enough.
_LONGEST_QUEUE = 1000
#: A publisher does not try again: the sweep will, and whoever finished a job has the next one to do.
_NO_SECOND_TRY = {"max_retries": 0, "interval_start": 0.0, "interval_step": 0.0, "connect_retries_timeout": 0.1}
#: Seconds for which nothing is published after a broker did not answer, so that its absence delays no work.
_REST_S = 10.0
_log = get_logger()


def build_app(settings: Settings, name: str = "wetread") -> Celery:
    """Return a Celery application on the configured broker."""
    url = settings.broker.url.get_secret_value()
    app = Celery(name, broker=url, set_as_current=False)
    app.conf.update(
        broker_transport=FOLDER_TRANSPORT if url.startswith("filesystem") else None,
        broker_transport_options=_transport_options(settings, url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=3.0,
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        task_queues=[
            Queue(queue_name(settings, one), queue_arguments={"x-max-length": _LONGEST_QUEUE}) for one in QUEUES
        ],
        task_default_queue=queue_name(settings, QUEUES[0]),
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_pool="prefork",
        worker_concurrency=1,
        worker_pool_start_method="spawn",
        # A child that replaces a crashed one has to load the model first; the default of 4 s kills it for ever.
        worker_proc_alive_timeout=600.0,
        # The lease in the database owns the work, not the socket to the broker.
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app


def queue_name(settings: Settings, queue: str) -> str:
    """Return the name of a queue on the broker."""
    return f"{settings.broker.queue_prefix}{queue}"


def _transport_options(settings: Settings, url: str) -> dict[str, Any]:
    if url.startswith("amqp"):
        return {"confirm_publish": True, **_NO_SECOND_TRY}
    if url.startswith("redis"):
        return {"socket_timeout": 10.0, "socket_connect_timeout": 3.0, **_NO_SECOND_TRY}
    private_directory(settings.data_directory)
    folder = str(_made(_folder(settings)))
    return {
        "data_folder_in": folder,
        "data_folder_out": folder,
        "polling_interval": settings.broker.poll_interval_s,
    }


def _folder(settings: Settings) -> Path:
    return settings.data_directory / "wakeups" / "messages"


def remove_damaged(settings: Settings) -> int:
    """Remove what nobody can read in the folders of the embedded bus, and return how many files that were.

    Nothing is lost by it: the next sweep says what a wake-up said.
    """
    if not settings.broker.url.get_secret_value().startswith("filesystem"):
        return 0
    count = wakeup_folder.remove_damaged(_folder(settings))
    if count:
        _log.warning("wake_ups_removed", count=count)
    return count


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def waker(app: Celery, settings: Settings) -> Callable[[str], None]:
    """Return a function that tells the workers of a queue to look; a broker that is away is not an error."""
    rests_until = 0.0
    connection = app.connection_for_write()
    errors = (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)

    def wake(queue: str) -> None:
        nonlocal rests_until
        if time.monotonic() < rests_until:
            return
        try:
            if _lies_ready(app, queue_name(settings, queue)):
                return
            app.signature(LOOK_TASK, args=(queue,)).apply_async(queue=queue_name(settings, queue), retry=False)
        except errors as error:
            rests_until = time.monotonic() + _REST_S
            _log.warning("wake_up_not_sent", queue=queue, exc_info=error)

    return wake


def _lies_ready(app: Celery, name: str) -> bool:
    # A message that nobody has taken yet will be taken after now, and its taker sees what is in the database by
    # then. Without this a folder would grow with every wake-up while the workers of a queue are down.
    folder = app.conf.broker_transport_options.get("data_folder_out")
    return folder is not None and any(one.name.partition(".")[2] == f"{name}.msg" for one in Path(folder).iterdir())
