"""The first rows of a cloud: domain, roles, projects, users, catalogue. Run at every start; adds what is missing."""

import functools
import itertools
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from trilith.identity import relations
from trilith.identity.domains import DOMAIN
from trilith.identity.endpoints import BASE, ENDPOINT, OBJECTS
from trilith.identity.passwords import hash_password
from trilith.identity.projects import PROJECT
from trilith.identity.regions import REGION
from trilith.identity.roles import GLOBAL, ROLE
from trilith.identity.services import SERVICE
from trilith.identity.users import USER
from trilith.kernel.declare import SERVICES
from trilith.kernel.store import METADATA, Tx

DEFAULT_DOMAIN = "default"
ROLES = ("admin", "manager", "member", "reader")  # each implies the next
CATALOG = (  # type, name, path below the cloud's base URL
    ("identity", "keystone", "/identity"),
    ("image", "glance", "/image"),
    ("compute", "nova", "/compute/v2.1"),
    ("placement", "placement", "/placement"),
    ("network", "neutron", "/networking"),
    ("block-storage", "cinder", "/volume/v3"),
    ("volumev3", "cinderv3", "/volume/v3"),  # the same under the name that older clients ask for
)
OBJECT_STORE = ("object-store", "swift", "/object-store/v1/AUTH_$(project_id)s")  # where the cloud has one


MADE = sa.Table(
    "made_once",
    METADATA,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("made_at_s", sa.Double(), nullable=False),
)


def was_made(tx: Tx, name: str) -> bool:
    """Whether this was given to the cloud once: what an operator deletes later stays deleted."""
    return tx.scalar(sa.select(MADE.c.name).where(MADE.c.name == name)) is not None


def make_once(tx: Tx, name: str) -> None:
    if not was_made(tx, name):
        tx.execute(MADE.insert().values(name=name, made_at_s=time.time()))


def fixed_id(name: str) -> str:
    """Every controller gives the same thing the same id, so that two that start at once make one row."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"trilith:{name}").hex


def seed(
    tx: Tx,
    *,
    admin_password: str,
    demo_password: str,
    base_url: str = BASE,
    region: str = "RegionOne",
    objects: bool = False,
) -> None:
    """People and projects are made with the domain, once: what an operator deletes later stays deleted. `base_url`
    of the default means: as the client came. `objects`: whether there is an object store."""
    if tx.one(DOMAIN, id=DEFAULT_DOMAIN) is None:
        tx.insert(DOMAIN, {"id": DEFAULT_DOMAIN, "name": "Default", "description": "The default domain"})
        _seed_roles(tx)
        _seed_people(tx, admin_password, demo_password)
    _seed_catalog(tx, base_url, region)
    if objects and not tx.one(SERVICE, type=OBJECT_STORE[0]):
        _seed_service(tx, OBJECTS, region, *OBJECT_STORE)


def _seed_roles(tx: Tx) -> None:
    for name in (*ROLES, "service"):
        tx.insert(ROLE, {"id": fixed_id(f"role:{name}"), "name": name, "domain_id": GLOBAL})
    for prior, implied in itertools.pairwise(ROLES):
        ids = {"prior_role_id": fixed_id(f"role:{prior}"), "implied_role_id": fixed_id(f"role:{implied}")}
        relations.add(tx, relations.IMPLICATION, **ids)


def _seed_people(tx: Tx, admin_password: str, demo_password: str) -> None:
    for name in ("admin", "service", "demo"):
        new = {"id": fixed_id(f"project:{name}"), "name": name, "domain_id": DEFAULT_DOMAIN}
        tx.insert(PROJECT, new | {"parent_id": DEFAULT_DOMAIN, "ancestors": [DEFAULT_DOMAIN]})
    for name, hashed in zip(("admin", "demo"), _hashes(admin_password, demo_password), strict=True):
        new = {"id": fixed_id(f"user:{name}"), "name": name, "domain_id": DEFAULT_DOMAIN}
        tx.insert(USER, new | {"password_hash": hashed})
    admin, demo = fixed_id("user:admin"), fixed_id("user:demo")
    _grant(tx, admin, "admin", "project", fixed_id("project:admin"))
    _grant(tx, admin, "admin", "domain", DEFAULT_DOMAIN)
    _grant(tx, admin, "admin", "system", relations.SYSTEM)
    _grant(tx, demo, "member", "project", fixed_id("project:demo"))


@functools.cache
def _hashes(*passwords: str) -> list[str]:
    """The slowest part of a first start. Kept, because a database may end a transaction that idles meanwhile; the next
    one is quick."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(hash_password, passwords))


def _grant(tx: Tx, user_id: str, role: str, target: str, target_id: str) -> None:
    row: dict[str, Any] = {"actor_id": user_id, "actor": "user", "target": target, "target_id": target_id}
    relations.add(tx, relations.ASSIGNMENT, **row, role_id=fixed_id(f"role:{role}"), inherited=False)


def _seed_catalog(tx: Tx, base_url: str, region: str) -> None:
    """Each service that this program has, unless its type stands there already."""
    if tx.one(REGION, id=region) is None:
        tx.insert(REGION, {"id": region})
    prefixes = [service.prefix for service in SERVICES]
    for type_, name, path in CATALOG:
        root = "/" + path.split("/")[1]
        if tx.one(SERVICE, type=type_) or not any(f"{prefix}/".startswith(f"{root}/") for prefix in prefixes):
            continue
        _seed_service(tx, base_url, region, type_, name, path)


def _seed_service(tx: Tx, base_url: str, region: str, type_: str, name: str, path: str) -> None:
    service = tx.insert(SERVICE, {"id": fixed_id(f"service:{type_}"), "type": type_, "name": name})
    for interface in ("public", "internal", "admin"):
        new = {"id": fixed_id(f"endpoint:{type_}:{interface}"), "service_id": service["id"]}
        tx.insert(ENDPOINT, new | {"interface": interface, "region_id": region, "url": base_url + path})
