"""OVN on one host: its databases, its namespace, its link to the outside, and the processes that the supervisor runs.

    root namespace                         namespace of the host
    gateway 172.24.4.1/24 ==== veth ====== br-ex (public network) -- br-int -- taps of the machines, links of metadata

One ovsdb-server serves the northbound, the southbound and the switch's database. The switch's own database goes with
the namespace: when that was made anew (the machine rebooted), no port of the old one exists any more.
"""

import hashlib
import json
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from trilith.cluster.process import Process
from trilith.drivers import linux_net, unixctl
from trilith.drivers.ovs import datapath
from trilith.kernel.errors import Refused, Unavailable

SCHEMAS = {
    "conf": "/usr/share/openvswitch/vswitch.ovsschema",
    "nb": "/usr/share/ovn/ovn-nb.ovsschema",
    "sb": "/usr/share/ovn/ovn-sb.ovsschema",
}
INNER_LINK = "outside"


@dataclass(frozen=True)
class OvnHost:
    """Where and how OVN runs on one host. Several live side by side on one machine."""

    cloud: str
    host: str  # the chassis' name, which ports are bound to
    directory: Path  # databases, sockets, logs; keep its path short: sockets have 107 characters
    gateway_address: str = "172.24.4.1/24"  # of the public network, in the root namespace
    physical_networks: tuple[str, ...] = ("public", "provider")  # names of one wire: two external networks share it
    tunnel_address: str = "127.0.0.1"
    masquerade: bool = True  # the public network reaches the outside behind this machine's address

    @property
    def netns(self) -> str:
        return f"tri-{self.cloud}-{self.host}"

    @property
    def outer_link(self) -> str:
        """Of the root namespace: at most 15 characters, its own for each cloud and host."""
        return f"tri{hashlib.sha256(self.netns.encode()).hexdigest()[:9]}"

    @property
    def outer_mac(self) -> str:
        """Always the same: routers remember it for as long as the southbound database lives."""
        return "02:" + hashlib.sha256(self.netns.encode()).digest()[:5].hex(":")

    @property
    def nft_table(self) -> str:
        return self.netns.replace("-", "_")

    @property
    def socket(self) -> Path:
        return self.directory / "db.sock"

    @property
    def remote(self) -> str:
        """What `Northbound` and `HostNetwork` connect to."""
        return f"unix:{self.socket}"

    @property
    def datapath(self) -> str:
        return datapath()


def prepare_host(host: OvnHost) -> None:
    """Make everything that the processes need; again and again is fine. Raises `Unavailable` with what failed."""
    host.directory.mkdir(parents=True, exist_ok=True)
    if not linux_net.usable(host.netns) and not _listens(host.socket):
        (host.directory / "conf.db").unlink(missing_ok=True)
    linux_net.make_namespace(host.netns)
    for stale in host.directory.glob("ovn-controller.*.ctl"):
        if not _listens(stale):
            stale.unlink(missing_ok=True)
    made_anew = _link_outside(host)
    _write_nft(host)
    _make_databases(host)
    if made_anew and _listens(host.socket):  # the running switch still holds the link that vanished
        for act in ("del-port", "add-port"):
            linux_net.run(["ovs-vsctl", f"--db={host.remote}", "--timeout=5", act, "br-ex", INNER_LINK])


def remove_host(host: OvnHost) -> None:
    """Take away what this and the host's agent made in the kernel. Its processes must have ended; databases stay."""
    linux_net.delete_link(host.outer_link)
    for name in linux_net.namespaces(f"{host.netns}-md-") | linux_net.namespaces(host.netns) & {host.netns}:
        linux_net.delete_namespace(name)
    if _nft_has(host):
        linux_net.run(["nft", "delete", "table", "ip", host.nft_table])


def _link_outside(host: OvnHost) -> bool:
    """The link between the root namespace and the host's; says whether it was made."""
    outer = host.outer_link
    with linux_net.in_netns(host.netns):
        complete = linux_net.link_exists(INNER_LINK)
    missing = not (complete and linux_net.link_exists(outer))
    if missing:
        linux_net.delete_link(outer)
        peer = ["type", "veth", "peer", "name", INNER_LINK, "netns", host.netns]
        linux_net.ip("link", "add", outer, "address", host.outer_mac, *peer)
    linux_net.write_sysctl(f"net/ipv6/conf/{outer}/disable_ipv6", "1")  # no machine of a tenant advertises routes to us
    linux_net.ip("addr", "replace", host.gateway_address, "dev", outer)
    linux_net.checksum_offload_off(outer)
    linux_net.set_up(outer)
    with linux_net.in_netns(host.netns):
        linux_net.checksum_offload_off(INNER_LINK)
        linux_net.set_up(INNER_LINK)
    return missing


def _nft_has(host: OvnHost) -> bool:
    argv = ["nft", "list", "table", "ip", host.nft_table]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _write_nft(host: OvnHost) -> None:
    """Replace our table in one transaction: declaring it first makes the delete work when it is not there."""
    rules = f"table ip {host.nft_table} {{}}\ndelete table ip {host.nft_table}\n"
    if host.masquerade:
        public = ip_interface(host.gateway_address).network
        rules += (
            f"table ip {host.nft_table} {{\nchain public {{ type nat hook postrouting priority srcnat;\n"
            f'ip saddr {public} ip daddr != {public} oifname != "{host.outer_link}" masquerade\n}}\n}}\n'
        )
        linux_net.write_sysctl("net/ipv4/ip_forward", "1")
    linux_net.run(["nft", "-f", "-"], rules)


def _make_databases(host: OvnHost) -> None:
    if _listens(host.socket):
        linux_net.run(["ovsdb-client", "transact", host.remote, json.dumps(_settings(host))])
        return
    conf = host.directory / "conf.db"
    for name, schema in SCHEMAS.items():
        _make_database(host.directory / f"{name}.db", schema)
    operations = _first_rows(host) if _is_empty(conf) else _settings(host)
    linux_net.run(["ovsdb-tool", "transact", str(conf), json.dumps(operations)])


def _make_database(path: Path, schema: str) -> None:
    """Made aside and renamed, so that a crash leaves all of it or nothing; converted when the engine was upgraded."""
    if path.exists():
        if linux_net.run(["ovsdb-tool", "needs-conversion", str(path), schema]).strip() == "yes":
            linux_net.run(["ovsdb-tool", "convert", str(path), schema])
        return
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    linux_net.run(["ovsdb-tool", "create", str(aside), schema])
    aside.rename(path)


def _is_empty(conf: Path) -> bool:
    select = ["Open_vSwitch", {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["_uuid"]}]
    answer = json.loads(linux_net.run(["ovsdb-tool", "query", str(conf), json.dumps(select)]))
    return not answer[0]["rows"]


def _external_ids(host: OvnHost) -> dict[str, str]:
    return {
        "system-id": host.host,
        "hostname": host.host,
        "ovn-remote": host.remote,
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": host.tunnel_address,
        "ovn-bridge-datapath-type": host.datapath,
        "ovn-bridge-mappings": ",".join(f"{name}:br-ex" for name in host.physical_networks),
    }


def _ovsdb_map(values: dict[str, str]) -> list[Any]:
    return ["map", [[key, value] for key, value in values.items()]]


def _settings(host: OvnHost) -> list[Any]:
    """OVSDB operations that bring an existing switch database to the wanted settings."""
    values = _external_ids(host)
    mutations = [
        ["external_ids", "delete", ["set", list(values)]],
        ["external_ids", "insert", _ovsdb_map(values)],
    ]
    return ["Open_vSwitch", {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": mutations}]


def _first_rows(host: OvnHost) -> list[Any]:
    """OVSDB operations that fill a new switch database: its settings and both bridges."""
    root = {
        "external_ids": _ovsdb_map(_external_ids(host)),
        # With it on, tunnels between hosts carry no TCP (OVS 3.1).
        "other_config": _ovsdb_map({"userspace-tso-enable": "false"}),
        "bridges": ["set", [["named-uuid", "brint"], ["named-uuid", "brex"]]],
    }
    operations: list[Any] = ["Open_vSwitch", {"op": "insert", "table": "Open_vSwitch", "row": root}]
    integration = {"fail_mode": "secure", "other_config": _ovsdb_map({"disable-in-band": "true"})}
    operations += _bridge(host, "br-int", integration, {"br-int": "internal"})
    operations += _bridge(host, "br-ex", {}, {"br-ex": "internal", INNER_LINK: ""})
    return operations


def _bridge(host: OvnHost, name: str, columns: dict[str, Any], links: dict[str, str]) -> list[Any]:
    short = name.replace("-", "")
    operations: list[Any] = []
    ports: list[list[str]] = []
    for link, kind in links.items():
        port = f"{short}port{len(ports)}"
        interface = ["named-uuid", f"{port}i"]
        ports.append(["named-uuid", port])
        row = {"name": link, "type": kind}
        operations.append({"op": "insert", "table": "Interface", "uuid-name": f"{port}i", "row": row})
        row_of_port = {"name": link, "interfaces": interface}
        operations.append({"op": "insert", "table": "Port", "uuid-name": port, "row": row_of_port})
    bridge = {"name": name, "datapath_type": host.datapath, "ports": ["set", ports], **columns}
    operations.append({"op": "insert", "table": "Bridge", "uuid-name": short, "row": bridge})
    return operations


def processes(host: OvnHost) -> list[Process]:
    """The four engines, in the order of their start. Each is safe to kill and start again at any moment."""
    database = host.remote
    return [
        _process(host, "ovsdb-server", [f"--remote=p{database}", *(str(host.directory / f"{n}.db") for n in SCHEMAS)]),
        _process(host, "ovs-vswitchd", [database], after="ovsdb-server"),
        _process(host, "ovn-northd", [f"--ovnnb-db={database}", f"--ovnsb-db={database}"], after="ovsdb-server"),
        _process(host, "ovn-controller", [database], after="ovsdb-server"),
    ]


def _process(host: OvnHost, name: str, words: list[str], after: str = "") -> Process:
    directory = str(host.directory)
    if name == "ovn-controller":  # it has no option for its control socket, and puts its process id into that name
        control = host.directory / "ovn-controller.pid"
        words = [f"--pidfile={control}", *words]
    else:
        control = host.directory / f"{name}.ctl"
        words = [f"--unixctl={control}", *words]
    logging = ["-vconsole:off", "-vsyslog:off", f"--log-file={directory}/{name}.log"]
    variables = ("OVS_RUNDIR", "OVN_RUNDIR", "OVS_DBDIR", "OVN_DBDIR", "OVS_LOGDIR", "OVN_LOGDIR", "OVS_SYSCONFDIR")
    return Process(
        name=name,
        argv=[name, *logging, *words],
        env=dict.fromkeys(variables, directory),
        netns=host.netns,
        ready=_readiness(name, control, host.socket),
        after=(after,) if after else (),
    )


def _readiness(name: str, control: Path, database: Path) -> Callable[[], bool]:
    if name == "ovsdb-server":
        return lambda: _listens(database)
    if name == "ovs-vswitchd":
        return lambda: "br-int" in _ask(control, "dpif/show")  # the bridges of its database are made
    if name == "ovn-controller":
        return lambda: _ask(_by_pid(control), "connection-status").strip() == "connected"
    return lambda: _ask(control, "status") != ""


def _by_pid(pidfile: Path) -> Path:
    pid = pidfile.read_text().strip() if pidfile.exists() else ""
    return pidfile.with_suffix(f".{pid}.ctl")


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _ask(control: Path, method: str) -> str:
    """One command to a daemon's control socket; "" when it does not answer."""
    try:
        return unixctl.ask(control, method)
    except (Unavailable, Refused):
        return ""
