"""Where an agent works on a host of a cluster: in the host's own network namespace, with the switch of the host."""

import msgspec

from trilith.agent.settings import AgentSettings
from trilith.cluster.ceph_access import access
from trilith.cluster.engines.ovn_host import SOCKET
from trilith.cluster.state import Settings, State
from trilith.drivers.ovs import datapath


def agent_settings(state: State, settings: Settings) -> AgentSettings:
    """On hosts of every role that has an agent."""
    fencing, networks = settings.cluster.fencing_of(settings.this_host), settings.cluster.networks
    return AgentSettings(
        host=settings.host,
        api_url=settings.api_url,
        hub_url=settings.hub_url,
        credential_file=state.secrets / f"host-{settings.host}",
        directory=state.host,
        heartbeat_file=state.heartbeat_file,
        fake=settings.fake,
        netns=None,
        ovs_socket=SOCKET,
        datapath=datapath(),
        accelerator=settings.cluster.engines.accelerator,
        machines="compute" in settings.this_host.roles,
        volumes="storage" in settings.this_host.roles,
        address=settings.this_host.address,
        storage_address=settings.this_host.storage,
        overcommit=msgspec.to_builtins(settings.cluster.overcommit),
        storage_network=networks.storage or networks.management,
        stop_after_s=fencing.stop_after_s if fencing.by_agent else None,
        ceph=access(state, settings, control=False) if "compute" in settings.this_host.roles else None,
        ca_file=state.ca_file(settings),
    )
