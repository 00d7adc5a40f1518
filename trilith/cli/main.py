"""The `trilith` command. Everything a subcommand needs is imported when it runs, so that each starts at once."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trilith.cluster.state import State

NOT_RUNNING = 3


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 well, 1 not, 2 wrong words, 3 the cloud does not run."""
    from trilith.cluster.cluster_file import ClusterFileError
    from trilith.cluster.state import Problem
    from trilith.kernel.errors import Refused, Unavailable

    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except (Problem, ClusterFileError, Refused, Unavailable) as problem:
        if arguments.command == "serve":
            raise  # it belongs into the log
        print(f"trilith: {problem}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"trilith: {error.filename} is another user's. Type it as that user, or with sudo.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `trilith logs | head`
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    from trilith.cli import check, deploy, drill, host, rehearse, seen

    parser = argparse.ArgumentParser(
        prog="trilith", description="An OpenStack-compatible private cloud as one program."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], about: str | None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about) if about else commands.add_parser(name)
        added.add_argument(
            "--state", type=Path, metavar="DIR", help="the cloud's directory (default: /var/lib/trilith)"
        )
        added.set_defaults(run=run)
        return added

    up = command("up", _up, "start a cloud, or go on where it was stopped; returns when it is ready")
    up.add_argument("--listen", metavar="ADDR", help="address of the API and the consoles (default: 127.0.0.1)")
    up.add_argument(
        "--port", type=_number(1, 65534), metavar="N", help="of the API; consoles have the next one (default: 8774)"
    )
    up.add_argument("--workers", type=_number(1, 64), metavar="N", help="processes that serve the API (default: 2)")
    up.add_argument("--no-tls", action="store_true", help="passwords travel unencrypted beyond this machine")
    up.add_argument("--fake", action="store_true", help="pretend machines and networks: no root, no engines")
    up.add_argument("--cluster", type=Path, metavar="FILE", help="cluster file (default: all on this machine)")
    about = "an empty MariaDB database for a new cloud: mysql+pymysql://USER:PASSWORD@HOST/NAME (default: SQLite)"
    up.add_argument("--database", metavar="URL", help=about)
    down = command("down", _down, "stop a cloud: machines, processes, network; its data stays")
    down.add_argument("--destroy", action="store_true", help="delete its data too, without asking")
    seen.add_status(command("status", seen.status, "what runs, where, and what is wrong with it (exit code 0, 1 or 3)"))
    seen.add_logs(command("logs", seen.logs, "the logs of all processes, on all hosts, as one story"))
    repair = command(
        "repair",
        _repair,
        "make derived state anew: the network's of a running cloud, the objects' index of a stopped one",
    )
    repair.add_argument("what", choices=["network", "objects"])
    host.add_arguments(command("host", _host, "what an operator says of hosts, and asks of this one"))
    hosts = command("hosts", _hosts, "every host: up, suspect, lost, taken over; what runs there, and why")
    hosts.add_argument("file", nargs="?", type=Path, metavar="FILE", help="on the deploying machine: a cluster file")
    hosts.add_argument("--directory", type=Path, metavar="DIR", help="what this machine keeps of that cluster")
    hosts.add_argument("--json", action="store_true", help="for programs")
    about = "rehearse a cluster on this machine: its hosts as containers, and what can happen to them"
    rehearse_words = commands.add_parser("rehearse", help=about, description=about)
    rehearse.add(rehearse_words)
    rehearse_words.set_defaults(run=rehearse.run)
    about = "break a cloud on purpose and measure what its users notice (exit code 1: a bar is missed)"
    drill.add_arguments(command("drill", drill.drill, about))
    audit = command("audit", _audit, None)
    audit.add_argument("--rows", action="store_true")
    about = "make hosts what a cluster file says, over SSH"
    deploy_words = commands.add_parser("deploy", help=about, description=about)
    deploy.add_arguments(deploy_words)
    deploy_words.set_defaults(run=deploy.run)
    about = "single points of failure and availability, of a cluster file or of a running cluster"
    check_words = commands.add_parser("check", help=about, description=about)
    check.add_arguments(check_words)
    check_words.set_defaults(run=check.run)
    serve = command("serve", _serve, None)
    serve.add_argument("name")
    return parser


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} to {most}")
        return int(text)

    return number


def _state(arguments: argparse.Namespace) -> "State":
    from trilith.cluster.state import State, default_root

    return State(arguments.state or default_root())


def _running(arguments: argparse.Namespace) -> "State | None":
    """The state of a running cloud; else says what to type."""
    from trilith.cluster.supervisor import ask

    state = _state(arguments)
    if state.exists() and (state.settings().clustered or ask(state, "status")):
        return state
    print(f"trilith: no cloud runs at {state.root}. To start one: trilith up --state {state.root}", file=sys.stderr)
    return None


def _up(arguments: argparse.Namespace) -> int:
    from trilith.cluster import clouds_yaml
    from trilith.cluster.up import Asked, is_loopback, up

    state = _state(arguments)
    asked = Asked(
        arguments.listen,
        arguments.port,
        arguments.workers,
        arguments.fake,
        arguments.cluster,
        arguments.no_tls,
        arguments.database,
    )
    settings = up(state, asked, lambda line: print(line, flush=True))
    if not settings.tls and not is_loopback(settings.listen):
        print(
            f"Warning: {settings.listen} is reachable by others, and passwords travel there unencrypted.",
            file=sys.stderr,
        )
    admin, _ = clouds_yaml.names(state, settings)
    print(f"API       {settings.api_url}/identity\nConsoles  {settings.hub_url}/novnc/\nNext:")
    print(f"  export OS_CLOUD={admin}\n  openstack catalog list")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from trilith.agent.main import stop_machines
    from trilith.cluster.up import down

    down(_state(arguments), arguments.destroy, stop_machines, print)
    return 0


def _repair(arguments: argparse.Namespace) -> int:
    from trilith.cluster.repair import repair, repair_objects

    if arguments.what == "objects":
        print(repair_objects(_state(arguments)))
        return 0
    state = _running(arguments)
    if state is None:
        return NOT_RUNNING
    print(repair(state, arguments.what))
    return 0


def _host(arguments: argparse.Namespace) -> int:
    from trilith.cli import host
    from trilith.cluster.state import Problem

    state = _state(arguments)
    if not state.exists():
        raise Problem(f"{state.root} belongs to no cluster yet. To make this host part of one: trilith deploy FILE")
    return host.run(state, arguments.what, arguments.names, arguments.json, lambda line: print(line, flush=True))


def _hosts(arguments: argparse.Namespace) -> int:
    from trilith.cli import host

    if arguments.file:
        return host.hosts_there(arguments.file, arguments.directory, arguments.json, print)
    state = _running(arguments)
    return NOT_RUNNING if state is None else host.hosts(state, arguments.json, print)


def _audit(arguments: argparse.Namespace) -> int:
    """For drills: what this host has, and what SQL says, as JSON."""
    import json

    from trilith.cluster.audit import look

    print(json.dumps(look(_state(arguments), arguments.rows)))
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from trilith.cluster import serve
    from trilith.kernel.logs import start_log

    state = _state(arguments)
    state.make_directories()
    state.log.mkdir(mode=0o755, parents=True, exist_ok=True)
    start_log(arguments.name, state.log)
    serve.PROCESSES[arguments.name](state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
