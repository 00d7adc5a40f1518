"""Builds the guest image: a small bootable Linux made of Debian's own packages, for `make cloud` and for tests.

    python -m guest.build --print-path       builds it when it is not in the cache, prints where it is

The image is a qcow2 disk for any PC-like machine with virtio: MBR, a FAT partition from which SYSLINUX loads Debian's
cloud kernel, an ext4 root with busybox, dropbear and the scripts under `guest/files`. It needs 96 MiB of RAM (a flavor
of 128 MiB is comfortable) and its own 112 MiB of disk.

Beside it lie Debian's kernel and a ramdisk, from which a machine boots without a disk, in about half of the processor's
time: it has network, user data and busybox, and nobody logs in but by its console.

Building needs no root, no mounts and no loop devices; packages come by `apt-get download`, so apt checks their
signatures. The result is cached under a hash of its inputs.
"""

import argparse
import fcntl
import gzip
import hashlib
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = HERE / "files"
LABEL = "trilith-guest"
EPOCH = 1_700_000_000  # every time stamp in the image: the same inputs give the same files
FAT_MIB, ROOT_MIB = 24, 87  # with 1 MiB before them: 112 MiB in all
FAT_SERIAL, ROOT_UUID = "54524c47", "7472696c-6974-4867-8175-657374303031"
# quiet: an emulated serial port is slow; the others skip self-tests and guards that trials can do without
KERNEL_OPTIONS = (
    "console=tty0 console=ttyS0,115200 quiet panic=5 mitigations=off nokaslr no_timer_check cryptomgr.notests "
    "net.ifnames=0"
)

# fmt: off
PACKAGES = [
    "busybox", "busybox-static", "dropbear-bin", "e2fsprogs", "iputils-ping", "libblkid1", "libc6", "libcap2",
    "libcom-err2", "libcrypt1", "libext2fs2", "libgmp10", "libidn2-0", "libmount1", "libpcre2-8-0", "libselinux1",
    "libsmartcols1", "libtomcrypt1", "libtommath1", "libudev1", "libunistring2", "libuuid1", "netcat-traditional",
    "util-linux", "zlib1g",
]
PROGRAMS = [  # beside busybox, whose applets of the same name these replace
    "usr/sbin/dropbear", "usr/bin/dropbearkey", "sbin/mke2fs", "bin/lsblk", "sbin/blkid", "bin/ping",
    "bin/nc.traditional",
]
# The image runs the static busybox: without a loader's work a program starts five times as fast, which an emulated
# machine feels. But its shell takes its own nc or ping for the one in /bin, and it is no good at looking names up:
# these are left to the dynamic one.
DYNAMIC_APPLETS = ["sh", "ash", "wget", "nslookup", "telnet", "tftp", "traceroute", "traceroute6", "ftpget", "ftpput"]
ALIASES = {"mkfs.ext2": "mke2fs", "mkfs.ext3": "mke2fs", "mkfs.ext4": "mke2fs", "ping4": "ping", "ping6": "ping"}
VIRTIO_MODULES = ["virtio_pci", "virtio_blk"]  # what the boot disk needs
SCSI_MODULES = ["virtio_scsi", "sd_mod"]  # loaded first thing only when virtio shows no disk
OTHER_MODULES = [
    "virtio_net", "virtio_rng", "virtio_balloon", "virtio_console", "button", "evdev", "sr_mod", "isofs", "vfat",
    "nls_cp437", "nls_ascii", "nls_utf8", "pvpanic_pci", "8021q", "loop",
]
# fmt: on


class BuildFailed(Exception):
    """The image cannot be built; the message says what to do."""


def cache_dir() -> Path:
    """Where built images and downloaded packages are kept."""
    if named := os.environ.get("TRILITH_CACHE"):
        return Path(named)
    return Path("/var/cache/trilith") if os.geteuid() == 0 else Path.home() / ".cache/trilith"


def inputs_hash() -> str:
    """A hash over the builder and every file that goes into the image."""
    digest = hashlib.sha256()
    for path in [Path(__file__).resolve(), *sorted(p for p in FILES.rglob("*") if p.is_file())]:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(HERE)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def run(*command: str | Path, cwd: Path | None = None, stdin: str | None = None) -> str:
    """Run a program; its output. Raises `BuildFailed` with what it said."""
    environment = os.environ | {
        "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
        "E2FSPROGS_FAKE_TIME": str(EPOCH),
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "MTOOLS_SKIP_CHECK": "1",
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, input=stdin, capture_output=True, text=True, check=True
        )
    except FileNotFoundError as error:
        raise BuildFailed(f"{command[0]} is missing: run `make setup`") from error
    except subprocess.CalledProcessError as error:
        raise BuildFailed(f"{command[0]} failed: {error.stderr.strip() or error.stdout.strip()}") from error
    return done.stdout


def say(text: str) -> None:
    print(f"guest image: {text}", file=sys.stderr, flush=True)


# --- packages -----------------------------------------------------------------------------------------------------


def download(into: Path) -> None:
    """Fetch every package in the version that apt would install now."""
    into.mkdir(parents=True, exist_ok=True)
    depends = run("apt-cache", "depends", "linux-image-cloud-amd64")
    kernel = next(
        (line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line), "linux-image-cloud-amd64"
    )
    # as ourselves: apt's own user may not write here, which it would warn about
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *PACKAGES, kernel]
    try:
        run(*command, cwd=into)
    except BuildFailed as error:
        if os.geteuid() != 0:
            raise BuildFailed(
                f"{error}\nIf package lists are old or missing: sudo apt-get update, then again."
            ) from error
        run("apt-get", "-q", "update")
        run(*command, cwd=into)


def unpack(packages: Path, tree: Path) -> None:
    """Every package into `tree`; but the static busybox, which has the other one's path, into `tree/static`."""
    (tree / "static").mkdir(parents=True)
    for package in sorted(packages.glob("*.deb")):
        run("dpkg-deb", "--extract", package, tree / "static" if package.name.startswith("busybox-static") else tree)


# --- kernel modules -----------------------------------------------------------------------------------------------


def with_dependencies(modules: Path, names: Iterable[str]) -> list[str]:
    """Paths of kernel modules, relative to `modules`, each after those it needs."""
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, depends = line.partition(":")
        needs[path] = depends.split()
    by_name = {Path(path).stem.replace("-", "_"): path for path in needs}
    ordered: list[str] = []
    for name in names:
        if name not in by_name:
            raise BuildFailed(f"the kernel has no module {name}")
        # depmod lists what a module needs with the deepest last
        path = by_name[name]
        ordered += [p for p in [*reversed(needs[path]), path] if p not in ordered]
    return ordered


# --- the two file trees -------------------------------------------------------------------------------------------


def cpio(root: Path) -> bytes:
    """`root` as a newc archive owned by root, with the console device that the kernel opens first."""
    out = bytearray()

    def entry(name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        inode = len(out) + 1
        fields = (inode, mode, 0, 0, 1, EPOCH, len(content), 0, 0, *device, len(name) + 1, 0)
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0")
        out.extend(bytes(-len(out) % 4) + content)
        out.extend(bytes(-len(out) % 4))

    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            entry(name, stat.S_IFLNK | 0o777, os.readlink(path).encode())
        elif path.is_dir():
            entry(name, stat.S_IFDIR | 0o755, b"")
        else:
            entry(name, stat.S_IFREG | path.stat().st_mode & 0o777, path.read_bytes())
    entry("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))
    entry("TRAILER!!!", 0, b"")
    return bytes(out)


def place(source: Path, target: Path, mode: int | None = None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    script = source.read_bytes()[:2] in (b"#!", b"\x7fE")
    target.chmod(mode if mode is not None else 0o755 if script else 0o644)


def make_initrd(tree: Path, modules: Path, work: Path) -> bytes:
    """The first root: a static busybox and the drivers of the boot disk."""
    root = work / "initrd"
    for directory in ("bin", "dev", "proc", "sys", "newroot", "lib"):
        (root / directory).mkdir(parents=True)
    place(tree / "static/bin/busybox", root / "bin/busybox")
    place(FILES / "initrd/init", root / "init")
    loaded: list[str] = []
    for kind, names in (("virtio", VIRTIO_MODULES), ("scsi", SCSI_MODULES)):
        wanted = [path for path in with_dependencies(modules, names) if path not in loaded]
        loaded += wanted
        for path in wanted:
            place(modules / path, root / "lib" / Path(path).name)
        (root / f"lib/modules.{kind}").write_text("".join(Path(path).name + "\n" for path in wanted))
    return gzip.compress(cpio(root), 9, mtime=0)


def make_ramdisk(tree: Path, modules: Path, work: Path) -> bytes:
    """A whole machine in memory: busybox, the drivers of disks and network, and what runs user data."""
    root = work / "ramdisk"
    for directory in ("bin", "dev", "proc", "sys", "run", "etc", "tmp", "var", "lib"):
        (root / directory).mkdir(parents=True)
    place(tree / "static/bin/busybox", root / "bin/busybox")
    for file in sorted(p for p in (FILES / "ramdisk").rglob("*") if p.is_file()):
        place(file, root / file.relative_to(FILES / "ramdisk"))
    for script in ("say", "nic", "dhcp"):
        place(FILES / "root/lib/guest" / script, root / "lib/guest" / script)
    wanted = with_dependencies(modules, [*VIRTIO_MODULES, "virtio_net"])
    for path in wanted:
        place(modules / path, root / "lib" / Path(path).name)
    (root / "lib/modules.ramdisk").write_text("".join(Path(path).name + "\n" for path in wanted))
    return gzip.compress(cpio(root), 9, mtime=0)


def make_root(tree: Path, modules: Path, work: Path) -> Path:
    """The root file system as a directory: /bin and /lib are the only places, every other one points there."""
    root = work / "root"
    for directory in (
        "bin",
        "lib64",
        "lib/x86_64-linux-gnu",
        "usr",
        "proc",
        "sys",
        "dev",
        "run",
        "mnt",
        "newroot",
        "home",
        "var/lib/guest",
    ):
        (root / directory).mkdir(parents=True)
    for directory, mode in (
        ("root", 0o700),
        ("root/.ssh", 0o700),
        ("etc/dropbear", 0o700),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
    ):
        (root / directory).mkdir(parents=True)
        (root / directory).chmod(mode)
    links = {
        "sbin": "bin",
        "usr/bin": "../bin",
        "usr/sbin": "../bin",
        "usr/lib": "../lib",
        "var/run": "../run",
        "var/log": "../run",
    }
    links |= {"etc/resolv.conf": "../run/resolv.conf", "etc/mtab": "../proc/mounts"}
    for name, points_to in links.items():
        (root / name).symlink_to(points_to)
    install_programs(tree, root)
    install_modules(modules, root)
    for file in sorted(p for p in (FILES / "root").rglob("*") if p.is_file()):
        place(file, root / file.relative_to(FILES / "root"), 0o600 if file.name == "shadow" else None)
    (root / "root/.ssh/authorized_keys").touch(0o600)
    return root


def install_programs(tree: Path, root: Path) -> None:
    """Programs and the shared libraries that the image's own loader finds for them."""
    libraries = tree / "lib/x86_64-linux-gnu"
    loader = libraries / "ld-linux-x86-64.so.2"
    search = f"{libraries}:{tree / 'usr/lib/x86_64-linux-gnu'}"
    place(tree / "static/bin/busybox", root / "bin/busybox")
    place(tree / "bin/busybox", root / "bin/busybox.dynamic")
    for applet in {*run(tree / "static/bin/busybox", "--list").split()} - {"busybox"}:
        (root / "bin" / applet).symlink_to("busybox.dynamic" if applet in DYNAMIC_APPLETS else "busybox")
    place(loader, root / "lib64/ld-linux-x86-64.so.2", 0o755)
    for program in [*PROGRAMS, "bin/busybox"]:
        if program in PROGRAMS:
            place(tree / program, root / "bin" / Path(program).name)
        for line in run(loader, "--library-path", search, "--list", tree / program).splitlines():
            name, arrow, found = line.strip().partition(" => ")
            if arrow and found.startswith(str(tree)):
                place(Path(found.rsplit(" ", 1)[0]), root / "lib/x86_64-linux-gnu" / name)
            elif arrow and "ld-linux" not in name:
                raise BuildFailed(f"{program} needs {name}, which none of the packages has")
    for alias, real in ALIASES.items():
        (root / "bin" / alias).unlink(missing_ok=True)
        (root / "bin" / alias).symlink_to(real)


def install_modules(modules: Path, root: Path) -> None:
    target = root / "lib/modules" / modules.name
    for path in with_dependencies(modules, [*VIRTIO_MODULES, *SCSI_MODULES, *OTHER_MODULES]):
        place(modules / path, target / path)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        place(modules / name, target / name)
    run("depmod", "-b", root, modules.name)
    for index in target.glob("modules.*"):
        if index.name not in ("modules.dep", "modules.alias", "modules.symbols"):  # what busybox's modprobe reads
            index.unlink()


# --- the disk -----------------------------------------------------------------------------------------------------


def make_fat(vmlinuz: Path, initrd: bytes, work: Path) -> Path:
    """The boot partition with SYSLINUX, kernel and initrd."""
    fat = work / "boot.fat"
    (work / "initrd.gz").write_bytes(initrd)
    (work / "syslinux.cfg").write_text(
        "DEFAULT trilith\nPROMPT 0\nTIMEOUT 0\n"
        f"LABEL trilith\n LINUX /vmlinuz\n INITRD /initrd.gz\n APPEND {KERNEL_OPTIONS}\n"
    )
    with fat.open("wb") as file:
        file.truncate(FAT_MIB << 20)
    run("mkfs.fat", "-n", "BOOT", "-i", FAT_SERIAL, fat)
    for source in (vmlinuz, work / "initrd.gz", work / "syslinux.cfg"):
        run("mcopy", "-i", fat, source, "::vmlinuz" if source == vmlinuz else f"::{source.name}")
    run("syslinux", "--install", fat)
    return fat


def make_ext4(root: Path, work: Path) -> Path:
    """The root partition. Everything in it belongs to root, whoever builds."""
    ext4 = work / "root.ext4"
    options = f"root_owner=0:0,hash_seed={ROOT_UUID},lazy_itable_init=0"
    run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-J",
        "size=4",
        "-m",
        "0",
        "-L",
        LABEL,
        "-U",
        ROOT_UUID,
        "-E",
        options,
        "-d",
        root,
        ext4,
        f"{ROOT_MIB}M",
    )
    script = "".join(
        f'set_inode_field "/{path.relative_to(root)}" {field} {value}\n'
        for path in sorted(root.rglob("*"))
        for field, value in (("uid", 0), ("gid", 0), ("mtime", f"@{EPOCH}"))
    )
    run("debugfs", "-w", "-f", "-", ext4, stdin=script)
    return ext4


def make_disk(fat: Path, ext4: Path, work: Path) -> Path:
    """MBR, boot partition, root partition."""

    def partition(active: int, kind: int, start_mib: int, size_mib: int) -> bytes:
        beyond_chs = b"\xfe\xff\xff"
        return struct.pack("<B3sB3sII", active, beyond_chs, kind, beyond_chs, start_mib * 2048, size_mib * 2048)

    mbr = Path("/usr/lib/syslinux/mbr/mbr.bin")
    if not mbr.exists():
        raise BuildFailed(f"{mbr} is missing: run `make setup`")
    table = partition(0x80, 0x0C, 1, FAT_MIB) + partition(0, 0x83, 1 + FAT_MIB, ROOT_MIB)
    raw = work / "disk.raw"
    with raw.open("wb") as disk:
        disk.write(
            mbr.read_bytes()[:440].ljust(440, b"\0")
            + struct.pack("<IH", 0x54524C47, 0)
            + table.ljust(64, b"\0")
            + b"\x55\xaa"
        )
        for start_mib, source in ((1, fat), (1 + FAT_MIB, ext4)):
            disk.seek(start_mib << 20)
            disk.write(source.read_bytes())
    qcow2 = work / f"{LABEL}.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, qcow2)
    return qcow2


def build(work: Path) -> list[Path]:
    """Make kernel, ramdisk and, last, the image in the empty directory `work`; their paths. Raises `BuildFailed`."""
    say("downloading packages")
    download(work / "packages")
    say("putting it together")
    tree = work / "tree"
    unpack(work / "packages", tree)
    modules = next((tree / "lib/modules").iterdir())
    run("depmod", "-b", tree, modules.name)
    vmlinuz = tree / f"boot/vmlinuz-{modules.name}"
    fat = make_fat(vmlinuz, make_initrd(tree, modules, work), work)
    kernel, ramdisk = work / f"{LABEL}.vmlinuz", work / f"{LABEL}.ramdisk"
    place(vmlinuz, kernel)
    ramdisk.write_bytes(make_ramdisk(tree, modules, work))
    return [kernel, ramdisk, make_disk(fat, make_ext4(make_root(tree, modules, work), work), work)]


def image(rebuild: bool = False) -> Path:
    """The image, built when it is not in the cache. Two at once wait for each other. Raises `BuildFailed`."""
    cache = cache_dir() / "guest"
    done = cache / inputs_hash() / f"{LABEL}.qcow2"
    if done.exists() and not rebuild:
        return done
    try:
        done.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildFailed(f"cannot write to {cache}: {error.strerror}. Name another place in TRILITH_CACHE.") from error
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists() and not rebuild:
            return done
        with tempfile.TemporaryDirectory(prefix="building-", dir=cache) as work:
            for built in build(Path(work)):
                with built.open("rb") as file:
                    os.fsync(file.fileno())
                built.rename(done.with_name(built.name))
    say(f"{done} ({done.stat().st_size / 2**20:.1f} MiB)")
    return done


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m guest.build", description="Build the guest image.")
    parser.add_argument("--print-path", action="store_true", help="print the path of the image")
    parser.add_argument("--rebuild", action="store_true", help="build it even though it is in the cache")
    arguments = parser.parse_args()
    try:
        path = image(arguments.rebuild)
    except BuildFailed as error:
        print(f"guest image: {error}", file=sys.stderr)
        return 1
    if arguments.print_path:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
