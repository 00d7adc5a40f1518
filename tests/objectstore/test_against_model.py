"""Whatever is done to a store in whatever order, it tells what the model tells."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.objectstore.model import ModelStore
from tests.objectstore.stores import files_store
from trilith.drivers.rados_fake import FakeRados
from trilith.kernel.errors import Fault
from trilith.objectstore.rados_store import RadosStore
from trilith.objectstore.store import Account, Container, Object, Page, Put, Store

ACTS = 250
NAMES = ["a", "a/", "a/b", "a/b/c", "a/c", "b", "b\0", "é", "é/ü", "日/本/1", "日/本/2", "\U0001f600", "~"]
EDGES = ["", "a", "a/", "a/b", "a/bb", "b", "é", "日/", "~", "\U0010ffff"]


def names_of(found: Any) -> Any:
    """Without what each store chooses for itself: times and names of bytes."""
    if isinstance(found, Object):
        rest = (found.content_type, found.delete_at_s, dict(found.headers), dict(found.listed))
        return ("object", found.name, found.size_bytes, found.etag, *rest)
    if isinstance(found, Container):
        return ("container", found.name, dict(found.headers), found.object_count, found.size_bytes)
    if isinstance(found, Account):
        return ("account", dict(found.headers), found.container_count, found.object_count, found.size_bytes)
    if isinstance(found, list):
        return [names_of(each) for each in found]
    return found


def told(act: Callable[[Store], Any], store: Store) -> Any:
    try:
        return names_of(act(store))
    except Fault as fault:
        return fault.kind


def put(store: Store, where: tuple[str, str, str], content: bytes, said: Put) -> Object:
    writer = store.write(*where)
    writer.write(content)
    return writer.commit(said)


def read(store: Store, where: tuple[str, str, str], start: int) -> bytes | None:
    reader = store.open(*where)
    if reader is None:
        return None
    try:
        return b"".join(reader.chunks(start))
    finally:
        reader.close()


def any_act(dice: random.Random) -> Callable[[Store], Any]:
    account, container, name = dice.choice("xy"), dice.choice(["c", "c/d", "e"]), dice.choice(NAMES)
    where = (account, container, name)
    changes = {dice.choice("kl"): dice.choice([None, "1", "2"])}
    content = dice.randbytes(dice.choice([0, 3, 100, 70_000]))
    said = Put(dice.choice(["x/y", "x/z"]), {"h": dice.choice("12")}, delete_at_s=dice.choice([None, None, 5, 9]))
    page = Page(
        prefix=dice.choice(["", "", "", *EDGES]),
        delimiter=dice.choice(["", "/", "/", "b"]),
        marker=dice.choice(["", "", "", "", *EDGES]),
        end_marker=dice.choice(["", "", "", "", "", "", *EDGES]),
        limit=dice.choice([1, 2, 5, 10_000]),
        reverse=dice.random() < 0.4,
    )
    acts: list[tuple[int, Callable[[Store], Any]]] = [
        (30, lambda store: put(store, where, content, said)),
        (10, lambda store: store.delete_object(*where)),
        (8, lambda store: store.update_object(*where, lambda before: said)),
        (8, lambda store: read(store, where, 2)),
        (4, lambda store: store.object(*where)),
        (20, lambda store: store.list_objects(account, container, page)),
        (5, lambda store: store.list_containers(account, page)),
        (6, lambda store: store.create_container(account, container, changes)),
        (2, lambda store: store.update_container(account, container, changes)),
        (2, lambda store: store.delete_container(account, container)),
        (2, lambda store: store.container(account, container)),
        (2, lambda store: store.account(account)),
        (2, lambda store: store.update_account(account, changes)),
        (1, lambda store: store.delete_account(account)),
        (2, lambda store: sorted((due.delete_at_s, due.container, due.name) for due in store.due(7))),
    ]
    return dice.choices([act for _, act in acts], [weight for weight, _ in acts])[0]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["files", "rados"])
def test_it_tells_what_the_model_tells(kind: str, seed: int, tmp_path: Path) -> None:
    store: Store = files_store(tmp_path / "objects") if kind == "files" else RadosStore(FakeRados())
    model, dice = ModelStore(), random.Random(seed)
    for made in (model, store):
        for account, container in (("x", "c"), ("x", "e"), ("y", "c/d")):
            made.create_container(account, container, {})
    for number in range(ACTS):
        act = any_act(dice)
        assert told(act, store) == told(act, model), f"act {number} of seed {seed}"
    store.close()
