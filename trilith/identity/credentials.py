"""Credentials of the cloud's own processes: hosts' agents, hub, controller. ``Authorization: Bearer SECRET``.

SQL keeps digests only, and every use looks there, so that a credential that was taken away is void at once. A host
makes its secret itself and has it registered with a token that is good for one host, one secret and one hour. It may
say the same again: who did not hear the answer asks once more.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from trilith.identity.users import unauthorized
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Member, Object, Text
from trilith.kernel.policy import Principal
from trilith.kernel.request import Ctx
from trilith.kernel.store import METADATA, Tx
from trilith.placement.hosts import AGENTS, HOST

CREDENTIALS = sa.Table(
    "process_credentials",
    METADATA,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("made_at_s", sa.Double(), nullable=False),
)
USED_TOKENS = sa.Table(
    "used_join_tokens",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("used_at_s", sa.Double(), nullable=False),
)


def bearer(tx: Tx, authorization: str) -> Principal | None:
    """Looked up by digest, so that the time it takes tells nothing about the secrets."""
    kind, _, secret = authorization.partition(" ")
    if kind.lower() != "bearer" or not secret:
        return None
    name = tx.scalar(sa.select(CREDENTIALS.c.name).where(CREDENTIALS.c.digest == digest(secret.strip())))
    if name is None:
        return None
    if name.startswith("host-"):
        return Principal(user_id=name, host=name.removeprefix("host-"))
    return Principal(user_id=name, roles=frozenset({"service"}))


def register(tx: Tx, found: Mapping[str, str]) -> None:
    """Name to secret: ``host-NAME`` opens that host's rows; ``hub`` and ``controller`` have the role service."""
    for name, secret in found.items():
        _set(tx, name, digest(secret))


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _set(tx: Tx, name: str, value: str) -> None:
    row = tx.execute(sa.select(CREDENTIALS.c.digest).where(CREDENTIALS.c.name == name)).scalar()
    if row == value:
        return
    tx.execute(CREDENTIALS.delete().where(CREDENTIALS.c.name == name))
    tx.execute(CREDENTIALS.insert().values(name=name, digest=value, made_at_s=time.time()))


def new_join_token(hours: float = 1.0) -> tuple[str, dict[str, Any]]:
    """A token for the host, and what controllers keep of it under the host's name."""
    token = secrets.token_urlsafe(32)
    return token, {"digest": digest(token), "expires_at_s": time.time() + hours * 3600}


JOIN = Object(
    {
        "host": Member(Text(255), required=True),
        "token": Member(Text(255), required=True),
        "digest": Member(Text(64, 64), required=True),
    }
)


@AGENTS.route("POST", "/join", "public", body=JOIN)
def join(ctx: Ctx) -> dict[str, str]:
    """A host's credential, by its token: from now on the secret of this digest (SHA-256, in hex) is its own."""
    host, used, wanted = ctx.body["host"], digest(ctx.body["token"]), ctx.body["digest"]
    name = f"host-{host}"
    earlier = ctx.tx.execute(sa.select(USED_TOKENS.c.host).where(USED_TOKENS.c.digest == used)).scalar()
    if earlier is not None:
        present = ctx.tx.scalar(sa.select(CREDENTIALS.c.digest).where(CREDENTIALS.c.name == name))
        if earlier != host or present != wanted:
            raise unauthorized()
        return {"name": name}
    entry = ctx.settings.get("join_tokens", dict)().get(host)
    if entry is None or entry["expires_at_s"] < time.time() or not hmac.compare_digest(entry["digest"], used):
        raise unauthorized()
    if ctx.tx.one(HOST, name=host) is None:
        raise Fault("missing", f"The cluster file has no host {host}.")
    ctx.tx.execute(USED_TOKENS.insert().values(digest=used, host=host, used_at_s=time.time()))
    _set(ctx.tx, name, wanted)
    return {"name": name}


@AGENTS.route("GET", "/whoami", "host|service")
def whoami(ctx: Ctx) -> dict[str, str]:
    """Whose the credential of this request is: ``host-NAME``, ``hub`` or ``controller``."""
    return {"name": ctx.who.user_id}


@AGENTS.route("DELETE", "/credentials/{name}", "service", status=204)
def revoke(ctx: Ctx) -> None:
    """Void at once; the host needs a new token to come back."""
    ctx.tx.execute(CREDENTIALS.delete().where(CREDENTIALS.c.name == ctx.path["name"]))
