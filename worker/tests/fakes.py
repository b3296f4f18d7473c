"""A writer that says what it is told and a hospital that sends made-up objects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from casebook.case import Case, Job
from casebook.checks import CheckPreset
from casebook.pipelines import Pipeline
from casebook.study import CompletionReason, Instance, InstanceStatus, PatientIdentity, Study, StudyHeader, StudyState
from worker.reader.registry import ModelEntry
from worker.reader.writer import ClosedQuestion, Draft, Image
from worker.tests.pictures import BASIC_TEXT_SR_STORAGE, picture, ramp, write

NOW = 1_700_000_000.0
HEADER = StudyHeader(identity=PatientIdentity(patient_id="1"), patient_name="Planted^Name")
ENTRY = ModelEntry.model_validate(
    {
        "name": "fake",
        "version": "3",
        "kind": "native",
        "directory": "nowhere",
        "licence": "Apache-2.0",
        "clinical": False,
        "languages": ["en", "zh"],
        "modalities": ["CR", "DX"],
        "body_parts": ["CHEST"],
        "image": {"size": 28, "mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3], "max_images": 2},
        "prompts": {"draft": {"en": "Describe this.", "zh": "请描述。"}},
    }
)
PRESET = CheckPreset.model_validate(
    {
        "name": "chest",
        "version": "1",
        "checks": [
            {
                "id": "effusion",
                "label": "Effusion",
                "kind": "yes_no",
                "question": {"en": "Is there an effusion?", "zh": "有积液吗？"},
                "answers": [
                    {"id": "no", "text": {"en": "no", "zh": "否"}},
                    {"id": "yes", "text": {"en": "yes", "zh": "是"}},
                ],
            }
        ],
    }
)
PIPELINE = Pipeline(name="chest", model="fake", checks="chest", language="en", destinations=("pacs",))


class FakeWriter:
    """Says what it is told to say, and remembers what it was shown."""

    entry = ENTRY
    sha256 = "ab" * 32

    def __init__(self, text: str = "FINDINGS: A. IMPRESSION: B.", entry: ModelEntry = ENTRY) -> None:
        self.text = text
        self.entry = entry
        self.shown: tuple[Image, ...] = ()

    def write(self, images: Sequence[Image], instruction: str) -> Draft:
        assert instruction in self.entry.prompts.draft.values()
        self.shown = tuple(images)
        return Draft(text=self.text, token_logprobs=(-0.1,), ended=True)

    def score(self, images: Sequence[Image], questions: Sequence[ClosedQuestion]) -> list[tuple[float, ...]]:
        assert len(images) == len(self.shown)
        return [tuple(-float(place) * 9 for place in range(len(one.answers))) for one in questions]


class Hospital:
    """Sends made-up objects of one study."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.instances: list[Instance] = []

    def send(self, values: Any = None, *, header: StudyHeader = HEADER, **attributes: Any) -> Path:
        number = len(self.instances) + 1
        # What a usual object states; a CT image has to say what its values mean.
        usual: dict[str, Any] = {"ViewPosition": "PA"}
        if attributes.get("Modality") == "CT":
            usual = {"RescaleSlope": 1, "RescaleIntercept": 0}
        dataset = picture(ramp() if values is None else values, number, **(usual | attributes))
        path = write(dataset, self.directory / f"{number}.dcm")
        self._index(dataset, path, header)
        return path

    def send_report(self, **attributes: Any) -> None:
        number = len(self.instances) + 1
        dataset = picture(ramp(), number, SOPClassUID=BASIC_TEXT_SR_STORAGE, Modality="SR", **attributes)
        del dataset.PixelData
        self._index(dataset, write(dataset, self.directory / f"{number}.dcm"), HEADER)

    def _index(self, dataset: Dataset, path: Path, header: StudyHeader) -> None:
        self.instances.append(
            Instance(
                series_instance_uid=dataset.SeriesInstanceUID,
                sop_instance_uid=dataset.SOPInstanceUID,
                sop_class_uid=dataset.SOPClassUID,
                transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
                modality=dataset.Modality,
                attributes={},
                header=header,
                path=path.name,
                status=InstanceStatus.CURRENT,
            )
        )

    def add(self, path: str, *, sop_class_uid: str, modality: str, transfer_syntax_uid: str) -> None:
        """Take a file as it is."""
        number = len(self.instances) + 1
        self.instances.append(
            Instance(
                series_instance_uid="2.25.2",
                sop_instance_uid=f"2.25.1.{number}",
                sop_class_uid=sop_class_uid,
                transfer_syntax_uid=transfer_syntax_uid,
                modality=modality,
                attributes={},
                header=HEADER,
                path=path,
                status=InstanceStatus.CURRENT,
            )
        )

    def case(self, **changes: Any) -> Case:
        study = Study(
            study_instance_uid="2.25.3",
            generation=2,
            state=StudyState.COMPLETE,
            completion_reason=CompletionReason.COUNTED,
            expected_instances=changes.pop("expected_instances", None),
        )
        job = Job(
            id=1,
            step="read",
            queue="gpu",
            study_instance_uid="2.25.3",
            generation=2,
            subject="",
            attempt=1,
            max_attempts=5,
            fence=1,
        )
        content: dict[str, Any] = {"job": job, "study": study, "instances": tuple(self.instances), "pipeline": PIPELINE}
        return Case(**(content | changes))
