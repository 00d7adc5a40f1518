"""Volume types, their extra specs, and which projects may use those that are not public."""

from typing import Any

import sqlalchemy as sa

from trilith.kernel.declare import ABSENT, Field, Noun, computed, flag, ident, json, text
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, MapOf, Member, Object, Text
from trilith.kernel.request import Ctx
from trilith.kernel.store import METADATA, Condition, Tx
from trilith.volume.versions import VOLUMES

Row = dict[str, Any]
DEFAULT_TYPE = "__DEFAULT__"
SPECS = MapOf(Text(255), Text(255, 1))
ACCESS = sa.Table(
    "volume_type_access",
    METADATA,
    sa.Column("type_id", sa.String(64), primary_key=True),
    sa.Column("project_id", sa.String(64), primary_key=True),
)


def _visible(ctx: Ctx) -> Condition | None:
    if ctx.who.is_admin:
        return None
    given = sa.select(ACCESS.c.type_id).where(ACCESS.c.project_id == ctx.who.project_id)
    return sa.or_(TYPE.c.is_public.is_(True), TYPE.c.id.in_(given))


def _public(ctx: Ctx, values: list[str]) -> Condition | None:
    if not ctx.who.is_admin or values[-1].lower() == "none":
        return None
    return TYPE.c.is_public.is_(Flag().from_query(values[-1], "is_public"))  # type: ignore[no-any-return]


TYPE = Noun(
    VOLUMES,
    "volume_type",
    "/types",
    dict(
        id=ident(sort=True),
        name=text(255, least=1, create="required", update=True, strip=True, sort=True),
        description=text(255, create="optional", update=True, null=True),
        is_public=flag(create="optional", update=True, default=True, filter=_public),
        access_is_public=Field(
            kind=Flag(),
            stored=False,
            create="optional",
            show=lambda row, ctx: ABSENT if ctx.method == "PUT" else row["is_public"],
            wire="os-volume-type-access:is_public",
        ),
        qos_specs_id=computed(lambda row, ctx: None if ctx.method == "GET" else ABSENT, see="admin"),
        extra_specs=json(create="optional", default=dict),
    ),
    dict(list="reader|anyone", show="reader|anyone", create="admin", update="admin", delete="admin"),
    plural="volume_types",
    owner=None,
    scope=_visible,
    unique=[("name",)],
    status=dict(create=200),
    order=(("created_at", "asc"), ("id", "asc")),
    type_name="VolumeType",
)


@TYPE.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    public = new.pop("access_is_public", None)
    new["extra_specs"] = SPECS.check(new["extra_specs"] or {}, "extra_specs", ctx.at)
    return ctx.tx.insert(TYPE, new if public is None else new | {"is_public": public})


@TYPE.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    if not changes:
        raise Fault("invalid", "Specify volume type name, description, is_public or a combination thereof.")
    return ctx.tx.update(TYPE, row, **changes)


@TYPE.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    from trilith.volume import type_quotas  # it knows types
    from trilith.volume.volumes import VOLUME

    if row["name"] == DEFAULT_TYPE:
        raise Fault("invalid", "The default volume type cannot be deleted.")
    if ctx.tx.count(VOLUME, type_id=row["id"]):
        raise Fault("invalid", f"Volume type {row['id']} is in use: delete or retype its volumes first.")
    ctx.tx.delete(TYPE, row)
    ctx.tx.execute(ACCESS.delete().where(ACCESS.c.type_id == row["id"]))
    type_quotas.forget(ctx.tx, row["id"])


@TYPE.route("GET", "/{id}/extra_specs", "anyone")
def specs(ctx: Ctx, row: Row) -> Row:
    return {"extra_specs": row["extra_specs"]}


@TYPE.route("POST", "/{id}/extra_specs", "admin", body=Object({"extra_specs": Member(SPECS, required=True)}))
def add_specs(ctx: Ctx, row: Row) -> Row:
    ctx.tx.update(TYPE, row, extra_specs=row["extra_specs"] | ctx.body["extra_specs"])
    return {"extra_specs": ctx.body["extra_specs"]}


def _spec(ctx: Ctx, row: Row) -> Row:
    key = ctx.path["key"]
    if key not in row["extra_specs"]:
        raise Fault("missing", f"Volume Type {row['id']} has no extra specs with key {key}.")
    return {key: row["extra_specs"][key]}


@TYPE.route("GET", "/{id}/extra_specs/{key}", "anyone")
def show_spec(ctx: Ctx, row: Row) -> Row:
    return _spec(ctx, row)


@TYPE.route("PUT", "/{id}/extra_specs/{key}", "admin", body=SPECS)
def set_spec(ctx: Ctx, row: Row) -> Row:
    if set(ctx.body) != {ctx.path["key"]}:
        raise Fault("invalid", "Request body and URI mismatch")
    ctx.tx.update(TYPE, row, extra_specs=row["extra_specs"] | ctx.body)
    return dict(ctx.body)


@TYPE.route("DELETE", "/{id}/extra_specs/{key}", "admin", status=202)
def remove_spec(ctx: Ctx, row: Row) -> None:
    _spec(ctx, row)
    ctx.tx.update(TYPE, row, extra_specs={k: v for k, v in row["extra_specs"].items() if k != ctx.path["key"]})


PROJECT = Object({"project": Member(Text(255, 1), required=True)})


@TYPE.verb("addProjectAccess", "admin", body=PROJECT)
def add_access(ctx: Ctx, row: Row, body: Row) -> None:
    if row["is_public"]:
        raise Fault("conflict", "Type access modification is not applicable to public volume type.")
    if ctx.tx.scalar(_access(row, body["project"])):
        raise Fault("conflict", f"Project {body['project']} has access to type {row['id']} already.")
    ctx.tx.execute(ACCESS.insert().values(type_id=row["id"], project_id=body["project"]))


@TYPE.verb("removeProjectAccess", "admin", body=PROJECT)
def remove_access(ctx: Ctx, row: Row, body: Row) -> None:
    if not ctx.tx.scalar(_access(row, body["project"])):
        raise Fault("missing", f"Project {body['project']} has no access to type {row['id']}.")
    ctx.tx.execute(ACCESS.delete().where(ACCESS.c.type_id == row["id"], ACCESS.c.project_id == body["project"]))


def _access(row: Row, project_id: str) -> sa.Select[Any]:
    return sa.select(ACCESS.c.type_id).where(ACCESS.c.type_id == row["id"], ACCESS.c.project_id == project_id)


@TYPE.route("GET", "/{id}/os-volume-type-access", "admin")
def list_access(ctx: Ctx, row: Row) -> Row:
    if row["is_public"]:
        raise Fault("missing", "Access list not available for public volume types.")
    found = ctx.tx.select(sa.select(ACCESS).where(ACCESS.c.type_id == row["id"]))
    return {"volume_type_access": [{"volume_type_id": row["id"], "project_id": f["project_id"]} for f in found]}


@TYPE.route("GET", "/default", "anyone", member=False)
def default(ctx: Ctx) -> Row:
    return {"volume_type": ctx.show(TYPE, default_type(ctx.tx))}


def default_type(tx: Tx) -> Row:
    row = tx.one(TYPE, name=DEFAULT_TYPE)
    if row is None:
        raise Fault("missing", "There is no default volume type.")
    return row


def find_type(tx: Tx, name_or_id: str | None, project_id: str | None = None, is_admin: bool = False) -> Row:
    """The type that a creation asks for, if the project may use it; the default one where it asks for none."""
    if name_or_id is None:
        return default_type(tx)
    row = tx.one(TYPE, sa.or_(TYPE.c.id == name_or_id, TYPE.c.name == name_or_id))
    if row is None or not (row["is_public"] or is_admin or tx.scalar(_access(row, project_id or ""))):
        raise Fault("missing", f"Volume type {name_or_id} could not be found.")
    return row


def shares(kind: Row) -> bool:
    """Whether several servers may have a volume of this type at once."""
    return bool(kind["extra_specs"].get("multiattach") == "<is> True")


def seed(tx: Tx, type_id: str) -> None:
    if tx.one(TYPE, name=DEFAULT_TYPE) is None:
        tx.insert(TYPE, {"id": type_id, "name": DEFAULT_TYPE, "description": "Default Volume Type", "is_public": True})
