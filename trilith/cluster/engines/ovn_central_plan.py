"""What a controller does about OVN's two databases: pure.

Each database (``nb``, ``sb``) is one RAFT cluster over the controllers. *The* cluster is the one with a leader that
most controllers follow. Where there is none and every controller has been heard, the first of the cluster file founds
one: at once when nobody has a database, after `LOST_S` when what they have finds no leader. Everybody else joins.

Of each database is seen, here and of every peer: ``file`` (whether there is one), ``cid`` and ``sid`` (of the cluster
and of this member of it), ``role`` (leader or follower; None while it knows no leader), ``status``, ``address`` (its
own, as it stands in the file), ``members`` (list of ``sid``, ``address``, ``silent``).
"""

from typing import Any

from trilith.kernel.reconcile import Act, Doc

LOST_S = 20.0  # without a leader, though everybody is there: RAFT needs about two
MEMBER, LEADER = "cluster member", "leader"


def plan_database(name: str, want: Doc, seen: Doc) -> list[Act]:
    """The next acts on this host's member of a database."""
    own = seen["databases"][name]
    everyone = views(name, want, seen)
    cluster = the_cluster(everyone)
    if cluster is None:
        return _found(name, want, seen, own, everyone)
    if own["file"] and _is_of_no_use(own, cluster, want["databases"][name]["address"], seen["mute_s"][name]):
        return [Act("discard", {"database": name})]
    if not own["file"]:
        return _join(name, want, everyone, cluster)
    if own["role"] == LEADER:
        return [Act("kick", {"database": name, "member": sid}) for sid in strangers(name, want, own, everyone)[:1]]
    return []


def views(name: str, want: Doc, seen: Doc) -> dict[str, Doc | None]:
    """What each controller, in the order of the file, says of its database; None: it does not answer."""
    found: dict[str, Doc | None] = {}
    for host in want["databases"][name]["controllers"]:
        found[host] = seen["databases"][name] if host == want["host"] else (seen["peers"].get(host) or {}).get(name)
    return found


def the_cluster(everyone: dict[str, Doc | None]) -> str | None:
    """The id of the cluster that counts; None when none has a leader."""
    heard = [view for view in everyone.values() if view]
    led = [view["cid"] for view in heard if view["role"] and view["cid"]]
    followers = {cid: sum(view["cid"] == cid for view in heard) for cid in led}
    return max(led, key=lambda cid: (followers[cid], -led.index(cid)), default=None)


def is_settled(own: Doc, database: Doc) -> bool:
    """Whether there is nothing to decide, so that nobody needs to be asked."""
    there = sorted(member["address"] for member in own["members"])
    heard = not any(member["silent"] for member in own["members"]) or own["role"] != LEADER
    return own["status"] == MEMBER and bool(own["role"]) and there == sorted(database["members"].values()) and heard


def _found(name: str, want: Doc, seen: Doc, own: Doc, everyone: dict[str, Doc | None]) -> list[Act]:
    founder = want["databases"][name]["controllers"][0]
    heard = [view for view in everyone.values() if view]
    if founder != want["host"] or len(heard) < len(everyone):
        return []
    nobody_has_one = not any(view["file"] for view in heard)
    if nobody_has_one or seen["leaderless_s"][name] >= LOST_S:
        return [Act("found", {"database": name})]
    return []


def _is_of_no_use(own: Doc, cluster: str, address: str, mute_s: float) -> bool:
    """A member that was kicked, one of another cluster, one whose address has changed, one that does not even start."""
    if own["cid"] not in (None, cluster) or own["status"] == "left":
        return True
    return mute_s >= LOST_S or own["address"] not in (None, address)


def _join(name: str, want: Doc, everyone: dict[str, Doc | None], cluster: str) -> list[Act]:
    mine = want["databases"][name]["address"]
    inside = (view for view in everyone.values() if view and view["role"] and view["cid"] == cluster)
    members: list[Doc] = next(inside)["members"]
    if any(member["address"] == mine for member in members):
        return []  # what was here before; the leader kicks it first
    return [Act("join", {"database": name, "cluster": cluster, "remotes": [m["address"] for m in members]})]


def strangers(name: str, want: Doc, own: Doc, everyone: dict[str, Doc | None]) -> list[str]:
    """For the leader: members that are no controller's any more, because it left the file or lost its disk."""
    addresses = {address: host for host, address in want["databases"][name]["members"].items()}
    found = []
    for member in own["members"]:
        host = addresses.get(member["address"])
        view = everyone.get(host) if host else None
        has_another = view is not None and (not view["file"] or view["sid"] not in (None, member["sid"]))
        if member["sid"] != own["sid"] and (host is None or (has_another and member["silent"])):
            found.append(member["sid"])
    return found


def plan_daemons(want: Doc, seen: Doc) -> list[Act]:
    """Units with what they shall run with, and what must be told to follow a database that was made anew."""
    acts = []
    for unit, wanted in want["units"].items():
        database = wanted["database"]
        if database and not seen["databases"][database]["file"]:
            continue
        state = seen["units"][unit]
        if state["active"] in ("inactive", "failed"):
            acts.append(Act("start", {"unit": unit}))
        elif state["active"] == "active" and state["runs_with"] != wanted["digest"]:
            acts.append(Act("restart", {"unit": unit}))
    if acts:
        return acts
    return [Act("follow", {"database": name}) for name in lagging(want, seen)]


def lagging(want: Doc, seen: Doc) -> list[str]:
    """The databases that have a leader, but northd has not found it: it takes a new database for an old one."""
    return [
        name
        for name in want["databases"]
        if seen["northd"].get(name) == "not connected" and the_cluster(views(name, want, seen)) is not None
    ]


def problem(want: Doc, seen: Doc) -> str | None:
    """What an operator shall know."""
    for name, database in want["databases"].items():
        everyone = views(name, want, seen)
        own = seen["databases"][name]
        title = f"OVN's {database['title']} database"
        if the_cluster(everyone) is None:
            away = [host for host, view in everyone.items() if view is None]
            return f"{title} has no leader" + (f"; no answer from {', '.join(away)}." if away else ".")
        if own["status"] != MEMBER or own["role"] is None:
            return f"{title}: this host has not joined yet."
    idle = [unit for unit, state in seen["units"].items() if state["active"] != "active"]
    if idle:
        return f"{', '.join(idle)} is not running. See: journalctl -u {idle[0]}"
    away = [str(one["title"]) for name, one in want["databases"].items() if seen["northd"].get(name) != "connected"]
    return f"ovn-northd does not reach the {' and '.join(away)} database." if away else None


def detail(want: Doc, seen: Doc) -> dict[str, Any]:
    """For peers: what they plan by. Without what changes from one look to the next."""
    return {
        name: {
            **{word: own[word] for word in ("file", "cid", "sid", "role", "status", "address")},
            "members": [{word: member[word] for word in ("sid", "address")} for member in own["members"]],
        }
        for name, own in seen["databases"].items()
    } | {"northd": seen["northd"].get("role")}
