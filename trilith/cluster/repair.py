"""`trilith repair network`: have derived state made anew from the database, while everything runs. `trilith repair
objects`: have the object store's index made anew from its files, while it does not run."""

import urllib.error
import urllib.request

from trilith.cluster import tls
from trilith.cluster.state import Problem, State
from trilith.cluster.supervisor import ask
from trilith.drivers.durable import make_directory
from trilith.drivers.object_files import ObjectFiles
from trilith.objectstore.rebuild import INDEX, Door, rebuild

TIMEOUT_S = 10.0


def repair_objects(state: State) -> str:
    """Returns a sentence; raises `Problem` while the cloud runs, or where there are no files."""
    if not state.exists():
        raise Problem(f"There is no cloud at {state.root}. To name another: --state DIR")
    if state.settings().clustered:
        raise Problem("This cloud's objects lie in Ceph, which repairs itself: ceph status.")
    directory = make_directory(state.objects, 0o700)
    door = Door(directory)
    try:
        if not door.enter_alone():
            raise Problem(f"The object store runs. First: trilith down --state {state.root}")
        rebuilt = rebuild(directory / INDEX, ObjectFiles(directory))
    finally:
        door.leave()
    return (
        f"The index was made anew: {rebuilt.containers} containers, {rebuilt.objects} objects; {rebuilt.removed} files "
        "were no object's. The old one is beside it. Next: trilith up"
    )


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
