"""The one comparison of identities."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, update

from casebook import intake, store, tables
from casebook.database import write
from casebook.identity import (
    IDENTITY,
    KEYWORDS,
    agree,
    changes,
    contradictions,
    differing_demographics,
    exact_text,
    inexact,
    say_inexact,
    unvouched,
    why_unclear,
    with_demographics_of,
    with_identity_of,
)
from casebook.study import Demographic, Fault, IdentifyingText, PatientIdentity, StudyHeader
from casebook.testing import MORNING, a_header, a_received_instance

UNREAD = IdentifyingText(
    keyword="PatientID", raw=b"\xc4123", character_set="ISO_IR 192", text=None, fault=Fault.UNDECODABLE
)


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize(
    ("one", "other"), [("A", "B"), ("A", "a"), ("A 1", "A1"), ("\u00e9", "e\u0301"), ("1", "\uff11")]
)
def test_another_text_is_a_contradiction(name: str, one: str, other: str) -> None:
    assert contradictions([a_header(**{name: one}), a_header(**{name: other})]) == (name,)


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("padded", [" A", "A ", "A\x00", "A \x00"])
def test_padding_is_no_contradiction(name: str, padded: str) -> None:
    assert agree("A", padded)
    assert not contradictions([a_header(**{name: "A"}), a_header(**{name: padded.rstrip(chr(0))})])


def test_an_empty_value_contradicts_nobody_but_an_empty_patient_id_does() -> None:
    for name in IDENTITY:
        found = contradictions([a_header(**{name: ""}), a_header(**{name: "A"}), a_header(**{name: " "})])
        assert found == (("patient_id",) if name == "patient_id" else ())


def test_two_values_contradict_each_other_whatever_is_empty_beside_them() -> None:
    headers = [a_header(accession_number=value) for value in ("", "A", "", "B")]

    assert contradictions(headers) == ("accession_number",)


@pytest.mark.parametrize("text", ["A\x0712", "12\x0034", "M\ufffdller", "A\\B", "\x85", "\ud800", "\ufffe"])
def test_a_text_that_is_not_exact_contradicts_everything_also_itself(text: str) -> None:
    header = a_header(text)

    assert exact_text(header, "patient_id") is None
    assert contradictions([header]) == ("patient_id",)
    assert [one.keyword for one in inexact([header, header])] == ["PatientID"]


def test_bytes_that_are_no_text_are_no_empty_value() -> None:
    for name, keyword in KEYWORDS.items():
        header = replace(a_header(), identifying=(replace(UNREAD, keyword=keyword),))
        assert exact_text(header, name) is None
        assert contradictions([header, a_header()]) == ((name,) if name in IDENTITY else ())
        assert say_inexact(inexact([header])) == (
            f"{keyword} has bytes that are no characters of its character set (ISO_IR 192)"
        )


def test_a_header_is_completed_by_what_others_say() -> None:
    whole = a_header(accession_number="A", issuer_of_patient_id="H", patient_birth_date="19600101")
    header = with_identity_of(a_header(patient_name="X"), [a_header(), whole])

    assert header.identity == whole.identity
    assert header.patient_name == "X"
    assert with_identity_of(a_header(accession_number="B"), [whole]).identity.accession_number == "B"
    assert with_identity_of(StudyHeader(), [whole]).identity.patient_id == ""


def test_a_repeated_copy_that_says_more_is_another_one_and_one_that_says_less_is_not() -> None:
    less, more = a_header(), a_header(accession_number="A")

    assert changes(less, more)
    assert not changes(more, less)
    assert changes(more, a_header(accession_number="B"))
    assert changes(replace(less, identifying=(replace(UNREAD, keyword="PatientName"),)), less)


def test_a_header_needs_somebody_who_says_the_same() -> None:
    header = a_header(accession_number="A", patient_name="N")

    assert unvouched(header, [a_header(accession_number="A"), a_header(patient_name="N ")]) == ()
    assert unvouched(header, [a_header(patient_name="N")]) == ("accession_number",)
    assert unvouched(header, []) == ("patient_id", "accession_number", "patient_name")


def test_the_bytes_come_back_from_the_row_and_old_rows_without_them_can_be_read(engine: Engine) -> None:
    header = replace(a_header("", accession_number="A"), identifying=(UNREAD,))
    with write(engine) as connection:
        intake.record_instances(connection, [a_received_instance(header=header)], MORNING)
        assert store.instances(connection, "1.2.3")[0].header == header
        old = '{"identity":{"patient_id":"P-1"},"patient_name":"Doe^John"}'
        connection.execute(update(tables.instance).values(header=old))
        (row,) = store.instances(connection, "1.2.3")
    assert row.header == StudyHeader(identity=PatientIdentity(patient_id="P-1"), patient_name="Doe^John")
    assert inexact([row.header]) == ()


# ---- name and sex ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("DOE^JANE", "DOE^JANE"),
        ("DOE^JANE", "Doe^Jane"),
        ("DOE^JANE", "DOE^JANE^^^"),
        ("DOE^JANE", "DOE ^JANE"),
        ("DOE^JANE", ""),
        ("Wang^XiaoDong=王^小东", "Wang^XiaoDong"),
        ("Wang^XiaoDong=王^小东", "=王^小东"),
        ("Wang^XiaoDong", "=王^小东"),
    ],
)
def test_one_name_may_be_written_in_several_ways(one: str, other: str) -> None:
    assert not differing_demographics([a_header(patient_name=one), a_header(patient_name=other)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("DOE^JANE", "DOE^JOHN"),
        ("DOE^JANE", "DOE^JANE^M"),
        ("DOE^JANE", "JANE^DOE"),
        ("Wang^XiaoDong=王^小东", "Wang^XiaoDong=王^小冬"),
        ("A^B=甲^乙=x", "A^B==y"),
    ],
)
def test_another_name_under_one_patient_id_is_named(one: str, other: str) -> None:
    headers = [a_header(patient_name=text) for text in ("", one, other)]

    assert differing_demographics(headers) == (Demographic.PATIENT_NAME,)
    assert why_unclear(headers) is None
    assert why_unclear(headers, [Demographic.PATIENT_SEX]) is None
    found = why_unclear(headers, [Demographic.PATIENT_NAME])
    assert found == (
        "patient_identity_differs",
        "The images of this study disagree about PatientName, so no draft is written.",
    )


def test_another_sex_under_one_patient_id_is_named_and_an_empty_one_says_nothing() -> None:
    assert not differing_demographics([a_header(patient_sex=sex) for sex in ("F", "", "F")])
    assert differing_demographics([a_header(patient_sex=sex) for sex in ("F", "O")]) == (Demographic.PATIENT_SEX,)


def test_what_a_header_lacks_is_taken_from_others_that_agree() -> None:
    capture = a_header(patient_name="", patient_sex="F")
    others = [a_header(patient_name="DOE^JANE", patient_sex="M"), a_header(patient_name="Doe^Jane")]

    filled = with_demographics_of(capture, others)
    assert (filled.patient_name, filled.patient_sex) == ("DOE^JANE", "F")
    assert with_demographics_of(capture, [*others, a_header(patient_name="ROE^RICK")]).patient_name == ""
