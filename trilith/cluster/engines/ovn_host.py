"""Open vSwitch and ovn-controller on network and compute hosts, in the host's own network namespace.

        eth1 (tunnels)                      eth2 (provider)
          |                                   |
    br-phy, in userspace only               br-ex
          |  geneve to the other hosts        |
        br-int -------------------------------+
          |
        taps of the machines, links of metadata

What the switch knows goes with a reboot, as what the kernel knows does: with its old tunnels it would tell the others
that it is alive before ovn-controller has made it a gateway again. ovn-controller is not enabled: the keeper starts it
when everything else is there.
"""

import ipaddress
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from trilith.cluster.engines import ovn_host_plan as plans
from trilith.cluster.engines.engine import ServiceUnit, Status, UnitEngine, make_want, plan_absent, plan_files
from trilith.cluster.engines.files import ConfigFile
from trilith.cluster.engines.ovn_central import RUN, SOUTHBOUND, foreground, remotes
from trilith.drivers import linux_net, unixctl
from trilith.drivers.ovs import datapath
from trilith.drivers.ovsdb import as_map
from trilith.kernel.errors import Refused, Unavailable
from trilith.kernel.reconcile import Act, Doc

SOCKET = "/run/openvswitch/db.sock"
SYSTEM_ID = "/etc/openvswitch/system-id.conf"
DEFAULTS = "/etc/default/openvswitch-switch"
SWITCH, DATABASE, DAEMON = "openvswitch-switch.service", "ovsdb-server.service", "ovs-vswitchd.service"
CONTROLLER, ALL_OF_OVN = "ovn-controller.service", "ovn-host.service"
PHYSICAL_NETWORKS = ("public", "provider")  # names of one wire: two external networks share it
NFT_TABLE = "trilith_switch"
TOOL_S = 10.0
PROBE_MS = 3000  # of silence, after which ovn-controller asks whether the database lives


class OvnHost(UnitEngine):
    kind = "ovn_host"

    def present(self) -> bool:
        return self.view.has_role("network", "compute") and not self.view.settings.fake

    def files(self) -> list[ConfigFile]:
        return [
            ConfigFile(SYSTEM_ID, f"{self.view.host.name}\n"),  # Debian's start script writes it into the database
            ConfigFile(DEFAULTS, "OVS_CTL_OPTS=--db-file=/run/openvswitch/conf.db\n"),
        ]

    def units(self) -> list[ServiceUnit]:
        return [
            ServiceUnit(SWITCH),
            ServiceUnit(DATABASE, reads=(DEFAULTS,), dropin="[Unit]\nStartLimitIntervalSec=0\n"),
            ServiceUnit(DAEMON, dropin=self._daemon()),
            ServiceUnit(ALL_OF_OVN),
            ServiceUnit(CONTROLLER, dropin=self._controller()),
        ]

    def want(self) -> Doc:
        base = super().want()
        if not base["present"]:
            return base
        networks, host = self.view.settings.cluster.networks, self.view.host
        length = ipaddress.ip_network(networks.tunnel).prefixlen if networks.tunnel else None
        return make_want(
            True,
            files=base["files"],
            units=base["units"],
            switch_units=[SWITCH, DATABASE, DAEMON],
            controller_units=[CONTROLLER],
            # The switch carries every machine's traffic: it is left alone once it runs with a configuration of ours.
            restarted=[CONTROLLER],
            external_ids=self._external_ids(),
            physical_networks=list(PHYSICAL_NETWORKS),
            is_gateway=self.view.has_role("network"),
            provider_interface=networks.provider_interface,
            tunnel_interface=networks.tunnel_interface,
            tunnel_address=host.tunnel,
            tunnel_prefix_length=length,
            tunnel_mtu=networks.tunnel_mtu,
            tunnel_shared=host.tunnel == host.address or networks.tunnel_interface == networks.management_interface,
        )

    def observe(self, key: str) -> Doc | None:
        seen = super().observe(key)
        if seen is None or not self.present():
            return seen
        runs = seen["units"][DAEMON]["active"] == "active"
        # Debian's start script loads the module, where there is one.
        seen |= {"datapath": datapath() if runs else None, "switch": _switch() if runs else None}
        return seen | {"links": _links(), "drops": _drops(), "controller": self._controller_says()}

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        if seen is None:
            return []
        if not want["present"]:
            return plan_absent(seen)
        if acts := plan_files(want, seen):
            return acts
        acts = [] if seen["units"][SWITCH]["enabled"] else [Act("enable", {"unit": SWITCH})]
        acts += [Act("disable", {"unit": ALL_OF_OVN})] if seen["units"][ALL_OF_OVN]["enabled"] else []
        return acts or plans.plan(want, seen)

    def status(self, want: Doc, seen: Doc | None) -> Status:
        if seen is None or not want["present"]:
            return Status(seen is not None and not self.plan(want, seen))
        problem = plans.problem(want, seen)
        return Status(not problem and not self.plan(want, seen), problem, plans.detail(seen))

    def perform(self, key: str, act: Act) -> None:
        match act.do:
            case "set_switch":
                _set_switch(act.args)
            case "make_bridge":
                _make_bridge(**act.args)
            case "remove_bridge":
                _vsctl("--if-exists", "del-br", act.args["name"])
            case "set_link":
                _set_link(**act.args)
            case "leave_to_switch":
                _leave_to_switch(act.args["interfaces"])
            case "follow":
                # A database that was made anew counts from the beginning: to be told, or it is taken for an old one.
                unixctl.ask(_controller_control(), "sb-cluster-state-reset")
                raise Unavailable("ovn-controller does not reach the southbound database.")
            case _:
                super().perform(key, act)

    # --- what the units run

    def _external_ids(self) -> dict[str, str]:
        return {
            "system-id": self.view.host.name,
            "hostname": self.view.host.name,
            "ovn-remote": remotes(SOUTHBOUND, self.view.controllers),
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": self.view.host.tunnel,
            "ovn-monitor-all": "true",
            "ovn-remote-probe-interval": str(PROBE_MS),
        }

    def _daemon(self) -> str:
        """It may abort (userspace connection tracking); it is started again for ever, with its bridge's address."""
        networks = self.view.settings.cluster.networks
        lines = []
        if networks.tunnel:
            cidr = f"{self.view.host.tunnel}/{ipaddress.ip_network(networks.tunnel).prefixlen}"
            lines = [
                f"ExecStartPost=-/bin/sh -c 'test ! -e /sys/class/net/{plans.PHYSICAL} || "
                f"/usr/sbin/ip address replace {cidr} dev {plans.PHYSICAL}'",
                f"ExecStartPost=-/bin/sh -c 'test ! -e /sys/class/net/{plans.PHYSICAL} || "
                f"/usr/sbin/ip link set {plans.PHYSICAL} up mtu {networks.tunnel_mtu}'",
            ]
        # ovn-controller would wait for seconds before it looks again, while the others take this host for alive.
        lines.append(f"ExecStartPost=-/usr/bin/systemctl --no-block try-restart {CONTROLLER}")
        return "\n".join([*lines, "[Unit]", "StartLimitIntervalSec=0", ""])

    def _controller(self) -> str:
        tls = self.view.tls
        words = (
            f"/usr/bin/ovn-controller -vconsole:off -vsyslog:info -vfile:off --pidfile={RUN}/ovn-controller.pid "
            f"--private-key={tls('host.key')} --certificate={tls('host.crt')} --ca-cert={tls('ca.crt')} unix:{SOCKET}"
        )
        return f"{foreground(words)}\n[Unit]\nStartLimitIntervalSec=0\n"

    def _controller_says(self) -> str | None:
        try:
            return unixctl.ask(_controller_control(), "connection-status").strip()
        except (Unavailable, Refused):
            return None


def _controller_control() -> Path:
    try:
        pid = Path(f"{RUN}/ovn-controller.pid").read_text().strip()
    except OSError as error:
        raise Unavailable("ovn-controller does not run.") from error
    return Path(f"{RUN}/ovn-controller.{pid}.ctl")


# --- the switch's database


def _transact(*operations: Doc) -> list[Doc]:
    text = json.dumps(["Open_vSwitch", *operations])
    try:
        done = subprocess.run(
            ["ovsdb-client", "--timeout=3", "transact", f"unix:{SOCKET}", text],
            capture_output=True, text=True, timeout=TOOL_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Unavailable("Open vSwitch's database does not answer.") from error
    if done.returncode:
        raise Unavailable(f"Open vSwitch's database: {done.stderr.strip()[-300:]}")
    answers: list[Doc] = json.loads(done.stdout)
    if errors := [answer for answer in answers if answer and "error" in answer]:
        raise Unavailable(f"Open vSwitch's database: {errors[0]}")
    return answers


def _switch() -> Doc | None:
    """Its settings, and its bridges with the names of their ports; None while it does not answer."""

    def select(table: str, *columns: str) -> Doc:
        return {"op": "select", "table": table, "where": [], "columns": list(columns)}

    try:
        root, bridges, ports = (
            answer["rows"]
            for answer in _transact(
                select("Open_vSwitch", "external_ids", "other_config"),
                select("Bridge", "name", "datapath_type", "fail_mode", "other_config", "ports"),
                select("Port", "_uuid", "name"),
            )
        )
    except Unavailable:
        return None
    if not root:
        return None
    names = {port["_uuid"][1]: port["name"] for port in ports}
    found = {
        bridge["name"]: {
            "datapath_type": bridge["datapath_type"],
            "fail_mode": next(iter(_set(bridge["fail_mode"])), None),
            "other_config": dict(bridge["other_config"][1]),
            "ports": sorted(names[uuid] for _, uuid in _set(bridge["ports"]) if uuid in names),
        }
        for bridge in bridges
    }
    settings = {column: dict(root[0][column][1]) for column in ("external_ids", "other_config")}
    return {**settings, "bridges": found}


def _set(value: Any) -> list[Any]:
    """OVSDB writes a set of one as its one element."""
    return list(value[1]) if isinstance(value, list) and value[0] == "set" else [value]


def _set_switch(columns: dict[str, dict[str, str]]) -> None:
    mutations = []
    for column, values in columns.items():
        mutations += [[column, "delete", ["set", list(values)]], [column, "insert", as_map(values)]]
    _transact({"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": mutations})


def _make_bridge(
    name: str, datapath_type: str, fail_mode: str | None, other_config: dict[str, str], ports: list[str]
) -> None:
    words = ["--may-exist", "add-br", name, "--", "set", "bridge", name, f"datapath_type={datapath_type}"]
    words += [f"fail_mode={fail_mode or '[]'}"]
    words += [f'other_config:{key}="{value}"' for key, value in other_config.items()]
    for port in ports:
        words += ["--", "--may-exist", "add-port", name, port]
    _vsctl(*words)


def _vsctl(*words: str) -> None:
    linux_net.run(["ovs-vsctl", f"--db=unix:{SOCKET}", f"--timeout={TOOL_S:.0f}", *words])


# --- the kernel


def _links() -> Doc:
    found = {}
    for link in json.loads(linux_net.ip("-j", "address", "show")):
        if name := link.get("ifname"):
            addresses = [f"{each['local']}/{each['prefixlen']}" for each in link.get("addr_info", [])]
            up = "UP" in link["flags"]
            found[name] = {"mac": link.get("address"), "mtu": link["mtu"], "up": up, "addresses": addresses}
    return found


def _set_link(name: str, mtu: int, addresses: list[str]) -> None:
    linux_net.write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")  # no tenant's machine advertises routes to us
    if name not in (found := _links()):
        raise Unavailable(f"{name} is not there yet.")
    there = set(found[name]["addresses"])
    for address in there - set(addresses):
        linux_net.ip("address", "del", address, "dev", name)
    for address in set(addresses) - there:
        linux_net.ip("address", "replace", address, "dev", name)
    linux_net.set_up(name, mtu)


def _drops() -> list[str]:
    """Interfaces of our table's chains."""
    argv = ["nft", "list", "table", "netdev", NFT_TABLE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TOOL_S, check=False)
    return re.findall(r'device "?([^" ]+)"? priority', done.stdout)


def _leave_to_switch(interfaces: list[str]) -> None:
    """The kernel neither answers what arrives there nor changes its size; the switch has it before it is dropped."""
    for name in interfaces:
        linux_net.offload_off(name)
    rules = f"table netdev {NFT_TABLE} {{}}\ndelete table netdev {NFT_TABLE}\n"
    chains = [
        f'chain arrivals_{number} {{ type filter hook ingress device "{name}" priority 0; policy drop; }}'
        for number, name in enumerate(interfaces)
    ]
    if chains:
        rules += f"table netdev {NFT_TABLE} {{\n" + "\n".join(chains) + "\n}\n"
    linux_net.run(["nft", "-f", "-"], rules)
