"""The receive benchmark: its arithmetic, and the small shape from end to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.evidence import REPOSITORY
from benchmarks.receive import TARGETS, Measured, ratios


def _measured(objects_per_s: float) -> Measured:
    return Measured(
        objects_per_s=objects_per_s,
        bytes_per_s=1e6,
        median_ms=1.0,
        p95_ms=2.0,
        cpu_s_per_gb=1.0,
        peak_rss_mib=50.0,
        listed_after_ms=10.0,
    )


def test_a_ratio_divides_medians_of_the_same_load() -> None:
    results = {
        ("ours", "ct_1"): [_measured(300.0), _measured(100.0), _measured(200.0)],
        ("orthanc", "ct_1"): [_measured(100.0), _measured(80.0), _measured(90.0)],
        ("limit", "ct_1"): [_measured(250.0)],
        ("orthanc", "ct_4"): [_measured(1.0)],
    }

    found = ratios(results)

    assert found == {"ct_1_vs_orthanc": pytest.approx(200 / 90), "ct_1_vs_limit": pytest.approx(0.8)}


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_small_shape_runs_and_ends_with_one_line_of_ratios(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.receive", "--small", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=280)

    if done.returncode == 2:
        pytest.skip(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["benchmark"] == "receive"
    assert set(TARGETS) <= set(last["ratios"])
    assert {name.replace("limit", "storescp").replace("orthanc", "storescp") for name in TARGETS} <= set(last["ratios"])
    assert all(ratio > 0 for ratio in last["ratios"].values())
    assert {"commit", "machine"} <= set(last)
    assert "small shape" in done.stdout
    # Nothing is left of the receivers.
    assert list(tmp_path.iterdir()) == []
