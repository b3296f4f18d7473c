"""The MLLP server of python-hl7: writes each message to a file and accepts it. Arguments: PORT FILE."""

import asyncio
import json
import sys
from asyncio import IncompleteReadError
from pathlib import Path

import hl7
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server


async def serve(port: int, received: Path) -> None:
    """Answer until the process ends.

    Parameters
    ----------
    port
        On loopback.
    received
        One JSON string per message is appended to it before the message is accepted.
    """

    async def accept(reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        try:
            while not writer.is_closing():
                message: hl7.Message = await reader.readmessage()
                with received.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(str(message)) + "\n")
                writer.writemessage(message.create_ack())
                await writer.drain()
        except (IncompleteReadError, ConnectionError):
            writer.close()

    # The package assumes ASCII and 64 KiB; a report is longer and may be Chinese.
    server = await start_hl7_server(accept, host="127.0.0.1", port=port, encoding="utf-8", limit=2**24)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
