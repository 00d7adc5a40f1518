"""What an agent is told about itself and its host."""

from dataclasses import dataclass, field
from pathlib import Path

from trilith.drivers.ceph import Access


@dataclass(frozen=True)
class AgentSettings:
    """`directory` holds everything of this host: machines, volumes, cached images. `heartbeat_file` is written after
    each heartbeat that the API took. `netns`, `ovs_socket` and `datapath` say where this host's network engine is."""

    host: str
    api_url: str
    hub_url: str
    credential_file: Path
    directory: Path
    heartbeat_file: Path
    fake: bool = False
    netns: str | None = None
    ovs_socket: str = ""
    datapath: str = "netdev"
    accelerator: str = "auto"
    machines: bool = True
    "Whether machines run here."
    volumes: bool = True
    "Whether volumes are kept here. A host of neither only says that it lives."
    address: str = "127.0.0.1"
    "Where machines that move come and go."
    storage_address: str = "127.0.0.1"
    "On which this host serves its volumes to machines of other hosts."
    overcommit: dict[str, float] = field(default_factory=dict)
    "``vcpus ram disk``: the part of each that machines get; what is not named, the scheduler decides."
    storage_network: str | None = None
    "The network, as ``10.0.0.0/24``, that volumes are reached through; None where there is one host."
    stop_after_s: float | None = None
    "After how long without a heartbeat that was taken this host ends its machines on shared disks; None: never."
    ceph: Access | None = None
    "How disks in Ceph are opened; None where the cluster file has none."
    ca_file: Path | None = None
    "What API and hub are verified against; None where they speak no TLS."
