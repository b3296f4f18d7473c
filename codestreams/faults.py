"""Why compressed pixel data gives no picture: the sentences an operator reads."""

from enum import StrEnum


class StreamFault(StrEnum):
    """What is wrong with compressed pixel data, in one plain sentence that repeats no value of the file."""

    #: The stream has no end of its own, or its parts are shorter than they say.
    TRUNCATED = "The pixel data ends too early."
    #: The stream cannot be decoded.
    DAMAGED = "The compressed pixel data is damaged or of a kind no decoder here knows."
    #: The stream declares other rows and columns than (0028,0010) and (0028,0011).
    SIZE_CONFLICT = "The compressed pixel data declares another size than the header."
    #: The stream has another depth, sign or number of samples than the header.
    HEADER_CONFLICT = "The pixel data contradicts the header about the depth, the sign or the samples of a pixel."
    #: The streams are more or fewer than (0028,0008).
    FRAMES_CONFLICT = "The pixel data holds another number of frames than the header says."
