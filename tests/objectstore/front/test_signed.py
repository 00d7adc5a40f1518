"""What needs no token: signed URLs and forms, and containers as web sites. And many things with one request."""

import base64
import hmac
import io
import json
import tarfile
import time

import pytest

from tests.client import READER
from tests.objectstore.front.client import BASE, CUT, Objects

KEY = "secret"


def signature(*lines: object, key: str = KEY, digest: str = "sha256") -> str:
    return hmac.new(key.encode(), "\n".join(map(str, lines)).encode(), digest).hexdigest()


@pytest.fixture
def shop(objects: Objects) -> Objects:
    objects.post("", x_account_meta_temp_url_key=KEY)
    objects.put("/c", x_container_meta_temp_url_key_2="other")
    objects.put("/c/o", b"hello", x_object_meta_secret="1", x_object_meta_public_a="2")
    return objects


def url(path: str, sign: str, end: object, more: str = "") -> str:
    return f"{path}?temp_url_sig={sign}&temp_url_expires={end}{more}"


def test_temporary_urls(shop: Objects) -> None:
    end = int(time.time()) + 100
    for path in ("/v1/AUTH_p1/c/o", f"{BASE}/c/o"):
        for key in (KEY, "other"):
            good = url("/c/o", signature("GET", end, path, key=key), end)
            assert shop.get(good, None).content == b"hello"
            assert shop.head(good, None).status == 200
    found = shop.get(good, None).headers
    assert ("x-object-meta-secret" in found, found["x-object-meta-public-a"]) == (False, "2")
    assert found["content-disposition"] == "attachment; filename=\"o\"; filename*=UTF-8''o"
    assert shop.get(good + "&inline", None).headers["content-disposition"] == "inline"
    named = shop.get(good + "&filename=a%20b%22", None).headers["content-disposition"]
    assert named == "attachment; filename=\"a b%22\"; filename*=UTF-8''a%20b%22"
    encoded = base64.urlsafe_b64encode(bytes.fromhex(signature("GET", end, "/v1/AUTH_p1/c/o"))).decode()
    assert shop.get(url("/c/o", f"sha256:{encoded}", end), None).status == 200
    sha512 = signature("GET", end, "/v1/AUTH_p1/c/o", digest="sha512")
    assert shop.get(url("/c/o", sha512, end), None).status == 200
    # replayed for another object, another method, another time, another range of addresses; forged; too old
    for bad in (
        url("/c/p", signature("GET", end, "/v1/AUTH_p1/c/o"), end),
        url("/c/o", signature("PUT", end, "/v1/AUTH_p1/c/o"), end),
        url("/c/o", signature("GET", end, "/v1/AUTH_p1/c/o"), end + 1),
        url("/c/o", signature("GET", end, "/v1/AUTH_p1/c/o"), end, "&temp_url_ip_range=192.0.2.0/24"),
        url("/c/o", signature("GET", end, "/v1/AUTH_p1/c/o", key="guess"), end),
        url("/c/o", signature("GET", end, "/v1/AUTH_p1/c/o", digest="sha1"), end),
        url("/c/o", signature("GET", 1, "/v1/AUTH_p1/c/o"), 1),
        url("/c/o", "é", end),
        url("/c/o", "0" * 64, "soon"),
        "/c/o?temp_url_sig=1",
        url("/c", signature("GET", end, "/v1/AUTH_p1/c/"), end),
    ):
        refused = shop.get(bad, None)
        assert (refused.status, refused.content) == (401, b"401 Unauthorized: Temp URL invalid\n"), bad
    ranged = signature("ip=192.0.2.0/24", "GET", end, "/v1/AUTH_p1/c/o")
    assert shop.get(url("/c/o", ranged, end, "&temp_url_ip_range=192.0.2.0/24"), None).status == 200
    other = signature("ip=10.0.0.0/8", "GET", end, "/v1/AUTH_p1/c/o")
    assert shop.get(url("/c/o", other, end, "&temp_url_ip_range=10.0.0.0/8"), None).status == 401


def test_temporary_urls_that_write(shop: Objects) -> None:
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 100))
    end_s = int(time.mktime(time.strptime(end, "%Y-%m-%dT%H:%M:%SZ"))) - time.timezone
    good = url("/c/new", signature("PUT", end_s, "/v1/AUTH_p1/c/new"), end)
    assert shop.put(good, b"new", None).status == 201
    assert shop.put(good, b"", None, x_object_manifest="c/o").status == 400
    assert shop.put(good, b"", None, x_symlink_target="c/o").status == 400
    assert shop.put(good, b"", None, x_copy_from="c/o").status == 401  # it does not allow to read
    assert shop.get(good, None).status == 401
    assert shop.head(good, None).status == 200
    prefix = signature("GET", end_s, "prefix:/v1/AUTH_p1/c/ne")
    assert shop.get(url("/c/new", prefix, end, "&temp_url_prefix=ne"), None).content == b"new"
    assert shop.get(url("/c/o", prefix, end, "&temp_url_prefix=ne"), None).status == 401


def form(
    objects: Objects, path: str, files: list[tuple[str, bytes]], key: str = KEY, pieces: int = 7, **fields: object
) -> tuple[int, bytes, dict[str, str]]:
    said = {"redirect": "", "max_file_size": 10, "max_file_count": 2, "expires": int(time.time()) + 100} | fields
    said["signature"] = signature(BASE + path, *said.values(), key=key)
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in said.items()]
    parts += [
        f'Content-Disposition: form-data; name="f"; filename="{name}"\r\nContent-Type: a/b\r\n\r\n'.encode() + data
        for name, data in files
    ]
    body = b"".join(b"--XX\r\n" + part + b"\r\n" for part in parts) + b"--XX--\r\n"
    chunks = [body[at : at + pieces] for at in range(0, len(body), pieces)]
    found = objects.post(path, chunks, None, content_type='multipart/form-data; boundary="XX"')
    return found.status, found.content, found.headers


def test_forms(shop: Objects) -> None:
    files = [("a.txt", b"12345"), ("b.txt", b"\r\n--X\r\n")]
    assert form(shop, "/c/up-", files)[:2] == (201, b"201 Created")
    found = shop.get("/c/up-b.txt")
    assert (found.content, found.headers["content-type"]) == (b"\r\n--X\r\n", "a/b")
    status, _, headers = form(shop, "/c/", files, redirect="http://x.org/?a=1")
    assert (status, headers["location"]) == (303, "http://x.org/?a=1&status=201&message=")
    for problem, status, content in (
        ({"key": "guess"}, 401, b"FormPost: Invalid Signature"),
        ({"expires": 1}, 401, b"FormPost: Form Expired"),
        ({"max_file_size": 4}, 400, b"FormPost: max_file_size exceeded"),
        ({"max_file_size": "x"}, 400, b"FormPost: max_file_size not an integer"),
        ({"max_file_count": 0}, 400, b"400 Bad Request\r\nFormPost: Max File Count Exceeded"),
    ):
        assert form(shop, "/c/bad-", files, **problem)[:2] == (status, content)  # type: ignore[arg-type]
    assert form(shop, "/c/bad-", [])[1] == b"400 Bad Request\r\nFormPost: No Files To Process"
    cut = [b'--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\n', CUT]
    assert shop.post("/c/bad-", cut, None, content_type="multipart/form-data; boundary=XX").status == 499
    assert shop.post("/c/bad-", b"--XX\r\n", None, content_type="multipart/form-data; boundary=XX").status == 400
    assert shop.post("/c/bad-", b"x" * 9000, None, content_type="multipart/form-data; boundary=XX").status == 400
    assert not [name for name in shop.names("/c") if name.startswith("bad-")]


def test_web_sites(objects: Objects) -> None:
    objects.put("/w", x_container_read=".r:*,.rlistings")
    for name, data in (
        ("index.html", b"home"),
        ("sub/index.html", b"sub home"),
        ("bare/<x>", b"x"),
        ("404error.html", b"lost"),
    ):
        objects.put(f"/w/{name}", data)
    assert objects.get("/w", None).content.startswith(b"404error.html\n")  # no site yet
    objects.post("/w", x_container_meta_web_index="index.html", x_container_meta_web_error="error.html")
    moved = objects.get("/w", None)
    assert (moved.status, moved.headers["location"]) == (301, f"{BASE}/w/")
    assert objects.get("/w/", None).content == b"home"
    assert objects.get("/w/sub/", None).content == b"sub home"
    assert objects.get("/w/sub", None).status == 301
    lost = objects.get("/w/no", None)
    assert (lost.status, lost.content) == (404, b"lost")
    assert objects.get("/w/bare/", None).status == 404
    objects.post("/w", x_container_meta_web_listings="true", x_container_meta_web_listings_css="style.css")
    listing = objects.get("/w/bare/", None).content.decode()
    assert '<a href="./%3Cx%3E">&lt;x&gt;</a>' in listing
    assert 'href="../style.css"' in listing
    assert objects.get("/w/").content.startswith(b"404error")  # who has a token asks for it
    assert objects.get("/w/", x_web_mode="true").content == b"home"
    objects.post("/w", x_remove_container_read="x")
    assert objects.get("/w/", None).status == 401


def test_bulk_deletion(objects: Objects) -> None:
    objects.put("/c")
    objects.put("/full")
    objects.put("/full/o", b"x")
    objects.put("/c/é x", b"x")
    body = b"c\n/c/%C3%A9%20x\nc/no\nfull\n\n%FF/x\n"
    gone = objects.post("?bulk-delete", body, accept="application/json", content_type="text/plain")
    assert (gone.status, json.loads(gone.content)) == (200, {
        "Number Deleted": 2, "Number Not Found": 1, "Response Status": "400 Bad Request", "Response Body": "",
        "Errors": [["%FF/x", "412 Precondition Failed"], ["full", "409 Conflict"]],
    })  # fmt: skip
    assert objects.names("") == ["full"]
    assert (
        b"Response Status: 400 Bad Request\nResponse Body: Invalid bulk delete.\n"
        in objects.post("?bulk-delete", b"").content
    )
    assert objects.post("?bulk-delete", b"full/o", READER).status == 403
    assert (
        b"<number_deleted>1</number_deleted>" in objects("DELETE", "?bulk-delete", b"full/o", accept="text/xml").content
    )


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(data)
            member.pax_headers = {"SCHILY.xattr.user.mime_type": "a/b", "SCHILY.xattr.user.meta.a": "1"}
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_archives(objects: Objects) -> None:
    packed = archive(c__a=b"1", c__b__x=b"22", alone=b"3")
    made = objects.put("?extract-archive=tar.gz", packed, accept="application/json")
    assert json.loads(made.content)["Number Files Created"] == 2
    assert (objects.get("/c/b/x").content, objects.names("/c"), objects.names("")) == (b"22", ["a", "b/x"], ["c"])
    assert {"content-type": "a/b", "x-object-meta-a": "1"}.items() <= objects.head("/c/a").headers.items()
    assert (
        json.loads(objects.put("/c/pre?extract-archive=tar.gz", packed, accept="application/json").content)[
            "Number Files Created"
        ]
        == 3
    )
    assert objects.get("/c/pre/alone").content == b"3"
    broken = objects.put("?extract-archive=tar.gz", packed[: len(packed) // 2], accept="application/json")
    assert json.loads(broken.content)["Response Status"] == "400 Bad Request"
    assert objects.put("?extract-archive=zip", packed).status == 400
    assert objects.put("?extract-archive=tar.gz", packed, READER).status == 403
    assert objects.put("?extract-archive=tar", b"").content.endswith(b"Errors:\n")
