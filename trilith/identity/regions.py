"""Regions: names that endpoints stand in, in a tree."""

from typing import Any

from trilith.identity.versions import IDENTITY, IdentityNoun
from trilith.kernel.declare import computed, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Json
from trilith.kernel.request import Ctx

Row = dict[str, Any]

REGION: IdentityNoun = IdentityNoun(
    IDENTITY,
    "region",
    "/regions",
    dict(
        id=text(64, create="optional", null=True, sort=True),
        description=text(255, create="optional", update=True, default="", null=True),
        parent_region_id=text(64, create="optional", update=True, null=True, filter=True),
        links=computed(lambda row, ctx: REGION.links(row, ctx)),
    ),
    dict(list="anyone", show="anyone", create="admin", update="admin", delete="admin"),
    owner=None,
    extra=Json(),
)


def _check_parent(ctx: Ctx, region_id: str, parent_id: str | None) -> None:
    while parent_id:
        if parent_id == region_id:
            raise Fault("invalid", f"Region {region_id} cannot be below itself.")
        parent_id = ctx.tx.get(REGION, parent_id)["parent_region_id"]


@REGION.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    if ctx.tx.one(REGION, id=new["id"]):  # the id is the name here
        raise REGION.duplicate(new)
    _check_parent(ctx, new["id"], new["parent_region_id"])
    return ctx.tx.insert(REGION, new)


@REGION.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    _check_parent(ctx, row["id"], changes.get("parent_region_id"))
    return ctx.tx.update(REGION, row, **changes)


@REGION.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    from trilith.identity.endpoints import ENDPOINT

    if ctx.tx.count(REGION, parent_region_id=row["id"]):
        raise Fault("forbidden", f"Unable to delete region {row['id']} because it or its child regions exist.")
    if ctx.tx.count(ENDPOINT, region_id=row["id"]):
        raise Fault("forbidden", f"Unable to delete region {row['id']} because it has associated endpoints.")
    ctx.tx.delete(REGION, row)


@REGION.route("PUT", "/{id}", "admin", member=False, status=201)
def create_with_id(ctx: Ctx) -> Row:
    """The same as a creation, with the id in the path."""
    content = ctx.service.wire.unwrap(REGION, ctx.body, "create")
    new = REGION.accept(ctx, {**content, "id": ctx.path["id"]}, "create")
    return {"region": ctx.show(REGION, create(ctx, new))}
