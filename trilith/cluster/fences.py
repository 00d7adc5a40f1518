"""The power switches of the compute hosts, as the cluster file names them."""

import json
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

from trilith.cluster.cluster_file import Fencing
from trilith.cluster.state import FENCE_PASSWORDS, Settings, State
from trilith.cluster.takeover_controller import Fence, Switch
from trilith.drivers.fence_ipmi import IpmiSwitch
from trilith.drivers.fence_redfish import RedfishSwitch
from trilith.kernel.errors import Unavailable


def fences_of(state: State, settings: Settings) -> dict[str, Switch]:
    """By host; those without one are missing. Files are read when a switch is asked."""
    found: dict[str, Switch] = {}
    for host in settings.cluster.with_role("compute"):
        fencing = settings.cluster.fencing_of(host)
        if (switch := _switch(state, host.name, fencing)) is not None:
            found[host.name] = Switch(fencing.driver, switch, fencing.power_on)
    return found


def _switch(state: State, host: str, fencing: Fencing) -> Fence | None:
    if fencing.address is None or fencing.user is None:
        return None
    password = partial(_password, state.secrets / FENCE_PASSWORDS, host)
    if fencing.driver == "ipmi":
        return IpmiSwitch(fencing.address, fencing.user, password, fencing.cipher)
    if fencing.driver == "redfish":
        return RedfishSwitch(fencing.address, fencing.user, password, _tls(state, fencing), fencing.system)
    return None


def _password(file: Path, host: str) -> str:
    try:
        return str(json.loads(file.read_bytes())[host])
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable(
            f"its password is not on this controller; to bring it: trilith deploy FILE ({error})"
        ) from error


def _tls(state: State, fencing: Fencing) -> Callable[[], ssl.SSLContext]:
    def context() -> ssl.SSLContext:
        found = ssl.create_default_context(cafile=fencing.ca_file)
        if fencing.ca_file is None:
            found.load_verify_locations(state.tls / "ca.crt")
            found.load_default_certs()
        return found

    return context
