"""What a host does next for its part of Ceph. Pure: how a cluster is founded, joined and restarted stands here.

Every keeper tells its peers one document of its monitor and one of its OSD, and gets theirs. A monitor's:

    store     it has a monitor's data
    running   its process runs
    quorum    names of the monitors that have the quorum, as this one says while it is among them; else []
    known     names of the monitors that the cluster has, as this one knows them
    stale     it runs with a configuration that is not the wanted one

An OSD's: ``data`` (none, unfinished, made, foreign), ``running``, ``serves`` (peers can write to it), ``stale``, ``id``
(None until it has one), ``obstacle`` (why nothing can be made here, as a sentence; None when nothing is in the way).

Monitors decide by majority themselves, so starting one is always right. What is never done is to found a cluster where
another may be: that takes the answer of every controller and of every storage host, and none of them has data. An OSD
is made where there are no data, and nowhere else; nothing here removes one.
"""

from collections.abc import Callable

from trilith.cluster.engines.galera_plan import Step
from trilith.kernel.reconcile import Act, Doc

Others = dict[str, Doc | None]
HOLDING = ("made", "foreign")


def monitor_step(want: Doc, seen: Doc) -> Step:
    """`want`: me, order (controllers as in the file). `seen`: monitors and osds (name -> document, None when that
    host's keeper does not answer)."""
    me = seen["monitors"][want["me"]]
    if not me["store"]:
        return _enter(want, seen)
    if not me["running"]:
        return Step(Act("start_monitor"), "It starts.")
    if want["me"] not in me["quorum"]:
        return _outside(want, seen)
    others = {name: seen["monitors"].get(name) for name in want["order"] if name != want["me"]}
    strangers = [name for name in me["known"] if name not in want["order"]]
    if strangers and leader(want["order"], me) == want["me"]:
        return Step(Act("forget_monitor", {"name": strangers[0]}), f"{strangers[0]} is no controller any more.")
    if me["stale"]:
        return _take_turn(want["me"], want["order"], others, "restart_monitor", lambda node: bool(node["quorum"]))
    missing = [name for name in want["order"] if name not in me["quorum"]]
    return Step(None, f"Without {_list(missing)}." if missing else "", problem=bool(missing))


def leader(order: list[str], me: Doc) -> str | None:
    """Who does what one of the monitors has to do: the first in the quorum. None when this one is not in it."""
    return next((name for name in order if name in me["quorum"]), None)


def _enter(want: Doc, seen: Doc) -> Step:
    order = want["order"]
    others = {name: seen["monitors"].get(name) for name in order if name != want["me"]}
    serving = [name for name, node in others.items() if node and node["quorum"]]
    if serving:
        known = next(node["known"] for name, node in others.items() if node and name == serving[0])
        before = [name for name in order[: order.index(want["me"])] if _is_empty(others.get(name))]
        joining = [n for n in known if (other := others.get(n)) and other["running"] and not other["quorum"]]
        if wait_for := before or joining:
            return Step(None, f"It joins after {_list(wait_for)}.")
        return Step(Act("join"), f"It joins {_list(serving)}.")
    silent = [name for name, node in others.items() if node is None]
    silent += [name for name, node in seen["osds"].items() if node is None and name not in silent]
    holders = [name for name, node in others.items() if node and node["store"]]
    if holders:
        return Step(None, f"It joins when {_list(holders)} {_has(holders)} a quorum.", problem=bool(silent))
    if silent:
        why = f"{_list(silent)} {_do(silent)} not answer; a new Ceph is founded only with every host of it there."
        return Step(None, why, problem=True)
    data = [name for name, node in seen["osds"].items() if node and node["data"] in HOLDING]
    if data:
        why = (
            f"{_list(data)} {_has(data)} data of a Ceph whose monitors are gone, and a new one could not read them. "
            "Bring a controller's /var/lib/ceph/mon back; or, if the data may go, empty /var/lib/ceph/osd/trilith."
        )
        return Step(None, why, problem=True)
    if want["me"] != order[0]:
        return Step(None, f"{order[0]} founds the cluster.")
    return Step(Act("found"), "It founds the cluster.")


def _is_empty(node: Doc | None) -> bool:
    return node is not None and not node["store"]


def _outside(want: Doc, seen: Doc) -> Step:
    """It runs and is in no quorum: it finds back by itself, unless it looks in the wrong place."""
    if seen["monitors"][want["me"]]["stale"]:
        return Step(Act("restart_monitor"), "It takes its new configuration.")
    silent = [name for name in want["order"] if name != want["me"] and not seen["monitors"].get(name)]
    if silent:
        return Step(None, f"It has no quorum, and {_list(silent)} {_do(silent)} not answer.", problem=True)
    return Step(None, "It waits for the others to form a quorum.")


def osd_step(want: Doc, seen: Doc) -> Step:
    """`want`: me, order (storage hosts). `seen`: osds, as above; quorum (whether the
    monitors have one)."""
    me = seen["osds"][want["me"]]
    if me["data"] == "foreign":
        why = "The OSD's data are of another Ceph; move /var/lib/ceph/osd/trilith away, and a new OSD is made."
        return Step(None, why, problem=True)
    if me["obstacle"] is not None and me["data"] != "made":
        return Step(None, me["obstacle"], problem=True)
    if me["data"] != "made" and not seen["quorum"]:
        return Step(None, "It is made when the monitors have a quorum.")
    if me["data"] != "made":
        return Step(Act("make_osd"), "The OSD is made.")
    if not me["running"]:
        return Step(Act("start_osd"), "It starts.")
    if me["stale"]:
        others = {name: seen["osds"].get(name) for name in want["order"] if name != want["me"]}
        return _take_turn(want["me"], want["order"], others, "restart_osd", lambda node: bool(node["serves"]))
    return Step(None, "" if me["serves"] else "It does not serve yet.")


def _take_turn(
    me: str, order: list[str], others: dict[str, Doc | None], do: str, serves: Callable[[Doc], bool]
) -> Step:
    """One after another, and only while all the others serve."""
    unready = [name for name, node in others.items() if node is None or not serves(node)]
    if unready:
        return Step(None, f"It takes its new configuration when {_list(unready)} can do without it.")
    first = next((name for name in order if name == me or (others[name] or {})["stale"]), me)
    if first != me:
        return Step(None, f"It takes its new configuration after {first}.")
    return Step(Act(do), "It takes its new configuration.")


def cluster_acts(want: Doc, seen: Doc) -> list[Act]:
    """What the cluster itself lacks; for the leader. `want`: pools (name -> size, min_size, use), users (entity ->
    digest of key and rights). `seen`: the same, as they are, with all uses."""
    acts = []
    for name, wanted in want["pools"].items():
        there = seen["pools"].get(name)
        if there is None:
            acts.append(Act("create_pool", {"pool": name}))
        else:
            acts += [
                Act("set_pool", {"pool": name, "name": each, "value": value})
                for each, value in wanted.items()
                if each != "use" and there[each] != value
            ]
            acts += [] if wanted["use"] in there["uses"] else [Act("use_pool", {"pool": name, "use": wanted["use"]})]
    if any(seen["users"].get(entity) != digest for entity, digest in want["users"].items()):
        acts.append(Act("grant"))
    strangers = [user for user in seen["users"] if user not in want["users"] and user.startswith("client.trilith-")]
    return acts + [Act("revoke", {"user": user}) for user in sorted(strangers)]


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _do(names: list[str]) -> str:
    return "does" if len(names) == 1 else "do"


def _has(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
