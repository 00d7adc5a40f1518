"""`trilith repair network`: have derived state made anew from the database, while everything runs."""

import urllib.error
import urllib.request

from trilith.cluster import tls
from trilith.cluster.state import Problem, State
from trilith.cluster.supervisor import ask

TIMEOUT_S = 10.0


def repair(state: State, what: str) -> str:
    """Asks a running cloud for it; the request is a row, so it is done even if whoever takes it up dies. Returns a
    sentence; raises `Problem` when the API does not take it."""
    settings = state.settings()
    if not settings.clustered:
        _check_running(state)
    url = f"{settings.api_url}/agent/v1/repair/{what}"
    request = urllib.request.Request(url, b"", {"Authorization": f"Bearer {state.secret('controller')}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=tls.client(state, settings)):
            pass
    except (urllib.error.URLError, TimeoutError) as error:
        raise Problem(f"The API does not take it: {error}. See: trilith logs --state {state.root}") from error
    return f"The controller makes the {what} anew. To watch it: trilith logs --follow --state {state.root}"


def _check_running(state: State) -> None:
    answer = ask(state, "status")
    ready = {child["name"] for child in answer["processes"] if child["state"] == "ready"} if answer else set()
    if missing := {"api", "controller"} - ready:
        raise Problem(f"Not ready: {', '.join(sorted(missing))}. See: trilith status --state {state.root}")
