"""Checks and pipelines: a wrong file is refused by its name and the place in it."""

from pathlib import Path

import pytest

from casebook.checks import load_checks
from casebook.errors import SettingsError
from casebook.pipelines import choose, load_pipelines
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
