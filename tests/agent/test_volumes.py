"""The volumes of a host: wants in, files out, whatever is killed and when."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trilith.agent.image_cache import ImageCache
from trilith.agent.volumes import Volumes
from trilith.drivers.nbd import daemons
from trilith.drivers.volume_files import VolumeFiles
from trilith.drivers.volume_files_fake import FakeVolumeFiles
from trilith.kernel.errors import Unavailable
from trilith.kernel.reconcile import converge, gone
from trilith.kernel.testing import converges

Doc = dict[str, Any]
MIB = 1 << 20


class ImageService:
    """The far end of the image cache: has one image, and takes what is uploaded."""

    def __init__(self) -> None:
        self.uploaded: dict[str, int] = {}
        self.away = False

    def fetch(self, image_id: str, target: Path) -> str | None:
        if self.away:
            raise Unavailable("The image service is away.")
        target.write_bytes(image_id.encode().ljust(MIB, b"\0"))
        return None

    def send(self, image_id: str, path: Path) -> None:
        if self.away:
            raise Unavailable("The image service is away.")
        self.uploaded[image_id] = self.uploaded.get(image_id, 0) + 1
        assert path.stat().st_size > 0


@pytest.fixture
def service() -> ImageService:
    return ImageService()


@pytest.fixture(params=[VolumeFiles, FakeVolumeFiles])
def make(request: pytest.FixtureRequest, service: ImageService, tmp_path: Path) -> Callable[[], Volumes]:
    def volumes() -> Volumes:
        cache = ImageCache(tmp_path / "cache", service.fetch, service.send)
        return Volumes(request.param(tmp_path / "volumes"), cache)

    return volumes


def want(generation: int, **changes: Any) -> Doc:
    document: Doc = {"id": "v1", "generation": generation, "present": True, "size_gib": 1, "format": "qcow2"}
    return {
        **document,
        "source": None,
        "snapshots": [],
        "uploads": [],
        "attached_server": None,
        "export": None,
        **changes,
    }


IMAGE = {"kind": "image", "image_id": "img", "image_format": "raw"}
UPLOAD = {"image_id": "up", "disk_format": "qcow2"}


def test_every_crash_is_survived(make: Callable[[], Volumes], tmp_path: Path) -> None:
    life = [
        want(1, source=IMAGE),
        want(2, source=IMAGE, snapshots=["s1"], uploads=[UPLOAD]),
        want(3, source=IMAGE, snapshots=["s1", "s2"], size_gib=2),
        want(4, source=IMAGE, snapshots=["s2"], size_gib=2),
    ]
    converges(make, life, leftovers=lambda: list((tmp_path / "volumes").iterdir()))


def test_clones_survive_every_crash(make: Callable[[], Volumes], tmp_path: Path) -> None:
    make().perform("other", make().plan(want(1, id="other"), None)[0])
    converge(make(), "other", want(2, id="other", snapshots=["snap"]))
    for source in (
        {"kind": "volume", "volume_id": "other"},
        {"kind": "snapshot", "volume_id": "other", "snapshot_id": "snap"},
    ):
        converges(make, [want(1, source=source, size_gib=2)])


def test_an_export_survives_every_crash(make: Callable[[], Volumes], tmp_path: Path) -> None:
    life = [
        want(1, export={"keys": {"a1": "1" * 64}}),
        want(2, export={"keys": {"a2": "2" * 64}}, size_gib=2),
        want(3, size_gib=2),
    ]

    def settled(wanted: Doc, seen: Doc | None) -> bool:
        running = bool(((seen or {}).get("export") or {}).get("running"))
        return running == bool(wanted["present"] and wanted["export"])

    converges(
        make,
        life,
        leftovers=lambda: [*(tmp_path / "volumes").iterdir(), *daemons(tmp_path / "volumes")],
        settled=settled,
        patience_s=20.0,
    )


def test_what_the_world_reports(make: Callable[[], Volumes], service: ImageService) -> None:
    seen = converge(make(), "v1", want(1, source=IMAGE, size_gib=3, snapshots=["s1"], uploads=[UPLOAD])).seen
    assert seen is not None
    assert Path(seen["path"]).name == "disk.qcow2"
    assert (seen["size_gib"], seen["snapshots"], seen["uploads_done"]) == (3, ["s1"], ["up"])
    assert service.uploaded == {"up": 1}
    assert make().known() == {"v1"}


def test_an_image_service_that_is_away_is_waited_for(make: Callable[[], Volumes], service: ImageService) -> None:
    service.away = True
    outcome = converge(make(), "v1", want(1, source=IMAGE))
    assert (outcome.retry, outcome.fault) == (True, None)
    service.away = False
    assert (converge(make(), "v1", want(1, source=IMAGE)).seen or {})["size_gib"] == 1


def test_a_volume_that_nobody_wants_any_more_leaves(make: Callable[[], Volumes]) -> None:
    converge(make(), "v1", want(1))
    assert converge(make(), "v1", gone("v1")).seen is None
    assert make().known() == set()
