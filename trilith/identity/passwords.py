"""Passwords as bcrypt hashes. Hashing takes a quarter of a second on purpose: it is done before a transaction.

A password that was right is known for `KNOWN_S`, so that a client that signs in for each command costs no hashing each
time. What is kept is a keyed digest of password and hash: who reads the cache learns nothing, who writes to it must
know the key, and with another password in SQL the digest is another at once. What was wrong is never kept.
"""

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import bcrypt

from trilith.kernel.kinds import Bad, Text
from trilith.kernel.versions import Version

ROUNDS = 12
KNOWN_S = 600
_rounds = ROUNDS


class Cache(Protocol):
    """Keeps little things for a while, or does not."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, value: bytes, for_s: int) -> None: ...


class OwnMemory:
    """The cache of one process. Safe for many threads: each step is one operation on the dictionary."""

    def __init__(self, limit: int = 10_000) -> None:
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._limit = limit

    def get(self, key: str) -> bytes | None:
        value, ends_at = self._kept.get(key, (None, 0.0))
        return value if ends_at > time.monotonic() else None

    def put(self, key: str, value: bytes, for_s: int) -> None:
        if len(self._kept) >= self._limit:
            self._kept = {}
        self._kept[key] = (value, time.monotonic() + for_s)


class Known:
    """Pairs of password and hash that were found to fit lately."""

    def __init__(self, key: str, cache: Cache) -> None:
        self._key, self._cache = key.encode(), cache

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return self._cache.get(self._name(pair)) is not None

    def add(self, pair: tuple[str, str]) -> None:
        self._cache.put(self._name(pair), b"1", KNOWN_S)

    def _name(self, pair: tuple[str, str]) -> str:
        password, hashed = pair
        text = f"{hashed}\n{password}".encode()
        return "password:" + hmac.new(self._key, text, hashlib.sha256).hexdigest()


_known: Known | None = None


def remember(known: Known | None) -> None:
    """Where this process keeps which passwords were right; None forgets each at once."""
    global _known
    _known = known


def set_rounds(rounds: int) -> None:
    """Fewer make tests quick."""
    global _rounds
    _rounds = rounds
    _nobody.cache_clear()


def hash_password(password: str) -> str:
    return bcrypt.hashpw(_short(password), bcrypt.gensalt(_rounds)).decode()


def is_password(password: str, hashed: str | None) -> bool:
    """A wrong one takes as long for somebody who does not exist or has no password: `hashed` None."""
    if not hashed:
        bcrypt.checkpw(_short(password), _nobody().encode())
        return False
    known = _known
    if known is not None and (password, hashed) in known:
        return True
    found = bcrypt.checkpw(_short(password), hashed.encode())
    if found and known is not None:
        known.add((password, hashed))
    return found


def _short(password: str) -> bytes:
    """bcrypt reads 72 bytes at most: it gets a digest, so that every character counts."""
    return base64.b64encode(hashlib.sha256(password.encode()).digest())


@cache
def _nobody() -> str:
    return hash_password("")


@dataclass(frozen=True)
class Password(Text):
    """A password in a request; becomes its hash."""

    limit: int = 4096

    def check(self, value: object, path: str, at: Version) -> str:
        try:
            return hash_password(super().check(value, path, at))
        except Bad as bad:
            reason = "must be a string of at most 4096 characters"
            raise Bad(path, "***", reason, bad.why) from None  # no password in a message
