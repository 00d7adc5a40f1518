"""Who may do what in Ceph, and with which key.

Every key of a Ceph of our own follows from one secret that only the deploying machine and controllers have. So a host
gets nothing but its own key, at deploy, before there is any Ceph; and whoever registers the keys can do it again.

    secrets/ceph              on controllers: what all keys follow from
    secrets/ceph-control      on controllers: the key of the user with which the controller works
    secrets/ceph-host         on compute and storage hosts: the key of that host's user
    secrets/ceph-bootstrap    on storage hosts: the key with which a new OSD registers itself
    secrets/ceph-id           there, too: which cluster it is, which is no secret
"""

import base64
import hashlib
import hmac
import re
import struct
import uuid
from pathlib import Path

from trilith.cluster.cluster_file import Ceph as CephFile
from trilith.cluster.cluster_file import ClusterFile, Host
from trilith.cluster.state import Problem, Settings, State
from trilith.drivers.ceph import Access

CONTROL_USER = "trilith-control"
KEY_KIND = 1  # AES
MADE_AT_S = 1_700_000_000  # of keys; nobody reads it
SECRETS = ("ceph-control", "ceph-host", "ceph-bootstrap", "ceph-id")
Caps = dict[str, str]


def host_user(host: str) -> str:
    return f"trilith-host-{host}"


def derived_key(secret: str, entity: str) -> str:
    """The key of an entity (``client.admin``, ``mon.``), in Ceph's form."""
    digest = hmac.digest(secret.encode(), f"ceph key {entity}".encode(), "sha256")[:16]
    return base64.b64encode(struct.pack("<HIIH", KEY_KIND, MADE_AT_S, 0, len(digest)) + digest).decode()


def cluster_id(secret: str) -> str:
    """Ceph's ``fsid``, which is no secret."""
    return str(uuid.UUID(bytes=hashlib.sha256(f"ceph fsid {secret}".encode()).digest()[:16], version=4))


def users(cluster: ClusterFile) -> dict[str, Caps]:
    """Every client of a Ceph of our own, by entity, and what it may do: no more than it needs."""
    assert cluster.ceph is not None
    images, volumes, machines = cluster.ceph.pools
    full = ", ".join(f"profile rbd pool={pool}" for pool in (images, volumes, machines))
    full += f", allow rwx pool={cluster.ceph.objects_pool}"
    host = f"profile rbd pool={volumes}, profile rbd pool={machines}, profile rbd-read-only pool={images}"
    fence = 'profile rbd, allow r, allow command "osd blocklist"'
    found = {f"client.{CONTROL_USER}": {"mon": fence, "mgr": "profile rbd", "osd": full}}
    for each in cluster.with_role("compute"):
        found[f"client.{host_user(each.name)}"] = {"mon": "profile rbd", "mgr": "profile rbd", "osd": host}
    found["client.bootstrap-osd"] = {"mon": "profile bootstrap-osd"}
    return found


def host_secrets(cluster: ClusterFile, host: Host, secret: str) -> dict[str, str]:
    """What deploy brings to a host, by name. Raises `Problem` when the keyring of an existing Ceph cannot be read."""
    ceph = cluster.ceph
    if ceph is None:
        return {}
    own = _existing_key(ceph) if ceph.existing else None
    found = {}
    if "control" in host.roles:
        found["ceph-control"] = own or derived_key(secret, f"client.{CONTROL_USER}")
    if "compute" in host.roles:
        found["ceph-host"] = own or derived_key(secret, f"client.{host_user(host.name)}")
    if "storage" in host.roles and own is None:
        found["ceph-bootstrap"] = derived_key(secret, "client.bootstrap-osd")
        found["ceph-id"] = cluster_id(secret)
    return found


def access(state: State, settings: Settings, control: bool) -> Access | None:
    """How this host's controller (`control`) or agent reaches Ceph; None where the cluster file has none."""
    ceph = settings.cluster.ceph
    if ceph is None:
        return None
    key_file = state.secrets / ("ceph-control" if control else "ceph-host")
    if ceph.existing is not None:
        return Access(tuple(ceph.existing.monitors), ceph.existing.user.removeprefix("client."), key_file)
    monitors = tuple(host.storage for host in settings.controllers)
    return Access(monitors, CONTROL_USER if control else host_user(settings.host), key_file)


def _existing_key(ceph: CephFile) -> str:
    assert ceph.existing is not None
    path, user = Path(ceph.existing.keyring).expanduser(), ceph.existing.user.removeprefix("client.")
    try:
        text = path.read_text()
    except OSError as error:
        raise Problem(f"The keyring {path} of the cluster file's `ceph` cannot be read: {error.strerror}.") from error
    section = re.search(rf"\[client\.{re.escape(user)}\](.*?)(?=^\[|\Z)", text, re.DOTALL | re.MULTILINE)
    key = re.search(r"^\s*key\s*=\s*(\S+)", section[1] if section else "", re.MULTILINE)
    if key is None:
        raise Problem(f"The keyring {path} has no key of client.{user}.")
    return key[1]
