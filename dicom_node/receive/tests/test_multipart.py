"""A multipart body taken apart in pieces of any size gives the same parts; hostile ones are refused."""

from random import Random

import pytest

from casebook.errors import InvalidObject
from dicom_node.receive.multipart import PartBegin, PartEnd, Splitter, boundary_of

BODY = (
    b"--b\r\nContent-Type: application/dicom\r\n\r\none\r\n--bx\r\n-\r\n--b  \r\n"
    b"content-type: Application/DICOM; x=1\r\nX: y\r\n\r\n\r\n--b\r\n\r\nlast\r\n--b--\r\nepilogue"
)
PARTS = [
    ("application/dicom", b"one\r\n--bx\r\n-"),
    ("application/dicom", b""),
    ("", b"last"),
]


def parts(body: bytes, cuts: list[int], boundary: str = "b") -> tuple[list[tuple[str, bytes]], bool]:
    splitter = Splitter(boundary)
    found: list[tuple[str, bytes]] = []
    name, content = "", b""
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        for event in splitter.feed(body[start:end]):
            match event:
                case PartBegin():
                    name, content = event.content_type, b""
                case PartEnd():
                    found.append((name, content))
                case bytes():
                    content += event
    return found, splitter.is_complete


def test_a_line_that_only_begins_like_a_delimiter_is_refused_or_content() -> None:
    # RFC 2046 5.1.1: a boundary must not begin a line of the content; a sender that does so has broken its own body.
    with pytest.raises(InvalidObject):
        parts(BODY, [])


def test_every_cut_gives_the_same_parts() -> None:
    body = BODY.replace(b"\r\n--bx\r\n-", b"\r\n--\r\nx")
    wanted = [("application/dicom", b"one\r\n--\r\nx"), *PARTS[1:]]
    random = Random(7)

    assert parts(body, []) == (wanted, True)
    assert parts(body, list(range(1, len(body)))) == (wanted, True)
    for _ in range(200):
        cuts = sorted(random.sample(range(1, len(body)), 5))
        assert parts(body, cuts) == (wanted, True)


def test_a_preamble_is_passed_over() -> None:
    assert parts(b"hello\r\n--b\r\n\r\nx\r\n--b--", []) == ([("", b"x")], True)


@pytest.mark.parametrize("length", range(len(b"--b\r\n\r\nx\r\n--b--")))
def test_a_cut_body_is_never_complete(length: int) -> None:
    found, complete = parts(b"--b\r\n\r\nx\r\n--b--"[:length], [])

    assert not complete
    assert found in ([], [("", b"x")])


@pytest.mark.parametrize("body", [b"x" * 20_000, b"--b\r\n" + b"h" * 20_000, b"--bX", b"--b" + b" " * 20_000])
def test_a_body_without_end_to_its_headers_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidObject):
        parts(body, list(range(1000, len(body), 1000)))


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', "abc"),
        ('multipart/related; boundary="a b c"', "a b c"),
        ("Multipart/Related; Type=application/dicom; Boundary=abc", "abc"),
        ('multipart/related; type="application/dicom+json"; boundary=abc', None),
        ("multipart/form-data; boundary=abc", None),
        ("multipart/related", None),
        ("multipart/related; boundary=" + "x" * 71, None),
        ('multipart/related; boundary="a\\"b"', None),
        ("application/dicom", None),
        ("", None),
    ],
)
def test_only_multipart_related_of_dicom_files_is_taken(content_type: str, boundary: str | None) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        (b"", "its boundary never came"),
        (b"no delimiter", "its boundary never came"),
        (b"--b", "after a delimiter"),
        (b"--b\r", "after a delimiter"),
        (b"--b\r\n", "in the headers"),
        (b"--b\r\nContent-Type: application/dicom\r\n", "in the headers"),
        (b"--b\r\n\r\n", "inside the part"),
        (b"--b\r\n\r\nx\r\n--", "inside the part"),
        (b"--b\r\n\r\nx\r\n--b", "after a delimiter"),
        (b"--b\r\n\r\nx\r\n--b-", "after a delimiter"),
        (b"--b\r\n\r\nx\r\n--b--", ""),
        (b"--b\r\n\r\nx\r\n--b--\r\nepilogue", ""),
        (b"--b--", ""),
    ],
)
def test_a_cut_body_says_where_it_ends(body: bytes, missing: str) -> None:
    splitter = Splitter("b")
    list(splitter.feed(body))

    assert missing in splitter.missing
    assert splitter.is_complete == (missing == "")


def test_a_part_that_ends_in_its_headers_is_empty_and_costs_no_other() -> None:
    body = b"--b\r\nContent-Type: application/dicom\r\n--b\r\n\r\nx\r\n--b--"

    for cuts in ([], list(range(1, len(body)))):
        assert parts(body, cuts) == ([("", b""), ("", b"x")], True)


def test_a_delimiter_that_stands_twice_begins_one_part() -> None:
    body = b"--b\r\n--b\r\nContent-Type: application/dicom\r\n\r\nx\r\n--b\r\n--b--"

    for cuts in ([], list(range(1, len(body)))):
        assert parts(body, cuts) == ([("application/dicom", b"x")], True)


def test_line_feeds_alone_are_no_line_ends() -> None:
    with pytest.raises(InvalidObject, match="LF and not with CR LF"):
        parts(b"--b\nContent-Type: application/dicom\n\nx\n--b--", [])
