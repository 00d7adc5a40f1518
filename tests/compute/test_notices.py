"""What nova's listeners are told of a server's life."""

from tests.client import ADMIN
from tests.compute.conftest import Cloud
from tests.notices import Told

I = "compute.instance."  # noqa: E741


def names(told: Told) -> list[str]:
    """Of servers, without the changes of state between."""
    return [name.removeprefix(I) for name in told.types() if name.startswith(I) and name != f"{I}update"]


def test_creation_and_deletion(cloud: Cloud) -> None:
    told = Told(cloud.store)
    key = cloud.server(settled=False, metadata={"a": "b"}, user_data="c2VjcmV0", adminPass="hush-hush")
    assert [name for name, _ in told() if name.startswith(I)] == [f"{I}update", f"{I}create.start"]
    cloud.settle()
    found = told()
    (made,) = (payload for name, payload in found if name == f"{I}create.end")
    assert (made["instance_id"], made["tenant_id"], made["state"]) == (key, "p1", "active")
    assert (made["instance_type"], made["memory_mb"], made["vcpus"], made["disk_gb"]) == ("f1", 512, 1, 1)
    assert (made["metadata"], made["host"], made["deleted_at"]) == ({"a": "b"}, "c1", "")
    assert [ip["label"] for ip in made["fixed_ips"]] == ["net"]
    states = [(p["old_state"], p["state"], p["new_task_state"]) for name, p in found if name == f"{I}update"]
    assert states == [("building", "active", None)]
    assert "hush-hush" not in str(found)
    assert "c2VjcmV0" not in str(found)
    assert cloud.delete(f"/servers/{key}").status == 204
    assert names(told) == ["delete.start"]
    cloud.settle()
    (ended,) = (payload for name, payload in told() if name == f"{I}delete.end")
    assert ended["deleted_at"]
    assert ended["state"] == "deleted"
    cloud.settle()
    assert told() == []


def test_what_is_done_to_a_server(cloud: Cloud) -> None:
    told, key = Told(cloud.store), cloud.server()
    told()
    for verb, body, event in (
        ("os-stop", None, "power_off"),
        ("os-start", None, "power_on"),
        ("reboot", {"type": "HARD"}, "reboot"),
        ("pause", None, "pause"),
        ("unpause", None, "unpause"),
        ("suspend", None, "suspend"),
        ("resume", None, "resume"),
        ("rebuild", {"imageRef": "11111111-1111-4111-8111-111111111111"}, "rebuild"),
        ("resize", {"flavorRef": "2"}, "resize"),
    ):
        cloud.do(key, verb, body)
        assert names(told) == [f"{event}.start", f"{event}.end"], verb
    cloud.do(key, "confirmResize")
    assert names(told) == ["resize.confirm.end"]


def test_a_server_that_fits_nowhere(cloud: Cloud) -> None:
    told = Told(cloud.store)
    cloud.put("/os-quota-sets/p1", {"quota_set": {"cores": -1}}, ADMIN)
    assert cloud.try_server(flavorRef="3").status == 202
    found = told()
    (failed,) = (payload for name, payload in found if name == f"{I}create.error")
    assert failed["message"]
    assert failed["state"] == "error"


def test_a_new_name_is_an_update(cloud: Cloud) -> None:
    told, key = Told(cloud.store), cloud.server()
    told()
    assert cloud.put(f"/servers/{key}", {"server": {"name": "other"}}).status == 200
    ((name, payload),) = told()
    assert (name, payload["display_name"]) == (f"{I}update", "other")
    cloud.beat()
    cloud.settle()
    assert told() == []
