"""Tokens as sealed letters: who, where, until when. Nothing is stored; what a token may do is looked up at each use.

The keys lie in SQL, sealed with the cluster's own key, which is in a file on every controller and nowhere else. The
newest key is staged: it opens, and begins to seal with the next rotation, when every process has long read it. The
one before it seals. A process that meets a token it cannot open reads the keys again, so that a token made on one
controller opens on every other at once.
"""

import base64
import hashlib
import hmac
import time
from functools import lru_cache
from pathlib import Path

import msgspec
import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from trilith.kernel.store import METADATA, Tx

MAX_ACTIVE_KEYS = 3
REFRESH_S = 10.0
ROTATE_S = 7 * 24 * 3600.0

KEYS = sa.Table(
    "token_keys",
    METADATA,
    sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("sealed", sa.String(255), nullable=False),
    sa.Column("made_at_s", sa.Double(), nullable=False),
)


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
    """This process's view of the keys. Safe for many threads."""

    def __init__(self, cluster_key: str) -> None:
        self._cluster_key = cluster_key
        self._chest = chest(cluster_key)
        self._numbers: list[int] = []
        self._read_at = float("-inf")
        self._box = MultiFernet([Fernet(Fernet.generate_key())])
        self._open = lru_cache(maxsize=4096)(lambda token: _decrypt(self._box, token))

    def seal(self, tx: Tx, letter: Letter) -> str:
        self._refresh(tx)
        return self._box.encrypt(msgspec.msgpack.encode(letter)).decode().rstrip("=")

    def open(self, tx: Tx, token: str) -> Letter | None:
        """None where we did not seal it."""
        self._refresh(tx)
        opened = self._open
        letter = opened(token)
        if letter is None:
            self._read(tx)
            if self._open is not opened:  # new keys, read by us or by another thread meanwhile
                letter = self._open(token)
        return letter

    def derived(self, *names: str) -> str:
        """A secret of its own for each list of names, the same on every controller: 64 hexadecimal digits."""
        return hmac.new(self._cluster_key.encode(), "\n".join(names).encode(), hashlib.sha256).hexdigest()

    def _refresh(self, tx: Tx) -> None:
        if time.monotonic() - self._read_at > REFRESH_S:
            self._read(tx)

    def _read(self, tx: Tx) -> None:
        rows = tx.select(sa.select(KEYS).order_by(KEYS.c.number.desc()))
        self._read_at = time.monotonic()
        if (numbers := [row["number"] for row in rows]) == self._numbers:
            return
        try:
            keys = [Fernet(self._chest.decrypt(row["sealed"])) for row in rows]
        except InvalidToken:
            raise RuntimeError("the token keys were sealed with another cluster-key than this controller's") from None
        box = MultiFernet([*keys[1:2], *keys[:1], *keys[2:]])
        self._box, self._open = box, lru_cache(maxsize=4096)(lambda token: _decrypt(box, token))
        self._numbers = numbers


def _decrypt(box: MultiFernet, token: str) -> Letter | None:
    try:
        padded = token + "=" * (-len(token) % 4)
        return msgspec.msgpack.decode(box.decrypt(padded.encode()), type=Letter)
    except (InvalidToken, ValueError):  # msgspec's errors are ValueErrors
        return None


def chest(cluster_key: str) -> Fernet:
    """What seals secrets that lie in SQL."""
    digest = hashlib.sha256(b"trilith cluster-key:" + cluster_key.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


def make_keys(tx: Tx, cluster_key: str, old_files: Path | None = None) -> None:
    """The first keys: one that seals, one staged; or those of a folder as keystone has it (0 is staged, the highest
    number seals). Does nothing where there are keys."""
    if tx.scalar(sa.select(sa.func.count()).select_from(KEYS)):
        return
    old = {int(path.name): path for path in old_files.iterdir() if path.name.isdigit()} if old_files else {}
    contents = [old[number].read_bytes().strip() for number in sorted(old, key=lambda number: number or float("inf"))]
    for number, content in enumerate(contents or [Fernet.generate_key(), Fernet.generate_key()], 1):
        _add(tx, cluster_key, number, content)


def rotate_keys(tx: Tx, cluster_key: str, if_older_s: float = 0.0) -> bool:
    """The staged key begins to seal, a new one is staged, the oldest go. Does nothing, and says so, where the staged
    one is younger than `if_older_s`."""
    newest = tx.select(sa.select(KEYS).order_by(KEYS.c.number.desc()).limit(1))
    if not newest or time.time() - newest[0]["made_at_s"] < if_older_s:
        return False
    number = newest[0]["number"] + 1
    _add(tx, cluster_key, number, Fernet.generate_key())
    tx.execute(KEYS.delete().where(KEYS.c.number <= number - MAX_ACTIVE_KEYS))
    return True


def _add(tx: Tx, cluster_key: str, number: int, key: bytes) -> None:
    sealed = chest(cluster_key).encrypt(key).decode()
    tx.execute(KEYS.insert().values(number=number, sealed=sealed, made_at_s=time.time()))
