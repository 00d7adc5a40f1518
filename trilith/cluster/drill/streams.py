"""TCP connections to machines that answer what they are sent (RFC 862), and what became of each line."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

ECHO_PORT = 7
EACH_S = 0.1
WAIT_S = 60.0  # for an answer; a connection that is as slow as that counts as lost
CONNECT_EACH_S = 1.0


async def stream(address: str, write: Callable[[dict[str, Any]], None], port: int = ECHO_PORT) -> None:
    """Until cancelled: writes {"stream": address, "at_s", "took_s", "problem"} for each line, `took_s` null where the
    connection was lost (`problem` says how). Lines follow each other on one connection, which is only made anew when
    it is lost."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(address, port)
        except OSError:  # it has not booted yet
            await asyncio.sleep(CONNECT_EACH_S)
            continue
        try:
            await _talk(address, reader, writer, write)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _talk(
    address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, write: Callable[[dict[str, Any]], None]
) -> None:
    """Returns when the connection is lost."""
    number = 0
    while True:
        line, at_s = f"{number}\n".encode(), time.monotonic()
        number += 1
        try:
            writer.write(line)
            answer = await asyncio.wait_for(reader.readline(), WAIT_S)
            problem = None if answer == line else f"it answered {answer[:20]!r}"
        except (OSError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"[:100]
        took_s = None if problem else time.monotonic() - at_s
        write({"stream": address, "at_s": at_s, "took_s": took_s, "problem": problem})
        if problem:
            return
        await asyncio.sleep(EACH_S)
