"""``trilith rehearse``: the hosts of a cluster file on this machine, and what can happen to them."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

NETWORKS = ("management", "tunnel", "provider", "storage", "all")
POWER = {
    "power-off": "cut the power: it falls silent at once, its disk stays",
    "power-on": "switch it on; returns when it answers",
    "reboot": "reboot it in good order; returns when it answers",
    "pause": "freeze all that runs on it",
    "resume": "let it go on",
}
CABLES = {"cut": "pull a host's network cable", "heal": "put it back"}
PAIRS = {"block": "drop everything between two hosts", "unblock": "let it through again"}


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser of ``trilith rehearse`` its subcommands."""
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")

    def act(name: str, about: str) -> argparse.ArgumentParser:
        added = acts.add_parser(name, help=about, description=about)
        added.add_argument(
            "--state",
            type=Path,
            metavar="DIR",
            help="the rehearsal's directory (default: below /var/lib/trilith-rehearsal)",
        )
        return added

    up = act("up", "make the hosts and deploy to them, or go on where it was stopped")
    up.add_argument("file", type=Path, metavar="FILE", help="the cluster file")
    up.add_argument("--bare", action="store_true", help="stop when the hosts answer by SSH: deploy nothing")
    act("down", "end it and delete all of it")
    act("status", "every host, as the kernel sees it").add_argument("--json", action="store_true", help="for programs")
    for name, about in (POWER | CABLES).items():
        one = act(name, about)
        one.add_argument("host", metavar="HOST")
        if name in CABLES:
            one.add_argument("--network", choices=NETWORKS, default="all", help="which cable (default: all)")
    for name, about in PAIRS.items():
        two = act(name, about)
        two.add_argument("host", metavar="HOST")
        two.add_argument("other", metavar="OTHER")
    ssh = act("ssh", "log in to a host, or run a command there")
    ssh.add_argument("host", metavar="HOST")
    ssh.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")


def run(arguments: argparse.Namespace) -> int:
    """Exit codes as of every command."""
    from trilith.cluster import rehearse

    if arguments.act == "up":
        rehearsal = rehearse.up(arguments.file, arguments.state, _say, arguments.bare)
        state = "" if arguments.state is None else f" --state {rehearsal.state}"
        print(f"{len(rehearsal.hosts)} hosts {'answer' if arguments.bare else 'are ready'}. Next:")
        if not arguments.bare:
            print(f"  export OS_CLOUD={rehearsal.cluster.name}\n  openstack catalog list")
        print(f"  trilith rehearse status{state}\n  trilith rehearse ssh{state} {rehearsal.hosts[0].name}")
        return 0
    state_directory = rehearse.the_only_state(arguments.state)
    if arguments.act == "down":
        rehearse.down(state_directory)
        return 0
    rehearsal = rehearse.Rehearsal(state_directory)
    if arguments.act == "status":
        document = rehearsal.status()
        print(json.dumps(document, indent=1) if arguments.json else as_text(document))
        return 0
    if arguments.act in PAIRS:
        getattr(rehearsal, arguments.act)(arguments.host, arguments.other)
        return 0
    host = rehearsal.host(arguments.host)
    if arguments.act == "ssh":
        os.execvp("ssh", ["ssh", "-F", str(rehearsal.ssh_config), host.name, *arguments.words])
    if arguments.act in CABLES:
        getattr(host, arguments.act)(arguments.network)
    else:
        getattr(host, arguments.act.replace("-", "_"))()
    return 0


def as_text(document: dict[str, Any]) -> str:
    """The status as a table."""
    heads = ("HOST", "STATE", "ADDRESS", "TUNNEL", "ROLES", "CUT", "MEMORY", "BOOT")
    rows = [heads] + [
        (
            host["name"],
            host["condition"],
            host["address"],
            host["tunnel_address"] or "-",
            ",".join(host["roles"]),
            ",".join(host["cut"]) or "-",
            f"{host['memory_mib']} MiB",
            "-" if host["boot_s"] is None else f"{host['boot_s']:.1f} s",
        )
        for host in document["hosts"]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    blocked = [f"blocked: {one} - {other}" for one, other in document["blocked"]]
    return "\n".join([f"{document['name']} at {document['state']}", *lines, *blocked])


def _say(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # one write: several threads tell
