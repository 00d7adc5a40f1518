"""The image cache: one download however many ask, nothing damaged, nothing in use evicted."""

import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from trilith.agent.image_cache import ImageCache
from trilith.kernel.errors import Unavailable

SIZE_BYTES = 1 << 20


class ImageService:
    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.sent: list[tuple[str, bytes]] = []
        self.pause_s = 0.0
        self.damage = False
        self.failure: Exception | None = None

    def fetch(self, image_id: str, target: Path) -> str:
        self.fetched.append(image_id)
        time.sleep(self.pause_s)
        content = image_id.encode().ljust(SIZE_BYTES, b".")
        target.write_bytes(content[:-1] if self.damage else content)
        if self.failure is not None:
            raise self.failure
        return hashlib.sha512(content).hexdigest()

    def send(self, image_id: str, path: Path) -> None:
        self.sent.append((image_id, path.read_bytes()))


@pytest.fixture
def service() -> ImageService:
    return ImageService()


def cache_of(service: ImageService, tmp_path: Path, limit_bytes: int = 1 << 40, keep_s: float = 0.0) -> ImageCache:
    return ImageCache(tmp_path / "cache", service.fetch, service.send, limit_bytes, keep_s)


def held(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_one_download_for_all_who_ask(service: ImageService, tmp_path: Path) -> None:
    service.pause_s = 0.1
    cache = cache_of(service, tmp_path)
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(cache.path("i1"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert service.fetched == ["i1"]
    assert set(paths) == {tmp_path / "cache" / "i1"}
    assert paths[0].read_bytes() == b"i1".ljust(SIZE_BYTES, b".")
    assert paths[0].stat().st_mode & 0o777 == 0o440
    assert cache_of(service, tmp_path).path("i1") == paths[0]
    assert service.fetched == ["i1"]


def test_two_images_are_downloaded_at_the_same_time(service: ImageService, tmp_path: Path) -> None:
    cache = cache_of(service, tmp_path)
    both = threading.Barrier(2, timeout=5)

    def fetch(image_id: str, target: Path) -> None:
        both.wait()
        target.write_bytes(b"x")

    cache = ImageCache(tmp_path / "cache", fetch, service.send)
    threads = [threading.Thread(target=cache.path, args=(each,)) for each in ("i1", "i2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(tmp_path) == ["i1", "i2"]


def test_a_damaged_download_is_not_kept(service: ImageService, tmp_path: Path) -> None:
    service.damage = True
    cache = cache_of(service, tmp_path)
    with pytest.raises(Unavailable, match="arrived damaged"):
        cache.path("i1")
    assert held(tmp_path) == []
    service.damage = False
    assert cache.path("i1").exists()


def test_a_download_that_breaks_off_leaves_nothing(service: ImageService, tmp_path: Path) -> None:
    cache = cache_of(service, tmp_path)
    for failure in (Unavailable("away"), OSError(errno.EIO, "broken"), OSError(errno.ENOSPC, "No space left")):
        service.failure = failure
        with pytest.raises(Unavailable):
            cache.path("i1")
        assert held(tmp_path) == []


def test_the_least_recently_used_goes_first(service: ImageService, tmp_path: Path) -> None:
    cache = cache_of(service, tmp_path, limit_bytes=2 * SIZE_BYTES)
    for image_id in ("i1", "i2", "i1", "i3"):
        cache.path(image_id)
        time.sleep(0.01)
    assert held(tmp_path) == ["i1", "i3"]


def test_what_a_machine_uses_stays_and_does_not_count(service: ImageService, tmp_path: Path) -> None:
    cache = cache_of(service, tmp_path, limit_bytes=SIZE_BYTES)
    os.link(cache.path("i1"), tmp_path / "base")
    for image_id in ("i2", "i3"):
        time.sleep(0.01)
        cache.path(image_id)
    assert held(tmp_path) == ["i1", "i3"]
    (tmp_path / "base").unlink()
    cache.evict(0)
    assert held(tmp_path) == []


def test_what_was_just_asked_for_is_not_evicted_under_its_caller(service: ImageService, tmp_path: Path) -> None:
    cache = cache_of(service, tmp_path, limit_bytes=0, keep_s=60)
    cache.path("i1")
    cache.path("i2")
    assert held(tmp_path) == ["i1", "i2"]


def test_a_full_disk_is_emptied_of_what_nobody_uses(service: ImageService, tmp_path: Path) -> None:
    cache = cache_of(service, tmp_path)
    cache.path("i1")
    service.failure = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(Unavailable, match="No space left"):
        cache.path("i2")
    assert held(tmp_path) == []


def test_parts_of_a_killed_agent_are_swept(service: ImageService, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "i1.part").write_bytes(b"half")
    cache = cache_of(service, tmp_path)
    assert held(tmp_path) == []
    (tmp_path / "cache" / "i2.part").write_bytes(b"half")
    assert cache.path("i2").stat().st_size == SIZE_BYTES


def test_a_download_under_way_is_not_swept(service: ImageService, tmp_path: Path) -> None:
    service.pause_s = 0.2
    cache = cache_of(service, tmp_path)
    asking = threading.Thread(target=cache.path, args=("i1",))
    asking.start()
    time.sleep(0.05)
    (tmp_path / "cache" / "i1.part").touch()
    cache.sweep()
    assert held(tmp_path) == ["i1.part"]
    asking.join()
    assert held(tmp_path) == ["i1"]


def test_machines_may_read_images_and_never_change_them(service: ImageService, tmp_path: Path) -> None:
    machine = (65534, 65534) if os.geteuid() == 0 else (os.geteuid() + 1, os.getegid())
    stat = ImageCache(tmp_path / "cache", service.fetch, service.send, owner=machine).path("i1").stat()
    assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o777) == (os.geteuid(), machine[1], 0o440)


def test_uploads_are_handed_on(service: ImageService, tmp_path: Path) -> None:
    (tmp_path / "snapshot").write_bytes(b"content")
    cache_of(service, tmp_path).upload("i1", tmp_path / "snapshot")
    assert service.sent == [("i1", b"content")]
