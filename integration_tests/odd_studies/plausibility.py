"""How many wrong pictures their look alone gives away, with every check of streams, bits and tables taken out."""

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from casebook.errors import UnreadablePixels
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from dicom_node.objects.file_meta import Envelope, build_file_meta
from integration_tests.odd_studies import damages
from integration_tests.odd_studies.checks import BACKED, STREAMS, TABLES, taken_out
from integration_tests.odd_studies.generator import draw_kind
from integration_tests.odd_studies.score import be_quiet
from integration_tests.odd_studies.study import OddStudy, Side
from integration_tests.odd_studies.verdicts import is_wrong
from worker.reader.pixels import frames
from worker.reader.plausibility import load_statistics, why_implausible
from worker.reader.registry import find_entry, load_registry

#: A picture that varies less than one of 256 grey levels is blank, and refused as such.
_BLANK = 1 / 255


@dataclass(slots=True, kw_only=True)
class Look:
    """What was given away."""

    #: Kind -> pictures that are wrong, and of these the implausible and blank ones.
    wrong: Counter[str] = field(default_factory=Counter)
    caught: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Return the share of the wrong pictures that are given away."""
        return sum(self.caught.values()) / max(sum(self.wrong.values()), 1)


def measure_all(rounds: Sequence[int], *, processes: int) -> Look:
    """Measure in so many processes at one time."""
    look = Look()
    parts = [rounds[part::processes] for part in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(_measure_quietly, parts):
            look.wrong += part.wrong
            look.caught += part.caught
    return look


def _measure_quietly(rounds: Sequence[int]) -> Look:
    be_quiet()
    return measure(rounds)


def measure(rounds: Iterable[int]) -> Look:
    """Render damaged pixel modules with every check taken out, and ask what is wrong with the pictures alone."""
    look = Look()
    entry = find_entry(load_registry(SHIPPED_CONFIG_DIRECTORY / "models"), "phantom-cxr")
    assert entry.pictures is not None
    statistics = load_statistics(entry.pictures)
    with TemporaryDirectory() as folder, taken_out([*STREAMS, *TABLES, *BACKED]):
        for round_ in rounds:
            for kind in damages.ODD:
                study = draw_kind(Side.ODD, kind, round_)
                image = _render(study, Path(folder) / "film.dcm")
                if image is None or not is_wrong(study, [image]):
                    continue
                look.wrong[kind] += 1
                if float(np.ptp(image)) < _BLANK or why_implausible(image, statistics):
                    look.caught[kind] += 1
    return look


def _render(study: OddStudy, path: Path) -> NDArray[np.float32] | None:
    first = study.instances[0]
    envelope = Envelope(
        sop_class_uid=first.sop_class_uid,
        sop_instance_uid=first.sop_instance_uid,
        transfer_syntax_uid=first.transfer_syntax_uid,
        calling_ae_title=study.sender,
    )
    path.write_bytes(build_file_meta(envelope) + first.data_set)
    try:
        return next(frames(path, [0]))
    except UnreadablePixels:
        return None
    except (ValueError, OverflowError, TypeError, IndexError):
        # Without their checks the decoders meet what they were never meant to meet.
        return None
