"""The physical limit of durable receiving: socket, file, fsync of file and directory, one byte of answer; no DICOM.

What a receiver is measured against: the same bytes over the same loopback to the same disk, with nothing else done.
Each connection has a process of its own.
"""

import os
import signal
import socket
import struct
import sys
from pathlib import Path

#: As large as a receiver's buffer may sensibly be; larger ones were not faster.
_BUFFER_BYTES = 1 << 20


def receive(connection: socket.socket, folder: Path) -> None:
    """Receive until the sender closes; the files go into a folder, under names that no other process takes."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    number = 0
    while length := connection.recv(8, socket.MSG_WAITALL):
        left = struct.unpack(">Q", length)[0]
        name = f"{os.getpid()}-{number}"
        temporary, final = folder / f".{name}.tmp", folder / f"{name}.dcm"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        while left:
            size_bytes = connection.recv_into(buffer, min(left, _BUFFER_BYTES))
            if not size_bytes:
                raise EOFError("the sender closed in mid-object")
            left -= size_bytes
            written = 0
            while written < size_bytes:
                written += os.write(file, buffer[written:size_bytes])
        temporary.rename(final)
        os.fsync(file)
        os.fsync(directory)
        os.close(file)
        connection.sendall(b"\x00")
        number += 1
    os.close(directory)


def main(arguments: list[str]) -> int:
    """Serve connections until told to stop: arguments are PORT and FOLDER."""
    port, folder = int(arguments[0]), Path(arguments[1])
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    children: set[int] = set()
    with socket.create_server(("127.0.0.1", port)) as listening:
        while True:
            connection, _ = listening.accept()
            # Those that ended since are counted in, and freed.
            children = {child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)}
            child = os.fork()
            if not child:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                receive(connection, folder)
                os._exit(0)
            children.add(child)
            connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
