"""Whatever is sent: an answer that fits, never an error of ours, and nothing stored that was not asked for."""

import string
from urllib.parse import quote
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client import MEMBER
from tests.objectstore.front.client import CUT, Objects
from tests.objectstore.model import ModelStore
from trilith.objectstore.messages import is_utf8

NAMES = st.text(min_size=1, max_size=200).filter(lambda name: is_utf8(name) and len(name.encode()) <= 1024)
TOKEN = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=30)
WIRE = st.text(st.characters(max_codepoint=255), max_size=60)
HEADERS = (
    "accept", "content-type", "content-length", "etag", "range", "if-range", "if-match", "if-none-match", "referer",
    "if-modified-since", "if-unmodified-since", "x-delete-at", "x-delete-after", "x-object-manifest", "x-copy-from",
    "x-copy-from-account", "destination", "destination-account", "x-symlink-target", "x-symlink-target-account",
    "x-symlink-target-etag", "x-container-read", "x-container-write", "x-versions-location", "x-history-location",
    "x-container-meta-quota-bytes", "x-account-meta-quota-bytes", "x-object-meta-a", "origin", "transfer-encoding",
    "access-control-request-method", "x-detect-content-type", "x-fresh-metadata", "x-web-mode", "x-storage-policy",
)  # fmt: skip
QUERIES = (
    "format", "limit", "marker", "end_marker", "prefix", "delimiter", "reverse", "path", "multipart-manifest",
    "symlink", "temp_url_sig", "temp_url_expires", "temp_url_prefix", "temp_url_ip_range", "extract-archive",
    "bulk-delete",
)  # fmt: skip
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS")
ODDITY = st.one_of(
    WIRE,
    st.sampled_from(
        ["", "-1", "0", "9" * 30, "bytes=0-", "c/o", "/c/o", "put", "get", "json", "tar", "\xff", ",", ";q=x"]
    ),
)

ASKED = st.sampled_from(["", "1", "put", "json", "tar", "%ff", "a%00", "-", "9" * 20])


@settings(max_examples=60, deadline=None)
@given(NAMES)
def test_every_name_is_a_name(name: str) -> None:
    objects = Objects(ModelStore())
    objects.put("/c")
    path = f"/c/{quote(name, safe='')}"
    assert objects.put(path, b"x", raw=True).status == 201
    assert objects.names("/c") == [name]
    xml = objects.get("/c?format=xml").content
    assert len(ElementTree.fromstring(xml)) == 1
    assert objects.get(path, raw=True).content == b"x"
    assert objects("COPY", path, raw=True, destination=f"c/{quote(name, safe='')}").status == 201
    assert objects.delete(path, raw=True).status == 204
    objects.application.close()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(METHODS),
    st.sampled_from(["", "/", "/c", "/c/", "/c/o", "/c/o/", "//", "/c//o", "/d/x"]),
    st.dictionaries(st.sampled_from(HEADERS), ODDITY, max_size=4),
    st.dictionaries(
        st.sampled_from(QUERIES), st.sampled_from(["", "1", "put", "json", "%ff", "a%00", "-", "9" * 20]), max_size=3
    ),
    st.sampled_from([b"", b"x", b"[]", b"{", bytes(range(256))]),
)
def test_no_words_break_it(method: str, path: str, headers: dict[str, str], query: dict[str, str], body: bytes) -> None:
    objects = Objects(ModelStore())
    objects.put("/c")
    objects.put("/c/o", b"hello")
    words = "&".join(f"{name}={value}" for name, value in query.items())
    answer = objects(method, f"{path}?{words}", body, more=headers)
    assert answer.status < 500 or answer.status == 501, answer
    objects.application.close()


def test_headers_at_their_limits(objects: Objects) -> None:
    objects.put("/c")
    assert objects.put("/c/o", b"", content_disposition="x" * 8192).status == 201
    assert objects.put("/c/p", b"", content_disposition="x" * 8193).status == 400
    assert objects.put("/c/p", b"", more={f"x-{number}": "1" for number in range(130)}).status == 400
    assert objects.put("/c/p", b"", more={"x-object-meta-" + "n" * 128: "v" * 256}).status == 201
    assert objects.put("/c/q", b"", more={"x-object-meta-" + "n" * 129: "v"}).status == 400
    assert (
        objects.put("/c/q", b"", more={f"x-object-meta-{number:03}": "v" * 200 for number in range(21)}).status == 400
    )
    assert objects.names("/c") == ["o", "p"]


def test_a_body_that_ends_early_is_no_object(objects: Objects) -> None:
    objects.put("/c")
    objects.put("/c/there", b"before")
    for name in ("new", "there"):
        assert objects.put(f"/c/{name}", [b"a" * 100_000, CUT]).status == 499
        assert objects.put(f"/c/{name}?multipart-manifest=put", [b"[", CUT]).status == 499
        assert objects.put("?extract-archive=tar", [b"x", CUT]).status == 499
    assert objects.post("?bulk-delete", [b"c/there\n", CUT]).status == 499
    assert (objects.names("/c"), objects.get("/c/there", MEMBER).content) == (["there"], b"before")
