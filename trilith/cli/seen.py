"""`trilith status` and `trilith logs`: of the cloud on this machine, of the cluster that this host belongs to, or, on
the deploying machine, of the cluster whose file is named."""

import argparse
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trilith.cli.logs import Asked
    from trilith.cluster.state import State

NOT_RUNNING = 3


def add_status(parser: argparse.ArgumentParser) -> None:
    _add_where(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def add_logs(parser: argparse.ArgumentParser) -> None:
    _add_where(parser)
    parser.add_argument("--request", metavar="ID", help="only what belongs to one request (req-...)")
    parser.add_argument("--since", metavar="WHEN", help="10m, 2h, 3d, or a time in UTC as 2026-01-31T10:20")
    parser.add_argument("--host", metavar="NAME", help="only of one host of a cluster")
    parser.add_argument("--follow", action="store_true", help="go on with what comes")
    parser.add_argument("--json", action="store_true", help="for programs: a JSON object a line")


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="on the deploying machine: a cluster file, or a rehearsal's directory",
    )
    parser.add_argument("--directory", type=Path, metavar="DIR", help="what this machine keeps of that cluster")


def status(arguments: argparse.Namespace) -> int:
    from trilith.cluster import cluster_status
    from trilith.cluster import status as local

    if arguments.file:
        return _status_there(arguments)
    state = _state(arguments)
    if not state.exists():
        if arguments.json:
            print(local.as_json({"running": False, "state": str(state.root)}))
        else:
            print(f"There is no cloud at {state.root}. To make one: trilith up --state {state.root}")
        return NOT_RUNNING
    settings = state.settings()
    if settings.clustered:
        document, code = cluster_status.cluster_status(state, settings)
        print(local.as_json(document) if arguments.json else cluster_status.as_text(document))
        return code
    found = local.status(state)
    print(local.as_json(found.document) if arguments.json else local.as_text(found.document))
    return found.code


def _status_there(arguments: argparse.Namespace) -> int:
    from trilith.cluster import cluster_status
    from trilith.cluster.remote import STATE, place, run_on
    from trilith.cluster.state import Problem

    cluster, deployment = place(arguments.file, arguments.directory)
    words = ["trilith", "status", "--json", "--state", STATE]
    done = run_on(cluster, deployment, cluster.with_role("control"), words)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        raise Problem(f"No status: {(done.stderr or done.stdout).strip()[-300:]}") from None
    print(json.dumps(document, indent=2) if arguments.json else cluster_status.as_text(document))
    return done.returncode


def logs(arguments: argparse.Namespace) -> int:
    from trilith.cli.logs import Asked, LocalLogs, StoredLogs, show, since
    from trilith.cluster.engines.rsyslog import STORE
    from trilith.cluster.state import Problem

    try:
        earliest = since(arguments.since) if arguments.since else None
    except ValueError:
        raise Problem(f"{arguments.since} is no time. Type 10m, 2h, 3d, or 2026-01-31T10:20") from None
    asked = Asked(arguments.request, earliest, arguments.host, arguments.follow, arguments.json)
    if arguments.file:
        return _logs_there(arguments, asked)
    state = _state(arguments)
    if not state.log.is_dir():
        raise Problem(f"There are no logs at {state.log}. To make a cloud: trilith up --state {state.root}")
    stored = Path(STORE)
    keeps_all = state.exists() and state.settings().clustered and stored.is_dir()
    show(
        StoredLogs(stored) if keeps_all else LocalLogs([state.log, state.ovn]),
        asked,
        lambda line: print(line, flush=asked.follow),
    )
    return 0


def _logs_there(arguments: argparse.Namespace, asked: "Asked") -> int:
    """By a logging host, as it is written."""
    from trilith.cluster.remote import STATE, UNREACHED, place, ssh
    from trilith.cluster.state import Problem

    cluster, deployment = place(arguments.file, arguments.directory)
    words = ["trilith", "logs", "--state", STATE]
    for name in ("request", "since", "host"):
        if given := getattr(asked, "request_id" if name == "request" else name):
            words += [f"--{name}", given]
    words += [f"--{name}" for name in ("follow", "json") if getattr(asked, name)]
    stores = cluster.with_role("logging")
    if not stores:
        raise Problem("The cluster file gives no host the role `logging`; each host has its own: trilith logs, there.")
    for host in stores:
        code = subprocess.run(ssh(cluster, deployment, host, words), check=False).returncode
        if code != UNREACHED:
            return code
    raise Problem(f"No logging host can be reached: {', '.join(host.name for host in stores)}. Is it on?")


def _state(arguments: argparse.Namespace) -> "State":
    from trilith.cluster.state import State, default_root

    return State(arguments.state or default_root())
