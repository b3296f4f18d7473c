"""Person names in every character repertoire of PS3.3 C.12.1.1.2, encoded by hand (PS3.5 6.1.2 and annexes H to K).

The bytes are made here from Python's codecs and the escape sequences of the standard, so that what the node reads
is compared with a text it has never seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

#: How a component of a name becomes bytes.
Encode = Callable[[str], bytes]
#: ISO 646 into G0, which every component ends with where it left it (PS3.5 6.1.2.5.3).
_ASCII = b"\x1b(B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repertoire:
    """One way to write SpecificCharacterSet, and names that can be written with it."""

    #: The value of SpecificCharacterSet; None where it is absent.
    terms: str | None
    #: Person names, with component groups.
    names: Sequence[str]
    encode: Encode = field(repr=False)

    def encode_name(self, name: str) -> bytes:
        """Encode a name component by component: at each delimiter the designations begin anew (PS3.5 6.1.2.5.3)."""
        return b"=".join(b"^".join(map(self.encode, group.split("^"))) for group in name.split("="))

    def encode_text(self, text: str) -> bytes:
        """Encode one text value."""
        return self.encode(text)


def _whole(codec: str) -> Encode:
    return lambda text: text.encode(codec)


def _after_escape(escapes: Mapping[str, bytes], default: str = "ascii") -> Encode:
    """Encode with code extensions: codec -> escape sequence, the first codec that has the characters wins."""

    def encode(text: str) -> bytes:
        if not text or _has(text, default):
            return text.encode(default)
        for codec, escape in escapes.items():
            if _has(text, codec):
                return escape + text.encode(codec)
        raise ValueError("no repertoire of the row has these characters")

    return encode


def _has(text: str, codec: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def _into_g0(codec: str, escape: bytes, *, back: bytes = _ASCII) -> Encode:
    """Encode with a set of 94 x 94 characters in G0; ISO 646 comes back at the end."""

    def encode(text: str) -> bytes:
        if text.isascii():
            return text.encode("ascii")
        # Python's codecs for e-mail write the escape sequences of DICOM.
        content = text.encode(codec)
        if escape not in content:
            raise ValueError("the codec writes another designation")
        return content.removesuffix(_ASCII) + back

    return encode


def _japanese_with_half_width(text: str) -> bytes:
    # JIS X 0201 is the first value: half-width katakana without an escape (PS3.5 H.3.2).
    if not text:
        return b""
    if all(character.isascii() or "｡" <= character <= "ﾟ" for character in text):
        return text.encode("shift_jis")
    return text.encode("iso2022_jp").removesuffix(_ASCII) + b"\x1b(J"


_LATIN = ("Müller-Lüdenscheidt^Jürgen", "Ångström^Åsa^Ø", "García^José^^Dr.^Jr.", "O'Neil^Zoë")
_SINGLE = MappingProxyType(
    {
        "ISO_IR 100": ("iso8859_1", b"\x1b-A", _LATIN),
        "ISO_IR 101": ("iso8859_2", b"\x1b-B", ("Wałęsa^Stanisława", "Dvořák^Antonín", "Kovács^Győző")),
        "ISO_IR 109": ("iso8859_3", b"\x1b-C", ("Ĉapelo^Ĝojo", "Ħamrun^Ġorġ")),
        "ISO_IR 110": ("iso8859_4", b"\x1b-D", ("Ķēniņš^Jānis", "Šūpulis^Žeņa")),
        "ISO_IR 144": ("iso8859_5", b"\x1b-L", ("Люкceмбypг", "Иванов^Иван^Иванович")),
        "ISO_IR 127": ("iso8859_6", b"\x1b-G", ("قباني^لنزار", "محمد^علي")),
        "ISO_IR 126": ("iso8859_7", b"\x1b-F", ("Διονυσιος", "Παπαδόπουλος^Γιώργος")),
        "ISO_IR 138": ("iso8859_8", b"\x1b-H", ("שרון^דבורה", "כהן^משה")),
        "ISO_IR 148": ("iso8859_9", b"\x1b-M", ("Çavuşoğlu^Şükrü", "Yılmaz^İsmail")),
        "ISO_IR 203": ("iso8859_15", b"\x1b-b", ("Œuvrard^Zoë", "Žižka^Šimon")),
        "ISO_IR 166": ("tis_620", b"\x1b-T", ("สมชาย^ใจดี", "นารีรัตน์")),
    }
)
_CHINESE = ("Zhang^XiaoDong=张^小东", "Wang^XiaoDong=王^小东=", "李^丽", "Chen^Wei=陈^伟=", "=赵^子龙=")
_JAPANESE = ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Suzuki^Hanako=鈴木^花子")
_KOREAN = ("Hong^Gildong=洪^吉洞=홍^길동", "Kim^Minjun=金^民俊=김^민준")
#: Characters whose second byte in GBK is 5C, 5E or 7C: the backslash, the caret and the bar of ISO 646.
BACKSLASH_IN_GBK = ("誠^運", "Mou^Chen=謀^賊", "錦^豛")
CARET_IN_GBK = ("區^觀", "Ying^Guan=應^館", "乛^東風")


def _rows() -> list[Repertoire]:
    rows = [
        Repertoire(terms=None, names=("Doe^John", "Smith^Mary^^Mrs.", "O'Hara^Pat"), encode=_whole("ascii")),
        Repertoire(terms="", names=("Doe^Jane",), encode=_whole("ascii")),
        Repertoire(terms="ISO_IR 6", names=("Doe^Jack",), encode=_whole("ascii")),
        Repertoire(terms="ISO_IR 13", names=("ﾔﾏﾀﾞ^ﾀﾛｳ", "ｽｽﾞｷ^ﾊﾅｺ"), encode=_whole("shift_jis")),
    ]
    for term, (codec, escape, names) in _SINGLE.items():
        extended = term.replace("ISO_IR", "ISO 2022 IR")
        rows += [
            Repertoire(terms=term, names=names, encode=_whole(codec)),
            # The default repertoire first, and the other one by its escape sequence.
            Repertoire(terms=f"\\{extended}", names=names, encode=_after_escape({codec: escape})),
            Repertoire(terms=f"ISO 2022 IR 6\\{extended}", names=names, encode=_after_escape({codec: escape})),
        ]
    rows += [
        Repertoire(
            terms="ISO 2022 IR 100\\ISO 2022 IR 144",
            names=("Люкceмбypг", "Müller^Иван", "Иванов^Jürgen"),
            encode=_after_escape({"iso8859_5": b"\x1b-L"}, default="iso8859_1"),
        ),
        Repertoire(
            terms="ISO 2022 IR 100\\ISO 2022 IR 126\\ISO 2022 IR 101",
            names=("Müller^Γιώργος", "Διονυσιος^Wałęsa"),
            encode=_after_escape({"iso8859_7": b"\x1b-F", "iso8859_2": b"\x1b-B"}, default="iso8859_1"),
        ),
        Repertoire(terms="\\ISO 2022 IR 87", names=_JAPANESE, encode=_into_g0("iso2022_jp", b"\x1b$B")),
        Repertoire(terms="ISO 2022 IR 6\\ISO 2022 IR 87", names=_JAPANESE, encode=_into_g0("iso2022_jp", b"\x1b$B")),
        Repertoire(
            terms="ISO 2022 IR 13\\ISO 2022 IR 87",
            names=("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",),
            encode=_japanese_with_half_width,
        ),
        Repertoire(
            terms="\\ISO 2022 IR 159",
            names=("Hu^Xu=丂^丄", "Ji^Zhang=丌^丒"),
            encode=_into_g0("iso2022_jp_2", b"\x1b$(D"),
        ),
        Repertoire(terms="\\ISO 2022 IR 149", names=_KOREAN, encode=_after_escape({"euc_kr": b"\x1b$)C"})),
        Repertoire(terms="ISO 2022 IR 6\\ISO 2022 IR 149", names=_KOREAN, encode=_after_escape({"euc_kr": b"\x1b$)C"})),
        Repertoire(terms="\\ISO 2022 IR 58", names=_CHINESE, encode=_after_escape({"gb2312": b"\x1b$)A"})),
        Repertoire(terms="ISO 2022 IR 6\\ISO 2022 IR 58", names=_CHINESE, encode=_after_escape({"gb2312": b"\x1b$)A"})),
        Repertoire(
            terms="GB18030", names=(*_CHINESE, *BACKSLASH_IN_GBK, *CARET_IN_GBK, "㐀^𠀀"), encode=_whole("gb18030")
        ),
        Repertoire(terms="GBK", names=(*_CHINESE, *BACKSLASH_IN_GBK, *CARET_IN_GBK), encode=_whole("gbk")),
        Repertoire(
            terms="ISO_IR 192",
            names=(*_LATIN, *_CHINESE, *_JAPANESE, *_KOREAN, "Ελλάς^Ирина", "Nguyễn^Thị", "𠮷野^家"),
            encode=_whole("utf-8"),
        ),
    ]
    return rows


#: Every row, once with each way in which it is written.
REPERTOIRES = tuple(_rows())
UTF_8 = next(one for one in REPERTOIRES if one.terms == "ISO_IR 192")
LATIN_1 = next(one for one in REPERTOIRES if one.terms == "ISO_IR 100")
GB18030 = next(one for one in REPERTOIRES if one.terms == "GB18030")
ASCII = next(one for one in REPERTOIRES if one.terms is None)
#: Spellings of defined terms that occur: what is written -> the row that is meant.
SPELLINGS: Mapping[str, Repertoire] = MappingProxyType(
    {
        "ISO IR 192": UTF_8,
        "iso_ir 192": UTF_8,
        "ISO-IR 192": UTF_8,
        "iso_ir 100": LATIN_1,
        "ISO IR 100": LATIN_1,
        "ISO-IR 100": LATIN_1,
        " ISO_IR 100": LATIN_1,
        "gb18030": GB18030,
        "ISO-IR 6": ASCII,
        "ISO IR 6": ASCII,
        "ISO_IR 6 ": ASCII,
    }
)
