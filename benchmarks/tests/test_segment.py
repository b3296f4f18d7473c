"""The segment benchmark: its segment keeps what it is given, and its small shape runs."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.segment import WAYS, Segment, main


def test_objects_of_many_threads_lie_in_the_segment_where_it_says(tmp_path: Path) -> None:
    contents = [bytes([number]) * (1000 + number) for number in range(200)]
    with closing(Segment(tmp_path / "segment", sum(map(len, contents)))) as segment:
        with ThreadPoolExecutor(8) as pool:
            offsets = list(pool.map(segment.append, contents))

        assert min(offsets) == 0
        assert [
            os.pread(segment.descriptor, len(content), offset)
            for content, offset in zip(contents, offsets, strict=True)
        ] == contents


def test_the_small_shape_runs_and_ends_with_one_line_of_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--small", "--folder", str(tmp_path)]) == 0

    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["benchmark"] == "segment"
    assert len(last["ratios"]) == 2 * 2 * (len(WAYS) - 1)
    assert all(ratio > 0 for ratio in last["ratios"].values())
    assert {"commit", "machine"} <= set(last)
    assert list(tmp_path.iterdir()) == []
