"""Passwords as bcrypt hashes. Hashing takes a quarter of a second on purpose: it is done before a transaction."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache

import bcrypt

from trilith.kernel.kinds import Bad, Text
from trilith.kernel.versions import Version

ROUNDS = 12
_rounds = ROUNDS


def set_rounds(rounds: int) -> None:
    """Fewer make tests quick."""
    global _rounds
    _rounds = rounds
    _nobody.cache_clear()


def hash_password(password: str) -> str:
    return bcrypt.hashpw(_short(password), bcrypt.gensalt(_rounds)).decode()


def is_password(password: str, hashed: str | None) -> bool:
    """Takes as long for somebody who does not exist or has no password: `hashed` None."""
    found = bcrypt.checkpw(_short(password), (hashed or _nobody()).encode())
    return found and hashed is not None


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
