"""`trilith repair network`: have derived state made anew from the database, while everything runs."""

from trilith.cluster.state import Problem, State
from trilith.cluster.supervisor import ask
from trilith.kernel.hints import Hints

TOPICS = {"network": "repair-northbound"}


def repair(state: State, what: str) -> str:
    """Asks the controller of a running cloud. Returns a sentence; raises `Problem` when nobody would hear."""
    answer = ask(state, "status")
    ready = {child["name"] for child in answer["processes"] if child["state"] == "ready"} if answer else set()
    if missing := {"hub", "controller"} - ready:
        raise Problem(f"Not ready: {', '.join(sorted(missing))}. See: trilith status --state {state.root}")
    Hints(state.hints_socket).send({TOPICS[what]})
    return f"The controller makes the {what} anew. To watch it: trilith logs --follow --state {state.root}"
