"""A first server, from nothing to a login, through the stock openstacksdk. Run again, it goes on with what is there.

    OS_CLOUD=trilith-demo python examples/first_server.py

Each step is an ordinary call of the OpenStack API; nothing here knows Trilith.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openstack

NAME = "first"
CLOUD = os.environ.get("OS_CLOUD", "trilith-demo")
KEY = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "trilith-first-server" / CLOUD
SSH = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
SSH += ("-o", "ConnectTimeout=3", "-o", "BatchMode=yes")


@contextmanager
def step(what: str) -> Iterator[Callable[[str], None]]:
    """Prints what is done, what came of it, and how long it took."""
    print(f"  {what:<34}", end="", flush=True)
    begun, words = time.monotonic(), [""]
    yield lambda text: words.__setitem__(0, text)
    print(f"{words[0]:<46}{time.monotonic() - begun:6.2f} s", flush=True)


def key() -> str:
    """A key pair of this machine's user; the cloud gets the public half."""
    if not KEY.exists():
        KEY.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "first-server", "-f", str(KEY)], check=True
        )
    return KEY.with_suffix(".pub").read_text()


def open_port(cloud: Any, group: Any, protocol: str, port: int | None = None) -> None:
    wanted = {"direction": "ingress", "protocol": protocol, "port_range_min": port, "port_range_max": port}
    have = cloud.network.security_group_rules(security_group_id=group.id, direction="ingress", protocol=protocol)
    if not any(rule.port_range_min == port and rule.remote_group_id is None for rule in have):
        cloud.network.create_security_group_rule(security_group_id=group.id, ethertype="IPv4", **wanted)


def login(address: str, command: str, for_s: float = 120) -> str:
    """Runs a command in the server, trying until it lets us in."""
    give_up = time.monotonic() + for_s
    while True:
        done = subprocess.run(["ssh", "-i", str(KEY), *SSH, f"root@{address}", command], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
        if time.monotonic() > give_up:
            why = f"No login at {address} after {for_s:.0f} s: {done.stderr.strip()}"
            sys.exit(f"\n{why}\nSee: openstack console log show {NAME}")
        time.sleep(0.3)


def networks(cloud: Any) -> Any:
    """A network with a way out; returns it and the external one."""
    with step("external network") as say:
        public = next(iter(cloud.network.networks(is_router_external=True)), None)
        if public is None:
            sys.exit("\nThis cloud has no external network. See: openstack network list --external")
        say(public.name)
    with step("network and subnet") as say:
        network = cloud.network.find_network(NAME) or cloud.network.create_network(name=NAME)
        subnet = cloud.network.find_subnet(NAME, network_id=network.id) or cloud.network.create_subnet(
            name=NAME, network_id=network.id, ip_version=4, cidr="10.10.0.0/24"
        )
        say(subnet.cidr)
    with step("router") as say:
        router = cloud.network.find_router(NAME)
        if router is None:
            gateway = {"network_id": public.id}
            router = cloud.network.create_router(name=NAME, external_gateway_info=gateway)
        if not list(cloud.network.ports(device_id=router.id, network_id=network.id)):
            cloud.network.add_interface_to_router(router, subnet_id=subnet.id)
        say(f"to {public.name}")
    return network, public


def server_with_address(cloud: Any, network: Any, public: Any) -> tuple[Any, str]:
    with step("image and flavor") as say:
        image = cloud.image.find_image("trilith-guest") or next(iter(cloud.image.images(status="active")), None)
        flavor = cloud.compute.find_flavor("m1.nano")
        if image is None or flavor is None:
            sys.exit("\nThere is no image yet. Build one: make guest; trilith down; trilith up")
        say(f"{image.name}, {flavor.name}")
    with step("server to ACTIVE") as say:
        server = cloud.compute.find_server(NAME)
        if server is None:
            server = cloud.compute.create_server(
                name=NAME,
                image_id=image.id,
                flavor_id=flavor.id,
                networks=[{"uuid": network.id}],
                key_name=NAME,
                user_data=None,
            )
        if server.status == "SHUTOFF":
            cloud.compute.start_server(server)
        server = cloud.compute.wait_for_server(server, interval=0.2, wait=180)
        say(server.status)
    with step("floating address") as say:
        port = next(iter(cloud.network.ports(device_id=server.id)))
        floating = next(iter(cloud.network.ips(port_id=port.id)), None)
        floating = floating or cloud.network.create_ip(floating_network_id=public.id, port_id=port.id)
        address = str(floating.floating_ip_address)
        say(address)
    return server, address


def volume(cloud: Any, server: Any, address: str) -> None:
    with step("volume") as say:
        found = cloud.block_storage.find_volume(NAME) or cloud.block_storage.create_volume(name=NAME, size=1)
        if found.status == "creating":
            found = cloud.block_storage.wait_for_status(found, "available", interval=0.2, wait=60)
        say(f"{found.size} GiB")
    with step("attached to the server") as say:
        if found.status == "available":
            cloud.compute.create_volume_attachment(server, volume_id=found.id)
            found = cloud.block_storage.wait_for_status(found, "in-use", interval=0.2, wait=60)
        if found.status != "in-use":
            sys.exit(f"\nThe volume is in status {found.status}. See: openstack volume show {NAME}")
        say(found.status)
    with step("written to from inside") as say:
        serial = found.id[:20]
        find = f"for d in /sys/block/vd*; do grep -q '^{serial}' $d/serial && echo /dev/${{d##*/}}; done"
        device = ""
        for _ in range(50):
            device = login(address, find)
            if device:
                break
            time.sleep(0.2)
        if not device:
            sys.exit("\nThe server does not see the volume. See: openstack volume show first")
        say(login(address, f"echo it was here > {device} && sync && head -c 11 {device}") + f" on {device}")


def main() -> None:
    begun = time.monotonic()
    print(f"A first server in cloud {CLOUD}")
    with step("token") as say:
        cloud = openstack.connect(cloud=CLOUD)
        say(f"project {cloud.current_project.name}")
    network, public = networks(cloud)
    with step("key pair, ssh and ping allowed"):
        if cloud.compute.find_keypair(NAME) is None or not KEY.exists():
            cloud.compute.delete_keypair(NAME, ignore_missing=True)
            cloud.compute.create_keypair(name=NAME, public_key=key())
        group = next(iter(cloud.network.security_groups(name="default", project_id=cloud.current_project_id)))
        open_port(cloud, group, "tcp", 22)
        open_port(cloud, group, "icmp")
    server, address = server_with_address(cloud, network, public)
    with step("login by ssh") as say:
        say(login(address, "echo $(hostname), up $(cut -d. -f1 /proc/uptime) s"))
    volume(cloud, server, address)
    print(f"Done in {time.monotonic() - begun:.1f} s. Next:")
    print(f"  export OS_CLOUD={CLOUD}")
    print(f"  openstack server show {NAME}          openstack console log show {NAME}")
    print(f"  ssh -i {KEY} root@{address}")
    print("  trilith status                      trilith down")


if __name__ == "__main__":
    main()
