"""``trilith host``: what the keeper of this host would do, and what an operator has to tell it."""

import http.client
import json
from collections.abc import Callable

from trilith.cluster.drain import Drain
from trilith.cluster.drill.api import Api
from trilith.cluster.engines import engines_of
from trilith.cluster.engines.engine import HostView
from trilith.cluster.engines.galera import lost_file
from trilith.cluster.engines.peers import Peers
from trilith.cluster.keeper import describe, next_acts
from trilith.cluster.state import Problem, State, write_file
from trilith.kernel.errors import Unavailable


def plan(state: State, as_json: bool, say: Callable[[str], None]) -> int:
    """Print the next acts of every engine without doing any. Exit code 0 when there are none, else 1."""
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


def drain(state: State, name: str, as_json: bool, say: Callable[[str], None]) -> int:
    """Take a compute host out of service, and move its servers away. Exit code 1 when something stays there."""
    settings = state.settings()
    api = Api(settings.api_url, state.ca_file(settings))
    try:
        token = api.sign_in("admin", state.secret("admin"), "admin")
    except (OSError, http.client.HTTPException) as error:
        raise Problem(f"The API does not take it: {error}") from error
    return Drain(api, token, name, as_json, say).run()


def database_without(state: State, names: list[str], say: Callable[[str], None]) -> int:
    """Let the database be started though some controllers, lost for good, do not tell how new their data are. Typed on
    one controller, it counts for all that are left."""
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
