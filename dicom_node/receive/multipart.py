"""multipart/related (RFC 2046 5.1, RFC 2387) taken apart as it arrives, in constant memory.

The sender is a stranger: header blocks and the preamble have a largest size, and a body that ends without its last
delimiter is told from a whole one, so that the part it cut is never taken for finished. Lines end with CR LF alone:
whether a mere line feed belongs to a delimiter or to a picture, nobody could say.
"""

import re
from collections.abc import Iterator
from email.message import Message
from enum import Enum

from casebook.errors import InvalidObject

#: RFC 2046 5.1.1.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_LONGEST_HEADERS = 16 * 1024
_END_OF_HEADERS = b"\r\n\r\n"


class _Place(Enum):
    PREAMBLE = 1
    #: After a delimiter: a line end starts a part, two hyphens end the body.
    DELIMITER = 2
    HEADERS = 3
    BODY = 4
    EPILOGUE = 5


#: What a body lacks that ends in each place.
_MISSING = {
    _Place.PREAMBLE: "the body holds no part: its boundary never came",
    _Place.DELIMITER: "the body ended after a delimiter, not the closing one",
    _Place.HEADERS: "the body ended in the headers of a part",
    _Place.BODY: "the body ended inside the part",
    _Place.EPILOGUE: "",
}


class PartBegin:
    """A part begins."""

    __slots__ = ("content_type",)

    def __init__(self, content_type: str) -> None:
        #: In lower case, without parameters; empty where none is given.
        self.content_type = content_type


class PartEnd:
    """The part is whole."""

    __slots__ = ()


Event = PartBegin | PartEnd | bytes


def boundary_of(content_type: str) -> str | None:
    """Return the boundary of ``multipart/related; type="application/dicom"``; None for any other content type."""
    message = Message()
    message["Content-Type"] = content_type
    if message.get_content_type() != "multipart/related":
        return None
    kind = message.get_param("type", "application/dicom")
    boundary = message.get_param("boundary")
    if str(kind).lower() != "application/dicom" or not isinstance(boundary, str):
        return None
    return boundary if _BOUNDARY.fullmatch(boundary) else None


class Splitter:
    """Takes a multipart body in pieces and gives its parts in pieces."""

    def __init__(self, boundary: str) -> None:
        """Take the boundary without its hyphens."""
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The first delimiter may stand at the very start, where no line end comes before it.
        self._buffer = b"\r\n"
        #: What stands before this is done with. It is cut off once for each piece that comes, and not for each part.
        self._at = 0
        self._place = _Place.PREAMBLE

    @property
    def is_complete(self) -> bool:
        """Whether the last delimiter has come."""
        return self._place is _Place.EPILOGUE

    @property
    def missing(self) -> str:
        """What a body that ended here lacks, in words; empty for a whole one."""
        return _MISSING[self._place]

    def feed(self, received: bytes) -> Iterator[Event]:
        """Take the next bytes and yield what they hold.

        Raises
        ------
        InvalidObject
            When this is no multipart body.
        """
        self._buffer, self._at = self._buffer[self._at :] + received, 0
        while True:
            before = (self._place, self._at)
            yield from self._step()
            if (self._place, self._at) == before:
                return

    def _step(self) -> Iterator[Event]:
        match self._place:
            case _Place.PREAMBLE:
                self._skip_preamble()
            case _Place.DELIMITER:
                self._pass_delimiter()
            case _Place.HEADERS:
                yield from self._read_headers()
            case _Place.BODY:
                yield from self._read_body()
            case _Place.EPILOGUE:
                self._at = len(self._buffer)

    def _skip_preamble(self) -> None:
        found = self._buffer.find(self._delimiter, self._at)
        if found >= 0:
            self._at = found + len(self._delimiter)
            self._place = _Place.DELIMITER
        elif len(self._buffer) - self._at > _LONGEST_HEADERS:
            raise InvalidObject("the body does not begin with its boundary")

    def _pass_delimiter(self) -> None:
        # RFC 2046 5.1.1: blanks may follow a delimiter on its line.
        at = self._at
        while self._buffer[at : at + 1] in {b" ", b"\t"}:
            at += 1
        ending = self._buffer[at : at + 2]
        if ending == b"--":
            self._place = _Place.EPILOGUE
        elif ending == b"\r\n":
            # The line end stays: together with an empty line it ends a block without any header.
            self._at, self._place = at, _Place.HEADERS
        elif ending.startswith(b"\n"):
            raise InvalidObject("the lines of the body end with LF and not with CR LF")
        elif ending not in {b"", b"\r", b"-"} or at - self._at > _LONGEST_HEADERS:
            raise InvalidObject("a delimiter of the body is not ended")

    def _read_headers(self) -> Iterator[Event]:
        found = self._buffer.find(_END_OF_HEADERS, self._at)
        ended = self._buffer.find(self._delimiter, self._at, found if found >= 0 else None)
        if ended >= 0:
            # The part ends in its headers: it is empty. A delimiter that only stands twice begins no part between.
            is_part = ended > self._at
            self._at = ended + len(self._delimiter)
            self._place = _Place.DELIMITER
            if is_part:
                yield PartBegin("")
                yield PartEnd()
            return
        if (found if found >= 0 else len(self._buffer)) - self._at > _LONGEST_HEADERS:
            raise InvalidObject("the headers of a part are too long")
        if found < 0:
            return
        block = self._buffer[self._at : found].decode("latin-1")
        self._at = found + len(_END_OF_HEADERS)
        self._place = _Place.BODY
        yield PartBegin(_content_type(block))

    def _read_body(self) -> Iterator[Event]:
        found = self._buffer.find(self._delimiter, self._at)
        # The start of a delimiter may be among the last bytes.
        end = found if found >= 0 else len(self._buffer) - len(self._delimiter) + 1
        piece = self._buffer[self._at : end] if end > self._at else b""
        self._at += len(piece)
        if found >= 0:
            self._at += len(self._delimiter)
            self._place = _Place.DELIMITER
        if piece:
            yield piece
        if found >= 0:
            yield PartEnd()


def _content_type(block: str) -> str:
    for line in block.split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-type":
            return value.partition(";")[0].strip().lower()
    return ""
