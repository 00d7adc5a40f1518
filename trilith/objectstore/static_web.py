"""Containers as web sites: index pages, listings, error pages, where the container's metadata ask for them
(``X-Container-Meta-Web-*``). For readers without a token, and for others who ask for it (``X-Web-Mode``)."""

from collections.abc import Callable
from html import escape
from urllib.parse import quote

from trilith.objectstore.calls import Call, Target
from trilith.objectstore.containers import entries_of
from trilith.objectstore.listing_views import Asked, Entry
from trilith.objectstore.messages import (
    HTML,
    Answered,
    Begun,
    Headers,
    Response,
    is_true,
    on_wire,
    page,
    quoted,
)

META = "x-container-meta-web-"
FOLDER = "application/directory"
STYLE = "h1 {font-size: 1em} th {text-align: left} th, td {padding: 0 1em} a {text-decoration: none}"
Work = Callable[[Call], Begun]


def concerns(call: Call) -> bool:
    if call.target.kind == "account":
        return False
    return call.who is None or call.grant is not None or call.request.flag("x-web-mode")


def get(call: Call, work: Work) -> Begun:
    """`work` is what answers a GET or HEAD otherwise."""
    container = call.container(call.target)
    headers = container.headers if container else {}
    site = {name.removeprefix(META): value.strip() for name, value in headers.items() if name.startswith(META)}
    web = bool(site.get("index") or site.get("listings"))
    if call.target.kind == "container":
        return _container(call, work, site, web)
    return _object(call, work, site, web)


def _container(call: Call, work: Work, site: Headers, web: bool) -> Begun:
    if not web:
        if call.request.flag("x-web-mode"):
            raise Answered(404)
        return work(call)
    container = call.container(call.target)
    place = Target(call.target.account, call.target.container, site.get("index") or "any")
    try:
        call.require("GET", place, container.headers.get("x-container-read") if container else None)
    except Answered as error:
        return _error(call, site, error.response)
    if not call.request.path.endswith("/"):
        return _with_slash(call)
    index = _tried(call, f"{site['index']}") if site.get("index") else page(404)
    if index.status != 404:
        return index if index.status < 400 else _error(call, site, index)
    return _listing(call, site, "")


def _object(call: Call, work: Work, site: Headers, web: bool) -> Begun:
    found = _caught(call, work)
    if not isinstance(found, Response):
        return found
    media = site.get("directory-type") or FOLDER
    marker = found.status < 400 and found.headers.get("content-type") == media and (found.length or 0) <= 1
    if found.status != 404 and not marker:
        return found
    found.close()
    if not web:
        return page(404) if marker else _error(call, site, found)
    name = call.target.name
    if site.get("index"):
        index = _tried(call, f"{name.rstrip('/')}/{site['index']}")
        if index.status < 400:
            if name.endswith("/"):
                return index
            index.close()
            return _with_slash(call)
    if name.endswith("/"):
        return _listing(call, site, name)
    below = entries_of(call, call.target, Asked(1, "", "", f"{name}/", "/", False))
    return _with_slash(call) if below else _error(call, site, page(404))


def _tried(call: Call, name: str) -> Response:
    """The response to a GET of an object beside the one that was asked for."""
    from trilith.objectstore.objects import get as get_object

    other = call.at(Target(call.target.account, call.target.container, name))
    found = _caught(other, get_object)
    assert isinstance(found, Response)
    return found


def _caught(call: Call, work: Work) -> Begun:
    try:
        return work(call)
    except Answered as error:
        return error.response


def _with_slash(call: Call) -> Response:
    return page(301, "", {"location": on_wire(quoted(call.request.path)) + "/"})


def _error(call: Call, site: Headers, response: Response) -> Response:
    """With the container's own page for this status, where it has one."""
    if site.get("error"):
        shown = _tried(call, f"{response.status}{site['error']}")
        if shown.ok:
            return Response(response.status, shown.headers, shown.body, shown.length_bytes, shown.on_close)
        shown.close()
    return response


def _listing(call: Call, site: Headers, prefix: str) -> Response:
    label = escape(call.request.path)
    if site.get("listings-label"):
        label = escape(_text(site["listings-label"]) + "/" + prefix)
    if not is_true(site.get("listings")):
        body = _page(site, prefix, label, "<h1>Web Listing Disabled</h1>")
        return _error(call, site, Response(404, {"content-type": HTML}, body))
    container = Target(call.target.account, call.target.container)
    found = call.container(container)
    try:
        call.require("GET", container, found.headers.get("x-container-read") if found else None)
    except Answered as error:
        return _error(call, site, error.response)
    entries = entries_of(call, container, Asked(10_000, "", "", prefix, "/", False))
    if prefix and not entries:
        return _error(call, site, page(404))
    rows = [_row("../", "../", "", "", "parent")] if prefix else []
    rows += [_folder(each, prefix) for each in entries if "subdir" in each]
    rows += [_file(each, prefix) for each in entries if "subdir" not in each]
    head = (
        '<tr id="heading"><th class="colname">Name</th><th class="colsize">Size</th><th class="coldate">Date</th></tr>'
    )
    table = f'<h1 id="title">Listing of {label}</h1>\n<table id="listing">\n{head}\n' + "\n".join(rows) + "\n</table>"
    return Response(200, {"content-type": HTML}, _page(site, prefix, label, table))


def _text(header: str) -> str:
    return header.encode("latin-1").decode("utf-8", "replace")


def _page(site: Headers, prefix: str, label: str, content: str) -> bytes:
    style = f'<style type="text/css">{STYLE}</style>'
    if css := _text(site.get("listings-css", "")):
        absolute = css.startswith(("/", "http://", "https://"))
        place = quote(css, safe=":/") if absolute else "../" * prefix.count("/") + quote(css)
        style = f'<link rel="stylesheet" type="text/css" href="{escape(place)}" />'
    head = f"<head>\n<title>Listing of {label}</title>\n{style}\n</head>"
    return f"<!DOCTYPE html>\n<html>\n{head}\n<body>\n{content}\n</body>\n</html>\n".encode()


def _folder(entry: Entry, prefix: str) -> str:
    name = entry["subdir"].removeprefix(prefix)
    return _row(f"./{quote(name)}", name, "", "", "item subdir")


def _file(entry: Entry, prefix: str) -> str:
    name = entry["name"].removeprefix(prefix)
    kinds = " ".join(f"type-{escape(part.lower())}" for part in entry["content_type"].split("/"))
    date = entry["last_modified"].partition(".")[0].replace("T", " ")
    return _row(f"./{quote(name)}", name, _human(entry["bytes"]), date, f"item {kinds}")


def _row(place: str, name: str, size: str, date: str, kind: str) -> str:
    cells = f'<td class="colname"><a href="{place}">{escape(name)}</a></td>'
    return f'<tr class="{kind}">{cells}<td class="colsize">{size}</td><td class="coldate">{date}</td></tr>'


def _human(size_bytes: int) -> str:
    value, units = float(size_bytes), ["", "Ki", "Mi", "Gi", "Ti"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.0f}{units[0]}"
