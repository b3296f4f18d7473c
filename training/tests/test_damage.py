"""Wrong pictures are known by their look, undamaged phantoms never are, and their reports agree with themselves."""

import itertools

import numpy as np
import pytest

from casebook.checks import load_checks
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from training.phantom.damage import DAMAGES, draw_stored, is_wrong
from training.phantom.findings import Findings, Side
from training.phantom.phantom import draw_phantom
from training.phantom.report import LANGUAGES, write_report
from worker.reader.consistency import find_contradiction
from worker.reader.plausibility import load_statistics, why_implausible
from worker.reader.report import split_report

STATISTICS = load_statistics(SHIPPED_CONFIG_DIRECTORY / "models" / "pictures" / "phantom-cxr.yaml")
#: Seeds nobody trained or measured on.
FIRST_SEED = 650_000
FILMS = 4
#: Of all wrong pictures; measured over 20 films it was 95 %.
REQUIRED_SHARE = 0.6
#: What nothing but an orientation or another row length changes is the hardest to see.
HARD = {"another row length", "upside down", "window of another image", "fields one after the other"}


@pytest.fixture(scope="module")
def caught() -> dict[str, tuple[int, int]]:
    """Kind of damage -> how many were caught, and how many were wrong."""
    films = [draw_stored(FIRST_SEED + number) for number in range(FILMS)]
    counts = {}
    for place, (name, damage) in enumerate(DAMAGES.items()):
        pictures = [damage(film, np.random.default_rng([number, place])) for number, film in enumerate(films)]
        wrong = [one for one, film in zip(pictures, films, strict=True) if one.ndim == 3 or is_wrong(one, film)]
        counts[name] = (sum(bool(why_implausible(one, STATISTICS)) for one in wrong), len(wrong))
    return counts


def test_most_wrong_pictures_are_caught_by_their_look_alone(caught: dict[str, tuple[int, int]]) -> None:
    assert sum(found for found, _ in caught.values()) >= REQUIRED_SHARE * sum(wrong for _, wrong in caught.values())


@pytest.mark.parametrize("name", sorted(set(DAMAGES) - HARD))
def test_each_plain_kind_of_damage_is_caught(name: str, caught: dict[str, tuple[int, int]]) -> None:
    found, wrong = caught[name]

    assert found == wrong > 0


def test_undamaged_phantoms_are_plausible() -> None:
    reasons = {
        seed: why_implausible(draw_phantom(seed).picture, STATISTICS) for seed in range(FIRST_SEED, FIRST_SEED + 40)
    }

    assert {seed: reason for seed, reason in reasons.items() if reason} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_of_every_phantom_agrees_with_itself(language: str) -> None:
    preset = load_checks(SHIPPED_CONFIG_DIRECTORY / "checks" / "chest_xray.yaml")
    one_sided = (Side.NONE, Side.LEFT, Side.RIGHT)
    for heart, effusion, air, cloud, spot, box in itertools.product(
        (False, True), (*one_sided, Side.BILATERAL), one_sided, one_sided, one_sided, (False, True)
    ):
        findings = Findings(
            cardiomegaly=heart,
            pleural_effusion=effusion,
            pneumothorax=air,
            consolidation=cloud,
            nodule=spot,
            pacemaker=box,
        )
        sections = split_report(write_report(findings, language))

        assert find_contradiction(sections, (), preset.checks, language) == ""
