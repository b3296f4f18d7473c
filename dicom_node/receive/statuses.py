"""Which DIMSE status answers which error: the one table of it (PS3.4 B.2.3, PS3.7 C)."""

from casebook.errors import InvalidObject, StorageFull, StoreUnavailable, UnsafeStorage, WetreadError

#: The bytes are durable and will be indexed. PS3.4 table B.2-1.
SUCCESS = 0x0000

#: The command names another SOP class than the presentation context it came on. PS3.7 C.5.
SOP_CLASS_NOT_SUPPORTED = 0x0122
#: A request of another service than the context is for. PS3.7 C.5.
UNRECOGNIZED_OPERATION = 0x0211
#: A data set where the service has none. PS3.7 C.5.
MISTYPED_ARGUMENT = 0x0212

#: The most special class wins; PS3.4 table B.2-1 unless said otherwise.
STATUS_OF_ERROR: dict[type[Exception], int] = {
    # "Refused: Out of Resources": the sender keeps the object and tries again.
    StorageFull: 0xA700,
    StoreUnavailable: 0xA700,
    # "Error: Data Set Does Not Match SOP Class": without its UIDs it is no instance of anything.
    InvalidObject: 0xA900,
    # PS3.7 C.4.2 "Processing failure": the disk refused for another reason than being full.
    UnsafeStorage: 0x0110,
    WetreadError: 0x0110,
}


def status_of(error: Exception | None) -> int:
    """Return the C-STORE status that answers an error; success where there is none.

    A foreign error is a processing failure (PS3.7 C.4.2): nothing is acknowledged by accident.
    """
    if error is None:
        return SUCCESS
    for kind in type(error).__mro__:
        if kind in STATUS_OF_ERROR:
            return STATUS_OF_ERROR[kind]
    return STATUS_OF_ERROR[WetreadError]
