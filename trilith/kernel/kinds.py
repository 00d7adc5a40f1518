"""Kinds of values: what JSON they take, what they become, and what SQL column holds them.

`Kind.check(value, path, at)` returns the clean value or raises `Bad`, which the service's dialect turns into its own
sentence.
Objects know microversions too, so that a nested field has its history in the same declaration.
"""

import ipaddress
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import LONGTEXT

from trilith.kernel.versions import NEWEST, OLDEST, Version

LONG_TEXT = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")  # whose TEXT ends at 64 KiB


class Bad(Exception):
    """A value that its kind does not take. `path` is dotted: ``networks.0.uuid``."""

    def __init__(self, path: str, value: Any, reason: str, why: str = "value") -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.value, self.reason = path, value, reason
        self.why = why  # value | unknown | required | version | readonly


class Kind:
    """A kind of value. `text` is how it is called in a message."""

    text = "a value"

    def check(self, value: Any, path: str, at: Version) -> Any:
        return value

    def column(self) -> Any:
        """The SQL type of a column that holds it."""
        return sa.JSON()

    def from_query(self, value: str, path: str) -> Any:
        """A value as it stands in a query string."""
        return value


@dataclass(frozen=True)
class Text(Kind):
    """A string. `limit` and `least` are lengths in characters; `pattern` must match the whole."""

    limit: int = 255
    least: int = 0
    pattern: str = ""
    strip: bool = False
    text = "a string"

    def check(self, value: Any, path: str, at: Version) -> str:
        if not isinstance(value, str):
            raise Bad(path, value, f"{value!r} is not of type 'string'")
        if self.strip:
            value = value.strip()
        if len(value) < self.least:
            raise Bad(path, value, f"{value!r} is too short")
        if len(value) > self.limit:
            raise Bad(path, value, f"{value[:60]!r}... is too long: at most {self.limit} characters")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise Bad(path, value, f"{value!r} does not match '{self.pattern}'")
        if "\x00" in value:
            raise Bad(path, value, "a NUL character is not allowed")
        return str(value)

    def column(self) -> Any:
        return sa.String(self.limit) if self.limit <= 1024 else LONG_TEXT


@dataclass(frozen=True)
class Whole(Kind):
    """An integer in a range; strings of digits are taken too where `strings` (upstream does almost everywhere)."""

    low: int = -(2**31)
    high: int = 2**31 - 1
    strings: bool = True
    text = "an integer"

    def check(self, value: Any, path: str, at: Version) -> int:
        if isinstance(value, str) and self.strings and re.fullmatch(r"-?[0-9]{1,4000}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Bad(path, value, f"{value!r} is not of type 'integer'")
        if not self.low <= value <= self.high:
            side = (
                f"less than the minimum of {self.low}"
                if value < self.low
                else f"greater than the maximum of {self.high}"
            )
            raise Bad(path, value, f"{value} is {side}")
        return value

    def column(self) -> Any:
        return sa.BigInteger() if self.high > 2**31 - 1 else sa.Integer()

    def from_query(self, value: str, path: str) -> int:
        return self.check(value, path, OLDEST)


@dataclass(frozen=True)
class Decimal(Kind):
    """A number with a fraction."""

    low: float = -1e300
    high: float = 1e300
    text = "a number"

    def check(self, value: Any, path: str, at: Version) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise Bad(path, value, f"{value!r} is not of type 'number'") from None
        if isinstance(value, bool) or not self.low <= number <= self.high:
            raise Bad(path, value, f"{value!r} is not a number from {self.low} to {self.high}")
        return number

    def column(self) -> Any:
        return sa.Double()


TRUE = {"true", "1", "yes", "on", "t", "y"}
FALSE = {"false", "0", "no", "off", "f", "n"}


@dataclass(frozen=True)
class Flag(Kind):
    """A boolean; its usual spellings as strings are taken too unless `strict`."""

    strict: bool = False
    text = "a boolean"

    def check(self, value: Any, path: str, at: Version) -> bool:
        if isinstance(value, bool):
            return value
        if not self.strict:
            word = str(value).strip().lower()
            if isinstance(value, str | int) and word in TRUE:
                return True
            if isinstance(value, str | int) and word in FALSE:
                return False
        raise Bad(path, value, f"{value!r} is not of type 'boolean'")

    def column(self) -> Any:
        return sa.Boolean()

    def from_query(self, value: str, path: str) -> bool:
        if value == "":
            return True
        return Flag().check(value, path, OLDEST)


@dataclass(frozen=True)
class Choice(Kind):
    """One of a set of strings; `lower` folds case first."""

    options: tuple[Any, ...]
    lower: bool = False

    def check(self, value: Any, path: str, at: Version) -> Any:
        if self.lower and isinstance(value, str):
            value = value.lower()
        if value not in self.options or isinstance(value, bool) != any(
            o is value for o in self.options if isinstance(o, bool)
        ):
            raise Bad(path, value, f"{value!r} is not one of {list(self.options)}")
        return value

    def column(self) -> Any:
        return sa.String(64)


@dataclass(frozen=True)
class Id(Kind):
    """A UUID, with or without dashes; kept as it was written unless `dashed`."""

    text = "a UUID"

    def check(self, value: Any, path: str, at: Version) -> str:
        try:
            if not isinstance(value, str) or len(value) > 45:
                raise ValueError
            uuid.UUID(value)
        except ValueError:
            raise Bad(path, value, f"{value!r} is not a 'uuid'") from None
        return value

    def column(self) -> Any:
        return sa.String(64)


@dataclass(frozen=True)
class Time(Kind):
    """An ISO 8601 time; kept as UTC ``YYYY-MM-DDTHH:MM:SS.ffffff`` so that text order is time order."""

    text = "a time"

    def check(self, value: Any, path: str, at: Version) -> str:
        try:
            return to_utc(str(value))
        except ValueError:
            raise Bad(path, value, f"{value!r} is not a 'date-time'") from None

    def column(self) -> Any:
        return sa.String(26)

    def from_query(self, value: str, path: str) -> str:
        return self.check(value.replace(" ", "+") if re.search(r" \d\d:?\d\d$", value) else value, path, OLDEST)


def to_utc(value: str) -> str:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def now() -> str:
    """The present in the form in which times are stored."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Address(Kind):
    """An IP address of either version (or of `version`), in its shortest form."""

    version: int | None = None
    text = "an IP address"

    def check(self, value: Any, path: str, at: Version) -> str:
        try:
            if not isinstance(value, str):
                raise ValueError
            found = ipaddress.ip_address(value)
        except ValueError:
            raise Bad(path, value, f"'{value}' is not a valid IP address") from None
        if self.version and found.version != self.version:
            raise Bad(path, value, f"'{value}' is not an IPv{self.version} address")
        return str(found)

    def column(self) -> Any:
        return sa.String(45)


@dataclass(frozen=True)
class Prefix(Kind):
    """A CIDR; host bits are refused unless `loose` (then they are cut off)."""

    loose: bool = False
    text = "a CIDR"

    def check(self, value: Any, path: str, at: Version) -> str:
        try:
            if not isinstance(value, str) or (not self.loose and "/" not in value):
                raise ValueError
            return str(ipaddress.ip_network(value, strict=not self.loose))
        except ValueError:
            raise Bad(path, value, f"'{value}' is not a valid CIDR") from None

    def column(self) -> Any:
        return sa.String(49)


@dataclass(frozen=True)
class Mac(Kind):
    """A unicast MAC address in lower case with colons."""

    text = "a MAC address"

    def check(self, value: Any, path: str, at: Version) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}", value):
            raise Bad(path, value, f"'{value}' is not a valid MAC address")
        return value.lower().replace("-", ":")

    def column(self) -> Any:
        return sa.String(17)


@dataclass(frozen=True)
class ListOf(Kind):
    """An array of one kind. `limit` and `least` count items."""

    of: Kind
    limit: int = 1000
    least: int = 0
    unique: bool = False

    def check(self, value: Any, path: str, at: Version) -> list[Any]:
        if not isinstance(value, list):
            raise Bad(path, value, f"{value!r} is not of type 'array'")
        if not self.least <= len(value) <= self.limit:
            raise Bad(path, value, f"{len(value)} items, must be {self.least} to {self.limit}")
        clean = [self.of.check(item, f"{path}.{n}", at) for n, item in enumerate(value)]
        if self.unique and any(item in clean[:n] for n, item in enumerate(clean)):
            raise Bad(path, value, f"{value!r} has non-unique elements")
        return clean


@dataclass(frozen=True)
class MapOf(Kind):
    """An object with free keys: metadata, properties."""

    value: Kind = Text(255)
    key: Kind = Text(255, 1)
    limit: int = 10_000

    def check(self, value: Any, path: str, at: Version) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Bad(path, value, f"{value!r} is not of type 'object'")
        if len(value) > self.limit:
            raise Bad(path, value, f"more than {self.limit} items")
        return {
            self.key.check(name, f"{path}.{name}", at): self.value.check(item, f"{path}.{name}", at)
            for name, item in value.items()
        }


@dataclass(frozen=True)
class Json(Kind):
    """Anything, or an object where `only_objects`."""

    only_objects: bool = False

    def check(self, value: Any, path: str, at: Version) -> Any:
        if self.only_objects and not isinstance(value, dict):
            raise Bad(path, value, f"{value!r} is not of type 'object'")
        return value


@dataclass(frozen=True)
class Member:
    """A field inside an object: its kind, whether it must be there, and its versions."""

    kind: Kind
    required: bool = False
    null: bool = False
    default: Any = None
    since: Version = OLDEST
    until: Version = NEWEST


@dataclass(frozen=True)
class Object(Kind):
    """An object with known members; unknown ones are refused unless `open_ended` (then they pass unchecked)."""

    members: Mapping[str, Member] = field(default_factory=dict)
    open_ended: bool = False
    check_whole: Callable[[dict[str, Any], str], None] | None = None

    def check(self, value: Any, path: str, at: Version) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Bad(path, value, f"{value!r} is not of type 'object'")
        clean: dict[str, Any] = {}
        for name, item in value.items():
            member = self.members.get(name)
            if member is None or not member.since <= at <= member.until:
                if not self.open_ended:
                    raise Bad(f"{path}.{name}", item, f"'{name}' was unexpected", "unknown")
                clean[name] = item
            elif item is None and member.null:
                clean[name] = None
            else:
                clean[name] = member.kind.check(item, f"{path}.{name}", at)
        for name, member in self.members.items():
            if name not in clean and member.since <= at <= member.until:
                if member.required:
                    raise Bad(f"{path}.{name}", None, f"'{name}' is a required property", "required")
                if member.default is not None:
                    clean[name] = member.default
        if self.check_whole:
            self.check_whole(clean, path)
        return clean


@dataclass(frozen=True)
class Either(Kind):
    """The first of several kinds that takes the value."""

    kinds: tuple[Kind, ...]

    def check(self, value: Any, path: str, at: Version) -> Any:
        last = Bad(path, value, "no kind fits")
        for kind in self.kinds:
            try:
                return kind.check(value, path, at)
            except Bad as bad:
                last = bad
        raise last

    def column(self) -> Any:
        return self.kinds[0].column()


@dataclass(frozen=True)
class Null(Kind):
    """Only null."""

    def check(self, value: Any, path: str, at: Version) -> None:
        if value is not None:
            raise Bad(path, value, f"{value!r} is not of type 'null'")
