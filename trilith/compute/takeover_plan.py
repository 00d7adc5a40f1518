"""When a host counts as lost, and what happens then. Pure.

The want is the policy: ``lease_s confirm_s brake_share window_s clocks_s reserve_hosts``. Seen is one look at the
cloud:

    awake    whether the looker has looked without a pause, by clocks that agree; else all he knows may be old
    now_s    the database's clock
    brake    None, or ``since_s over_s hosts released_s``
    all_silent      whether no host of any role is heard
    unwatched       whether nobody looked for a while: no host could be heard then
    calm_until_s    after either, hosts that come back are waited for
    reserve_hosts   as the scheduler knows it
    hosts    of each compute host:
        name maintenance silent_s (None: never heard)
        watched_s heard_s   how long the looker has seen it silent, or not
        opinion     None, or ``age_s`` and ``witnesses``: name -> None (did not answer), or ``management tunnel``
        asking      whether one is on its way
        storage     whether storage still sees it; None: nobody knows
        fence       what can be done: ``driver`` (redfish, ipmi, none), ``power_on`` (afterwards), ``stopped_after_s`` (
                    so long after its last heartbeat its agent has stopped everything; None: it is not trusted to)
        fencing     of the power switch: None, ``busy``, ``off``, or a sentence that says why not
        knocked     whether it asked for a lease since it is barred
        takeover    None, or its row (see `takeovers`)
        movable     while it is not: how many of its machines could start elsewhere
        machines    while it is fenced: ``server_id again_s`` of those that are to be started elsewhere; again_s: how
                    long ago no room was found, None for those that were not tried

What a host runs is started elsewhere only after it is barred (it gets no lease any more) and fenced, so a machine never
runs twice, whoever is asleep, cut off or wrong.
"""

from typing import Any

from trilith.kernel.reconcile import Act

Doc = dict[str, Any]

FRESH_S = 5.0  # an opinion is used for so long
ASK_AGAIN_S = 3.0
SETTLED_S = 5.0  # a host that is back has ended by then what is not its own any more
ROOM_AGAIN_S = 5.0
CALM_S, CALM_AGAIN_S = 60.0, 10.0
LEAST_FOR_BRAKE = 2
NOTHING_TO_MOVE = (
    "It is left alone: it has no machine that could start elsewhere. What it has runs again when it is back."
)
FREE = "The takeovers go on after: trilith host release-brake"


def plan(want: Doc, seen: Doc | None) -> list[Act]:
    """The next acts; [] when there is nothing to do or to be sure of."""
    if seen is None or not seen["awake"]:
        return []
    brake, acts = _brake(want, seen)
    if seen["reserve_hosts"] != want["reserve_hosts"]:
        acts.append(Act("reserve", {"amount": want["reserve_hosts"]}))
    why = None
    if brake is not None and brake["released_s"] is None:
        why = f"Too many hosts are lost at once: nothing is touched. {FREE}"
    away = seen["all_silent"] or seen["unwatched"]
    if why is None and (away or seen["now_s"] < seen["calm_until_s"]):
        why = "No host at all was heard a moment ago: those who come back are waited for."
    if away and seen["calm_until_s"] - seen["now_s"] < CALM_S - CALM_AGAIN_S:
        acts.append(Act("calm", {"until_s": seen["now_s"] + CALM_S}))
    for host in seen["hosts"]:
        acts += _host(want, host, why)
    return acts


# the storm brake


def lost(want: Doc, seen: Doc) -> list[str]:
    """Hosts that are not heard now, or that were given up within the window."""
    return sorted(host["name"] for host in seen["hosts"] if _counts(want, host, seen["now_s"]))


def _counts(want: Doc, host: Doc, now_s: float) -> bool:
    if host["maintenance"]:
        return False
    given_up_s = ((host["takeover"] or {}).get("times") or {}).get("barred")
    if given_up_s is not None and host["takeover"]["state"] == "taken-over":
        return bool(now_s - given_up_s <= want["window_s"])
    return _silent(want, host)


def _brake(want: Doc, seen: Doc) -> tuple[Doc | None, list[Act]]:
    """What holds from now on, and the act that makes it so."""
    gone, brake, now_s = lost(want, seen), seen["brake"], seen["now_s"]
    watched = [host for host in seen["hosts"] if not host["maintenance"] and host["silent_s"] is not None]
    over = len(gone) >= LEAST_FOR_BRAKE and len(gone) > want["brake_share"] * len(watched)
    if over and brake is None:
        brake = {"since_s": now_s, "over_s": now_s, "hosts": gone, "released_s": None}
        return brake, [Act("brake", {"brake": brake})]
    if brake is None:
        return None, []
    all_back = not any(_silent(want, host) for host in watched)
    if all_back or (not over and now_s - brake["over_s"] > want["window_s"]):
        return None, [Act("brake", {"brake": None})]
    if over and (now_s - brake["over_s"] > 10.0 or not set(gone) <= set(brake["hosts"])):
        newer = brake | {"over_s": now_s, "hosts": sorted({*brake["hosts"], *gone})}
        return newer, [Act("brake", {"brake": newer})]
    return brake, []


# one host


def _silent(want: Doc, host: Doc) -> bool:
    return host["silent_s"] is not None and host["silent_s"] > want["lease_s"]


def _host(want: Doc, host: Doc, held: str | None) -> list[Act]:
    row = host["takeover"]
    if row is None:
        return [_act("suspect", host)] if _silent(want, host) and not host["maintenance"] else []
    match row["state"]:
        case "suspect":
            return _suspect(want, host, held)
        case "down-unfenced":
            return _down(want, host, held)
        case "fenced":
            return _fenced(want, host)
        case "taken-over":
            if _silent(want, host):
                return _switch_on(host)
            return [_act("returned", host)] if host["heard_s"] > SETTLED_S else []
    return []


def _act(do: str, host: Doc, **args: Any) -> Act:
    return Act(do, {"host": host["name"], **args})


def _say(host: Doc, why: str) -> list[Act]:
    return [] if host["takeover"]["why"] == why else [_act("say", host, why=why)]


def _suspect(want: Doc, host: Doc, held: str | None) -> list[Act]:
    if not _silent(want, host) or host["maintenance"]:
        return [_act("clear", host)]
    if host["takeover"]["word_given"]:
        return [_act("condemn", host)]
    opinion = host["opinion"]
    old = opinion is None or opinion["age_s"] > ASK_AGAIN_S
    asking = [_act("ask", host)] if old and not host["asking"] else []  # at once: witnesses take seconds to give up
    if host["watched_s"] < want["confirm_s"]:
        return asking
    if opinion is None or opinion["age_s"] > FRESH_S:
        return asking
    doubt = _doubt(host, opinion["witnesses"])
    if doubt is None and host["storage"]:
        doubt = f"The storage still hears it. If it is off: trilith host fenced {host['name']}"
    if doubt is not None:
        return _say(host, doubt) + asking
    if held is not None:
        return _say(host, held) + asking
    if not host["movable"]:
        return [_act("give_up", host, why=NOTHING_TO_MOVE, opinion=opinion["witnesses"])]
    if can_be_fenced(host):
        return [_act("condemn", host, opinion=opinion["witnesses"])]
    return [_act("give_up", host, why=no_fence(host), opinion=opinion["witnesses"])]


def _doubt(host: Doc, witnesses: Doc) -> str | None:
    """Why it may live all the same; None when nobody knows a sign of life."""
    name, answers = host["name"], {who: told for who, told in witnesses.items() if told is not None}
    if not answers:
        return "No other host could be asked about it: it may be us who are cut off."
    if reached := sorted(who for who, told in answers.items() if told["management"]):
        return (
            f"Its agent is silent, but it answers {', '.join(reached)}. There: systemctl status trilith-agent. "
            f"If it is off: trilith host fenced {name}"
        )
    return None


def can_be_fenced(host: Doc) -> bool:
    return host["fence"]["driver"] in ("redfish", "ipmi") or host["fence"]["stopped_after_s"] is not None


def no_fence(host: Doc) -> str:
    return (
        "Nothing can make sure that it is off: it has no power switch in the cluster file (`fencing`). "
        f"Switch it off, then: trilith host fenced {host['name']}"
    )


def _down(want: Doc, host: Doc, held: str | None) -> list[Act]:
    row = host["takeover"]
    if row["times"].get("barred") is None:
        if not _silent(want, host):
            return [_act("clear", host)]
        go_on = host["movable"] and can_be_fenced(host) and held is None and not host["maintenance"]
        go_on = go_on or row["word_given"]
        return [_act("condemn", host)] if go_on else []
    if host["knocked"] or not _silent(want, host):
        return [_act("call_off", host)]  # it lives, and nothing was done to it yet
    if row["word_given"]:
        return [_act("fenced", host, by="operator")]
    if host["fencing"] == "off":
        return [_act("fenced", host, by=host["fence"]["driver"])]
    stopped_after_s = host["fence"]["stopped_after_s"]
    if stopped_after_s is not None and host["silent_s"] > stopped_after_s + want["clocks_s"]:
        return [_act("fenced", host, by="self")]
    if held is not None:
        return _say(host, held)
    return _switch_off(host)


def _switch_off(host: Doc) -> list[Act]:
    fence, fencing = host["fence"], host["fencing"]
    if fence["driver"] not in ("redfish", "ipmi"):
        return _say(host, "Its agent stops its machines by itself; that time is waited for.")
    if fencing is None:
        return [_act("fence", host)]
    if fencing == "busy":
        return []
    return [
        *_say(host, f"{fencing} It is tried again. Or switch it off, then: trilith host fenced {host['name']}"),
        _act("fence", host),
    ]


def _switch_on(host: Doc) -> list[Act]:
    """Once, where that is asked for; what it runs then is not what was taken over."""
    row, fence = host["takeover"], host["fence"]
    wanted = fence["power_on"] and row["fenced_by"] == fence["driver"] and row["times"].get("power_on") is None
    return [_act("switch_on", host)] if wanted else []


def _fenced(want: Doc, host: Doc) -> list[Act]:
    if host["takeover"]["times"].get("storage") is None:
        return [_act("cut_storage", host)]
    new = [each for each in host["machines"] if each["again_s"] is None]
    if new:
        return [_act("move", host, server_id=new[0]["server_id"])]
    if not host["machines"] or host["knocked"]:
        return [_act("finish", host)]
    due = [each for each in host["machines"] if each["again_s"] > ROOM_AGAIN_S]
    return [_act("move", host, server_id=due[0]["server_id"])] if due else []
