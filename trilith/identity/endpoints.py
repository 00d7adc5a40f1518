"""Endpoints, and the catalogue that they make. A URL may name the project: ``$(project_id)s``; the program's own
begin with ``$(base)s``: the scheme and host by which the client came; the object store's, which has a port of its own
on one machine, with ``$(objects)s``."""

import re
from typing import Any
from urllib.parse import urlsplit

from trilith.identity import rules
from trilith.identity.regions import REGION
from trilith.identity.remembered import remembered
from trilith.identity.services import SERVICE
from trilith.identity.versions import IDENTITY, IdentityNoun
from trilith.kernel.declare import Field, choice, computed, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Json
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx

Row = dict[str, Any]
BASE = "$(base)s"
OBJECTS = "$(objects)s"

ENDPOINT: IdentityNoun = IdentityNoun(
    IDENTITY,
    "endpoint",
    "/endpoints",
    dict(
        id=text(64),
        interface=choice("admin", "internal", "public", create="required", update=True, filter=True),
        region=text(
            64, create="optional", update=True, null=True, stored=False, show=lambda row, ctx: row["region_id"]
        ),
        region_id=text(64, create="optional", update=True, null=True, filter=True),
        service_id=text(64, create="required", update=True, filter=True, index=True),
        url=text(1024, least=1, create="required", update=True, show=lambda row, ctx: _own(row["url"], ctx)),
        name=text(255, create="optional", update=True, null=True, optional_in_view=True),
        enabled=Field(kind=Flag(strict=True), create="optional", update=True, default=True),
        links=computed(lambda row, ctx: ENDPOINT.links(row, ctx)),
    ),
    dict(list=rules.READ_ALL, show=rules.READ_ALL, create="admin", update="admin", delete="admin"),
    owner=None,
    extra=Json(),
)
_KNOWN = {"project_id", "tenant_id", "user_id"}


def _check(ctx: Ctx, changes: Row) -> Row:
    legacy = changes.pop("region", None)
    if legacy and not changes.get("region_id"):
        changes["region_id"] = legacy
        if ctx.tx.one(REGION, id=legacy) is None:
            ctx.tx.insert(REGION, {"id": legacy})  # the old attribute makes its region
    if changes.get("region_id") and ctx.tx.one(REGION, id=changes["region_id"]) is None:
        raise Fault("invalid", f"Could not find region: {changes['region_id']}.")
    if "service_id" in changes and ctx.tx.one(SERVICE, id=changes["service_id"]) is None:
        raise Fault("invalid", f"Could not find service: {changes['service_id']}.")
    if "url" in changes and not set(re.findall(r"[$%]\(([^)]*)\)s", changes["url"])) <= _KNOWN:
        raise Fault("invalid", f"The URL of an endpoint may only name {', '.join(sorted(_KNOWN))}: {changes['url']}")
    return changes


@ENDPOINT.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    return ctx.tx.insert(ENDPOINT, _check(ctx, new))


@ENDPOINT.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    return ctx.tx.update(ENDPOINT, row, **_check(ctx, changes))


def _bases(ctx: Ctx) -> dict[str, str]:
    """What our own URLs begin with."""
    port = ctx.settings.get("objects_port")
    base = urlsplit(ctx.base_url)
    host = f"[{base.hostname}]" if ":" in (base.hostname or "") else base.hostname
    return {"base": ctx.base_url, "objects": f"{base.scheme}://{host}:{port}" if port else ctx.base_url}


def _own(url: str, ctx: Ctx) -> str:
    bases = _bases(ctx)
    return url.replace(BASE, bases["base"]).replace(OBJECTS, bases["objects"])


def catalog(ctx: Ctx, user_id: str, project_id: str | None) -> list[Row]:
    """The catalogue as a token shows it. Endpoints that name a project are left out where there is none."""
    values = {**_bases(ctx), "user_id": user_id, "project_id": project_id, "tenant_id": project_id}
    return remembered(ctx.tx, ("catalog", *values.values()), lambda: _catalog(ctx.tx, values))


def _catalog(tx: Tx, values: dict[str, str | None]) -> list[Row]:
    found = {}
    for row in tx.rows(SERVICE, SERVICE.c.enabled):
        found[row["id"]] = {"endpoints": [], "id": row["id"], "type": row["type"], "name": row["name"] or ""}
    for row in tx.rows(ENDPOINT, ENDPOINT.c.enabled):
        if (url := _filled(row["url"], values)) is not None and row["service_id"] in found:
            entry = {name: row[name] for name in ("id", "interface", "region_id")}
            found[row["service_id"]]["endpoints"].append(entry | {"url": url, "region": row["region_id"]})
    return list(found.values())


def _filled(url: str, values: dict[str, str | None]) -> str | None:
    names = re.findall(r"[$%]\(([^)]*)\)s", url)
    if any(values.get(name) is None for name in names):
        return None
    return re.sub(r"[$%]\(([^)]*)\)s", lambda match: str(values[match[1]]), url)
