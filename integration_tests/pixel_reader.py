"""A `read` step that opens the images as the real one does and has a fake writer write the report."""

from functools import cache

from casebook.case import Case
from casebook.checks import CheckPreset, load_checks
from casebook.errors import SettingsError
from casebook.outcomes import Drafted, Held, Refused
from casebook.settings import Settings
from worker.read import read_with
from worker.tests.fakes import ENTRY, FakeWriter

_REPORTS = {
    "en": "FINDINGS: The heart size is normal. There is no pleural effusion. IMPRESSION: No acute abnormality.",
    "zh": "检查所见：心影大小正常。未见胸腔积液。 印象：未见急性异常。",
}


def read(case: Case, settings: Settings) -> Drafted | Refused | Held:
    """Decode, choose views and draft one fixed report, whatever the modality.

    Raises
    ------
    SettingsError
        When the pipeline of the study is gone.
    Retryable
        When the storage does not answer.
    """
    if case.pipeline is None:
        raise SettingsError("A study can only be read for a pipeline.")
    modalities = {one.modality for one in case.instances}
    entry = ENTRY.model_copy(update={"modalities": (*sorted(modalities), ""), "body_parts": ()})
    writer = FakeWriter(_REPORTS[case.pipeline.language], entry)
    return read_with(writer, case, _checks(settings, case.pipeline.checks), settings, now=case.study.last_received_at)


@cache
def _checks(settings: Settings, name: str) -> CheckPreset:
    return load_checks(settings.config_directory / "checks" / f"{name}.yaml")
