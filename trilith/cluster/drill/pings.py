"""ICMP echo requests, so many a second, and which of them were answered."""

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

WAIT_S = 1.0
ECHO, ECHO_REPLY = 8, 0


async def ping(address: str, each_s: float, write: Callable[[dict[str, Any]], None]) -> None:
    """Until cancelled: writes {"ping": address, "at_s", "took_s" or null} for each. Needs root."""
    loop = asyncio.get_running_loop()
    answered: dict[int, float] = {}
    ident = (os.getpid() ^ hash(address)) & 0xFFFF
    waiting: set[asyncio.Task[None]] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.setblocking(False)
        loop.add_reader(icmp, _take, icmp, ident, answered)
        try:
            for number in range(1 << 30):
                sequence, sent_s = number & 0xFFFF, time.monotonic()
                with contextlib.suppress(OSError):  # no route just now: lost
                    icmp.sendto(_request(ident, sequence), (address, 0))

                async def judge(sequence: int = sequence, sent_s: float = sent_s) -> None:
                    await asyncio.sleep(WAIT_S)
                    came_s = answered.pop(sequence, None)
                    took_s = None if came_s is None else came_s - sent_s
                    write({"ping": address, "at_s": sent_s, "took_s": took_s})

                task = asyncio.create_task(judge())
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                await asyncio.sleep(each_s)
        finally:
            loop.remove_reader(icmp)


def _take(icmp: socket.socket, ident: int, answered: dict[int, float]) -> None:
    with contextlib.suppress(BlockingIOError):
        packet = icmp.recv(2048)
        at = (packet[0] & 15) * 4
        kind, _, _, found, sequence = struct.unpack_from("!BBHHH", packet, at)
        if kind == ECHO_REPLY and found == ident:
            answered.setdefault(sequence, time.monotonic())


def _request(ident: int, sequence: int) -> bytes:
    return struct.pack("!BBHHH", ECHO, 0, _checksum(ident, sequence), ident, sequence)


def _checksum(ident: int, sequence: int) -> int:
    total = (ECHO << 8) + ident + sequence
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
