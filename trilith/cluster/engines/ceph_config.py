"""Ceph's configuration and keyrings as text, its programs, and what its daemons say of themselves."""

import hashlib
import json
import os
import socket
import struct
import subprocess
from pathlib import Path

from trilith.cluster import ceph_access
from trilith.cluster.cluster_file import Host
from trilith.cluster.engines.engine import HostView
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import Doc

MON_DATA, OSD_DATA, MGR_DATA = "/var/lib/ceph/mon/trilith", "/var/lib/ceph/osd/trilith", "/var/lib/ceph/mgr/trilith"
RUN = "/run/ceph"
BETWEEN = ("cluster", "service", "client", "mon_cluster", "mon_service", "mon_client")
TOOL_S = 60.0
MAKE_S = 300.0
ASK_S = 1.0
ANSWER_BYTES = 1 << 22


def configuration(view: HostView, fsid: str) -> str:
    """ceph.conf of a host. The times stand in [global], because monitors judge OSDs by them: elsewhere a lost link is
    noticed after 25 s in place of 9."""
    root = "" if view.root == Path("/") else str(view.root)
    ceph = view.settings.cluster.ceph
    assert ceph is not None
    monitors = ",".join(bracketed(host) for host in view.controllers)
    store = [f"bluestore_block_size = {ceph.osd_size_gib << 30}"] if ceph.osd_size_gib else []
    lines = [
        "# Written by Trilith's keeper; changes are overwritten.",
        "[global]",
        f"fsid = {fsid}",
        f"mon_host = {monitors}",
        f"public_addr = {view.host.storage}",
        f"cluster_addr = {view.host.storage}",
        f"run_dir = {root}{RUN}",
        f"admin_socket = {root}{RUN}/$name.asok",
        "log_to_stderr = true",
        "log_file = /dev/null",
        "mon_cluster_log_file = /dev/null",
        f"crash_dir = {root}/var/lib/ceph/crash",
        # nobody reads or changes what crosses the network; the older protocol cannot do that
        "ms_bind_msgr1 = false",
        *(f"ms_{between}_mode = secure" for between in BETWEEN),
        "auth_cluster_required = cephx",
        "auth_service_required = cephx",
        "auth_client_required = cephx",
        "auth_allow_insecure_global_id_reclaim = false",
        f"osd_pool_default_size = {ceph.size}",
        f"osd_pool_default_min_size = {ceph.min_size}",
        "osd_heartbeat_interval = 1",
        "osd_heartbeat_grace = 4",
        "mon_lease = 2",
        "mon_election_timeout = 2",
        "mon_client_ping_interval = 1",
        "mon_client_ping_timeout = 3",
        "mon_client_hunt_interval = 1",
        "mon_osd_min_down_reporters = 1",
        "mon_osd_adjust_heartbeat_grace = false",
        "mon_osd_down_out_interval = 600",
        "mon_allow_pool_size_one = true",
        "mgr_initial_modules =",
        "[client]",
        # the administrator's tools have no socket
        "admin_socket =",
        "log_to_stderr = false",
        "[mon]",
        f"mon_data = {root}{MON_DATA}",
        "keyring = $mon_data/keyring",
        "mon_memory_target = 268435456",
        "rocksdb_cache_size = 33554432",
        "mon_data_avail_warn = 5",
        "mon_data_avail_crit = 2",
        "[mgr]",
        f"mgr_data = {root}{MGR_DATA}",
        "keyring = $mgr_data/keyring",
        "[osd]",
        f"osd_data = {root}{OSD_DATA}",
        "keyring = $osd_data/keyring",
        f"admin_socket = {root}{RUN}/osd.asok",
        f"crush_location = root=default host={view.host.name}",
        "osd_class_update_on_start = false",
        "osd_mclock_skip_benchmark = true",
        "osd_max_backfills = 1",
        f"osd_memory_target = {max(ceph.osd_memory_mib, 900) << 20}",
        "bluestore_cache_autotune = false",
        f"bluestore_cache_size = {ceph.osd_memory_mib // 8 << 20}",
        "osd_op_num_shards = 2",
        "ms_async_op_threads = 2",
        "bluestore_block_create = true",
        "bluestore_block_path =",
        "bluestore_block_preallocate_file = false",
        *store,
    ]
    return "\n".join(lines) + "\n"


def run(argv: list[str], stdin: str = "", limit_s: float = TOOL_S) -> str:
    """A program of Ceph's. `Unavailable` with what it said when it fails or takes too long."""
    words = ["setpriv", "--pdeathsig", "KILL", *argv]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=limit_s, check=False)
    except FileNotFoundError as error:
        raise Unavailable(f"{argv[0]} is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(argv[:3])} takes longer than {limit_s:.0f} s.") from error
    if done.returncode:
        raise Unavailable(f"{argv[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def ask_daemon(path: Path, command: str) -> Doc | None:
    """What a daemon says of itself through its socket; None when it does not."""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(ASK_S)
            link.connect(str(path))
            link.sendall(json.dumps({"prefix": command, "format": "json"}).encode() + b"\0")
            (length,) = struct.unpack(">I", _exactly(link, 4))
            found: Doc = json.loads(_exactly(link, min(length, ANSWER_BYTES)))
            return found
    except (OSError, ValueError):
        return None


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = link.recv(count - len(data))
        if not part:
            raise OSError("the answer broke off")
        data += part
    return data


def new_key() -> str:
    """A random key, in Ceph's form."""
    return ceph_access.derived_key(os.urandom(32).hex(), "random")


def quorum(told: Doc, me: str) -> list[str]:
    """Names of the monitors in the quorum, of what ``mon_status`` says; [] while this one is not among them."""
    names = {each["rank"]: each["name"] for each in told.get("monmap", {}).get("mons", [])}
    found = [names[rank] for rank in told.get("quorum", []) if rank in names]
    return found if me in found else []


def keyring(keys: dict[str, str], rights: dict[str, ceph_access.Caps] | None = None) -> str:
    """The text of a keyring file: entity to key, and to what it may do."""
    lines = []
    for entity, key in keys.items():
        lines += [f"[{entity}]", f"key = {key}"]
        lines += [f'caps {kind} = "{plain(text)}"' for kind, text in (rights or {}).get(entity, {}).items()]
    return "\n".join(lines) + "\n"


def rights(key: str, caps: ceph_access.Caps) -> str:
    """A digest that says whether an entity is as it should be."""
    text = json.dumps([key, {kind: plain(text) for kind, text in caps.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(caps: str) -> str:
    """Within a keyring, quotes are single ones."""
    return caps.replace('"', "'")


def bracketed(host: Host) -> str:
    """Where Ceph's monitors are, and its OSDs."""
    return f"[{host.storage}]" if ":" in host.storage else host.storage
