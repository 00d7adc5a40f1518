"""Projects: a tree in each domain. A project never moves, so each row keeps its line of ancestors."""

from typing import Any

import sqlalchemy as sa

from trilith.identity import relations, rules
from trilith.identity.domains import chosen_domain
from trilith.identity.versions import IDENTITY, IdentityNoun
from trilith.kernel.declare import Field, computed, json, listing, text, whole
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Flag, Json, ListOf, Member, Object, Text
from trilith.kernel.request import Ctx
from trilith.kernel.store import Tx

Row = dict[str, Any]
MAX_DEPTH = 5  # projects above each other in a domain
TAG = Text(255, 1, r"[^,/]+")
TAGS = ListOf(TAG, 80, unique=True)


def _tagged(ctx: Ctx, values: list[str], every: bool) -> sa.ColumnElement[bool]:
    """Tags are few and short: found in the JSON text, where a tag stands between quotes."""
    words = [word for value in values for word in value.split(",")]
    text_ = sa.cast(PROJECT.c.tags, sa.Text())
    found = [text_.contains(f'"{word}"', autoescape=True) for word in words]
    return sa.and_(*found) if every else sa.or_(*found)


PROJECT: IdentityNoun = IdentityNoun(
    IDENTITY,
    "project",
    "/projects",
    dict(
        id=text(64),
        name=text(64, least=1, create="required", update=True, filter=True, sort=True),
        domain_id=text(64, create="optional", update=True, null=True, filter=True),
        parent_id=text(64, create="optional", update=True, null=True, filter=True),
        is_domain=Field(kind=Flag(strict=True), create="optional", update=True, default=False, filter=True),
        description=text(65535, create="optional", update=True, default="", null=True),
        enabled=Field(kind=Flag(strict=True), create="optional", update=True, default=True, filter=True),
        tags=listing(TAG, create="optional", update=True).but(kind=TAGS),
        options=json(create="optional", update=True, default=dict),
        ancestors=json(default=list, hidden=True),  # ids from its parent up to its domain
        token_epoch=whole(default=0, hidden=True),  # grows when it is disabled: its tokens end for good
        links=computed(lambda row, ctx: PROJECT.links(row, ctx)),
        parents=computed(lambda row, ctx: row.get("parents"), optional_in_view=True),  # see `show`
        subtree=computed(lambda row, ctx: row.get("subtree"), optional_in_view=True),
    ),
    rules.POLICY | dict(show=f"{rules.READ}|own_project"),
    owner=None,
    unique=[("domain_id", "name")],
    extra=Json(),
    filters={
        "tags": lambda ctx, values: _tagged(ctx, values, True),
        "tags-any": lambda ctx, values: _tagged(ctx, values, False),
        "not-tags": lambda ctx, values: ~_tagged(ctx, values, True),
        "not-tags-any": lambda ctx, values: ~_tagged(ctx, values, False),
    },
)


@PROJECT.on("create")
def create(ctx: Ctx, new: Row) -> Row:
    if new["is_domain"]:
        raise Fault("invalid", "A project that acts as a domain is made with POST /v3/domains.")
    parent = ctx.tx.one(PROJECT, id=new["parent_id"]) if new["parent_id"] else None
    domain_id = parent["domain_id"] if parent else new["parent_id"]
    if domain_id and new["domain_id"] and domain_id != new["domain_id"]:
        raise Fault("invalid", "The domain_id of a project must be that of its parent.")
    new["domain_id"] = chosen_domain(ctx, new["domain_id"] or domain_id)
    new["parent_id"] = parent["id"] if parent else new["domain_id"]
    new["ancestors"] = [parent["id"], *parent["ancestors"]] if parent else [new["domain_id"]]
    ctx.require(rules.MANAGE, "identity:create_project", new)
    if len(new["ancestors"]) > MAX_DEPTH:
        raise Fault("forbidden", f"Max hierarchy depth reached for {new['parent_id']} branch.")
    if parent and not parent["enabled"]:
        raise Fault("forbidden", f"Cannot create a project in a branch containing a disabled project: {parent['id']}.")
    return ctx.tx.insert(PROJECT, new)


@PROJECT.on("update")
def update(ctx: Ctx, row: Row, changes: Row) -> Row:
    for name in ("parent_id", "domain_id", "is_domain"):
        if name in changes and changes[name] != row[name]:
            kind = "forbidden" if name == "parent_id" else "invalid"
            raise Fault(kind, f"Update of `{name}` is not allowed.")  # type: ignore[arg-type]
    if row["enabled"] and changes.get("enabled") is False:
        if ctx.tx.count(PROJECT, parent_id=row["id"], enabled=True):
            raise Fault(
                "forbidden",
                f"Cannot disable project {row['id']} since its subtree contains enabled projects.",
            )
        changes["token_epoch"] = row["token_epoch"] + 1
    if not row["enabled"] and changes.get("enabled"):
        above = ctx.tx.one(PROJECT, id=row["parent_id"])
        if above and not above["enabled"]:
            raise Fault("forbidden", f"Cannot enable project {row['id']} since it has disabled parents.")
    return ctx.tx.update(PROJECT, row, **changes)


@PROJECT.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    if ctx.tx.count(PROJECT, parent_id=row["id"]):
        raise Fault(
            "forbidden",
            f"Cannot delete the project {row['id']} since it is not a leaf in the hierarchy. Use the cascade option if "
            "you want to delete a whole subtree.",
        )
    drop_project(ctx.tx, row)


def drop_project(tx: Tx, row: Row) -> None:
    """The project and every mention of it in identity."""
    from trilith.identity.application_credentials import APPLICATION_CREDENTIAL
    from trilith.identity.users import USER

    relations.forget(tx, relations.ASSIGNMENT, target_id=row["id"])
    tx.delete_where(APPLICATION_CREDENTIAL, project_id=row["id"])
    for user in tx.rows(USER, default_project_id=row["id"]):
        tx.update(USER, user, default_project_id=None)
    tx.delete(PROJECT, row)


# the tree
@PROJECT.on("show")
def show(ctx: Ctx, row: Row) -> Row:
    """With the projects above or below it where the query asks: as a list, or as ids inside each other."""
    asked = ctx.query.keys()
    if asked >= {"parents_as_list", "parents_as_ids"} or asked >= {"subtree_as_list", "subtree_as_ids"}:
        raise Fault("invalid", "Ask for a list or for ids, not for both.")
    found = dict(row)
    if "parents_as_list" in asked:
        found["parents"] = _listed(ctx, parents(ctx.tx, row))
    if "parents_as_ids" in asked:
        nested: Row | None = None
        for above in reversed(row["ancestors"]):
            nested = {above: nested}
        found["parents"] = nested
    if "subtree_as_list" in asked:
        found["subtree"] = _listed(ctx, subtree(ctx.tx, [row["id"]]))
    if "subtree_as_ids" in asked:
        found["subtree"] = _nested(row["id"], subtree(ctx.tx, [row["id"]]))
    return found


def _listed(ctx: Ctx, rows: list[Row]) -> list[Row]:
    return [{"project": ctx.show(PROJECT, row)} for row in rows if ctx.may(f"{rules.READ}|own_project", row)]


def _nested(root: str, rows: list[Row]) -> Row | None:
    below = {row["id"]: _nested(row["id"], rows) for row in rows if row["parent_id"] == root}
    return below or None


def subtree(tx: Tx, root_ids: list[str]) -> list[Row]:
    """Every project below these projects or domains, nearest first."""
    found: list[Row] = []
    level = root_ids
    while level:
        rows = tx.rows(PROJECT, parent_id=level)
        found += rows
        level = [row["id"] for row in rows]
    return found


def parents(tx: Tx, row: Row) -> list[Row]:
    """The projects above, nearest first."""
    rows = {found["id"]: found for found in tx.rows(PROJECT, id=row["ancestors"])}
    return [rows[name] for name in row["ancestors"] if name in rows]


# tags
@PROJECT.route("GET", "/{id}/tags", f"{rules.READ}|own_project")
def list_tags(ctx: Ctx, row: Row) -> Row:
    return {"tags": row["tags"], "links": {"self": ctx.url(f"/projects/{row['id']}/tags")}}


@PROJECT.route("PUT", "/{id}/tags", rules.MANAGE, body=Object({"tags": Member(TAGS, required=True)}))
def set_tags(ctx: Ctx, row: Row) -> Row:
    return list_tags(ctx, ctx.tx.update(PROJECT, row, tags=ctx.body["tags"]))  # type: ignore[no-any-return]


@PROJECT.route("DELETE", "/{id}/tags", rules.MANAGE, status=204)
def clear_tags(ctx: Ctx, row: Row) -> None:
    ctx.tx.update(PROJECT, row, tags=[])


@PROJECT.route("GET", "/{id}/tags/{tag}", f"{rules.READ}|own_project", status=204)
def check_tag(ctx: Ctx, row: Row) -> None:
    if ctx.path["tag"] not in row["tags"]:
        raise Fault("missing", f"Could not find project tag: {ctx.path['tag']}.")


@PROJECT.route("PUT", "/{id}/tags/{tag}", rules.MANAGE, status=201)
def add_tag(ctx: Ctx, row: Row) -> None:
    tag = TAG.check(ctx.path["tag"], "tag", ctx.at)
    if tag not in row["tags"]:
        ctx.tx.update(PROJECT, row, tags=TAGS.check([*row["tags"], tag], "tags", ctx.at))


@PROJECT.route("DELETE", "/{id}/tags/{tag}", rules.MANAGE, status=204)
def remove_tag(ctx: Ctx, row: Row) -> None:
    check_tag(ctx, row)
    ctx.tx.update(PROJECT, row, tags=[tag for tag in row["tags"] if tag != ctx.path["tag"]])
