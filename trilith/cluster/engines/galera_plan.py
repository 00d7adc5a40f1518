"""What one controller's part of the database does next. Pure: the whole knowledge of how a Galera cluster is founded,
joined, formed again and recovered is in this file.

Every keeper tells its peers one *node document* and gets theirs; all of them plan from the same documents, so that
exactly one of them founds or bootstraps. A node document:

    phase       "stopped" (no process) or "running" (starting, receiving, waiting or serving)
    candidate   it could be started: its configuration is in place
    data        it holds a cluster's data
    uuid        of the cluster whose data it holds
    seqno       its last transaction; known only while it is stopped, else null
    primary     it is part of the component that has the quorum
    synced      it serves reads and writes
    size        members of its component, with or without a quorum
    committed   its last transaction while it runs
    steady      it has run without a break since it was in that view, and so got every transaction committed there
    transfer    it is receiving all data from another node
    view        the last component with a quorum that it was in, while it did not leave it in order; null
    members     of that view
    member      its own name in that view
    waited_s    how long it has run without a quorum, rounded down to one of WAITS_S
    attempts    how often it was started since it was last synced
    stale       it runs with a configuration that is not the wanted one
    data_mib    size of its data
    lost        controllers that an operator on this one gave up for good

What it must never do is bootstrap where another node may hold newer data. Therefore a bootstrap needs the answer of
every controller's keeper; what is missing is said, and waited for.
"""

from dataclasses import dataclass

from trilith.kernel.reconcile import Act, Doc

UNIT = "mariadb.service"
MERGE_S = 6  # majorities that were split for a moment do not always find together
FORM_S = 20  # without a quorum, though everybody is there: it will not form by itself
JOIN_S = 300  # without finding a quorum that exists
WAITS_S = (JOIN_S, FORM_S, MERGE_S, 0)
FORM_ATTEMPTS = 3
RSYNC_BELOW_MIB = 512
"Data smaller than this is copied by rsync, which is quick but stops writes on the donor meanwhile."


@dataclass(frozen=True)
class Step:
    """The next act, or (None) why there is none. `problem`: an operator should know."""

    act: Act | None
    why: str
    problem: bool = False


def next_step(want: Doc, seen: Doc) -> Step:
    """`want`: me (name), order (controllers as in the cluster file).

    `seen`: nodes (name -> node document, None when that keeper does not answer), installed, accounts_right.
    """
    lost = {name for node in seen["nodes"].values() if node for name in node["lost"]}
    order = [name for name in want["order"] if name not in lost]
    nodes = {name: seen["nodes"].get(name) for name in order}
    me = seen["nodes"][want["me"]]
    if me["phase"] == "running":
        return _running(want["me"], me, order, nodes, seen)
    step = _start(want["me"], me, order, nodes)
    if step.act and step.act.do == "found" and not seen["installed"]:
        return Step(Act("install"), "A new database is made.")
    return step


def _running(name: str, me: Doc, order: list[str], nodes: dict[str, Doc | None], seen: Doc) -> Step:
    others = {other: node for other, node in nodes.items() if other != name}
    if me["primary"] and me["synced"]:
        if me["stale"]:
            return _restart(name, order, others)
        if me["lost"]:
            return Step(Act("forget_lost"), "Nobody has to be done without any more.")
        if not seen["accounts_right"]:
            return Step(Act("accounts"), "Accounts are made.")
        return Step(None, "")
    if me["stale"] and not me["primary"] and not me["transfer"]:
        return Step(Act("stop", {"orderly": True}), "It takes its new configuration.")
    if me["transfer"]:
        return Step(None, "It receives the data from another controller.")
    if me["primary"]:
        return Step(None, "It catches up with the others.")
    primaries = [other for other, node in others.items() if node and node["primary"]]
    if primaries:
        if me["waited_s"] >= JOIN_S:
            return Step(Act("stop"), f"It does not find the way back to {_list(primaries)}; it starts again.")
        return Step(None, f"It joins {_list(primaries)}.")
    if majority := _majority(me, nodes):
        return _revive(name, order, majority)
    silent = [other for other, node in others.items() if node is None]
    if silent:
        return Step(None, f"It has no quorum, and {_list(silent)} {_do(silent)} not answer.", problem=True)
    waiting = [node for node in nodes.values() if node and node["phase"] == "running"]
    if all(node["waited_s"] >= FORM_S for node in waiting) and not any(node["transfer"] for node in waiting):
        return Step(Act("give_up"), "No quorum forms by itself; the positions of all controllers are compared.")
    return Step(None, "It waits for the others to form a quorum.")


def _majority(me: Doc, nodes: dict[str, Doc | None]) -> dict[str, Doc]:
    """Most members of the last quorum, if they are connected with each other. What was committed in that quorum had
    reached all its members, so those that run ever since have it. The others are too few to have a quorum."""
    most = len(me["members"]) / 2
    steady = {
        name: node
        for name, node in nodes.items()
        if node and node["steady"] and node["view"] == me["view"] and node["size"] > most
    }
    return steady if me["view"] and me["size"] > most and len(steady) > most else {}


def _revive(name: str, order: list[str], majority: dict[str, Doc]) -> Step:
    """The members that were split for a moment stay without a quorum when one is missing, until they are told."""
    if any(node["waited_s"] < MERGE_S for node in majority.values()):
        return Step(None, "The majority of the last quorum comes together again.")
    best = max(majority, key=lambda other: (majority[other]["committed"], -order.index(other)))
    if best != name:
        return Step(None, f"{best} makes the majority of the last quorum a quorum again.")
    return Step(Act("revive"), "The majority of the last quorum is a quorum again.")


def _restart(name: str, order: list[str], others: dict[str, Doc | None]) -> Step:
    """One after another, and only while all the others serve."""
    unready = [other for other, node in others.items() if node is None or not node["synced"]]
    if unready:
        return Step(None, f"It takes its new configuration when {_list(unready)} can do without it.")
    first = next((other for other in order if other == name or (others[other] or {})["stale"]), name)
    if first != name:
        return Step(None, f"It takes its new configuration after {first}.")
    return Step(Act("stop", {"orderly": True}), "It takes its new configuration.")


def _start(name: str, me: Doc, order: list[str], nodes: dict[str, Doc | None]) -> Step:
    others = {other: node for other, node in nodes.items() if other != name}
    if any(node and node["primary"] for node in others.values()):
        return _join(name, me, order, others)
    if me["view"] and _whole_view_is_here(me, nodes):
        if me["attempts"] >= FORM_ATTEMPTS:
            return Step(Act("forget_view"), "The last quorum does not form again.")
        return Step(Act("form"), "All members of the last quorum are here: they form it again.")
    silent = [other for other, node in others.items() if node is None]
    if silent:
        return Step(None, _warning(me, silent), problem=True)
    return _bootstrap(name, me, order, others)


def _join(name: str, me: Doc, order: list[str], others: dict[str, Doc | None]) -> Step:
    """Strictly one after another: two that join at once hinder each other, and so does one that returns before the
    others have a view without it (measured: 9 s without a quorum in place of 2 s)."""
    unaware = [other for other, node in others.items() if node and node["primary"] and me["member"] in node["members"]]
    if me["member"] and unaware:
        return Step(None, f"It joins when {_list(unaware)} {_do(unaware)} not count it as a member any more.")
    joining = [other for other, node in others.items() if node and node["phase"] == "running" and not node["synced"]]
    if joining:
        return Step(None, f"It joins after {_list(joining)}.")
    turn = (me["attempts"], order.index(name) if name in order else len(order))
    for place, other in enumerate(order):
        node = others.get(other)
        if node and node["phase"] == "stopped" and node["candidate"] and (node["attempts"], place) < turn:
            return Step(None, f"It joins after {other}.")
    mib = max((node["data_mib"] for node in others.values() if node and node["primary"]), default=0)
    method = "rsync" if mib < RSYNC_BELOW_MIB else "mariabackup"
    return Step(Act("join", {"method": method}), "It joins the others.")


def _bootstrap(name: str, me: Doc, order: list[str], others: dict[str, Doc | None]) -> Step:
    """Every keeper answers and nobody has a quorum."""
    nodes = {other: node for other, node in others.items() if node}
    running = [other for other, node in nodes.items() if node["phase"] == "running"]
    holders = [other for other in order if (me if other == name else nodes[other])["data"]]
    if not holders:
        if name != order[0]:
            return Step(None, f"{order[0]} founds the database.")
        if running:
            return Step(None, f"It founds the database when {_list(running)} has stopped.")
        return Step(Act("found"), "It founds the database.")
    if me["data"] and me["seqno"] is None:
        return Step(Act("recover_position"), "It looks for its last transaction.")
    if running:
        return Step(None, f"It waits for {_list(running)} to give up.")
    positions = {other: (me if other == name else nodes[other]) for other in holders}
    unknown = [other for other, node in positions.items() if node["seqno"] is None]
    if unknown:
        return Step(None, f"{_list(unknown)} look{'s' if len(unknown) == 1 else ''} for the last transaction.")
    if len({node["uuid"] for node in positions.values()}) > 1:
        found = ", ".join(f"{other}: {node['uuid']}" for other, node in positions.items())
        return Step(
            None,
            f"The controllers hold different databases ({found}); bootstrapping either loses the other. Move the "
            "wrong one's /var/lib/mysql away on its controller; the rest is done for you.",
            problem=True,
        )
    best = max(holders, key=lambda other: (positions[other]["seqno"], -order.index(other)))
    if best != name:
        return Step(None, f"{best} has the last transaction ({positions[best]['seqno']}) and begins.")
    return Step(Act("bootstrap"), f"It has the last transaction ({me['seqno']}) and begins.")


def _whole_view_is_here(me: Doc, nodes: dict[str, Doc | None]) -> bool:
    """Whether every member of the last quorum says that it was in that very quorum."""
    here = {node["member"] for node in nodes.values() if node and node["view"] == me["view"]}
    return bool(me["members"]) and set(me["members"]) <= here


def _warning(me: Doc, silent: list[str]) -> str:
    names = _list(silent)
    if not me["data"]:
        return f"{names} {_do(silent)} not answer; a new database is founded only with every controller there."
    return (
        f"{names} {_do(silent)} not answer and may hold newer data, so the database is not started without. Bring "
        f"back what is missing; or, if it is lost for good, type: trilith host database-without {' '.join(silent)}"
    )


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _do(names: list[str]) -> str:
    return "does" if len(names) == 1 else "do"
