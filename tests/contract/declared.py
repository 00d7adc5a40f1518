"""What is declared, as a list: every operation of every service of the program, each with an id for test reports."""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import trilith
from trilith.cluster import api  # noqa: F401 - the program's own paths
from trilith.kernel.declare import Field, Noun, Route, Service, Verb
from trilith.kernel.versions import OLDEST, Version, text

PACKAGES = ("identity", "image", "compute", "network", "volume", "placement")
READS = ("GET", "HEAD")


def modules() -> list[str]:
    """Every module of every service."""
    found = []
    for package in PACKAGES:
        parent = importlib.import_module(f"{trilith.__name__}.{package}")
        found += [f"{parent.__name__}.{module.name}" for module in pkgutil.iter_modules(parent.__path__)]
    return found


@cache
def services() -> list[Service]:
    """Those of the program; other tests declare some of their own."""
    for name in modules():
        importlib.import_module(name)
    found: dict[int, Service] = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith("trilith."):
            found |= {id(item): item for item in vars(module).values() if isinstance(item, Service)}
    return sorted(found.values(), key=lambda service: service.name)


@cache
def nouns() -> dict[str, Noun]:
    return {name_of(noun): noun for s in services() for noun in s.nouns if noun.policy or noun.routes}


def name_of(noun: Noun) -> str:
    """``compute.server``; a noun that a service has at two paths is named by the path the second time."""
    first = next(other for other in noun.service.nouns if other.name == noun.name)
    return f"{noun.service.name}.{noun.name}" + ("" if first is noun else noun.path)


@dataclass(frozen=True)
class Operation:
    """One thing that a caller can ask for. `kind`: list detail show create update delete verb route."""

    service: Service
    noun: Noun | None
    kind: str
    method: str
    path: str
    policy: str
    since: Version
    until: Version
    verb: str = ""
    declared: Route | Verb | None = None

    @property
    def id(self) -> str:
        first = self.noun and next(other for other in self.service.nouns if other.plural == self.noun.plural)
        noun = "" if self.noun is None else f".{self.noun.plural}" + ("" if first is self.noun else self.noun.path)
        what = f"{self.method} {self.path}" if self.kind == "route" else self.verb or self.kind
        since = f"@{text(self.since)}" if self.kind == "route" and self.since != OLDEST else ""
        return f"{self.service.name}{noun}:{what}{since}"

    @property
    def at(self) -> str:
        """The newest version that has it, as a header; "" where the service has no versions."""
        versions = self.service.versions
        return f"{versions.kind} {text(min(self.until, versions.newest))}" if versions else ""

    @property
    def version(self) -> Version:
        versions = self.service.versions
        return min(self.until, versions.newest) if versions else OLDEST

    @property
    def about_a_row(self) -> bool:
        if self.kind == "route":
            assert isinstance(self.declared, Route)
            return self.declared.member
        return self.kind in ("show", "update", "delete", "verb")

    @property
    def reads(self) -> bool:
        return self.method in READS or (self.kind == "verb" and self.policy.startswith("reader"))


def _of_noun(noun: Noun) -> Iterator[Operation]:
    service, base = noun.service, noun.service.prefix + noun.path
    methods = {"list": "GET", "create": "POST", "show": "GET", "update": noun.update_method, "delete": "DELETE"}
    for kind, policy in noun.policy.items():
        path = base if kind in ("list", "create") else f"{base}/{{id}}"
        yield Operation(service, noun, kind, methods[kind], path, policy, noun.since, noun.until)
        if kind == "list" and noun.detail:
            yield Operation(service, noun, "detail", "GET", f"{base}/detail", policy, noun.since, noun.until)
    for name, verb in noun.verbs.items():
        path = f"{base}/{{id}}/action"
        yield Operation(service, noun, "verb", "POST", path, verb.policy, verb.since, verb.until, name, verb)
    for route in noun.routes:
        since, until = max(route.since, noun.since), min(route.until, noun.until)
        yield Operation(service, noun, "route", route.method, base + route.path, route.policy, since, until, "", route)


@cache
def operations() -> list[Operation]:
    found = []
    for service in services():
        for noun in service.nouns:
            found += list(_of_noun(noun))
        for route in service.routes:
            path = service.prefix + route.path
            found.append(
                Operation(service, None, "route", route.method, path, route.policy, route.since, route.until, "", route)
            )
    return found


def accepted_fields(noun: Noun, operation: str) -> dict[str, Field]:
    """Those that a creation's or an update's body may hold."""
    return {n: f for n, f in noun.fields.items() if (f.create != "no" if operation == "create" else f.update)}


def boundaries(noun: Noun) -> list[Version | None]:
    """Every version at which a view of the noun differs from that before; [None] without versions."""
    versions = noun.service.versions
    if versions is None:
        return [None]
    oldest, newest = max(versions.oldest, noun.since), min(versions.newest, noun.until)
    found = {oldest, newest}
    for item in noun.fields.values():
        found |= {item.since, (item.until[0], item.until[1] + 1)}
    return [at for at in sorted(found) if oldest <= at <= newest]
