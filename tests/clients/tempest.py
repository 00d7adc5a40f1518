"""Tempest, unmodified, against a cloud that this starts, or a rehearsal's.

    python -m tests.clients.tempest [--fake] [--rehearsal DIR] interop|interop-storage|smoke|core|entry|moves|REGEX

`interop.txt` holds the tests that the interoperability guidelines require of compute clouds, `interop_storage.txt`
those that they require of object stores.
"""

import argparse
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.clients.cloud import ROOT, Cloud, RehearsedCloud

BIN = ROOT / ".venv-clients/bin"
HERE = Path(__file__).parent
ENTRY = (
    "tempest.api.identity.v3.test_tokens",
    "tempest.api.compute.servers.test_create_server",
    "tempest.scenario.test_network_basic_ops.TestNetworkBasicOps.test_network_basic_ops",
    "tempest.scenario.test_minimum_basic.TestMinimumBasicScenario.test_minimum_basic_scenario",
    "tempest.scenario.test_volume_boot_pattern.TestVolumeBootPattern.test_volume_boot_pattern",
)
MOVES = (
    r"compute\..*(migrat|resize|shelve)",
    "compute.admin.test_servers_on_multinodes",
    "serial_tests.api.compute.admin.test_server_affinity",
    "scenario.test_network_advanced_server_ops",
    "scenario.test_server_multinode",
    "scenario.test_shelve_instance",
    "scenario.test_instances_with_cinder_volumes",
)
NEEDS_LOGIN = "test_rebuild_volume_backed_server"  # without asking whether there is anyone to log in to


def configuration(cloud: Cloud, workspace: Path) -> dict[str, dict[str, Any]]:
    auth = cloud.clouds()[cloud.names["admin"]]["auth"]
    image = cloud.named("/image/v2/images", "trilith-guest")["id"]
    flavors = {f["name"]: f["id"] for f in cloud.get("/compute/v2.1/flavors")["flavors"]}
    public = cloud.named("/networking/v2.0/networks", "public")["id"]
    hosts = cloud.get("/compute/v2.1/os-services?binary=nova-compute")["services"]
    several = str(len(hosts) > 1).lower()
    features = object_features(cloud)
    extensions = [e["alias"] for e in cloud.get("/networking/v2.0/extensions")["extensions"]]
    return {
        "DEFAULT": {"log_file": "tempest.log", "debug": "true"},
        "oslo_concurrency": {"lock_path": str(workspace / "locks")},
        "auth": {
            "use_dynamic_credentials": "true",
            "admin_username": auth["username"],
            "admin_password": auth["password"],
            "admin_project_name": auth["project_name"],
            "admin_domain_name": "Default",
            "tempest_roles": "member",
        },
        "identity": {
            "uri_v3": f"{cloud.url}/identity/v3",
            "auth_version": "v3",
            "region": "RegionOne",
            **({"ca_certificates_file": str(cloud.ca_file)} if cloud.ca_file else {}),
        },
        "identity-feature-enabled": {"application_credentials": "true", "trust": "false"},
        "service_available": {
            "swift": str(bool(features)).lower(),
            "cinder": "true",
            "nova": "true",
            "neutron": "true",
            "glance": "true",
        },
        "compute": {
            "image_ref": image,
            "image_ref_alt": cloud.named("/image/v2/images", "guest-again")["id"],
            "flavor_ref": flavors["m1.nano"],
            "flavor_ref_alt": flavors["m1.micro"],
            "min_microversion": "2.1",
            "max_microversion": "2.104",
            "min_compute_nodes": str(len(hosts)),
            "build_timeout": "30" if cloud.fake else "180",
            "build_interval": "1",
        },
        "compute-feature-enabled": {
            "resize": "true",
            "console_output": "true",
            "vnc_console": str(not cloud.fake).lower(),
            "serial_console": "false",
            "suspend": "true",
            "pause": "true",
            "shelve": "true",
            "shelve_migrate": several,
            "rescue": "true",
            "cold_migration": several,
            "live_migration": several,
            "live_migrate_back_and_forth": several,
            "block_migration_for_live_migration": str(not cloud.shares_disks).lower(),
            "volume_backed_live_migration": several,
            "attach_encrypted_volume": "false",
            "config_drive": "true",
            "dhcp_domain": "",  # the metadata's hostname is the server's, with no domain put behind it
        },
        "image": {"http_image": ""},
        "image-feature-enabled": {"import_image": "true", "image_format_enforcement": "true"},
        "network": {"public_network_id": public, "project_network_cidr": "10.100.0.0/16"},
        "network-feature-enabled": {"floating_ips": "true", "ipv6": "true", "api_extensions": ",".join(extensions)},
        "volume": {
            "build_timeout": "30" if cloud.fake else "120",
            "min_microversion": "3.0",
            "max_microversion": "3.71",
            "catalog_type": "block-storage",
        },
        "volume-feature-enabled": {"backup": "false", "multi_backend": "false", "snapshot": "true", "clone": "true"},
        "object-storage": {"operator_role": "member", "reseller_admin_role": "admin"},
        "object-storage-feature-enabled": {
            "discoverable_apis": ",".join(features),
            "object_versioning": str("versioned_writes" in features).lower(),
            "container_sync": str("container_sync" in features).lower(),
        },
        "validation": {
            "run_validation": str(not cloud.fake).lower(),  # pretended machines have no one to log in to
            "image_ssh_user": "root",
            "connect_method": "fixed" if cloud.fake else "floating",
            "ssh_timeout": "180",
            "ping_timeout": "120",
            "ssh_key_type": "ecdsa",
        },
        "scenario": {
            "dhcp_client": "udhcpc",
            "img_file": str(workspace / "guest.qcow2"),
            "img_disk_format": "qcow2",
            "img_container_format": "bare",
        },
    }


def object_features(cloud: Cloud) -> list[str]:
    """What the object store says that it can; nothing where there is none."""
    services = cloud.get("/identity/v3/auth/catalog")["catalog"]
    urls = [each["url"] for service in services if service["type"] == "object-store" for each in service["endpoints"]]
    if not urls:
        return []
    with urllib.request.urlopen(f"{urls[0].partition('/v1/')[0]}/info", timeout=20, context=cloud.tls) as answer:
        return sorted(json.load(answer))


def fetch_image(cloud: Cloud, name: str, path: Path) -> None:
    """An image's bytes as a file, for tests that upload it again."""
    url = f"{cloud.url}/image/v2/images/{cloud.named('/image/v2/images', name)['id']}/file"
    request = urllib.request.Request(url, headers={"X-Auth-Token": cloud.token()})
    with urllib.request.urlopen(request, timeout=60, context=cloud.tls) as answer, open(path, "wb") as file:
        shutil.copyfileobj(answer, file)


def prepare(cloud: Cloud) -> Path:
    """A Tempest workspace for this cloud."""
    workspace = cloud.state / "tempest"
    done = subprocess.run([BIN / "tempest", "init", workspace], capture_output=True, text=True, env=_env(cloud))
    assert done.returncode == 0, done.stderr[-2000:]
    fetch_image(cloud, "trilith-guest", workspace / "guest.qcow2")
    if not cloud.get("/image/v2/images?name=guest-again")["images"]:
        as_file = ("--file", str(workspace / "guest.qcow2"), "--disk-format", "qcow2")
        cloud.openstack("image", "create", *as_file, "--public", "guest-again")
    parser = configparser.ConfigParser()
    parser.read_dict(configuration(cloud, workspace))
    with open(workspace / "etc/tempest.conf", "w") as file:
        parser.write(file)
    return workspace


def run(cloud: Cloud, workspace: Path, *words: str, show: bool = False) -> subprocess.CompletedProcess[str]:
    """``tempest run`` with these words; its output is text that ends with the totals, or shown as it comes."""
    command = [str(BIN / "tempest"), "run", *words]
    return subprocess.run(command, capture_output=not show, text=True, env=_env(cloud), cwd=workspace)


def _env(cloud: Cloud) -> dict[str, str]:
    """Tempest remembers its workspaces in its home; those of a run that is over are of no use."""
    home, path = cloud.state / "home", f"{BIN}:{os.environ['PATH']}"
    return {**os.environ, "HOME": str(home), "PATH": path, "PYTHONUNBUFFERED": "1"}


def exactly(names: Iterable[str]) -> str:
    """A regular expression for these tests; those whose names only begin so are others."""
    return "|".join(f"^{re.escape(name)}(\\[|$)" for name in names)


def chosen(workspace: Path, what: str) -> list[str]:
    """The words of ``tempest run`` for a set's name or a regular expression."""
    if what in ("interop", "interop-storage"):
        names = (HERE / f"{what.replace('-', '_')}.txt").read_text().split()
        wanted = workspace / "interop.txt"
        wanted.write_text("\n".join(exactly([name]) for name in names))
        return ["--include-list", str(wanted)]
    if what == "entry":
        return ["--regex", "|".join(f"^{re.escape(name)}" for name in ENTRY)]
    if what == "moves":
        return ["--regex", "|".join(MOVES)]
    if what == "core":
        return ["--regex", "^tempest\\.(api|scenario)", "--exclude-list", str(HERE / "tempest_left_out.txt")]
    return ["--smoke"] if what == "smoke" else ["--regex", what]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.tempest", description=__doc__)
    parser.add_argument("--fake", action="store_true", help="pretended machines: everything but logins, fast")
    parser.add_argument("--rehearsal", type=Path, metavar="DIR", help="against the cluster of this rehearsal")
    parser.add_argument("what", nargs="?", default="smoke", help="a set's name (see above), or a regular expression")
    arguments = parser.parse_args()
    rehearsal, fake = arguments.rehearsal, arguments.fake
    cloud = RehearsedCloud(rehearsal) if rehearsal else Cloud(port=18784, fake=fake)
    try:
        cloud.up()
        workspace = prepare(cloud)
        words = [*chosen(workspace, arguments.what), "--concurrency", "2"]
        if cloud.fake:
            words += ["--exclude-regex", NEEDS_LOGIN]
        return run(cloud, workspace, *words, show=True).returncode
    finally:
        cloud.down()


if __name__ == "__main__":
    sys.exit(main())
