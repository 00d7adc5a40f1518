"""Lists: pages, markers, filters and sort keys."""

from typing import Any

import pytest

from tests.contract import specimens
from tests.contract.cloud import Cloud, path_of
from tests.contract.declared import Operation, name_of, operations
from tests.contract.samples import SOME_ID
from trilith.kernel.declare import Noun

LISTS = [o for o in operations() if o.kind in ("list", "detail")]
UNKNOWN_MARKER = {"volume": 404, "network": 404}  # elsewhere 400
every = pytest.mark.parametrize("operation", LISTS, ids=lambda o: o.id)


def rows_of(noun: Noun, body: dict[str, Any]) -> list[Any]:
    """What stands in a page: the key of each row, or all of it where the key is not shown."""
    key = (noun.fields[noun.key].wire or noun.key) if noun.key in noun.fields else "id"
    found = []
    for item in body[noun.plural]:
        if noun.name in item and len(item) == 1:  # {"keypairs": [{"keypair": {...}}]}
            item = item[noun.name]
        found.append(item.get(key, item.get("id", str(item))))
    return found


def next_page(noun: Noun, body: dict[str, Any], base: str) -> str | None:
    """The path of the page that follows."""
    links = body.get(f"{noun.plural}_links", [])
    urls = [link["href"] for link in links if link["rel"] == "next"]
    if isinstance(body.get("links"), dict):
        urls.append(body["links"]["next"])
    if "next" in body:
        urls.append(base + body["next"])
    urls = [url for url in urls if url]
    return path_of(urls[0]) if urls else None


def lister(noun: Noun) -> str:
    specimen = specimens.SPECIMENS.get(name_of(noun))
    return specimen.who if specimen is not None and specimen.who != "member" else "owner"


@every
def test_pages(cloud: Cloud, operation: Operation) -> None:
    """Pages of one walk through all rows, each once."""
    noun = operation.noun
    assert noun is not None
    who = "member" if noun.owner == "user_id" or name_of(noun).endswith("application_credential") else lister(noun)
    if name_of(noun) in specimens.SPECIMENS:
        for number in (31, 32, 33):
            cloud.make(noun, number)
    url, base = cloud.url(operation), operation.service.prefix.rpartition("/")[0]
    joined = "&" if "?" in url else "?"
    whole = cloud.ask("GET", f"{url}{joined}limit=1000", who, at=operation.at)
    assert whole.status == 200, whole.content
    every_row = rows_of(noun, whole.json)
    assert len(every_row) == len({str(row) for row in every_row})
    seen: list[Any] = []
    page: str | None = f"{url}{joined}limit=1"
    while page is not None:
        body = cloud.ask("GET", page, who, at=operation.at).json
        rows = rows_of(noun, body)
        assert "list" in noun.operations or len(rows) <= 1
        seen += rows
        assert len(seen) <= len(every_row), f"more than all, at {page}"
        page = next_page(noun, body, base)
    assert sorted(map(str, seen)) == sorted(map(str, every_row))
    if name_of(noun) in specimens.SPECIMENS:
        assert len(seen) >= 3


@every
def test_bad_queries(cloud: Cloud, operation: Operation) -> None:
    """Never our fault; an unknown marker is what the service says it is."""
    url, noun = cloud.url(operation), operation.noun
    assert noun is not None
    joined = "&" if "?" in url else "?"
    for query in (
        "limit=-1",
        "limit=x",
        "limit=99999999999999999999",
        "limit=%00",
        "offset=-1",
        "marker=",
        "marker=%00",
        "marker=" + "x" * 5000,
        "sort_key=no_such_column",
        "sort_key=id&sort_dir=sideways",
        "sort=id:up",
        "name=%ff%fe",
        "created_at=yesterday",
        "no_such_filter=1",
        "all_tenants=maybe",
        "&&&===",
    ):
        cloud.ask("GET", f"{url}{joined}{query}", lister(noun), at=operation.at, service=operation.service)
    if "list" not in noun.operations:
        nobody = cloud.ask("GET", f"{url}{joined}limit=1&marker={SOME_ID}", lister(noun), at=operation.at)
        assert nobody.status == UNKNOWN_MARKER.get(operation.service.name, 400), nobody.content


@every
def test_declared_filters_and_sort_keys(cloud: Cloud, operation: Operation) -> None:
    """Each is taken, and a filter by a row's own value finds the row."""
    noun, who = operation.noun, None
    assert noun is not None
    who = lister(noun)
    row = cloud.row(noun, cloud.specimen(noun)[noun.key])
    assert row is not None
    url = cloud.url(operation)
    joined = "&" if "?" in url else "?"
    all_of_it = "all_tenants=1&" if operation.service.name in ("compute", "volume") else ""
    whole = rows_of(noun, cloud.ask("GET", f"{url}{joined}{all_of_it}", who, at=operation.at).json)
    for name, item in noun.fields.items():
        if not item.visible(operation.version):
            continue
        label = item.wire or name
        if item.sort:
            asked = cloud.ask("GET", f"{url}{joined}sort_key={label}&sort_dir=asc", who, at=operation.at)
            assert asked.status == 200, f"{label}: {asked.content!r}"
        if item.filter is True and isinstance(row.get(name), str | int):
            value = str(row[name]).replace("+", "%2B")
            asked = cloud.ask("GET", f"{url}{joined}{all_of_it}{label}={value}", who, at=operation.at)
            assert asked.status == 200, f"{label}={value}: {asked.content!r}"
            found = rows_of(noun, asked.json)
            assert str(row[noun.key]) in map(str, found) or str(row[noun.key]) not in map(str, whole), label
