"""The documents that a guest reads about itself, over the metadata address or from its config drive."""

import base64
import hashlib
from typing import Any

Row = dict[str, Any]


def meta_data(row: Row, ports: list[Row]) -> Row:
    """``meta_data.json``."""
    key = row["key_data"]
    document: Row = {
        "uuid": row["id"],
        "name": row["name"],
        "hostname": row["hostname"],
        "launch_index": row["launch_index"],
        "availability_zone": row["zone"],
        "project_id": row["project_id"],
        "random_seed": _seed(row),
        "devices": _devices(row, ports),
        "dedicated_cpus": [],
    }
    if row["metadata"]:
        document["meta"] = row["metadata"]
    if key:
        document["public_keys"] = {key["name"]: key["public_key"]}
        document["keys"] = [{"name": key["name"], "type": key["key_type"], "data": key["public_key"]}]
    return document


def _seed(row: Row) -> str:
    """512 bytes that stay the same for one boot of one server, so that the document does not change by itself."""
    start = f"{row['id']}:{row['boot_epoch']}:{row['reservation_id']}".encode()
    return base64.b64encode(hashlib.shake_256(start).digest(512)).decode()


def _devices(row: Row, ports: list[Row]) -> list[Row]:
    """The tagged ones."""
    macs = {port["id"]: port["mac_address"] for port in ports}
    nics = [
        {"type": "nic", "bus": "none", "address": "none", "mac": macs[nic["port_id"]], "tags": [nic["tag"]]}
        for nic in row["nics"]
        if nic["tag"] and nic["port_id"] in macs
    ]
    disks = [
        {
            "type": "disk",
            "bus": "none",
            "address": "none",
            "path": f"/dev/{disk['device']}",
            "tags": [disk["tag"]],
            **({"serial": disk["volume_id"]} if disk["kind"] == "volume" else {}),
        }
        for disk in row["disks"]
        if disk["tag"]
    ]
    return nics + disks
