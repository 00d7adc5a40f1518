"""Which Debian packages a host needs: reads ``host_packages.txt``."""

from collections.abc import Iterable
from pathlib import Path

EVERY = "every"


def host_packages(roles: Iterable[str], ceph: bool = False) -> list[str]:
    """Names of the packages of a host with these roles, sorted, each once. `ceph`: whether the cluster file has it."""
    sections, roles = by_role(), list(roles)
    roles += [section for role in roles if (section := f"ceph-{role}") in sections] if ceph else []
    return sorted({name for role in (EVERY, *roles) for name in sections[role]})


def all_packages() -> list[str]:
    """What a host of every role needs."""
    return sorted({name for names in by_role().values() for name in names})


def by_role() -> dict[str, list[str]]:
    """Every section of the list, ``every`` first."""
    sections: dict[str, list[str]] = {}
    for line in Path(__file__).with_suffix(".txt").read_text().splitlines():
        words = line.partition("#")[0].strip()
        if words.startswith("["):
            section = sections.setdefault(words.strip("[]"), [])
        elif words:
            section.append(words)
    return sections
