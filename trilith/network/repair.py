"""`trilith repair network`: the northbound rows made anew from SQL. Asked for and done are counted, so that no request
is lost when the controller that took it dies."""

from typing import Any

import sqlalchemy as sa

from trilith.kernel.request import Ctx
from trilith.kernel.store import METADATA, Tx
from trilith.placement.hosts import AGENTS

REPAIRS = sa.Table(
    "network_repairs",
    METADATA,
    sa.Column("what", sa.String(32), primary_key=True),
    sa.Column("asked", sa.Integer(), nullable=False),
    sa.Column("done", sa.Integer(), nullable=False),
)
WHAT = "northbound"


@AGENTS.route("POST", "/repair/network", "service", status=202)
def ask(ctx: Ctx) -> dict[str, Any]:
    """Have everything in OVN's northbound database replaced in one transaction; connections live on."""
    if ctx.tx.execute(REPAIRS.update().where(REPAIRS.c.what == WHAT).values(asked=REPAIRS.c.asked + 1)).rowcount == 0:
        ctx.tx.execute(REPAIRS.insert().values(what=WHAT, asked=1, done=0))
    ctx.tx.hint("northbound")
    return {"message": "The network's northbound rows are being made anew; see: trilith logs --follow"}


def pending(tx: Tx) -> int:
    """The number of the newest request that is not done; 0 when there is none."""
    row = tx.execute(sa.select(REPAIRS).where(REPAIRS.c.what == WHAT)).mappings().first()
    return int(row["asked"]) if row is not None and row["asked"] > row["done"] else 0


def done(tx: Tx, number: int) -> None:
    tx.execute(REPAIRS.update().where(REPAIRS.c.what == WHAT, REPAIRS.c.done < number).values(done=number))
