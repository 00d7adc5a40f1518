"""The controller's work on images: wanted imports, copies that this controller lacks, and bytes that no row wants."""

import time
import uuid
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from trilith.cluster.shared_images import SharedImages
from trilith.drivers import web_download
from trilith.drivers.image_files import CHUNK_BYTES, PLACES, ImageFiles
from trilith.image import image_import, image_plan
from trilith.image.image_data import MAX_IMAGE_BYTES, renewing
from trilith.kernel.errors import Fault, Refused, Unavailable
from trilith.kernel.reconcile import Act, Doc
from trilith.kernel.store import Store, Tx

IMPORT_S = 900.0  # that an import may find its source or its peers away


class ImageBytes:
    """The reconciler of kind "image", on the controller `host`."""

    kind = "image"

    def __init__(
        self,
        store: Store,
        files: ImageFiles | SharedImages,
        host: str = "",
        allowed_networks: Iterable[IPv4Network | IPv6Network] = (),
    ) -> None:
        self._store, self._files, self._allowed = store, files, tuple(allowed_networks)
        self._own = files.own if isinstance(files, SharedImages) else files
        self._me = image_import.worker(host)

    def plan(self, want: Doc, seen: Doc | None) -> list[Act]:
        return image_plan.plan(want, seen, self._me, isinstance(self._files, SharedImages))

    def observe(self, key: str) -> Doc | None:
        return self._here(key) if self._own.has_any(key) else None

    def _here(self, key: str) -> Doc:
        return {place: sorted(self._own.names(key, place)) for place in PLACES}

    def known(self) -> set[str]:
        self._own.sweep()
        return self._own.known()

    def perform(self, key: str, act: Act) -> None:
        if act.do == "drop":
            self._drop(key)
        elif act.do == "fetch":
            self._fetch(key)
        else:
            self._import(key, act.args["method"])

    def _drop(self, key: str) -> None:
        """Files first, the row then: bytes that came meanwhile are not among these files."""
        here = self._here(key)
        want = self._store.read(lambda tx: image_import.want(tx, key))
        for place, names in image_plan.surplus(want, here).items():
            self._own.remove(key, names, place)

    def _fetch(self, key: str) -> None:
        want = self._store.read(lambda tx: image_import.want(tx, key))
        if isinstance(self._files, SharedImages) and want["present"] and want["status"] == "active":
            self._files.fetch(key, want["sha512"], MAX_IMAGE_BYTES)

    def _import(self, key: str, method: Doc) -> None:
        token = f"{self._me}:{uuid.uuid4()}"
        image = self._store.run(lambda tx: image_import.begin(tx, key, token))
        if image is None:
            return
        try:
            chunks = renewing(self._store, self._source(key, method), key, token)
            stored = self._files.receive(
                key, chunks, image["disk_format"], MAX_IMAGE_BYTES, container_format=image["container_format"]
            )
            self._files.publish(stored)
            self._store.run(lambda tx: image_import.succeed(tx, key, token, stored))
        except (Refused, Unavailable) as error:
            late = time.time() > method.get("asked_at_s", 0.0) + IMPORT_S
            if late or isinstance(error, Refused):
                self._store.run(lambda tx, why=str(error): image_import.fail(tx, key, token, why))  # type: ignore[misc]
            raise
        except Fault:  # deleted or taken over meanwhile: what was received is left over
            return

    def _source(self, key: str, method: Doc) -> Iterator[bytes]:
        if method["name"] != "glance-direct":
            return web_download.fetch(method["uri"], MAX_IMAGE_BYTES, allowed_networks=self._allowed)
        return self._staged(key, method["staged"])

    def _staged(self, key: str, sha512: str) -> Iterator[bytes]:
        with self._own.open(key, sha512, "staging") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


def report(tx: Tx, key: str, generation: int, seen: Doc | None, fault: str | None) -> None:
    """The row is written with each act, by who holds its token."""


def kinds() -> dict[str, Any]:
    return {"image": (image_import.wants, report)}
