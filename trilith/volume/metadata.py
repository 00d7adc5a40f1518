"""``/{noun}/{id}/metadata``: the same six operations under volumes and under snapshots."""

from typing import Any

from trilith.kernel.declare import Noun
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import MapOf, Member, Object, Text
from trilith.kernel.request import Ctx

Row = dict[str, Any]
METADATA = MapOf(Text(255), Text(255, 1))
WHOLE = Object({"metadata": Member(METADATA, required=True)})
ONE = Object({"meta": Member(METADATA, required=True)})


def declare(noun: Noun) -> None:
    """Adds the operations; the noun's rows have a `metadata` column."""

    def _set(ctx: Ctx, row: Row, metadata: Row) -> Row:
        return dict(ctx.tx.update(noun, row, metadata=metadata)["metadata"])

    @noun.route("GET", "/{id}/metadata", "reader")
    def show(ctx: Ctx, row: Row) -> Row:
        return {"metadata": row["metadata"]}

    @noun.route("POST", "/{id}/metadata", "member", body=WHOLE)
    def merge(ctx: Ctx, row: Row) -> Row:
        return {"metadata": _set(ctx, row, row["metadata"] | ctx.body["metadata"])}

    @noun.route("PUT", "/{id}/metadata", "member", body=WHOLE)
    def replace(ctx: Ctx, row: Row) -> Row:
        return {"metadata": _set(ctx, row, ctx.body["metadata"])}

    @noun.route("GET", "/{id}/metadata/{key}", "reader")
    def show_one(ctx: Ctx, row: Row) -> Row:
        return {"meta": {ctx.path["key"]: _value(ctx, row)}}

    @noun.route("PUT", "/{id}/metadata/{key}", "member", body=ONE)
    def set_one(ctx: Ctx, row: Row) -> Row:
        if set(ctx.body["meta"]) != {ctx.path["key"]}:
            raise Fault("invalid", "Request body and URI mismatch")
        _set(ctx, row, row["metadata"] | ctx.body["meta"])
        return {"meta": ctx.body["meta"]}

    @noun.route("DELETE", "/{id}/metadata/{key}", "member")
    def remove_one(ctx: Ctx, row: Row) -> None:
        _value(ctx, row)
        _set(ctx, row, {key: value for key, value in row["metadata"].items() if key != ctx.path["key"]})


def _value(ctx: Ctx, row: Row) -> str:
    if ctx.path["key"] not in row["metadata"]:
        raise Fault("missing", f"Metadata item {ctx.path['key']} could not be found.")
    return str(row["metadata"][ctx.path["key"]])
