"""The controller's work on images: wanted imports, and bytes that no row wants any more."""

import uuid
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from trilith.drivers import web_download
from trilith.drivers.image_files import ImageFiles
from trilith.image import image_import, image_plan
from trilith.image.image_data import MAX_IMAGE_BYTES
from trilith.kernel.errors import Fault
from trilith.kernel.reconcile import Act, Doc
from trilith.kernel.store import Store, Tx

GRACE_S = 3600.0


class ImageBytes:
    """The reconciler of kind "image"."""

    kind = "image"

    def __init__(
        self, store: Store, files: ImageFiles, allowed_networks: Iterable[IPv4Network | IPv6Network] = ()
    ) -> None:
        self._store, self._files, self._allowed = store, files, tuple(allowed_networks)

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return image_plan.plan(want, seen)

    def observe(self, key: str) -> Doc | None:
        staged, published = self._files.has_staged(key), self._files.size_bytes(key) is not None
        return {"staged": staged, "published": published} if staged or published else None

    def known(self) -> set[str]:
        return self._files.known()

    def perform(self, key: str, act: Act) -> None:
        if act.do == "delete":
            self._files.delete(key)
        elif act.do == "unstage":
            self._files.unstage(key)
        else:
            self._import(key, act.args["method"])

    def _import(self, key: str, method: Doc) -> None:
        token = str(uuid.uuid4())
        image = self._store.run(lambda tx: image_import.begin(tx, key, token))
        if image is None:
            return
        chunks: Iterator[bytes] = (
            self._files.staged(key)
            if method["name"] == "glance-direct"
            else web_download.fetch(method["uri"], MAX_IMAGE_BYTES, allowed_networks=self._allowed)
        )
        stored = self._files.receive(
            key, chunks, image["disk_format"], MAX_IMAGE_BYTES, container_format=image["container_format"]
        )

        def publish(tx: Tx) -> None:
            image_import.succeed(tx, key, token, stored)
            self._files.publish(stored)

        try:
            self._store.run(publish)
        except Fault:  # deleted or taken over meanwhile: nothing to publish
            self._files.discard(stored)


def report(tx: Tx, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
    if fault:
        image_import.fail(tx, key, fault)


def kinds() -> dict[str, Any]:
    return {"image": (image_import.wants, report)}
