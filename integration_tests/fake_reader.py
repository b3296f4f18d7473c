"""A `read` step without a model, slow enough to be killed in mid-work: used where the model is not what is tested.

A file `fault` in the data directory, which the next reading takes away, names what befalls it: see `Fault`.
"""

import ctypes
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from casebook.case import Case
from casebook.outcomes import Drafted
from casebook.reading import CheckAnswer, InstanceReference, Provenance, Reading, Section, SectionKind
from casebook.settings import Settings
from casebook.study import CompletionReason

#: Seconds a reading takes.
READ_S = 0.6


class Fault(StrEnum):
    """What may befall a reading."""

    #: The driver says what CUDA says after an illegal access: this reading fails, and so does every later one of the
    #: process.
    DEVICE = "device"
    #: It never ends.
    HANG = "hang"
    #: It never ends, and keeps the interpreter: no other thread of the process runs any more.
    HANG_ALONE = "hang_alone"


_broken: list[Fault] = []


def let_befall(data_directory: Path, fault: Fault) -> None:
    """Let a fault befall the next reading."""
    temporary = data_directory / ".fault"
    temporary.write_text(fault)
    temporary.rename(data_directory / "fault")


def _befall(data_directory: Path) -> None:
    path = data_directory / "fault"
    with suppress(FileNotFoundError):
        fault = Fault(path.read_text())
        path.unlink()
        if fault is Fault.HANG:
            time.sleep(3600)
        elif fault is Fault.HANG_ALONE:
            ctypes.PyDLL(None).sleep(3600)
        else:
            _broken.append(fault)
    if _broken:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def read(case: Case, settings: Settings) -> Drafted:
    """Read nothing, slowly, and draft a report that says so."""
    _befall(settings.data_directory)
    deadline = time.monotonic() + READ_S
    while time.monotonic() < deadline:
        time.sleep(0.02)
    images = tuple(
        InstanceReference(
            series_instance_uid=one.series_instance_uid,
            sop_instance_uid=one.sop_instance_uid,
            sop_class_uid=one.sop_class_uid,
            role="frontal",
        )
        for one in case.instances
    )
    return Drafted(
        reading=Reading(
            study_instance_uid=case.study.study_instance_uid,
            generation=case.job.generation,
            language="en",
            modality=case.instances[0].modality,
            header=case.instances[0].header,
            sections=(Section(kind=SectionKind.FINDINGS, paragraphs=("Nothing was looked at.",)),),
            answers=(
                CheckAnswer(
                    check_id="pacemaker",
                    label="Pacemaker",
                    question="Is there a pacemaker?",
                    answer_id="no",
                    answer="no",
                    probability=0.9,
                    undetermined=False,
                ),
            ),
            images=images,
            based_on_images=len(images),
            known_images=len(images),
            completion_reason=case.study.completion_reason or CompletionReason.FORCED,
            provenance=Provenance(
                software_version="0",
                model_name="fake",
                model_version="0",
                model_sha256="0" * 64,
                prompt_sha256="0" * 64,
                check_preset="chest_xray",
                check_preset_version="1",
                check_preset_sha256="0" * 64,
                pipeline=case.study.pipeline,
            ),
            created_at=time.time(),
        )
    )
