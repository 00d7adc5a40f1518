"""One suite for volumes on files and for the fake of them; then what only real files can show."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drivers.test_qemu_img import on_small_disk, opened, wait_until
from trilith.drivers import qemu_img
from trilith.drivers.image_files import ImageFiles
from trilith.drivers.qemu_img import GIB, MIB, InUse
from trilith.drivers.volume_files import VolumeFiles
from trilith.drivers.volume_files_fake import FakeVolumeFiles
from trilith.kernel.errors import Refused, Unavailable

Driver = VolumeFiles | FakeVolumeFiles


@pytest.fixture(params=[VolumeFiles, FakeVolumeFiles])
def volumes(request: pytest.FixtureRequest, tmp_path: Path) -> Driver:
    kind: type[Driver] = request.param
    return kind(tmp_path / "volumes")


@pytest.fixture
def real(tmp_path: Path) -> VolumeFiles:
    return VolumeFiles(tmp_path / "volumes")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"from the image".ljust(MIB, b"\0"))
    return path


def content(volumes: VolumeFiles, volume_id: str, size_mib: int = 1) -> bytes:
    """The beginning of a volume, without trailing zeros."""
    raw = volumes.path(volume_id).with_name("content")
    limit = ["bs=1M", f"count={size_mib}"]
    source = f"if={volumes.path(volume_id)}"
    subprocess.run(["qemu-img", "dd", "-f", "qcow2", "-O", "raw", *limit, source, f"of={raw}"], check=True)
    try:
        return raw.read_bytes().rstrip(b"\0")
    finally:
        raw.unlink()


def put(volumes: VolumeFiles, volume_id: str, text: bytes) -> None:
    """Write `text` at the beginning of a volume, as a machine would."""
    pattern = "; ".join(f"write -q -P {byte} {place} 1" for place, byte in enumerate(text))
    argv = ["qemu-io", "-f", "qcow2", *(part for each in pattern.split("; ") for part in ("-c", each))]
    subprocess.run([*argv, volumes.path(volume_id)], check=True, stdout=subprocess.DEVNULL)


# both


def test_nothing_is_seen_of_a_volume_that_never_was(volumes: Driver) -> None:
    assert volumes.seen("v1") is None
    assert volumes.known() == set()


def test_a_life(volumes: Driver) -> None:
    for _ in range(2):
        volumes.create_blank("v1", 1)
    assert volumes.seen("v1") == {
        "size_gib": 1,
        "path": str(volumes.path("v1")),
        "format": "qcow2",
        "snapshots": [],
        "uploads_done": [],
        "unfinished": [],
        "export": None,
        "error": None,
    }
    for _ in range(2):
        volumes.snapshot("v1", "s2")
        volumes.snapshot("v1", "s1")
        volumes.extend("v1", 3)
    seen = volumes.seen("v1")
    assert seen is not None
    assert (seen["size_gib"], seen["snapshots"]) == (3, ["s1", "s2"])
    for _ in range(2):
        volumes.delete_snapshot("v1", "s2")
    assert (volumes.seen("v1") or {})["snapshots"] == ["s1"]
    assert volumes.known() == {"v1"}
    for _ in range(2):
        volumes.delete("v1")
    assert volumes.seen("v1") is None
    assert volumes.known() == set()


def test_the_world_outlives_its_driver(volumes: Driver, tmp_path: Path) -> None:
    volumes.create_blank("v1", 2)
    volumes.snapshot("v1", "s1")
    again = type(volumes)(tmp_path / "volumes")
    assert again.seen("v1") == volumes.seen("v1")
    assert again.known() == {"v1"}


def test_sources(volumes: Driver, image: Path) -> None:
    volumes.create_from_image("v1", 1, image, "raw")
    volumes.snapshot("v1", "s1")
    volumes.create_from_volume("v2", 2, "v1")
    volumes.create_from_snapshot("v3", 3, "v1", "s1")
    volumes.delete("v1")
    for volume_id, size_gib in (("v2", 2), ("v3", 3)):
        assert (volumes.seen(volume_id) or {})["size_gib"] == size_gib


def test_a_source_that_is_not_there_yet_is_waited_for(volumes: Driver) -> None:
    volumes.create_blank("v1", 1)
    with pytest.raises(Unavailable):
        volumes.create_from_volume("v2", 1, "absent")
    with pytest.raises(Unavailable):
        volumes.create_from_snapshot("v2", 1, "v1", "absent")
    with pytest.raises(Unavailable):
        volumes.extend("absent", 1)
    with pytest.raises(Unavailable):
        volumes.snapshot("absent", "s1")


def test_a_source_larger_than_the_volume_is_refused(volumes: Driver) -> None:
    volumes.create_blank("v1", 2)
    with pytest.raises(Refused):
        volumes.create_from_volume("v2", 1, "v1")
    with pytest.raises(Refused):
        volumes.extend("v1", 1)


def test_an_export_is_an_image_that_the_store_takes(volumes: Driver, tmp_path: Path) -> None:
    volumes.create_blank("v1", 1)
    path = volumes.export("v1", "qcow2", "i1")
    stored = ImageFiles(tmp_path / "images").write("i1", [path.read_bytes()], "qcow2", GIB)
    assert stored.virtual_size_bytes == GIB
    for _ in range(2):
        volumes.mark_uploaded("v1", "i1")
    assert not path.exists()
    assert (volumes.seen("v1") or {})["uploads_done"] == ["i1"]
    for _ in range(2):
        volumes.forget_upload("v1", "i1")
    assert (volumes.seen("v1") or {})["uploads_done"] == []


def test_who_may_connect_is_seen(volumes: Driver) -> None:
    volumes.create_blank("v1", 1)
    try:
        for _ in range(2):
            volumes.serve("v1", {"a1": "1" * 64})
        export = (volumes.seen("v1") or {})["export"]
        assert (export["address"], export["clients"], export["running"]) == ("127.0.0.1", ["a1"], True)
        volumes.serve("v1", {"a2": "2" * 64})
        assert (volumes.seen("v1") or {})["export"] == export | {"clients": ["a2"]}
        assert volumes.exported() == {"v1"}
    finally:
        for _ in range(2):
            volumes.end_export("v1")
    assert (volumes.seen("v1") or {})["export"] is None
    assert volumes.exported() == set()


def test_set_aside_is_gone_for_all_to_see(volumes: Driver) -> None:
    volumes.create_blank("v1", 1)
    for _ in range(2):
        volumes.set_aside("v1")
    assert volumes.seen("v1") is None
    assert volumes.known() == set()


# real files only


def test_content_goes_along(real: VolumeFiles, image: Path) -> None:
    real.create_from_image("v1", 1, image, "raw")
    assert content(real, "v1") == b"from the image"
    real.snapshot("v1", "s1")
    put(real, "v1", b"WRITTEN")
    real.create_from_volume("v2", 2, "v1")
    real.create_from_snapshot("v3", 1, "v1", "s1")
    put(real, "v2", b"CLONE")
    assert content(real, "v1") == b"WRITTENe image"
    assert content(real, "v2") == b"CLONEENe image"
    assert content(real, "v3") == b"from the image"
    for volume_id in ("v1", "v2", "v3"):
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", real.path(volume_id)], check=True)


def test_volumes_are_thin(real: VolumeFiles) -> None:
    real.create_blank("v1", 1000)
    real.snapshot("v1", "s1")
    real.create_from_snapshot("v2", 1000, "v1", "s1")
    used = sum(path.stat().st_blocks * 512 for path in real.path("v1").parent.parent.rglob("*"))
    assert used < 4 * MIB


def test_an_image_that_does_not_fit_is_refused(real: VolumeFiles, tmp_path: Path) -> None:
    qemu_img.create(tmp_path / "large", "qcow2", 3 * GIB + 1)
    with pytest.raises(Refused, match=r"needs a volume of 4 GiB; this one has 2 GiB"):
        real.create_from_image("v1", 2, tmp_path / "large", "qcow2")


def test_an_image_that_names_another_file_is_refused(real: VolumeFiles, tmp_path: Path, image: Path) -> None:
    qemu_img.create(tmp_path / "overlay", "qcow2", MIB, backing=(image, "raw"))
    with pytest.raises(Refused, match="self-contained"):
        real.create_from_image("v1", 1, tmp_path / "overlay", "qcow2")


def test_a_half_copy_is_never_taken_for_a_volume(real: VolumeFiles, image: Path) -> None:
    half = real.path("v1").with_name("disk.qcow2.part")
    half.parent.mkdir()
    qemu_img.create(half, "qcow2", GIB)
    seen = real.seen("v1")
    assert seen is not None
    assert (seen["path"], seen["size_gib"], seen["unfinished"]) == (None, 0, ["disk.qcow2.part"])
    real.create_from_image("v1", 1, image, "raw")
    assert content(real, "v1") == b"from the image"
    assert (real.seen("v1") or {})["unfinished"] == []


def test_clean_takes_what_unfinished_work_left(real: VolumeFiles) -> None:
    real.create_blank("v1", 1)
    real.snapshot("v1", "s1")
    (real.path("v1").parent / "snapshots" / "s2.part").touch()
    (real.path("v1").parent / "export.i1.part").touch()
    assert (real.seen("v1") or {})["unfinished"] == ["export.i1.part", "s2.part"]
    assert (real.seen("v1") or {})["snapshots"] == ["s1"]
    real.clean("v1")
    assert (real.seen("v1") or {})["unfinished"] == []


def test_a_damaged_volume_says_so_and_can_be_deleted(real: VolumeFiles) -> None:
    real.create_blank("v1", 1)
    real.path("v1").write_bytes(b"rubbish")
    assert (real.seen("v1") or {})["error"] == "The file disk.qcow2 is not a qcow2 disk."
    real.delete("v1")
    assert real.seen("v1") is None


def test_an_open_volume_is_left_alone(real: VolumeFiles) -> None:
    real.create_blank("v1", 1)
    with opened(real.path("v1")):
        for touch in (
            lambda: real.delete("v1"),
            lambda: real.extend("v1", 2),
            lambda: real.snapshot("v1", "s1"),
            lambda: real.create_from_volume("v2", 1, "v1"),
            lambda: real.export("v1", "raw", "i1"),
        ):
            with pytest.raises(InUse):
                touch()
        assert (real.seen("v1") or {})["snapshots"] == []
    real.delete("v1")


class Machine:
    """Stands in for the machines' driver while a machine has v1 open."""

    def __init__(self) -> None:
        self.resized: list[tuple[str, int]] = []

    def live_copy(self, volume_id: str, target: Path) -> bool:
        if volume_id == "v1":
            qemu_img.convert(target.parent.parent / "live", "raw", target, "qcow2")
        return volume_id == "v1"

    def live_resize(self, volume_id: str, size_gib: int) -> bool:
        self.resized.append((volume_id, size_gib))
        return volume_id == "v1"


def test_an_attached_volume_is_copied_and_grown_by_its_machine(tmp_path: Path) -> None:
    machine = Machine()
    volumes = VolumeFiles(tmp_path / "volumes", live=machine)
    volumes.create_blank("v1", 1)
    for live in (tmp_path / "volumes" / "live", tmp_path / "volumes" / "v1" / "live"):
        live.write_bytes(b"as the machine sees it".ljust(MIB, b"\0"))
    volumes.snapshot("v1", "s1")
    volumes.create_from_snapshot("v3", 1, "v1", "s1")
    volumes.create_from_volume("v2", 2, "v1")
    exported = volumes.export("v1", "raw", "i1").read_bytes()
    assert content(volumes, "v2") == content(volumes, "v3") == exported.rstrip(b"\0")
    assert content(volumes, "v2") == b"as the machine sees it"
    volumes.mark_uploaded("v1", "i1")
    assert (volumes.seen("v1") or {})["unfinished"] == []
    volumes.extend("v1", 5)
    volumes.extend("v2", 5)
    assert machine.resized == [("v1", 5), ("v2", 5)]
    assert [(volumes.seen(each) or {})["size_gib"] for each in ("v1", "v2")] == [1, 5]


def test_a_full_disk_is_unavailable_and_leaves_no_volume(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * (8 * MIB))
    program = """
import sys
from pathlib import Path
from trilith.drivers.volume_files import VolumeFiles
from trilith.kernel.errors import Unavailable
volumes = VolumeFiles(Path(sys.argv[2]))
try:
    volumes.create_from_image("v1", 1, Path(sys.argv[1]), "raw")
except Unavailable as error:
    print(error, volumes.seen("v1")["path"])
"""
    said = on_small_disk(program, tmp_path, tmp_path / "source")
    assert "No space left" in said
    assert said.rstrip().endswith("None")


def test_a_killed_driver_takes_its_qemu_img_along(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(os.urandom(64 * MIB))
    program = f"""
from pathlib import Path
from trilith.drivers.volume_files import VolumeFiles
volumes = VolumeFiles(Path("{tmp_path}/volumes"))
print("ready", flush=True)
while True:
    volumes.create_from_image("v1", 1, Path("{tmp_path}/source"), "raw")
    volumes.delete("v1")
"""
    part = tmp_path / "volumes" / "v1" / "disk.qcow2.part"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as agent:
        assert wait_until(lambda: part.exists() and part.stat().st_size > MIB, limit_s=20)
        agent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: str(tmp_path) not in running_commands())
    volumes = VolumeFiles(tmp_path / "volumes")
    volumes.create_from_image("v1", 1, tmp_path / "source", "raw")
    assert content(volumes, "v1", 64) == (tmp_path / "source").read_bytes().rstrip(b"\0")


def running_commands() -> str:
    """Command lines of all qemu-img processes."""
    lines = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended meanwhile
        if command.startswith("qemu-img"):
            lines.append(command)
    return "\n".join(lines)


def test_what_was_set_aside_can_be_had_back_for_a_week(real: VolumeFiles, image: Path, tmp_path: Path) -> None:
    real.create_from_image("v1", 1, image, "raw")
    real.set_aside("v1")
    (kept,) = (tmp_path / "volumes" / ".set_aside").iterdir()
    real.sweep()
    kept.rename(tmp_path / "volumes" / "v1")
    assert content(real, "v1") == b"from the image"
    real.set_aside("v1")
    real.sweep(older_than_s=-1)
    assert list((tmp_path / "volumes" / ".set_aside").iterdir()) == []


def test_disks_belong_to_the_machines_user_and_snapshots_do_not(tmp_path: Path, image: Path) -> None:
    nobody = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    volumes = VolumeFiles(tmp_path / "volumes", owner=nobody)
    volumes.create_from_image("v1", 1, image, "raw")
    volumes.snapshot("v1", "s1")
    disk = volumes.path("v1")
    assert (disk.stat().st_uid, disk.stat().st_mode & 0o777) == (nobody[0], 0o600)
    snapshot = disk.parent / "snapshots" / "s1"
    assert (snapshot.stat().st_uid, snapshot.stat().st_mode & 0o777) == (os.geteuid(), 0o600)
