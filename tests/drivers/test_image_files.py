"""The image store: what is published was whole, hashed and judged; what failed left nothing."""

import hashlib
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.full_disk import full_disk
from trilith.drivers.image_files import ImageFiles, StorageFull, Stored, TooLarge, WrongFormat, WrongSize
from trilith.kernel.errors import Unavailable

MIB = 1 << 20
PLENTY = 1 << 40


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    return ImageFiles(tmp_path / "store")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind, made by the programs that people use."""
    there = tmp_path_factory.mktemp("samples")
    for name, disk_format in [("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vdi", "vdi"), ("vhd", "vpc")]:
        qemu_img_create(there / name, disk_format)
    qemu_img_create(there / "vhdx", "vhdx", "64M")
    qemu_img_create(there / "backed", "qcow2", "-F", "raw", "-b", "/etc/passwd")
    qemu_img_create(there / "data_file", "qcow2", "-o", f"data_file={there / 'data'},data_file_raw=on", "1M")
    qemu_img_create(there / "flat", "vmdk", "-o", "subformat=monolithicFlat", "1M")
    qemu_img_create(there / "qed", "qed", "1M")
    (there / "disc").mkdir()
    (there / "disc" / "readme").write_text("on the disc")
    subprocess.run(["genisoimage", "-quiet", "-o", there / "iso", there / "disc"], check=True)
    (there / "gpt").write_bytes(partitioned_disk())
    disc = bytearray((there / "iso").read_bytes())
    disc[:512] = partitioned_disk()[:512]
    (there / "bootable_iso").write_bytes(disc)
    (there / "two_faced").write_bytes((there / "qcow2").read_bytes()[:32768] + disc[32768:])
    (there / "text").write_text("myhost\n")
    (there / "empty").touch()
    return there


def qemu_img_create(path: Path, disk_format: str, *options: str) -> None:
    arguments = options or ("1M",)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", disk_format, *arguments[:-1], path, arguments[-1]]
        if arguments[-1][-1] == "M"
        else ["qemu-img", "create", "-q", "-f", disk_format, *arguments, path, "1M"],
        check=True,
    )


def partitioned_disk() -> bytes:
    disk = bytearray(MIB)
    disk[446:462] = struct.pack("<B3BB3BII", 0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 2047)
    disk[510:512] = b"\x55\xaa"
    return bytes(disk)


def chunked(path: Path, size: int = 1000) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(size):
            yield chunk


def write(files: ImageFiles, path: Path, disk_format: str, container_format: str = "bare") -> Stored:
    return files.write("i1", chunked(path), disk_format, PLENTY, path.stat().st_size, container_format)


def left_over(files: ImageFiles, tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_what_was_written_can_be_read(files: ImageFiles, samples: Path) -> None:
    content = (samples / "qcow2").read_bytes()
    stored = write(files, samples / "qcow2", "qcow2")
    sha512 = stored.os_hash_value
    with files.open("i1", sha512) as file:
        assert file.read() == content
    assert stored.size_bytes == files.size_bytes("i1", sha512) == len(content)
    assert stored.checksum_md5 == hashlib.md5(content).hexdigest()
    assert (stored.os_hash_algo, stored.os_hash_value) == ("sha512", hashlib.sha512(content).hexdigest())
    assert files.known() == {"i1"}
    assert files.names("i1") == {sha512}
    for _ in range(2):
        files.remove("i1", [sha512])
    assert files.known() == files.names("i1") == set()
    assert files.size_bytes("i1", sha512) is None
    with pytest.raises(Unavailable, match="not on this controller"):
        files.open("i1", sha512)


@pytest.mark.parametrize(
    ("sample", "declared", "detected", "virtual_size_bytes"),
    [
        ("qcow2", "qcow2", "qcow2", MIB),
        ("vmdk", "vmdk", "vmdk", MIB),
        ("vdi", "vdi", "vdi", MIB),
        ("vhdx", "vhdx", "vhdx", 64 * MIB),
        ("raw", "raw", "raw", MIB),
        ("text", "raw", "raw", 7),
        ("empty", "raw", "raw", 0),
        ("gpt", "raw", "gpt", MIB),
        ("iso", "raw", "iso", "file"),
        ("iso", "iso", "iso", "any"),
        ("bootable_iso", "iso", "iso", "any"),
        ("text", "ami", "raw", None),
        ("text", "aki", "raw", None),
        ("text", "ploop", "raw", None),
    ],
)
def test_accepted(
    files: ImageFiles, samples: Path, sample: str, declared: str, detected: str, virtual_size_bytes: object
) -> None:
    stored = write(files, samples / sample, declared)
    assert stored.detected_format == detected
    if virtual_size_bytes == "file":
        virtual_size_bytes = (samples / sample).stat().st_size
    if virtual_size_bytes != "any":
        assert stored.virtual_size_bytes == virtual_size_bytes


@pytest.mark.parametrize(
    ("sample", "declared", "reason"),
    [
        ("text", "qcow2", "content is of no known format"),
        ("empty", "qcow2", "content is of no known format"),
        ("qcow2", "raw", "content is qcow2"),
        ("vmdk", "raw", "content is vmdk"),
        ("qcow2", "vmdk", "content is qcow2"),
        ("gpt", "qcow2", "content is gpt"),
        ("gpt", "ami", "content is gpt"),
        ("raw", "iso", "content is of no known format"),
        ("backed", "qcow2", "not safe to use: backing_file"),
        ("backed", "raw", "not safe to use: backing_file"),
        ("data_file", "qcow2", "not safe to use: data_file"),
        ("flat", "vmdk", "not safe to use: descriptor"),
        ("qed", "raw", "not safe"),
        ("two_faced", "qcow2", "several formats at once"),
        ("two_faced", "iso", "several formats at once"),
        ("two_faced", "raw", "several formats at once"),
    ],
)
def test_refused(files: ImageFiles, samples: Path, tmp_path: Path, sample: str, declared: str, reason: str) -> None:
    with pytest.raises(WrongFormat, match=reason):
        write(files, samples / sample, declared)
    assert left_over(files, tmp_path) == []


def test_content_inside_other_containers_is_not_judged(files: ImageFiles, samples: Path) -> None:
    assert write(files, samples / "text", "qcow2", container_format="ovf").detected_format == "unknown"


def test_unrecognized_content_can_be_let_through_but_no_other_lie(tmp_path: Path, samples: Path) -> None:
    files = ImageFiles(tmp_path / "store", unrecognized_ok=True)
    assert write(files, samples / "text", "qcow2").virtual_size_bytes is None
    for sample, declared in [("vmdk", "qcow2"), ("qcow2", "raw"), ("backed", "qcow2")]:
        with pytest.raises(WrongFormat):
            write(files, samples / sample, declared)


@settings(deadline=None, max_examples=60)
@given(
    head=st.sampled_from(
        [b"QFI\xfb", b"KDMV", b"conectix", b"vhdxfile", b"QED\0", b"# Disk Desc", b"LUKS\xba\xbe", b""]
    ),
    tail=st.binary(max_size=2000),
    declared=st.sampled_from(["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "ami"]),
)
def test_no_garbage_breaks_the_judge(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, tail: bytes, declared: str
) -> None:
    directory = tmp_path_factory.getbasetemp() / "garbage"
    files = ImageFiles(directory)
    for filler in (b"", bytes(70_000)):
        with suppress(WrongFormat):
            files.discard(files.receive("i1", [head + tail + filler], declared, PLENTY))
    assert not list((directory / "incoming").iterdir())


def test_a_cut_off_upload_leaves_nothing(files: ImageFiles, tmp_path: Path) -> None:
    with pytest.raises(WrongSize, match="100 bytes were announced and 60 came"):
        files.write("i1", [b"x" * 60], "raw", PLENTY, 100)
    with pytest.raises(WrongSize):
        files.write("i1", [b"x" * 160], "raw", PLENTY, 100)
    assert left_over(files, tmp_path) == []


def test_a_client_that_goes_away_leaves_nothing(files: ImageFiles, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 1000
        raise ConnectionResetError("client gone")

    with pytest.raises(ConnectionResetError):
        files.write("i1", broken(), "raw", PLENTY, 5000)
    with pytest.raises(ConnectionResetError):
        files.stage("i1", broken(), PLENTY)
    assert left_over(files, tmp_path) == []


def test_the_limit_ends_the_upload_and_not_the_memory(files: ImageFiles, tmp_path: Path) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(MIB)

    with pytest.raises(TooLarge, match="more than 3145728 bytes"):
        files.write("i1", endless(), "raw", 3 * MIB)
    with pytest.raises(TooLarge, match="limit is 10"):
        files.write("i1", endless(), "raw", 10, 11)
    assert left_over(files, tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(files: ImageFiles, tmp_path: Path) -> None:
    with full_disk(at_bytes=MIB), pytest.raises(StorageFull, match="image store is full"):
        files.write("i1", [bytes(2 * MIB)], "raw", PLENTY)
    assert left_over(files, tmp_path) == []


def test_memory_stays_flat(files: ImageFiles) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files.write("i1", (bytes(MIB) for _ in range(200)), "raw", PLENTY)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50 * 1024


def test_rivals_do_not_touch_each_other(files: ImageFiles) -> None:
    first = files.receive("i1", [b"first"], "raw", PLENTY)
    second = files.receive("i1", [b"second"], "raw", PLENTY)
    again = files.receive("i1", [b"second"], "raw", PLENTY)
    assert files.known() == set()
    for _ in range(2):
        files.publish(second)
    files.discard(first)
    files.discard(again)
    with files.open("i1", second.os_hash_value) as file:
        assert file.read() == b"second"
    with pytest.raises(Unavailable, match="repeat it"):
        files.publish(first)


def test_staged_data_waits_for_its_import(files: ImageFiles, samples: Path, tmp_path: Path) -> None:
    stored = files.stage("i1", chunked(samples / "qcow2"), PLENTY)
    assert stored.size_bytes == (samples / "qcow2").stat().st_size
    assert files.known() == {"i1"}
    assert (files.names("i1"), files.names("i1", "staging")) == (set(), {stored.os_hash_value})
    with files.open("i1", stored.os_hash_value, "staging") as file:
        assert file.read() == (samples / "qcow2").read_bytes()
    files.remove("i1", [stored.os_hash_value], "staging")
    assert left_over(files, tmp_path) == []


def test_a_file_of_an_earlier_version_is_taken_over(files: ImageFiles) -> None:
    sha512 = hashlib.sha512(b"old").hexdigest()
    (files.directory / "data" / "i1").write_bytes(b"old")
    for _ in range(2):
        files.adopt("i1", sha512)
    with files.open("i1", sha512) as file:
        assert file.read() == b"old"
    assert files.known() == {"i1"}


UPLOADER = """
import sys
from pathlib import Path
from trilith.drivers.image_files import ImageFiles
def chunks():
    yield b"x" * 1000
    print("half", flush=True)
    sys.stdin.read()
ImageFiles(Path(sys.argv[1])).write("i1", chunks(), "raw", 1 << 30)
"""


def test_what_a_killed_upload_leaves_is_swept_and_a_living_one_is_not(files: ImageFiles, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", UPLOADER, str(tmp_path / "store")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as uploader:
        assert uploader.stdout is not None
        assert uploader.stdout.readline() == b"half\n"
        assert files.sweep(min_idle_s=0) == 0
        uploader.send_signal(signal.SIGKILL)
    assert files.known() == set()
    (part,) = left_over(files, tmp_path)
    assert files.sweep() == 0, "too young"
    os.utime(part, (0, 0))
    stored = files.write("i2", [b"another upload"], "raw", PLENTY)
    assert left_over(files, tmp_path) == [tmp_path / "store" / "data" / "i2" / stored.os_hash_value]


def test_ids_cannot_lead_out_of_the_store(files: ImageFiles) -> None:
    for name in ("../evil", "a/b", "", ".hidden", "x" * 200):
        with pytest.raises(ValueError, match="file's name"):
            files.write(name, [b"x"], "raw", PLENTY)
        with pytest.raises(ValueError, match="file's name"):
            files.open(name, "0")
        with pytest.raises(ValueError, match="file's name"):
            files.open("i1", name)


def test_many_uploads_at_once(files: ImageFiles) -> None:
    def upload(name: str) -> None:
        files.write(name, [name.encode() * 1000] * 50, "raw", PLENTY)

    threads = [threading.Thread(target=upload, args=(f"i{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(8):
        content = f"i{n}".encode() * 50_000
        with files.open(f"i{n}", hashlib.sha512(content).hexdigest()) as file:
            assert file.read() == content
