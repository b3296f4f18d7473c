"""The wake-up bus: early acknowledged, capped, and never a reason to fail."""

import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from casebook.settings import BrokerSettings, Settings
from casebook.wakeups import LOOK_TASK, build_app, queue_name, waker


def _settings(tmp_path: Path, url: str = "filesystem://", **values: str) -> Settings:
    return Settings(data_directory=tmp_path, broker=BrokerSettings(url=SecretStr(url), **values))


def test_a_message_carries_the_name_of_a_queue_and_nothing_else(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    waker(build_app(settings), settings)("gpu")

    messages = list((tmp_path / "wakeups" / "messages").iterdir())
    assert len(messages) == 1
    assert LOOK_TASK in messages[0].read_text()


def test_the_folders_of_the_embedded_bus_are_private(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    build_app(settings)

    for name in ("messages", "control", "processed"):
        assert (tmp_path / "wakeups" / name).stat().st_mode & 0o777 == 0o700


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
