"""Checks and pipelines: a wrong file is refused by its name and the place in it."""

from pathlib import Path

import pytest

from casebook.checks import load_checks
from casebook.errors import SettingsError
from casebook.pipelines import choose, load_pipelines
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from casebook.study import Instance, InstanceStatus, StudyHeader

CHECKS = """
name: chest
version: "1"
checks:
  - id: effusion
    label: Effusion
    kind: yes_no
    question: {en: "Effusion?", zh: "积液？"}
    answers:
      - {id: "yes", text: {en: "yes", zh: 有}}
      - {id: "no", text: {en: "no", zh: 无}}
    in_report:
      en: {"yes": ["pleural effusion"], "no": ["no effusion"]}
"""
PIPELINE = "{name: %s, order: %d, model: m, checks: chest, language: en, destinations: [pacs], match: {Modality: [%s]}}"


def _checks(tmp_path: Path, content: str) -> str:
    path = tmp_path / "checks.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        load_checks(path)
    assert str(path) in str(refused.value)
    return str(refused.value)


def test_a_preset_loads_and_its_digest_does_not_depend_on_its_layout(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(CHECKS, encoding="utf-8")
    (tmp_path / "two.yaml").write_text("# a comment\n" + CHECKS.replace('"1"', "'1'"), encoding="utf-8")

    one, two = load_checks(tmp_path / "one.yaml"), load_checks(tmp_path / "two.yaml")
    assert one.sha256 == two.sha256
    assert one.checks[0].answer("yes").text["zh"] == "有"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: yes_no", "kind: open", "checks.0.kind"),
        ("label: Effusion", "lable: Effusion", "checks.0.lable"),
        ('- {id: "no", text: {en: "no", zh: 无}}', "- {id: none, text: {en: none, zh: 无}}", "yes and no"),
        ("zh: 有}", "de: ja}", "misses a language"),
        ("label: Effusion", f"label: {'x' * 65}", "longer than 64 bytes"),
        ("label: Effusion", f"label: {'积' * 22}", "longer than 64 bytes"),
        ('["pleural effusion"]', '["pleural (effusion"]', "not a regular expression"),
        ('en: {"yes"', 'de: {"yes"', "in_report"),
    ],
)
def test_a_wrong_preset_is_refused_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in CHECKS
    assert said in _checks(tmp_path, CHECKS.replace(old, new, 1))


SIDE = """
  - id: side
    label: Side
    kind: choice
    only_if: {effusion: yes}
    question: {en: "Side?", zh: "哪侧？"}
    shown: {zh: 在哪一侧？}
    answers:
      - {id: none, text: {en: none, zh: 无}}
      - {id: left, text: {en: left, zh: 左}, shown: {zh: 左侧}}
"""


def test_a_check_may_be_shown_in_other_words_than_it_is_asked_in_and_only_if_another_is_so(tmp_path: Path) -> None:
    path = tmp_path / "checks.yaml"
    path.write_text(CHECKS.rstrip() + SIDE, encoding="utf-8")

    side = load_checks(path).checks[1]

    # YAML reads an unquoted yes as true.
    assert side.only_if == {"effusion": "yes"}
    assert (side.question["zh"], side.shown_in("zh"), side.shown_in("en")) == ("哪侧？", "在哪一侧？", "Side?")
    assert (side.answer("left").shown_in("zh"), side.answer("none").shown_in("zh")) == ("左侧", "无")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{effusion: yes}", "{efusion: yes}", "no check before it"),
        ("{effusion: yes}", "{side: left}", "no check before it"),
        ("{effusion: yes}", "{effusion: left}", "an answer that effusion does not have"),
        ("{zh: 在哪一侧？}", "{de: Seite}", "shown in a language without a question"),
        ("shown: {zh: 左侧}", "shown: {de: links}", "shown in a language without a question"),
    ],
)
def test_a_condition_or_a_label_of_nothing_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SIDE
    assert said in _checks(tmp_path, CHECKS.rstrip() + SIDE.replace(old, new, 1))


def test_a_condition_names_a_check_before_it(tmp_path: Path) -> None:
    assert "no check before it" in _checks(tmp_path, CHECKS.replace("checks:", f"checks:{SIDE.rstrip()}"))


def test_the_shipped_side_of_a_finding_is_only_stated_where_the_finding_is() -> None:
    preset = load_checks(SHIPPED_CONFIG_DIRECTORY / "checks" / "chest_xray.yaml")

    sides = [check for check in preset.checks if check.id.endswith("_side")]
    assert len(sides) == 4
    assert all(check.only_if == {check.id.removesuffix("_side"): "yes"} for check in sides)


def test_a_check_id_stands_once(tmp_path: Path) -> None:
    check = CHECKS[CHECKS.index("  - id: effusion") :]

    assert "twice" in _checks(tmp_path, CHECKS + check)


def test_broken_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    assert ":2" in _checks(tmp_path, "name: x\nchecks: [")


@pytest.mark.parametrize("content", ["", "[]", "just text"])
def test_a_file_without_a_preset_is_refused(tmp_path: Path, content: str) -> None:
    assert _checks(tmp_path, content)


def _instance(modality: str, **attributes: str) -> Instance:
    return Instance(
        series_instance_uid="1",
        sop_instance_uid="2",
        sop_class_uid="1.2.840",
        transfer_syntax_uid="1.2.840",
        modality=modality,
        attributes=attributes,
        header=StudyHeader(),
        path="p",
        status=InstanceStatus.CURRENT,
    )


def _pipelines(tmp_path: Path, **files: str) -> Path:
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8")
    return tmp_path


def test_the_first_pipeline_by_order_that_fits_wins(tmp_path: Path) -> None:
    folder = _pipelines(tmp_path, a=PIPELINE % ("late", 20, "DX"), b=PIPELINE % ("early", 10, "'D?', CR"))
    pipelines = load_pipelines(folder)

    assert [one.name for one in pipelines] == ["early", "late"]
    chosen = choose(pipelines, [_instance("MR"), _instance("DX")])
    assert chosen is not None
    assert chosen.name == "early"
    assert choose(pipelines, [_instance("MR")]) is None
    assert choose(pipelines, []) is None


def test_all_keywords_have_to_fit_one_and_the_same_image(tmp_path: Path) -> None:
    folder = _pipelines(
        tmp_path, a=(PIPELINE % ("chest", 1, "DX")).replace("[DX]}", "[DX], BodyPartExamined: ['CHEST*']}")
    )
    pipelines = load_pipelines(folder)

    assert (
        choose(pipelines, [_instance("DX", BodyPartExamined="HAND"), _instance("MR", BodyPartExamined="CHEST")]) is None
    )
    assert choose(pipelines, [_instance("DX", BodyPartExamined="CHEST PA")]) is not None
    assert choose(pipelines, [_instance("DX")]) is None


def test_a_folder_without_pipelines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no pipeline"):
        load_pipelines(tmp_path)


def test_a_pipeline_name_stands_once(tmp_path: Path) -> None:
    folder = _pipelines(tmp_path, a=PIPELINE % ("same", 1, "DX"), b=PIPELINE % ("same", 2, "CR"))

    with pytest.raises(SettingsError, match="two pipelines are named same"):
        load_pipelines(folder)


def test_a_wrong_pipeline_names_its_file_and_key(tmp_path: Path) -> None:
    folder = _pipelines(tmp_path, broken=(PIPELINE % ("x", 1, "DX")).replace("model: m", "modle: m"))

    with pytest.raises(SettingsError) as refused:
        load_pipelines(folder)
    assert "broken.yaml" in str(refused.value)
    assert "modle" in str(refused.value)
