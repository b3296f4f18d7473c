"""Whose the study is in the archive: every answer it may give, and what each level of the check makes of it."""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from casebook.case import Case, FrozenOutput, Job
from casebook.errors import PatientNotConfirmed, PeerUnavailable
from casebook.outcomes import Cleared, Held
from casebook.settings import DicomDestination, Hl7Destination, IdentityCheck, QuerySettings, ResultStatus, Settings
from casebook.study import Instance, InstanceStatus, PatientIdentity, Study, StudyState
from casebook.testing import a_header, a_reading
from dicom_node.archive.patient_check import ArchivedIdentity, archived_identity, ask_archive, check_patient

STUDY = "1.2.3"
OURS = {
    "patient_id": "P-1",
    "issuer_of_patient_id": "HOSPITAL",
    "patient_birth_date": "19700101",
    "accession_number": "A-1",
}
KEYWORDS = {
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
}
BOTH = (IdentityCheck.REQUIRED, IdentityCheck.BEST_EFFORT)


def settings(check: IdentityCheck | None, query: QuerySettings | None = None) -> Settings:
    asked = query or QuerySettings(host="127.0.0.1", port=1, ae_title="PACS", timeout_s=5)
    return Settings(
        destinations=(
            DicomDestination(
                name="pacs", kind="dicom", host="127.0.0.1", port=1, ae_title="PACS", identity_check=check, query=asked
            ),
            Hl7Destination(
                name="ris",
                kind="hl7",
                host="127.0.0.1",
                port=1,
                result_status=ResultStatus.STORED,
                identity_check=check,
                query=asked,
            ),
        )
    )


def a_case(subject: str = "pacs", *, first_sent_at: float | None = None, step: str = "send") -> Case:
    job = Job(
        id=1, step=step, queue="io", study_instance_uid=STUDY, generation=1, subject=subject,
        attempt=1, max_attempts=20, fence=1,
    )  # fmt: skip
    header = a_header(**OURS)
    image = Instance(
        series_instance_uid="1.2.3.1", sop_instance_uid="1.2.3.1.1", sop_class_uid="1", transfer_syntax_uid="1",
        modality="DX", attributes={}, header=header, path="x", status=InstanceStatus.CURRENT,
    )  # fmt: skip
    output = FrozenOutput(
        kind="sr", content=b"", sha256="", object_uid="1", object_class="1", first_sent_at=first_sent_at
    )
    return Case(
        job=job,
        study=Study(study_instance_uid=STUDY, generation=1, state=StudyState.READY),
        instances=(image,),
        reading=a_reading(STUDY, header=header),
        output=output if step == "send" else None,
    )


def says(*answers: dict[str, str]) -> Callable[[QuerySettings, str], Sequence[ArchivedIdentity]]:
    return lambda _archive, _uid: [ArchivedIdentity(identity=PatientIdentity(**(OURS | one))) for one in answers]


def silent(_archive: QuerySettings, _uid: str) -> Sequence[ArchivedIdentity]:
    raise PeerUnavailable("the archive takes no association for this question")


def never(_archive: QuerySettings, _uid: str) -> Sequence[ArchivedIdentity]:
    raise AssertionError("the archive was asked")


@pytest.mark.parametrize("check", [*BOTH, None])
@pytest.mark.parametrize("subject", ["pacs", "ris"])
@pytest.mark.parametrize("step", ["prepare", "send"])
@pytest.mark.parametrize("name", OURS)
def test_an_archive_that_says_another_patient_holds_the_result(
    check: IdentityCheck | None, subject: str, step: str, name: str
) -> None:
    held = check_patient(a_case(subject, step=step), settings(check), says({name: "OTHER"}))

    assert isinstance(held, Held)
    assert held.reason == "archive_names_another_patient"
    assert not held.only_this_output
    assert KEYWORDS[name] in held.detail
    assert OURS[name] not in held.detail + repr(held)
    assert "OTHER" not in held.detail + repr(held)
    assert [(one.keyword, one.ours, one.theirs) for one in held.differences] == [(KEYWORDS[name], OURS[name], "OTHER")]


@pytest.mark.parametrize("check", BOTH)
def test_an_archive_that_says_the_same_patient_lets_it_go(check: IdentityCheck) -> None:
    assert check_patient(a_case(), settings(check), says({})) == Cleared()
    assert check_patient(a_case(), settings(check), says({}, {})) == Cleared()


@pytest.mark.parametrize("check", BOTH)
@pytest.mark.parametrize("name", OURS)
def test_a_key_that_the_archive_leaves_empty_contradicts_nobody(check: IdentityCheck, name: str) -> None:
    assert check_patient(a_case(), settings(check), says({name: ""})) == Cleared()


def test_a_key_that_the_images_leave_empty_contradicts_nobody() -> None:
    case = a_case()
    bare = a_header("P-1")
    assert case.reading is not None
    case = replace(
        case,
        reading=a_reading(STUDY, header=bare),
        instances=tuple(replace(one, header=bare) for one in case.instances),
    )

    assert check_patient(case, settings(IdentityCheck.REQUIRED), says({})) == Cleared()


@pytest.mark.parametrize("check", BOTH)
def test_one_of_several_answers_that_differs_holds_the_result(check: IdentityCheck) -> None:
    assert isinstance(check_patient(a_case(), settings(check), says({}, {"patient_id": "P-2"})), Held)


def test_an_image_that_counts_is_compared_too() -> None:
    case = a_case()
    other = replace(case.instances[0], header=a_header(**(OURS | {"accession_number": "A-2"})))

    held = check_patient(replace(case, instances=(*case.instances, other)), settings(None), says({}))

    assert isinstance(held, Held)


@pytest.mark.parametrize(
    ("ask", "action"), [(silent, "archive_did_not_answer"), (says(), "archive_did_not_know_the_study")]
)
def test_an_archive_that_cannot_say_is_waited_for_or_noted(
    ask: Callable[[QuerySettings, str], Sequence[ArchivedIdentity]], action: str
) -> None:
    with pytest.raises(PatientNotConfirmed, match="The archive PACS does not"):
        check_patient(a_case(), settings(IdentityCheck.REQUIRED), ask)

    cleared = check_patient(a_case(), settings(IdentityCheck.BEST_EFFORT), ask)
    assert isinstance(cleared, Cleared)
    assert [one.action for one in cleared.notes] == [action]


def test_letters_that_nobody_can_decode_are_held_or_noted() -> None:
    answer = ArchivedIdentity(identity=PatientIdentity(**(OURS | {"patient_id": ""})), not_decoded=("PatientID",))

    held = check_patient(a_case(), settings(IdentityCheck.REQUIRED), lambda *_: [answer])
    assert isinstance(held, Held)
    assert held.reason == "archive_answer_not_decoded"
    cleared = check_patient(a_case(), settings(IdentityCheck.BEST_EFFORT), lambda *_: [answer])
    assert isinstance(cleared, Cleared)
    assert [one.action for one in cleared.notes] == ["archive_answer_not_decoded"]


def test_nobody_is_asked_where_the_check_is_off_or_nobody_is_named_or_it_may_have_been_sent() -> None:
    nobody = Settings(
        destinations=(DicomDestination(name="pacs", kind="dicom", host="127.0.0.1", port=1, ae_title="PACS"),)
    )

    assert check_patient(a_case(), settings(IdentityCheck.OFF), never) == Cleared()
    assert check_patient(a_case(), nobody, never) == Cleared()
    assert check_patient(a_case(first_sent_at=1.0), settings(IdentityCheck.REQUIRED), never) == Cleared()


def test_the_archive_of_the_site_vouches_for_every_destination_that_names_no_other() -> None:
    site = Settings.model_validate(
        {
            "archive": {"host": "127.0.0.1", "port": 104, "ae_title": "ARCHIVE"},
            "destinations": [
                {"name": "ris", "kind": "hl7", "host": "127.0.0.1", "port": 1, "result_status": "R"},
            ],
        }
    )
    check, asked = site.identity_check("ris")

    assert check is IdentityCheck.BEST_EFFORT
    assert asked is not None
    assert asked.ae_title == "ARCHIVE"


@pytest.mark.parametrize("check", ["required", "best_effort"])
def test_a_check_that_nobody_can_answer_is_a_wrong_setting(check: str) -> None:
    line = {"name": "pacs", "kind": "dicom", "host": "127.0.0.1", "port": 1, "ae_title": "P", "identity_check": check}
    with pytest.raises(ValueError, match="nobody to ask"):
        Settings.model_validate({"destinations": [line]})


# ---- on the wire -------------------------------------------------------------------------------------------


@contextmanager
def an_archive(*answers: Dataset, status: int = 0x0000) -> Iterator[tuple[QuerySettings, list[Dataset]]]:
    """Run an archive on loopback that answers every question the same."""
    asked: list[Dataset] = []

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        asked.append(event.identifier)
        for one in answers:
            yield 0xFF00, one
        if status:
            yield status, None

    entity = AE("PACS")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    try:
        port = server.socket.getsockname()[1]
        yield QuerySettings(host="127.0.0.1", port=port, ae_title="PACS", timeout_s=5), asked
    finally:
        server.shutdown()


def an_answer(study: str = STUDY, charset: str | None = None, **values: str | bytes) -> Dataset:
    answer = Dataset()
    answer.QueryRetrieveLevel, answer.StudyInstanceUID = "STUDY", study
    if charset is not None:
        answer.SpecificCharacterSet = charset
    for keyword, value in values.items():
        setattr(answer, keyword, value)
    return answer


def test_one_question_asks_for_the_study_and_whose_it_is() -> None:
    with an_archive(an_answer(PatientID="P-1", PatientBirthDate="19700101")) as (query, asked):
        found = ask_archive(query, STUDY)

    assert [one.identity for one in found] == [PatientIdentity(patient_id="P-1", patient_birth_date="19700101")]
    (question,) = asked
    assert question.QueryRetrieveLevel == "STUDY"
    assert question.StudyInstanceUID == STUDY
    assert {one.keyword for one in question} == {"QueryRetrieveLevel", "StudyInstanceUID", *KEYWORDS.values()}


def test_an_answer_about_another_study_is_none() -> None:
    with an_archive(an_answer("1.2.4", PatientID="P-9"), an_answer("1.2.3.5", PatientID="P-8")) as (query, _):
        assert ask_archive(query, STUDY) == ()


@pytest.mark.parametrize(
    ("charset", "patient_id"),
    [("ISO_IR 192", "Мюллер-1"), ("ISO_IR 100", "Müller-1"), ("GB18030", "张-1"), (r"\ISO 2022 IR 87", "山-1")],
)
def test_an_answer_is_decoded_by_its_own_character_set(charset: str, patient_id: str) -> None:
    with an_archive(an_answer(charset=charset, PatientID=patient_id)) as (query, _):
        (found,) = ask_archive(query, STUDY)

    assert (found.identity.patient_id, found.not_decoded) == (patient_id, ())


@pytest.mark.parametrize("status", [0xA700, 0xC001, 0xFE00])
def test_a_failure_is_no_answer(status: int) -> None:
    with an_archive(status=status) as (query, _), pytest.raises(PeerUnavailable):
        ask_archive(query, STUDY)


def test_an_answer_that_cannot_be_read_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NotImplementedError("(0010,0020) P-9")

    monkeypatch.setattr("dicom_node.archive.patient_check.is_about", fail)
    with an_archive(an_answer(PatientID="P-9")) as (query, _), pytest.raises(PeerUnavailable) as raised:
        ask_archive(query, STUDY)
    assert "P-9" not in str(raised.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_archive_that_is_not_there_does_not_answer() -> None:
    with an_archive() as (query, _):
        pass
    with pytest.raises(PeerUnavailable):
        ask_archive(query, STUDY)


@pytest.mark.filterwarnings("ignore:Unknown encoding")
@pytest.mark.parametrize(
    ("value", "charsets"),
    [
        (b"\xc4123", []),
        (b"\xc4123", [""]),
        (b"\xc4123", ["ISO_IR 6"]),
        (b"\xc4123", ["ISO_IR 192"]),
        (b"\xc4123", ["NO SUCH SET"]),
        (b"\xff\xff", ["GB18030"]),
        (b"\xc4123", ["ISO_IR 13", "NO SUCH SET"]),
        (b"M\xef\xbf\xbdller", ["ISO_IR 192"]),
    ],
)
def test_bytes_that_do_not_fit_their_character_set_are_not_guessed(value: bytes, charsets: list[str]) -> None:
    raw = {0x00080005: (b"CS", "\\".join(charsets).encode()), 0x00100020: (b"LO", value)}
    elements = b"".join(
        struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(one)) + one for tag, (vr, one) in raw.items()
    )
    answer = read_dataset(BytesIO(elements), is_implicit_VR=False, is_little_endian=True)

    found = archived_identity(answer)

    assert (found.identity.patient_id, found.not_decoded) == ("", ("PatientID",))
