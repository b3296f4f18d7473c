"""What the demonstration shows at its end: the table, the pictures, the pages and the verdict."""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from casebook import audit, store
from casebook.checks import ABSENT, CheckPreset, load_checks
from casebook.reading import CheckAnswer, Reading, SectionKind
from casebook.settings import Settings
from casebook.study import Study, StudyState
from console.explain import OutputFacts, explain

if TYPE_CHECKING:
    from dicom_node.trial.standin import StandInPacs, StandInRis
    from training.phantom.dicom import PhantomStudy


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """One study: what is true of it, and what came back."""

    truth: "PhantomStudy"
    study: Study | None
    preset: CheckPreset
    reading: Reading | None
    #: Files of the received images the model saw.
    images: tuple[Path, ...]
    outputs: tuple[OutputFacts, ...]
    #: The SR as it lies in the stand-in PACS, None where there is none.
    sr: Path | None
    #: The message as it lies in the stand-in RIS.
    message: Path | None
    #: From the last image to the last acknowledgement.
    delivery_s: float | None

    @property
    def came_back(self) -> bool:
        """Say whether the draft lies in both places, acknowledged."""
        delivered = self.study is not None and self.study.state is StudyState.DELIVERED
        return delivered and self.sr is not None and self.message is not None

    @property
    def acknowledgement(self) -> str:
        """Return MSA-1 of the RIS."""
        return next((one.acknowledgement for one in self.outputs if one.kind == "oru"), "") or "-"

    def is_right(self, answer: CheckAnswer) -> bool:
        """Say whether an answer is the truth; "undetermined" is not."""
        return answer.answer_id == self.truth.answers[answer.check_id] and not answer.undetermined


def collect(
    connection: Connection, truth: "PhantomStudy", settings: Settings, pacs: "StandInPacs", ris: "StandInRis"
) -> Returned:
    """Gather everything about one study from the database and the stand-ins."""
    uid = truth.study_instance_uid
    preset = load_checks(settings.config_directory / "checks" / "chest_xray.yaml")
    try:
        study = store.get_study(connection, uid)
    except KeyError:
        return Returned(
            truth=truth,
            study=None,
            preset=preset,
            reading=None,
            images=(),
            outputs=(),
            sr=None,
            message=None,
            delivery_s=None,
        )
    found = store.get_reading(connection, uid, study.generation)
    reading = found[0] if found else None
    seen = {one.sop_instance_uid for one in reading.images} if reading else set()
    outputs = explain(connection, uid, settings=settings, now=study.changed_at).outputs
    issued = {one.object_uid for one in outputs}
    delivered = [one.at for one in audit.timeline(connection, uid) if one.action == str(StudyState.DELIVERED)]
    return Returned(
        truth=truth,
        study=study,
        preset=preset,
        reading=reading,
        images=tuple(
            settings.data_directory / one.path
            for one in store.instances(connection, uid)
            if one.sop_instance_uid in seen
        ),
        outputs=outputs,
        sr=next(
            (one.path for one in pacs.arrivals() if one.object_uid in issued and one.study_instance_uid == uid), None
        ),
        message=next((one.path for one in ris.arrivals() if one.object_uid in issued), None),
        delivery_s=delivered[-1] - study.last_received_at if delivered else None,
    )


def print_table(returned: Sequence[Returned], root: Path, screen: Console) -> None:
    """Print one row per study."""
    table = Table(title="What was drawn into each film, and what came back", show_lines=True)
    table.add_column("study", no_wrap=True)
    table.add_column("truth", ratio=2)
    table.add_column("draft (impression)", ratio=3)
    table.add_column("checks: findings with their probability", ratio=3)
    table.add_column("SR in the PACS", ratio=2, overflow="fold")
    table.add_column("ACK", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for number, one in enumerate(returned, start=1):
        storage = one.truth.storage
        table.add_row(
            f"{number}  {storage.modality} {storage.bits_stored} bit\n{storage.photometric}",
            _truth(one),
            _impression(one),
            _checks(one),
            str(one.sr.relative_to(root)) if one.sr else "[red]none[/red]",
            one.acknowledgement,
            "-" if one.delivery_s is None else f"{one.delivery_s:.1f}",
        )
    screen.print(table)


def _truth(one: Returned) -> str:
    findings = [
        f"{check_id.removesuffix('_side').replace('_', ' ')}{'' if answer == 'yes' else f' {answer}'}"
        for check_id, answer in one.truth.answers.items()
        # A finding with a side is named once, by its side.
        if answer not in ABSENT and f"{check_id}_side" not in one.truth.answers
    ]
    return ", ".join(findings) or "no finding"


def _impression(one: Returned) -> str:
    if one.reading is None:
        return f"[red]{one.study.state if one.study else 'not received'}[/red]"
    return " ".join(
        paragraph
        for section in one.reading.sections
        if section.kind is SectionKind.IMPRESSION
        for paragraph in section.paragraphs
    )


def _checks(one: Returned) -> str:
    if one.reading is None:
        return ""
    present, absent, wrong = [], [], []
    for answer in one.reading.answers:
        said = "undetermined" if answer.undetermined else answer.answer_id
        text = f"{answer.check_id} {said} {answer.probability:.2f}"
        if not one.is_right(answer):
            wrong.append(f"[red]{text} (truth: {one.truth.answers[answer.check_id]})[/red]")
        elif answer.answer_id in ABSENT:
            absent.append(answer.probability)
        else:
            present.append(text)
    rest = [f"{len(absent)} others absent, each at least {min(absent):.2f}"] if absent else []
    return "\n".join([*wrong, *present, *rest])


def verdict(returned: Sequence[Returned]) -> tuple[list[str], bool]:
    """Return what is to be said at the end, and whether all of it is good.

    The model's promise is a share of many answers; of few answers it allows the same share, rounded up.
    """
    from training.evaluate_phantom import PROMISED_ACCURACY, PROMISED_REPORT_F1, Tally, count_report

    tally = Tally()
    for one in returned:
        if one.reading is None:
            continue
        for answer in one.reading.answers:
            tally.asked[answer.check_id] += 1
            tally.right[answer.check_id] += one.is_right(answer)
        text = "\n".join(paragraph for section in one.reading.sections for paragraph in section.paragraphs)
        count_report(tally, text, one.preset, one.truth.answers, one.reading.language[:2])
    asked, right = tally.asked.total(), tally.right.total()
    allowed = math.ceil(asked * (1 - PROMISED_ACCURACY))
    back = sum(one.came_back for one in returned)
    times = sorted(one.delivery_s for one in returned if one.delivery_s is not None)
    checks_kept = asked > 0 and asked - right <= allowed
    report_kept = tally.reports > 0 and tally.report_f1() >= PROMISED_REPORT_F1
    sentences = [
        f"{_mark(back == len(returned))} {back} of {len(returned)} studies came back: SR in the PACS, HL7 acknowledged",
        f"{_mark(checks_kept)} {right} of {asked} answers are true (the card promises {PROMISED_ACCURACY:.0%})",
        (
            f"{_mark(report_kept)} findings in the drafts agree with the truth: "
            f"F1 {tally.report_f1():.3f} (the card promises {PROMISED_REPORT_F1})"
        ),
    ]
    if times:
        sentences.append(
            f"   seconds from the last image to delivery, the quiet period included: "
            f"median {times[len(times) // 2]:.1f}, longest {times[-1]:.1f}"
        )
    return sentences, back == len(returned) and checks_kept and report_kept


def _mark(is_good: bool) -> str:  # noqa: FBT001 - one word, read beside its sentence
    return "[green]ok[/green]" if is_good else "[red]fail[/red]"


def write_pages(returned: Sequence[Returned], root: Path) -> Path:
    """Write the pictures as PNG and one page that shows each draft as it lies in the archive."""
    pictures = root / "pictures"
    pictures.mkdir(exist_ok=True)
    cards = []
    for number, one in enumerate(returned, start=1):
        names = [_write_picture(path, pictures / f"{number}-{index}.png") for index, path in enumerate(one.images, 1)]
        cards.append(_card(number, one, [f"pictures/{name}" for name in names]))
    page = root / "reports.html"
    page.write_text(_PAGE.format(cards="\n".join(cards)), encoding="utf-8")
    return page


def _write_picture(source: Path, target: Path) -> str:
    import numpy as np
    from PIL import Image

    from worker.reader.decode import open_picture
    from worker.reader.pixels import frames

    picture = next(iter(frames(open_picture(source))))
    Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(target)
    return target.name


def _card(number: int, one: Returned, pictures: Sequence[str]) -> str:
    images = "".join(f'<img src="{html.escape(name)}" alt="study {number}">' for name in pictures)
    draft = "\n".join(_sr_lines(one.sr)) if one.sr else "no draft"
    message = one.message.read_text(encoding="utf-8").replace("\r", "\n") if one.message else ""
    return (
        f"<section><h2>Study {number}</h2><div>{images}</div><div><h3>Truth</h3><p>{html.escape(_truth(one))}</p>"
        f"<h3>Draft (DICOM SR)</h3><pre>{html.escape(draft)}</pre>"
        f"<details><summary>HL7</summary><pre>{html.escape(message)}</pre></details></div></section>"
    )


def _sr_lines(path: Path) -> Iterator[str]:
    from pydicom import dcmread

    yield from _item_lines(dcmread(path), 0)


def _item_lines(item: Any, depth: int) -> Iterator[str]:
    name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
    value = _value(item)
    if name or value:
        yield f"{'  ' * depth}{name}{': ' if name and value else ''}{value}"
    for child in item.get("ContentSequence", ()):
        yield from _item_lines(child, depth + 1)


def _value(item: Any) -> str:
    if "TextValue" in item:
        return str(item.TextValue)
    if "ConceptCodeSequence" in item:
        return str(item.ConceptCodeSequence[0].CodeMeaning)
    return str(item.get("PersonName", item.get("UID", item.get("DateTime", ""))))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Wetread demonstration</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; color: #222; }}
section {{ display: grid; grid-template-columns: 18rem 1fr; gap: 0 2rem; border-top: 1px solid #ccc; padding: 1rem 0; }}
h2 {{ grid-column: 1 / -1; font-size: 1.1rem; margin: 0 0 .5rem; }} h3 {{ font-size: .9rem; margin: .5rem 0 0; }}
img {{ width: 100%; background: #000; }} pre {{ white-space: pre-wrap; font-size: .85rem; }}
</style></head><body><h1>Eight synthetic studies and their drafts</h1>
<p>Synthetic radiographs, drawn by the project; drafts by a model that knows only these. Not for any patient.</p>
{cards}
</body></html>
"""
