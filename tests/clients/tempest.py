"""Tempest, unmodified, against a cloud that this starts, or a rehearsal's.

    python -m tests.clients.tempest [--fake] [--json FILE] [--rehearsal DIR] [--drills NAMES] SET

SET: interop, interop-compute, interop-storage, smoke, core, core-AREA (core-volume), entry, moves, or a regular
expression.

`interop_compute.txt` holds the tests that the interoperability guidelines require of compute clouds,
`interop_storage.txt` those that they require of object stores; two are in both. Each of a set `interop…` has to pass:
one that is skipped or does not run is as bad as one that fails.

`--drills`: meanwhile, `trilith drill` does these. What failed is run once more when they are over.
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
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tests.clients import outcomes
from tests.clients.cloud import ROOT, Cloud, RehearsedCloud
from tests.clients.drilled import Drills, hit_by
from tests.clients.outcomes import STATES, Doc, Outcome

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
# Tests of lists upload noise as each of the first six. What has no header is taken for what it is called; of the others
# noise would be refused.
NOISE = ("raw", "ami", "ari", "aki", "ploop", "raw")
DISK_FORMATS = (*NOISE, "qcow2", "vhd", "vmdk", "vdi", "iso", "vhdx")
FILTERS = ("SameHostFilter", "DifferentHostFilter", "ServerGroupAffinityFilter", "ServerGroupAntiAffinityFilter")
SHARED_TYPE = "tempest-shared"  # of volumes that several servers may have
# These log in without asking whether there is anyone to log in to.
ALONE = "compute_unified|dashboard|network_qos|object_storage|server_(adv|basic|multi)|snapshots_with|unified"
NEEDS_LOGIN = ("test_rebuild_volume_backed_server", rf"^tempest\.scenario\.test_(?!{ALONE})")
AREAS = "compute|identity|image|network|object_storage|scenario|volume"


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
            "horizon": "false",
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
            "volume_multiattach": "true",
            "attach_encrypted_volume": "false",
            "scheduler_enabled_filters": ",".join(FILTERS),
            "config_drive": "true",
            "dhcp_domain": "",  # the metadata's hostname is the server's, with no domain put behind it
        },
        "image": {"http_image": "", "disk_formats": ",".join(DISK_FORMATS)},
        "image-feature-enabled": {
            "import_image": "true",
            "image_format_enforcement": "false",  # else required tests are skipped: see DISK_FORMATS
        },
        "network": {"public_network_id": public, "project_network_cidr": "10.100.0.0/16"},
        "network-feature-enabled": {
            "floating_ips": "true",
            "ipv6": "true",
            "ipv6_subnet_attributes": "true",
            "port_security": "true",
            "api_extensions": ",".join(extensions),
        },
        "volume": {
            "build_timeout": "30" if cloud.fake else "120",
            "min_microversion": "3.0",
            "max_microversion": "3.71",
            "catalog_type": "block-storage",
            "volume_type_multiattach": SHARED_TYPE,
        },
        "volume-feature-enabled": {
            "backup": "false",
            "multi_backend": "false",
            "snapshot": "true",
            "clone": "true",
            "extend_attached_volume": "true",
        },
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
    if SHARED_TYPE not in [row["name"] for row in cloud.get("/volume/v3/types")["volume_types"]]:
        cloud.openstack("volume", "type", "create", "--public", "--property", "multiattach=<is> True", SHARED_TYPE)
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


def required(what: str) -> list[str]:
    """Names of the tests of a set of which every one has to pass; [] where that is not asked for."""
    parts = {"interop": ("compute", "storage"), "interop-compute": ("compute",), "interop-storage": ("storage",)}
    lists = [(HERE / f"interop_{part}.txt").read_text().split() for part in parts.get(what, ())]
    return sorted({name for names in lists for name in names})


def chosen(workspace: Path, what: str) -> list[str]:
    """The words of ``tempest run`` for a set's name or a regular expression."""
    if names := required(what):
        return include(workspace, names)
    if what == "entry":
        return ["--regex", "|".join(f"^{re.escape(name)}" for name in ENTRY)]
    if what == "moves":
        return ["--regex", "|".join(MOVES)]
    if is_core(what):
        return ["--regex", rf"^tempest\.(serial_tests\.)?(api\.)?({what.partition('-')[2] or AREAS})\."]
    return ["--smoke"] if what == "smoke" else ["--regex", what]


def is_core(what: str) -> bool:
    return what == "core" or what in [f"core-{area}" for area in AREAS.split("|")]


def include(workspace: Path, names: Iterable[str]) -> list[str]:
    """The words of ``tempest run`` for these tests and no others."""
    return ["--include-list", _lines(workspace / "included.txt", (exactly([name]) for name in names))]


def _lines(path: Path, lines: Iterable[str]) -> str:
    path.write_text("\n".join(lines))
    return str(path)


def left_out(what: str, fake: bool) -> list[str]:
    """Regular expressions of what is not run; nothing that is required."""
    if required(what):
        return []
    lines = (HERE / "tempest_left_out.txt").read_text().splitlines() if is_core(what) else []
    return [*(line for line in lines if line and not line.startswith("#")), *(NEEDS_LOGIN if fake else ())]


class Tempest:
    """As sets use it, in one workspace."""

    def __init__(self, cloud: Cloud, workspace: Path) -> None:
        self.cloud, self.workspace = cloud, workspace

    def listed(self, words: list[str]) -> list[str]:
        """Names of the tests that ``tempest run`` would run with these words."""
        done = run(self.cloud, self.workspace, *words, "--list-tests")
        return sorted({outcomes.bare(line) for line in done.stdout.splitlines() if re.match(r"tempest\.\S+$", line)})

    def run(self, words: list[str]) -> tuple[int, dict[str, Outcome]]:
        """(its exit status, what came of each test and class); shows it as it comes."""
        status = run(self.cloud, self.workspace, *words, "--concurrency", "2", show=True).returncode
        return status, outcomes.last_run(self.workspace, BIN, _env(self.cloud))


def planned(tempest: Tempest, what: str) -> tuple[list[str], list[str], list[str]]:
    """Of a set: the words of ``tempest run``, names of the tests that are run, and of those that are left out."""
    words, patterns = chosen(tempest.workspace, what), left_out(what, tempest.cloud.fake)
    names = required(what) or tempest.listed(words)
    left = {name for name in names if any(re.search(pattern, name) for pattern in patterns)}
    if patterns:
        words += ["--exclude-list", _lines(tempest.workspace / "excluded.txt", patterns)]
    return words, [name for name in names if name not in left], sorted(left)


def run_set(tempest: Tempest, what: str, begin: Callable[[], Drills] | None = None) -> tuple[bool, Doc]:
    """(whether all is well, the document). `begin`: drills; what failed beside them is run once more."""
    words, names, left = planned(tempest, what)
    drills = begin() if begin else None
    try:
        status, seen = tempest.run(words)
    finally:
        damages = drills.end() if drills else []
    found = outcomes.of(names, seen)
    told: Doc = {"date": datetime.now(UTC).date().isoformat(), "machines": machines(tempest.cloud)}
    told |= outcomes.document(what, found, seen, left)
    drilled = True
    if drills:
        drilled = bool(damages) and all(damage.broke for damage in damages)
        repeat = outcomes.to_repeat(found, seen)
        told["drills"] = [str(damage) for damage in damages]
        told["beside"] = {name: hit_by(found[name], damages) for name in repeat}
        if repeat:
            status, seen = tempest.run(include(tempest.workspace, repeat))
            again = outcomes.of(repeat, seen)
            told["again"] = outcomes.document("again", again, seen)
            found |= again
    good = {"passed"} if required(what) else {"passed", "skipped"}
    return drilled and status == 0 and {outcome.state for outcome in found.values()} <= good, told


def machines(cloud: Cloud) -> str:
    return "pretended" if cloud.fake else "real"


def show(told: Doc) -> None:
    """The required ones by name, whatever became of them; the last line counts."""
    every, most = bool(required(told["set"])), outcomes.SHORT
    print("", *outcomes.table(told, sys.maxsize if every else most), sep="\n")
    for damage in told.get("drills", ()):
        print(f"drill: {damage}")
    for name, drill in told.get("beside", {}).items():
        print(f"beside {drill or 'no drill at all'}: {name}")
    if "again" in told:
        print("", *outcomes.table(told["again"], most), sep="\n")
    for each in (told, told["again"]) if "again" in told else (told,):
        count = each["areas"].get("all", {})
        word = "required" if every and each is told else "tests"
        print(f"{each['set']}: {count.get('tests', 0)} {word}, " + ", ".join(f"{count.get(s, 0)} {s}" for s in STATES))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.tempest", description=__doc__)
    parser.add_argument("--fake", action="store_true", help="pretended machines: everything but logins, fast")
    parser.add_argument("--rehearsal", type=Path, metavar="DIR", help="against the cluster of this rehearsal")
    parser.add_argument("--drills", metavar="NAMES", help="break the cloud meanwhile (see: trilith drill --list)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what came of it, for programs")
    parser.add_argument("what", nargs="?", default="smoke", help="a set's name (see above), or a regular expression")
    arguments = parser.parse_args()
    rehearsal, drills = arguments.rehearsal, arguments.drills
    cloud = RehearsedCloud(rehearsal) if rehearsal else Cloud(port=18784, fake=arguments.fake)
    where = ("--rehearsal", str(rehearsal)) if rehearsal else ("--state", str(cloud.state / "cloud"))
    begin = partial(Drills, where, drills.split()) if drills else None
    try:
        cloud.up()
        good, told = run_set(Tempest(cloud, prepare(cloud)), arguments.what, begin)
    finally:
        cloud.down()
    show(told)
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
