"""The three UIDs of an instance, and the reader that forgives what the walk does not understand.

pydicom forgives more and costs thirty times as much, so it comes second.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as DicomSequence

from casebook.errors import InvalidObject, OverBounds, WetreadError
from casebook.identity import IDENTITY, KEYWORDS
from casebook.study import CodedConcept, PatientIdentity, StudyHeader
from codestreams.bounds import HEADER_BOUNDS
from codestreams.elements import DEFLATED, FIRST_PIXEL_TAG, Encoding, NeedMoreBytes, NotUnderstood, encoding_of, walk
from codestreams.header import find_values
from codestreams.inflate import inflate_start, inflated
from codestreams.stored_file import counted, is_trouble_of_the_machine
from dicom_node.objects.codes import CODE_KEYWORDS, concept_of, read_codes
from dicom_node.objects.file_meta import require_uid
from dicom_node.objects.tags import tags_of
from dicom_node.objects.text import CharacterSet, character_set, decode_ascii, descriptive_text, identifying_text

UID_KEYWORDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_SOP_CLASS = "SOPClassUID"
_IDENTIFYING_TAGS = tags_of((*UID_KEYWORDS, _SOP_CLASS))
_LAST_IDENTIFYING_TAG = max(_IDENTIFYING_TAGS)
#: Of what the start of a deflated data set inflates to.
_LONGEST_START_BYTES = 1 << 20
#: A longer one is left in the file, and refused where it is wanted.
_LONGEST_FORGIVEN_VALUE_BYTES = HEADER_BOUNDS.longest_uncounted_bytes // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """The three UIDs without which an object is refused."""

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    #: Of the data set; empty where it states none.
    sop_class_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A data set where it lies, looked at without being in memory."""

    #: Its start.
    head: bytes
    size_bytes: int
    transfer_syntax_uid: str
    #: Opens it as a file, at its first byte, for the rare header that is longer than the start.
    opened: Callable[[], AbstractContextManager[BinaryIO]]

    def values(self, wanted: Mapping[int, str], last_tag: int) -> dict[str, bytes]:
        """Collect the raw values of wanted elements, up to a tag or to the pixels.

        Raises
        ------
        NotUnderstood
            When an element has no plausible form.
        InvalidObject
            When it is deflated and cannot be inflated, or a value does not stand within the bounds of a header.
        """
        encoding = encoding_of(self.transfer_syntax_uid)
        whole, head = len(self.head) >= self.size_bytes, self.head
        if self.transfer_syntax_uid == DEFLATED:
            head = inflate_start(head, _LONGEST_START_BYTES)
            whole = whole and len(head) < _LONGEST_START_BYTES
        try:
            return walk(head, encoding, wanted, last_tag, whole=whole)
        except NeedMoreBytes:
            with self.plain() as file:
                return find_values(file, encoding, wanted, last_tag)

    @contextmanager
    def plain(self) -> Iterator[BinaryIO]:
        """Open it as a file, inflated as far as a header may reach."""
        with self.opened() as file:
            is_deflated = self.transfer_syntax_uid == DEFLATED
            yield inflated(file, HEADER_BOUNDS.longest_bytes) if is_deflated else file


def identify(data_set: DataSet) -> Identification:
    """Find the UIDs of an object that is still arriving.

    Raises
    ------
    InvalidObject
        When one of the three is missing or malformed, or does not stand within the bounds of a header.
    """
    try:
        values = data_set.values(_IDENTIFYING_TAGS, _LAST_IDENTIFYING_TAG)
    except NotUnderstood:
        values = {}
    if any(keyword not in values for keyword in UID_KEYWORDS):
        keywords = (*UID_KEYWORDS, _SOP_CLASS)
        forgiven = forgiving_values(data_set, keywords)
        values = {keyword: forgiven.raw.get(keyword, b"") for keyword in keywords}
    sop, study, series = (require_uid(decode_ascii(values[keyword])) for keyword in UID_KEYWORDS)
    return Identification(
        sop_instance_uid=sop,
        study_instance_uid=study,
        series_instance_uid=series,
        sop_class_uid=decode_ascii(values.get(_SOP_CLASS, b"")).strip("\0 "),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgivenValues:
    """What pydicom could find of a data set."""

    #: Keyword -> the bytes of its value.
    raw: dict[str, bytes]
    #: Keyword -> the items of a code sequence.
    concepts: dict[str, tuple[CodedConcept, ...]]


def forgiving_values(data_set: DataSet, keywords: Sequence[str]) -> ForgivenValues:
    """Let pydicom find the elements, not decode them; what it cannot find either is absent.

    Raises
    ------
    InvalidObject
        When pydicom finds no data set at all, or one of them does not stand within the bounds of a header.
    """
    encoding = encoding_of(data_set.transfer_syntax_uid)
    try:
        with data_set.plain() as file:
            dataset = read_dataset(
                counted(file, HEADER_BOUNDS.longest_uncounted_bytes),
                is_implicit_VR=encoding.implicit,
                is_little_endian=not encoding.big_endian,
                stop_when=lambda tag, _vr, _length: tag >= FIRST_PIXEL_TAG,
                defer_size=_LONGEST_FORGIVEN_VALUE_BYTES,
            )
    # pydicom names no common ancestor of what damaged data makes it raise.
    except Exception as error:
        if is_trouble_of_the_machine(error) or isinstance(error, WetreadError):
            raise
        raise InvalidObject("the data set cannot be read") from None
    if any(_is_left_in_the_file(dataset, keyword) for keyword in keywords):
        raise OverBounds
    characters = character_set(decode_ascii(raw_value(dataset, "SpecificCharacterSet")))
    found = {keyword: raw_value(dataset, keyword) for keyword in keywords if keyword in dataset}
    concepts = {keyword: _concepts(dataset, keyword, encoding, characters) for keyword in found}
    return ForgivenValues(raw=found, concepts={keyword: some for keyword, some in concepts.items() if some})


def _is_left_in_the_file(dataset: Dataset, keyword: str) -> bool:
    if keyword not in dataset:
        return False
    element: Any = dataset.get_item(keyword, keep_deferred=True)
    return isinstance(element, RawDataElement) and element.value is None and element.length > 0


def raw_value(dataset: Dataset, keyword: str) -> bytes:
    """Return the bytes of a value that pydicom has read and not looked at yet; empty where there are none.

    Raises
    ------
    InvalidObject
        When it has looked at it, so that the bytes are lost.
    """
    if keyword not in dataset:
        return b""
    # Otherwise pydicom looks at a value without bytes, which it takes for one left in the file, and fails on its VR.
    value = dataset.get_item(keyword, keep_deferred=True).value
    if isinstance(value, bytes):
        return value
    if isinstance(value, DicomSequence) or not value:
        return b""
    # SpecificCharacterSet is the one element that it looks at at once.
    text = value if isinstance(value, str) or not isinstance(value, Iterable) else "\\".join(map(str, value))
    if keyword == "SpecificCharacterSet":
        return str(text).encode("ascii", "replace")
    if not str(text).isascii():
        raise InvalidObject(f"the bytes of {keyword} are lost")
    return str(text).encode("ascii")


def whose(dataset: Dataset) -> StudyHeader:
    """Return what a data set says of whose it is, from its bytes: what identifies, and nothing else.

    Parameters
    ----------
    dataset
        As pydicom read it, its values not looked at yet.
    """
    raw = {keyword: raw_value(dataset, keyword) for keyword in KEYWORDS.values() if keyword in dataset}
    return identified(raw, character_set(decode_ascii(raw_value(dataset, "SpecificCharacterSet"))))


def identified(raw: Mapping[str, bytes], characters: CharacterSet, *, set_for: str = "") -> StudyHeader:
    """Return a header with what identifies, from its bytes by keyword, and nothing else.

    Parameters
    ----------
    set_for
        AE title of the sender that the character set was set for.
    """
    found = {
        name: identifying_text(keyword, raw[keyword], characters, set_for=set_for)
        for name, keyword in KEYWORDS.items()
        if keyword in raw
    }
    exact = {name: one.text or "" for name, one in found.items()}
    return StudyHeader(
        identity=PatientIdentity(**{name: exact[name] for name in IDENTITY if name in exact}),
        patient_name=exact.get("patient_name", ""),
        referring_physician_name=exact.get("referring_physician_name", ""),
        identifying=tuple(found.values()),
    )


def _concepts(dataset: Dataset, keyword: str, encoding: Encoding, characters: CharacterSet) -> tuple[CodedConcept, ...]:
    if dictionary_VR(keyword) != "SQ":
        return ()
    try:
        value = dataset[keyword].value
        items = (
            concept_of({name: descriptive_text(raw_value(item, name), characters) for name in CODE_KEYWORDS})
            for item in value
        )
        return tuple(concept for concept in items if concept.value)
    # One damaged value costs itself, not the object.
    except Exception:  # noqa: BLE001
        return read_codes(raw_value(dataset, keyword), encoding, characters)
