"""Deflated data sets (PS3.5 A.5) as the bytes they stand for, never more of them in memory than are asked for.

A megabyte of a deflate stream can hold a gigabyte of zeros: whoever inflates, inflates here.
"""

import zlib
from io import DEFAULT_BUFFER_SIZE, SEEK_CUR, SEEK_END, SEEK_SET, BufferedReader, RawIOBase
from typing import Any, BinaryIO

from casebook.errors import InvalidObject, OverBounds

_PIECE_BYTES = 256 * 1024


def inflated(source: BinaryIO, longest_bytes: int) -> BinaryIO:
    """Return the inflated content of a file, from its place on, as a file.

    To read on and to skip forward costs time and no memory; to go back begins anew.

    Parameters
    ----------
    source
        At the first deflated byte; nobody else may move it.
    longest_bytes
        Inflated bytes after which reading raises `OverBounds`. Bytes that are no deflate stream raise `InvalidObject`.
    """
    return BufferedReader(_Inflated(source, longest_bytes), _PIECE_BYTES)


def inflate_start(data: bytes, longest_bytes: int) -> bytes:
    """Inflate the start of a deflated data set, at most so many bytes of it.

    Raises
    ------
    InvalidObject
        When the bytes are no deflate stream.
    """
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, longest_bytes)
    except zlib.error:
        raise InvalidObject(_NO_STREAM) from None


_NO_STREAM = "the deflated data set cannot be inflated"


class _Inflated(RawIOBase):
    def __init__(self, source: BinaryIO, longest_bytes: int) -> None:
        self._source = source
        self._start = source.tell()
        self._longest_bytes = longest_bytes
        #: Where the next byte is read.
        self._position = 0
        #: Where the inflater stands.
        self._reached = 0
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._waiting = b""
        self._size_bytes: int | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        if whence == SEEK_CUR:
            offset += self._position
        elif whence == SEEK_END:
            offset += self._size()
        if offset < 0:
            raise InvalidObject(_NO_STREAM)
        self._position = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        self._go_to(self._position)
        data = self._next(min(len(buffer), _PIECE_BYTES)) if self._reached == self._position else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _size(self) -> int:
        if self._size_bytes is None:
            while self._next(_PIECE_BYTES):
                pass
            self._size_bytes = self._reached
        return self._size_bytes

    def _go_to(self, position: int) -> None:
        if position < self._reached:
            self._source.seek(self._start)
            self._inflater, self._waiting, self._reached = zlib.decompressobj(-zlib.MAX_WBITS), b"", 0
        while self._reached < position and self._next(min(position - self._reached, _PIECE_BYTES)):
            pass

    def _next(self, count: int) -> bytes:
        """Inflate at most so many bytes; none at the end of the stream, or where it is cut off."""
        data = b""
        while not data and not self._inflater.eof:
            deflated = self._waiting or self._source.read(DEFAULT_BUFFER_SIZE)
            try:
                data = self._inflater.decompress(deflated, count)
            except zlib.error:
                raise InvalidObject(_NO_STREAM) from None
            self._waiting = self._inflater.unconsumed_tail
            if not deflated:
                break
        self._reached += len(data)
        if self._reached > self._longest_bytes:
            raise OverBounds
        return data
