"""The proofs of receiving at their full size: ``python -m benchmarks.prove_receive fuzz|receive_kills [N]``."""

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.evidence import NoProof, Run, write_evidence
from integration_tests import listener_fuzz, listener_kills

#: What the promises demand.
REQUIRED_N = {"fuzz": 10_000, "receive_kills": 20}


def _fuzz(n: int) -> tuple[Sequence[int], Mapping[str, object] | None]:
    with tempfile.TemporaryDirectory(prefix="wetread-fuzz-") as folder:
        outcome = listener_fuzz.fuzz(Path(folder), n)
        events = listener_fuzz.log_summary(Path(folder) / "data.log")
    with tempfile.TemporaryDirectory(prefix="wetread-fuzz-") as folder:
        # One damaged request for an association to five damaged associations.
        asked = listener_fuzz.fuzz_requests(Path(folder), n // 5)
    result = asdict(outcome) | {"damaged_requests": asdict(asked)}
    print(json.dumps(result, indent=1))
    print(json.dumps(dict(events.most_common()), indent=1))
    return [listener_fuzz.SEED], result if outcome.is_clean and asked.is_clean else None


def _kills(n: int) -> tuple[Sequence[int], Mapping[str, object] | None]:
    outcomes = []
    for seed in range(n):
        with tempfile.TemporaryDirectory(prefix="wetread-kills-") as folder:
            outcomes.append(listener_kills.kill_once(Path(folder), seed))
        print(json.dumps(asdict(outcomes[-1])), flush=True)
    total = {
        name: sum(asdict(outcome)[name] for outcome in outcomes)
        for name in asdict(outcomes[0])
        if name != "still_receives"
    }
    return range(n), total if all(outcome.is_clean for outcome in outcomes) else None


def main(arguments: Sequence[str]) -> int:
    """Run one proof and write its evidence.

    Parameters
    ----------
    arguments
        Its name, and another N to try it out; fewer than `REQUIRED_N` cases are no proof.

    Returns
    -------
        0 when the promise held in every case, else 1.
    """
    name = arguments[0]
    n = int(arguments[1]) if len(arguments) > 1 else REQUIRED_N[name]
    start_s = time.monotonic()
    seeds, result = {"fuzz": _fuzz, "receive_kills": _kills}[name](n)
    if result is None:
        print(f"{name}: the promise did not hold")
        return 1
    run = Run(
        name=name,
        command=f"make prove {name}",
        seeds=seeds,
        n=n,
        required_n=REQUIRED_N[name],
        result=result,
        duration_s=time.monotonic() - start_s,
    )
    try:
        print(write_evidence(run))
    except NoProof as reason:
        print(reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
