"""From a DICOM file to stored values, frame by frame: the only place that meets foreign decoders.

Whatever a file or a decoder does wrong comes out as `UnreadablePixels` with one plain sentence. The sentence
names the kind of fault and never repeats a value of the file or the text of a foreign error, because both may
hold patient data.
"""

import errno
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from io import SEEK_CUR, BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames, get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from casebook.errors import Retryable, UnreadablePixels


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
    #: Fewer bytes than the header promises.
    TRUNCATED = "The pixel data ends too early."
    #: More bytes than the site allows for one frame.
    TOO_LARGE = "The image declares a size over the limit of this site."
    #: The compressed stream declares another size than (0028,0010) and (0028,0011).
    SIZE_CONFLICT = "The compressed pixel data declares another size than the header."
    #: The compressed stream cannot be decoded.
    DAMAGED = "The compressed pixel data is damaged or of a kind no decoder here knows."
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
    zlib.error,
)

#: Decoders in the order in which they are tried. GDCM is not among them: it reads nothing that these do not, and
#: on a damaged JPEG-LS stream it ends the whole process (found by changing bytes of real files).
_PLUGINS = ("pylibjpeg", "pillow", "pydicom")

#: Bytes of decoded pixels in one frame over which it is refused; a site sets its own.
DEFAULT_MAX_FRAME_BYTES = 2_000_000_000

#: (7FE0,0008), (7FE0,0009), (7FE0,0010): the elements that can carry pixels.
_PIXEL_KEYWORDS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}

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

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one decoded frame: (rows, columns), or (rows, columns, samples) for colour."""
        plane = (self.rows, self.columns)
        return plane if self.samples_per_pixel == 1 else (*plane, self.samples_per_pixel)


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
        picture = _from_dataset(source) if isinstance(source, Dataset) else _from_file(source, max_frame_bytes)
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
        except _FOREIGN_FAULTS:
            raise UnreadablePixels(otherwise) from None
        except BaseException as error:
            # A decoder written in Rust panics on a damaged RLE stream, and its panic is no Exception: one bad
            # image would end the worker, and with every attempt again.
            if type(error).__module__ != "pyo3_runtime":
                raise
            raise UnreadablePixels(otherwise) from None


def _from_file(path: Path, max_frame_bytes: int) -> Picture:
    transfer_syntax_uid = _known(read_file_meta_info(path))
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return _from_dataset(_inflated(path, max_frame_bytes))
    with path.open("rb") as file:
        header = dcmread(file, stop_before_pixels=True)
        keyword, pixel_vr = _pixel_element(file, header)
        offset = file.tell()
        available = path.stat().st_size - offset
        if transfer_syntax_uid.is_encapsulated:
            _refuse_cut_off_fragments(file, available)
    return _described(header, transfer_syntax_uid, keyword, pixel_vr, path, offset, available)


def _from_dataset(dataset: Dataset) -> Picture:
    transfer_syntax_uid = _known(getattr(dataset, "file_meta", Dataset()))
    present = [keyword for keyword in _PIXEL_KEYWORDS.values() if keyword in dataset]
    if not present:
        raise UnreadablePixels(Fault.NO_PIXEL_DATA)
    element = dataset[present[0]]
    value = bytes(element.value)
    if transfer_syntax_uid.is_encapsulated:
        # A data set in memory has lost its sequence delimiter, so only its items can be judged.
        _refuse_cut_off_fragments(BytesIO(value), len(value), needs_delimiter=False)
    return _described(dataset, transfer_syntax_uid, present[0], element.VR, value, 0, len(value))


def _known(meta: Dataset) -> UID:
    uid = UID(meta.get("TransferSyntaxUID", ""))
    if not uid:
        raise UnreadablePixels(Fault.NO_TRANSFER_SYNTAX)
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        raise UnreadablePixels(Fault.UNKNOWN_TRANSFER_SYNTAX) from None
    if uid.is_encapsulated and not _plugins(decoder):
        raise UnreadablePixels(Fault.UNKNOWN_TRANSFER_SYNTAX)
    return uid


def _inflated(path: Path, max_frame_bytes: int) -> Dataset:
    # PS3.5 A.5: everything after the meta information is one deflate stream. It is inflated under a limit,
    # because a megabyte of it can hold a gigabyte of zeros.
    with path.open("rb") as file:
        meta = dcmread(file, stop_before_pixels=True, specific_tags=[]).file_meta
        file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = inflater.decompress(file.read(), max_frame_bytes)
    if inflater.unconsumed_tail:
        raise UnreadablePixels(Fault.TOO_LARGE)
    # Parsed as what it is now; the sequences and values are the same.
    dataset = dcmread(BytesIO(content), force=True)
    dataset.file_meta = meta
    return dataset


def _pixel_element(file: BinaryIO, header: Dataset) -> tuple[str, str]:
    # dcmread stopped at the first element of the pixels, or at the end of the file.
    order = "<" if header.original_encoding[1] else ">"
    start = file.read(8)
    if len(start) < 8 or struct.unpack(f"{order}H", start[:2])[0] != 0x7FE0:
        raise UnreadablePixels(Fault.NO_PIXEL_DATA)
    keyword = _PIXEL_KEYWORDS[struct.unpack(f"{order}H", start[2:4])[0]]
    # Some files change to implicit VR on their way, so the bytes are asked and not the transfer syntax.
    if start[4:6] not in {b"OB", b"OW", b"OF", b"OD", b"UN"}:
        return keyword, "OW"  # PS3.5 A.1
    file.seek(4, SEEK_CUR)  # PS3.5 7.1.2: OB, OW, OF and OD have a reserved field and a 32-bit length
    return keyword, start[4:6].decode("ascii")


def _refuse_cut_off_fragments(file: BinaryIO, available: int, *, needs_delimiter: bool = True) -> None:
    # A decoder may fill up a stream that was cut off, and nobody would see that part of the picture is made
    # up. The items say how long they are and the last one is a delimiter (PS3.5 A.4).
    start, position = file.tell(), 0
    while True:
        file.seek(start + position)
        head = file.read(8)
        if len(head) < 8:
            if needs_delimiter or head:
                raise UnreadablePixels(Fault.TRUNCATED)
            break
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000):
            raise UnreadablePixels(Fault.DAMAGED)
        position += 8 + length
        if position > available:
            raise UnreadablePixels(Fault.TRUNCATED)
    file.seek(start)


def _described(
    header: Dataset,
    transfer_syntax_uid: UID,
    keyword: str,
    pixel_vr: str,
    source: Path | bytes,
    offset: int,
    available: int,
) -> Picture:
    return Picture(
        header=header,
        transfer_syntax_uid=transfer_syntax_uid,
        pixel_keyword=keyword,
        pixel_vr=pixel_vr,
        source=source,
        offset=offset,
        available_bytes=available,
        # Absent and empty mean one frame; zero frames is a lie that would hide the one that is there.
        frame_count=max(int(header.get("NumberOfFrames") or 1), 1),
        rows=int(header.Rows),
        columns=int(header.Columns),
        samples_per_pixel=int(header.get("SamplesPerPixel") or 1),
        bits_allocated=int(header.BitsAllocated),
    )


def _refuse_what_cannot_be(picture: Picture, max_frame_bytes: int) -> None:
    if str(picture.header.get("PhotometricInterpretation", "")) not in _PHOTOMETRIC_INTERPRETATIONS:
        raise UnreadablePixels(Fault.BAD_COLOUR)
    if picture.rows <= 0 or picture.columns <= 0 or picture.samples_per_pixel not in {1, 3}:
        raise UnreadablePixels(Fault.BAD_HEADER)
    if picture.bits_allocated != 1 and (picture.bits_allocated % 8 or not 8 <= picture.bits_allocated <= 64):
        raise UnreadablePixels(Fault.BAD_HEADER)
    samples = picture.rows * picture.columns * picture.samples_per_pixel
    if samples * max(picture.bits_allocated // 8, 1) > max_frame_bytes:
        raise UnreadablePixels(Fault.TOO_LARGE)
    if not picture.available_bytes:
        raise UnreadablePixels(Fault.NO_PIXEL_DATA)
    if not picture.transfer_syntax_uid.is_encapsulated:
        needed = samples * picture.bits_allocated * picture.frame_count // 8
        if str(picture.header.get("PhotometricInterpretation", "")) == "YBR_FULL_422":
            needed = needed * 2 // 3  # PS3.3 C.7.6.3.1.2: two samples a pixel
        if picture.available_bytes < needed:
            raise UnreadablePixels(Fault.TRUNCATED)


def _options(picture: Picture) -> dict[str, Any]:
    options = as_pixel_options(picture.header)
    options["pixel_keyword"] = picture.pixel_keyword
    options["pixel_vr"] = picture.pixel_vr
    options["number_of_frames"] = picture.frame_count
    options["allow_excess_frames"] = False
    # Absent on some single-sample images from converters; the value then changes nothing.
    options.setdefault("pixel_representation", 0)
    return options


def _native_frames(picture: Picture, indices: Sequence[int] | None, *, raw: bool) -> Iterator[NDArray[Any]]:
    decoder = get_decoder(picture.transfer_syntax_uid)
    # An empty list would mean "all" to pydicom.
    wanted = range(picture.frame_count) if indices is None else indices
    if not wanted:
        return
    with _opened(picture) as source:
        for frame, _ in decoder.iter_array(source, indices=wanted, raw=raw, **_options(picture)):
            yield frame


def _encapsulated_frames(picture: Picture, indices: Sequence[int] | None, *, raw: bool) -> Iterator[NDArray[Any]]:
    decoder = get_decoder(picture.transfer_syntax_uid)
    options = _options(picture) | {"number_of_frames": 1, "pixel_keyword": "PixelData"}
    options.pop("extended_offsets", None)
    with _opened(picture) as source:
        for codestream in _codestreams(picture, source, indices):
            _refuse_another_size(picture, codestream)
            yield _decoded(decoder, encapsulate([codestream], has_bot=False), raw=raw, **options)


def _decoded(decoder: Decoder, frame: bytes, **options: Any) -> NDArray[Any]:
    # What the last decoder says counts: the earlier ones may only lack the variant.
    *others, last = _plugins(decoder)
    for plugin in others:
        with suppress(UnreadablePixels), plain_faults(Fault.DAMAGED):
            array, _ = decoder.as_array(frame, decoding_plugin=plugin, **options)
            return array
    array, _ = decoder.as_array(frame, decoding_plugin=last, **options)
    return array


def _plugins(decoder: Decoder) -> list[str]:
    return [name for name in _PLUGINS if name in decoder.available_plugins]


def _codestreams(picture: Picture, source: BinaryIO, indices: Sequence[int] | None) -> Iterator[bytes]:
    offsets = as_pixel_options(picture.header).get("extended_offsets")
    if indices is None:
        yield from generate_frames(source, number_of_frames=picture.frame_count, extended_offsets=offsets)
        return
    for index in indices:
        yield get_frame(source, index, number_of_frames=picture.frame_count, extended_offsets=offsets)


@contextmanager
def _opened(picture: Picture) -> Iterator[BinaryIO]:
    if isinstance(picture.source, bytes):
        yield BytesIO(picture.source)
        return
    with picture.source.open("rb") as file:
        file.seek(picture.offset)
        yield file


def _refuse_another_size(picture: Picture, codestream: bytes) -> None:
    # A stream may declare another size than the header, and decoders believe the one or the other: a few bytes
    # could ask for all the memory of the machine, or end it. Zero rows are told by the end of a JPEG stream.
    declared = _declared_size(codestream)
    if declared is not None and declared != (picture.rows, picture.columns) and declared[0] > 0:
        raise UnreadablePixels(Fault.SIZE_CONFLICT)


def _declared_size(codestream: bytes) -> tuple[int, int] | None:
    if codestream[:4] == b"\xff\x4f\xff\x51":  # ISO/IEC 15444-1 A.5.1: SOC, SIZ
        columns, rows, left, top = struct.unpack(">4I", codestream[8:24])
        return rows - top, columns - left
    if codestream[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 9 <= len(codestream) and codestream[position] == 0xFF:
        marker = codestream[position + 1]
        if marker == 0xFF:  # ISO/IEC 10918-1 B.1.1.2: fill bytes
            position += 1
            continue
        # SOF0 to SOF15 without DHT, JPG and DAC; ISO/IEC 14495-1 adds SOF55 (JPEG-LS).
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):
            rows, columns = struct.unpack(">2H", codestream[position + 5 : position + 9])
            return rows, columns
        position += 2 + int.from_bytes(codestream[position + 2 : position + 4], "big")
    return None
