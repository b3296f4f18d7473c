"""From a DICOM file to stored values, frame by frame: the only place that meets foreign decoders.

Whatever a file or a decoder does wrong comes out as `UnreadablePixels` with one plain sentence. The sentence
names the kind of fault and never repeats a value of the file or the text of a foreign error, because both may
hold patient data.
"""

import errno
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from io import SEEK_CUR, BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray
from pydicom import dcmread
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import convert_color_space
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID

from casebook.errors import InvalidObject, OverBounds, Retryable, UnreadablePixels
from codestreams.bits import stored_bits
from codestreams.decoding import Decoded, can_decode, decode
from codestreams.description import Description, describe, photometric_interpretation
from codestreams.faults import StreamFault
from codestreams.fragments import frame_fragments, join, list_items, refuse_long_stream
from codestreams.pixel_element import find_pixel_element
from codestreams.stored_file import PlainFile, bounded, open_plain


class Fault(StrEnum):
    """Why a picture cannot be decoded: the sentence an operator reads."""

    #: The bytes do not begin like a DICOM file (PS3.10 7.1).
    NOT_DICOM = "The file is not a DICOM file with meta information."
    #: (0002,0010) is absent.
    NO_TRANSFER_SYNTAX = "The file does not say its transfer syntax."
    #: No decoder here knows (0002,0010).
    UNKNOWN_TRANSFER_SYNTAX = "The transfer syntax of the file is not supported."
    #: Neither Pixel Data nor a float variant of it.
    NO_PIXEL_DATA = "The object holds no pixel data."
    #: An attribute of the Image Pixel Module (PS3.3 C.7.6.3) is absent or makes no sense.
    BAD_HEADER = "An attribute that describes the pixels is missing or invalid."
    #: (0028,0004) or its tables are unknown.
    BAD_COLOUR = "The photometric interpretation or its colour tables cannot be used."
    #: A lookup table is empty or broken.
    BAD_LOOKUP_TABLE = "A lookup table of the image is empty or damaged."
    #: Fewer bytes than the header promises, or a compressed stream without its end.
    TRUNCATED = StreamFault.TRUNCATED.value
    #: More bytes than the site allows for one frame.
    TOO_LARGE = "The image declares a size over the limit of this site."
    #: More elements, bytes or sequences inside of sequences than any reader here takes.
    HEADER_TOO_LARGE = "The header of the image is too large, or the file inflates to too much."
    #: The compressed stream declares another size than (0028,0010) and (0028,0011).
    SIZE_CONFLICT = StreamFault.SIZE_CONFLICT.value
    #: Uncompressed pixel data goes on behind the picture that the header describes.
    TOO_LONG = "The pixel data is longer than the header says."
    #: Depth, sign or samples of the pixel data are not those of the header.
    HEADER_CONFLICT = StreamFault.HEADER_CONFLICT.value
    #: The compressed streams are more or fewer than (0028,0008).
    FRAMES_CONFLICT = StreamFault.FRAMES_CONFLICT.value
    #: The compressed stream cannot be decoded.
    DAMAGED = StreamFault.DAMAGED.value
    #: A frame was asked for that does not exist.
    NO_SUCH_FRAME = "The image does not have the frame that was asked for."


#: What pydicom and the decoders behind it raise on hostile or odd input (found by trying; pydicom's own
#: errors derive from Exception directly). Anything else is a mistake of ours and is meant to be seen as one.
_FOREIGN_FAULTS = (
    InvalidDicomError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

#: Bytes of decoded pixels in one frame over which it is refused; a site sets its own.
DEFAULT_MAX_FRAME_BYTES = 64 << 20

#: The elements that can carry pixels.
_PIXEL_KEYWORDS = ("FloatPixelData", "DoubleFloatPixelData", "PixelData")

#: What is looked at without being kept is read in pieces.
_PIECE_BYTES = 1 << 20

#: (0028,0004), PS3.3 C.7.6.3.1.2; the partial and retired ones have no decoder here.
_PHOTOMETRIC_INTERPRETATIONS = {
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
}
#: What `convert_color_space` turns into RGB; JPEG 2000 turns its own into RGB itself.
_LUMINANCES = frozenset({"YBR_FULL", "YBR_FULL_422"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A DICOM image whose header was read and checked, and whose pixels were not touched yet."""

    #: The data set without its pixel data.
    header: Dataset
    transfer_syntax_uid: UID
    pixel_keyword: str
    #: OB or OW where the file says it; decides how bytes of big endian files are swapped (PS3.5 8.1.1).
    pixel_vr: str
    #: Where the frames are: a file and the offset of its pixel value, or the value itself.
    source: Path | bytes
    offset: int
    #: Bytes of the pixel value that exist.
    available_bytes: int
    frame_count: int
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    described: Description

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one decoded frame: (rows, columns), or (rows, columns, samples) for colour."""
        return self.described.shape

    @property
    def photometric_interpretation(self) -> str:
        """(0028,0004)."""
        return photometric_interpretation(self.header)


def open_picture(source: Path | Dataset, *, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> Picture:
    """Read and check the header of an image, without decoding anything.

    Parameters
    ----------
    source
        A DICOM file, or a data set that is in memory already.
    max_frame_bytes
        Decoded bytes of one frame over which the image is refused.

    Raises
    ------
    UnreadablePixels
        When there is no picture in it, or none that can be decoded.
    """
    with plain_faults(Fault.BAD_HEADER):
        picture = _from_dataset(source) if isinstance(source, Dataset) else _from_file(source)
        _refuse_what_cannot_be(picture, max_frame_bytes)
    return picture


def stored_frames(
    picture: Picture, indices: Sequence[int] | None = None, *, raw: bool = False
) -> Iterator[NDArray[Any]]:
    """Decode frames one at a time, so that memory holds one whatever their number.

    Parameters
    ----------
    picture
        From `open_picture`.
    indices
        Zero-based frames in the order wanted; all where absent.
    raw
        Keep the colour space as encoded, to compare codecs; otherwise YBR becomes RGB.

    Yields
    ------
        Stored values of shape `picture.shape`, before any lookup table.

    Raises
    ------
    UnreadablePixels
        When a frame is missing, cut off or damaged.
    """
    if indices is not None and any(not 0 <= index < picture.frame_count for index in indices):
        raise UnreadablePixels(Fault.NO_SUCH_FRAME)
    decoded = (
        _encapsulated_frames(picture, indices, raw=raw)
        if picture.transfer_syntax_uid.is_encapsulated
        else _native_frames(picture, indices, raw=raw)
    )
    expected = picture.frame_count if indices is None else len(indices)
    for _ in range(expected):
        with plain_faults(Fault.DAMAGED):
            frame = next(decoded, None)
        if frame is None:
            raise UnreadablePixels(Fault.TRUNCATED)
        if frame.shape != picture.shape:
            raise UnreadablePixels(Fault.DAMAGED)
        yield frame


def stored_values(picture: Picture, index: int = 0) -> NDArray[Any]:
    """Decode one frame exactly as encoded: what a lossless codec has to give back bit for bit.

    Returns
    -------
        Stored values of shape `picture.shape`.

    Raises
    ------
    UnreadablePixels
        When the frame is missing, cut off or damaged.
    """
    return next(stored_frames(picture, [index], raw=True))


@contextmanager
def plain_faults(otherwise: Fault) -> Iterator[None]:
    """Turn whatever foreign code raises inside into `UnreadablePixels` with the sentence of `otherwise`.

    Raises
    ------
    UnreadablePixels
        When foreign code failed on what it was given.
    Retryable
        When the storage failed.
    """
    # Warnings of pydicom quote values of the file: nobody may see them, and they must not stop a reading.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except OSError as error:
            if error.errno not in {None, errno.EINVAL}:
                # The disk failed and not the file: another attempt may find it.
                raise Retryable("A stored file cannot be read; the storage may be away.") from error
            raise UnreadablePixels(otherwise) from None
        except MemoryError:
            # What is too large for this site was refused by its header: here the machine had too little to spare.
            raise Retryable("There was not enough memory for an image.") from None
        except InvalidDicomError:
            raise UnreadablePixels(Fault.NOT_DICOM) from None
        except UnreadablePixels:
            raise
        except OverBounds:
            raise UnreadablePixels(Fault.HEADER_TOO_LARGE) from None
        except InvalidObject:
            raise UnreadablePixels(otherwise) from None
        except _FOREIGN_FAULTS:
            raise UnreadablePixels(otherwise) from None


def read_header(path: Path, keywords: Sequence[str]) -> Dataset:
    """Read some attributes of a DICOM file, whose transfer syntax is the one of its own meta information."""
    with open_plain(path, with_pixels=False) as plain:
        return _bounded_header(plain, keywords)


def _bounded_header(plain: PlainFile, keywords: Sequence[str] | None = None) -> Dataset:
    within = bounded(plain, sequences=_sequences())
    return dcmread(
        within.file,
        stop_before_pixels=True,
        specific_tags=None if keywords is None else list(keywords),
        defer_size=within.longest_value_bytes,
    )


@cache
def _sequences() -> frozenset[int]:
    return frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


def _from_file(path: Path) -> Picture:
    with open_plain(path, with_pixels=True) as plain:
        header = _bounded_header(plain)
        transfer_syntax_uid = _known(header.file_meta)
        # dcmread stopped at the first element of the pixels, or at the end of the file.
        found = find_pixel_element(plain.file, little_endian=bool(header.original_encoding[1]))
        if found is None:
            raise UnreadablePixels(Fault.NO_PIXEL_DATA)
        if found.length is None and not transfer_syntax_uid.is_encapsulated:
            raise UnreadablePixels(Fault.BAD_HEADER)
        return _described(header, transfer_syntax_uid, found.keyword, found.vr, path, found.offset, found.available)


def _from_dataset(dataset: Dataset) -> Picture:
    transfer_syntax_uid = _known(getattr(dataset, "file_meta", Dataset()))
    present = [keyword for keyword in _PIXEL_KEYWORDS if keyword in dataset]
    if not present:
        raise UnreadablePixels(Fault.NO_PIXEL_DATA)
    element = dataset[present[0]]
    value = bytes(element.value)
    return _described(dataset, transfer_syntax_uid, present[0], element.VR, value, 0, len(value))


def _known(meta: Dataset) -> UID:
    uid = UID(meta.get("TransferSyntaxUID", ""))
    if not uid:
        raise UnreadablePixels(Fault.NO_TRANSFER_SYNTAX)
    try:
        get_decoder(uid)
    except NotImplementedError:
        raise UnreadablePixels(Fault.UNKNOWN_TRANSFER_SYNTAX) from None
    if uid.is_encapsulated and not can_decode(uid):
        raise UnreadablePixels(Fault.UNKNOWN_TRANSFER_SYNTAX)
    return uid


def _described(
    header: Dataset,
    transfer_syntax_uid: UID,
    keyword: str,
    pixel_vr: str,
    source: Path | bytes,
    offset: int,
    available: int,
) -> Picture:
    description = describe(header)
    return Picture(
        header=header,
        transfer_syntax_uid=transfer_syntax_uid,
        pixel_keyword=keyword,
        # PS3.5 6.2.2: a system that did not know the element wrote UN.
        pixel_vr=pixel_vr if pixel_vr != "UN" else "OW" if description.bits_allocated > 8 else "OB",
        source=source,
        offset=offset,
        available_bytes=available,
        # Absent and empty mean one frame; zero frames is a lie that would hide the one that is there.
        frame_count=max(int(header.get("NumberOfFrames") or 1), 1),
        rows=description.rows,
        columns=description.columns,
        samples_per_pixel=description.samples_per_pixel,
        bits_allocated=description.bits_allocated,
        described=description,
    )


def _refuse_what_cannot_be(picture: Picture, max_frame_bytes: int) -> None:
    if picture.photometric_interpretation not in _PHOTOMETRIC_INTERPRETATIONS:
        raise UnreadablePixels(Fault.BAD_COLOUR)
    if picture.rows <= 0 or picture.columns <= 0 or picture.samples_per_pixel not in {1, 3}:
        raise UnreadablePixels(Fault.BAD_HEADER)
    if picture.bits_allocated != 1 and (picture.bits_allocated % 8 or not 8 <= picture.bits_allocated <= 64):
        raise UnreadablePixels(Fault.BAD_HEADER)
    if picture.pixel_keyword == "PixelData" and picture.bits_allocated != 1:
        refuse_impossible_bits(picture.described)
    samples = picture.rows * picture.columns * picture.samples_per_pixel
    if samples * picture.described.item_size > max_frame_bytes:
        raise UnreadablePixels(Fault.TOO_LARGE)
    if not picture.available_bytes:
        raise UnreadablePixels(Fault.NO_PIXEL_DATA)
    if not picture.transfer_syntax_uid.is_encapsulated:
        _refuse_another_length(picture)


def refuse_impossible_bits(described: Description) -> None:
    """Refuse Bits Stored and High Bit that no pixel cell can have (PS3.5 8.1.1).

    Raises
    ------
    UnreadablePixels
        When they cannot be.
    """
    cell = 8 * described.item_size
    if not 0 < described.bits_stored <= cell or not described.bits_stored <= described.high_bit + 1 <= cell:
        raise UnreadablePixels(Fault.BAD_HEADER)


def _refuse_another_length(picture: Picture) -> None:
    samples = picture.rows * picture.columns * picture.samples_per_pixel
    needed = -(-samples * picture.bits_allocated * picture.frame_count // 8)
    if picture.photometric_interpretation == "YBR_FULL_422":
        needed = needed * 2 // 3  # PS3.3 C.7.6.3.1.2: two samples a pixel
    refuse_too_few_bytes(picture.available_bytes, needed)
    row = picture.columns * picture.samples_per_pixel * picture.described.item_size
    if picture.available_bytes - needed >= max(row, 2):
        with _opened(picture) as source:
            source.seek(needed, SEEK_CUR)
            left = picture.available_bytes - needed
            first = source.read(1)
            while left > 1 and (piece := source.read(min(left - 1, _PIECE_BYTES))):
                refuse_another_picture_behind(first + piece)
                left -= len(piece)


def refuse_too_few_bytes(available: int, needed: int) -> None:
    """Refuse uncompressed pixel data that ends before the picture does.

    Raises
    ------
    UnreadablePixels
        When it does.
    """
    if available < needed:
        raise UnreadablePixels(Fault.TRUNCATED)


def refuse_another_picture_behind(rest: bytes) -> None:
    """Refuse uncompressed pixel data with a row or more behind its end, unless that is padding.

    Raises
    ------
    UnreadablePixels
        When it is not: rows, columns or frames of the header are too small.
    """
    if rest.strip(rest[:1]):
        raise UnreadablePixels(Fault.TOO_LONG)


def _options(picture: Picture) -> dict[str, Any]:
    described = picture.described
    options = as_pixel_options(picture.header)
    options |= {
        "pixel_keyword": picture.pixel_keyword,
        "pixel_vr": picture.pixel_vr,
        "number_of_frames": picture.frame_count,
        "allow_excess_frames": False,
        "samples_per_pixel": described.samples_per_pixel,
        "photometric_interpretation": picture.photometric_interpretation,
        # Whole cells come back; which of their bits are the picture is decided here for every codec alike.
        "bits_stored": picture.bits_allocated,
        "pixel_representation": int(described.is_signed),
        "correct_unused_bits": False,
    }
    if described.samples_per_pixel > 1:
        options.setdefault("planar_configuration", 0)
    return options


def _native_frames(picture: Picture, indices: Sequence[int] | None, *, raw: bool) -> Iterator[NDArray[Any]]:
    decoder = get_decoder(picture.transfer_syntax_uid)
    # An empty list would mean "all" to pydicom.
    wanted = range(picture.frame_count) if indices is None else indices
    if not wanted:
        return
    has_bits = picture.pixel_keyword == "PixelData" and picture.bits_allocated != 1
    with _opened(picture) as source:
        for cells, _ in decoder.iter_array(source, indices=wanted, raw=True, **_options(picture)):
            values = stored_bits(cells, picture.described) if has_bits else cells
            yield values if raw else _in_red_green_blue(values, picture, is_rgb=False)


def _encapsulated_frames(picture: Picture, indices: Sequence[int] | None, *, raw: bool) -> Iterator[NDArray[Any]]:
    with _opened(picture) as source:
        items = list_items(source, picture.available_bytes)
        streams = frame_fragments(source, items, picture.frame_count, _extended_offsets(picture.header))
        for index in range(picture.frame_count) if indices is None else indices:
            refuse_long_stream(streams[index], picture.described)
            content = join(source, streams[index])
            decoded = decode(content, picture.transfer_syntax_uid, picture.described)
            yield decoded.values if raw else _as_decoded(decoded, picture)


def _as_decoded(decoded: Decoded, picture: Picture) -> NDArray[Any]:
    if decoded.is_luminance and not decoded.is_rgb:
        return convert_color_space(decoded.values, "YBR_FULL", "RGB")
    return _in_red_green_blue(decoded.values, picture, is_rgb=decoded.is_rgb)


def _in_red_green_blue(values: NDArray[Any], picture: Picture, *, is_rgb: bool) -> NDArray[Any]:
    if is_rgb or picture.photometric_interpretation not in _LUMINANCES:
        return values
    return convert_color_space(values, "YBR_FULL", "RGB")


def _extended_offsets(header: Dataset) -> tuple[int, ...]:
    # (7FE0,0001), OV: unsigned, 64 bits each (PS3.3 C.7.6.3.1.8)
    table = bytes(header.get("ExtendedOffsetTable") or b"")
    return struct.unpack(f"<{len(table) // 8}Q", table[: len(table) // 8 * 8])


@contextmanager
def _opened(picture: Picture) -> Iterator[BinaryIO]:
    if isinstance(picture.source, bytes):
        file: BinaryIO = BytesIO(picture.source)
        file.seek(picture.offset)
        yield file
        return
    with open_plain(picture.source, with_pixels=True) as plain:
        plain.file.seek(picture.offset)
        yield plain.file
