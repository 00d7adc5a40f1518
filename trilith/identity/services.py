"""The catalogue's services."""

from typing import Any

from trilith.identity import rules
from trilith.identity.versions import IDENTITY, IdentityNoun
from trilith.kernel.declare import Field, computed, text
from trilith.kernel.kinds import Flag, Json
from trilith.kernel.request import Ctx

Row = dict[str, Any]

SERVICE: IdentityNoun = IdentityNoun(
    IDENTITY,
    "service",
    "/services",
    dict(
        id=text(64),
        type=text(255, least=1, create="required", update=True, filter=True, sort=True),
        name=text(255, create="optional", update=True, null=True, filter=True, sort=True, optional_in_view=True),
        description=text(65535, create="optional", update=True, null=True, optional_in_view=True),
        enabled=Field(kind=Flag(strict=True), create="optional", update=True, default=True),
        links=computed(lambda row, ctx: SERVICE.links(row, ctx)),
    ),
    dict(list=rules.READ_ALL, show=rules.READ_ALL, create="admin", update="admin", delete="admin"),
    owner=None,
    extra=Json(),
)


@SERVICE.on("delete")
def delete(ctx: Ctx, row: Row) -> None:
    from trilith.identity.endpoints import ENDPOINT

    ctx.tx.delete_where(ENDPOINT, service_id=row["id"])
    ctx.tx.delete(SERVICE, row)
