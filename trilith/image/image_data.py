"""The bytes of images: upload, download, staging, import; and the same for hosts' agents.

Nothing is held in memory whole. A stream opens its own short transactions: one takes the image (``saving``, with a
token), one says which bytes it has. Whoever lost the token meanwhile says nothing.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Protocol

import msgspec

from trilith.image import tasks
from trilith.image.images import IMAGE, busy_until
from trilith.image.versions import IMAGES
from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Member, Object, Text
from trilith.kernel.request import Ctx, Reply, forbidden
from trilith.kernel.store import Store, Tx
from trilith.placement.hosts import AGENTS

Row = dict[str, Any]
MAX_IMAGE_BYTES = 1 << 40
RENEW_S = 15.0
METHODS = ("glance-direct", "web-download")


class Received(Protocol):
    """What the store says of bytes that it took in."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def checksum_md5(self) -> str: ...
    @property
    def os_hash_algo(self) -> str: ...
    @property
    def os_hash_value(self) -> str: ...
    @property
    def virtual_size_bytes(self) -> int | None: ...


class Files(Protocol):
    """The store of bytes that the cloud gives as ``settings["image_files"]``."""

    def receive(
        self, image_id: str, chunks: Iterator[bytes], disk_format: str, max_bytes: int,
        expected_size_bytes: int | None = None, container_format: str = "bare",
    ) -> Any: ...  # fmt: skip
    def publish(self, stored: Any) -> None: ...
    def discard(self, stored: Any) -> None: ...
    def stage(
        self, image_id: str, chunks: Iterator[bytes], max_bytes: int, expected_size_bytes: int | None = None
    ) -> Received: ...
    def open(self, image_id: str, sha512: str) -> BinaryIO: ...


def files(ctx: Ctx) -> Files:
    found: Files = ctx.settings["image_files"]
    return found


def take(tx: Tx, row: Row, phase: str, token: str) -> Row:
    """Begin a stream into a queued image; 409 where another has begun or ended one."""
    if row["phase"] != "queued":
        raise Fault("conflict", f"Image {row['id']} is {row['status']}: data can only be sent to a queued image.")
    if not row["disk_format"] or not row["container_format"]:
        raise Fault("invalid", "Properties disk_format, container_format must be set prior to saving data.")
    return tx.update(IMAGE, row, phase=phase, busy_until=busy_until(), busy_token=token)


def give_back(tx: Tx, image_id: str, token: str) -> None:
    """The stream failed: the image is queued again, if it is still ours."""
    row = tx.one(IMAGE, id=image_id, busy_token=token)
    if row is not None:
        tx.update(IMAGE, row, phase="queued", method=None, busy_until=None, busy_token=None)


def activate(tx: Tx, image_id: str, token: str, stored: Received) -> None:
    row = tx.one(IMAGE, id=image_id, busy_token=token)
    if row is None:
        raise Fault("gone", f"Image {image_id} was deleted or taken over while its data was being sent.")
    tx.update(
        IMAGE,
        row,
        phase="active",
        busy_until=None,
        busy_token=None,
        method=None,
        size_bytes=stored.size_bytes,
        virtual_size_bytes=stored.virtual_size_bytes,
        checksum=stored.checksum_md5,
        os_hash_algo=stored.os_hash_algo,
        os_hash_value=stored.os_hash_value,
    )


def renewing(store: Store, chunks: Iterable[bytes], image_id: str, token: str) -> Iterator[bytes]:
    """The bytes; while they come, the image's deadline moves on."""
    due_s = time.monotonic() + RENEW_S
    for chunk in chunks:
        yield chunk
        if time.monotonic() > due_s:
            store.run(lambda tx: _renew(tx, image_id, token))
            due_s = time.monotonic() + RENEW_S


def _renew(tx: Tx, image_id: str, token: str) -> None:
    row = tx.one(IMAGE, id=image_id, busy_token=token)
    if row is None:
        raise Fault("gone", f"Image {image_id} was deleted while its data was being sent.")
    tx.update(IMAGE, row, touch=False, busy_until=busy_until())


def length(ctx: Ctx) -> int | None:
    given = ctx.headers.get("content-length", "")
    return int(given) if given.isdigit() else None


def receive(ctx: Ctx, image: Row, token: str) -> None:
    """Stream the request's body into an image that was taken; on any failure the image is queued again."""
    store, done = files(ctx), False
    try:
        stored = store.receive(
            image["id"],
            renewing(ctx.store, ctx.chunks(), image["id"], token),
            image["disk_format"],
            MAX_IMAGE_BYTES,
            length(ctx),
            image["container_format"],
        )
        try:
            store.publish(stored)
            ctx.store.run(lambda tx: activate(tx, image["id"], token, stored))
            done = True
        finally:
            if not done:
                store.discard(stored)
    finally:
        if not done:
            ctx.store.run(lambda tx: give_back(tx, image["id"], token))


def _taken(ctx: Ctx, phase: str) -> Row:
    def work(tx: Tx) -> Row:
        ctx.enter(tx)
        row = ctx.find(IMAGE, ctx.path["id"])
        if not ctx.may("image_owner", row):
            raise forbidden("image:images:upload")
        return take(tx, row, phase, ctx.request_id)

    return ctx.store.run(work)


OCTETS = ("application/octet-stream",)


def _octets(ctx: Ctx) -> None:
    media = ctx.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/octet-stream":
        raise Fault("bad_media", f"Unsupported Content-Type {media or 'none'}, must be application/octet-stream")


@IMAGE.route("PUT", "/{id}/file", "member", stream=True, status=204)
def upload(ctx: Ctx) -> None:
    _octets(ctx)
    receive(ctx, _taken(ctx, "saving"), ctx.request_id)


@IMAGE.route("PUT", "/{id}/stage", "member", stream=True, status=204)
def stage(ctx: Ctx) -> None:
    """Bytes for a later import. They may be sent once; the import says what becomes of them."""
    _octets(ctx)
    image, done = _taken(ctx, "uploading"), False
    chunks = renewing(ctx.store, ctx.chunks(), image["id"], ctx.request_id)
    try:
        stored = files(ctx).stage(image["id"], chunks, MAX_IMAGE_BYTES, length(ctx))
        ctx.store.run(lambda tx: _staged(tx, image["id"], ctx.request_id, stored))
        done = True
    finally:
        if not done:
            ctx.store.run(lambda tx: give_back(tx, image["id"], ctx.request_id))


def _staged(tx: Tx, image_id: str, token: str, stored: Received) -> None:
    row = tx.one(IMAGE, id=image_id, busy_token=token)
    if row is None:
        raise Fault("gone", f"Image {image_id} was deleted while its data was being sent.")
    staged = msgspec.json.encode({"staged": stored.os_hash_value}).decode()
    tx.update(IMAGE, row, method=staged, busy_until=None, busy_token=None)


@IMAGE.route("GET", "/{id}/file", "anyone", stream=True)
def download(ctx: Ctx) -> Reply:
    def find(tx: Tx) -> Row:
        ctx.enter(tx)
        return ctx.find(IMAGE, ctx.path["id"])

    row = ctx.store.read(find)
    if row["status"] == "deactivated" and not ctx.who.is_admin:
        raise Fault("forbidden", "The requested image has been deactivated. Image data download is forbidden.")
    if row["phase"] != "active" or row["size_bytes"] == 0:
        return Reply(None, 204)
    return contents(ctx, row)


def contents(ctx: Ctx, row: Row) -> Reply:
    """The bytes of an active image, in pieces."""
    file = files(ctx).open(row["id"], row["os_hash_value"])
    headers = [
        ("Content-Type", "application/octet-stream"),
        ("Content-Length", str(row["size_bytes"])),
        ("X-Trilith-Sha512", row["os_hash_value"] or ""),
    ]
    if row["checksum"]:
        headers.append(("Content-MD5", row["checksum"]))
    return Reply(pieces(file), 200, headers)


def pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while part := file.read(1 << 20):
            yield part


# import
@IMAGES.route("GET", "/info/import", "anyone")
def import_info(ctx: Ctx) -> Any:
    return {"import-methods": {"description": "Import methods available.", "type": "array", "value": list(METHODS)}}


METHOD = Object({"name": Member(Text(64), required=True), "uri": Member(Text(4096))}, open_ended=True)
IMPORT = Object({"method": Member(METHOD, required=True)}, open_ended=True)


@IMAGE.route("POST", "/{id}/import", "anyone", body=IMPORT, status=202)
def begin_import(ctx: Ctx, row: Row) -> None:
    """Says what is wanted; the controller fetches, inspects and publishes."""
    ctx.require("image_owner", "image:images:import", row)
    method = ctx.body["method"]
    if method["name"] not in METHODS:
        raise Fault("invalid", f"Unknown import method name '{method['name']}'.")
    if row["phase"] not in ("queued", "uploading"):
        raise Fault("conflict", f"Image {row['id']} is {row['status']}: it can not be imported into.")
    if not row["disk_format"] or not row["container_format"]:
        raise Fault("invalid", "'disk_format' and 'container_format' need to be set before import")
    if method["name"] == "glance-direct" and (row["phase"] != "uploading" or row["busy_token"] or not row["method"]):
        raise Fault("conflict", "Image has no staged data: send it to the image's stage first.")
    if method["name"] == "web-download":
        if row["phase"] != "queued":
            raise Fault("conflict", "Image is not in the queued state.")
        if not str(method.get("uri", "")).startswith(("http://", "https://")):
            raise Fault("invalid", f"URI for web-download does not pass filtering: {method.get('uri')}")
    wanted = {"name": method["name"], "uri": method.get("uri"), "task_id": ctx.new_id(), "asked_at_s": time.time()}
    wanted["staged"] = msgspec.json.decode(row["method"])["staged"] if row["method"] else None
    tasks.begin(ctx.tx, row, wanted["task_id"], ctx.who.user_id, ctx.request_id)
    ctx.tx.update(IMAGE, row, phase="importing", method=msgspec.json.encode(wanted).decode())


# hosts' agents: images that their machines start from, snapshots that they send
@AGENTS.route("GET", "/images/{id}/data", "host", stream=True)
def agent_download(ctx: Ctx) -> Reply:
    row = ctx.store.read(lambda tx: tx.get(IMAGE, ctx.path["id"]))
    if row["phase"] != "active":
        raise Fault("conflict", f"Image {row['id']} is {row['status']}.")
    return contents(ctx, row)


@AGENTS.route("PUT", "/images/{id}/data", "host", stream=True, status=204)
def agent_upload(ctx: Ctx) -> None:
    """Doing it twice does no harm: an image that is active already stays as it is."""

    def begin(tx: Tx) -> Row | None:
        row = tx.get(IMAGE, ctx.path["id"])
        if row["phase"] == "active":
            return None
        if row["phase"] == "saving":  # an earlier try of ours that broke off
            row = tx.update(IMAGE, row, phase="queued")
        return take(tx, row, "saving", ctx.request_id)

    row = ctx.store.run(begin)
    if row is None:
        for _ in ctx.chunks():
            pass
        return
    receive(ctx, row, ctx.request_id)
