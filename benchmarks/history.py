"""What a long history costs: ``wetread status`` and ``wetread why`` beside a thousand finished images and a million.

``python -m benchmarks.history [--instances N]``. The history is made of finished studies of twenty images; one more
study is in work. Each command is run whole, as an operator runs it, and the time of its questions to the database is
measured beside it. On SQLite, and on PostgreSQL where one answers.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, Table, func, insert, select, text

from benchmarks.evidence import REPOSITORY, print_report
from casebook import database, tables
from casebook.case import JobState
from casebook.settings import Settings
from casebook.study import CompletionReason, InstanceStatus, StudyHeader, StudyState
from casebook.testing import a_header, empty_postgresql
from console.explain import explain
from console.overview import overview

INSTANCES = 1_000_000
SHORT = 1_000
_PER_STUDY = 20
_BATCH_STUDIES = 500
#: Seconds between two finished studies: one in half a minute, all day and night.
_EVERY_S = 30.0
_REPETITIONS = 5
_HEADER = TypeAdapter(StudyHeader).dump_json(a_header()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the two commands cost beside a history."""

    instances: int
    status_database_s: float
    status_s: float
    why_database_s: float
    why_s: float


def fill(engine: Engine, instances: int, now: float) -> str:
    """Write a history of finished studies that ends now, and return the UID of its last study."""
    studies = instances // _PER_STUDY
    for first in range(0, studies, _BATCH_STUDIES):
        numbers = range(first, min(first + _BATCH_STUDIES, studies))
        with database.write(engine) as connection:
            for table, rows in _rows(numbers, studies, now):
                connection.execute(insert(table), rows)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT", reads=True) as connection:
        # As every database does by itself after a while.
        connection.execute(text("ANALYZE"))
    return _uid(studies - 1)


def _uid(number: int) -> str:
    return f"1.2.826.0.1.3680043.8.498.{number}"


def _rows(numbers: range, studies: int, now: float) -> Iterator[tuple[Table, list[dict[str, object]]]]:
    at = {number: now - (studies - number) * _EVERY_S for number in numbers}
    yield tables.study, [_study(number, at[number]) for number in numbers]
    yield tables.instance, [_instance(number, part, at[number]) for number in numbers for part in range(_PER_STUDY)]
    steps = ("read", "prepare", "send")
    yield tables.job, [_job(number, step, at[number]) for number in numbers for step in steps]
    yield tables.attempt, [_attempt(3 * number + part, at[number]) for number in numbers for part in (1, 2, 3)]
    actions = ("first_image_received", "complete", "drafted", "output_frozen", "output_delivered", "delivered")
    yield tables.audit, [_event(number, action, at[number]) for number in numbers for action in actions]


def _study(number: int, at: float) -> dict[str, object]:
    return {
        "study_instance_uid": _uid(number),
        "generation": 1,
        "state": StudyState.DELIVERED,
        "pipeline": "chest_xr",
        "completion_reason": CompletionReason.QUIET,
        "instance_count": _PER_STUDY,
        "calling_ae_title": "MODALITY",
        "first_received_at": at,
        "last_received_at": at,
        "quiet_at": at,
        "changed_at": at,
    }


def _instance(number: int, part: int, at: float) -> dict[str, object]:
    uid = f"{_uid(number)}.1.{part}"
    return {
        "study_instance_uid": _uid(number),
        "series_instance_uid": f"{_uid(number)}.1",
        "sop_instance_uid": uid,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "modality": "DX",
        "attributes": '{"Modality":"DX","StationName":"ROOM1"}',
        "header": _HEADER,
        "path": f"incoming/{uid}.dcm",
        "size_bytes": 15_000_000,
        "sha256": "",
        "status": InstanceStatus.CURRENT,
        "calling_ae_title": "MODALITY",
        "received_at": at,
        "acknowledged_ns": int(at * 1e9) + part,
    }


def _job(number: int, step: str, at: float) -> dict[str, object]:
    return {
        "step": step,
        "idempotency_key": f"{step}:{_uid(number)}:1:",
        "queue": "gpu" if step == "read" else "io",
        "study_instance_uid": _uid(number),
        "generation": 1,
        "state": JobState.DONE,
        "priority": 5,
        "run_after": at,
        "attempt": 1,
        "max_attempts": 5,
        "fence": 1,
        "created_at": at,
        "finished_at": at,
    }


def _attempt(job_id: int, at: float) -> dict[str, object]:
    return {"job_id": job_id, "fence": 1, "owner": "host:1", "started_at": at, "ended_at": at + 1.5, "result": "done"}


def _event(number: int, action: str, at: float) -> dict[str, object]:
    return {"at": at, "actor": "flow", "action": action, "study_instance_uid": _uid(number)}


def measure(engine: Engine, folder: Path, uid: str) -> Cost:
    """Run both commands some times and return the median of each."""
    with database.read(engine) as connection:
        instances = int(connection.execute(select(func.count()).select_from(tables.instance)).scalar_one())
    now = time.time()
    return Cost(
        instances=instances,
        status_database_s=_median(lambda: _ask(engine, lambda one: overview(one, now=now))),
        status_s=_median(lambda: _run(folder, "status")),
        why_database_s=_median(
            lambda: _ask(engine, lambda one: explain(one, uid, settings=Settings(), now=now)),
        ),
        why_s=_median(lambda: _run(folder, "why", uid)),
    )


def _median(once: Callable[[], float]) -> float:
    return statistics.median(once() for _ in range(_REPETITIONS))


def _ask(engine: Engine, question: Callable[[Connection], object]) -> float:
    with database.read(engine) as connection:
        began = time.perf_counter()
        question(connection)
        return time.perf_counter() - began


def _run(folder: Path, *verb: str) -> float:
    began = time.perf_counter()
    command = [sys.executable, "-m", "console", *verb, "--config", str(folder), "--data", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - began


@contextmanager
def a_site(url: str | None) -> Iterator[tuple[Engine, Path]]:
    """Make the folder of a site with a fresh database; its own SQLite file where no URL is given."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(REPOSITORY / "config", folder, dirs_exist_ok=True)
        if url:
            with (folder / "node.yaml").open("a", encoding="utf-8") as settings:
                settings.write(f"\ndatabase:\n  url: {url}\n")
        engine = database.open_database(url or f"sqlite:///{folder / 'wetread.sqlite'}")
        try:
            database.migrate(engine)
            yield engine, folder
        finally:
            engine.dispose()


def main(arguments: Sequence[str]) -> int:
    """Fill, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--instances", type=int, default=INSTANCES, help="of the long history")
    chosen = parser.parse_args(arguments)
    costs: dict[str, list[Cost]] = {"sqlite": [_cost(None, count) for count in (SHORT, chosen.instances)]}
    with empty_postgresql() as url:
        if url is not None:
            costs["postgresql"] = [_cost(url, chosen.instances)]
    names = ("status_database_s", "status_s", "why_database_s", "why_s")
    rows = [
        [name, f"{one.instances:,}", *(f"{1000 * getattr(one, column):.1f}" for column in names)]
        for name, found in costs.items()
        for one in found
    ]
    short, long = costs["sqlite"]
    print_report(
        "history",
        columns=["database", "images", "status: questions, ms", "whole, ms", "why: questions, ms", "whole, ms"],
        rows=rows,
        ratios={"status_long_to_short": long.status_s / short.status_s, "why_long_to_short": long.why_s / short.why_s},
    )
    return 0


def _cost(url: str | None, instances: int) -> Cost:
    with a_site(url) as (engine, folder):
        uid = fill(engine, instances, time.time())
        return measure(engine, folder, uid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
