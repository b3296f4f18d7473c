"""Patient data that can be recognised wherever it turns up: planted in every attribute, sought in every encoding."""

import base64
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.tag import Tag

#: Value representations whose content a person wrote (PS3.5 6.2).
TEXT_VRS = frozenset({"PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR"})
_DATE_VRS = frozenset({"DA", "DT", "TM"})
_ALPHABET = "abcdefghkmnpqrstuvwxyz"
_PRIVATE_CREATOR = "PLANTED 1.0"
#: Characters that GB 18030, UTF-8 and UTF-16 know and no text of ours uses.
_RARE_HANZI = [chr(code) for code in range(0x9E00, 0x9FA0)]
#: No value is shorter in any encoding; by its first bytes it is found in one pass over a sink.
_KEY_BYTES = 4
_ENCODINGS = ("utf-8", "gb18030", "utf-16-le", "utf-16-be", "latin-1")


class Planter:
    """Makes values that occur nowhere else, and remembers where each was planted."""

    def __init__(self, seed: int) -> None:
        """Take what makes the values, so that a leak can be looked for again."""
        self._random = random.Random(seed)
        #: Value -> attribute it was planted in.
        self.values: dict[str, str] = {}

    def word(self, place: str) -> str:
        """Return a new word of twelve characters, ASCII."""
        return self._remember("Zq" + "".join(self._random.choices(_ALPHABET, k=10)), place)

    def hanzi(self, place: str) -> str:
        """Return a new word of six Chinese characters."""
        return self._remember("".join(self._random.choices(_RARE_HANZI, k=6)), place)

    def date(self, place: str) -> str:
        """Return a date long before any clock of ours, ``YYYYMMDD``."""
        choose = self._random.randint
        return self._remember(f"19{choose(1, 29):02d}{choose(1, 12):02d}{choose(1, 28):02d}", place)

    def time(self, place: str) -> str:
        """Return a time to the microsecond, ``HHMMSS.FFFFFF``."""
        choose = self._random.randint
        return self._remember(
            f"{choose(0, 23):02d}{choose(0, 59):02d}{choose(0, 59):02d}.{choose(100001, 999999)}", place
        )

    def _remember(self, value: str, place: str) -> str:
        self.values[value] = place
        return value

    def plant(self, dataset: Dataset, *, chinese: bool) -> int:
        """Fill every attribute of the dictionary that can carry text or a date, and private ones; count them.

        Parameters
        ----------
        dataset
            Keeps its UIDs, its codes and its pixels.
        chinese
            Names and long texts are Chinese.
        """
        count = 0
        for tag, (vr, *_, keyword) in sorted(DicomDictionary.items()):
            if keyword and tag >> 16 >= 0x0008 and vr in TEXT_VRS | _DATE_VRS:
                dataset[tag] = DataElement(tag, vr, self._value(vr, keyword, chinese=chinese))
                count += 1
        dataset.PatientAge = "119Y"
        self.values["119Y"] = "PatientAge"
        for keyword in ("OtherPatientIDsSequence", "RequestAttributesSequence", "OriginalAttributesSequence"):
            setattr(dataset, keyword, [self._item(keyword, chinese=chinese)])
            count += 1
        block = dataset.private_block(0x0099, _PRIVATE_CREATOR, create=True)
        block.add_new(0x01, "LO", self.word("private LO"))
        block.add_new(0x02, "PN", self._name("private PN", chinese=chinese))
        block.add_new(0x03, "UN", self.word("private UN").encode())
        block.add_new(0x04, "SQ", [self._item("private SQ", chinese=chinese)])
        dataset.DataSetTrailingPadding = self.word("DataSetTrailingPadding").encode()
        return count + 5

    def _value(self, vr: str, place: str, *, chinese: bool) -> str:
        if vr == "DA":
            return self.date(place)
        if vr == "DT":
            return self._remember(self.date(place) + self.time(place), place)
        if vr == "TM":
            return self.time(place)
        if vr == "PN":
            return self._name(place, chinese=chinese)
        if vr == "UR":
            return f"https://{self.word(place)}"
        return self.hanzi(place) if chinese and vr != "SH" else self.word(place)

    def _name(self, place: str, *, chinese: bool) -> str:
        plain = f"{self.word(place)}^{self.word(place)}"
        return f"{plain}={self.hanzi(place)}^{self.hanzi(place)}" if chinese else plain

    def _item(self, place: str, *, chinese: bool) -> Dataset:
        item = Dataset()
        item.PatientID = self.word(f"{place} PatientID")
        item.PatientName = self._name(f"{place} PatientName", chinese=chinese)
        item.RequestedProcedureDescription = self.word(f"{place} RequestedProcedureDescription")
        item[Tag(0x0040, 0x1400)] = DataElement(0x00401400, "LT", self.word(f"{place} RequestedProcedureComments"))
        return item


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A planted value where none may be."""

    sink: str
    #: Attribute it was planted in.
    place: str
    value: str


def leaks(values: Mapping[str, str], sinks: Mapping[str, bytes]) -> list[Leak]:
    """Seek every planted value in every sink.

    Parameters
    ----------
    values
        Value -> where it was planted.
    sinks
        Name -> content.

    Returns
    -------
        What was found, in any of the encodings, also as JSON escapes, in a URL or in base64, in either case,
        and also where only the first half of a word is there.
    """
    index: dict[bytes, list[tuple[bytes, str]]] = defaultdict(list)
    for value in values:
        for written in _written(value):
            index[written[:_KEY_BYTES]].append((written, value))
    found: set[Leak] = set()
    for name, sink in sinks.items():
        content = sink.lower()
        for start in range(len(content) - _KEY_BYTES + 1):
            for written, value in index.get(content[start : start + _KEY_BYTES], ()):
                if content.startswith(written, start) and _stands_alone(content, start, written):
                    found.add(Leak(sink=name, place=values[value], value=value))
    return sorted(found, key=lambda one: (one.sink, one.place, one.value))


def _written(value: str) -> set[bytes]:
    if value[0].isdigit():
        return {value.encode(encoding).lower() for encoding in _ENCODINGS}
    # Something may have shortened it: half of a value is a leak too.
    start = value[: len(value) // 2]
    encoded = {start.encode(encoding, "ignore") for encoding in _ENCODINGS} - {b""}
    # Read in the wrong character set and written again.
    encoded |= {one.decode("latin-1").encode() for one in encoded}
    encoded |= {json.dumps(start)[1:-1].encode(), quote(start).encode(), *_base64(value.encode())}
    return {one.lower() for one in encoded}


def _stands_alone(content: bytes, start: int, written: bytes) -> bool:
    # Digits occur in UIDs, checksums and clocks; a date of its own stands between other characters.
    if not written[:1].isdigit():
        return True
    neighbours = content[max(0, start - 1) : start] + content[start + len(written) : start + len(written) + 1]
    return not set(neighbours) & set(b"0123456789abcdef.")


def _base64(content: bytes) -> Iterable[bytes]:
    # The value may begin at any of three places of a group; the groups it shares with its neighbours are cut off.
    for shift in range(3):
        yield base64.b64encode(b"\0" * shift + content)[4:-4]


def files(directory: Path, *, but: Iterable[str]) -> dict[str, bytes]:
    """Return every file of a directory by its name, without those whose names match one of the patterns."""
    return {
        str(path): path.read_bytes() + str(path).encode()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not any(path.relative_to(directory).match(pattern) for pattern in but)
    }
