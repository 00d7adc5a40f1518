"""A Ceph of one monitor and one OSD on a loopback address, for tests: founded in a directory of its own, gone after."""

import base64
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trilith.cluster.engines.ceph_config import BETWEEN
from trilith.drivers.ceph import Access, Ceph
from trilith.kernel.errors import Unavailable

ADDRESS = "127.0.0.1"
POOLS = ("images", "volumes", "machines")


class CephLab:
    """`ceph` is the driver as an administrator; `access(user)` of others."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.monitors = (f"{ADDRESS}:{free_port()}",)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.ceph = Ceph(Access(self.monitors, "admin", directory / "admin.key"))

    def start(self) -> None:
        fsid = str(uuid.uuid4())
        self._configure(fsid)
        keys = {name: new_key() for name in ("mon.", "client.admin", "osd.0")}
        text = f'[mon.]\nkey = {keys["mon."]}\ncaps mon = "allow *"\n'
        text += f"[client.admin]\nkey = {keys['client.admin']}\n"
        text += "".join(f'caps {kind} = "allow *"\n' for kind in ("mon", "osd", "mgr"))
        (self.directory / "keyring").write_text(text)
        key_file = self.ceph.access.key_file
        key_file.touch(mode=0o600)
        key_file.write_text(keys["client.admin"])
        address = f"[v2:{self.monitors[0]}]"
        map_words = ["--create", "--addv", "a", address, "--fsid", fsid, "--set-min-mon-release", "pacific"]
        self.run("monmaptool", *map_words, str(self.directory / "monmap"), conf=False)
        mkfs = ["--mkfs", "-i", "a", "--monmap", str(self.directory / "monmap")]
        self.run("ceph-mon", *mkfs, "--keyring", str(self.directory / "keyring"))
        shutil.copy(self.directory / "keyring", self.directory / "mon/keyring")
        self.spawn("ceph-mon", "-f", "-i", "a")
        self._make_osd()
        for pool in POOLS:
            self.admin("osd", "pool", "create", pool, "8", "8", "replicated")
            self.admin("osd", "pool", "application", "enable", pool, "rbd")

    def _make_osd(self) -> None:
        osd_uuid, key = str(uuid.uuid4()), new_key()
        secrets = self.directory / "osd-secrets.json"
        secrets.write_text(f'{{"cephx_secret": "{key}"}}')
        self.admin("osd", "new", osd_uuid, "-i", str(secrets))
        (self.directory / "osd").mkdir()
        (self.directory / "osd/keyring").write_text(f"[osd.0]\nkey = {key}\n")
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid)
        self.spawn("ceph-osd", "-f", "-i", "0")
        self.wait(lambda: self.ceph.health().osds_up == 1)

    def _configure(self, fsid: str) -> None:
        at = self.directory
        lines = [
            "[global]", f"fsid = {fsid}", "ms_bind_msgr1 = false", *(f"ms_{each}_mode = secure" for each in BETWEEN),
            f"mon_host = {','.join(self.monitors)}", f"keyring = {at}/keyring",
            f"run_dir = {at}", f"admin_socket = {at}/$name.asok", "log_file = /dev/null", "log_to_stderr = false",
            "mon_cluster_log_file = /dev/null", f"crash_dir = {at}", "osd_pool_default_size = 1",
            "osd_pool_default_pg_autoscale_mode = off", "mon_allow_pool_size_one = true", "osd_heartbeat_grace = 60",
            "mon_osd_report_timeout = 600", "ms_bind_port_min = 19110", "ms_bind_port_max = 19199",
            f"[mon]\nmon_data = {at}/mon\nkeyring = $mon_data/keyring", "mon_data_avail_warn = 2",
            "mon_data_avail_crit = 1", f"public_addr = {ADDRESS}", "rocksdb_cache_size = 33554432",
            f"[osd]\nosd_data = {at}/osd\nkeyring = $osd_data/keyring", f"public_addr = {ADDRESS}",
            "bluestore_block_size = 6442450944", "bluestore_block_create = true", "bluestore_block_path =",
            "bluestore_block_preallocate_file = false", "bluestore_cache_autotune = false", "osd_op_num_shards = 2",
            "bluestore_cache_size = 67108864", "osd_class_update_on_start = false", "osd_mclock_skip_benchmark = true",
            "osd_memory_target = 939524096", "auth_allow_insecure_global_id_reclaim = false",
        ]  # fmt: skip
        (at / "ceph.conf").write_text("\n".join(lines) + "\n")

    def user(self, name: str, mon: str, osd: str) -> Access:
        """A new user with these rights."""
        key = self.admin("auth", "get-or-create-key", f"client.{name}", "mon", mon, "osd", osd).strip()
        path = self.directory / f"{name}.key"
        path.touch(mode=0o600)
        path.write_text(key)
        return Access(self.monitors, name, path)

    def admin(self, *words: str) -> str:
        key = str(self.ceph.access.key_file)
        return self.run("ceph", "--connect-timeout=60", "--id=admin", f"--keyfile={key}", *words)

    def run(self, *words: str, conf: bool = True) -> str:
        argv = [*words, *(["--conf", str(self.directory / "ceph.conf")] if conf else [])]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
        return done.stdout

    def spawn(self, *words: str) -> subprocess.Popen[bytes]:
        argv = [*words, "--conf", str(self.directory / "ceph.conf")]
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._processes.append(child)
        return child

    def wait(self, is_so: Callable[[], bool], limit_s: float = 240.0) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(Unavailable):
                if is_so():
                    return
            assert time.monotonic() < deadline, "Ceph did not get there"
            time.sleep(0.3)

    def stop(self) -> None:
        for child in reversed(self._processes):
            child.send_signal(signal.SIGKILL)
            child.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def new_key() -> str:
    """A cephx key: kind, seconds, nanoseconds, length, 16 random bytes."""
    return base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()


@pytest.fixture(scope="module")
def ceph_lab() -> Iterator[CephLab]:
    # not below pytest's own directory: a socket's name has room for 107 bytes
    directory = Path(tempfile.mkdtemp(prefix="ceph-lab-"))
    lab = CephLab(directory)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
        shutil.rmtree(directory, ignore_errors=True)
