"""The cluster file: which hosts make a cloud and what each is for. All-in-one is the same file with one host.

Read with `read(path)`; every mistake is a `ClusterFileError` that names the file and the line.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

Role = Literal["control", "network", "compute", "storage", "logging"]
ALL_ROLES: tuple[Role, ...] = ("control", "network", "compute", "storage", "logging")


class ClusterFileError(Exception):
    """A cluster file that cannot be used; the sentence names file, line and what to write instead."""


FenceDriver = Literal["redfish", "ipmi", "self", "none"]
"self: the host's agent stops its machines by itself when it has not been heard for `stop_after_s`; none: an operator."


class Fencing(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How it is made sure that a lost host runs nothing any more. `address`: of its power switch (``https://10.1.0.11``
    for Redfish, a name or an address for IPMI); `password_file` lies where `trilith deploy` is typed."""

    driver: FenceDriver = "none"
    address: str | None = None
    user: str | None = None
    password_file: str | None = None
    system: str | None = None
    "Redfish's name of the host, as in ``/redfish/v1/Systems/NAME``; default: the only one there is."
    ca_file: str | None = None
    "PEM, on the controllers, that the switch's certificate is verified against; default: the cloud's own, then theirs."
    cipher: Annotated[int, msgspec.Meta(ge=1, le=17)] | None = None
    "IPMI's cipher suite; default: the switch is asked, which takes seconds where it does not say."
    power_on: bool = False
    "Whether the switch puts the host on again, when its machines run elsewhere."
    or_self: bool = False
    "Whether the agent's own is trusted too: a switch that lost its power with its host never answers."
    stop_after_s: Annotated[float, msgspec.Meta(ge=15, le=300)] = 20.0
    "After how long without the API an agent stops its machines, where it is trusted to."

    @property
    def by_agent(self) -> bool:
        return self.or_self or self.driver == "self"


class Host(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One machine of the cluster. `address` is where the other hosts reach it; `tunnel_address` where the
    machines' traffic between hosts goes, `storage_address` where their disks' does (default: the same).
    `fencing`: its own, in place of the file's."""

    name: str
    address: str = "127.0.0.1"
    tunnel_address: str | None = None
    storage_address: str | None = None
    roles: list[Role] = msgspec.field(default_factory=lambda: list(ALL_ROLES))
    availability_zone: str = "nova"
    fencing: Fencing | None = None

    @property
    def tunnel(self) -> str:
        return self.tunnel_address or self.address

    @property
    def storage(self) -> str:
        return self.storage_address or self.address

    @property
    def addresses(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys((self.address, self.tunnel, self.storage)))


class Networks(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What joins the hosts. `management`, `tunnel` and `storage` are networks as ``10.0.0.0/24``; interfaces
    have the same name on every host. Without `storage`, disks' traffic takes the management network. The
    provider interface carries external networks and has no address."""

    management: str | None = None
    management_interface: str = "eth0"
    tunnel: str | None = None
    tunnel_interface: str = "eth1"
    tunnel_mtu: int = 1500
    provider_interface: str = "eth2"
    storage: str | None = None
    storage_interface: str = "eth3"


class Public(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The external network ``public`` that a new cloud has. `gateway`: a router outside; default: its first address."""

    cidr: str = "172.24.4.0/24"
    gateway: str | None = None


class Engines(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which engine does a job for which there is a choice."""

    database: Literal["auto", "sqlite", "galera"] = "auto"
    "auto: SQLite where one host is the whole cluster, Galera over the controllers of a larger one."
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    "What machines run on; auto asks the processor, because the presence of /dev/kvm proves nothing."


Factor = Annotated[float, msgspec.Meta(gt=0, le=100)]


class Overcommit(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How much of a host's processors, memory and disk is given to machines: 1 is what there is."""

    vcpus: Factor = 4.0
    ram: Factor = 1.0
    disk: Factor = 1.0


class Takeover(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What becomes of the machines of a lost host. More than `brake_share` of the compute hosts (two at least) lost
    within `window_s` is a broken network: nothing is touched until an operator says so."""

    enabled: bool = True
    brake_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.34
    window_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 300.0
    confirm_s: Annotated[float, msgspec.Meta(ge=1, le=600)] = 3.0
    "How long a host is watched after its lease has run out, before anything is done."
    reserve_hosts: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    "So many empty hosts get machines of lost hosts only."
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50
    "Of a machine whose flavor and metadata name none (``trilith:ha_priority``); 0: it stays where it is."


class ExistingCeph(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A Ceph that others run. `keyring`: a file on the deploying machine with the key of `user`, who may do in the
    pools what ``profile rbd`` says. The pools are there already."""

    monitors: list[str]
    user: str
    keyring: str


class Ceph(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Shared storage. Without `existing` the cluster runs its own: monitors on the controllers, an OSD on each storage
    host, in a sparse file of `osd_size_gib` or on the device that `osd_devices` names for the host."""

    images_pool: str = "trilith-images"
    volumes_pool: str = "trilith-volumes"
    machines_pool: str = "trilith-machines"
    objects_pool: str = "trilith-objects"
    "Of the object store, whose user needs ``allow rwx`` in it."
    size: int = 3
    "Copies of everything, each on another host."
    min_size: int = 2
    "Copies without which nothing is written."
    osd_size_gib: int | None = None
    osd_devices: dict[str, str] = msgspec.field(default_factory=dict)
    osd_memory_mib: int = 1024
    existing: ExistingCeph | None = None

    @property
    def pools(self) -> tuple[str, str, str]:
        return self.images_pool, self.volumes_pool, self.machines_pool


class Ssh(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How `trilith deploy` reaches the hosts."""

    user: str = "root"
    port: int = 22
    key: str | None = None
    "A private key's file; default: what the user's own SSH configuration says."


class ClusterFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole file. `vip` is the address that clients use; one host needs none. `fake`: machines and networks are
    pretended, everything else is real."""

    hosts: list[Host]
    name: str = "trilith"
    region: str = "RegionOne"
    vip: str | None = None
    fake: bool = False
    networks: Networks = msgspec.field(default_factory=Networks)
    public: Public = msgspec.field(default_factory=Public)
    engines: Engines = msgspec.field(default_factory=Engines)
    overcommit: Overcommit = msgspec.field(default_factory=Overcommit)
    takeover: Takeover = msgspec.field(default_factory=Takeover)
    fencing: Fencing = msgspec.field(default_factory=Fencing)
    ssh: Ssh = msgspec.field(default_factory=Ssh)
    ceph: Ceph | None = None

    @property
    def clustered(self) -> bool:
        return len(self.hosts) > 1

    @property
    def own_ceph(self) -> Ceph | None:
        """A Ceph that the cluster runs itself; None also where it uses an existing one."""
        return None if self.ceph is None or self.ceph.existing is not None else self.ceph

    def fencing_of(self, host: Host) -> Fencing:
        return host.fencing or self.fencing

    def with_role(self, role: Role) -> list[Host]:
        """The hosts of a role, in the order of the file."""
        return [host for host in self.hosts if role in host.roles]


def all_in_one(host: str) -> ClusterFile:
    """What `trilith up` uses when it is given no file."""
    return ClusterFile(hosts=[Host(name=host)])


def read(path: Path) -> ClusterFile:
    """The cluster file at `path`. `ClusterFileError` lists everything that is wrong with it."""
    import yaml  # here, because every process has this module loaded and one in a cloud's life reads a file

    from trilith.cluster.cluster_file_checks import mistakes

    try:
        text = path.read_text()
    except OSError as error:
        raise ClusterFileError(f"{path}: cannot be read: {error.strerror}.") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ClusterFileError(f"{path}, line {line}: not YAML: {error.problem}.") from error
    if twice := _key_used_twice(tree):
        raise ClusterFileError(f"{path}, line {twice.start_mark.line + 1}: `{twice.value}` is given twice.")
    try:
        cluster = msgspec.convert(document, ClusterFile)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        steps = _steps(where)
        if "roles" in steps:
            reason = f"{reason}: a host's roles are some of {', '.join(ALL_ROLES)}"
        raise ClusterFileError(f"{path}, line {_line(tree, steps)}: {reason}.") from error
    found = [f"{path}, line {_line(tree, list(mistake.steps))}: {mistake.sentence}" for mistake in mistakes(cluster)]
    if found:
        raise ClusterFileError("\n".join(found))
    return cluster


def _key_used_twice(node: Any) -> Any:
    """The first key that stands twice in one mapping: YAML's readers would take the last without a word."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                return key
            seen.add(key.value)
            if twice := _key_used_twice(value):
                return twice
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_key_used_twice, node.value)), None)
    return None


def _steps(where: str) -> list[str | int]:
    """``.hosts[1].roles[0]`` -> ["hosts", 1, "roles", 0]; msgspec writes ``[...]`` for keys of a dict."""
    steps: list[str | int] = []
    for part in where.rstrip("`").replace("[", ".[").split("."):
        if part.startswith("["):
            index = part.strip("[]")
            steps.append(int(index) if index.isdigit() else index)
        elif part:
            steps.append(part)
    return steps


def _line(node: Any, steps: list[str | int]) -> int:
    """The line (from 1) of the deepest node that the steps lead to."""
    import yaml

    if node is None:
        return 1
    line: int = node.start_mark.line + 1
    for step in steps:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
            continue
        pairs = [pair for pair in node.value if pair[0].value == step] if isinstance(node, yaml.MappingNode) else []
        if not pairs:
            break
        line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
    return line
