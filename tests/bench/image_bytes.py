"""Large bodies up and down: an image, and what its hashes alone cost."""

import hashlib
import http.client
import os
import time
from urllib.parse import urlsplit

from tests.bench.fill import Side, Started
from tests.bench.meter import Span, measured
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
    url, token = f"{api.endpoints['image']}/images/{image_id}/file", {"X-Auth-Token": api.token}
    status, span = send(side, "PUT", url, token, size_mib)
    if status != 204:
        raise Failed(f"image on {side.name}: upload answered {status}")
    speed_facts(results, side.name, "image up", size_mib, span.wall_s, span.cpu_s)
    got, span = receive(side, url, token)
    if got != size_mib * BLOCK_BYTES:
        raise Failed(f"image on {side.name}: {got} bytes came down")
    speed_facts(results, side.name, "image down", size_mib, span.wall_s, span.cpu_s)
    api.call("image", "DELETE", f"/images/{image_id}")


def send(side: Started, method: str, url: str, headers: dict[str, str], size_mib: int) -> tuple[int, Span]:
    """The status that a body of so many bytes was answered with, and what it cost."""
    parts, block = urlsplit(url), os.urandom(BLOCK_BYTES)
    told = {"Content-Type": "application/octet-stream", "Content-Length": str(size_mib * BLOCK_BYTES)}
    with measured(side.leaders) as span:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        connection.putrequest(method, parts.path)
        for name, value in (headers | told).items():
            connection.putheader(name, value)
        connection.endheaders()
        for _ in range(size_mib):
            connection.send(block)
        answer = connection.getresponse()
        answer.read()
        connection.close()
    return answer.status, span


def receive(side: Started, url: str, headers: dict[str, str]) -> tuple[int, Span]:
    """How many bytes came with status 200, and what they cost."""
    parts, buffer, got = urlsplit(url), bytearray(BLOCK_BYTES), 0
    with measured(side.leaders) as span:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        connection.request("GET", parts.path, headers=headers)
        answer = connection.getresponse()
        while count := answer.readinto(buffer):
            got += count
        connection.close()
    return got if answer.status == 200 else 0, span


def hash_alone(size_mib: int, results: Results) -> None:
    """SHA-512 and MD5, one after the other over each block: what both services compute of an image."""
    hashes, block = [hashlib.sha512(), hashlib.md5()], os.urandom(BLOCK_BYTES)
    begun, used_s = time.monotonic(), time.process_time()
    for _ in range(size_mib):
        for each in hashes:
            each.update(block)
    speed_facts(results, HASHING, "image up", size_mib, time.monotonic() - begun, time.process_time() - used_s)


def speed_facts(results: Results, side: str, what: str, size_mib: int, wall_s: float, cpu_s: float) -> None:
    results.fact(f"{what}: speed", side, size_mib / wall_s, "MiB/s")
    results.fact(f"{what}: CPU", side, cpu_s * 1024 / size_mib, "s for 1 GiB")
