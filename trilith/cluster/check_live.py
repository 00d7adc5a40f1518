"""What the keepers of a running cluster say, for `trilith check --live`."""

import http.client
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trilith.cluster.cluster_file import Host
from trilith.cluster.state import KEEPER_PORT
from trilith.kernel import tls

ANSWER_S = 3.0


def keeper_states(hosts: Iterable[Host], ca_file: Path, secret: str) -> dict[str, dict[str, Any] | None]:
    """By host; None where the keeper does not answer."""
    hosts = list(hosts)

    def ask(host: Host) -> dict[str, Any] | None:
        address = f"[{host.address}]" if ":" in host.address else host.address
        try:
            connection = tls.connect(f"https://{address}:{KEEPER_PORT}", ANSWER_S, ca_file)
            try:
                connection.request("GET", "/state", headers={"Authorization": f"Bearer {secret}"})
                reply = connection.getresponse()
                return dict(json.loads(reply.read())) if reply.status == 200 else None
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError):
            return None

    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        return dict(zip([host.name for host in hosts], pool.map(ask, hosts), strict=True))


def ready_by_engine(states: dict[str, dict[str, Any] | None]) -> dict[str, set[str]]:
    """Names of the hosts on which each engine is ready. A host that does not answer has none."""
    found: dict[str, set[str]] = {}
    for host, state in states.items():
        for name, engine in (state or {"engines": {}})["engines"].items():
            if engine["ready"]:
                found.setdefault(name, set()).add(host)
    return found
