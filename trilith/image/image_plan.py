"""What is left to do for an image's bytes: pure."""

from trilith.kernel.reconcile import Act, Doc


def plan(want: Doc, seen: Doc | None) -> list[Act]:
    """`want`: {id, generation, present, import: {name, uri} | null}; `seen`: {staged, published} or None.

    Bytes without a row go. An import that is wanted runs; it ends by publishing, after which nothing is wanted.
    """
    if not want["present"]:
        return [Act("delete")] if seen else []
    if want["import"] is None:
        done = want["status"] in ("active", "queued")  # imported, or given up
        return [Act("unstage")] if seen and seen["staged"] and done else []
    return [Act("import", {"method": want["import"]})]
