"""A command on one of a cluster's hosts, asked for on the deploying machine."""

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trilith.cluster.cluster_file import ClusterFile, Host, read
from trilith.cluster.deploy_directory import Deployment
from trilith.cluster.rehearse import Rehearsal
from trilith.cluster.ssh import command
from trilith.cluster.state import Problem

STATE = "/var/lib/trilith"  # on every host
UNREACHED = 255  # OpenSSH's own exit code


def place(where: Path, directory: Path | None) -> tuple[ClusterFile, Deployment]:
    """A cluster by its file, or by a rehearsal's directory. `directory`: what the deploying machine keeps of it."""
    from trilith.cluster.deploy import default_directory

    if where.is_dir():
        rehearsal = Rehearsal(where)
        return rehearsal.cluster, Deployment(directory or rehearsal.deployment)
    cluster = read(where)
    return cluster, Deployment(directory or default_directory(cluster.name))


def run_on(
    cluster: ClusterFile, deployment: Deployment, hosts: Sequence[Host], argv: list[str], limit_s: float | None = 60
) -> "subprocess.CompletedProcess[str]":
    """Of the first host that can be reached; what it prints is kept. Raises `Problem` when none can."""
    said = ""
    for host in hosts:
        done = subprocess.run(
            ssh(cluster, deployment, host, argv), capture_output=True, text=True, timeout=limit_s, check=False
        )
        if done.returncode != UNREACHED:
            return done
        said = done.stderr.strip()
    names = ", ".join(host.name for host in hosts)
    raise Problem(f"None of {names} can be reached by SSH: {said}. Is it on? trilith deploy FILE says what is wrong.")


def ssh(cluster: ClusterFile, deployment: Deployment, host: Host, argv: list[str]) -> list[str]:
    """OpenSSH's argv for a command there, as root."""
    words = argv if cluster.ssh.user == "root" else ["sudo", "-n", *argv]
    return [*command(host, cluster.ssh, deployment.known_hosts)[:-1], shlex.join(words)]
