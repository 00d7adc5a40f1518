"""The program as hosts get it: two archives, whose names say all that is in them.

    /opt/trilith/wheels-DIGEST/      the libraries of the lock file; they change seldom
    /opt/trilith/DIGEST/             bin/trilith, trilith/ (our code, compiled), site-packages -> ../wheels-DIGEST

A digest is of what the archive is made from, so it is known without making it, and the same everywhere. Archives are
kept on the deploying machine. They are for Debian 12's own Python 3.11, which the deploying machine must run too.
"""

import compileall
import gzip
import hashlib
import io
import os
import py_compile
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trilith
from trilith.cluster.state import Problem, write_file

PYTHON = (3, 11)
DIGEST_LETTERS = 16
BUILD_S = 600
SOURCE = Path(trilith.__file__).resolve().parent
SUFFIXES = {".py", ".txt", ".json", ".sh", ".mako", ".ini"}

LAUNCHER = """\
#!/usr/bin/python3 -I
# The trilith command of this very program, with its own libraries and no others.
import os
import sys

here = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
places = [here, os.path.join(here, "site-packages")]
sys.path[:0] = places
os.environ["PYTHONPATH"] = ":".join(places)  # for the processes that it starts
sys.dont_write_bytecode = True

from trilith.cli.main import main

sys.exit(main())
"""


@dataclass(frozen=True)
class Archive:
    """One directory below /opt/trilith, packed."""

    name: str
    content: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """Names are known at once; `wheels_archive()` and `program_archive()` are made when a host lacks them."""

    program: str
    wheels: str
    cache: Path
    lock: Path

    def wheels_archive(self, say: Callable[[str], None]) -> Archive:
        return self._kept(self.wheels, lambda folder: _install_wheels(self.lock, folder, say))

    def program_archive(self) -> Archive:
        return self._kept(self.program, lambda folder: _copy_program(self.wheels, folder))

    def _kept(self, name: str, make: Callable[[Path], None]) -> Archive:
        kept = self.cache / f"{name}.tar.gz"
        if not kept.exists():
            self.cache.mkdir(mode=0o755, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.cache, prefix=".making-") as folder:
                make(Path(folder))
                write_file(kept, packed(Path(folder)), 0o644)
            self._forget_old()
        return Archive(name, kept.read_bytes())

    def _forget_old(self) -> None:
        archives = sorted(self.cache.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in archives[10:]:
            path.unlink(missing_ok=True)


def bundle(cache: Path, lock: Path | None = None) -> Bundle:
    """Of the running program. `lock`: its lock file (default: beside the source, or where a bundle has it).
    Raises `Problem` where this machine cannot make one."""
    if sys.version_info[:2] != PYTHON:
        raise Problem("Hosts run Python 3.11, so the deploying machine must, too: use Debian 12's python3.")
    lock = lock or _lock()
    wheels = hashlib.sha256(b"1" + lock.read_bytes()).hexdigest()[:DIGEST_LETTERS]
    digest = hashlib.sha256(f"1 {wheels} {LAUNCHER}".encode())
    for path in _sources():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(SOURCE)} {content}\n".encode())
    return Bundle(digest.hexdigest()[:DIGEST_LETTERS], f"wheels-{wheels}", cache, lock)


def _lock() -> Path:
    for place in (SOURCE.parent / "requirements.lock", SOURCE.parent / "share/requirements.lock"):
        if place.exists():
            return place
    raise Problem(f"requirements.lock is not beside {SOURCE}: deploy from a clone of the project.")


def _sources() -> list[Path]:
    return sorted(
        path
        for path in SOURCE.rglob("*")
        if path.suffix in SUFFIXES and path.is_file() and "__pycache__" not in path.parts
    )


def _install_wheels(lock: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Each library checked against the lock's hash. uv where it is there, pip else."""
    uv = Path(sys.executable).parent / "uv"
    common = ["--quiet", "--require-hashes", "--no-deps", "--target", str(folder), "-r", str(lock)]
    tries = [[sys.executable, "-m", "pip", "install", "--no-compile", "--disable-pip-version-check", *common]]
    if uv.exists():
        tries.insert(0, [str(uv), "pip", "install", "--python", sys.executable, "--link-mode", "copy", *common])
    say("makes the libraries' archive (once for each lock file)")
    for argv in tries:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_S, check=False)
        if done.returncode == 0:
            break
    else:
        raise Problem(f"The libraries of {lock} cannot be had: {done.stderr.strip()[-500:]}")
    for path in [*folder.rglob("__pycache__"), folder / "bin", folder / ".lock"]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    _compile(folder)


def copy_source(folder: Path) -> None:
    """The program's own files, into ``folder/trilith``."""
    for path in _sources():
        target = folder / "trilith" / path.relative_to(SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def _copy_program(wheels: str, folder: Path) -> None:
    copy_source(folder)
    launcher = folder / "bin/trilith"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    (folder / "site-packages").symlink_to(f"../{wheels}")
    _compile(folder / "trilith")


def _compile(folder: Path) -> None:
    """Without times in the result, so that it is the same each time and stays valid where it is unpacked."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, stripdir=str(folder.parent), invalidation_mode=mode)


def packed(folder: Path) -> bytes:
    """A tar archive that depends on names, modes and contents only."""
    found = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=found, mode="wb", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(folder.rglob("*")):
            member = archive.gettarinfo(path, str(path.relative_to(folder)))
            member.mtime = member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mode = 0o755 if path.is_dir() or member.mode & 0o100 else 0o644
            if member.isreg():
                with path.open("rb") as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)
    return found.getvalue()


if (
    __name__ == "__main__"
):  # python -m trilith.cluster.bundle DIRECTORY: only the archives, for who unpacks them by hand
    made = bundle(Path(sys.argv[1]))
    print(made.wheels_archive(print).name, made.program_archive().name)
