"""The disk benchmark: every way keeps every object, and its small shape runs."""

import json
from pathlib import Path

import pytest

from benchmarks.disk import WAYS, main
from benchmarks.raw_sender import KINDS, header


@pytest.mark.parametrize("way", WAYS)
def test_every_way_keeps_every_object(tmp_path: Path, way: str) -> None:
    kind = KINDS["small"]
    objects = [header(kind, number) + bytes(kind.pixel_bytes) for number in range(10)]

    assert WAYS[way](tmp_path, kind, objects, 4) > 0

    kept = [path.read_bytes() for path in tmp_path.rglob("*.dcm")]
    assert sorted(content[-len(objects[0]) :] for content in kept) == sorted(objects)


def test_the_small_shape_runs_and_ends_with_one_line_of_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--small", "--folder", str(tmp_path)]) == 0

    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["benchmark"] == "disk"
    assert len(last["ratios"]) == 2 * 2 * (len(WAYS) - 1)
    assert all(ratio > 0 for ratio in last["ratios"].values())
    assert {"commit", "machine"} <= set(last)
    assert list(tmp_path.iterdir()) == []
