"""Small things that Tempest's closed schemas and negative tests insist on."""

from pathlib import Path
from typing import Any

import pytest

from tests.client import ADMIN, MEMBER, STRANGER, Client
from tests.volume.test_volumes import NEW, V3, Host, act, api, host, make, show  # noqa: F401 - the fixtures
from trilith.compute import servers  # noqa: F401 - its table is asked
from trilith.volume import backends, services  # noqa: F401 - their routes


def test_type_is_shown_with_what_each_operation_shows(api: Client) -> None:  # noqa: F811
    made = api.post(f"{V3}/types", {"volume_type": {"name": "fast"}}, ADMIN).json["volume_type"]
    assert "qos_specs_id" not in made
    assert made["os-volume-type-access:is_public"] is True
    url = f"{V3}/types/{made['id']}"
    assert api.get(url, ADMIN).json["volume_type"]["qos_specs_id"] is None
    assert "qos_specs_id" not in api.get(url, MEMBER).json["volume_type"]
    changed = api.put(url, {"volume_type": {"name": "faster"}}, ADMIN).json["volume_type"]
    assert "os-volume-type-access:is_public" not in changed


def test_transfer_under_its_newer_path(api: Client, host: Host) -> None:  # noqa: F811
    volume = make(api)
    host.work()
    new = {"transfer": {"volume_id": volume["id"], "no_snapshots": True}}
    made = api.post(f"{V3}/volume-transfers", new, at="volume 3.55").json["transfer"]
    assert made["no_snapshots"] is True
    assert "accepted" not in made
    assert api.get(f"{V3}/volume-transfers/{made['id']}", at="volume 3.54").status == 404
    older = api.get(f"{V3}/os-volume-transfer/{made['id']}", at=NEW).json["transfer"]
    assert "no_snapshots" not in older
    key = {"accept": {"auth_key": made["auth_key"]}}
    assert api.post(f"{V3}/volume-transfers/{made['id']}/accept", key, STRANGER, at=NEW).status == 202
    assert api.delete(f"{V3}/volume-transfers/{made['id']}", at=NEW).status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_empty_id_is_no_volume(api: Client, method: str) -> None:  # noqa: F811
    assert api(method, f"{V3}/volumes/").status == 404


def test_full_last_page_links_on(api: Client) -> None:  # noqa: F811
    make(api)
    page = api.get(f"{V3}/volumes?limit=1").json
    assert page["volumes_links"][0]["rel"] == "next"
    rest = api.get(page["volumes_links"][0]["href"].removeprefix("http://cloud.test")).json
    assert rest == {"volumes": []}


def test_snapshot_told_its_status_and_sorted_by_its_older_name(api: Client, host: Host) -> None:  # noqa: F811
    volume = make(api)
    host.work()
    new: dict[str, Any] = {"snapshot": {"volume_id": volume["id"]}}
    snapshot = api.post(f"{V3}/snapshots", new).json["snapshot"]
    told = {"status": "error", "progress": "80%"}
    assert act(api, snapshot, "os-update_snapshot_status", told, ADMIN, "snapshots") == 202
    shown = api.get(f"{V3}/snapshots/{snapshot['id']}").json["snapshot"]
    assert (shown["status"], shown["os-extended-snapshot-attributes:progress"]) == ("error", "80%")
    assert act(api, snapshot, "os-update_snapshot_status", told, ADMIN, "snapshots") == 400
    assert api.get(f"{V3}/snapshots?sort_key=display_name&sort_dir=asc").status == 200
    assert api.post(f"{V3}/snapshots", {"snapshot": {"volume_id": None}}).status == 404


def test_attachment_that_no_server_wants_can_be_taken_away(api: Client, host: Host) -> None:  # noqa: F811
    volume = make(api)
    host.work()
    attach = {"instance_uuid": "33333333-3333-3333-3333-333333333333", "mountpoint": "/dev/vdc"}
    assert act(api, volume, "os-attach", attach) == 202
    assert show(api, volume)["status"] == "in-use"
    assert act(api, volume, "os-detach", {}) == 202
    assert show(api, volume)["status"] == "available"


def test_pools_hosts_and_capabilities(api: Client, host: Host, tmp_path: Path) -> None:  # noqa: F811
    make(api)
    assert api.get(f"{V3}/scheduler-stats/get_pools").status == 403
    pools = api.get(f"{V3}/scheduler-stats/get_pools?detail=True", ADMIN).json["pools"]
    assert [pool["name"] for pool in pools] == ["h1@files#files"]
    assert pools[0]["capabilities"]["allocated_capacity_gb"] == 1
    assert api.get(f"{V3}/capabilities/h1@files", ADMIN).json["vendor_name"] == "Open Source"
    assert [h["service"] for h in api.get(f"{V3}/os-hosts", ADMIN).json["hosts"]] == ["cinder-volume"]
    shown = api.get(f"{V3}/os-hosts/h1@files", ADMIN).json["host"]
    assert [each["resource"]["volume_count"] for each in shown] == ["1", "1"]
    assert api.get(f"{V3}/os-hosts/h2", ADMIN).status == 404


def test_private_type_is_for_those_who_were_let_in(api: Client) -> None:  # noqa: F811
    new = {"volume_type": {"name": "own", "os-volume-type-access:is_public": False}}
    kind = api.post(f"{V3}/types", new, ADMIN).json["volume_type"]["id"]
    volume = {"volume": {"size": 1, "volume_type": kind}}
    assert api.post(f"{V3}/volumes", volume).status == 404
    assert api.post(f"{V3}/types/{kind}/action", {"addProjectAccess": {"project": "p1"}}, ADMIN).status == 202
    assert api.post(f"{V3}/volumes", volume).status == 202


def test_another_type_says_whether_servers_share_a_volume(api: Client, host: Host) -> None:  # noqa: F811
    for name, specs in (("shared", {"multiattach": "<is> True"}), ("alone", {})):
        assert api.post(f"{V3}/types", {"volume_type": {"name": name, "extra_specs": specs}}, ADMIN).status == 200
    volume = make(api, volume_type="alone")
    host.work()
    for name, shared in (("shared", True), ("alone", False)):
        assert act(api, volume, "os-retype", {"new_type": name, "migration_policy": "never"}) == 202
        assert show(api, volume)["multiattach"] is shared
    assert act(api, volume, "os-attach", {"host_name": "h", "mountpoint": "/dev/vdb"}) == 202
    assert act(api, volume, "os-retype", {"new_type": "shared"}) == 400


def test_quotas_of_a_type(api: Client, host: Host) -> None:  # noqa: F811
    new = {"volume_type": {"name": "fast_one"}}
    kind = api.post(f"{V3}/types", new, ADMIN).json["volume_type"]["id"]
    limits, usage = f"{V3}/os-quota-sets/p1", f"{V3}/os-quota-sets/p1?usage=True"
    assert api.get(limits, ADMIN).json["quota_set"]["volumes_fast_one"] == -1
    asked = {"volumes_fast_one": 2, "gigabytes_fast_one": 3, "snapshots_fast_one": 1}
    assert api.put(f"{V3}/os-quota-class-sets/default", {"quota_class_set": asked}, ADMIN).status == 200
    assert api.get(limits, ADMIN).json["quota_set"].items() >= asked.items()
    volume = make(api, volume_type="fast_one")
    host.work()
    big = {"volume": {"size": 3, "volume_type": "fast_one"}}
    refused = api.post(f"{V3}/volumes", big)
    assert (refused.status, "gigabytes_fast_one: asked 3, used 1 of 3" in str(refused.json)) == (413, True)
    assert api.post(f"{V3}/volumes", {"volume": {"size": 3}}).status == 202
    assert act(api, volume, "os-extend", {"new_size": 4}) == 413
    assert api.post(f"{V3}/snapshots", {"snapshot": {"volume_id": volume["id"]}}).status == 202
    assert api.post(f"{V3}/snapshots", {"snapshot": {"volume_id": volume["id"]}}).status == 413
    used = {name: each["in_use"] for name, each in api.get(usage, ADMIN).json["quota_set"].items() if name != "id"}
    assert used.items() >= {"volumes_fast_one": 1, "gigabytes_fast_one": 2, "snapshots_fast_one": 1}.items()
    # a project's own limit goes before the one for all, and both stay when the type is renamed
    assert api.put(limits, {"quota_set": {"gigabytes_fast_one": 9, "per_volume_gigabytes": 5}}, ADMIN).status == 200
    assert api.put(f"{V3}/types/{kind}", {"volume_type": {"name": "slow"}}, ADMIN).status == 200
    assert act(api, volume, "os-extend", {"new_size": 4}) == 202
    assert api.put(limits, {"quota_set": {"gigabytes_fast_one": 9}}, ADMIN).status == 400
    too_big = api.post(f"{V3}/volumes", {"volume": {"size": 6}})
    assert (too_big.status, "per_volume_gigabytes" in str(too_big.json)) == (413, True)


def test_reserve_and_unreserve(api: Client, host: Host) -> None:  # noqa: F811
    volume = make(api)
    host.work()
    assert act(api, volume, "os-reserve", {}) == 202
    assert show(api, volume)["status"] == "attaching"
    assert act(api, volume, "os-unreserve", {}) == 202
    assert show(api, volume)["status"] == "available"


def test_disabled_storage_host_gets_no_volumes(api: Client) -> None:  # noqa: F811
    url, service = f"{V3}/os-services", {"host": "h1@files", "binary": "cinder-volume"}
    assert api.put(f"{url}/disable-log-reason", service, ADMIN).status == 400
    assert api.put(f"{url}/disable", service | {"host": "h2"}, ADMIN).status == 404
    reason = service | {"disabled_reason": "full"}
    assert api.put(f"{url}/disable-log-reason", reason, ADMIN).json["disabled_reason"] == "full"
    assert api.get(url, ADMIN).json["services"][0]["status"] == "disabled"
    assert make(api)["status"] == "error"
    assert api.put(f"{url}/enable", service, ADMIN).json["status"] == "enabled"
    assert make(api)["status"] == "creating"
