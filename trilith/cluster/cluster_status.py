"""A cluster's status, as any of its hosts can tell it: what every keeper says, who leads what, who holds which lease.

Asking is bounded: a host that is away, or SQL without a quorum, is an answer too.
"""

import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from trilith import __version__
from trilith.cluster.engines.own_units import HANDS
from trilith.cluster.engines.peers import Peers
from trilith.cluster.state import Settings, State

Doc = dict[str, Any]
SQL_S = 8.0
WHY_COLUMNS = 72
CLOCKS_S = 2.0  # leases are seconds: hosts' clocks must be closer than this
STORAGE_S = 60.0  # its health is told six times as often
HEALTH_OK = "HEALTH_OK"
HEALTHY, DEGRADED, DOWN = 0, 1, 3


def cluster_status(state: State, settings: Settings) -> tuple[Doc, int]:
    """The document and the exit code: 0 all is well, 1 degraded, 3 nobody can be served."""
    hosts, peers = settings.cluster.hosts, Peers(state)
    with ThreadPoolExecutor(len(hosts)) as pool:
        keepers = dict(zip([host.name for host in hosts], pool.map(peers.ask, hosts), strict=True))
    now_s = time.time()
    sql = _asked_sql(state, settings) if "control" in settings.this_host.roles else {}
    document = described(settings, keepers, sql, now_s)
    return document, DOWN if not document["serves"] else DEGRADED if document["degraded"] else HEALTHY


def _asked_sql(state: State, settings: Settings) -> Doc:
    """{"leases", "hosts", "takeovers", "brake", "storage"}, or {"problem"} when SQL does not answer in time."""
    found: Doc = {"problem": f"SQL does not answer within {SQL_S:.0f} s"}

    def ask() -> None:
        from trilith.cluster.api import open_store
        from trilith.compute import takeovers
        from trilith.kernel.leases import LEASES
        from trilith.kernel.store import Tx
        from trilith.placement.hosts import HOST, is_up
        from trilith.volume.shared_storage import shared_storage

        def read(tx: Tx) -> Doc:
            leases = [dict(row) for row in tx.execute(sa.select(LEASES)).mappings()]
            rows = tx.rows(HOST)
            beats = {row["name"]: {"up": is_up(row), "seen_at_s": row["seen_at_s"]} for row in rows}
            lost = {host: {"state": row["state"], "why": row["why"]} for host, row in takeovers.under_way(tx).items()}
            brake, storage = takeovers.control(tx)["brake"], shared_storage(tx)
            return {"leases": leases, "hosts": beats, "takeovers": lost, "brake": brake, "storage": storage}

        try:
            store = open_store(state, settings)
            found.update(store.read(read))
            found.pop("problem")
        except (sa.exc.SQLAlchemyError, OSError) as error:
            found["problem"] = f"SQL does not answer: {type(error).__name__}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SQL_S)
    return dict(found)


def described(settings: Settings, keepers: dict[str, Doc | None], sql: Doc, now_s: float) -> Doc:
    """Pure. `keepers`: each host's state document, None where it did not answer."""
    cluster = settings.cluster
    hosts = [_host(host.name, host.address, list(host.roles), keepers.get(host.name), sql) for host in cluster.hosts]
    controllers = [host.name for host in settings.controllers]
    document: Doc = {
        "cloud_id": settings.cloud_id,
        "name": cluster.name,
        "fake": cluster.fake,
        "endpoints": {"api": settings.api_url, "identity": f"{settings.api_url}/identity"},
        "versions": {
            "trilith": __version__,
            "programs": sorted({host["program"] for host in hosts if host["program"]}),
        },
        "hosts": hosts,
        "vip": {"address": cluster.vip, "holders": _with(keepers, "keepalived", "holds_vip")},
        "database": {"writer": _writer(keepers), "synced": _with(keepers, "galera", "synced")},
        "leases": _leases(sql, now_s),
        "quorum": _quorum(controllers, keepers),
    }
    document["degraded"] = _degraded(document, keepers, sql, now_s)
    document["serves"] = bool(document["vip"]["holders"]) and "problem" not in sql
    return document


def _host(name: str, address: str, roles: list[str], keeper: Doc | None, sql: Doc) -> Doc:
    engines = keeper["engines"] if keeper else {}
    agent = sql.get("hosts", {}).get(name)
    return {
        "name": name,
        "address": address,
        "roles": roles,
        "answers": keeper is not None,
        "ready": bool(keeper and keeper["ready"]),
        "program": keeper["program"] if keeper else None,
        "time": keeper["time"] if keeper else None,
        "agent": None if agent is None or not {*HANDS} & {*roles} else agent["up"],
        "engines": {
            kind: {"present": _is_present(told)} | {word: told[word] for word in ("ready", "doing", "problem")}
            for kind, told in engines.items()
        },
    }


def _detail(keeper: Doc | None, kind: str) -> Doc:
    found: Doc = (keeper or {}).get("engines", {}).get(kind, {}).get("detail") or {}
    return found


def _with(keepers: dict[str, Doc | None], kind: str, word: str) -> list[str]:
    return [name for name, keeper in keepers.items() if _detail(keeper, kind).get(word)]


def _writer(keepers: dict[str, Doc | None]) -> str | None:
    """What most proxies say."""
    told = [writer for keeper in keepers.values() if (writer := _detail(keeper, "haproxy").get("writer"))]
    return max(set(told), key=told.count) if told else None


def _leases(sql: Doc, now_s: float) -> list[Doc]:
    """Not the agents' own: those are shown as hosts."""
    return [
        {
            "name": row["name"],
            "holder": row["holder"],
            "epoch": row["epoch"],
            "left_s": round(row["expires_at_s"] - now_s, 1),
        }
        for row in sorted(sql.get("leases", []), key=lambda row: str(row["name"]))
        if row["expires_at_s"] > 0  # else given back
    ]


def _quorum(controllers: list[str], keepers: dict[str, Doc | None]) -> Doc:
    """Of each engine that needs a majority: how many of the controllers have it ready."""
    found: Doc = {}
    for kind in ("galera", "rabbitmq", "ovn_central", "ceph_mon"):
        told = [(keepers.get(name) or {"engines": {}})["engines"].get(kind) for name in controllers]
        present = [each for each in told if each and _is_present(each)]
        if present:
            ready = sum(bool(each["ready"]) for each in present)
            found[kind] = {"ready": ready, "of": len(controllers), "quorum": ready > len(controllers) // 2}
    return found


def _degraded(document: Doc, keepers: dict[str, Doc | None], sql: Doc, now_s: float) -> list[dict[str, str]]:
    """What is wrong, why, and what to type."""
    found: list[dict[str, str]] = []

    def add(what: str, why: str) -> None:
        found.append({"what": what, "why": why})

    for host in document["hosts"]:
        name = host["name"]
        if not host["answers"]:
            add(
                f"host {name}",
                f"its keeper does not answer; there: systemctl status trilith-keeper; or: ping {host['address']}",
            )
            continue
        for kind, told in host["engines"].items():
            if not told["ready"]:
                why = told["problem"] or (f"is doing: {told['doing']}" if told["doing"] else "not ready yet")
                add(f"{kind} on {name}", f"{why.rstrip('.')}; there: trilith host plan")
        away_s = abs(datetime.fromisoformat(host["time"]).astimezone(UTC).timestamp() - now_s)
        if away_s > CLOCKS_S:
            add(f"clock of {name}", f"differs by {away_s:.0f} s; leases need clocks that agree: set up NTP there")
        if host["agent"] is False:
            add(f"agent of {name}", "its last heartbeat is too old; there: systemctl status trilith-agent")
    for name, lost in sql.get("takeovers", {}).items():
        add(f"host {name}", f"{lost['state']}: {lost['why'] or 'see: trilith host history'}")
    if (sql.get("brake") or {"released_s": True})["released_s"] is None:
        add("storm brake", "many hosts are lost at once: nothing is touched; see: trilith hosts")
    if why := _storage(sql.get("storage"), now_s):
        add("shared storage", f"{why}; on a controller: trilith host plan, ceph -s")
    holders = document["vip"]["holders"]
    if len(holders) != 1:
        why = f"held by {', '.join(holders)}" if holders else "nobody holds it"
        add(f"VIP {document['vip']['address']}", f"{why}; on controllers: systemctl status keepalived")
    for kind, quorum in document["quorum"].items():
        if not quorum["quorum"]:
            add(
                f"quorum of {kind}", f"{quorum['ready']} of {quorum['of']} are ready; switch the missing controllers on"
            )
    if "problem" in sql:
        add("database", f"{sql['problem']}; on controllers: systemctl status mariadb, trilith host plan")
    if len(document["versions"]["programs"]) > 1:
        add("versions", "hosts run different programs; finish it: trilith deploy FILE")
    return found


def _storage(row: Doc | None, now_s: float) -> str:
    """What is wrong with it; nothing where there is none."""
    if row is None:
        return ""
    if now_s - row["seen_at_s"] > STORAGE_S:
        return "nobody has told its health" + (f" for {now_s - row['seen_at_s']:.0f} s" if row["seen_at_s"] else " yet")
    return "" if row["health"] == HEALTH_OK else "; ".join([row["health"], *row["problems"]])


def as_text(document: Doc) -> str:
    """At most 100 columns."""
    from trilith.cluster.status import table

    health = "healthy" if not document["degraded"] else "degraded" if document["serves"] else "not served"
    vip, database = document["vip"], document["database"]
    lines = [
        f"Cloud {document['name']} ({document['cloud_id']}{', fake' if document['fake'] else ''}): {health}",
        f"API {document['endpoints']['api']}   VIP on {' '.join(vip['holders']) or 'nobody'}   "
        f"SQL writer {database['writer'] or '-'}   synced {' '.join(database['synced']) or '-'}",
        f"Trilith {document['versions']['trilith']}, program {' '.join(document['versions']['programs']) or '-'}",
        "",
        *table(("host", "address", "roles", "keeper", "agent"), [_host_row(host) for host in document["hosts"]]),
    ]
    kinds = list(dict.fromkeys(kind for host in document["hosts"] for kind in host["engines"]))
    rows = [(kind, *(_mark(host["engines"].get(kind)) for host in document["hosts"])) for kind in kinds]
    lines += ["", *table(("engine", *(host["name"] for host in document["hosts"])), rows)]
    if document["leases"]:
        leases = [(each["name"], each["holder"], each["epoch"], each["left_s"]) for each in document["leases"]]
        lines += ["", *table(("lease", "holder", "epoch", "s left"), leases)]
    if document["degraded"]:
        rows = [row for each in document["degraded"] for row in _folded(each["what"], each["why"])]
        lines += ["", *table(("degraded", "why"), rows)]
    return "\n".join(lines)


def _folded(what: str, why: str) -> list[tuple[str, str]]:
    parts = textwrap.wrap(why, WHY_COLUMNS)
    return [(what if number == 0 else "", part) for number, part in enumerate(parts)]


def _host_row(host: Doc) -> tuple[str, ...]:
    keeper = "ready" if host["ready"] else "not ready" if host["answers"] else "no answer"
    agent = "-" if host["agent"] is None else "up" if host["agent"] else "down"
    return host["name"], host["address"], " ".join(host["roles"]), keeper, agent


def _is_present(engine: Doc) -> bool:
    """Whether the host shall have it; a keeper of an older program does not say."""
    return bool(engine.get("present", True))


def _mark(engine: Doc | None) -> str:
    if engine is None or not _is_present(engine):
        return "-"
    return "ready" if engine["ready"] else "busy" if engine["doing"] else "not ready"
