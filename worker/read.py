"""The `read` step: a complete study becomes a Reading, or a refusal that says why."""

import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from casebook.case import Case
from casebook.checks import CheckPreset, load_checks
from casebook.errors import ModelRefused, SettingsError, UnreadablePixels
from casebook.identity import (
    differing_demographics,
    why_unclear,
    with_demographics_of,
    with_identity_of,
)
from casebook.logs import get_logger
from casebook.outcomes import Drafted, Held, Refused
from casebook.pipelines import Pipeline
from casebook.reading import InstanceReference, Provenance, Reading
from casebook.settings import Settings
from casebook.study import CompletionReason, Demographic, Instance, StudyHeader
from casebook.watchdog import go_on
from worker.reader import prompts
from worker.reader.consistency import find_contradiction
from worker.reader.decode import open_picture
from worker.reader.loaders import open_writer
from worker.reader.picture_kind import why_no_picture
from worker.reader.pixels import Frame, Rendered, rendered_frames
from worker.reader.plausibility import load_statistics, why_implausible
from worker.reader.registry import ModelEntry, Patients, find_entry, load_registry
from worker.reader.report import order_impression, split_report
from worker.reader.scoring import answer_checks, arrange, closed_question
from worker.reader.views import (
    NAMED_WINDOWS,
    Candidate,
    Skipped,
    View,
    Why,
    choose,
    describe,
    unreadable,
    why_no_person,
)
from worker.reader.writer import Writer, refuse_unusable

#: Language of a pipeline -> RFC 5646 language of a Reading.
_LANGUAGE_TAGS = {"en": "en", "zh": "zh-CN"}
#: A picture that varies less than one of 256 grey levels shows nothing.
_BLANK = 1 / 255
_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the model is shown of a study."""

    views: tuple[View, ...]
    pictures: tuple[Rendered, ...]
    skipped: tuple[Skipped, ...]

    @property
    def images(self) -> tuple[Frame, ...]:
        """What the model sees, in its order."""
        return tuple(one.frame for one in self.pictures)


def read(case: Case, settings: Settings) -> Drafted | Refused | Held:
    """Read one generation of a study.

    Raises
    ------
    SettingsError
        When the pipeline names a model or a preset that does not exist.
    ModelRefused
        When the model cannot be loaded.
    Retryable
        When the storage does not answer.
    """
    if case.pipeline is None:
        return Refused(reason="no_pipeline", detail="The pipeline of this study is no longer configured.")
    entry = find_entry(load_registry(settings.config_directory / "models"), case.pipeline.model)
    preset = load_checks(settings.config_directory / "checks" / f"{case.pipeline.checks}.yaml")
    _refuse_unknown_language(case.pipeline, entry, preset)
    writer = _opened(entry, settings.worker.device, settings.worker.threads)
    return read_with(writer, case, preset, settings, now=time.time())


def warm(settings: Settings, pipelines: Sequence[Pipeline]) -> None:
    """Load the models of all pipelines, so that the first study does not wait for them."""
    registry = load_registry(settings.config_directory / "models")
    for pipeline in pipelines:
        _opened(find_entry(registry, pipeline.model), settings.worker.device, settings.worker.threads)


def read_with(
    writer: Writer, case: Case, preset: CheckPreset, settings: Settings, *, now: float
) -> Drafted | Refused | Held:
    """Read one generation of a study with a model that is loaded.

    Parameters
    ----------
    writer
        The model.
    case
        The study, its instances and its pipeline.
    preset
        The checks to ask.
    settings
        Where the objects lie and how large a picture may be.
    now
        The one timestamp of every output, seconds since the epoch, UTC.

    Raises
    ------
    LostLease
        When another worker has the study by now.
    Retryable
        When the storage does not answer.
    """
    pipeline = case.pipeline
    if pipeline is None:
        raise SettingsError("A study can only be read for a pipeline.")
    instances = [one for one in case.instances if one.sop_instance_uid not in case.issued_uids]
    headers = [one.header for one in instances]
    held = _hold_unclear_identity(headers, settings)
    if held is not None:
        return held
    shown = _show(instances, writer.entry, settings)
    if isinstance(shown, Refused):
        return shown
    go_on()
    draft = writer.write(shown.images, writer.entry.prompts.draft[pipeline.language])
    try:
        refuse_unusable(draft, pipeline.language)
    except ModelRefused as error:
        return Refused(reason="unusable_draft", detail=str(error))
    go_on()
    sections = order_impression(split_report(draft.text), preset.checks, pipeline.language)
    answers = arrange(
        preset.checks,
        answer_checks(writer, shown.images, preset.checks, pipeline.language),
        is_calibrated=writer.entry.calibrated,
    )
    contradiction = find_contradiction(sections, answers, preset.checks, pipeline.language)
    if contradiction:
        return Refused(reason="contradictory_draft", detail=contradiction)
    by_uid = {one.sop_instance_uid: one for one in instances}
    first = by_uid[shown.views[0].sop_instance_uid]
    references = _references(shown.views)
    return Drafted(
        reading=Reading(
            study_instance_uid=case.study.study_instance_uid,
            generation=case.job.generation,
            language=_LANGUAGE_TAGS[pipeline.language],
            modality=first.modality,
            header=_stated_header(first, instances),
            sections=sections,
            answers=answers,
            images=references,
            based_on_images=len(references),
            known_images=_known_images(instances, case.study.expected_instances),
            completion_reason=case.study.completion_reason or CompletionReason.FORCED,
            notes=(
                *_notes(shown, pipeline.language),
                *_set_aside_notes(len(case.set_aside_uids), pipeline.language),
                *_differing_notes(differing_demographics(headers), pipeline.language),
            ),
            provenance=_provenance(writer, preset, pipeline),
            created_at=now,
        )
    )


def _hold_unclear_identity(headers: Sequence[StudyHeader], settings: Settings) -> Held | None:
    # The flow asks the same before it completes a study; images may have come since.
    found = why_unclear(headers, settings.identity.strict)
    return None if found is None else Held(reason=found[0], detail=found[1])


def _stated_header(first: Instance, instances: Sequence[Instance]) -> StudyHeader:
    # A capture without an order may be what is shown; the draft belongs to the order that the others name.
    headers = [one.header for one in instances]
    header = with_demographics_of(with_identity_of(first.header, headers), headers)
    # The bytes that were received stay with the rows of the images.
    return replace(header, identifying=())


def _opened(entry: ModelEntry, device: str, threads: int) -> Writer:
    return _opened_once(entry.model_dump_json(), device, threads)


@cache
def _opened_once(entry_json: str, device: str, threads: int) -> Writer:
    # One process serves one accelerator; a model stays loaded for its life.
    entry = ModelEntry.model_validate_json(entry_json)
    writer = open_writer(entry, device=device, threads=threads)
    _log.info("model_loaded", model=entry.name, version=entry.version, sha256=writer.sha256)
    return writer


def _refuse_unknown_language(pipeline: Pipeline, entry: ModelEntry, preset: CheckPreset) -> None:
    if pipeline.language not in entry.languages:
        raise SettingsError(f"pipeline {pipeline.name}: the model {entry.name} does not write {pipeline.language}")
    silent = [check.id for check in preset.checks if pipeline.language not in check.question]
    if silent:
        raise SettingsError(f"pipeline {pipeline.name}: check {silent[0]} has no {pipeline.language} question")


def _show(instances: Sequence[Instance], entry: ModelEntry, settings: Settings) -> Shown | Refused:
    candidates, left_out, animal = _candidates(instances, entry, settings)
    if animal and entry.patients is Patients.PEOPLE:
        detail = f"The model was made for people, and an object of the study is of an animal: {animal}."
        return Refused(reason="not_a_person", detail=detail)
    # What turns out to be unreadable is put aside, and the choice is made again without it.
    while candidates:
        choice = choose(candidates, entry.image)
        if not choice.views:
            left_out += choice.skipped
            break
        pictures, faults = _rendered(choice.views, entry, settings)
        if not faults:
            return Shown(views=choice.views, pictures=pictures, skipped=(*left_out, *choice.skipped))
        left_out += faults
        faulty = {one.sop_instance_uid for one in faults}
        candidates = [one for one in candidates if one.sop_instance_uid not in faulty]
    return _refused(left_out)


def _candidates(
    instances: Sequence[Instance], entry: ModelEntry, settings: Settings
) -> tuple[list[Candidate], list[Skipped], str]:
    """Sort the objects of a study into what may be shown and what not, and say why it is no person's study."""
    candidates: list[Candidate] = []
    left_out: list[Skipped] = []
    animal = ""
    for instance in instances:
        go_on()
        uid, path = instance.sop_instance_uid, settings.data_directory / instance.path
        what = why_no_picture(instance.sop_class_uid)
        if what:
            animal = animal or why_no_person(path)
            left_out.append(Skipped(sop_instance_uid=uid, reason=f"{what}, not an image", why=Why.NO_PICTURE))
            continue
        try:
            candidate = describe(path, sop_instance_uid=uid, image=entry.image)
        except UnreadablePixels as fault:
            left_out.append(unreadable(uid, fault))
            continue
        animal = animal or candidate.no_person
        skipped = _not_made_for(candidate, entry)
        if skipped is None:
            candidates.append(candidate)
        else:
            left_out.append(skipped)
    return candidates, left_out, animal


def _not_made_for(candidate: Candidate, entry: ModelEntry) -> Skipped | None:
    if candidate.no_patient:
        return Skipped(sop_instance_uid=candidate.sop_instance_uid, reason=candidate.no_patient, why=Why.NO_PICTURE)
    reason = ""
    if candidate.modality not in entry.modalities:
        reason = f"the model was made for {', '.join(entry.modalities)} and not for this Modality"
    elif entry.body_parts and candidate.body_part and candidate.body_part not in entry.body_parts:
        reason = f"the model was made for {', '.join(entry.body_parts)} and not for this BodyPartExamined"
    if not reason:
        return None
    return Skipped(sop_instance_uid=candidate.sop_instance_uid, reason=reason, why=Why.FOREIGN)


def _rendered(
    views: Sequence[View], entry: ModelEntry, settings: Settings
) -> tuple[tuple[Rendered, ...], list[Skipped]]:
    pictures: list[Rendered] = []
    faults: dict[str, Skipped] = {}
    blank: list[View] = []
    statistics = None if entry.pictures is None else load_statistics(entry.pictures)
    for view in views:
        try:
            picture = open_picture(view.path, max_frame_bytes=settings.worker.max_image_bytes)
            rendered = next(rendered_frames(picture, [view.frame_number - 1], window=NAMED_WINDOWS.get(view.window)))
        except UnreadablePixels as fault:
            faults[view.sop_instance_uid] = unreadable(view.sop_instance_uid, fault)
            continue
        pictures.append(rendered)
        image = rendered.frame
        if float(image.max()) - float(image.min()) < _BLANK:
            blank.append(view)
            continue
        reason = why_implausible(image, statistics, is_film=view.is_film)
        if reason:
            faults[view.sop_instance_uid] = Skipped(
                sop_instance_uid=view.sop_instance_uid, reason=reason, why=Why.IMPLAUSIBLE
            )
    # A stack may have empty slices; a film may not be empty, and neither may everything.
    for view in blank:
        if view.is_film or len(blank) == len(views):
            faults[view.sop_instance_uid] = unreadable(view.sop_instance_uid, UnreadablePixels("The image is blank."))
    return tuple(pictures), list(faults.values())


def _refused(left_out: Sequence[Skipped]) -> Refused:
    """Say why nothing of a study can be shown: the kind of reason that was nearest to a draft decides."""
    reasons = {why: sorted({one.reason for one in left_out if one.why is why}) for why in Why}
    broken = " ".join(reasons[Why.UNREADABLE])
    if reasons[Why.OTHER_PROJECTION]:
        films = "; ".join([*reasons[Why.OTHER_PROJECTION], *reasons[Why.IMPLAUSIBLE]])
        detail = f"The study has no readable frontal view; its films: {films}. {broken}".strip()
        return Refused(reason="no_frontal_view", detail=detail)
    if broken:
        return Refused(reason="unreadable_images", detail=f"No image of the study can be read. {broken}")
    if reasons[Why.IMPLAUSIBLE]:
        looks = "; ".join(reasons[Why.IMPLAUSIBLE])
        detail = f"No image of the study looks like what the model was made for: {looks}."
        return Refused(reason="implausible_images", detail=detail)
    if reasons[Why.FOREIGN]:
        return Refused(reason="not_made_for_this", detail=f"Not read: {'; '.join(reasons[Why.FOREIGN])}.")
    detail = "The study has no image that a model could read"
    objects = "; ".join(reasons[Why.NO_PICTURE])
    return Refused(reason="no_images", detail=f"{detail}; it has: {objects}." if objects else f"{detail}.")


def _references(views: Sequence[View]) -> tuple[InstanceReference, ...]:
    # One reference per object, with all of its frames and roles, in the order in which the model saw them.
    grouped: dict[str, list[View]] = {}
    for view in views:
        grouped.setdefault(view.sop_instance_uid, []).append(view)
    return tuple(
        InstanceReference(
            series_instance_uid=group[0].series_instance_uid,
            sop_instance_uid=uid,
            sop_class_uid=group[0].sop_class_uid,
            frame_numbers=tuple(dict.fromkeys(one.frame_number for one in group)) if group[0].is_multi_frame else (),
            role="; ".join(one.reason for one in group),
        )
        for uid, group in grouped.items()
    )


def _known_images(instances: Sequence[Instance], expected_instances: int | None) -> int:
    pictures = sum(why_no_picture(one.sop_class_uid) is None for one in instances)
    if expected_instances is None:
        return pictures
    # The archive counts reports and other objects too.
    return max(pictures, expected_instances - (len(instances) - pictures))


def _notes(shown: Shown, language: str) -> tuple[str, ...]:
    unreadable_count = sum(one.why is Why.UNREADABLE for one in shown.skipped)
    implausible = [one.reason for one in shown.skipped if one.why is Why.IMPLAUSIBLE]
    notes = []
    if unreadable_count:
        notes.append(_unreadable_note(unreadable_count, language))
    if implausible:
        notes.append(_implausible_note(implausible, language))
    if any(view.is_unstated for view in shown.views):
        notes.append(
            "影像未标明投照体位，按正位片读取。"
            if language == "zh"
            else "The film does not state its projection; it was read as a frontal view."
        )
    if any(one.lacks_marks for one in shown.pictures):
        notes.append(
            "胶片边缘的标记未纳入阅片图像。"
            if language == "zh"
            else "Marks at the edge of the film were left out of the picture that was read."
        )
    return tuple(notes)


def _unreadable_note(count: int, language: str) -> str:
    if language == "zh":
        return f"{count} 幅图像无法读取。"
    return "1 image could not be read." if count == 1 else f"{count} images could not be read."


def _implausible_note(reasons: Sequence[str], language: str) -> str:
    if language == "zh":
        return f"{len(reasons)} 幅图像的外观与模型适用的影像不符，未用于阅片。"
    images = "1 image was" if len(reasons) == 1 else f"{len(reasons)} images were"
    return f"{images} not read because of how it looks: {'; '.join(sorted(set(reasons)))}."


def _set_aside_notes(count: int, language: str) -> tuple[str, ...]:
    if not count:
        return ()
    if language == "zh":
        return (f"本检查有 {count} 幅图像经人工排除或已被标记为废弃，未纳入。",)
    were = "1 image of the study was" if count == 1 else f"{count} images of the study were"
    return (f"{were} left out: rejected, or by decision of a person.",)


_DEMOGRAPHICS_ZH = {Demographic.PATIENT_NAME: "患者姓名", Demographic.PATIENT_SEX: "患者性别"}


def _differing_notes(differing: Sequence[Demographic], language: str) -> tuple[str, ...]:
    if not differing:
        return ()
    if language == "zh":
        named = "、".join(_DEMOGRAPHICS_ZH[one] for one in differing)
        return (f"本检查各影像中的{named}不一致；本草稿采用首幅所读影像中的记载。",)
    named = " and ".join(one.keyword for one in differing)
    return (f"The images of this study differ in {named}; the draft states what the first image that was read says.",)


def _provenance(writer: Writer, preset: CheckPreset, pipeline: Pipeline) -> Provenance:
    entry = writer.entry
    questions = [closed_question(check, pipeline.language) for check in preset.checks]
    return Provenance(
        software_version=_software_version(),
        model_name=entry.name,
        model_version=entry.version,
        model_sha256=writer.sha256,
        prompt_sha256=prompts.prompt_digest(
            entry.prompts.draft[pipeline.language], [(one.text, one.answers) for one in questions]
        ),
        check_preset=preset.name,
        check_preset_version=preset.version,
        check_preset_sha256=preset.sha256,
        pipeline=pipeline.name,
        content_qualification=entry.content_qualification,
    )


@cache
def _software_version() -> str:
    try:
        return importlib.metadata.version("wetread")
    except importlib.metadata.PackageNotFoundError:
        return "unpackaged"
