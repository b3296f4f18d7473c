"""Texts are exact or they are no texts; the reference is each codec of Python used by itself, and iconv where it is."""

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casebook.character_sets import codec_of, defined_term, is_character_set
from casebook.identity import agree, without_padding
from casebook.study import Fault
from dicom_node.objects.text import (
    NotExact,
    character_set,
    decode,
    descriptive_text,
    identifying_text,
    matching_text,
)

#: Registration number -> its escape sequence and codec: PS3.3 table C.12-3.
SINGLE_BYTE = {
    100: (b"\x1b-A", "iso8859-1"),
    101: (b"\x1b-B", "iso8859-2"),
    109: (b"\x1b-C", "iso8859-3"),
    110: (b"\x1b-D", "iso8859-4"),
    144: (b"\x1b-L", "iso8859-5"),
    127: (b"\x1b-G", "iso8859-6"),
    126: (b"\x1b-F", "iso8859-7"),
    138: (b"\x1b-H", "iso8859-8"),
    148: (b"\x1b-M", "iso8859-9"),
    203: (b"\x1b-b", "iso8859-15"),
    166: (b"\x1b-T", "tis-620"),
}
STANDALONE = {"ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk"}


def name(raw: bytes, stated: str) -> str | None:
    return identifying_text("PatientName", raw, character_set(stated)).text


def patient_id(raw: bytes, stated: str = "ISO_IR 192") -> str | None:
    return identifying_text("PatientID", raw, character_set(stated)).text


def fault(raw: bytes, stated: str = "ISO_IR 192", keyword: str = "PatientID") -> Fault | None:
    return identifying_text(keyword, raw, character_set(stated)).fault


# ---- every row of PS3.3 C.12.1.1.2 -------------------------------------------------------------------------


@pytest.mark.parametrize("number", SINGLE_BYTE)
@pytest.mark.parametrize("byte", range(0x80, 0x100))
def test_a_single_byte_set_has_the_letters_of_its_codec_and_no_other(number: int, byte: int) -> None:
    sequence, codec = SINGLE_BYTE[number]
    raw = b"A" + bytes([byte]) + b"B"
    try:
        wanted: str | None = raw.decode(codec) if byte >= 0xA0 else None
    except UnicodeDecodeError:
        wanted = None

    assert patient_id(raw, f"ISO_IR {number}") == wanted
    assert patient_id(raw, f"ISO 2022 IR {number}") == wanted
    assert patient_id(b"A" + sequence + raw[1:], f"\\ISO 2022 IR {number}") == wanted
    # Nothing is designated before the escape sequence.
    assert patient_id(raw, f"\\ISO 2022 IR {number}") is None


@pytest.mark.parametrize(("stated", "codec"), STANDALONE.items())
def test_a_set_that_stands_alone_decodes_as_its_codec(stated: str, codec: str) -> None:
    for text in ("Wang^XiaoDong=王^小东", "张三", "Müller", "한국", "€", "誠", "A\u3000B", "e\u0301"):
        try:
            raw = text.encode(codec)
        except UnicodeEncodeError:
            continue
        assert name(raw, stated) == text
        assert name(raw + b" ", stated) == text


@pytest.mark.parametrize(
    ("stated", "raw", "text"),
    [
        # PS3.5 H.3.1, H.3.2, I.2, J.3 and K.2.
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        (
            "\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab= ",
            "Zhang^XiaoDong=张^小东=",
        ),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东=".encode(), "Wang^XiaoDong=王^小东="),
        ("GB18030", "Wang^XiaoDong=王^小东=".encode("gb18030"), "Wang^XiaoDong=王^小东="),
        # The Arabic, Greek, Hebrew and Russian examples of PS3.5 H are single-byte.
        ("ISO_IR 127", "قباني^لنزار".encode("iso8859-6"), "قباني^لنزار"),
        ("ISO_IR 126", "Διονυσιος".encode("iso8859-7"), "Διονυσιος"),
        ("ISO_IR 144", "Люкceмбypг".encode("iso8859-5"), "Люкceмбypг"),
        ("ISO_IR 138", "שרון^דבורה".encode("iso8859-8"), "שרון^דבורה"),
        # JIS X 0212, and two sets of the upper half one after another.
        ("\\ISO 2022 IR 159", b"A\x1b$(D\x30\x21\x1b(B", "A丂"),
        ("\\ISO 2022 IR 100\\ISO 2022 IR 144", b"\x1b-A\xe4\x1b-L\xb8", "äИ"),
        ("ISO 2022 IR 100\\ISO 2022 IR 58", b"M\xfcller=\x1b$)A\xd5\xc5^\xe4", "Müller=张^ä"),
        # Japanese senders return with either of the two single-byte sets.
        ("\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(J^A", "山田^A"),
        ("ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B", "山田"),
        # A multi-byte letter may have the byte of a delimiter in its second half.
        ("GBK", b"\x95\x5c\x81\x5e", b"\x95\x5c\x81\x5e".decode("gbk")),
        ("GB18030", b"\x95\x5c^\x81\x30\x84\x36", "昞^¥"),
    ],
)
def test_the_examples_of_the_standard_decode(stated: str, raw: bytes, text: str) -> None:
    assert name(raw, stated) == text


def test_a_delimiter_inside_a_multi_byte_letter_is_none() -> None:
    raw = b"\x30\x5c\x30\x5e\x30\x3d"
    wanted = (b"\x1b$B" + raw + b"\x1b(B").decode("iso2022_jp")

    assert name(b"\x1b$B" + raw + b"\x1b(B^A", "\\ISO 2022 IR 87") == f"{wanted}^A"
    assert patient_id(b"\x95\x5c7", "GBK") == "昞7"


@given(st.text(st.characters(codec="iso2022_jp", exclude_categories=("Cc", "Cs")), max_size=20))
def test_japanese_text_decodes_as_the_codec_encodes_it(text: str) -> None:
    # The codec returns to ASCII at the end; what it cannot write in these two sets alone is not meant.
    raw = text.encode("iso2022_jp")
    if b"\x1b(J" in raw or "\\" in text:
        return
    assert patient_id(raw, "\\ISO 2022 IR 87") == without_padding(text)


@pytest.mark.parametrize(("number", "sequence", "codec"), [(149, b"\x1b$)C", "euc_kr"), (58, b"\x1b$)A", "gb2312")])
@given(data=st.data())
def test_korean_and_chinese_text_decodes_as_the_codec_encodes_it(
    number: int, sequence: bytes, codec: str, data: st.DataObject
) -> None:
    parts = data.draw(
        st.lists(st.text(st.characters(codec=codec, exclude_characters="\\^=\u3164", exclude_categories=["Cc"])))
    )
    text = "^".join(parts)
    raw = b"^".join(sequence + part.encode(codec) for part in parts)

    assert name(raw, f"\\ISO 2022 IR {number}") == without_padding(text)


@pytest.mark.skipif(shutil.which("iconv") is None, reason="no iconv here")
@pytest.mark.parametrize(
    ("stated", "encoding"), [("ISO_IR 100", "ISO-8859-1"), ("ISO_IR 101", "ISO-8859-2"), ("ISO_IR 144", "ISO-8859-5"),
                             ("ISO_IR 148", "ISO-8859-9"), ("ISO_IR 203", "ISO-8859-15"), ("ISO_IR 166", "TIS-620")],
)  # fmt: skip
def test_iconv_says_the_same(stated: str, encoding: str) -> None:
    said = subprocess.run(
        ["iconv", "-c", "-f", encoding, "-t", "UTF-8"],
        input=bytes(range(0xA1, 0x100)),
        capture_output=True,
        check=False,
    )

    assert "".join(patient_id(bytes([byte]), stated) or "" for byte in range(0xA1, 0x100)) == said.stdout.decode()


# ---- what is not exact -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "raw"),
    [
        ("ISO_IR 192", b"\xc4123"),
        ("ISO_IR 192", b"M\xfcller^J\xfcrgen"),
        ("ISO_IR 192", b"\xc0\x80"),
        ("ISO_IR 192", b"\xed\xa0\x80"),
        ("", b"\xd5\xc5\xc8\xfd"),
        ("ISO_IR 6", b"M\xfcller"),
        ("ISO_IR 100", b"O\x92Brien"),
        ("ISO_IR 999", b"\xd5\xc5"),
        ("nonsense", "张".encode()),
        ("\\ISO 2022 IR 149", b"Hong^Gildong=\xfb\xf3^\xd1\xce\xd4\xd7"),
        # The delimiter ended the designation.
        ("\\ISO 2022 IR 149", b"\x1b$)C\xfb\xf3^\xd1\xce"),
        ("\\ISO 2022 IR 58", b"\x1b$)A\xd5\xc5=\xd5\xc5"),
        ("\\ISO 2022 IR 58", b"\x1b$)A\xd5\xc5\t\xd5\xc5"),
        # Half a letter, a lone escape, a set that is not stated, escapes where none are allowed.
        ("\\ISO 2022 IR 58", b"\x1b$)A\xd5"),
        ("\\ISO 2022 IR 87", b"\x1b$B;3E\x1b(B"),
        ("\\ISO 2022 IR 87", b"A\x1b"),
        ("\\ISO 2022 IR 87", b"A\x1b$)A\xd5\xc5"),
        ("ISO_IR 100", b"A\x1b-A\xe4"),
        ("ISO_IR 192", b"\x1b$)A\xd5\xc5"),
        ("GBK", b"\x1b$)A\xd5\xc5"),
        ("GBK", b"\x81\x30\x84\x36"),
        ("GBK", b"\xd5"),
        ("ISO_IR 13", b"\xe0"),
        ("ISO_IR 109", b"\xa5"),
        ("ISO_IR 100\\ISO_IR 192", "张".encode()),
    ],
)
def test_bytes_that_are_no_letters_are_no_text(stated: str, raw: bytes) -> None:
    assert fault(raw, stated, "PatientName") in {Fault.UNDECODABLE, Fault.CONTROL_CHARACTER}
    assert name(raw, stated) is None
    assert "\ufffd" not in matching_text(raw, character_set(stated))


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b"A\x0712", Fault.CONTROL_CHARACTER),
        (b"12\x0034", Fault.CONTROL_CHARACTER),
        (b"12\x7f34", Fault.CONTROL_CHARACTER),
        (b"12\r\n34", Fault.CONTROL_CHARACTER),
        (b"12\t34", Fault.CONTROL_CHARACTER),
        ("12\x85".encode(), Fault.UNDECODABLE),
        ("A\ufffd".encode(), Fault.LOST_CHARACTER),
        ("A\uffff".encode(), Fault.UNDECODABLE),
        (b"12\\34", Fault.SEVERAL_VALUES),
        (b"12\x1b34", Fault.UNDECODABLE),
    ],
)
def test_what_is_wrong_with_a_text_has_a_name(raw: bytes, wanted: Fault) -> None:
    assert fault(raw) is wanted
    assert identifying_text("PatientID", raw, character_set("ISO_IR 192")).raw == raw


def test_a_referring_physician_may_have_several_values() -> None:
    assert fault(b"A\\B", keyword="ReferringPhysicianName") is None
    assert fault(b"A\\B", keyword="PatientName") is Fault.SEVERAL_VALUES


@pytest.mark.parametrize("raw", [b"1234", b" 1234", b"1234 ", b"1234\x00", b"  1234  ", b"1234\x00\x00", b"1234 \x00"])
def test_padding_is_no_part_of_a_value(raw: bytes) -> None:
    assert patient_id(raw) == "1234"


def test_a_long_value_is_not_cut() -> None:
    assert patient_id(b"7" * 5000) == "7" * 5000
    assert patient_id("张".encode() * 3000) == "张" * 3000


def test_what_is_no_padding_counts() -> None:
    assert patient_id("\u30001".encode()) == "\u30001"
    assert patient_id("\ufeff1".encode()) == "\ufeff1"
    assert not agree("\uff11", "1")
    assert not agree("e\u0301", "\u00e9")
    assert not agree("a", "A")


def test_japanese_single_byte_has_its_own_tilde() -> None:
    assert patient_id(b"A~B", "ISO_IR 13") == "A\u203eB"
    assert patient_id(b"A~B", "ISO_IR 100") == "A~B"
    # 05/12 separates values whatever it looks like.
    assert fault(b"A\\B", "ISO_IR 13") is Fault.SEVERAL_VALUES


@given(st.binary(max_size=12), st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "GB18030", "\\ISO 2022 IR 87", "x"]))
def test_no_bytes_are_too_odd(raw: bytes, stated: str) -> None:
    found = identifying_text("PatientName", raw, character_set(stated))

    assert (found.text is None) == (found.fault is not None)
    assert found.raw == raw
    if found.text is not None:
        assert "\ufffd" not in found.text
        assert found.text.isprintable() or not found.text.isascii()
        assert found.text in decode(raw, character_set(stated), is_name=True)


@given(st.binary(max_size=6), st.binary(max_size=6), st.sampled_from(["ISO_IR 100", "ISO_IR 192", "GB18030", ""]))
def test_two_values_are_one_only_where_both_are_exact_and_say_the_same(one: bytes, other: bytes, stated: str) -> None:
    codec = {"": "ascii", "ISO_IR 100": "latin-1", "GB18030": "gb18030"}.get(stated, "utf-8")

    def reference(raw: bytes) -> str | None:
        try:
            text = raw.decode(codec).rstrip(" \0").lstrip(" ")
        except UnicodeDecodeError:
            return None
        return None if any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\\\ufffd\uffff\ufffe" for c in text) else text

    wanted = reference(one) is not None and reference(one) == reference(other)
    assert agree(patient_id(one, stated), patient_id(other, stated)) == wanted


def test_what_is_no_text_agrees_with_nothing_and_not_with_itself() -> None:
    assert not agree(patient_id(b"\xc4123"), patient_id(b"\xd6123"))
    assert not agree(patient_id(b"\xc4123"), patient_id(b"\xc4123"))


# ---- the names of character sets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ISO IR 192", "ISO_IR 192"), ("iso_ir 100", "ISO_IR 100"), ("ISO-IR 6", "ISO_IR 6"), ("ISO_IR192", "ISO_IR 192"),
        ("ISO_IR_192", "ISO_IR 192"), ("iso-ir-144", "ISO_IR 144"), (" ISO_IR 100 ", "ISO_IR 100"),
        ('"ISO_IR 100"', "ISO_IR 100"), ("ISO_IR 100\x00", "ISO_IR 100"), ("ISO 2022 IR 87", "ISO 2022 IR 87"),
        ("iso 2022 ir 87", "ISO 2022 IR 87"), ("ISO_2022_IR_87", "ISO 2022 IR 87"), ("ISO-2022-IR-149", "ISO 2022 IR 149"),
        ("ISO2022IR58", "ISO 2022 IR 58"), ("ISO_IR 58", "ISO 2022 IR 58"), ("ISO_IR 87", "ISO 2022 IR 87"),
        ("UTF8", "ISO_IR 192"), ("utf-8", "ISO_IR 192"), ("UTF 8", "ISO_IR 192"), ("ISO 2022 IR 192", "ISO_IR 192"),
        ("GB18030", "GB18030"), ("gb 18030", "GB18030"), ("GB_18030-2000", "GB18030"), ("GBK", "GBK"), ("gbk ", "GBK"),
        ("GB2312", "GBK"), ("ISO 2022 GBK", "GBK"), ("ISO_IR GB18030", "GB18030"), ("ISO8859-1", "ISO_IR 100"), ("ISO 8859-2", "ISO_IR 101"),
        ("ISO_8859_15", "ISO_IR 203"), ("IR 100", "ISO_IR 100"), ("ISO_IR 006", "ISO_IR 6"), ("", "ISO_IR 6"),
        ("ISO 2022 IR 6", "ISO 2022 IR 6"), ("ASCII", "ISO_IR 6"), ("LATIN1", "ISO_IR 100"),
        ("ISO_IR 999", None), ("192", None), ("nonsense", None), ("ISO_IR", None), ("ISO 2022", None), ("IR", None),
    ],
)  # fmt: skip
def test_the_spellings_of_hospitals_are_understood(written: str, meant: str | None) -> None:
    assert defined_term(written) == meant


@pytest.mark.parametrize("number", [*SINGLE_BYTE, 13])
@pytest.mark.parametrize(
    "pattern", ["ISO_IR {}", "ISO IR {}", "iso-ir-{}", "ISO_IR{}", "ISO 2022 IR {}", "ISO-2022-IR{}"]
)
def test_every_spelling_of_every_row_means_the_row(number: int, pattern: str) -> None:
    meant = defined_term(pattern.format(number))

    assert meant == f"ISO 2022 IR {number}" if "2022" in pattern else f"ISO_IR {number}"


@pytest.mark.parametrize("stated", ["\\ISO_IR 192", "ISO_IR 192\\ISO 2022 IR 87", "ISO_IR 6\\UTF-8"])
def test_unicode_beside_another_set_is_unicode_where_that_is_clear(stated: str) -> None:
    assert name("王^小东".encode(), stated) == "王^小东"


@pytest.mark.parametrize("stated", ["\\ISO_IR 100", "ISO_IR 6\\ISO_IR 100", "ISO 2022 IR 6\\ISO_IR 100"])
def test_a_set_without_code_extension_beside_the_default_repertoire_counts_from_the_start(stated: str) -> None:
    assert name(b"M\xfcller", stated) == "Müller"
    assert name(b"M\xfcller", stated.replace("ISO_IR 100", "ISO 2022 IR 100")) is None


@pytest.mark.parametrize(
    "raw",
    [
        # Yamada^Tarou=山田^太郎=やまだ, without the escape sequences that lead back to ASCII.
        b"Yamada^Tarou=\x1b$B;3ED^B@O:=$d$^$@",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B=\x1b$B;3ED^B@O:=$d$^$@",
    ],
)
def test_a_delimiter_that_may_have_become_half_a_letter_is_no_text(raw: bytes) -> None:
    assert name(raw, "\\ISO 2022 IR 87") is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x1b$B;3ED", "山田"),  # Only the last way back is missing, and no byte could be a delimiter.
        (b"\x1b$B;3ED\x1b(B^\x1b$B=U\x1b(B", "山田^春"),
    ],
)
def test_a_japanese_name_whose_letters_are_clear_is_a_text(raw: bytes, text: str) -> None:
    assert name(raw, "\\ISO 2022 IR 87") == text


@pytest.mark.parametrize(
    ("setting", "raw", "text"),
    [
        ("euc-kr", b"Hong^Gildong=\x1b$)C\xfb\xf3^\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\xb1\xe6\xb5\xbf", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("euc-kr", b"Hong^Gildong=\xfb\xf3^\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
        ("EUC-CN", b"Zhang=\x1b$)A\xd5\xc5^\xd0\xa1\xb6\xab", "Zhang=张^小东"),
    ],
)  # fmt: skip
def test_a_sender_that_writes_only_some_escape_sequences_has_a_setting(setting: str, raw: bytes, text: str) -> None:
    assert name(raw, setting) == text
    assert name(raw, "\\ISO 2022 IR 149" if setting == "euc-kr" else "\\ISO 2022 IR 58") is None


@pytest.mark.parametrize("raw", [b"\xfb", b"\x1b$)A\xd5\xc5", b"\xff\xff", b"\x1b"])
def test_what_is_no_korean_text_is_none_under_that_setting_either(raw: bytes) -> None:
    assert name(raw, "euc-kr") is None


def test_an_unknown_term_leaves_ascii() -> None:
    assert name(b"Doe^John", "ISO_IR 999") == "Doe^John"
    assert character_set("ISO_IR 999").name == "one that is not known"
    assert character_set("Doe^John").name == "one that is not known"


@pytest.mark.parametrize(
    ("setting", "raw", "text"),
    [
        ("GB18030", b"\xd5\xc5\xc8\xfd", "张三"),
        ("GBK", b"\xd5\xc5\xc8\xfd", "张三"),
        ("windows-1252", b"O\x92Brien^Pat ", "O\u2019Brien^Pat"),
        ("cp1251", "Иванов".encode("cp1251"), "Иванов"),
        ("euc-kr", b"Hong^Gildong=\xfb\xf3^\xd1\xce\xd4\xd7=\xc8\xab^\xb1\xe6\xb5\xbf", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("shift_jis", "山田^太郎".encode("shift_jis"), "山田^太郎"),
        ("big5", "王^小東".encode("big5"), "王^小東"),
        ("ISO_IR 100", b"M\xfcller", "Müller"),
        ("\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B", "山田"),
    ],
)
def test_a_setting_names_a_defined_term_or_a_codec(setting: str, raw: bytes, text: str) -> None:
    assert is_character_set(setting)
    assert name(raw, setting) == text


@pytest.mark.parametrize(
    "setting", ["", " ", "utf-7", "utf-16", "idna", "punycode", "rot13", "hex", "unicode_escape", "x"]
)
def test_a_codec_that_does_not_write_ascii_as_ascii_is_no_character_set(setting: str) -> None:
    assert codec_of(setting) is None
    assert not is_character_set(setting)


@pytest.mark.parametrize("raw", [b"M\xfcller", b"A\x07", "A\ufffd".encode(), b"\x1bA", b"\x00A"])
def test_a_description_is_exact_or_left_out(raw: bytes) -> None:
    assert descriptive_text(raw, character_set("ISO_IR 192")) == ""
    assert descriptive_text(b" Thorax ~ " + "胸".encode(), character_set("ISO_IR 192")) == "Thorax ~ 胸"


def test_what_cannot_be_decoded_raises_one_error() -> None:
    with pytest.raises(NotExact):
        decode(b"\xff", character_set("ISO_IR 192"))
