"""Access lists of containers: ``.r:*``, ``.r:.example.com``, ``.r:-thief.example.com``, ``.rlistings``,
``project:user``. The grammar is Swift's; an empty list gives nothing to anybody."""

from urllib.parse import unquote, urlsplit

REFERRER = (".r", ".ref", ".referer", ".referrer")


def cleaned(name: str, value: str) -> str:
    """The list as it is kept. ValueError with a sentence for what is none."""
    found = []
    for item in (part.strip() for part in value.split(",")):
        designator, colon, what = (part.strip() for part in item.partition(":"))
        if not item:
            continue
        if not colon or not designator.startswith("."):
            found.append(item)
        elif designator not in REFERRER:
            raise ValueError(f"Unknown designator {designator!r} in ACL: {item!r}")
        elif "write" in name:
            raise ValueError(f"Referrers not allowed in write ACL: {item!r}")
        else:
            found.append(f".r:{_host(what, item)}")
    return ",".join(found)


def _host(what: str, item: str) -> str:
    denied = what.startswith("-")
    host = what[1:].strip() if denied else what
    if host.startswith("*") and host != "*":
        host = host[1:].strip()
    if host in ("", "."):
        raise ValueError(f"No host/domain value after referrer designation in ACL: {item!r}")
    return f"-{host}" if denied else host


def parsed(acl: str) -> tuple[list[str], list[str]]:
    """(referrers, groups)"""
    items = [item for item in acl.split(",") if item]
    referrers = [item.removeprefix(".r:") for item in items if item.startswith(".r:")]
    return referrers, [unquote(item) for item in items if not item.startswith(".r:")]


def referrer_allowed(referrer: str, referrers: list[str]) -> bool:
    """The last rule that fits the referring host decides."""
    try:
        host = urlsplit(referrer).hostname or "unknown"
    except ValueError:
        host = "unknown"
    allowed = False
    for rule in referrers:
        denied, wanted = rule.startswith("-"), rule.removeprefix("-")
        if wanted == host or (wanted == "*" and not denied) or (wanted.startswith(".") and host.endswith(wanted)):
            allowed = not denied
    return allowed
