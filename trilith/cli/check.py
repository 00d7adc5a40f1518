"""``trilith check``: single points of failure and availability, of a cluster file or of a running cluster."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trilith.cluster.check import Finding, Rates, Weakness
    from trilith.cluster.cluster_file import ClusterFile

RATES = {
    "host-mtbf": ("host_mtbf_h", "hours between two failures of one host, of whatever kind"),
    "host-mttr": ("host_mttr_h", "hours until a host that failed is back"),
    "zone-mtbf": ("zone_mtbf_h", "hours between two failures of a whole availability zone"),
    "zone-mttr": ("zone_mttr_h", "hours until a zone is back"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="the cluster file (default: this host's cloud)"
    )
    parser.add_argument("--live", action="store_true", help="count what works now, as the hosts' keepers say")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="the deployment's, with --live")
    parser.add_argument("--state", type=Path, metavar="DIR", help="the cloud's directory, without FILE")
    parser.add_argument("--require", type=float, metavar="PERCENT", help="availability that the API has to reach")
    parser.add_argument("--json", action="store_true", help="for programs")
    for option, (name, about) in RATES.items():
        parser.add_argument(f"--{option}", dest=name, type=_hours, metavar="HOURS", help=about)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1: a single failure ends the whole cloud, or less than what is required is to be expected."""
    from trilith.cluster import check
    from trilith.cluster.check_live import ready_by_engine

    given = {name: getattr(arguments, name) for name, _ in RATES.values() if getattr(arguments, name) is not None}
    rates = check.Rates(**given)
    cluster, states = _asked(arguments)
    findings = check.check(cluster, rates, None if states is None else ready_by_engine(states))
    weak = list(check.weaknesses(cluster, findings))
    expected = check.cloud(findings, rates)
    silent = [name for name, state in (states or {}).items() if state is None]
    missed = arguments.require is not None and expected["API"] * 100 < arguments.require
    if arguments.json:
        print(json.dumps(_document(rates, findings, weak, expected, silent), indent=1))
    else:
        print(_text(rates, findings, weak, expected, silent))
        if missed:
            print(f"\nRequired of the API: {arguments.require} %. That is missed.")
    return 1 if missed or any(weakness.vital for weakness in weak) else 0


def _asked(arguments: argparse.Namespace) -> "tuple[ClusterFile, dict[str, dict[str, Any] | None] | None]":
    """The cluster, and with --live what its keepers say."""
    from trilith.cluster.check_live import keeper_states
    from trilith.cluster.cluster_file import read
    from trilith.cluster.deploy import default_directory
    from trilith.cluster.deploy_directory import Deployment
    from trilith.cluster.state import Problem, State, default_root

    if arguments.file:
        cluster = read(arguments.file)
        deployment = Deployment(arguments.directory or default_directory(cluster.name))
        if not arguments.live:
            return cluster, None
        if not deployment.ca_file.exists():
            raise Problem(f"{deployment.directory} has no deployment of {cluster.name}. Name its --directory.")
        return cluster, keeper_states(cluster.hosts, deployment.ca_file, deployment.secret("keeper"))
    state = State(arguments.state or default_root())
    if not state.exists():
        raise Problem(f"There is no cloud at {state.root}. Name a cluster file: trilith check FILE")
    cluster = state.settings().cluster
    if not arguments.live or not cluster.clustered:
        return cluster, None
    return cluster, keeper_states(cluster.hosts, state.tls / "ca.crt", state.secret("keeper"))


def _text(
    rates: "Rates", findings: "list[Finding]", weak: "list[Weakness]", expected: dict[str, float], silent: list[str]
) -> str:
    from trilith.cluster.check import YEAR_S

    heads = ("SERVICE", "ZONE", "HOSTS", "NEEDED", "HOSTS MAY DIE", "ZONES MAY DIE", "AVAILABILITY", "OUTAGE A YEAR")
    rows = [
        (
            finding.service.name,
            finding.zone,
            f"{len(finding.ready)}/{len(finding.service.hosts)}",
            str(finding.service.needed),
            str(max(0, finding.hosts_may_die)),
            str(max(0, finding.zones_may_die)),
            f"{100 * finding.availability:.5f} %",
            _duration(finding.outage_s_a_year),
        )
        for finding in findings
    ]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [heads, *rows]
    ]
    lines += [f"Does not answer: {name}" for name in silent]
    lines += ["", "Expected, from these rates:"]
    lines += [
        f"  {name:26}{100 * part:.5f} %  {_duration((1 - part) * YEAR_S)} a year" for name, part in expected.items()
    ]
    lines += [
        f"  a host fails every {rates.host_mtbf_h:g} h and is back after {rates.host_mttr_h:g} h; "
        f"a zone every {rates.zone_mtbf_h:g} h, after {rates.zone_mttr_h:g} h",
        "",
    ]
    vital = [weakness for weakness in weak if weakness.vital]
    lines.append("Single points of failure of the whole cloud:" if vital else "No single failure ends the whole cloud.")
    lines += [_weakness(weakness) for weakness in vital]
    if others := [weakness for weakness in weak if not weakness.vital]:
        lines += ["Of a part of it:", *map(_weakness, others)]
    return "\n".join(lines)


def _weakness(weakness: "Weakness") -> str:
    return f"  {weakness.what}. Ends: {weakness.ends}. To change: {weakness.change}."


def _duration(seconds: float) -> str:
    for unit, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


def _document(
    rates: "Rates", findings: "list[Finding]", weak: "list[Weakness]", expected: dict[str, float], silent: list[str]
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "rates": asdict(rates),
        "services": [
            {
                "name": finding.service.name,
                "zone": finding.zone,
                "hosts": [host.name for host in finding.service.hosts],
                "ready": list(finding.ready),
                "needed": finding.service.needed,
                "hosts_may_die": finding.hosts_may_die,
                "zones_may_die": finding.zones_may_die,
                "availability": finding.availability,
                "outage_s_a_year": finding.outage_s_a_year,
            }
            for finding in findings
        ],
        "expected": expected,
        "single_points_of_failure": [asdict(weakness) for weakness in weak],
        "silent": silent,
    }


def _hours(text: str) -> float:
    hours = float(text)
    if not hours > 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of hours above 0")
    return hours
