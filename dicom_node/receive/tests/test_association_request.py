"""An A-ASSOCIATE-RQ, read by us: titles, items and contexts as peers fill them."""

import struct
from random import Random
from typing import Any

import pytest
from pynetdicom.pdu import A_ASSOCIATE_RQ

from dicom_node.receive import association_request
from dicom_node.receive.association_request import is_title, parse_request, printable, titles_of
from dicom_node.receive.inflow import Invalid
from dicom_node.tests.wire import CT, EXPLICIT, VERIFICATION, associate_rq, item

APPLICATION = item(0x10, b"1.2.840.10008.3.1.1.1")
USER = item(0x50, item(0x51, struct.pack(">I", 32768)) + item(0x52, b"1.2.3.4"))


def context(
    number: int = 1,
    abstract: bytes = CT.encode(),
    syntaxes: tuple[bytes, ...] = (EXPLICIT.encode(),),
    more: bytes = b"",
) -> bytes:
    inner = item(0x30, abstract) + b"".join(item(0x40, one) for one in syntaxes)
    return item(0x20, bytes((number, 0, 0, 0)) + inner + more)


def request(
    *items: bytes, called: bytes = b"WETREAD".ljust(16), calling: bytes = b"CT01".ljust(16), version: int = 1
) -> bytes:
    body = struct.pack(">HH16s16s32s", version, 0, called, calling, bytes(32)) + b"".join(items)
    return struct.pack(">BBI", 1, 0, len(body)) + body


@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"EFILM\0\0\0\0\0\0\0\0\0\0\0", "EFILM"),
        (b"EFILM\0\xcc\xcc\xcc\xcc\xcc\xcc\xcc\xcc\xcc\xcc", "EFILM"),
        (b"EFILM   \0       ", "EFILM"),
        (b"  EFILM         ", "EFILM"),
        (b"SIXTEEN_LETTERS_", "SIXTEEN_LETTERS_"),
        (b"TWO WORDS       ", "TWO WORDS"),
        (bytes(16), ""),
        (b" " * 16, ""),
        (b" \0" * 8, ""),
    ],
)
def test_a_title_ends_with_its_text_however_it_is_padded(field: bytes, title: str) -> None:
    found = parse_request(request(APPLICATION, context(), USER, called=field, calling=field))

    assert (found.called_ae_title, found.calling_ae_title) == (title, title)
    assert is_title(title) == bool(title)
    assert found.repeated == field * 2 + bytes(32)


@pytest.mark.parametrize(
    "field", ["放射科".encode().ljust(16), b"R\xf6ntgen".ljust(16), b"A\\B".ljust(16), b"A\x1bB".ljust(16)]
)
def test_what_cannot_be_a_title_is_none_and_is_printed_harmlessly(field: bytes) -> None:
    found = parse_request(request(APPLICATION, context(), USER, calling=field))

    assert not is_title(found.calling_ae_title)
    assert printable(found.calling_ae_title).isascii()
    assert printable(found.calling_ae_title).isprintable()


def test_what_no_standard_knows_is_skipped() -> None:
    vendor = item(0x5F, b"vendor")
    user = item(0x50, vendor + item(0x51, struct.pack(">I", 32768)) + vendor + item(0x55, b"MERGECOM3_390_AND_MORE"))

    found = parse_request(request(item(0x7F, b"x"), APPLICATION, context(more=item(0x41, b"y")), user))

    assert found.longest_pdu_bytes == 32768
    assert [one.abstract_syntax for one in found.contexts] == [CT]


@pytest.mark.parametrize("syntaxes", [(), (b"",), (b"not a uid",), ("放".encode(),)])
def test_a_context_without_a_transfer_syntax_stays_and_is_answerable(syntaxes: tuple[bytes, ...]) -> None:
    found = parse_request(request(APPLICATION, context(1, syntaxes=syntaxes), context(3), USER))

    assert [one.transfer_syntaxes for one in found.contexts] == [(), (EXPLICIT,)]
    decoded = A_ASSOCIATE_RQ()
    decoded.decode(found.encode())
    assert [len(one.transfer_syntax) for one in decoded.presentation_context] == [1, 1]


def test_uids_lose_their_padding_and_one_that_is_none_is_left_out() -> None:
    found = parse_request(request(APPLICATION, context(1, CT.encode() + b"\0"), context(3, b"x" * 70), USER))

    assert [one.abstract_syntax for one in found.contexts] == [CT, ""]


def test_a_context_that_is_repeated_word_for_word_is_one() -> None:
    assert len(parse_request(request(APPLICATION, context(), context(), USER)).contexts) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (request(APPLICATION, context(2), USER), "even_context_identifier"),
        (request(APPLICATION, context(0), USER), "even_context_identifier"),
        (request(APPLICATION, context(), context(1, VERIFICATION.encode()), USER), "context_identifier_used_twice"),
        (request(APPLICATION, USER), "no_presentation_context"),
        (request(APPLICATION, item(0x20, b"\1\0"), USER), "presentation_context_too_short"),
        (request(APPLICATION, context(), USER[:-3]), "item_longer_than_what_holds_it"),
        (request(APPLICATION, context(), b"\x50\0\1"), "item_cut_off"),
        (request()[:60], "request_too_short"),
    ],
)
def test_what_cannot_be_answered_is_invalid_and_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        parse_request(content)


def test_the_titles_of_a_damaged_request_are_known_too() -> None:
    assert titles_of(request(APPLICATION, context(2))) == ("WETREAD", "CT01")
    assert titles_of(b"\1") == ("", "")


@pytest.mark.parametrize(("version", "speaks"), [(1, True), (3, True), (2, False), (0, False), (0xFFFF, True)])
def test_only_the_bit_of_the_first_version_is_looked_at(version: int, speaks: bool) -> None:
    assert parse_request(request(APPLICATION, context(), USER, version=version)).speaks_our_version == speaks


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_read_pynetdicom_can_read_what_we_make_of_it(seed: int) -> None:
    random = Random(seed)
    for _ in range(100):
        content = bytearray(associate_rq())
        for _ in range(random.randint(1, 12)):
            content[random.randrange(6, len(content))] = random.randrange(256)
        try:
            plain = parse_request(bytes(content)).encode()
        except Invalid:
            continue
        decoded = A_ASSOCIATE_RQ()
        decoded.decode(plain)
        proposed = decoded.to_primitive().presentation_context_definition_list
        assert all(one.abstract_syntax and one.transfer_syntax for one in proposed)


class CountedBytes(bytes):
    """Bytes that count how many of them were copied out."""

    copied = 0

    def __getitem__(self, place: Any) -> Any:
        """Copy a part, and count it."""
        found = super().__getitem__(place)
        type(self).copied += len(found) if isinstance(found, bytes) else 0
        return found


def test_a_request_of_a_thousand_tiny_items_is_read_once_and_not_once_for_each() -> None:
    CountedBytes.copied = 0
    content = CountedBytes(item(0x7F, b"") * 1000 + context() + item(0x7F, b"ends with NUL\0\0") + bytes(50))

    found = list(association_request._items(content))

    assert len(found) == 1002
    assert found[-1] == (0x7F, b"ends with NUL\0\0")
    assert CountedBytes.copied < 2 * len(content)
