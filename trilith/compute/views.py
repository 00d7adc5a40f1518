"""Links and times as compute writes them."""

import hashlib
from functools import lru_cache
from typing import Any

from trilith.kernel.request import Ctx

Row = dict[str, Any]


def links(ctx: Ctx, collection: str, key: str) -> list[Row]:
    """The two links that every compute resource carries."""
    path = f"/{collection}/{key}"
    return [
        {"rel": "self", "href": ctx.url(path)},
        {"rel": "bookmark", "href": f"{ctx.base_url}/compute{path}"},
    ]


def seconds(moment: str | None) -> str | None:
    """A stored time as ``2026-01-01T00:00:00Z``."""
    return f"{moment[:19]}Z" if moment else None


@lru_cache(maxsize=16_384)
def host_id(project_id: str, host: str | None) -> str:
    """A host's name that tells a project's own servers apart, and says nothing to others; "" without a host."""
    return hashlib.sha224(f"{project_id}{host}".encode()).hexdigest() if host else ""
