"""Evidence refuses what proves nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import evidence, prove
from benchmarks.evidence import REPOSITORY, NoProof, Run, last_line, print_report, spans, write_evidence


def _run(n: int = 500) -> Run:
    return Run(
        name="phantom",
        command="make prove phantom",
        seeds=[7],
        n=n,
        required_n=500,
        result={"accuracy": 0.98},
        duration_s=61.234,
    )


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in the place of ours."""
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "First"]):
        (tmp_path / "code.py").touch()
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(evidence, "REPOSITORY", tmp_path)
    return tmp_path


def test_a_full_run_of_committed_code_is_written_with_everything_needed_to_repeat_it(repository: Path) -> None:
    path = write_evidence(_run(), folder=repository / "docs" / "evidence")

    written = json.loads(path.read_text())
    assert path.name == "phantom.json"
    assert set(written) == {"proof", "commit", "command", "seeds", "N", "result", "duration_s", "machine"}
    assert (written["N"], written["seeds"], written["duration_s"]) == (500, [[7, 7]], 61.2)
    assert "dirty" not in written["commit"]


def test_a_reduced_number_never_counts_as_a_proof(repository: Path) -> None:
    with pytest.raises(NoProof, match="499 of 500"):
        write_evidence(_run(n=499), folder=repository)
    assert not list(repository.glob("*.json"))


def test_code_that_is_in_no_commit_proves_nothing(repository: Path) -> None:
    (repository / "code.py").write_text("changed = True\n")

    with pytest.raises(NoProof, match="differ from the commit"):
        write_evidence(_run(), folder=repository)
    assert evidence.commit().endswith("+dirty")


def test_a_second_proof_may_follow_a_first_one_that_is_not_committed_yet(repository: Path) -> None:
    folder = repository / "docs" / "evidence"
    write_evidence(_run(), folder=folder)
    subprocess.run(["git", "add", "docs"], cwd=repository, check=True)

    assert write_evidence(_run(), folder=folder).exists()


def test_the_last_line_of_a_benchmark_is_one_object_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    print_report("receive", columns=["receiver", "images/s"], rows=[["ours", 756.0]], ratios={"orthanc": 2.9})

    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last.keys() == {"benchmark", "ratios", "commit", "machine"}
    assert (last["benchmark"], last["ratios"]) == ("receive", {"orthanc": 2.9})
    assert "\n" not in last_line("receive", {})


def test_seeds_are_told_as_rows() -> None:
    assert spans(range(500_000, 500_500)) == [[500_000, 500_499]]
    assert spans([7, 3, 1, 2]) == [[1, 3], [7, 7]]
    assert spans(()) == []


def test_an_unknown_proof_is_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert prove.main(["nonsense"]) == 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in prove.PROOFS)
    assert len(prove.PROOFS) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, proof in prove.PROOFS.items() if proof.tests])
def test_a_proof_made_of_tests_demands_as_many_as_it_selects(name: str) -> None:
    proof = prove.PROOFS[name]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *proof.tests]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120).stdout

    # One test more than demanded loosens nothing; one less would leave the proof impossible.
    assert sum("::" in line for line in listed.splitlines()) >= proof.required_n > 1


def test_every_proof_is_either_a_command_or_a_set_of_tests() -> None:
    assert all(bool(proof.command) != bool(proof.tests) for proof in prove.PROOFS.values())
