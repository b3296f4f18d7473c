"""A stored file that the disk does not give out, in every place where stored files are opened."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from casebook import tables
from casebook.database import read
from casebook.errors import InvalidObject, Retryable
from casebook.settings import WorkerSettings
from codestreams.stored_file import open_bytes
from dicom_node.archive import priors
from dicom_node.index.description import describe_again, sha256_of
from dicom_node.objects import classify
from dicom_node.objects.rejection_notes import read_rejection
from dicom_node.tests.receiving import Receiving, a_settings, failing_to_open, receiving, until
from dicom_node.tests.wire import Wire, associate_rq, data_set
from integration_tests import heavy_objects as heavy
from integration_tests.heavy_objects import HeavyObject
from worker.reader import views
from worker.reader.decode import open_picture, stored_frames

FAILURES = pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ENOENT])


@contextmanager
def _another_sender(running: Receiving) -> Iterator[list[int]]:
    statuses: list[int] = []
    enough = threading.Event()

    def send() -> None:
        with Wire(running.port, associate_rq(calling="CT02"), timeout_s=30.0) as wire:
            while not enough.wait(0.005):
                uid = f"1.2.9.{len(statuses)}"
                statuses.append(wire.store(data_set(uid, study="1.2.9"), uid))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield statuses
    finally:
        enough.set()
        thread.join(30.0)


def _status_of_rows(running: Receiving) -> dict[str, str]:
    return {row.path: row.status for row in running.rows() if row.study_instance_uid == "1.2.3"}


@FAILURES
@pytest.mark.parametrize("pixels", [b"", b"other"], ids=["equal", "other bytes"])
def test_a_first_copy_that_cannot_be_read_closes_nothing_for_nobody(tmp_path: Path, error: int, pixels: bytes) -> None:
    with receiving(tmp_path) as running:
        with Wire(running.port, associate_rq()) as wire:
            assert wire.store(data_set(), "1.2.3.4") == 0x0000
            first = running.settle(1)[0].path
            with failing_to_open(tmp_path / first, error=error), _another_sender(running) as others:
                again = [wire.store(data_set(pixels=pixels), "1.2.3.4") for _ in range(3)]
                until(lambda: len(_status_of_rows(running)) > 1)
                before = len(others)
                until(lambda: len(others) > before + 50)
        assert again == [0x0000] * 3
        assert set(others) == {0x0000}
        found = _status_of_rows(running)
        assert found.pop(first) == "current"
        assert set(found.values()) == {"unclassed"}
        with read(running.engine) as connection:
            told = connection.execute(
                select(tables.audit.c.study_instance_uid, tables.audit.c.detail).where(
                    tables.audit.c.action == "first_copy_not_read"
                )
            ).all()
        assert {tuple(row) for row in told} == {("1.2.3", first)}


@FAILURES
def test_every_reader_of_a_stored_file_says_that_it_may_work_later_or_goes_on_without_it(
    tmp_path: Path, error: int
) -> None:
    parts = [
        heavy.class_and_instance("1.2.3.4") + heavy.study_and_series() + heavy.image_module(2, 2),
        heavy.element(0x7FE0, 0x0010, b"OW", b"\1\2\3\4"),
    ]
    path = HeavyObject(sop_instance_uid="1.2.3.4", parts=parts).write(tmp_path / "one.dcm")
    copy = classify._read(path)
    assert copy is not None
    picture = open_picture(path)

    with failing_to_open(path, error=error):
        # To compare.
        with pytest.raises(Retryable, match="cannot be read"):
            classify._read(path)
        with pytest.raises(Retryable), classify._machine_troubles_apart():
            list(copy.pieces(0, 10))
        # To read.
        for look in (lambda: views.describe(path), lambda: open_picture(path), lambda: list(stored_frames(picture))):
            with pytest.raises(Retryable, match="cannot be read"):
                look()
        # For the index: whoever asks tells what becomes of it.
        for ask in (lambda: sha256_of(path), lambda: read_rejection(path, "1.2.3"), lambda: open_bytes(path)):
            with pytest.raises(OSError, match="told to fail"):
                ask()
        with pytest.raises(OSError, match="told to fail"):
            describe_again(a_settings(tmp_path), path.name)
        # A prior never delays a draft.
        with pytest.raises(InvalidObject):
            priors._read(path)
    assert classify._compare(copy, copy, WorkerSettings().max_image_bytes).is_variant
