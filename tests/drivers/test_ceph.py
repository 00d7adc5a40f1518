"""One suite for Ceph and for the fake of it; then what only a real one can show."""

import gc
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.drivers.ceph_lab import CephLab, ceph_lab
from trilith.drivers.ceph import Access, Ceph, Image, InUse
from trilith.drivers.ceph_fake import FakeCeph
from trilith.drivers.qemu_img import GIB, MIB
from trilith.kernel.errors import Refused, Unavailable

__all__ = ["ceph_lab"]
Driver = Ceph | FakeCeph


@pytest.fixture(params=["real", "fake"])
def ceph(request: pytest.FixtureRequest) -> Driver:
    if request.param == "fake":
        return FakeCeph()
    lab: CephLab = request.getfixturevalue("ceph_lab")
    for pool in ("machines", "volumes", "images"):
        for name in lab.ceph.images(pool):
            lab.ceph.delete(pool, name)
    for pool in ("machines", "volumes", "images"):
        lab.ceph.empty_trash(pool)
    return lab.ceph


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw"
    path.write_bytes(b"from the image".ljust(MIB, b"\0"))
    return path


def content(ceph: Driver, pool: str, name: str, folder: Path) -> bytes:
    file = folder / "exported"
    ceph.export_raw(pool, name, file)
    with open(file, "rb") as read:
        return read.read(MIB).rstrip(b"\0")


# both


def test_an_image_is_made_grown_and_deleted_and_each_may_be_done_twice(ceph: Driver) -> None:
    assert ceph.image("volumes", "v1") is None
    assert ceph.images("volumes") == {}
    for _ in range(2):
        ceph.create("volumes", "v1", GIB)
    assert ceph.image("volumes", "v1") == Image(GIB)
    for _ in range(2):
        ceph.resize("volumes", "v1", 2 * GIB)
    for _ in range(2):
        ceph.snapshot("volumes", "v1", "s1")
    ceph.snapshot("volumes", "v1", "s2")
    assert ceph.images("volumes") == {"v1": Image(2 * GIB, ("s1", "s2"))}
    assert ceph.image("volumes", "v1") == Image(2 * GIB, ("s1", "s2"))
    for _ in range(2):
        ceph.drop_snapshot("volumes", "v1", "s1")
    assert ceph.image("volumes", "v1") == Image(2 * GIB, ("s2",))
    for _ in range(2):
        ceph.delete("volumes", "v1")
    assert ceph.images("volumes") == {}


def test_an_image_does_not_shrink(ceph: Driver) -> None:
    ceph.create("volumes", "v1", 2 * GIB)
    with pytest.raises(Refused, match="cannot shrink"):
        ceph.resize("volumes", "v1", GIB)


def test_a_clone_has_the_content_of_its_snapshot_and_outlives_it(ceph: Driver, raw: Path, tmp_path: Path) -> None:
    for _ in range(2):
        ceph.import_raw(raw, "images", "i1", snapshot="whole")
    assert ceph.image("images", "i1") == Image(MIB, ("whole",))
    for _ in range(2):
        ceph.clone(("images", "i1", "whole"), "machines", "m1")
    assert ceph.image("machines", "m1") == Image(MIB, (), "images/i1")
    ceph.delete("images", "i1")
    ceph.empty_trash("images")
    assert ceph.images("images") == {}
    assert content(ceph, "machines", "m1", tmp_path) == b"from the image"


def test_what_is_not_there_yet_may_come(ceph: Driver) -> None:
    with pytest.raises(Unavailable):
        ceph.clone(("images", "none", "whole"), "machines", "m1")
    with pytest.raises(Unavailable):
        ceph.resize("machines", "none", GIB)
    with pytest.raises(Unavailable):
        ceph.images("nowhere")
    ceph.delete("machines", "none")
    ceph.drop_snapshot("machines", "none", "s1")
    assert ceph.watchers("machines", "none") == []


def test_a_renamed_image_is_found_by_its_new_name_only(ceph: Driver) -> None:
    ceph.create("volumes", "old", GIB)
    for _ in range(2):
        ceph.rename("volumes", "old", "new")
    assert set(ceph.images("volumes")) == {"new"}
    with pytest.raises(Unavailable):
        ceph.rename("volumes", "none", "other")


def test_what_is_set_aside_is_seen_no_more(ceph: Driver) -> None:
    ceph.create("volumes", "v1", GIB)
    for _ in range(2):
        ceph.set_aside("volumes", "v1")
    ceph.empty_trash("volumes")
    assert ceph.images("volumes") == {}


def test_clients_are_blocklisted_by_address(ceph: Driver) -> None:
    for _ in range(2):
        ceph.blocklist(["192.0.2.7", "192.0.2.8:0/123"])
    assert {"192.0.2.7", "192.0.2.8:0/123"} <= ceph.blocklisted()
    for address in ("192.0.2.7", "192.0.2.8:0/123"):
        for _ in range(2):
            ceph.unblock(address)
    assert not {"192.0.2.7", "192.0.2.8:0/123"} & ceph.blocklisted()
    with pytest.raises(Refused, match="no client"):
        ceph.blocklist(["192.0.2.10:0/1", "host"])
    assert "192.0.2.10:0/1" not in ceph.blocklisted()
    for wrong in ("", "host", "192.0.2", "192.0.2.7; rm", "--help"):
        with pytest.raises(Refused, match="no client"):
            ceph.blocklist([wrong])


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "-x", "a b"])
def test_odd_names_are_refused(ceph: Driver, name: str) -> None:
    with pytest.raises(Refused, match="no name"):
        ceph.create("volumes", name, GIB)


def test_health_says_how_many_osds_there_are(ceph: Driver) -> None:
    health = ceph.health()
    assert health.status.startswith("HEALTH_")
    assert health.osds == health.osds_up > 0


# the real one


def test_an_open_image_is_watched_and_not_deleted_and_its_client_can_be_cut_off(ceph_lab: CephLab) -> None:
    ceph = ceph_lab.ceph
    ceph.create("volumes", "busy", GIB)
    key, monitor = ceph.access.key_file, ceph.access.monitors[0].split(":")
    place = f"server.0.host={monitor[0]},server.0.port={monitor[1]}"
    image = f"driver=rbd,pool=volumes,image=busy,conf=/dev/null,user=admin,key-secret=k,{place}"
    argv = ["qemu-io", "--object", f"secret,id=k,format=base64,file={key}", "--image-opts", image]
    client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("write -P 7 0 4096\n")
        client.stdin.flush()
        assert "wrote 4096/4096" in client.stdout.readline()
        (watcher,) = ceph.watchers("volumes", "busy")
        ceph.create("volumes", "idle", GIB)
        asked = [("volumes", name) for name in ("idle", "busy", "none")]
        assert ceph.watchers_of(asked) == [[], [watcher], []]
        with pytest.raises(InUse):
            ceph.delete("volumes", "busy")
        with pytest.raises(InUse):
            ceph.set_aside("volumes", "busy")
        ceph.resize("volumes", "busy", 2 * GIB)  # under its client
        ceph.blocklist([watcher])
        client.stdin.write("write -P 8 0 4096\n")
        client.stdin.flush()
        said = client.stdout.readline() + client.stdout.readline() + client.stdout.readline()
        assert "write failed" in said, said
        assert watcher in ceph.blocklisted()
    finally:
        client.kill()
        client.wait()
    assert ceph.watchers("volumes", "busy") == []  # at once, not after the 30 s that a vanished client is waited for
    ceph.delete("volumes", "busy")
    ceph.delete("volumes", "idle")


def test_a_monitor_that_is_away_or_a_wrong_key_may_become_right(ceph_lab: CephLab, tmp_path: Path) -> None:
    nobody = Ceph(Access(("127.0.0.1:19190",), "admin", ceph_lab.ceph.access.key_file))
    with pytest.raises(Unavailable):
        nobody.images("volumes")
    with pytest.raises(Unavailable):
        nobody.health()


def test_a_host_may_clone_images_but_not_change_them_nor_touch_volumes_of_no_pool(ceph_lab: CephLab, raw: Path) -> None:
    ceph = ceph_lab.ceph
    ceph.import_raw(raw, "images", "golden", snapshot="whole")
    rights = "profile rbd pool=volumes, profile rbd pool=machines, profile rbd-read-only pool=images"
    host = Ceph(ceph_lab.user("host", "profile rbd", rights))
    host.clone(("images", "golden", "whole"), "machines", "of-host")
    host.resize("machines", "of-host", GIB)
    with pytest.raises((Refused, Unavailable)):
        host.create("images", "evil", GIB)
    with pytest.raises((Refused, Unavailable)):
        host.snapshot("images", "golden", "evil")
    host.delete("machines", "of-host")
    ceph.delete("images", "golden")
    ceph.empty_trash("images")
    assert "golden" not in ceph.images("images")


def bindings_of(user: str) -> list[int]:
    """The processes with Ceph's bindings that work for that user."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if f"--id={user}" in words and any(word.endswith("ceph_bindings.py") for word in words):
            found.append(int(path.parent.name))
    return found


def test_the_process_with_the_bindings_is_started_again_when_it_dies_and_goes_with_its_owner(
    ceph_lab: CephLab,
) -> None:
    ceph = Ceph(ceph_lab.user("mortal", "allow *", "allow *"))
    ceph.create("volumes", "v1", GIB)
    (pid,) = bindings_of("mortal")
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.01)
    assert ceph.image("volumes", "v1") == Image(GIB)
    (pid,) = bindings_of("mortal")
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ceph.image, "volumes", "v1")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="ended"):
            waiting.result()
    ceph.delete("volumes", "v1")
    assert len(bindings_of("mortal")) == 1
    del ceph, waiting
    gc.collect()
    assert bindings_of("mortal") == []


def test_a_client_that_was_blocklisted_is_a_new_one_next_time(ceph_lab: CephLab) -> None:
    ceph = Ceph(ceph_lab.user("barred", "allow *", "allow *"))
    assert ceph.image("volumes", "none") is None
    ceph_lab.ceph.blocklist(["127.0.0.1"])
    try:
        with pytest.raises(Unavailable):
            ceph.create("volumes", "v1", GIB)
    finally:
        # whoever is asked now comes from that address, too: only the monitors still listen
        ceph_lab.ceph.unblock("127.0.0.1")
    ceph.create("volumes", "v1", GIB)
    ceph.delete("volumes", "v1")
