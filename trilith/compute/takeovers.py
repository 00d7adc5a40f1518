"""What became of lost hosts: a row for each time that a host was not heard, with the time of each phase. The rows are
the state of the takeover that is under way, and its history.

States: ``suspect`` (not heard), ``down-unfenced`` (lost for good, and not yet known to run nothing), ``fenced`` (it
runs nothing; its machines are being started elsewhere), ``taken-over`` (they are, or it is said why they stay), and
when it is over ``returned``, or ``false-alarm`` where it was heard again before anything was done.
"""

from collections.abc import Mapping
from typing import Any

from trilith.compute.versions import COMPUTE
from trilith.kernel.declare import Noun, flag, ident, json, text, whole
from trilith.kernel.notices import tell
from trilith.kernel.store import Tx
from trilith.placement.hosts import HOST, LEASE_S, lapsed_s

Row = dict[str, Any]
OVER = ("returned", "false-alarm")
KEPT = 200  # of a cloud's history

TAKEOVER = Noun(
    COMPUTE,
    "takeover",
    "/takeovers",
    dict(
        id=ident(),
        host=text(255, index=True),
        state=text(32),
        ended=flag(default=False),
        why=text(1024, default=""),  # it is not further, and what to do
        forced=flag(default=False),  # its host's ``forced_down`` is ours
        word_given=flag(default=False),  # an operator says that it is off
        opinion=json(default=dict),  # what other hosts said of it, when it was given up
        fenced_by=text(64),
        times=json(default=dict),  # state -> seconds since 1970; also ``barred`` and ``storage``
        moves=json(default=list),  # of each machine: server_id name priority to why again at_s
    ),
    {},
    owner=None,
)

CONTROL = Noun(
    COMPUTE,
    "takeover_control",
    "/takeover-control",
    dict(
        id=ident(),
        reserve_hosts=whole(default=0),
        calm_until_s=json(default=0.0),  # nobody was heard: those who come back are waited for
        brake=json(),  # since_s over_s hosts released_s; None: it does not hold
    ),
    {},
    owner=None,
)
ONE = "takeover"  # the only row's id


def control(tx: Tx) -> Row:
    """What holds for the whole cloud; a blank row where nothing was ever written."""
    return tx.one(CONTROL, id=ONE) or CONTROL.blank() | {"id": ONE}


def set_control(tx: Tx, **changes: Any) -> Row:
    row = tx.one(CONTROL, id=ONE)
    return tx.insert(CONTROL, {"id": ONE, **changes}) if row is None else tx.update(CONTROL, row, **changes)


def reserve_hosts(tx: Tx) -> int:
    return int(control(tx)["reserve_hosts"])


def under_way(tx: Tx) -> dict[str, Row]:
    """By host, what has not ended."""
    return {row["host"]: row for row in tx.rows(TAKEOVER, ended=False)}


def is_off(tx: Tx, name: str) -> bool:
    """Whether the host is known to run nothing: it is no part of the cloud, a client of the API said so
    (``forced_down``), or it was fenced and not heard since. One that is only barred may run everything still."""
    host = tx.one(HOST, name=name)
    if host is None or not host["forced_down"]:
        return host is None
    row = tx.one(TAKEOVER, host=name, ended=False)
    if row is None or not row["forced"]:
        return True
    return row["state"] == "fenced" or (row["state"] == "taken-over" and lapsed_s(host, tx.now_s()) > LEASE_S)


def forget(tx: Tx, host: str) -> None:
    """The host is no part of the cloud any more."""
    for row in tx.rows(TAKEOVER, host=host, ended=False):
        tx.update(TAKEOVER, row, ended=True)


def history(tx: Tx) -> list[Row]:
    """Newest first."""
    return sorted(tx.rows(TAKEOVER), key=lambda row: str(row["created_at"]), reverse=True)


def advance(tx: Tx, row: Row, state: str, **changes: Any) -> Row:
    """Into another state, at this moment; the operators' tools are told."""
    times = row["times"] | {state: tx.now_s()}
    row = tx.update(TAKEOVER, row, state=state, times=times, ended=state in OVER, **changes)
    told = {name: row[name] for name in ("id", "host", "state", "why", "fenced_by", "times", "moves")}
    tell(tx, COMPUTE, f"host.takeover.{state.replace('-', '_')}", told)
    return row


def change_host(tx: Tx, host: Row, **changes: Any) -> Row:
    """Columns of a host; what a client of the API sees of them is told as nova tells it."""
    row = tx.update(HOST, host, **changes)
    if service(row) != service(host):
        tell(tx, COMPUTE, "service.update", service(row))
    return row


def service(host: Mapping[str, Any]) -> Row:
    """The payload of ``service.update``."""
    names = ("forced_down", "disabled", "disabled_reason", "availability_zone")
    return {"host": host["name"], "binary": "nova-compute", "topic": "compute"} | {name: host[name] for name in names}


def forget_old(tx: Tx) -> None:
    """A sweep: the history has an end."""
    for row in [row for row in history(tx)[KEPT:] if row["ended"]]:
        tx.delete(TAKEOVER, row)
