"""Run one proof at its full size: ``make prove NAME``.

Each proof is a command that runs the N of its promise and writes ``docs/evidence/NAME.json`` through
`benchmarks.evidence.write_evidence`, or, for a proof that is a set of tests, lets this module write it.
"""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.evidence import EVIDENCE, REPOSITORY, NoProof, Run, is_dirty, write_evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One proof: what it shows, and how it is run.

    Parameters
    ----------
    shows
        The promise, in one sentence.
    command
        Arguments of Python; the command writes its own evidence.
    tests
        Instead of `command`: pytest's arguments; each test that passes is a case.
    required_n
        With `tests`: how many cases the proof demands.
    """

    shows: str
    command: Sequence[str] = ()
    tests: Sequence[str] = ()
    required_n: int = 1


#: Every proof by its name. `wetread`'s own small sizes of the same code run in `make test`.
PROOFS = {
    "demo": Proof(
        shows="A fresh clone is set up in less than ten minutes, and its demonstration succeeds.",
        command=["-m", "benchmarks.prove_demo"],
    ),
    "phantom": Proof(
        shows="The phantom model answers 500 unseen phantoms as its card promises, in English and Chinese.",
        command=["-m", "benchmarks.prove_phantom"],
    ),
    "training": Proof(
        shows="A model trained from nothing with the committed configuration keeps the promise of the card.",
        command=["-m", "benchmarks.prove_training"],
    ),
    "simulation": Proof(
        shows="50 seeds x 100 studies with every fault, on the real store, queue and flow: every promise holds.",
        command=["-m", "benchmarks.prove_simulation"],
    ),
    "mutations": Proof(
        shows="Each check of identity, of pictures and of what is shown, taken out alone, makes a test fail.",
        command=["-m", "benchmarks.prove_mutations"],
    ),
    "kills": Proof(
        shows="kill -9 of each process in mid-work, on every set of servers: one outcome, delivered once.",
        # Six processes on three sets of servers; all six in turn on each set; the supervisor.
        tests=["integration_tests/test_embedded_flow.py", "-k", "kill", "-m", "slow or prove"],
        required_n=6 * 3 + 3 + 1,
    ),
    "hangs": Proof(
        shows="SIGSTOP of any process, a hung job, a broken device, a silent database: recovered in hard limit + 30 s.",
        # Eight processes, two hung readings and a broken device on SQLite and on PostgreSQL; a database that falls
        # silent for a moment or longer; a pause of everybody; the samples of `make test`.
        tests=["integration_tests/test_hangs.py", "-m", "slow or prove"],
        required_n=(8 + 2 + 1) * 2 + 2 + 4,
    ),
    "fuzz": Proof(
        shows="10,000 damaged associations, 2,000 damaged requests each answered in time: no crash, nothing leaked.",
        command=["-m", "benchmarks.prove_receive", "fuzz"],
    ),
    "receive_kills": Proof(
        shows="kill -9 of the listener in a burst, 20 times: nothing acknowledged is missing or altered.",
        command=["-m", "benchmarks.prove_receive", "receive_kills"],
    ),
    "right": Proof(
        shows="2,000 damaged studies never go out wrong; of 2,000 sound ones none is refused or held.",
        command=["-m", "benchmarks.prove_right"],
    ),
    "peers": Proof(
        shows="Foreign sender, foreign archive, foreign RIS and foreign validators agree on one study.",
        tests=["integration_tests", "-m", "peers and not prove"],
        required_n=155,
    ),
    "senders": Proof(
        shows="Every real file, by every sender that can send it, in every syntax proposed, is stored as it was sent.",
        # pynetdicom, dcmsend, Orthanc, dcmjs-dimse; storescu in 13 syntaxes; two senders of one object.
        tests=[
            "integration_tests/test_receive_wire.py",
            *("-k", "(sends and byte_for_byte) or agree_to_the_byte", "-m", "slow or peers or prove"),
        ],
        required_n=4 + 13 + 1,
    ),
    "phi": Proof(
        shows="Patient data planted in every attribute is in no log, output, error, metric, `status` or `why`.",
        tests=["integration_tests/test_planted_phi.py"],
        required_n=24,
    ),
    "corpus": Proof(
        shows="Every real file gives pixels or a clear reason; lossless codecs equal their reference.",
        tests=["-m", "corpus"],
        required_n=27,
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Run the named proof.

    Parameters
    ----------
    arguments
        Its name; without one the proofs are listed.

    Returns
    -------
        0 when the evidence was written, 1 when the proof failed, 2 when no proof has that name.
    """
    if len(arguments) != 1 or arguments[0] not in PROOFS:
        print("make prove NAME, with one of these names:")
        for name, proof in PROOFS.items():
            print(f"  {name:12} {proof.shows}")
        return 2
    name = arguments[0]
    proof = PROOFS[name]
    if is_dirty():
        print(f"{name}: tracked files differ from the commit, so the run would prove nothing: commit first")
        return 1
    print(f"{name}: {proof.shows}", flush=True)
    try:
        return _run_tests(name, proof) if proof.tests else _run_command(name, proof)
    except NoProof as reason:
        print(reason)
        return 1


def _run_command(name: str, proof: Proof) -> int:
    path = EVIDENCE / f"{name}.json"
    before = path.stat().st_mtime_ns if path.exists() else 0
    status = subprocess.run([sys.executable, *proof.command], cwd=REPOSITORY, check=False).returncode
    if status == 0 and (not path.exists() or path.stat().st_mtime_ns == before):
        raise NoProof(f"{name}: the command ended well but wrote no {path.relative_to(REPOSITORY)}")
    return min(status, 1) if status >= 0 else 1


def _run_tests(name: str, proof: Proof) -> int:
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        start = time.monotonic()
        # The last -m wins, so that the proof may ask for what `make test` leaves out.
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *proof.tests]
        status = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
        duration_s = time.monotonic() - start
        if status != 0:
            return 1
        counts = _counts(report)
    run = Run(
        name=name,
        command=f"make prove {name}",
        seeds=(),
        n=counts["passed"],
        required_n=proof.required_n,
        result=counts,
        duration_s=duration_s,
    )
    if counts["skipped"]:
        raise NoProof(f"{name}: {counts['skipped']} tests were skipped; a proof needs every peer (make peers)")
    print(write_evidence(run).relative_to(REPOSITORY))
    return 0


def _counts(report: Path) -> dict[str, int]:
    # Written a moment ago by our own pytest; read by pattern, so that no XML parser meets foreign input.
    suites = re.findall(r"<testsuite [^>]*>", report.read_text(encoding="utf-8"))
    numbers = {
        key: sum(int(value) for suite in suites for value in re.findall(rf' {key}="(\d+)"', suite))
        for key in ("tests", "skipped", "failures", "errors")
    }
    return {"passed": numbers["tests"] - numbers["skipped"] - numbers["failures"] - numbers["errors"], **numbers}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
