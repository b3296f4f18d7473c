"""Logs without patient data: own events pass a key allow-list, foreign loggers only say where and what type.

An own event is a static name in the past tense with identifiers as keys; a key that is not on the list is
dropped and counted, so a patient name cannot be logged by mistake. The text of foreign libraries never
reaches a sink: pynetdicom, psycopg and pydicom put identifiers and values into theirs.
"""

import logging
import re
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

from casebook.printing import harmless

#: What an own event may carry. UIDs are pseudonyms the operator needs to find a study; names, patient ids,
#: dates of birth, accession numbers and free text are not here and never will be.
ALLOWED_KEYS = frozenset(
    {
        "event",
        "level",
        "timestamp",
        "logger",
        "role",
        "pid",
        "place",
        "error",
        "frames",
        "dropped_keys",
        "study_instance_uid",
        "sop_instance_uid",
        "sop_class_uid",
        "transfer_syntax_uid",
        "generation",
        "job",
        "step",
        "queue",
        "attempt",
        "fence",
        "state",
        "reason",
        "wait_s",
        "duration_s",
        "count",
        "destination",
        "object_uid",
        "acknowledgement",
        "status",
        "size_bytes",
        "free_bytes",
        "lag_s",
        "ae_title",
        "called_ae_title",
        "peer",
        "port",
        "host",
        "path",
        "url",
        "model",
        "version",
        "sha256",
        "revision",
        "exit_code",
        "pipeline",
        "limit",
        "signal",
    }
)
_LONGEST_VALUE = 300
#: What the name of an own event looks like.
_STATIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def get_logger(name: str = "wetread") -> Any:
    """Return the structured logger for own events."""
    return structlog.get_logger(name)


def _keep_allowed(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    kept: dict[str, Any] = {key: _plain(value) for key, value in event.items() if key in ALLOWED_KEYS}
    dropped = sum(key not in ALLOWED_KEYS for key in event)
    if not _STATIC_NAME.fullmatch(str(event.get("event", ""))):
        # A sentence, or a name with something filled in: nobody can say what it carries.
        kept["event"] = "unnamed_event"
        dropped += 1
    if dropped:
        kept["dropped_keys"] = dropped
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, bool | int | float) or value is None:
        return value
    # A line is read at a terminal too.
    return harmless(str(value)[:_LONGEST_VALUE])


def _name_error_types(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Only the type and the places: the text of an exception may quote a header or a row.
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["frames"] = _frames(error.__traceback__)
    return event


def _frames(trace: TracebackType | None) -> str:
    return " < ".join(
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}:{frame.name}"
        for frame in reversed(traceback.extract_tb(trace)[-6:])
    )


class _ForeignFormatter(logging.Formatter):
    """Turns a record of a foreign library into logger, place and exception type; its text is dropped."""

    def __init__(self, renderer: Any) -> None:
        super().__init__()
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "event": "library_spoke",
            "level": record.levelname.lower(),
            "logger": record.name[:80],
            "place": f"{record.filename}:{record.lineno}:{record.funcName}",
        }
        if record.exc_info and record.exc_info[1] is not None:
            event["error"] = type(record.exc_info[1]).__name__
            event["frames"] = _frames(record.exc_info[2])
        for process in (_stamp, _keep_allowed):
            event = dict(process(None, "", event))
        return str(self._renderer(None, "", event))


_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)


def configure_logs(role: str, stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Send every log line of this process to one stream as JSON, one object a line.

    Parameters
    ----------
    role
        Which process this is ("listener", "io", "gpu", ...); stands on each own event.
    stream
        Default: standard error.
    level
        Foreign libraries speak from WARNING on, whatever this is.
    """
    sink = stream or sys.stderr
    renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.reset_defaults()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _stamp,
            _name_error_types,
            _keep_allowed,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A line and its end in one write: the handler of the foreign loggers shares the stream, not the lock.
        logger_factory=structlog.WriteLoggerFactory(sink),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(role=role)
    handler = logging.StreamHandler(sink)
    handler.setFormatter(_ForeignFormatter(renderer))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    # A failing log call must not print the record (with its arguments) to standard error.
    logging.raiseExceptions = False
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    get_logger().error("process_failed", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_type is not SystemExit:
        get_logger().error("thread_failed", exc_info=found.exc_value)


def _log_unraisable(found: "sys.UnraisableHookArgs") -> None:
    get_logger().error("error_ignored", exc_info=found.exc_value)


def bind(**identifiers: str | int) -> Mapping[str, Any]:
    """Bind identifiers to every event of this task; undo with `structlog.contextvars.reset_contextvars`."""
    return structlog.contextvars.bind_contextvars(**identifiers)
