"""What the ORU^R01 contains, and that no text can break out of it."""

import itertools
from dataclasses import replace
from typing import Any

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casebook.reading import Reading
from casebook.sentences import split_sentences
from casebook.settings import Hl7Destination, Settings
from casebook.study import CodedConcept, PatientIdentity, StudyHeader
from dicom_node.hl7.er7 import escape, parse, unescape
from dicom_node.hl7.structure_check import check_structure
from dicom_node.results import guards, oru
from dicom_node.results.clean_text import clean
from dicom_node.results.tests import drafts
from dicom_node.results.tests.hostile import CORPUS


def destination(**changes: Any) -> Hl7Destination:
    found: Settings = drafts.settings(**changes)
    ris = found.destination("ris")
    assert isinstance(ris, Hl7Destination)
    return ris


def built(said: Reading, **changes: Any) -> str:
    """Return the checked message as text."""
    ris = destination(**changes)
    content, control_id = oru.build(said, ris, drafts.DEVICE, revision=1)
    guards.check_oru(content, said, ris, control_id)
    text = content.decode(oru.CODECS[ris.charset])
    check_structure(text)
    return text


def test_an_english_message_is_this() -> None:
    lines = built(drafts.reading(), sending_facility="HOSP").split("\r")
    control_id = lines[0].split("|")[9]
    stated = (
        "||||||R|||20260910002640+0000|||AI^Machine generated, not verified^99WETREAD|"
        f"WETREAD^^{drafts.DEVICE.device_uid}^ISO"
    )
    disclaimer = (
        "AI DRAFT - NOT VERIFIED. This preliminary text was written by software (Wetread 0.1.0, model phantom-cxr 1.0) "
        "and no physician has reviewed it. Not for diagnosis before review. "
        "The model is for research and not cleared for clinical use."
    )

    assert len(control_id) == 20
    assert lines == [
        f"MSH|^~\\&|WETREAD|HOSP|RIS||20260910002640+0000||ORU^R01^ORU_R01|{control_id}|P|2.5.1||||||UNICODE UTF-8",
        "PID|||P0001234^^^HOSP^MR||Wang^XiaoDong^^^^^L^A~王^小东^^^^^L^I||19600101|M",
        "PV1||U",
        "ORC|RE||A20260920001||IP",
        (
            "OBR|1||A20260920001|399208008^Plain chest X-ray^SCT|||20260920101500|||||||||||A20260920001||||"
            "20260910002640+0000||RAD|R"
        ),
        f"NTE|1|L|{disclaimer}|RE",
        f"OBX|1|ST|113014^DICOM Study^DCM||{drafts.STUDY_UID}{stated}",
        f"OBX|2|TX|DISC^AI disclaimer^99WETREAD|0|{disclaimer}{stated}",
        f"OBX|3|TX|59776-5^Procedure findings^LN|1|Heart size is normal (CTR < 0.5 \\T\\ stable).{stated}",
        f"OBX|4|TX|19005-8^Radiology Impression^LN|2|No acute abnormality.{stated}",
        (
            "OBX|5|TX|AICHK^AI preset checks^99WETREAD|3|"
            f"Is there a pleural effusion? undetermined\\.br\\Is there a pneumothorax? No{stated}"
        ),
        (
            "OBX|6|TX|AIBASIS^AI draft basis^99WETREAD|4|"
            f"Based on the only image (no further image arrived), model phantom-cxr version 1.0.{stated}"
        ),
        "",
    ]


def test_a_chinese_message_is_read_in_chinese() -> None:
    message = parse(built(drafts.reading("zh-CN", header=drafts.header(procedure_codes=()))))

    names = [one.field(3) for one in message if one.name == "OBX"]
    assert names == [
        "113014^DICOM 检查^DCM",
        "DISC^AI 声明^99WETREAD",
        "59776-5^影像所见^LN",
        "19005-8^影像诊断^LN",
        "AICHK^AI 预设问题^99WETREAD",
        "AIBASIS^说明^99WETREAD",
    ]
    assert {one.field(17) for one in message if one.name == "OBX"} == {"AI^机器生成，未经医师审核^99WETREAD"}
    assert message[4].field(4) == "18782-3^X线检查报告^LN"


def test_a_ris_that_prints_the_study_instance_uid_need_not_get_it() -> None:
    text = built(drafts.reading(), states_study_instance_uid=False)

    observations = [one for one in parse(text) if one.name == "OBX"]
    assert [one.field(1) for one in observations] == ["1", "2", "3", "4", "5"]
    assert observations[0].field(3).startswith("DISC^")
    assert drafts.STUDY_UID not in text


VARIANTS = list(
    itertools.product(
        ["en", "zh-CN"],
        [("P", "UNICODE UTF-8"), ("R", "GB 18030-2000")],
        ["whole", "no findings", "no impression", "no checks", "replaces", "long", "bare header"],
    )
)


def variant(language: str, kind: str) -> Reading:
    said = drafts.reading(language)
    if kind == "no findings":
        return drafts.reading(language, sections=said.sections[1:])
    if kind == "no impression":
        return drafts.reading(language, sections=said.sections[:1])
    if kind == "no checks":
        return drafts.reading(language, answers=())
    if kind == "long":
        return drafts.reading(language, sections=drafts.sections((said.sections[0].paragraphs[0] * 200,) * 5))
    if kind == "bare header":
        return drafts.reading(
            language, header=drafts.header(patient_name="", patient_sex="", study_date="", procedure_codes=())
        )
    return said


@pytest.mark.parametrize(("language", "stated", "kind"), VARIANTS)
def test_every_variant_is_valid_and_read_alike_by_another_library(
    language: str, stated: tuple[str, str], kind: str
) -> None:
    status, charset = stated
    said = variant(language, kind)
    ris = destination(result_status=status, charset=charset)
    content, control_id = oru.build(said, ris, drafts.DEVICE, revision=1, replaces_earlier=kind == "replaces")
    text = content.decode(oru.CODECS[charset])

    check_structure(text)
    guards.check_oru(content, said, ris, control_id)

    message = hl7.parse(text)
    found = {str(one[3][0][0]): hl7.Message.unescape(message, str(one[5])) for one in message.segments("OBX")}
    paragraphs = {
        str(one.kind): "\r".join(split_sentences("\n\n".join(one.paragraphs)))
        for one in said.sections
        if one.paragraphs
    }
    assert found.get("59776-5", "") == paragraphs.get("findings", "")
    assert found.get("19005-8", "") == paragraphs.get("impression", "")
    assert ("AICHK" in found) == bool(said.answers)
    assert {str(one[11]) for one in message.segments("OBX")} == {status}


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_text_stays_inside_its_field(name: str) -> None:
    written, expected = CORPUS[name]
    written = written.encode(errors="ignore").decode()
    said = drafts.reading(
        sections=drafts.sections((written, "next"), (written,)),
        answers=(drafts.answer(written, written, 0.5),),
        notes=(written,),
    )

    text = built(said)
    message = hl7.parse(text)

    plain = built(drafts.reading(answers=drafts.reading().answers[:1], notes=("note",)))
    assert [one.name for one in parse(text)] == [one.name for one in parse(plain)]
    findings = message.segments("OBX")[2]
    assert len(findings) == len(hl7.parse(plain).segments("OBX")[2])
    assert hl7.Message.unescape(message, str(findings[5])).split("\r") == [
        *"\n".join(split_sentences(expected)).split("\n"),
        "next",
    ]


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_header_is_escaped_or_held(name: str) -> None:
    written = CORPUS[name][0].encode(errors="ignore").decode()
    said = drafts.reading(
        header=drafts.header(
            procedure_codes=(CodedConcept(value="X", scheme="L", meaning=written),), patient_sex=written
        )
    )

    names = [one.name for one in parse(built(said))]

    assert names == ["MSH", "PID", "PV1", "ORC", "OBR", "NTE", *["OBX"] * 6]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("", "^^^^^^U"),
        ("^=^", "^^^^^^U"),
        ("Wang", "Wang^^^^^^L"),
        ("Wang^XiaoDong", "Wang^XiaoDong^^^^^L"),
        ("Adams^John Robert Quincy^^Rev.^B.A. M.Div.", "Adams^John Robert Quincy^^B.A. M.Div.^Rev.^^L"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P"),
        ("=王^小东", "王^小东^^^^^L^I"),
        ("Wang^=王=", "Wang^^^^^^L^A~王^^^^^^L^I"),
        ("A|B^C~D", "A\\F\\B^C\\R\\D^^^^^L"),
    ],
)
def test_name_groups_become_repetitions(name: str, field: str) -> None:
    text = built(drafts.reading(header=drafts.header(patient_name=name)))

    assert parse(text)[1].field(5) == field


@pytest.mark.parametrize(
    ("study_date", "study_time", "field"),
    [
        ("20260920", "101500", "20260920101500"),
        ("20260920", "1015", "202609201015"),
        ("20260920", "10", "20260920"),
        ("20260920", "10:15", "20260920"),
        ("20261320", "101500", ""),
        ("2026", "", ""),
        ("", "101500", ""),
    ],
)
def test_the_study_time_is_sent_as_far_as_it_is_one(study_date: str, study_time: str, field: str) -> None:
    text = built(drafts.reading(header=drafts.header(study_date=study_date, study_time=study_time)))

    assert parse(text)[4].field(7) == field


@pytest.mark.parametrize("birth_date", ["1960", "1960.01.01", "19600231", "unknown"])
def test_a_birth_date_that_is_no_date_is_left_empty(birth_date: str) -> None:
    identity = replace(drafts.HEADER.identity, patient_birth_date=birth_date)

    text = built(drafts.reading(header=replace(drafts.HEADER, identity=identity)))

    assert parse(text)[1].field(7) == ""


def test_the_destination_names_the_authority_where_the_study_does_not() -> None:
    nameless = StudyHeader(identity=PatientIdentity(patient_id="P1", accession_number="A1"), admission_id="V7")

    lines = built(drafts.reading(header=nameless), patient_id_namespace="MRN").split("\r")

    assert lines[1].startswith("PID|||P1^^^MRN^MR")
    assert lines[2] == "PV1||U|||||||||||||||||V7^^^MRN^VN"


def test_unescaping_undoes_escaping() -> None:
    for written, expected in CORPUS.values():
        assert unescape(escape(expected)).split() == expected.split(), written


def test_a_foreign_escape_sequence_is_left_alone() -> None:
    assert unescape("a\\X0D\\b\\.br\\c\\F\\d") == "a\\X0D\\b\nc|d"


@pytest.mark.parametrize(
    "old_new",
    [
        ("OBR|1|", "ZBR|1|"),
        ("|19600101|", "|19601301|"),
        ("|IP\r", "|IP|||||||||||||||||||||||||||||||||||too many\r"),
        ("PID|||P0001234^^^HOSP^MR|", "PID||||"),
        ("No acute", "No ^ acute"),
        ("No acute", "No \\Q acute"),
    ],
)
def test_a_broken_message_does_not_pass_the_structural_check(old_new: tuple[str, str]) -> None:
    text = built(drafts.reading())
    broken = text.replace(*old_new)
    assert broken != text

    with pytest.raises(Exception, match="HL7"):
        check_structure(broken)


@given(st.lists(st.text(max_size=60), max_size=4))
def test_no_text_at_all_leaves_its_field(paragraphs: list[str]) -> None:
    said = drafts.reading(sections=drafts.sections(tuple(one.encode(errors="ignore").decode() for one in paragraphs)))

    content, _ = oru.build(said, destination(), drafts.DEVICE, revision=1)
    text = content.decode()

    findings = [one for one in parse(text) if one.field(3).startswith("59776-5")]
    written = [one for one in map(clean, paragraphs) if one]
    assert text.count("\r") == len(parse(text)) == 10 + bool(written)
    assert [unescape(one.field(5)) for one in findings] == (
        ["\n".join(sentence for one in written for sentence in split_sentences(one))] if written else []
    )
    assert all(len(one.fields) == 19 for one in findings)
