"""A large image up and down, and what its hashes alone cost."""

import hashlib
import http.client
import os
import time
from urllib.parse import urlsplit

from tests.bench.fill import Side
from tests.bench.meter import measured
from tests.bench.results import Results
from tests.bench.sessions import Failed

BLOCK_BYTES = 1 << 20
TIMEOUT_S = 600.0
HASHING = "hashing alone"


def move_image(side: Side, size_mib: int, results: Results) -> None:
    """Adds facts of both ways."""
    api = side.api
    new = {"name": "large", "disk_format": "raw", "container_format": "bare"}
    image_id = api.call("image", "POST", "/images", new)["id"]
    parts, block = urlsplit(f"{api.endpoints['image']}/images/{image_id}/file"), os.urandom(BLOCK_BYTES)
    with measured(side.leaders) as span:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        connection.putrequest("PUT", parts.path)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_mib * BLOCK_BYTES)}
        for name, value in ({"X-Auth-Token": api.token} | headers).items():
            connection.putheader(name, value)
        connection.endheaders()
        for _ in range(size_mib):
            connection.send(block)
        answer = connection.getresponse()
        answer.read()
        connection.close()
    if answer.status != 204:
        raise Failed(f"image on {side.name}: upload answered {answer.status}")
    _facts(results, side.name, "image up", size_mib, span.wall_s, span.cpu_s)
    with measured(side.leaders) as span:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        connection.request("GET", parts.path, headers={"X-Auth-Token": api.token})
        answer = connection.getresponse()
        buffer, got = bytearray(BLOCK_BYTES), 0
        while count := answer.readinto(buffer):
            got += count
        connection.close()
    if got != size_mib * BLOCK_BYTES:
        raise Failed(f"image on {side.name}: {got} bytes came down with {answer.status}")
    _facts(results, side.name, "image down", size_mib, span.wall_s, span.cpu_s)
    api.call("image", "DELETE", f"/images/{image_id}")


def hash_alone(size_mib: int, results: Results) -> None:
    """SHA-512 and MD5, one after the other over each block: what both services compute of an image."""
    hashes, block = [hashlib.sha512(), hashlib.md5()], os.urandom(BLOCK_BYTES)
    begun, used_s = time.monotonic(), time.process_time()
    for _ in range(size_mib):
        for each in hashes:
            each.update(block)
    _facts(results, HASHING, "image up", size_mib, time.monotonic() - begun, time.process_time() - used_s)


def _facts(results: Results, side: str, what: str, size_mib: int, wall_s: float, cpu_s: float) -> None:
    results.fact(f"{what}: speed", side, size_mib / wall_s, "MiB/s")
    results.fact(f"{what}: CPU", side, cpu_s * 1024 / size_mib, "s for 1 GiB")
