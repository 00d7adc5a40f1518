"""`trilith hosts` and what an operator says of a host: what SQL knows, on a controller."""

import textwrap
import threading
import time
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from trilith.cluster.state import Problem, Settings, State
from trilith.compute import takeovers
from trilith.compute.aggregates import AGGREGATE, zone_of
from trilith.compute.scheduler import usage
from trilith.compute.takeovers import TAKEOVER
from trilith.kernel.errors import Unavailable
from trilith.kernel.store import Store, Tx
from trilith.placement.hosts import HOST, is_up, lapsed_s

Doc = dict[str, Any]
SQL_S = 15.0
MAINTENANCE = "maintenance"  # why a host is disabled


def in_sql(state: State, settings: Settings, work: Any) -> Any:
    """What ``work(tx)`` returns. Raises `Problem` when this host has no SQL, or that does not answer in time."""
    if "control" not in settings.this_host.roles:
        names = ", ".join(host.name for host in settings.controllers)
        raise Problem(f"{settings.host} is no controller. Type it on one of: {names}.")
    done: list[Any] = []

    def ask() -> None:
        from trilith.cluster.api import open_store

        try:
            store: Store = open_store(state, settings)
            done.append(store.run(work))
        except (sa.exc.SQLAlchemyError, OSError, Unavailable) as error:
            done.append(Problem(f"SQL does not answer: {type(error).__name__}. See: trilith status"))
        except Problem as problem:
            done.append(problem)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SQL_S)
    if not done:
        raise Problem(f"SQL does not answer within {SQL_S:.0f} s. See: trilith status")
    if isinstance(done[0], Problem):
        raise done[0]
    return done[0]


def hosts(tx: Tx) -> Doc:
    """``hosts`` and ``brake``."""
    now_s, under_way, used, aggregates = tx.now_s(), takeovers.under_way(tx), usage(tx), tx.rows(AGGREGATE)
    found = []
    for row in sorted(tx.rows(HOST), key=lambda row: int(row["number"])):
        own, has = used.get(row["name"], {}), row["inventory"]
        takeover = under_way.get(row["name"])
        found.append(
            {
                "name": row["name"],
                "state": _state(row, takeover, now_s),
                "roles": row["roles"],
                "zone": zone_of(row, aggregates) if "compute" in row["roles"] else None,
                "silent_s": round(lapsed_s(row, now_s), 1) if row["epoch"] else None,
                "disabled": row["disabled"],
                "maintenance": row["maintenance"],
                "forced_down": row["forced_down"],
                "machines": own.get("servers", 0),
                "vcpus": {"used": own.get("vcpus", 0), "of": has.get("vcpus", 0)},
                "ram_mib": {"used": own.get("ram_mib", 0), "of": has.get("ram_mib", 0)},
                "why": takeover["why"] if takeover else "",
                "takeover": takeover["id"] if takeover else None,
            }
        )
    return {"hosts": found, "brake": takeovers.control(tx)["brake"]}


def _state(row: Doc, takeover: Doc | None, now_s: float) -> str:
    if takeover is not None:
        return str(takeover["state"])
    if row["maintenance"]:
        return MAINTENANCE
    if not row["epoch"]:
        return "never heard"
    return "up" if is_up(row, now_s) else "down"


def history(tx: Tx) -> Doc:
    """Newest first."""
    names = ("id", "host", "state", "why", "fenced_by", "times", "moves", "opinion")
    return {"takeovers": [{name: row[name] for name in names} for row in takeovers.history(tx)]}


def set_maintenance(tx: Tx, name: str, on: bool) -> str:
    row = _row(tx, name)
    changes: Doc = {"maintenance": on, "disabled": on, "disabled_reason": MAINTENANCE if on else None}
    takeovers.change_host(tx, row, **changes)
    count = usage(tx, hosts=[name]).get(name, {}).get("servers", 0)
    if on:
        return f"{name} gets no new machines, and is not taken over when it is off. It has {count} machines."
    return f"{name} gets machines again."


def give_word(tx: Tx, name: str) -> str:
    """An operator says that the host is off."""
    host = _row(tx, name)
    row = takeovers.under_way(tx).get(name)
    if row is None or row["state"] not in ("suspect", "down-unfenced"):
        state = _state(host, row, tx.now_s())
        raise Problem(f"{name} is {state}: nothing waits for your word. See: trilith hosts")
    tx.update(TAKEOVER, row, word_given=True)
    return f"Then the machines of {name} start elsewhere. To watch: trilith hosts"


def release_brake(tx: Tx) -> str:
    brake = takeovers.control(tx)["brake"]
    if brake is None or brake["released_s"] is not None:
        raise Problem("The storm brake does not hold. See: trilith hosts")
    takeovers.set_control(tx, brake=brake | {"released_s": tx.now_s()})
    return f"The takeovers of {', '.join(brake['hosts'])} go on, if they are still not heard. To watch: trilith hosts"


def _row(tx: Tx, name: str) -> Doc:
    row = tx.one(HOST, name=name)
    if row is None:
        names = ", ".join(sorted(each["name"] for each in tx.rows(HOST)))
        raise Problem(f"There is no host {name}; there are: {names}.")
    return row


# as text, at most 80 columns


def as_text(document: Doc) -> str:
    from trilith.cluster.status import table

    heads = ("host", "state", "zone", "machines", "vcpus", "GiB RAM", "heard")
    lines = list(table(heads, [_line(host) for host in document["hosts"]]))
    lines += _folded("", [f"{host['name']}: {host['why']}" for host in document["hosts"] if host["why"]])
    if (brake := document["brake"]) is not None:
        words = f"Storm brake: {', '.join(brake['hosts'])} were lost at once, {_clock(brake['since_s'])}. "
        words += "Released." if brake["released_s"] else "Nothing is touched until: trilith host release-brake"
        lines += _folded("", [words])
    return "\n".join(lines)


def _line(host: Doc) -> tuple[str, ...]:
    state = f"{host['state']}, disabled" if host["disabled"] and not host["maintenance"] else host["state"]
    computes = "compute" in host["roles"]
    vcpus, ram = host["vcpus"], host["ram_mib"]
    amounts = f"{vcpus['used']}/{vcpus['of']}", f"{ram['used'] / 1024:.0f}/{ram['of'] / 1024:.0f}"
    heard = "-" if host["silent_s"] is None else f"{host['silent_s']:.0f} s"
    rest = (host["zone"][:12], str(host["machines"]), *amounts) if computes else ("-", "-", "-", "-")
    return (host["name"][:20], state, *rest, heard)


def history_as_text(document: Doc) -> str:
    lines: list[str] = []
    for each in document["takeovers"]:
        lines += [
            "",
            f"{each['host']}: {each['state']}" + (f" (fenced by {each['fenced_by']})" if each["fenced_by"] else ""),
        ]
        begun_s = min(each["times"].values(), default=0.0)
        for phase, at_s in sorted(each["times"].items(), key=lambda pair: float(pair[1])):
            lines.append(f"  {_clock(at_s)}  +{at_s - begun_s:6.1f} s  {phase}")
        lines += _folded("  ", [each["why"]] if each["why"] else [])
        for move in each["moves"]:
            where = f"to {move['to']}" if move["to"] else move["why"]
            lines += _folded("  ", [f"{move['name'][:30]} ({move['priority']}): {where}"])
    return "\n".join(lines[1:]) or "No host was ever lost."


def _folded(indent: str, sentences: list[str]) -> list[str]:
    """A command that is to be typed is never broken at its hyphens."""
    folds: Doc = {"width": 79, "initial_indent": indent, "subsequent_indent": "  ", "break_on_hyphens": False}
    return [line for each in sentences for line in textwrap.wrap(each, **folds)]


def _clock(at_s: float) -> str:
    if time.time() - at_s > 86400:
        return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S")
