"""A rehearsal's power switches: what the cluster file gets, and the process that serves them."""

import ssl
from pathlib import Path

import msgspec
import pytest

from tests.cluster.conftest import free_port
from trilith.cluster import rehearsal_power
from trilith.cluster.certificates import make_ca
from trilith.cluster.cluster_file import ClusterFile, Fencing, Host, Networks
from trilith.cluster.rehearse import Plan
from trilith.cluster.state import write_file
from trilith.drivers.fence_redfish import RedfishSwitch
from trilith.kernel.errors import Unavailable

CLUSTER = ClusterFile(
    name="tkpower",
    networks=Networks(management="10.61.250.0/24"),
    hosts=[
        Host(name="c1", address="10.61.250.1", roles=["control"]),
        Host(name="n1", address="10.61.250.2", roles=["compute"]),
        Host(name="n2", address="10.61.250.3", roles=["compute"], fencing=Fencing(driver="self")),
    ],
)


def test_compute_hosts_that_name_no_switch_get_one(tmp_path: Path) -> None:
    found = rehearsal_power.with_switches(CLUSTER, tmp_path, "10.61.250.254")
    assert [found.fencing_of(host).driver for host in found.hosts] == ["none", "redfish", "self"]
    own = found.fencing_of(found.hosts[1])
    assert (own.address, own.system) == (f"https://10.61.250.254:{rehearsal_power.PORT}", "n1")
    assert rehearsal_power.with_switches(found, tmp_path, "10.61.250.254") == found


def test_the_process_serves_hosts_and_ends(short_dir: Path) -> None:
    """The hosts of this rehearsal were never switched on."""
    write_file(short_dir / "rehearsal.json", msgspec.json.encode(Plan(cluster=CLUSTER, image="/nonexistent")))
    rehearsal_power.make_password(short_dir)
    authority = short_dir / "authority"
    authority.mkdir()
    make_ca(authority)
    password, port = (short_dir / "power/password").read_text().strip(), free_port()
    switch = RedfishSwitch(
        f"https://127.0.0.1:{port}",
        rehearsal_power.USER,
        lambda: password,
        lambda: ssl.create_default_context(cafile=str(authority / "ca.crt")),
        "n1",
    )
    rehearsal_power.stop(short_dir)
    rehearsal_power.start(short_dir, authority, "127.0.0.1", port)
    try:
        first = (short_dir / "power/serves").read_text()
        rehearsal_power.start(short_dir, authority, "127.0.0.1", port)
        assert (short_dir / "power/serves").read_text() != first  # anew: it may be of another version
        assert not switch.is_on()
        switch.power_off()
        password = "wrong"
        with pytest.raises(Unavailable, match="does not let us in"):
            switch.is_on()
    finally:
        rehearsal_power.stop(short_dir)
    with pytest.raises(Unavailable, match="does not answer"):
        switch.is_on()
