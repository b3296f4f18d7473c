"""STOW-RS bodies as senders damage them: 200 only where every part is stored whole, and nothing else is left."""

import hashlib
import http.client
import json
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from random import Random

import pytest
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.uid import UID

from dicom_node.objects.file_meta import Envelope, build_file_meta, find_data_set
from dicom_node.tests.wire import CT, data_set
from integration_tests.listener_process import data_set_of, finished
from integration_tests.test_completeness import slices
from integration_tests.test_stow import TOKEN, Endpoint, endpoint, failures, head, part

pytestmark = pytest.mark.slow

EXPLICIT = "1.2.840.10008.1.2.1"
PATIENT = "SECRET-P7"


@pytest.fixture(scope="module")
def stow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with endpoint(tmp_path_factory.mktemp("bodies") / "data") as running:
        yield running


def uid_of(case: object, number: int = 1) -> str:
    """Return a SOP Instance UID that no other case uses."""
    return f"1.2.9.{int(hashlib.sha256(repr(case).encode()).hexdigest()[:24], 16)}.{number}"


def content(uid: str, pixels: bytes = b"\r\n--\r\npixels" * 90) -> bytes:
    """Return the data set of an instance; its pixels look like line ends and delimiters."""
    return data_set(uid, study="1.2.9", patient_id=PATIENT, name="Secret^Name", pixels=pixels)


def file_of(uid: str, **changes: str) -> bytes:
    """Return the instance as a file."""
    values = {"sop_class_uid": CT, "sop_instance_uid": uid, "transfer_syntax_uid": EXPLICIT} | changes
    return build_file_meta(Envelope(calling_ae_title="MODALITY", **values)) + content(uid)


def stored_uids(answer: bytes) -> list[str]:
    found = json.loads(answer).get("00081199", {"Value": []})["Value"]
    return [one["00081155"]["Value"][0] for one in found]


def assert_honest(stow: Endpoint, status: int, answer: bytes, uids: list[str]) -> list[str]:
    """Hold an answer against the disk: what it calls stored is there byte for byte, what it does not is not there."""
    told = stored_uids(answer) if status in (200, 202) else []
    on_disk = finished(stow.folder)
    assert [uid for uid in uids if uid in on_disk] == told
    for uid in told:
        assert [data_set_of(path) for path in on_disk[uid]] == [(EXPLICIT, content(uid))]
    assert stow.leftovers() == []
    assert PATIENT.encode() not in answer
    assert b"Secret" not in answer
    if status >= 400:
        assert b"part " in answer or b"no instance" in answer, answer
    return told


# ---- cut bodies --------------------------------------------------------------------------------------------


def three_parts(case: object) -> tuple[list[str], bytes, list[int]]:
    """Return the UIDs, the body of three parts, and every place where its structure changes."""
    uids = [uid_of(case, number) for number in (1, 2, 3)]
    body, places = b"", [0]
    for uid in uids:
        begin = b"--b\r\nContent-Type: application/dicom\r\nContent-Location: x\r\n\r\n"
        whole = file_of(uid)
        data_set_at = find_data_set(whole) or 0
        steps = (3, 2, 10, len(begin) - 17, 2, 64, 64, 4, data_set_at - 132, len(whole) - data_set_at, 2)
        for step in steps:
            places.append(places[-1] + step)
        body += begin + whole + b"\r\n"
    body += b"--b--"
    return uids, body, [*places, len(body) - 5, len(body) - 4, len(body) - 2, len(body) - 1]


def test_a_body_cut_anywhere_is_never_answered_as_whole(stow: Endpoint) -> None:
    _, body, places = three_parts("length")
    cuts = sorted({len(body) * number // 50 for number in range(50)} | set(places))
    assert len(cuts) > 70
    seen = set()

    for cut in cuts:
        uids, body, _ = three_parts(f"cut {cut}")
        status, answer = stow.post(body[:cut])

        told = assert_honest(stow, status, answer, uids)
        assert status == (202 if told else 400), cut
        if told:
            assert failures(answer)[-1:] == [0x0110], cut
        seen.add((status, len(told)))

    assert seen == {(400, 0), (202, 1), (202, 2), (202, 3)}


def test_the_whole_body_is_stored(stow: Endpoint) -> None:
    uids, body, places = three_parts("whole")
    assert max(places) <= len(body)

    status, answer = stow.post(body)

    assert (status, assert_honest(stow, status, answer, uids)) == (200, uids)


@pytest.mark.parametrize("cut", [b"--b", b"--b\r\n", b"--b\r\nContent-Type: application/dicom\r\n", b"--b\r\n\r\n"])
def test_what_follows_a_whole_part_has_to_be_whole_too(stow: Endpoint, cut: bytes) -> None:
    uid = uid_of(("follows", cut))

    status, answer = stow.post(part(file_of(uid)) + cut)

    assert (status, assert_honest(stow, status, answer, [uid])) == (202, [uid])
    assert len(failures(answer)) == 1


@pytest.mark.parametrize("damage", [b"--bx\r\n\r\n", b"--b\n\nx\n--b--", b"--b\r\n" + b"h" * 40_000])
def test_a_body_that_breaks_its_form_after_a_whole_part_is_not_whole(stow: Endpoint, damage: bytes) -> None:
    uid = uid_of(("damage", damage))

    status, answer = stow.post(part(file_of(uid)) + damage)

    assert (status, assert_honest(stow, status, answer, [uid])) == (202, [uid])


@pytest.mark.parametrize("cut", range(20))
def test_a_chunked_body_is_judged_like_any_other(stow: Endpoint, cut: int) -> None:
    uids, body, _ = three_parts(("chunked", cut))
    body = body if cut == 0 else body[: len(body) * cut // 20]
    random = Random(cut)

    def pieces() -> Iterator[bytes]:
        position = 0
        while position < len(body):
            size = random.choice((1, 7, 300, 5000))
            yield body[position : position + size]
            position += size

    connection = http.client.HTTPConnection("127.0.0.1", stow.port, timeout=30)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "multipart/related; boundary=b"}
    connection.request("POST", "/studies", pieces(), headers, encode_chunked=True)
    found = connection.getresponse()
    status, answer = found.status, found.read()
    connection.close()

    told = assert_honest(stow, status, answer, uids)
    assert status == (200 if cut == 0 else 202 if told else 400)


def test_a_sender_that_falls_silent_after_a_whole_part_is_told_of_it(stow: Endpoint) -> None:
    import socket

    uid = uid_of("silent")
    body = part(file_of(uid)) + part(file_of(uid_of("silent", 2)))[:-400]
    with socket.create_connection(("127.0.0.1", stow.port)) as raw:
        raw.settimeout(20)
        raw.sendall(head(len(body) + 900) + body)
        said = raw.recv(65536)

    assert b" 202 " in said
    assert_honest(stow, 202, said.split(b"\r\n\r\n", 1)[1], [uid, uid_of("silent", 2)])


# ---- file meta information ---------------------------------------------------------------------------------


def with_group_length(whole: bytes, kind: str) -> bytes:
    """Return a file whose (0002,0000) says something else, or is absent."""
    end = find_data_set(whole)
    assert end is not None
    right = end - 144
    first_two = 144 + 14 + 8 + len(CT) + len(CT) % 2
    lengths = {
        "zero": 0, "one": 1, "too_small": right - 4, "far_too_small": 20, "at_an_element": first_two - 144,
        "behind_transfer_syntax": right - 30, "too_large": right + 4, "a_whole_element_too_large": right + 8 + len(CT),
        "far_too_large": right + 70_000, "all_ones": 0xFFFFFFFF,
    }  # fmt: skip
    if kind == "absent":
        return whole[:132] + whole[144:]
    return whole[:140] + struct.pack("<I", lengths[kind]) + whole[144:]


@pytest.mark.parametrize(
    "kind",
    [
        "absent",
        "zero",
        "one",
        "too_small",
        "far_too_small",
        "at_an_element",
        "behind_transfer_syntax",
        "too_large",
        "a_whole_element_too_large",
        "far_too_large",
        "all_ones",
    ],
)
def test_the_group_length_is_not_trusted(stow: Endpoint, kind: str) -> None:
    uid = uid_of(("group length", kind))

    status, answer = stow.post(part(with_group_length(file_of(uid), kind)) + b"--b--")

    assert (status, assert_honest(stow, status, answer, [uid])) == (200, [uid])


def test_a_group_length_that_ends_at_every_element_or_between_stores_the_same(stow: Endpoint) -> None:
    whole = file_of("1.2.9.1")
    right = (find_data_set(whole) or 0) - 144
    uids = [uid_of(("swept", length)) for length in range(0, right + 40, 7)]
    files = [file_of(uid) for uid in uids]
    bodies = [
        part(one[:140] + struct.pack("<I", length) + one[144:])
        for one, length in zip(files, range(0, right + 40, 7), strict=True)
    ]

    status, answer = stow.post(b"".join(bodies) + b"--b--")

    assert (status, assert_honest(stow, status, answer, uids)) == (200, uids)


def test_a_group_length_that_ends_at_any_element_of_the_file_meta_is_not_the_end_of_it() -> None:
    whole = file_of("1.2.9.4")
    end = find_data_set(whole)
    assert end is not None
    elements = [at for at in range(144, end) if whole[at : at + 2] == b"\2\0" and whole[at + 4 : at + 6].isupper()]
    assert len(elements) >= 6

    for at in elements:
        stated = whole[:140] + struct.pack("<I", at - 144) + whole[144:]
        assert find_data_set(stated) == end, at


def test_elements_of_group_2_in_the_data_set_are_of_the_data_set() -> None:
    meta = build_file_meta(
        Envelope(sop_class_uid=CT, sop_instance_uid="1.2", transfer_syntax_uid=EXPLICIT, calling_ae_title="A")
    )
    explicit = struct.pack("<HH2sH", 2, 0x0010, b"UI", 4) + b"1.2\0" + content("1.2")
    implicit = struct.pack("<HHI", 2, 0x0010, 4) + b"1.2\0" + content("1.2")

    assert find_data_set(meta + explicit) == len(meta)
    assert find_data_set(meta + implicit) == len(meta)


def test_the_data_set_is_found_whatever_the_pieces(stow: Endpoint) -> None:
    whole = file_of("1.2.9.3")
    found = {find_data_set(whole[:length]) for length in range(len(whole))}

    assert found == {None, len(whole) - len(content("1.2.9.3"))}


# ---- odd parts ---------------------------------------------------------------------------------------------

ODD_HEADERS = {
    "no_header": b"",
    "no_content_type": b"Content-Location: studies/1/series/2\r\nX-Other: y\r\n",
    "parameters": b'Content-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1; charset="x"\r\n',
    "lower_case": b"content-type:application/dicom\r\ncontent-length: 12\r\n",
    "location": b"Content-Type: application/dicom\r\nContent-Location: http://x/y\r\nMIME-Version: 1.0\r\n",
    "twice": b"--b\r\nContent-Type: application/dicom\r\n",
}


@pytest.mark.parametrize("kind", list(ODD_HEADERS))
@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"This is a message with multiple parts.\r\n"])
def test_odd_headers_and_preambles_cost_nothing(stow: Endpoint, kind: str, preamble: bytes) -> None:
    uid = uid_of((kind, preamble))

    status, answer = stow.post(
        preamble + b"--b \r\n" + ODD_HEADERS[kind] + b"\r\n" + file_of(uid) + b"\r\n--b--\r\nepilogue --b"
    )

    assert (status, assert_honest(stow, status, answer, [uid])) == (200, [uid])


BAD_PARTS = {
    "another_type": (part(file_of("1.2.9.5.1"), "application/octet-stream"), "Content-Type is not application/dicom"),
    "json": (part(b"{}", "application/dicom+json"), "Content-Type is not application/dicom"),
    "text": (part(b"no file"), "ends before its data set"),
    "longer_text": (part(b"no file " * 100), "no DICOM file"),
    "empty": (part(b""), "ends before its data set"),
    "preamble_only": (part(bytes(128) + b"DICM"), "ends before its data set"),
    "meta_only": (part(file_of("1.2.9.5.2")[: find_data_set(file_of("1.2.9.5.2"))]), "ends before its data set"),
    "no_class": (part(file_of("1.2.9.5.3", sop_class_uid="")), "MediaStorageSOPClassUID is missing"),
    "no_syntax": (part(file_of("1.2.9.5.4", transfer_syntax_uid="")), "TransferSyntaxUID is missing"),
    "bad_instance": (part(file_of("1.2.9.5.5", sop_instance_uid="1.2/../3")), "MediaStorageSOPInstanceUID is missing"),
    "another_instance": (part(file_of("1.2.9.5.6", sop_instance_uid="1.2.9.5.7")), "names another instance"),
    "base64": (part(b"AAAA" * 200), "no DICOM file"),
    "no_uids": (part(file_of("1.2.9.5.8")[:-1300]), ""),
    "headers_only": (b"--b\r\nContent-Type: application/dicom\r\n", "ends before its data set"),
}


@pytest.mark.parametrize("kind", list(BAD_PARTS))
def test_a_part_that_cannot_be_stored_is_named_with_its_reason(stow: Endpoint, kind: str) -> None:
    body, words = BAD_PARTS[kind]
    uid = uid_of(("beside", kind))

    alone, said = stow.post(body + b"--b--")
    beside, mixed = stow.post(part(file_of(uid)) + body + b"--b--")

    assert alone == 409
    assert f"part 1: {words}" in said.decode() or f"{words}" in said.decode()
    assert "part 2: " in mixed.decode()
    assert_honest(stow, alone, said, [f"1.2.9.5.{number}" for number in range(1, 9)])
    assert (beside, assert_honest(stow, beside, mixed, [uid])) == (202, [uid])


@pytest.mark.parametrize(
    "body", [b"", b"--b--", b"\r\n--b--\r\n", b"x", b"--b", b"--c\r\n\r\nx\r\n--c--", b"--b\r\n--b--"]
)
def test_a_body_without_a_part_says_so(stow: Endpoint, body: bytes) -> None:
    status, answer = stow.post(body)

    assert status == 400
    assert b"nothing was stored" in answer


def test_line_feeds_alone_are_refused_in_words(stow: Endpoint) -> None:
    uid = uid_of("line feeds")
    body = b"--b\nContent-Type: application/dicom\n\n" + file_of(uid) + b"\n--b--"

    status, answer = stow.post(body)

    assert status == 400
    assert b"LF and not with CR LF" in answer
    assert_honest(stow, status, answer, [uid])


def test_a_path_that_names_no_study_says_so(stow: Endpoint) -> None:
    status, answer = stow.post(part(file_of(uid_of("path"))) + b"--b--", path="/studies/1.2.x")

    assert (status, b"no UID" in answer) == (400, True)


def test_a_refused_instance_is_named_by_its_uid(stow: Endpoint) -> None:
    uid = uid_of("another study")

    status, answer = stow.post(part(file_of(uid)) + b"--b--", path="/studies/1.2.77")

    (failed,) = json.loads(answer)["00081198"]["Value"]
    assert (status, failed["00081155"]["Value"]) == (409, [uid])
    assert failed["00000902"]["Value"] == ["part 1: the object is of another study than the one named"]


def test_a_foreign_client_understands_what_was_not_stored(stow: Endpoint, tmp_path: Path) -> None:
    client: DICOMwebClient = stow.client()
    one, two = (dcmread(path) for path in slices(tmp_path / "modality", 2))
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = UID(uid_of("foreign"))
    two.SOPInstanceUID = two.file_meta.MediaStorageSOPInstanceUID = UID(uid_of("foreign", 2))
    two.StudyInstanceUID = "1.2.78"

    answer = client.store_instances([one, two], study_instance_uid=str(one.StudyInstanceUID))

    assert [str(item.ReferencedSOPInstanceUID) for item in answer.ReferencedSOPSequence] == [one.SOPInstanceUID]
    assert [int(item.FailureReason) for item in answer.FailedSOPSequence] == [0xA900]
    written = BytesIO()
    two.save_as(written, enforce_file_format=True)
    assert uid_of("foreign", 2) not in finished(stow.folder)
