"""qemu-img with real files: formats are said, never guessed; limits hold; faults are told apart."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trilith.drivers import qemu_img
from trilith.drivers.qemu_img import GIB, MIB
from trilith.kernel.errors import Refused, Unavailable


@pytest.mark.parametrize("disk_format", ["raw", "qcow2", "vmdk", "vdi", "vhdx", "vhd"])
def test_every_format_keeps_content_and_size(tmp_path: Path, disk_format: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content" + bytes(3 * MIB - 7))
    qemu_img.convert(source, "raw", tmp_path / "there", disk_format)
    assert qemu_img.info(tmp_path / "there", disk_format).virtual_size_bytes == 3 * MIB
    qemu_img.convert(tmp_path / "there", disk_format, tmp_path / "back", "raw")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_convert_makes_sparse_files(tmp_path: Path) -> None:
    qemu_img.create(tmp_path / "disk", "qcow2", 5 * GIB)
    qemu_img.convert(tmp_path / "disk", "qcow2", tmp_path / "raw", "raw")
    assert (tmp_path / "raw").stat().st_size == 5 * GIB
    assert (tmp_path / "raw").stat().st_blocks * 512 < MIB


def test_names_with_a_colon_are_names(tmp_path: Path) -> None:
    disk = tmp_path / "nbd:localhost:1"
    qemu_img.create(disk, "qcow2", MIB)
    assert qemu_img.info(disk, "qcow2").virtual_size_bytes == MIB


def test_content_is_never_probed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    qemu_img.create(disk, "qcow2", GIB)
    assert qemu_img.info(disk, "raw").virtual_size_bytes < MIB
    (tmp_path / "text").write_text("no disk at all\n")
    with pytest.raises(Refused, match="not in qcow2 format"):
        qemu_img.info(tmp_path / "text", "qcow2")


def test_a_file_that_names_another_is_not_standalone(tmp_path: Path) -> None:
    qemu_img.create(tmp_path / "plain", "qcow2", MIB)
    qemu_img.create(tmp_path / "overlay", "qcow2", MIB, backing=(tmp_path / "plain", "qcow2"))
    with_data_file = tmp_path / "with_data_file"
    option = f"data_file={tmp_path / 'data'},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", option, with_data_file, "1M"], check=True)
    assert qemu_img.require_standalone(tmp_path / "plain", "qcow2").virtual_size_bytes == MIB
    for path in (tmp_path / "overlay", with_data_file):
        with pytest.raises(Refused, match="self-contained"):
            qemu_img.require_standalone(path, "qcow2")


def test_resize_grows_only(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    qemu_img.create(disk, "qcow2", GIB)
    for _ in range(2):
        qemu_img.resize(disk, "qcow2", 2 * GIB)
    assert qemu_img.qcow2_size_bytes(disk) == 2 * GIB
    with pytest.raises(Refused, match="cannot shrink"):
        qemu_img.resize(disk, "qcow2", GIB)


def test_an_open_disk_is_in_use(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    qemu_img.create(disk, "qcow2", GIB)
    assert not qemu_img.in_use(disk, "qcow2")
    with opened(disk):
        assert qemu_img.in_use(disk, "qcow2")
        with pytest.raises(qemu_img.InUse):
            qemu_img.resize(disk, "qcow2", 2 * GIB)
        assert qemu_img.info(disk, "qcow2", while_in_use=True).virtual_size_bytes == GIB
    assert not qemu_img.in_use(disk, "qcow2")


def test_what_may_pass_is_unavailable_and_what_never_will_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        qemu_img.info(tmp_path / "absent", "qcow2")
    with pytest.raises(Refused, match="cannot be opened"):
        qemu_img.info(tmp_path / "absent", "docker")


def test_faults_do_not_tell_the_host_s_directories(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        qemu_img.info(tmp_path / "absent", "qcow2")
    assert "absent" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * (8 * MIB))
    program = """
import sys
from pathlib import Path
from trilith.drivers import qemu_img
from trilith.kernel.errors import Unavailable
try:
    qemu_img.convert(Path(sys.argv[1]), "raw", Path(sys.argv[2]) / "target", "qcow2")
except Unavailable as error:
    print(error)
"""
    said = on_small_disk(program, tmp_path, tmp_path / "source")
    assert "No space left" in said


def on_small_disk(program: str, tmp_path: Path, *arguments: Path) -> str:
    """Output of a Python program run with a file system of 4 MiB, whose directory is its last argument."""
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=4m none "$0" && exec "$@"'
    argv: list[str | Path] = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, small]
    argv += [sys.executable, "-c", program, *arguments, small]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@contextmanager
def opened(disk: Path) -> Iterator[None]:
    """Another program has the disk open for writing, as a machine has."""
    with subprocess.Popen(["qemu-io", "-f", "qcow2", disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"length\n")
        program.stdin.flush()
        assert b"GiB" in program.stdout.readline()  # to look by ourselves could keep it from opening the disk
        yield
        program.stdin.close()


def wait_until(condition: Callable[[], bool], limit_s: float = 5.0) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
