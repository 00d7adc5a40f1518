"""A table of paths: a dict a segment, so that a thousand routes cost what ten do."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trilith.kernel.declare import Noun, Route, Service


@dataclass(frozen=True)
class Operation:
    """What one method on one path does."""

    service: Service
    kind: str  # list detail show create update delete action route
    noun: Noun | None = None
    route: Route | None = None

    @property
    def label(self) -> str:
        if self.route is not None:
            return self.route.name or f"{self.route.method} {self.route.path}"
        assert self.noun is not None
        return f"{self.noun.plural}:{self.kind}"

    @cached_property
    def variables(self) -> list[str]:
        """The names of the path's variable parts, in order."""
        path = self.noun.path if self.noun is not None else ""
        if self.route is not None:
            path += self.route.path
        elif self.kind not in ("list", "detail", "create"):
            path += "/{id}"
        return [part[1:-1].removesuffix(":path") for part in split_path(path) if part.startswith("{")]

    def writes(self, method: str) -> bool:
        if self.route is None or self.route.write is None:
            return method not in ("GET", "HEAD")
        return self.route.write


@dataclass
class Node:
    children: dict[str, "Node"] = field(default_factory=dict)
    any_child: "Node | None" = None
    rest: "Node | None" = None  # {name:path} takes all that is left
    names: dict[str, str] = field(default_factory=dict)
    operations: dict[str, list[Operation]] = field(default_factory=dict)


class Router:
    """Paths to operations. A method may have several operations on one path that differ in their versions."""

    def __init__(self, services: list[Service]) -> None:
        self.root = Node()
        self.prefixes: list[tuple[list[str], Service]] = []
        for service in services:
            self.prefixes.append((split_path(service.prefix), service))
            for noun in service.nouns:
                self._add_noun(service, noun)
            for route in service.routes:
                self._add(service.prefix + route.path, route.method, Operation(service, "route", None, route))
        self.prefixes.sort(key=lambda item: -len(item[0]))

    def _add_noun(self, service: Service, noun: Noun) -> None:
        base, item = service.prefix + noun.path, f"{service.prefix}{noun.path}/{{id}}"
        for route in noun.routes:
            path = service.prefix + noun.path + route.path
            self._add(path, route.method, Operation(service, "route", noun, route))
        for kind in noun.policy:
            if kind == "list":
                self._add(base, "GET", Operation(service, "list", noun))
                if noun.detail:
                    self._add(f"{base}/detail", "GET", Operation(service, "detail", noun))
            elif kind == "create":
                self._add(base, "POST", Operation(service, "create", noun))
            else:
                method = {"show": "GET", "update": noun.update_method, "delete": "DELETE"}[kind]
                self._add(item, method, Operation(service, kind, noun))
        if noun.verbs:
            self._add(f"{item}/action", "POST", Operation(service, "action", noun))

    def _add(self, path: str, method: str, operation: Operation) -> None:
        node = self.root
        for part in split_path(path):
            if part.startswith("{") and part.endswith(":path}"):
                node.rest = node.rest or Node()
                node = node.rest
                node.names[method] = part[1:-6]
            elif part.startswith("{"):
                node.any_child = node.any_child or Node()
                node = node.any_child
            else:
                node = node.children.setdefault(part, Node())
        node.operations.setdefault(method, []).append(operation)

    def service_of(self, parts: list[str]) -> Service | None:
        for prefix, service in self.prefixes:
            if parts[: len(prefix)] == prefix:
                return service
        return None

    def find(self, parts: list[str]) -> tuple[Node, list[str]] | None:
        """The node of a path and the values of its variable parts, in order."""
        return _walk(self.root, parts, [])


def _walk(node: Node, parts: list[str], values: list[str]) -> tuple[Node, list[str]] | None:
    if not parts:
        return (node, values) if node.operations else None
    head, *tail = parts
    if (child := node.children.get(head)) is not None and (found := _walk(child, tail, values)) is not None:
        return found
    if node.any_child is not None and (found := _walk(node.any_child, tail, [*values, head])) is not None:
        return found
    if node.rest is not None:
        return node.rest, [*values, "/".join(parts)]
    return None


def split_path(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def dump(router: Router) -> list[dict[str, Any]]:
    """Every operation, for documents and tests: service, method, path, kind."""
    found: list[dict[str, Any]] = []

    def visit(node: Node, path: str) -> None:
        for method, operations in node.operations.items():
            found.extend({"method": method, "path": path or "/", "operation": o} for o in operations)
        for name, child in node.children.items():
            visit(child, f"{path}/{name}")
        if node.any_child:
            visit(node.any_child, f"{path}/{{}}")
        if node.rest:
            visit(node.rest, f"{path}/{{...}}")

    visit(router.root, "")
    return found
