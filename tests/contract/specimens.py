"""How to make one of each noun: the smallest valid body, and what has to be there before.

Made once for all tests, in this order, in the project "mine", and each by the least that may (`who`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.contract.samples import KEY, SOME_ID, TAG
from trilith.cluster.bootstrap import named_id
from trilith.identity.seed import fixed_id
from trilith.kernel.declare import Noun
from trilith.kernel.kinds import now
from trilith.placement.hosts import HOSTED

if TYPE_CHECKING:
    from tests.contract.cloud import Cloud

Row = dict[str, Any]
Body = Callable[["Cloud", int], Row]
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMvQ0tSPxqF2jxOnzdUEJmNV3nM7sKDgNSdHLLsbuaCu me@here"
GUEST = named_id("image:guest")


@dataclass(frozen=True)
class Specimen:
    """`body(cloud, number)` is what stands inside the envelope; `path` replaces the noun's own. Numbers are unique."""

    body: Body
    who: str = "member"
    ready: Callable[["Cloud", Row], None] = lambda cloud, row: None
    insert: bool = False  # no request makes one: the body is the row

    def make(self, cloud: "Cloud", noun: Noun, number: int) -> Row:
        if self.insert:
            new = self.body(cloud, number)
            made = cloud.store.run(lambda tx: tx.insert(noun, new))
            return cloud.row(noun, made[noun.key]) or made
        answer = self.request(cloud, noun, number, self.who)
        assert answer.status in (200, 201, 202), f"{answer.status} {answer.content[:500]!r}"
        body = answer.json if noun.envelope is None else answer.json[noun.envelope]
        key = body[noun.fields[noun.key].wire or noun.key] if noun.key in noun.fields else body["id"]
        row = cloud.row(noun, key)
        assert row is not None, f"a reply named {key}, which is not in SQL: {answer.content[:300]!r}"
        self.ready(cloud, row)
        return cloud.row(noun, key) or row

    def request(self, cloud: "Cloud", noun: Noun, number: int, who: str, **changes: Any) -> Any:
        from tests.contract.declared import operations

        create = next(o for o in operations() if o.noun is noun and o.kind == "create")
        content = self.body(cloud, number) | changes
        body = content if noun.envelope is None else {noun.envelope: content}
        return cloud.perform(create, who, body, {})


def the(noun: str, column: str = "id") -> Callable[["Cloud"], Any]:
    """A value of a specimen that was made before."""

    def find(cloud: "Cloud") -> Any:
        assert noun in cloud.rows, f"there is no {noun}: {cloud.broken.get(noun)}"
        return cloud.rows[noun][column]

    return find


def _person(cloud: "Cloud") -> str:
    return cloud.people["member"].user_id


def _volume_seen(cloud: "Cloud", row: Row) -> None:
    """Its host reports that it is there, with its snapshots."""
    from trilith.volume.snapshots import SNAPSHOT

    snapshots = [snapshot["id"] for snapshot in cloud.store.read(lambda tx: tx.rows(SNAPSHOT, volume_id=row["id"]))]
    seen = {"path": f"/volumes/{row['id']}", "size_gib": 1, "format": "qcow2", "error": None}
    seen |= {"snapshots": snapshots, "uploads_done": []}
    cloud.store.run(lambda tx: HOSTED["volume"].report(tx, "h1", row["id"], 1, seen, None))


def _snapshot_seen(cloud: "Cloud", row: Row) -> None:
    _volume_seen(cloud, {"id": row["volume_id"]})


def _server_seen(cloud: "Cloud", row: Row) -> None:
    """Its host reports that it runs."""

    def report(tx: Any) -> None:
        want = next(want for want in HOSTED["server"].wants(tx, "h1") if want["id"] == row["id"])
        names = ("power", "boot_epoch", "soft_reboot_epoch", "root_epoch", "vcpus", "ram_mib", "rescue_image_id")
        seen = {name: want[name] for name in names}
        seen |= {"disks": [disk["device"] for disk in want["disks"]], "volumes": [], "volume_sizes_gib": {}, "nics": []}
        seen |= {"snapshots_done": [], "snapshots_made": [], "started_at": now(), "error": None}
        HOSTED["server"].report(tx, "h1", row["id"], want["generation"], seen, None)

    cloud.store.run(report)


def _new_volume(cloud: "Cloud", number: int) -> str:
    """An available volume of its own."""
    from trilith.volume.volumes import VOLUME

    return str(SPECIMENS["volume.volume"].make(cloud, VOLUME, 1000 + number)["id"])


def _new_external(cloud: "Cloud") -> str:
    from trilith.network.networks import NETWORK

    row = cloud.store.read(lambda tx: tx.one(NETWORK, external=True))
    assert row is not None
    return str(row["id"])


def named(prefix: str, **more: Any) -> Body:
    return lambda cloud, n: {"name": f"{prefix}{n}"} | {k: f(cloud) if callable(f) else f for k, f in more.items()}


SPECIMENS: dict[str, Specimen] = {
    # identity
    "identity.domain": Specimen(named("domain", enabled=False), "admin"),
    "identity.role": Specimen(named("role"), "admin"),
    "identity.project": Specimen(named("project", domain_id="default", tags=[TAG]), "admin"),
    "identity.user": Specimen(named("user", domain_id="default", password="a-password"), "admin"),
    "identity.group": Specimen(named("group", domain_id="default"), "admin"),
    "identity.region": Specimen(lambda cloud, n: {"id": f"Region{n}"}, "admin"),
    "identity.service": Specimen(named("service", type="metering"), "admin"),
    "identity.endpoint": Specimen(
        lambda cloud, n: {
            "interface": "public",
            "service_id": cloud.rows["identity.service"]["id"],
            "url": f"http://localhost/{n}",
        },
        "admin",
    ),
    "identity.application_credential": Specimen(
        lambda cloud, n: {
            "name": f"credential{n}",
            "access_rules": [{"service": "compute", "method": "GET", "path": f"/v2.1/{n}"}],
        }
    ),
    "identity.access_rule": Specimen(
        lambda cloud, n: {"id": f"rule{n}", "user_id": _person(cloud), "path": f"/{n}", "method": "GET"}, insert=True
    ),
    # image
    "image.image": Specimen(named("image", disk_format="raw", container_format="bare", tags=[TAG])),
    "image.task": Specimen(
        lambda cloud, n: {"id": f"{SOME_ID[:-3]}{n:03}", "image_id": cloud.rows["image.image"]["id"]}, insert=True
    ),
    # network
    "network.network": Specimen(named("network", tags=[TAG])),
    "network.subnetpool": Specimen(
        lambda cloud, n: {"name": f"pool{n}", "prefixes": [f"10.{100 + n}.0.0/16"], "default_prefixlen": 24}
    ),
    "network.subnet": Specimen(
        lambda cloud, n: {
            "name": f"subnet{n}",
            "network_id": cloud.rows["network.network"]["id"],
            "ip_version": 4,
            "cidr": f"10.99.{n}.0/24",
            "tags": [TAG],
        }
    ),
    "network.security_group": Specimen(named("group", tags=[TAG])),
    "network.security_group_rule": Specimen(
        lambda cloud, n: {
            "security_group_id": cloud.rows["network.security_group"]["id"],
            "direction": "ingress",
            "protocol": "tcp",
            "port_range_min": 1000 + n,
            "port_range_max": 1000 + n,
        }
    ),
    "network.port": Specimen(named("port", network_id=the("network.network"), tags=[TAG])),
    "network.router": Specimen(named("router", tags=[TAG])),
    "network.floatingip": Specimen(
        lambda cloud, n: {"description": f"floating{n}", "floating_network_id": _new_external(cloud)}
    ),
    "network.rbac_policy": Specimen(
        lambda cloud, n: {
            "object_type": "network",
            "object_id": cloud.rows["network.network"]["id"],
            "action": "access_as_shared",
            "target_tenant": f"somebody-else-{n}",
        }
    ),
    # volume
    "volume.volume_type": Specimen(named("type", extra_specs={KEY: "v"}), "admin"),
    "volume.volume": Specimen(named("volume", size=1, metadata={KEY: "v"}), ready=_volume_seen),
    "volume.snapshot": Specimen(
        named("snapshot", volume_id=the("volume.volume"), metadata={KEY: "v"}), ready=_snapshot_seen
    ),
    "volume.transfer": Specimen(
        lambda cloud, n: {"name": f"transfer{n}", "volume_id": _new_volume(cloud, n)},
    ),
    "volume.transfer/volume-transfers": Specimen(
        lambda cloud, n: {"name": f"transfer{n}", "volume_id": _new_volume(cloud, 200 + n)},
    ),
    "volume.attachment": Specimen(lambda cloud, n: {"volume_uuid": _new_volume(cloud, 100 + n)}),
    # compute
    "compute.flavor": Specimen(named("flavor", ram=64, vcpus=1, disk=1), "admin"),
    "compute.keypair": Specimen(named("key", type="ssh", public_key=SSH_KEY)),
    "compute.server_group": Specimen(named("group", policy="anti-affinity")),
    "compute.aggregate": Specimen(named("aggregate"), "admin"),
    "compute.server": Specimen(
        named("server", flavorRef="1", imageRef=GUEST, networks="none", metadata={KEY: "v"}),
        ready=_server_seen,
    ),
    "compute.migration": Specimen(
        lambda cloud, n: {
            "id": f"{SOME_ID[:-3]}{n:03}",
            "number": 1 + n,
            "status": "finished",
            "server_id": cloud.rows["compute.server"]["id"],
            "source": "h1",
            "target": "h1",
            "created_at": now(),
        },
        insert=True,
    ),
}

# Values for what stands in braces in a path and is no column; ("operation", name) goes before ("", name). Others: an id
# of nothing.
PATHS: dict[tuple[str, str], Callable[["Cloud"], Any]] = {
    ("", "tag"): lambda cloud: TAG,
    ("", "key"): lambda cloud: KEY,
    ("", "name"): lambda cloud: "images",
    ("", "target"): lambda cloud: cloud.people["member"].project_id,
    ("", "project_id"): lambda cloud: cloud.people["member"].project_id,
    ("", "target_id"): lambda cloud: cloud.people["member"].project_id,
    ("", "actor_id"): _person,
    ("", "user_id"): _person,
    ("", "role_id"): lambda cloud: fixed_id("role:reader"),
    ("", "implied_role_id"): lambda cloud: fixed_id("role:reader"),
    ("", "member_id"): lambda cloud: cloud.people["stranger"].project_id,
    ("", "server_id"): the("compute.server"),
    ("", "request_id"): lambda cloud: "req-" + SOME_ID,
    ("", "migration_id"): the("compute.migration", "number"),
    ("", "image_id"): the("image.image"),
    ("", "flavor_id"): the("compute.flavor"),
    ("", "alias"): lambda cloud: "os-keypairs",
    ("network:GET /networking/v2.0/extensions/{alias}", "alias"): lambda cloud: "router",
    ("", "action"): lambda cloud: "enable",
    ("", "before"): lambda cloud: "2026-01-01",
    ("", "class_name"): lambda cloud: "default",
    ("", "network"): lambda cloud: "public",
    ("", "network_id"): the("network.network"),
    ("", "volume_id"): the("volume.volume"),
    ("", "port_id"): the("network.port"),
    ("", "hypervisor_id"): lambda cloud: named_id("host:h1"),
}
ROUTER = "network.routers:PUT /networking/v2.0/routers/{id}"
BODIES: dict[str, Callable[["Cloud"], Any]] = {  # of operations whose bodies cannot be derived
    "compute.aggregates:add_host": lambda cloud: {"add_host": {"host": "h1"}},
    "compute.servers:rebuild": lambda cloud: {"rebuild": {"imageRef": GUEST}},
    "compute.servers:resize": lambda cloud: {"resize": {"flavorRef": "2"}},
    "compute.servers:addSecurityGroup": lambda cloud: {"addSecurityGroup": {"name": "default"}},
    "compute.servers:POST /compute/v2.1/servers/{id}/os-volume_attachments": lambda cloud: {
        "volumeAttachment": {"volumeId": the("volume.volume")(cloud)}
    },
    "identity.regions:PUT /identity/v3/regions/{id}": lambda cloud: {"region": {"description": "d"}},
    "image.images:PATCH /image/v2/images/{id}": lambda cloud: [{"op": "replace", "path": "/name", "value": "n"}],
    f"{ROUTER}/add_router_interface": lambda cloud: {"subnet_id": the("network.subnet")(cloud)},
    f"{ROUTER}/remove_router_interface": lambda cloud: {"subnet_id": the("network.subnet")(cloud)},
    "network:PUT /networking/v2.0/quotas/{project_id}": lambda cloud: {"quota": {"port": 7}},
    "volume.volumes:os-extend": lambda cloud: {"os-extend": {"new_size": 2}},
    "volume.volumes:os-retype": lambda cloud: {"os-retype": {"new_type": "__DEFAULT__"}},
    "volume.volumes:os-reset_status": lambda cloud: {"os-reset_status": {"status": "error"}},
    "volume:PUT /volume/v3/os-quota-sets/{target}": lambda cloud: {"quota_set": {"volumes": 7}},
    "volume:PUT /volume/v3/os-quota-class-sets/{name}": lambda cloud: {"quota_class_set": {"volumes": 7}},
}
BYTES = {f"image.images:PUT /image/v2/images/{{id}}/{where}" for where in ("file", "stage")}  # not JSON
