"""Flavors: sizes of servers, their extra specs, and which projects may use those that are not public."""

from typing import Any

import sqlalchemy as sa

from trilith.compute.versions import COMPUTE
from trilith.compute.views import links
from trilith.kernel.declare import Field, Noun, computed, flag, json, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Decimal, Either, Flag, MapOf, Member, Object, Text, Whole
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx
from trilith.kernel.versions import v

Row = dict[str, Any]
NAME = r"\S(.*\S)?"
SPEC_KEY = Text(255, 1, r"[a-zA-Z0-9\-_:. ]{1,255}")
SPEC_VALUE = Either((Text(255), Decimal()))
SPECS = MapOf(SPEC_VALUE, SPEC_KEY)

ACCESS = Noun(
    COMPUTE,
    "flavor_access",
    "/flavors/{flavor_id}/os-flavor-access",
    dict(flavor_id=text(255), tenant_id=text(255, index=True)),
    {},
    owner=None,
    unique=[("flavor_id", "tenant_id")],
    type_name="FlavorAccess",
    plural="flavor_access",
)


def _scope(ctx: Ctx) -> sa.ColumnElement[bool] | None:
    """Public ones and those that the project was given; administrators see all. Who may do a thing is asked first."""
    if ctx.who.is_admin or ctx.url_path.endswith(("/action", "/os-flavor-access")):
        return None
    given = sa.select(ACCESS.c.flavor_id).where(ACCESS.c.tenant_id == ctx.who.project_id)
    return sa.or_(FLAVOR.c.is_public.is_(True), FLAVOR.c.id.in_(given))


def _public(ctx: Ctx, values: list[str]) -> sa.ColumnElement[bool] | None:
    if not ctx.who.is_admin or values[-1].lower() == "none":
        return None
    return FLAVOR.c.is_public.is_(Flag().from_query(values[-1], "is_public"))  # type: ignore[no-any-return]


def _least(column: str, name: str) -> Any:
    return lambda ctx, values: FLAVOR.c[column] >= Whole(0).from_query(values[-1], name)


FLAVOR = Noun(
    COMPUTE,
    "flavor",
    "/flavors",
    dict(
        id=Field(
            kind=Either((Text(255, 1, r"(?! )[a-zA-Z0-9. _-]+(?<! )"), Whole(0))),
            create="optional",
            null=True,
            brief=True,
            sort=True,
        ),
        name=text(255, NAME, 1, create="required", brief=True, sort=True),
        description=text(65535, create="optional", null=True, since=v("2.55"), brief=True),
        links=computed(lambda row, ctx: links(ctx, "flavors", row["id"]), brief=True),
        ram_mib=whole(1, create="required", wire="ram", sort=True),
        vcpus=whole(1, create="required", sort=True),
        disk_gib=whole(0, create="required", wire="disk", sort=True),
        swap_text=computed(lambda row, ctx: row["swap_mib"] or "", wire="swap", until=v("2.74")),
        swap_mib=whole(0, create="optional", default=0, wire="swap", since=v("2.75"), accept_since=v("2.1")),
        ephemeral_gib=whole(0, create="optional", default=0, wire="OS-FLV-EXT-DATA:ephemeral"),
        rxtx_factor=Field(kind=Decimal(0.001, 1e38), create="optional", default=1.0, until=v("2.101")),
        is_public=flag(create="optional", default=True, wire="os-flavor-access:is_public"),
        disabled=computed(lambda row, ctx: False, wire="OS-FLV-DISABLED:disabled", until=v("2.101")),
        extra_specs=json(default=dict, since=v("2.61")),
    ),
    dict(list="reader|anyone", show="reader|anyone", create="admin", delete="admin"),
    owner=None,
    scope=_scope,
    unique=[("name",)],
    detail=True,
    filters={
        "is_public": _public,
        "minRam": _least("ram_mib", "minRam"),
        "minDisk": _least("disk_gib", "minDisk"),
        "tenant_id": lambda ctx, values: None,
    },
    order=[("id", "asc")],
    type_name="Flavor",
)


@FLAVOR.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    new["id"] = str(new["id"]) if new["id"] != "auto" else ctx.new_id()
    if ctx.tx.one(FLAVOR, id=new["id"]):
        raise Fault("conflict", f"Flavor with ID {new['id']} already exists.")
    return ctx.tx.insert(FLAVOR, new)


@FLAVOR.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    ctx.tx.delete_where(ACCESS, flavor_id=row["id"])
    ctx.tx.delete(FLAVOR, row)


DESCRIPTION = Object({"flavor": Member(Object({"description": Member(Text(65535), required=True, null=True)}), True)})


@FLAVOR.route("PUT", "/{id}", "admin", since=v("2.55"), body=DESCRIPTION)
def update(ctx: Ctx, row: Row) -> Row:
    row = ctx.tx.update(FLAVOR, row, description=ctx.body["flavor"]["description"])
    return {"flavor": ctx.show(FLAVOR, row)}


def find_flavor(tx: Tx, scope: sa.ColumnElement[bool] | None, flavor_id: str) -> Row:
    """The flavor that a server asks for; 400 where there is none."""
    row = tx.one(FLAVOR, FLAVOR.c.id == flavor_id, scope)
    if row is None:
        raise Fault("invalid", f"Flavor {flavor_id} could not be found.")
    return row


def embedded(flavor: Row) -> Row:
    """What a server remembers of its flavor."""
    names = ("id", "name", "vcpus", "ram_mib", "disk_gib", "swap_mib", "ephemeral_gib", "extra_specs")
    return {name: flavor[name] for name in names}


# extra specs


@FLAVOR.route("GET", "/{id}/os-extra_specs", "anyone")
def list_specs(ctx: Ctx, row: Row) -> Row:
    return {"extra_specs": row["extra_specs"]}


@FLAVOR.route("POST", "/{id}/os-extra_specs", "admin", body=Object({"extra_specs": Member(SPECS, required=True)}))
def add_specs(ctx: Ctx, row: Row) -> Row:
    asked = {key: str(value) for key, value in ctx.body["extra_specs"].items()}
    ctx.tx.update(FLAVOR, row, extra_specs=row["extra_specs"] | asked)
    return {"extra_specs": asked}


def _spec(row: Row, key: str) -> Row:
    if key not in row["extra_specs"]:
        raise Fault("missing", f"Flavor {row['id']} has no extra specs with key {key}.")
    return {key: row["extra_specs"][key]}


@FLAVOR.route("GET", "/{id}/os-extra_specs/{key}", "anyone")
def show_spec(ctx: Ctx, row: Row) -> Row:
    return _spec(row, ctx.path["key"])


@FLAVOR.route("PUT", "/{id}/os-extra_specs/{key}", "admin", body=SPECS)
def set_spec(ctx: Ctx, row: Row) -> Row:
    key = ctx.path["key"]
    if set(ctx.body) != {key}:
        raise Fault("invalid", "Request body and URI mismatch")
    changed = {key: str(ctx.body[key])}
    ctx.tx.update(FLAVOR, row, extra_specs=row["extra_specs"] | changed)
    return changed


@FLAVOR.route("DELETE", "/{id}/os-extra_specs/{key}", "admin")
def drop_spec(ctx: Ctx, row: Row) -> None:
    _spec(row, ctx.path["key"])
    ctx.tx.update(FLAVOR, row, extra_specs={k: s for k, s in row["extra_specs"].items() if k != ctx.path["key"]})


# access


def _projects(ctx: Ctx, row: Row) -> Row:
    rows = ctx.tx.rows(ACCESS, flavor_id=row["id"])
    return {"flavor_access": [{"flavor_id": row["id"], "tenant_id": a["tenant_id"]} for a in rows]}


@FLAVOR.route("GET", "/{id}/os-flavor-access", "admin")
def list_access(ctx: Ctx, row: Row) -> Row:
    if row["is_public"]:
        raise Fault("missing", "Access list not available for public flavors.")
    return _projects(ctx, row)


TENANT = Object({"tenant": Member(Text(255, 1), required=True)})


@FLAVOR.verb("addTenantAccess", "admin", body=TENANT, status=200)
def add_access(ctx: Ctx, row: Row, body: Row) -> Row:
    if row["is_public"]:
        raise Fault("conflict", "Can not add access to a public flavor.")
    if ctx.tx.one(ACCESS, flavor_id=row["id"], tenant_id=body["tenant"]):
        raise Fault(
            "conflict", f"Flavor access already exists for flavor {row['id']} and project {body['tenant']} combination."
        )
    ctx.tx.insert(ACCESS, {"id": ctx.new_id(), "flavor_id": row["id"], "tenant_id": body["tenant"]})
    return _projects(ctx, row)


@FLAVOR.verb("removeTenantAccess", "admin", body=TENANT, status=200)
def remove_access(ctx: Ctx, row: Row, body: Row) -> Row:
    if not ctx.tx.delete_where(ACCESS, flavor_id=row["id"], tenant_id=body["tenant"]):
        raise Fault("missing", f"Flavor access not found for {row['id']} / {body['tenant']} combination.")
    return _projects(ctx, row)
