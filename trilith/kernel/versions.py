"""Microversions: the only code that compares them.

A client asks with ``OpenStack-API-Version: compute 2.60`` (several types may stand in one header, separated by
commas) or with a
service's older header of its own. No header means the oldest version; ``latest`` the newest.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trilith.kernel.errors import Fault

Version = tuple[int, int]
OLDEST: Version = (0, 0)
NEWEST: Version = (999, 999)


def v(text: str) -> Version:
    """``"2.10"`` -> ``(2, 10)``."""
    major, minor = text.split(".")
    return int(major), int(minor)


def text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


@dataclass(frozen=True)
class VersionRange:
    """What a service supports. `kind` is its type in the common header; `legacy_header` its own older one."""

    kind: str
    oldest: Version
    newest: Version
    legacy_header: str = ""

    def asked(self, headers: Mapping[str, str]) -> Version:
        """The version to answer at. 400 on a malformed one, 406 outside the range."""
        wanted = self._from_headers(headers)
        if wanted is None:
            return self.oldest
        if wanted == "latest":
            return self.newest
        if not re.fullmatch(r"[1-9][0-9]{0,5}\.(0|[1-9][0-9]{0,5})", wanted):
            raise Fault(
                "invalid",
                f"API Version String {wanted} is of invalid format. Must be of format MajorNum.MinorNum.",
            )
        version = v(wanted)
        if not self.oldest <= version <= self.newest:
            raise Fault(
                "not_acceptable",
                f"Version {wanted} is not supported by the API. "
                f"Minimum is {text(self.oldest)} and maximum is {text(self.newest)}.",
                min_version=text(self.oldest),
                max_version=text(self.newest),
            )
        return version

    def _from_headers(self, headers: Mapping[str, str]) -> str | None:
        for part in headers.get("openstack-api-version", "").split(","):
            kind, _, number = part.strip().partition(" ")
            if kind == self.kind and number:
                return number.strip()
        if self.legacy_header:
            return headers.get(self.legacy_header.lower())
        return None

    def reply_headers(self, at: Version) -> list[tuple[str, str]]:
        """Sent on errors too."""
        found = [("OpenStack-API-Version", f"{self.kind} {text(at)}"), ("Vary", "OpenStack-API-Version")]
        if self.legacy_header:
            found += [(self.legacy_header, text(at)), ("Vary", self.legacy_header)]
        return found


Stepped = int | Sequence[tuple[Version, int]]


def at_version(steps: Stepped, at: Version) -> int:
    """A status code that changed over time: ``[(v("2.0"), 200), (v("2.2"), 201)]`` at a version."""
    if isinstance(steps, int):
        return steps
    return [code for since, code in steps if since <= at][-1]
