"""Tokens as sealed letters: who, where, until when. Nothing is stored; what a token may do is looked up at each use.

The key repository is a folder like keystone's: files ``0..N``; the highest number seals, ``0`` is staged to become
the next highest, all of them open. Rotation renames, so that every controller can open what any other has sealed,
as long as the folder is copied between two rotations.
"""

import base64
import os
import secrets
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

MAX_ACTIVE_KEYS = 3


class Letter(msgspec.Struct, array_like=True, frozen=True):
    """What is inside a token. Times are whole microseconds since 1970."""

    user_id: str
    methods: tuple[str, ...]
    scope: str  # project | domain | system | none
    scope_id: str
    issued_us: int
    expires_us: int
    audit_ids: tuple[str, ...]
    epochs: tuple[int, ...]  # of the user, its domain, the scope, the scope's domain: equal as long as it is valid
    application_credential_id: str = ""


class Keys:
    """A key repository. Notices a rotation by the folder's time."""

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)
        self._read_at_ns = -1
        self._box = MultiFernet([Fernet(Fernet.generate_key())])
        self._open = lru_cache(maxsize=4096)(self._decrypt)

    def seal(self, letter: Letter) -> str:
        self._refresh()
        return self._box.encrypt(msgspec.msgpack.encode(letter)).decode().rstrip("=")

    def open(self, token: str) -> Letter | None:
        """None where we did not seal it."""
        self._refresh()
        return self._open(token)

    def _decrypt(self, token: str) -> Letter | None:
        try:
            padded = token + "=" * (-len(token) % 4)
            return msgspec.msgpack.decode(self._box.decrypt(padded.encode()), type=Letter)
        except (InvalidToken, ValueError):  # msgspec's errors are ValueErrors
            return None

    def _refresh(self) -> None:
        while (changed_ns := os.stat(self._directory).st_mtime_ns) != self._read_at_ns:
            names = sorted(_numbers(self._directory), reverse=True)
            try:
                keys = [Fernet((self._directory / str(name)).read_bytes().strip()) for name in names]
            except FileNotFoundError:
                continue  # a rotation is going on: look again
            self._box = MultiFernet(keys)
            self._open.cache_clear()
            self._read_at_ns = changed_ns


def _numbers(directory: Path) -> list[int]:
    return [int(path.name) for path in directory.iterdir() if path.name.isdigit()]


def make_keys(directory: Path) -> None:
    """A first repository: one key that seals, one staged. Does nothing where there are keys."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    have = _numbers(directory)
    for number in (1, 0):
        if number not in have and (number == 0 or not have):
            _write_key(directory / str(number))


def rotate_keys(directory: Path, keep: int = MAX_ACTIVE_KEYS) -> None:
    """The staged key begins to seal, a new one is staged, the oldest go. Safe to be killed in between: run it again."""
    numbers = _numbers(directory)
    if 0 in numbers:
        os.replace(directory / "0", directory / str(max(numbers) + 1))
    _write_key(directory / "0")
    for number in _outdated(_numbers(directory), keep):
        (directory / str(number)).unlink(missing_ok=True)


def _outdated(numbers: Iterable[int], keep: int) -> list[int]:
    return sorted(number for number in numbers if number)[: -(keep - 1)]


def _write_key(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.urlsafe_b64encode(secrets.token_bytes(32)))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
