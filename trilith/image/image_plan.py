"""What is left to do for an image's bytes on one controller: pure.

`want`: {id, generation, present, status, sha512, staged, import, worker}; `sha512` and `staged` say which content is
the image's and which is staged, or None; `import`: {name, uri, staged} of the import that is wanted, or None;
`worker`: who is at it, or None. `seen`: {data: [SHA-512s], staging: [SHA-512s]}, or None where nothing is here.
"""

from trilith.kernel.reconcile import Act, Doc


def plan(want: Doc, seen: Doc | None, me: str = "", has_peers: bool = False) -> list[Act]:
    """`me` is this controller as a worker; with `has_peers`, bytes that it lacks come from another controller."""
    here = seen or {"data": [], "staging": []}
    acts: list[Act] = []
    if seen is not None and (not want["present"] or any(surplus(want, here).values())):
        acts.append(Act("drop"))
    if not want["present"]:
        return acts
    if want["status"] == "active" and has_peers and want["sha512"] not in here["data"]:
        acts.append(Act("fetch"))
    wanted = want["import"]
    if wanted is not None and want["worker"] in (None, me):
        staged = want["staged"]
        if wanted["name"] != "glance-direct" or staged in here["staging"]:
            acts.append(Act("import", {"method": wanted}))
    return acts


def surplus(want: Doc, here: Doc) -> dict[str, list[str]]:
    """The files that nobody will want any more, by place. Of an image into which bytes are being streamed none: which
    of them count is not said yet."""
    if not want["present"] or want["status"] == "queued":
        return {"data": here["data"], "staging": here["staging"]}
    if want["status"] == "active":
        return {"data": [name for name in here["data"] if name != want["sha512"]], "staging": here["staging"]}
    if want["status"] == "importing":
        return {"data": [], "staging": [name for name in here["staging"] if name != want["staged"]]}
    return {"data": [], "staging": []}
