"""The proof of the first ten minutes: ``python -m benchmarks.prove_demo`` does in a fresh clone what the README says.

`make env` in less than ten minutes, then `make demo`; the clone is removed afterwards. `.ci/run` does `make test`.
The package index is that of pip's own configuration; TORCH_INDEX in the environment is passed through.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.evidence import REPOSITORY, NoProof, Run, write_evidence
from casebook.settings import inherited_environment

#: Seconds the set-up may take on two cores.
SETUP_LIMIT_S = 600.0
#: Studies of the demonstration.
REQUIRED_N = 8


def main() -> int:
    """Clone, set up, demonstrate; 0 when the evidence was written, else 1."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wetread-clone-") as folder:
        clone = Path(folder) / "wetread"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        try:
            setup_s, _ = make(clone, "env")
            if setup_s > SETUP_LIMIT_S:
                raise NoProof(f"demo: the set-up took {setup_s:.0f} s, more than {SETUP_LIMIT_S:.0f} s")
            demo_s, said = make(clone, "demo")
            studies, median_s = what_it_said(said)
            run = Run(
                name="demo",
                command="make prove demo",
                seeds=(),
                n=studies,
                required_n=REQUIRED_N,
                result={
                    "setup_s": round(setup_s, 1),
                    "demo_s": round(demo_s, 1),
                    "median_s_from_last_image_to_delivery": median_s,
                },
                duration_s=time.monotonic() - began,
            )
            print(write_evidence(run))
        except NoProof as reason:
            print(reason)
            return 1
    return 0


def make(clone: Path, goal: str) -> tuple[float, str]:
    """Run one goal of the clone's Makefile, repeating what it prints; returns seconds and output.

    Raises
    ------
    NoProof
        When it fails.
    """
    began = time.monotonic()
    # The Makefile that runs this proof must not hand its own goals and flags down.
    changes = {"MAKEFLAGS": "", "MAKELEVEL": "0", "NAME": ""}
    command = ["make", goal]
    with subprocess.Popen(
        command,
        cwd=clone,
        env=inherited_environment(changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode != 0:
        raise NoProof(f"demo: make {goal} ended with {process.returncode}")
    return time.monotonic() - began, "".join(lines)


def what_it_said(output: str) -> tuple[int, float]:
    """Return how many studies came back, and the median seconds from the last image to delivery.

    Raises
    ------
    NoProof
        When the output does not say so.
    """
    found = re.search(r"(\d+) of \d+ studies came back.*median (\d+\.\d)", output, flags=re.DOTALL)
    if found is None:
        raise NoProof("demo: it did not say how many studies came back and how fast")
    return int(found[1]), float(found[2])


if __name__ == "__main__":
    sys.exit(main())
