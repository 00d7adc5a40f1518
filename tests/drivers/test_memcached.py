"""Real memcached servers on loopback addresses: what was put is there, and a server that dies raises nothing."""

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from trilith.drivers.memcached import Memcached

ADDRESSES = ("127.0.0.2", "127.0.0.3")


class Servers:
    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind((ADDRESSES[0], 0))
            self.port = free.getsockname()[1]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, address: str) -> None:
        argv = ["memcached", "-u", "memcache", "-U", "0", "-m", "8", "-l", address, "-p", str(self.port)]
        self._processes[address] = subprocess.Popen(argv)
        deadline = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection((address, self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self, address: str) -> None:
        process = self._processes.pop(address)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for address in list(self._processes):
            self.kill(address)


@pytest.fixture
def servers() -> Iterator[Servers]:
    made = Servers()
    try:
        for address in ADDRESSES:
            made.start(address)
        yield made
    finally:
        made.stop()


def keep(writer: Memcached, reader: Memcached, keys: list[str]) -> None:
    """Puts them until all are found: on a busy machine a server that answers late is left alone for ten seconds."""
    deadline = time.monotonic() + 40
    while not all(reader.get(key) == b"1" for key in keys):
        assert time.monotonic() < deadline
        for key in keys:
            writer.put(key, b"1", 60)


def test_what_was_put_is_found_by_every_client_until_it_ends(servers: Servers) -> None:
    one, other = Memcached(ADDRESSES, servers.port), Memcached(ADDRESSES, servers.port)
    assert other.get("a") is None
    keep(one, other, ["a"])
    one.put("short", b"1", 1)
    deadline = time.monotonic() + 10
    while other.get("short") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_dead_server_is_a_miss_and_its_keys_move(servers: Servers) -> None:
    cache = Memcached(ADDRESSES, servers.port)
    keys = [f"k{number}" for number in range(40)]
    keep(cache, cache, keys)
    servers.kill(ADDRESSES[0])
    assert sum(cache.get(key) is not None for key in keys) < len(keys)
    keep(cache, cache, keys)


def test_without_any_server_nothing_is_found_and_nothing_raised(servers: Servers) -> None:
    cache = Memcached(ADDRESSES, servers.port)
    servers.stop()
    for _ in range(5):
        cache.put("a", b"1", 60)
        assert cache.get("a") is None
