"""The volumes of this host: joins their plan, their driver and the images that they come from or become."""

from pathlib import Path
from typing import Protocol

from trilith.drivers.volume_files import VolumeFiles
from trilith.drivers.volume_files_fake import FakeVolumeFiles
from trilith.kernel.reconcile import Act, Doc
from trilith.volume import volume_plan


class Images(Protocol):
    """Where image bytes come from and go to; `agent.image_cache.ImageCache` is one."""

    def path(self, image_id: str) -> Path:
        """A local file with the image's bytes. `Unavailable` while it cannot be had."""

    def upload(self, image_id: str, path: Path) -> None:
        """Hand the file's bytes over as that image's data; doing it twice does no harm."""


class Volumes:
    """The reconciler of kind "volume"."""

    kind = "volume"

    def __init__(self, driver: VolumeFiles | FakeVolumeFiles, images: Images) -> None:
        self._driver = driver
        self._images = images

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return volume_plan.plan(want, seen)

    def observe(self, key: str) -> Doc | None:
        return self._driver.seen(key)

    def known(self) -> set[str]:
        return self._driver.known()

    def perform(self, key: str, act: Act) -> None:
        if act.do == "create_from_image":
            self._create_from_image(key, **act.args)
        elif act.do == "upload":
            self._upload(key, **act.args)
        else:
            getattr(self._driver, act.do)(key, **act.args)  # the other acts are named as the driver's methods

    def _create_from_image(self, key: str, size_gib: int, image_id: str, image_format: str) -> None:
        self._driver.create_from_image(key, size_gib, self._images.path(image_id), image_format)

    def _upload(self, key: str, image_id: str, disk_format: str) -> None:
        self._images.upload(image_id, self._driver.export(key, disk_format, image_id))
        self._driver.mark_uploaded(key, image_id)
