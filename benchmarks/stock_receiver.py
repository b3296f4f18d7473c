"""The receiver that pynetdicom's own documentation writes: default settings, one handler that saves the data set.

What everyone has after an hour; not durable.
"""

import signal
import sys
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM: arguments are PORT and FOLDER."""
    port, folder = int(arguments[0]), Path(arguments[1])
    folder.mkdir(parents=True, exist_ok=True)
    # Its handlers would log each association; nobody else in the comparison does.
    _config.LOG_HANDLER_LEVEL = "none"

    def store(event: Any) -> int:
        data_set = event.dataset
        data_set.file_meta = event.file_meta
        data_set.save_as(folder / f"{data_set.SOPInstanceUID}.dcm", enforce_file_format=True)
        return 0x0000

    entity = AE("STOCK")
    entity.supported_contexts = AllStoragePresentationContexts
    entity.add_supported_context(Verification)
    entity.maximum_associations = 200
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
