"""The limit: what a list costs where a handler opens a token, asks the database once, renders, and does nothing else.

The same server, database, SQL library and JSON library as Trilith's; the same documents, byte for byte equal in meaning
(`test_bare.py` compares them). What it leaves out is what the program is for: policy, scopes, versions, filters, paging
links, errors, logs, and whether the token still holds. One query gives the rows; where the document names things that
lie in JSON columns, a second one gives their names.

    TRILITH_STATE=DIR granian --interface wsgi tests.bench.bare:app --factory      over the cloud of that directory
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import sqlalchemy as sa

from trilith.compute.servers import SERVER
from trilith.identity.projects import PROJECT
from trilith.identity.tokens import keys
from trilith.image.images import IMAGE
from trilith.kernel.declare import Noun
from trilith.kernel.store import Store, Tx
from trilith.network.floatingips import FLOATING_IP
from trilith.network.networks import NETWORK
from trilith.network.ports import PORT
from trilith.network.rbac_policies import POLICY
from trilith.network.security_groups import SECURITY_GROUP
from trilith.network.subnets import SUBNET

Row = dict[str, Any]
encode = msgspec.json.encode
ROWS = sa.bindparam("rows")
PROJECT_ID = sa.bindparam("project_id")

_s, _p, _n, _f = SERVER.c, PORT.c, NETWORK.c, FLOATING_IP.c


def _columns(noun: Noun, names: str) -> list[Any]:
    return [noun.c[name] for name in names.split()]


_SERVER_COLUMNS = _columns(
    SERVER,
    "id name status project_id user_id metadata host image_id flavor created_at updated_at access_ipv4 "
    "access_ipv6 disk_config zone config_drive key_name launched_at terminated_at task_state vm_state power_state "
    "disks locked description tags trusted_image_certificates locked_reason",
)
_PAGE = (
    sa.select(*_SERVER_COLUMNS)
    .where(_s.deleted_at.is_(None), _s.project_id == PROJECT_ID)
    .order_by(_s.created_at.desc(), _s.id.desc())
    .limit(ROWS)
    .subquery()
)
_ONE = sa.select(*_SERVER_COLUMNS).where(_s.deleted_at.is_(None), _s.id == sa.bindparam("id")).subquery()


def _with_addresses(page: sa.Subquery) -> sa.Select[Any]:
    source = page.outerjoin(PORT.table, _p.machine_id == page.c.id)
    source = source.outerjoin(NETWORK.table, _n.id == _p.network_id).outerjoin(FLOATING_IP.table, _f.port_id == _p.id)
    more = [_n.name, _p.mac_address, _p.fixed_ips, _p.security_groups, _f.fixed_ip_address, _f.floating_ip_address]
    return (
        sa.select(*page.c, *(column.label(f"more_{n}") for n, column in enumerate(more)))
        .select_from(source)
        .order_by(page.c.created_at.desc(), page.c.id.desc())
    )


SERVERS, ONE_SERVER = _with_addresses(_PAGE), _with_addresses(_ONE)
GROUPS = sa.select(SECURITY_GROUP.c.id, SECURITY_GROUP.c.name).where(SECURITY_GROUP.c.project_id == PROJECT_ID)


def _seconds(moment: str | None) -> str | None:
    return f"{moment[:19]}Z" if moment else None


def _servers(tx: Tx, query: sa.Select[Any], values: Row, base: str) -> list[Row]:
    names = {row[0]: row[1] for row in tx.connection.execute(GROUPS, values)}
    found: dict[str, Row] = {}
    for row in tx.connection.execute(query, values):
        (id_, name, status, project_id, user_id, metadata, host, image_id, flavor, created_at, updated_at, ipv4, ipv6,
         disk_config, zone, config_drive, key_name, launched_at, terminated_at, task_state, vm_state, power_state,
         disks, locked, description, tags, certificates, locked_reason,
         network, mac, fixed_ips, groups, fixed_address, floating_address) = row  # fmt: skip
        document = found.get(id_)
        if document is None:
            image = f"{base}/compute/images/{image_id}"
            document = found[id_] = {
                "id": id_,
                "name": name,
                "status": status,
                "tenant_id": project_id,
                "user_id": user_id,
                "metadata": metadata,
                "hostId": hashlib.sha224(f"{project_id}{host}".encode()).hexdigest() if host else "",
                "image": {"id": image_id, "links": [{"rel": "bookmark", "href": image}]} if image_id else "",
                "flavor": {
                    "vcpus": flavor["vcpus"],
                    "ram": flavor["ram_mib"],
                    "disk": flavor["disk_gib"],
                    "ephemeral": flavor["ephemeral_gib"],
                    "swap": flavor["swap_mib"],
                    "original_name": flavor["name"],
                    "extra_specs": flavor["extra_specs"],
                },
                "created": _seconds(created_at),
                "updated": _seconds(updated_at or created_at),
                "addresses": {},
                "accessIPv4": ipv4,
                "accessIPv6": ipv6,
                "links": [
                    {"rel": "self", "href": f"{base}/compute/v2.1/servers/{id_}"},
                    {"rel": "bookmark", "href": f"{base}/compute/servers/{id_}"},
                ],
                "OS-DCF:diskConfig": disk_config,
                "progress": 100 if task_state is None else 0,
                "OS-EXT-AZ:availability_zone": zone or "",
                "config_drive": "True" if config_drive else "",
                "key_name": key_name,
                "OS-SRV-USG:launched_at": launched_at,
                "OS-SRV-USG:terminated_at": terminated_at,
                "security_groups": [],
                "OS-EXT-STS:task_state": task_state,
                "OS-EXT-STS:vm_state": vm_state,
                "OS-EXT-STS:power_state": power_state,
                "os-extended-volumes:volumes_attached": [
                    {"id": disk["volume_id"], "delete_on_termination": disk["delete_on_termination"]}
                    for disk in disks
                    if disk["kind"] == "volume"
                ],
                "locked": locked,
                "description": description,
                "tags": tags,
                "trusted_image_certificates": certificates,
                "locked_reason": locked_reason,
            }
        if network is None:
            continue
        document["security_groups"] += [{"name": names[group]} for group in groups or []]
        for fixed in fixed_ips:
            addresses = document["addresses"].setdefault(network, [])
            addresses.append(_address(mac, fixed["ip_address"], "fixed"))
            if floating_address is not None and fixed_address == fixed["ip_address"]:
                addresses.append(_address(mac, floating_address, "floating"))
    return list(found.values())


def _address(mac: str, address: str, kind: str) -> Row:
    version = 6 if ":" in address else 4
    return {"addr": address, "version": version, "OS-EXT-IPS:type": kind, "OS-EXT-IPS-MAC:mac_addr": mac}


def servers(tx: Tx, values: Row, base: str) -> Row:
    return {"servers": _servers(tx, SERVERS, values, base)}


def server(tx: Tx, values: Row, base: str) -> Row:
    found = _servers(tx, ONE_SERVER, values, base)[0]
    return {"server": found | {"server_groups": []}}


PORTS = (
    sa.select(
        *_columns(
            PORT,
            "id name description project_id network_id mac_address admin_state_up fixed_ips device_id "
            "device_owner status port_security_enabled security_groups allowed_address_pairs extra_dhcp_opts "
            "binding_vnic_type dns_name generation created_at updated_at tags",
        )
    )
    .where(_p.project_id == PROJECT_ID)
    .order_by(_p.id)
    .limit(ROWS)
)


def ports(tx: Tx, values: Row, base: str) -> Row:
    found = []
    for row in tx.connection.execute(PORTS, values):
        (id_, name, description, project_id, network_id, mac, up, fixed_ips, device_id, device_owner, status, secure,
         groups, pairs, options, vnic, dns_name, generation, created_at, updated_at, tags) = row  # fmt: skip
        names = []
        for fixed in fixed_ips:
            host = dns_name or f"host-{fixed['ip_address'].replace('.', '-').replace(':', '-')}"
            full = f"{host}.openstacklocal."
            names.append({"ip_address": fixed["ip_address"], "hostname": host, "fqdn": full})
        found.append(
            {
                "id": id_,
                "name": name,
                "description": description,
                "project_id": project_id,
                "tenant_id": project_id,
                "network_id": network_id,
                "mac_address": mac,
                "admin_state_up": up,
                "fixed_ips": fixed_ips,
                "device_id": device_id,
                "device_owner": device_owner,
                "status": status,
                "port_security_enabled": secure,
                "security_groups": groups,
                "allowed_address_pairs": pairs,
                "extra_dhcp_opts": options,
                "binding:vnic_type": vnic,
                "dns_name": dns_name,
                "dns_assignment": names,
                "ip_allocation": "immediate" if fixed_ips else "none",
                "revision_number": generation - 1,
                "created_at": _seconds(created_at),
                "updated_at": _seconds(updated_at or created_at),
                "tags": tags,
            }
        )
    return {"ports": found}


_NETWORKS = (
    sa.select(
        *_columns(
            NETWORK,
            "id name description project_id admin_state_up mtu external is_default port_security_enabled "
            "dns_domain availability_zone_hints generation created_at updated_at tags",
        )
    )
    .where(_n.project_id == PROJECT_ID)
    .order_by(_n.id)
    .limit(ROWS)
    .subquery()
)
NETWORKS = (
    sa.select(*_NETWORKS.c, SUBNET.c.id.label("subnet_id"), POLICY.c.id.label("policy_id"))
    .select_from(
        _NETWORKS.outerjoin(SUBNET.table, SUBNET.c.network_id == _NETWORKS.c.id).outerjoin(
            POLICY.table,
            sa.and_(
                POLICY.c.object_id == _NETWORKS.c.id,
                POLICY.c.action == "access_as_shared",
                POLICY.c.target_project.in_(["*", PROJECT_ID]),
            ),
        )
    )
    .order_by(_NETWORKS.c.id, SUBNET.c.created_at)
)


def networks(tx: Tx, values: Row, base: str) -> Row:
    found: dict[str, Row] = {}
    for row in tx.connection.execute(NETWORKS, values):
        (id_, name, description, project_id, up, mtu, external, is_default, secure, dns_domain, zones, generation,
         created_at, updated_at, tags, subnet_id, policy_id) = row  # fmt: skip
        if id_ not in found:
            found[id_] = {
                "id": id_,
                "name": name,
                "description": description,
                "project_id": project_id,
                "tenant_id": project_id,
                "admin_state_up": up,
                "mtu": mtu,
                "status": "ACTIVE",
                "subnets": [],
                "shared": policy_id is not None,
                "router:external": external,
                "is_default": is_default,
                "port_security_enabled": secure,
                "dns_domain": dns_domain,
                "availability_zone_hints": zones,
                "availability_zones": ["nova"],
                "ipv4_address_scope": None,
                "ipv6_address_scope": None,
                "revision_number": generation - 1,
                "created_at": _seconds(created_at),
                "updated_at": _seconds(updated_at or created_at),
                "tags": tags,
            }
        if subnet_id is not None:
            found[id_]["subnets"].append(subnet_id)
    return {"networks": list(found.values())}


PROJECTS = sa.select(
    *_columns(PROJECT, "extra id name domain_id parent_id is_domain description enabled tags options")
).order_by(PROJECT.c.created_at.desc(), PROJECT.c.id.desc())


def projects(tx: Tx, values: Row, base: str) -> Row:
    path = f"{base}/identity/v3/projects"
    found = [
        {
            **(extra or {}),
            "id": id_,
            "name": name,
            "domain_id": domain_id,
            "parent_id": parent_id,
            "is_domain": is_domain,
            "description": description,
            "enabled": enabled,
            "tags": tags,
            "options": options,
            "links": {"self": f"{path}/{id_}"},
        }
        for extra, id_, name, domain_id, parent_id, is_domain, description, enabled, tags, options in (
            tx.connection.execute(PROJECTS)
        )
    ]
    return {"projects": found, "links": {"next": None, "self": path, "previous": None}}


IMAGES = (
    sa.select(
        *_columns(
            IMAGE,
            "extra id name status visibility protected os_hidden project_id disk_format container_format "
            "min_disk_gib min_ram_mib size_bytes virtual_size_bytes checksum os_hash_algo os_hash_value tags "
            "created_at updated_at",
        )
    )
    .where(IMAGE.c.visibility == "public", IMAGE.c.os_hidden.is_(False))
    .order_by(IMAGE.c.created_at.desc(), IMAGE.c.id.desc())
    .limit(ROWS)
)


def images(tx: Tx, values: Row, base: str) -> Row:
    found = []
    for row in tx.connection.execute(IMAGES, values):
        (extra, id_, name, status, visibility, protected, hidden, owner, disk, container, min_disk, min_ram, size,
         virtual, checksum, algo, value, tags, created_at, updated_at) = row  # fmt: skip
        found.append(
            {
                **(extra or {}),
                "id": id_,
                "name": name,
                "status": status,
                "visibility": visibility,
                "protected": protected,
                "os_hidden": hidden,
                "owner": owner,
                "disk_format": disk,
                "container_format": container,
                "min_disk": min_disk,
                "min_ram": min_ram,
                "size": size,
                "virtual_size": virtual,
                "checksum": checksum,
                "os_hash_algo": algo,
                "os_hash_value": value,
                "tags": tags,
                "created_at": _seconds(created_at),
                "updated_at": _seconds(updated_at or created_at),
                "self": f"/v2/images/{id_}",
                "file": f"/v2/images/{id_}/file",
                "schema": "/v2/schemas/image",
            }
        )
    return {"images": found, "first": "/v2/images", "schema": "/v2/schemas/images"}


Handler = Callable[[Tx, Row, str], Row]
HANDLERS: dict[str, Handler] = {
    "/compute/v2.1/servers/detail": servers,
    "/networking/v2.0/ports": ports,
    "/networking/v2.0/networks": networks,
    "/identity/v3/projects": projects,
    "/image/v2/images": images,
}


class Bare:
    """A WSGI application."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, environ: Row, start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        values: Row = {"rows": 25 if path.startswith("/image/") else 1000} | dict(
            parse_qsl(environ.get("QUERY_STRING", ""))
        )
        values["rows"] = int(values.pop("limit", values["rows"]))
        if (handler := HANDLERS.get(path)) is None:
            handler, values["id"] = server, path.rpartition("/")[2]
        base = f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}"

        def work(tx: Tx) -> bytes:
            letter = keys().open(tx, environ["HTTP_X_AUTH_TOKEN"])
            assert letter is not None
            return encode(handler(tx, values | {"project_id": letter.scope_id}, base))

        content = self.store.read(work)
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
        return [content]


def app() -> Bare:
    """Over the cloud of ``TRILITH_STATE``."""
    from trilith.cluster.api import open_store
    from trilith.cluster.state import State
    from trilith.identity.tokens import use_keys

    state = State(os.environ["TRILITH_STATE"])
    use_keys(state.secret("cluster-key"))
    return Bare(open_store(state, state.settings()))
