"""`make demo`: the whole product on this machine, and its promise about the phantoms."""

import subprocess
import sys
from pathlib import Path

import pytest

from integration_tests.settings import REPOSITORY, environment


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_demonstration_brings_every_study_back_and_true(tmp_path: Path) -> None:
    folder = tmp_path / "demo"

    done = subprocess.run(
        [sys.executable, "-m", "console", "demo", "--folder", str(folder)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=680,
        check=False,
    )

    assert "8 of 8 studies came back" in done.stdout, done.stdout + done.stderr
    assert len(list((folder / "pictures").glob("*.png"))) == 8
    assert (folder / "reports.html").read_text(encoding="utf-8").count("<section>") == 8
    assert done.returncode == 0, done.stdout
