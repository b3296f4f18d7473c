"""How much of an object a reader takes into memory: the one limit of all readers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderBounds:
    """Limits of a header: what stands before the pixels, or a whole object without pixels."""

    #: A longer value is left in the file: a reader goes past it by its length.
    longest_value_bytes: int
    #: Of everything else together. The header of a deflated object has to stand within so many inflated bytes.
    longest_bytes: int
    #: Of a header whose elements cannot be counted, because only a reader that forgives more understands it.
    longest_uncounted_bytes: int
    #: Elements and items, at any depth. Each takes up to 700 bytes of memory, whatever its length.
    most_elements: int
    #: Sequences inside of sequences.
    deepest_sequence: int
    #: Inflated bytes of a whole object; its pixels are never in memory at one time.
    longest_inflated_bytes: int


HEADER_BOUNDS = HeaderBounds(
    longest_value_bytes=16 << 20,
    longest_bytes=64 << 20,
    longest_uncounted_bytes=2 << 20,
    most_elements=200_000,
    deepest_sequence=16,
    longest_inflated_bytes=4 << 30,
)
