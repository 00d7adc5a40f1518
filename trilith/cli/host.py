"""``trilith host`` and ``trilith hosts``: what an operator tells of hosts, and what there is to see of them."""

import argparse
import http.client
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from trilith.cluster.drain import Drain
from trilith.cluster.drill.api import Api
from trilith.cluster.state import Problem, State, write_file

Say = Callable[[str], None]
ABOUT = """\
drain HOST                 move all its machines away, and place none there
maintenance HOST on|off    no new machines there, and no takeover when it is off
fenced HOST                your word that a lost host is off: its machines start elsewhere
release-brake              many hosts are lost at once, and it is not the network: go on
history                    hosts that were lost, and what became of their machines
plan                       what the keeper of this host would do now
database-without HOST...   start the database though these controllers are lost for good
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = ABOUT
    words = ["drain", "maintenance", "fenced", "release-brake", "history", "plan", "database-without"]
    parser.add_argument("what", choices=words, metavar="WHAT")
    parser.add_argument("names", nargs="*", metavar="HOST")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(state: State, what: str, names: list[str], as_json: bool, say: Say) -> int:
    from trilith.cluster import hosts

    settings = state.settings()
    match what, names:
        case "plan", []:
            return plan(state, as_json, say)
        case "database-without", _:
            return database_without(state, names, say)
        case "drain", [name]:
            return drain(state, name, as_json, say)
        case "maintenance", [name, ("on" | "off") as word]:
            say(hosts.in_sql(state, settings, partial(hosts.set_maintenance, name=name, on=word == "on")))
        case "fenced", [name]:
            say(hosts.in_sql(state, settings, partial(hosts.give_word, name=name)))
        case "release-brake", []:
            say(hosts.in_sql(state, settings, hosts.release_brake))
        case "history", []:
            document = hosts.in_sql(state, settings, hosts.history)
            say(json.dumps(document, indent=2) if as_json else hosts.history_as_text(document))
        case _:
            line = next(line for line in ABOUT.splitlines() if line.startswith(what))
            raise Problem(f"Type: trilith host {' '.join(line.split('  ')[0].split())}")
    return 0


def hosts(state: State, as_json: bool, say: Say) -> int:
    """Exit code 0 when every host is up or in maintenance, else 1."""
    from trilith.cluster import hosts

    return _show(hosts.in_sql(state, state.settings(), hosts.hosts), as_json, say)


def hosts_there(file: Path, directory: Path | None, as_json: bool, say: Say) -> int:
    from trilith.cluster.remote import STATE, place, run_on

    cluster, deployment = place(file, directory)
    words = ["trilith", "hosts", "--json", "--state", STATE]
    done = run_on(cluster, deployment, cluster.with_role("control"), words)
    try:
        return _show(json.loads(done.stdout), as_json, say)
    except ValueError:
        raise Problem(f"No answer: {(done.stderr or done.stdout).strip()[-300:]}") from None


def _show(document: dict[str, list[dict[str, str]]], as_json: bool, say: Say) -> int:
    from trilith.cluster.hosts import MAINTENANCE, as_text

    say(json.dumps(document, indent=2) if as_json else as_text(document))
    return 0 if all(host["state"] in ("up", MAINTENANCE) for host in document["hosts"]) else 1


def plan(state: State, as_json: bool, say: Say) -> int:
    """Print the next acts of every engine without doing any. Exit code 0 when there are none, else 1."""
    from trilith.cluster.engines import engines_of
    from trilith.cluster.engines.engine import HostView
    from trilith.cluster.engines.peers import Peers
    from trilith.cluster.keeper import describe, next_acts
    from trilith.kernel.errors import Unavailable

    found: dict[str, list[str]] = {}
    problems: dict[str, str] = {}
    for engine in engines_of(HostView(state, state.settings(), Peers(state).ask)):
        try:
            found[engine.kind] = [describe(act) for act in next_acts(engine)]
        except Unavailable as error:
            problems[engine.kind] = str(error)
    if as_json:
        say(json.dumps({"acts": found, "problems": problems}))
    else:
        for kind, acts in found.items():
            for act in acts:
                say(f"{kind:<14} {act}")
        for kind, problem in problems.items():
            say(f"{kind:<14} cannot tell: {problem}")
        if not problems and not any(found.values()):
            say("Nothing to do.")
    return 1 if problems or any(found.values()) else 0


def drain(state: State, name: str, as_json: bool, say: Say) -> int:
    """Take a compute host out of service, and move its servers away. Exit code 1 when something stays there."""
    settings = state.settings()
    api = Api(settings.api_url, state.ca_file(settings))
    try:
        token = api.sign_in("admin", state.secret("admin"), "admin")
    except (OSError, http.client.HTTPException) as error:
        raise Problem(f"The API does not take it: {error}") from error
    return Drain(api, token, name, as_json, say).run()


def database_without(state: State, names: list[str], say: Say) -> int:
    """Let the database be started though some controllers, lost for good, do not tell how new their data are. Typed on
    one controller, it counts for all that are left."""
    from trilith.cluster.engines.galera import lost_file

    settings = state.settings()
    controllers = [host.name for host in settings.controllers]
    if settings.host not in controllers:
        raise Problem(f"{settings.host} is no controller. Type it on one of {', '.join(controllers)}.")
    others = [name for name in controllers if name != settings.host]
    if not names or not set(names) <= set(others):
        raise Problem(f"Name the controllers that are lost: some of {', '.join(others)}.")
    write_file(lost_file(state), "".join(f"{name}\n" for name in names).encode())
    say(f"The database starts without {', '.join(names)}. What only they had is lost. To watch: trilith status")
    return 0
