"""A real OVN in namespaces of its own, with small "machines" (a namespace and a link each) to try the data plane."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trilith.cluster.ovn_engine import OvnHost, prepare_host, processes, remove_host
from trilith.drivers import linux_net
from trilith.drivers.ovn import Northbound
from trilith.drivers.ovs import HostNetwork
from trilith.network import northbound_plan

HOST = "h1"


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Lab:
    """One host. `self.topology` is what the cloud wants; `sync()` makes it so."""

    def __init__(self, public_net: int) -> None:
        self.cloud = f"t3-{os.getpid()}-{public_net}"
        self.directory = Path(tempfile.mkdtemp(prefix="t3-", dir="/var/tmp"))
        self.public = f"172.24.{public_net}"
        self.host = OvnHost(self.cloud, HOST, self.directory, gateway_address=f"{self.public}.1/24")
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.machines: list[Machine] = []
        self.topology: dict[str, Any] = {}

    def start(self) -> None:
        prepare_host(self.host)
        for process in processes(self.host):
            self.start_process(process.name)
        self.northbound = Northbound(self.host.remote)
        self.network = HostNetwork(str(self.host.socket), self.host.netns, self.host.datapath)

    def start_process(self, name: str) -> None:
        process = next(each for each in processes(self.host) if each.name == name)
        argv = ["ip", "netns", "exec", str(process.netns), *process.argv]
        self.running[name] = subprocess.Popen(argv, env={**os.environ, **process.env})
        wait_for(f"{name} is ready", process.ready)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for machine in self.machines:
            linux_net.delete_namespace(machine.netns)
        self.northbound.close()
        self.network.close()
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(10)
        remove_host(self.host)
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()

    def sync(self, until_up: bool = True) -> None:
        """Bring OVN to `self.topology`, and wait until every machine's port is up."""
        want = northbound_plan.compile(self.topology)
        self.northbound.apply(northbound_plan.diff(want, self.northbound.read()))
        assert northbound_plan.diff(want, self.northbound.read()) == []
        linux_net.run(["ovn-nbctl", f"--db={self.host.remote}", "--wait=hv", "--timeout=10", "sync"])
        if until_up:
            ids = {machine.port["id"] for machine in self.machines}
            wait_for("ports are up", lambda: ids <= self.northbound.ports_up())

    def machine(self, port: dict[str, Any]) -> "Machine":
        """Plug a machine into a port of the topology."""
        machine = Machine(self, port, f"{self.cloud}-{len(self.machines)}")
        self.machines.append(machine)
        return machine


class Machine:
    """A namespace whose eth0 is on the switch as `port`."""

    def __init__(self, lab: Lab, port: dict[str, Any], netns: str) -> None:
        self.port = port
        self.netns = netns
        self.outer = f"vm{port['id'][:11]}"
        linux_net.make_namespace(netns)
        with linux_net.in_netns(netns):
            linux_net.write_sysctl("net/ipv6/conf/all/disable_ipv6", "0")
            linux_net.write_sysctl("net/ipv6/conf/default/disable_ipv6", "0")
        words = ["type", "veth", "peer", "name", "eth0", "address", port["mac_address"], "netns", netns]
        linux_net.ip("-n", str(lab.network.netns), "link", "add", self.outer, *words)
        with linux_net.in_netns(lab.network.netns):
            linux_net.set_up(self.outer)
        with linux_net.in_netns(netns):
            linux_net.checksum_offload_off("eth0")
            linux_net.set_up("eth0", mtu=1442)
        lab.network.attach(self.outer, port["id"], port["mac_address"])

    @property
    def address(self) -> str:
        return str(self.port["fixed_ips"][0]["ip_address"])

    def run(self, *argv: str, timeout_s: float = 15.0) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.netns, *argv], capture_output=True, text=True, timeout=timeout_s, check=False
        )
        return done.stdout + done.stderr

    def static_address(self, gateway: str) -> None:
        linux_net.ip("-n", self.netns, "addr", "replace", f"{self.address}/24", "dev", "eth0")
        linux_net.ip("-n", self.netns, "route", "replace", "default", "via", gateway)

    def lease(self) -> dict[str, str]:
        """What DHCP says, as busybox gives it to its script."""
        script = "#!/bin/sh\n[ $1 = bound ] && env\nexit 0\n"
        with tempfile.NamedTemporaryFile("w", suffix=".sh", delete=False) as file:
            file.write(script)
        os.chmod(file.name, 0o700)
        said = self.run("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", file.name,
                        "-O", "staticroutes", "-O", "mtu", "-O", "dns", "-O", "domain")  # fmt: skip
        os.unlink(file.name)
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)

    def pings(self, address: str, tries: int = 1) -> bool:
        return any(", 0% packet loss" in self.run("ping", "-c1", "-W1", address) for _ in range(tries))


@contextlib.contextmanager
def lab(public_net: int) -> Iterator[Lab]:
    made = Lab(public_net)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def pretty(rows: Any) -> str:
    return json.dumps(rows, indent=1, sort_keys=True)
