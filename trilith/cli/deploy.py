"""``trilith deploy``: hosts become what the cluster file says."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trilith.cluster.deploy_plan import Change


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the cluster file")
    parser.add_argument("--yes", action="store_true", help="change without asking")
    parser.add_argument("--dry-run", action="store_true", help="show what would be changed, and change nothing")
    parser.add_argument("--json", action="store_true", help="for programs: the result on standard output")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="what this machine keeps of the cluster (default: by its name)"
    )
    parser.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="HOST",
        help="this host was installed anew: forget its SSH key",
    )
    parser.add_argument("--force", action="store_true", help="change controllers even where that costs the quorum")


def run(arguments: argparse.Namespace) -> int:
    """Exit codes as of every command."""
    from trilith.cluster.cluster_file import read
    from trilith.cluster.deploy import Asked, default_directory, deploy
    from trilith.cluster.deploy_directory import Deployment

    cluster = read(arguments.file)
    deployment = Deployment(arguments.directory or default_directory(cluster.name))
    output = sys.stderr if arguments.json else sys.stdout
    asked = Asked(
        dry_run=arguments.dry_run,
        confirm=None if arguments.yes else _confirm,
        replaced=tuple(arguments.replace),
        force=arguments.force,
    )
    # several threads tell: a line and its end are one write
    result = deploy(cluster, deployment, lambda line: print(f"{line}\n", end="", file=output, flush=True), asked)
    if arguments.json:
        changes = {name: [_document(change) for change in found] for name, found in result.changes.items()}
        document = {"changed": result.changed, "changes": changes, "warnings": result.warnings, "took_s": result.took_s}
        print(json.dumps(document, indent=1))
    elif not arguments.dry_run:
        print(f"Ready after {result.took_s:.0f} s.\nAPI       https://{cluster.vip}/identity")
        print(f"Keep      {deployment.directory} (its secrets are nowhere else together)\nNext:")
        print(f"  export OS_CLOUD={cluster.name}\n  openstack catalog list\n  trilith check {arguments.file}")
    return 0


def _confirm() -> bool:
    if not sys.stdin.isatty():
        print("Not asked, because this is no terminal: type --yes.", file=sys.stderr)
        return False
    return input("Change this? [y/N] ").strip().lower() in ("y", "yes")


def _document(change: "Change") -> dict[str, object]:
    return {"step": change.step, "what": change.what, "names": list(change.names)}
