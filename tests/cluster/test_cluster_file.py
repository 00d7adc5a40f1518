from pathlib import Path

import pytest

from trilith.cluster.cluster_file import ALL_ROLES, ClusterFileError, all_in_one, read

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_is_the_all_in_one_cloud() -> None:
    cluster = read(EXAMPLES / "all-in-one.yaml")
    assert cluster == all_in_one("host1")
    assert cluster.hosts[0].roles == list(ALL_ROLES)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("hosts:\n  - name: a\n    address: 1.2.3\n", 3, "`1.2.3` is no IP address"),
        (
            "hosts:\n  - name: a\n    roles: [control,\n      dance]\n",
            4,
            "Invalid enum value 'dance': a host's roles are some of control, network",
        ),
        ("hosts:\n  - name: a\n    rolls: []\n", 2, "unknown field `rolls`"),
        ("hosts:\n  - name: a\n  - name: b\n    roles: [network]\n", 3, "`127.0.0.1` is already used by host 1"),
        ("hosts:\n  - name: a\n  - name: a\n    address: 10.0.0.2\n", 3, "`a` is already used by host 1"),
        ("name: x\nhosts: []\n", 2, "`hosts` is empty"),
        ("name: x\n", 1, "missing required field `hosts`"),
        ("hosts:\n  - name: a\n    roles: [control, network]\n", 1, "no host has the role `compute`"),
        ("hosts:\n  - name: 7\n", 2, "Expected `str`, got `int`"),
        ("hosts:\n  - {name: a\n", 3, "not YAML"),
        ("vip: nowhere\nhosts:\n  - name: a\n", 1, "`nowhere` is no IP address"),
        ("hosts:\n  - name: a b\n", 2, "`a b` is no host name"),
        ("hosts:\n  - name: a\nengines:\n  database: oracle\n", 4, "Invalid enum value 'oracle'"),
        ("hosts:\n  - name: a\nengines:\n  database: galera\n", 4, "Galera needs three controllers"),
        ("name: x\nhosts:\n  - name: a\nname: y\n", 4, "`name` is given twice"),
        ("name: X Y\nhosts:\n  - name: a\n", 1, "`X Y` is no name for a cluster"),
        ("hosts:\n  - name: a\nssh:\n  port: 0\n", 4, "0 is no port"),
        ("hosts:\n  - name: a\nnetworks:\n  tunnel_mtu: 800\n", 4, "MTU is from 1338"),
        ("hosts:\n  - name: a\nnetworks:\n  provider_interface: eth0\n", 4, "`eth0` is already the management"),
        ("hosts:\n  - name: a\nfencing:\n  driver: redfish\n", 3, "a redfish switch needs `address`"),
        (
            "hosts:\n  - name: a\n    fencing: {driver: redfish, address: http://x, user: u, password_file: p}\n",
            3,
            "Redfish is spoken to by https://",
        ),
        ("hosts:\n  - name: a\nfencing:\n  driver: hammer\n", 4, "Invalid enum value 'hammer'"),
        ("hosts:\n  - name: a\ntakeover:\n  brake_share: 0\n", 4, "Expected `float` > 0"),
        ("hosts:\n  - name: a\npublic:\n  cidr: 10.1.2.3/24\n", 4, "its first address is meant: `10.1.2.0/24`"),
        ("hosts:\n  - name: a\npublic:\n  cidr: 10.1.2.0/24\n  gateway: 10.1.3.1\n", 5, "no address for a host in"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ClusterFileError) as caught:
        read(path)
    message = str(caught.value)
    assert words in message
    assert f"cluster.yaml, line {line}:" in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterFileError, match="No such file"):
        read(tmp_path / "none.yaml")


CEPH = (EXAMPLES / "ceph.yaml").read_text()
THREE = (EXAMPLES / "three-controllers.yaml").read_text()


def changed(old: str, new: str) -> str:
    assert old in THREE
    return THREE.replace(old, new)


def line_of(text: str, words: str) -> int:
    return next(
        number for number, line in enumerate(text.splitlines(), 1) if line.startswith(words) or f"{{{words}," in line
    )


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (changed("c2, address: 10.60.0.12", "c2, address: 10.60.0.11"), "name: c2", "`10.60.0.11` is already used"),
        (changed("10.60.1.22,", "10.60.1.21,"), "name: n2", "`10.60.1.21` is already used by host 4"),
        (changed("13, roles: [control, network]", "13, roles: [network]"), "hosts:", "2 hosts have the role"),
        (changed("compute, storage], availability_zone: zone1", "compute, control]"), "hosts:", "4 hosts have"),
        (changed("vip: 10.60.0.10", "vip: 10.61.0.10"), "vip:", "the VIP 10.61.0.10 is no address for a host in the"),
        (changed("vip: 10.60.0.10", "vip: 10.60.0.255"), "vip:", "the VIP 10.60.0.255 is no address"),
        (changed("vip: 10.60.0.10", "vip: 10.60.0.11"), "vip:", "is host `c1`'s own"),
        (changed("vip: 10.60.0.10\n", ""), "hosts:", "several hosts need a `vip`"),
        (changed("address: 10.60.0.31", "address: 10.60.3.31"), "name: log1", "in the management network 10.60.0.0/24"),
        (changed("10.60.1.22,", "10.60.2.22,"), "name: n2", "in the tunnel network 10.60.1.0/24"),
        (changed(" tunnel_address: 10.60.1.22,", ""), "name: n2", "host `n2` needs a `tunnel_address`"),
        (changed("  tunnel: 10.60.1.0/24\n", ""), "name: c1", "a `tunnel_address` needs `networks.tunnel`"),
        (changed("  management: 10.60.0.0/24\n", ""), "networks:", "several hosts need `networks.management`"),
        (changed("tunnel: 10.60.1.0/24", "tunnel: 10.60.0.0/16"), "  tunnel:", "overlaps networks.management"),
        (changed("cidr: 172.24.8.0/24", "cidr: 10.60.1.128/25"), "  cidr:", "10.60.1.128/25 overlaps networks.tunnel"),
        (changed("public:", "engines: {database: sqlite}\npublic:"), "engines:", "SQLite serves one host only"),
        (CEPH.replace("10.61.2.22", "10.61.3.22"), "name: n2", "in the storage network 10.61.2.0/24"),
        (CEPH.replace(" storage_address: 10.61.2.12,", ""), "name: c2", "host `c2` needs a `storage_address`"),
        (CEPH.replace("storage: 10.61.2.0/24", "storage: 10.61.1.0/24"), "  storage:", "overlaps networks.tunnel"),
        (CEPH.replace("storage_interface: eth3", "storage_interface: eth1"), "  storage_interface:", "already the"),
    ],
)  # fmt: skip
def test_a_mistake_of_a_cluster_names_its_line(tmp_path: Path, text: str, place: str, words: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ClusterFileError) as caught:
        read(path)
    found = [line for line in str(caught.value).splitlines() if words in line]
    assert found, str(caught.value)
    assert f"line {line_of(text, place)}:" in found[0]


def test_one_controller_for_several_hosts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(THREE.replace("[control, network]", "[network]").replace("[logging]", "[logging, control]"))
    with pytest.raises(ClusterFileError, match="one controller for several hosts"):
        read(path)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(THREE.replace("vip: 10.60.0.10", "vip: 1.2.3.4").replace("10.60.0.31", "10.60.0.22"))
    with pytest.raises(ClusterFileError) as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_can_be_used(path: Path) -> None:
    assert read(path).hosts


CEPH = (EXAMPLES / "ceph.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  osd_size_gib: 20\n", "", "say where host `c1` stores"),
        ("  osd_size_gib: 20\n", "  osd_size_gib: 2\n", "an OSD has 5 GiB or more"),
        ("  min_size: 2\n", "  min_size: 4\n", "`min_size` is from 1 to `size`"),
        ("  size: 3\n", "  size: 4\n", "3 hosts have the role `storage`; 4 copies need as many"),
        ("  size: 3\n", "  size: 3\n  osd_devices: {n9: /dev/sdb}\n", "`n9` is no storage host"),
        ("  size: 3\n", "  size: 3\n  osd_devices: {c1: sdb}\n", "`sdb` is no device"),
        ("  size: 3\n", "  size: 3\n  images_pool: trilith-volumes\n", "no name for this pool"),
        ("  size: 3\n", "  existing: {monitors: ['a b'], user: u, keyring: k}\n", "`a b` is no monitor"),
    ],
)
def test_a_mistake_about_ceph_is_told(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in CEPH
    path = tmp_path / "cluster.yaml"
    path.write_text(CEPH.replace(old, new))
    with pytest.raises(ClusterFileError) as caught:
        read(path)
    assert words in str(caught.value)
