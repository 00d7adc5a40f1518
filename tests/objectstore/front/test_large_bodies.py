"""Objects as large as one PUT may make them, through a real cloud's process: it holds no more of them than of small
ones. Takes minutes and 5 GiB of disk: ``pytest -m long``."""

import hashlib
import http.client
import json
import os
from collections.abc import Iterator

import pytest

from tests.clients.cloud import Cloud
from tests.cluster.conftest import free_port
from tests.objectstore.front.test_process import MIB, Account, peak_kib, workers

SMALL_MIB, LARGE_MIB = 64, 5 * 1024
MAY_GROW_KIB = 16 * 1024  # of one body at most two pieces of 256 KiB and what the server reads ahead are held
BLOCK = os.urandom(MIB - 8)
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """With one worker, so that it is the same process that has all bodies."""
    found = Cloud(port=free_port(), fake=True, workers=1)
    try:
        found.up()
        yield found
    finally:
        found.down()


@pytest.fixture(scope="module")
def account(cloud: Cloud) -> Account:
    found = Account(cloud)
    assert found("PUT", "/large")[0] == 201
    return found


def block(number: int) -> bytes:
    """Each has its number, so that one that comes twice, or elsewhere, is noticed."""
    return number.to_bytes(8, "big") + BLOCK


def upload(account: Account, name: str, size_mib: int) -> str:
    """The ETag, which is right. With a length, as clients send it."""
    connection, md5 = account.connect(), hashlib.md5()
    connection.timeout = 600
    connection.putrequest("PUT", f"{account.url.path}/large/{name}")
    connection.putheader("X-Auth-Token", account.token)
    connection.putheader("Content-Length", str(size_mib * MIB))
    connection.endheaders()
    for number in range(size_mib):
        connection.send(data := block(number))
        md5.update(data)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert (answer.status, answer.headers["etag"]) == (201, md5.hexdigest())
    return md5.hexdigest()


def download(account: Account, name: str, size_mib: int, repeats: int = 1) -> http.client.HTTPResponse:
    """The answer, whose bytes were `repeats` times those of an object of `size_mib`."""
    connection = account.connect()
    connection.timeout = 600
    connection.request("GET", f"{account.url.path}/large/{name}", headers={"X-Auth-Token": account.token})
    answer = connection.getresponse()
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == size_mib * repeats * MIB
    for number in range(size_mib * repeats):
        assert answer.read(MIB) == block(number % size_mib), number
    assert answer.read() == b""
    connection.close()
    return answer


def peak(cloud: Cloud) -> int:
    """Of the only worker, since it was started; KiB."""
    (worker,) = workers(cloud)
    return peak_kib(worker)


def test_the_largest_object_of_one_put_needs_no_more_memory_than_a_small_one(cloud: Cloud, account: Account) -> None:
    upload(account, "small", SMALL_MIB)
    download(account, "small", SMALL_MIB)
    small_kib = peak(cloud)
    etag = upload(account, "large", LARGE_MIB)
    up_kib = peak(cloud)
    assert download(account, "large", LARGE_MIB).headers["etag"] == etag
    down_kib = peak(cloud)
    print(f"\npeak memory: {small_kib} KiB after {SMALL_MIB} MiB, up {up_kib}, down {down_kib} after {LARGE_MIB} MiB")
    assert account("DELETE", "/large/large")[0] == 204
    assert down_kib - small_kib < MAY_GROW_KIB, (small_kib, up_kib, down_kib)


def test_a_large_object_of_segments_needs_no_more_memory_than_one_of_them(cloud: Cloud, account: Account) -> None:
    etag = upload(account, "segment", SMALL_MIB)
    download(account, "segment", SMALL_MIB)
    segment_kib, count = peak(cloud), LARGE_MIB // SMALL_MIB
    entry = {"path": "/large/segment", "etag": etag, "size_bytes": SMALL_MIB * MIB}
    assert account("PUT", "/large/whole?multipart-manifest=put", json.dumps([entry] * count).encode())[0] == 201
    answer = download(account, "whole", SMALL_MIB, count)
    assert answer.headers["etag"] == f'"{hashlib.md5((etag * count).encode()).hexdigest()}"'
    whole_kib = peak(cloud)
    print(f"\npeak memory: {segment_kib} KiB after one segment, {whole_kib} after {count} of them")
    assert whole_kib - segment_kib < MAY_GROW_KIB, (segment_kib, whole_kib)
