"""Patient data planted everywhere a log could pick it up, and looked for in what comes out."""

import asyncio
import gc
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from casebook.logs import ALLOWED_KEYS, bind, configure_logs, get_logger

PLANTED = "DOE^JANE"


@pytest.fixture
def sink() -> Iterator[io.StringIO]:
    """What the process would write, with everything put back afterwards."""
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook, sys.unraisablehook)
    raises = logging.raiseExceptions
    stream = io.StringIO()
    configure_logs("test", stream)
    yield stream
    structlog.contextvars.clear_contextvars()
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    logging.raiseExceptions = raises
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


def _lines(sink: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def test_an_own_event_carries_its_allowed_keys(sink: io.StringIO) -> None:
    get_logger().info("study_completed", study_instance_uid="1.2.3", count=3)

    line = _lines(sink)[0]
    assert (line["event"], line["study_instance_uid"], line["count"], line["role"]) == (
        "study_completed",
        "1.2.3",
        3,
        "test",
    )


def test_what_a_terminal_would_obey_stands_as_its_code(sink: io.StringIO) -> None:
    get_logger().info("association_rejected", ae_title="CT\x9b2J\u202e", peer="a\x1b[2J")

    line = _lines(sink)[0]
    assert (line["ae_title"], line["peer"]) == ("CT\\x9b2J\\u202e", "a\\x1b[2J")


@pytest.mark.parametrize("key", ["patient_name", "_patient_name", "__x", "accession_number", "detail", "PatientID"])
def test_a_key_that_is_not_on_the_list_is_dropped_and_counted(sink: io.StringIO, key: str) -> None:
    get_logger().info("study_completed", **{key: PLANTED})

    assert PLANTED not in sink.getvalue()
    assert _lines(sink)[0]["dropped_keys"] == 1


def test_no_allowed_key_is_named_after_a_patient() -> None:
    assert not {key for key in ALLOWED_KEYS if key.startswith(("patient", "name", "birth", "accession", "detail"))}


@pytest.mark.parametrize(
    "arguments", [(f"Received a study of {PLANTED}",), ("study of %s", PLANTED), (f"read_{PLANTED}",)]
)
def test_an_event_with_something_filled_in_loses_its_text(sink: io.StringIO, arguments: tuple[str, ...]) -> None:
    get_logger().warning(*arguments)

    assert PLANTED not in sink.getvalue()
    assert _lines(sink)[0]["event"] == "unnamed_event"


def test_the_text_of_an_exception_never_reaches_the_sink(sink: io.StringIO) -> None:
    try:
        raise ValueError(PLANTED)
    except ValueError as error:
        get_logger().error("step_failed", exc_info=error)
        get_logger().exception("step_failed")
        get_logger().error("step_failed", reason=error)

    assert PLANTED not in sink.getvalue()
    assert [line.get("error", line.get("reason")) for line in _lines(sink)] == ["ValueError"] * 3
    assert "test_logs.py" in _lines(sink)[0]["frames"]


def test_a_foreign_library_says_only_where_it_spoke(sink: io.StringIO) -> None:
    log = logging.getLogger("pynetdicom.acse")
    log.error("PatientName: %s", PLANTED)
    log.error(f"PatientName: {PLANTED}")
    log.error("extra", extra={"patient": PLANTED})
    try:
        raise KeyError(PLANTED)
    except KeyError:
        log.exception(PLANTED)

    assert PLANTED not in sink.getvalue()
    lines = _lines(sink)
    assert {line["logger"] for line in lines} == {"pynetdicom.acse"}
    assert all("test_logs.py" in line["place"] for line in lines)
    assert lines[3]["error"] == "KeyError"


def test_a_foreign_library_is_not_heard_below_warnings(sink: io.StringIO) -> None:
    logging.getLogger("sqlalchemy.engine").info("SELECT %s", PLANTED)

    assert sink.getvalue() == ""


def test_a_warning_says_only_where_it_was_given(sink: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn(f"Invalid value for VR PN: {PLANTED}", stacklevel=1)

    assert PLANTED not in sink.getvalue()
    assert _lines(sink)[0]["logger"] == "py.warnings"


def test_an_error_that_ends_the_process_is_told_by_its_type(
    sink: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        raise RuntimeError(PLANTED)
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, error.__traceback__)

    assert PLANTED not in sink.getvalue() + "".join(capsys.readouterr())
    assert (_lines(sink)[0]["event"], _lines(sink)[0]["error"]) == ("process_failed", "RuntimeError")


def test_an_error_that_ends_a_thread_is_told_by_its_type(sink: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError(PLANTED)

    ours = threading.excepthook
    thread = threading.Thread(target=fail)
    # pytest watches threads with a hook of its own; ours is what runs in a real process.
    thread.run = lambda: _guarded(fail, ours)  # type: ignore[method-assign]
    thread.start()
    thread.join()

    assert PLANTED not in sink.getvalue() + "".join(capsys.readouterr())
    assert (_lines(sink)[0]["event"], _lines(sink)[0]["error"]) == ("thread_failed", "RuntimeError")


def _guarded(action: Any, hook: Any) -> None:
    try:
        action()
    except RuntimeError as error:
        hook(threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread())))


def test_an_error_nobody_can_raise_is_told_by_its_type(sink: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    class Fragile:
        def __del__(self) -> None:
            raise RuntimeError(PLANTED)

    from casebook.logs import _log_unraisable

    before, sys.unraisablehook = sys.unraisablehook, _log_unraisable
    try:
        Fragile()
        gc.collect()
    finally:
        sys.unraisablehook = before

    assert PLANTED not in sink.getvalue() + "".join(capsys.readouterr())
    assert _lines(sink)[0]["event"] == "error_ignored"


def test_an_error_in_a_forgotten_task_is_told_by_its_type(sink: io.StringIO) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": PLANTED, "exception": ValueError(PLANTED)})

    asyncio.run(main())

    assert PLANTED not in sink.getvalue()
    assert _lines(sink)[0]["logger"] == "asyncio"


def test_a_log_call_that_fails_prints_no_record(sink: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("x").error("%d", PLANTED)

    assert PLANTED not in sink.getvalue() + "".join(capsys.readouterr())


def test_bound_identifiers_stand_on_every_event_until_they_are_reset(sink: io.StringIO) -> None:
    tokens = bind(study_instance_uid="1.2.3")
    get_logger().info("job_begun")
    structlog.contextvars.reset_contextvars(**tokens)
    get_logger().info("job_begun")

    assert [line.get("study_instance_uid") for line in _lines(sink)] == ["1.2.3", None]


def test_a_very_long_value_is_cut(sink: io.StringIO) -> None:
    get_logger().info("job_begun", reason="x" * 10_000)

    assert len(_lines(sink)[0]["reason"]) == 300


@pytest.mark.usefixtures("sink")
def test_a_line_and_its_end_are_one_write_so_that_two_threads_never_share_a_line() -> None:
    stream = _Writes()
    configure_logs("test", stream)

    get_logger().info("job_begun")
    logging.getLogger("x").error("anything")

    assert [text.endswith("}\n") for text in stream.writes] == [True, True]


class _Writes(io.StringIO):
    """A stream that remembers its writes one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        return super().write(text)
