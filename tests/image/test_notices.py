"""What glance's listeners are told of images."""

from tests.client import Client
from tests.image.test_images import PATCH, V2, api, make, send  # noqa: F401 - a fixture
from tests.notices import Told
from trilith.cluster import services  # noqa: F401 - declares who is told
from trilith.image.images import IMAGE


def test_an_images_life(api: Client) -> None:  # noqa: F811
    told = Told(api.app.store)
    image = make(api, os_version="12")
    ((name, payload),) = told()
    assert (name, payload["id"], payload["owner"]) == ("image.create", image["id"], "p1")
    assert payload["properties"] == {"os_version": "12"}
    assert send(api, image) == 204
    found = told()
    assert [name for name, _ in found] == ["image.update", "image.update", "image.upload", "image.activate"]
    assert (found[-1][1]["status"], found[-1][1]["size"]) == ("active", 1000)
    patch = [{"op": "replace", "path": "/name", "value": "other"}]
    assert api("PATCH", f"{V2}/{image['id']}", body=patch, media=PATCH).status == 200
    ((name, payload),) = told()
    assert (name, payload["name"]) == ("image.update", "other")
    assert api.delete(f"{V2}/{image['id']}").status == 204
    ((name, payload),) = told()
    assert (name, payload["deleted"]) == ("image.delete", True)
    assert payload["deleted_at"]


def test_that_a_stream_lives_is_no_news(api: Client) -> None:  # noqa: F811
    image, store = make(api), api.app.store
    told = Told(store)
    store.run(lambda tx: tx.update(IMAGE, tx.get(IMAGE, image["id"]), touch=False, busy_until="2026", method="x"))
    assert told() == []
