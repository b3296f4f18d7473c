"""Each proof refuses what its promise does not cover."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import prove_phantom, prove_training
from benchmarks.evidence import REPOSITORY, NoProof
from benchmarks.prove_demo import what_it_said
from benchmarks.prove_simulation import proof
from benchmarks.prove_training import read_run
from casebook.checks import load_checks
from casebook.simulation.games import Game, Played, play
from training.evaluate_phantom import Tally
from worker.reader.registry import ModelEntry, load_entry

GAME = Game(seed=1, studies=2, database="sqlite")


def test_a_broken_promise_of_the_model_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute:
        sha256 = "0" * 64

    def wrong(_writer: Mute, _preset: object, seeds: range) -> dict[str, Tally]:
        tally = Tally()
        for check in load_checks(prove_phantom.CHECKS).checks:
            tally.asked[check.id] = len(seeds)
        tally.reports = len(seeds)
        return {"en dicom": tally}

    monkeypatch.setattr(prove_phantom, "open_writer", lambda _entry, threads: Mute())
    monkeypatch.setattr(prove_phantom, "evaluate", wrong)

    with pytest.raises(NoProof, match="not kept"):
        prove_phantom.measure("phantom", load_entry(prove_phantom.ENTRY), range(3))


def test_only_the_shipped_model_is_proven(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def elsewhere(path: Path) -> ModelEntry:
        return load_entry(path).model_copy(update={"directory": tmp_path})

    monkeypatch.setattr(prove_phantom, "load_entry", elsewhere)

    assert prove_phantom.main([]) == 1
    assert "ships with the project" in capsys.readouterr().out


def test_phantoms_that_were_trained_on_are_never_asked_about() -> None:
    assert prove_phantom.unseen(500) == range(500_000, 500_500)
    with pytest.raises(NoProof, match="trained on"):
        prove_phantom.unseen(500_001)


def test_a_simulation_is_a_proof_only_with_postgresql_in_time_and_without_a_broken_promise() -> None:
    good, broken = play(GAME), Played(game=GAME, problem="two live drafts")

    assert proof([good], [good, good], studies=2, sqlite_s=1.0, took_s=2.0).n == 2
    with pytest.raises(NoProof, match="1 of 2 seeds on PostgreSQL"):
        proof([good], [good], studies=2, sqlite_s=1.0, took_s=2.0)
    with pytest.raises(NoProof, match="121 s"):
        proof([good], [good, good], studies=2, sqlite_s=121.0, took_s=122.0)
    with pytest.raises(NoProof, match="a promise broke"):
        proof([good], [good, broken], studies=2, sqlite_s=1.0, took_s=2.0)


def test_a_demonstration_is_taken_at_its_word() -> None:
    said = "ok 8 of 8 studies came back: SR in the PACS\n   seconds from the last image: median 3.4, longest 4.0\n"

    assert what_it_said(said) == (8, 3.4)
    with pytest.raises(NoProof):
        what_it_said("ok 8 of 8 studies came back")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What an uninterrupted training of the commit leaves behind."""
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    record = {"code_revision": head.stdout.strip(), "data_sha256": "0" * 64, "minutes": 20.5}
    contents = dict.fromkeys(prove_training._IN_ORDER, "")
    contents |= {
        "config.yaml": (REPOSITORY / prove_training.CONFIG).read_text(),
        "run.json": json.dumps(record),
        "metrics.json": json.dumps(record),
        "curve.csv": "stage,step,loss\ntower,50,0.5\ntower,100,0.4\nlanguage,50,0.3\n",
    }
    for second, (name, text) in enumerate(contents.items()):
        (folder / name).write_text(text)
        os.utime(folder / name, (second, second))
    return folder


def test_an_uninterrupted_run_of_clean_code_is_taken(run: Path) -> None:
    training = read_run(run)

    assert (training.minutes, training.curve) == (20.5, {"tower": 0.4, "language": 0.3})
    assert training.model == run / "model"


def _resume(run: Path) -> None:
    os.utime(run / "config.yaml", (50, 50))


def _repeat_steps(run: Path) -> None:
    with (run / "curve.csv").open("a") as curve:
        curve.write("language,50,0.3\n")


def _change_code(run: Path) -> None:
    for name in ("run.json", "metrics.json"):
        when = (run / name).stat().st_mtime
        (run / name).write_text((run / name).read_text().replace('", "data', ' with changes", "data'))
        os.utime(run / name, (when, when))


def _change_options(run: Path) -> None:
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("20261122", "1"))
    os.utime(run / "config.yaml", (0, 0))


def _leave_unfinished(run: Path) -> None:
    (run / "metrics.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_resume, "interrupted"),
        (_repeat_steps, "interrupted"),
        (_change_code, "in no commit"),
        (_change_options, "options"),
        (_leave_unfinished, "did not end"),
    ],
)
def test_any_other_run_is_refused(run: Path, spoil: object, reason: str) -> None:
    assert callable(spoil)
    spoil(run)

    with pytest.raises(NoProof, match=reason):
        read_run(run)
