"""Extensions, as the oldest clients ask for them; and small views of a server."""

from typing import Any

from trilith.compute.server_actions import must
from trilith.compute.servers import SERVER
from trilith.compute.versions import COMPUTE
from trilith.kernel.errors import Fault
from trilith.kernel.request import Ctx
from trilith.kernel.versions import v

Row = dict[str, Any]
STANDARD_SINCE = v("2.48")
OFFERED = """
    NMN OS-DCF OS-EXT-AZ OS-EXT-IPS OS-EXT-IPS-MAC OS-EXT-SRV-ATTR OS-EXT-STS OS-FLV-DISABLED OS-FLV-EXT-DATA
    OS-SCH-HNT OS-SRV-USG os-admin-actions os-admin-password os-aggregates os-attach-interfaces os-availability-zone
    os-block-device-mapping-v2-boot os-config-drive os-console-output os-consoles os-create-backup os-deferred-delete
    os-extended-server-attributes os-extended-status os-extended-volumes os-flavor-access os-flavor-extra-specs
    os-flavor-manage os-flavor-rxtx os-floating-ip-pools os-floating-ips os-hosts os-hypervisors os-instance-actions
    os-keypairs os-lock-server os-migrations os-multiple-create os-networks os-pause-server os-quota-class-sets
    os-quota-sets os-rescue os-security-groups os-server-diagnostics os-server-external-events os-server-groups
    os-server-password os-services os-simple-tenant-usage os-suspend-server os-tenant-networks os-used-limits
    os-user-data os-volumes
"""
ALIASES = OFFERED.split()


def _extension(alias: str) -> Row:
    return {
        "alias": alias,
        "name": "".join(part.capitalize() for part in alias[3:].split("-")) if alias.startswith("os-") else alias,
        "description": "",
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
        "updated": "2014-12-03T00:00:00Z",
        "links": [],
    }


@COMPUTE.route("GET", "/extensions", "anyone")
def list_extensions(ctx: Ctx) -> Row:
    return {"extensions": [_extension(alias) for alias in ALIASES]}


@COMPUTE.route("GET", "/extensions/{alias}", "anyone")
def show_extension(ctx: Ctx) -> Row:
    if ctx.path["alias"] not in ALIASES:
        raise Fault("missing", "The resource could not be found.")
    return {"extension": _extension(ctx.path["alias"])}


@SERVER.route("GET", "/{id}/os-server-password", "reader")
def show_password(ctx: Ctx, row: Row) -> Row:
    """Guests that leave an encrypted password with the metadata service would find it here; none is kept."""
    return {"password": ""}


@SERVER.route("DELETE", "/{id}/os-server-password", "member", status=204)
def drop_password(ctx: Ctx, row: Row) -> None:
    """There is none."""


@SERVER.route("GET", "/{id}/diagnostics", "admin", until=v("2.47"))
def old_diagnostics(ctx: Ctx, row: Row) -> Row:
    """A flat object of whatever the hypervisor knows; memory in KiB."""
    must(ctx, row, "get_diagnostics", "active", "rescued", "stopped", "paused", "suspended")
    return {"memory": row["ram_mib"] * 1024, "vcpus": row["vcpus"]}


@SERVER.route("GET", "/{id}/diagnostics", "admin", since=STANDARD_SINCE)
def diagnostics(ctx: Ctx, row: Row) -> Row:
    """What the host last reported; what it does not measure is null."""
    from trilith.network.ports import ports_of

    seen = row["seen"] or {}
    unknown = [f"{way}_{what}" for way in ("rx", "tx") for what in ("drop", "errors", "octets", "packets", "rate")]
    disk = dict.fromkeys(("errors_count", "read_bytes", "read_requests", "write_bytes", "write_requests"))
    nics = [{"mac_address": p["mac_address"]} | dict.fromkeys(unknown) for p in ports_of(ctx.tx, [row["id"]])]
    states = {"stopped": "shutdown"}
    return {
        "state": states.get(seen.get("power", ""), seen.get("power", "pending")),
        "driver": "libvirt",
        "hypervisor": "qemu",
        "hypervisor_os": "linux",
        "uptime": None,
        "config_drive": row["config_drive"],
        "num_cpus": row["vcpus"],
        "num_nics": len(nics),
        "num_disks": len(row["disks"]),
        "cpu_details": [{"id": n, "time": None, "utilisation": None} for n in range(row["vcpus"])],
        "nic_details": nics,
        "disk_details": [dict(disk) for _ in row["disks"]],
        "memory_details": {"maximum": row["ram_mib"], "used": None},
    }


@SERVER.route("GET", "/{id}/topology", "reader", since=v("2.78"))
def topology(ctx: Ctx, row: Row) -> Row:
    """Servers have no NUMA topology here."""
    return {"nodes": [], "pagesize_kb": None}
