"""The wake-up bus: early acknowledged, capped, and never a reason to fail."""

import os
import time
from pathlib import Path
from queue import Empty
from random import Random

import pytest
import structlog.testing
from celery import Celery
from pydantic import SecretStr

from casebook.settings import BrokerSettings, Settings
from casebook.wakeups import LOOK_TASK, build_app, queue_name, remove_damaged, waker


def _settings(tmp_path: Path, url: str = "filesystem://", **values: str) -> Settings:
    return Settings(data_directory=tmp_path, broker=BrokerSettings(url=SecretStr(url), **values))


def test_a_message_carries_the_name_of_a_queue_and_nothing_else(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    waker(build_app(settings), settings)("gpu")

    messages = list((tmp_path / "wakeups" / "messages").iterdir())
    assert len(messages) == 1
    assert LOOK_TASK in messages[0].read_text()


def test_the_folder_of_the_embedded_bus_is_private(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    build_app(settings)

    assert (tmp_path / "wakeups" / "messages").stat().st_mode & 0o777 == 0o700


def test_messages_are_acknowledged_early_and_results_are_not_kept(tmp_path: Path) -> None:
    conf = build_app(_settings(tmp_path)).conf

    assert conf.task_acks_late is False
    assert conf.task_ignore_result is True
    assert conf.result_backend is None
    assert conf.worker_prefetch_multiplier == 1
    assert conf.task_publish_retry is False
    assert conf.worker_hijack_root_logger is False
    assert conf.worker_pool_start_method == "spawn"
    assert conf.worker_proc_alive_timeout == 600.0


def test_queues_are_capped_and_carry_the_prefix_of_the_site(tmp_path: Path) -> None:
    settings = _settings(tmp_path, queue_prefix="north-")
    queues = build_app(settings).conf.task_queues

    assert [queue.name for queue in queues] == ["north-gpu", "north-io"]
    assert all(queue.queue_arguments == {"x-max-length": 1000} for queue in queues)
    assert queue_name(settings, "io") == "north-io"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("amqp://guest:guest@127.0.0.1:1//", {"confirm_publish": True, "max_retries": 0}),
        ("redis://127.0.0.1:1/0", {"socket_timeout": 10.0, "socket_connect_timeout": 3.0, "max_retries": 0}),
    ],
)
def test_each_transport_gets_its_options(tmp_path: Path, url: str, options: dict[str, object]) -> None:
    assert options.items() <= build_app(_settings(tmp_path, url)).conf.broker_transport_options.items()


@pytest.mark.parametrize("url", ["amqp://guest:guest@127.0.0.1:1//", "redis://127.0.0.1:1/0"])
def test_a_broker_that_is_away_is_no_error(tmp_path: Path, url: str) -> None:
    settings = _settings(tmp_path, url)

    wake = waker(build_app(settings), settings)
    wake("gpu")
    begun = time.monotonic()
    for _ in range(20):
        wake("gpu")

    assert time.monotonic() - begun < 1.0, "a broker that did not answer is left alone for a while"


def test_a_full_or_missing_folder_is_no_error(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    wake = waker(build_app(settings), settings)
    (tmp_path / "wakeups" / "messages").rmdir()

    wake("gpu")


def test_one_message_that_nobody_took_is_enough_for_each_queue(tmp_path: Path) -> None:
    settings = _settings(tmp_path, queue_prefix="north-")
    wake = waker(build_app(settings), settings)
    for queue in ("gpu", "gpu", "io", "gpu", "io"):
        wake(queue)

    messages = list((tmp_path / "wakeups" / "messages").iterdir())
    assert sorted(path.name.partition(".")[2] for path in messages) == ["north-gpu.msg", "north-io.msg"]
    for path in messages:
        path.unlink()
    wake("gpu")
    assert len(list((tmp_path / "wakeups" / "messages").iterdir())) == 1


def _taken(app: Celery, queue: str) -> list[str]:
    """Take every message of a queue as a worker does, and return the queues they name."""
    names = []
    with app.connection_for_read() as connection:
        consumer = connection.SimpleQueue(app.amqp.queues[queue], no_ack=True)
        try:
            while True:
                names.append(consumer.get(block=False).payload[0][0])
        except Empty:
            return names


@pytest.mark.parametrize("content", [b"", b"[[", b'[["gpu", "", "gpu"]]]]', b"\x00\xff", b"{}"])
def test_a_damaged_table_of_bindings_that_an_earlier_version_left_stops_nobody(tmp_path: Path, content: bytes) -> None:
    settings = _settings(tmp_path)
    control = tmp_path / "wakeups" / "control"
    control.mkdir(parents=True)
    (control / "gpu.exchange").write_bytes(content)
    app = build_app(settings)

    waker(app, settings)("gpu")

    assert _taken(app, "gpu") == ["gpu"]


def test_a_message_that_cannot_be_read_is_dropped_and_the_next_one_taken(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    app = build_app(settings)
    messages = tmp_path / "wakeups" / "messages"
    waker(app, settings)("gpu")
    (whole,) = messages.iterdir()
    content = whole.read_bytes()
    random = Random(7)
    for number in range(20):
        (messages / f"{number:04}.gpu.msg").write_bytes(content[: random.randrange(len(content))])

    assert _taken(app, "gpu") == ["gpu"]
    assert list(messages.iterdir()) == []


def test_a_start_removes_and_tells_what_nobody_can_read(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    app = build_app(settings)
    messages, control = tmp_path / "wakeups" / "messages", tmp_path / "wakeups" / "control"
    control.mkdir()
    waker(app, settings)("gpu")
    whole = {path.name for path in messages.iterdir()}
    (control / "gpu.exchange").touch()
    (messages / "1.gpu.msg").touch()
    (messages / "2.io.msg").write_bytes(b'{"body": ')
    (messages / "3.io.msg").write_bytes(b"\x00\xff")
    for name, age_s in ((".4.io.msg", 3600), (".5.gpu.msg.77", 3600), (".6.gpu.msg", 0)):
        (messages / name).touch()
        os.utime(messages / name, (time.time() - age_s,) * 2)

    with structlog.testing.capture_logs() as said:
        assert remove_damaged(settings) == 6

    # What is being written now stays.
    assert {path.name for path in messages.iterdir()} == whole | {".6.gpu.msg"}
    assert list(control.iterdir()) == []
    assert said == [{"event": "wake_ups_removed", "count": 6, "log_level": "warning"}]
    assert remove_damaged(settings) == 0
    assert _taken(app, "gpu") == ["gpu"]


def test_a_bus_without_folders_has_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_damaged(_settings(tmp_path, "redis://127.0.0.1:1/0")) == 0


def test_a_message_has_its_name_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(tmp_path)
    app = build_app(settings)
    seen: list[list[str]] = []
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        seen.append(_taken(app, "io"))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    waker(app, settings)("io")
    monkeypatch.undo()

    assert seen == [[]], "nothing can be taken before the message is whole"
    assert _taken(app, "io") == ["io"]
