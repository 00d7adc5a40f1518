"""What a machine reads at 169.254.169.254: the paths, by table. (Sockets: tests/drivers/test_ovn_dataplane.py.)"""

import base64
import json
from typing import Any

import pytest

from trilith.agent.metadata import OPENSTACK_VERSIONS, answer

KEY = "ssh-ed25519 AAAA someone"
DOCUMENT: dict[str, Any] = {
    "id": "0a1b2c3d-0000-4000-8000-000000000001",
    "image_id": "99887766-0000-4000-8000-000000000001",
    "metadata": {
        "uuid": "0a1b2c3d-0000-4000-8000-000000000001",
        "hostname": "web.example.org",
        "public_keys": {"mine": KEY},
        "availability_zone": "nova",
        "launch_index": 0,
    },
    "user_data": base64.b64encode(b"#!/bin/sh\n\xff").decode(),
    "network_data": {"links": [], "networks": [], "services": []},
    "vendor_data": {"a": 1},
    "public_ipv4": "172.24.4.101",
}


def asked(path: str, document: dict[str, Any] = DOCUMENT) -> str | None:
    found = answer(document, path, "10.0.0.11")
    return None if found is None else found[0].decode("latin-1")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/openstack", "\n".join(OPENSTACK_VERSIONS)),
        ("/openstack/", "\n".join(OPENSTACK_VERSIONS)),
        ("/openstack/latest/user_data", "#!/bin/sh\n\xff"),
        ("/openstack/2012-08-10/user_data", "#!/bin/sh\n\xff"),
        ("/openstack/latest/password", ""),
        ("/openstack/latest/vendor_data2.json", "{}"),
        ("/latest", "meta-data/\nuser-data"),
        ("/latest/user-data", "#!/bin/sh\n\xff"),
        ("/latest/meta-data/instance-id", "i-0a1b2c3d"),
        ("/latest/meta-data/ami-id", "ami-99887766"),
        ("/2009-04-04/meta-data/hostname", "web.example.org"),
        ("/latest/meta-data/local-ipv4", "10.0.0.11"),
        ("/latest/meta-data/public-ipv4", "172.24.4.101"),
        ("/latest/meta-data/public-keys/", "0=mine"),
        ("/latest/meta-data/public-keys/0", "openssh-key"),
        ("/latest/meta-data/public-keys/0/openssh-key", KEY),
        ("/latest/meta-data/placement/availability-zone", "nova"),
        ("/latest/meta-data/nothing", None),
        ("/latest/meta-data/hostname/deeper", None),
        ("/openstack/latest/nothing", None),
        ("/openstack/1999-01-01/meta_data.json", None),
        ("/nothing", None),
    ],
)
def test_a_path_has_its_text(path: str, text: str | None) -> None:
    assert asked(path) == text


@pytest.mark.parametrize("version", OPENSTACK_VERSIONS)
def test_meta_data_is_the_document_at_every_version(version: str) -> None:
    assert json.loads(asked(f"/openstack/{version}/meta_data.json") or "") == DOCUMENT["metadata"]
    assert json.loads(asked(f"/openstack/{version}/network_data.json") or "") == DOCUMENT["network_data"]
    assert json.loads(asked(f"/openstack/{version}/vendor_data.json") or "") == {"a": 1}


def test_folders_are_listed_with_a_slash() -> None:
    listed = (asked("/latest/meta-data/") or "").split("\n")
    assert {"public-keys/", "placement/", "block-device-mapping/", "instance-id", "local-ipv4"} <= set(listed)
    assert listed == sorted(listed)


def test_without_user_data_and_keys_there_are_no_such_paths() -> None:
    bare = DOCUMENT | {"user_data": None, "metadata": DOCUMENT["metadata"] | {"public_keys": {}}}
    assert asked("/openstack/latest/user_data", bare) is None
    assert asked("/latest/user-data", bare) is None
    assert "public-keys/" not in (asked("/latest/meta-data/", bare) or "")
    assert "user_data" not in (asked("/openstack/latest", bare) or "").split("\n")
