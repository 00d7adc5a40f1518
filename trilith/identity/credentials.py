"""Credentials of the cloud's own processes: hosts' agents, hub, controller. ``Authorization: Bearer SECRET``."""

import hashlib
from collections.abc import Mapping

from trilith.kernel.policy import Principal

_principals: dict[bytes, Principal] = {}


def set_credentials(secrets: Mapping[str, str]) -> None:
    """Name to secret: ``host-NAME`` opens that host's rows; ``hub`` and ``controller`` have the role service."""
    _principals.clear()
    for name, secret in secrets.items():
        if name.startswith("host-"):
            found = Principal(user_id=name, host=name.removeprefix("host-"))
        else:
            found = Principal(user_id=name, roles=frozenset({"service"}))
        _principals[_digest(secret)] = found


def bearer(authorization: str) -> Principal | None:
    """Looked up by digest, so that the time it takes tells nothing about the secrets."""
    kind, _, secret = authorization.partition(" ")
    return _principals.get(_digest(secret.strip())) if kind.lower() == "bearer" and secret else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
