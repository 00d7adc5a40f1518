"""What an operation is given: the transaction, the caller, the version, the query, the body."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trilith.kernel.declare import new_id
from trilith.kernel.errors import Fault
from trilith.kernel.policy import NOBODY, Principal, Row, allowed
from trilith.kernel.store import Store, Tx
from trilith.kernel.versions import OLDEST, Version

if TYPE_CHECKING:
    from trilith.kernel.declare import Noun, Service


@dataclass
class Reply:
    """A reply that is not simply a JSON body with the operation's usual status."""

    body: Any = None  # JSON; bytes or an iterable of bytes are sent as they are; a function makes it after the commit
    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Ctx:
    """One request. A new one is made when its transaction runs again."""

    store: Store
    service: "Service"
    method: str
    url_path: str
    base_url: str  # scheme and host: "http://127.0.0.1:8774"
    request_id: str  # "req-" and a UUID
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    query: dict[str, list[str]] = field(default_factory=dict)
    path: dict[str, str] = field(default_factory=dict)  # the variable parts, by name
    path_values: list[str] = field(default_factory=list)  # the same before their names are known
    who: Principal = NOBODY
    at: Version = OLDEST
    body: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    read_body: Callable[[int], bytes] = lambda size: b""
    parent: dict[str, Any] | None = None
    reply_headers: list[tuple[str, str]] = field(default_factory=list)
    _tx: Tx | None = None
    _ids: int = 0

    @property
    def tx(self) -> Tx:
        if self._tx is None:
            raise RuntimeError("a streaming operation opens its own transactions: ctx.store.run(...)")
        return self._tx

    def enter(self, tx: Tx) -> None:
        """The request goes on in this transaction (from the beginning, where it is not the first)."""
        self._tx, self._ids, tx.who = tx, 0, {"who_project_id": self.who.project_id, "who_user_id": self.who.user_id}

    def new_id(self) -> str:
        """A UUID for a new row; the same one when the transaction is repeated."""
        self._ids += 1
        return new_id(self.request_id.removeprefix("req-"), self._ids)

    def new_hex(self) -> str:
        """The same without dashes, as identity's ids are."""
        return uuid.UUID(self.new_id()).hex

    def may(self, rules: str, row: Row | None = None) -> bool:
        return allowed(rules, self.who, row)

    def require(self, rules: str, what: str, row: Row | None = None) -> None:
        """403 unless the caller may; `what` is the policy's public name."""
        if not self.may(rules, row):
            raise forbidden(what)

    def one(self, name: str, default: str | None = None) -> str | None:
        """A query parameter's last value."""
        values = self.query.get(name)
        return values[-1] if values else default

    def find(self, noun: "Noun", key: str | None) -> dict[str, Any]:
        """The row if the caller may see it; else missing."""
        return self.tx.get(noun, key, noun.scope(self))

    def show(self, noun: "Noun", row: dict[str, Any], brief: bool = False) -> dict[str, Any]:
        """One row's view, related rows fetched."""
        return self.show_all(noun, [row], brief)[0]

    def show_all(self, noun: "Noun", rows: Iterable[dict[str, Any]], brief: bool = False) -> list[dict[str, Any]]:
        found = list(rows)
        if noun.expand:
            noun.expand(self, found)
        return noun.views(self, found, brief)

    def url(self, path: str) -> str:
        """An absolute URL below the service's prefix."""
        return f"{self.base_url}{self.service.prefix}{path}"

    def chunks(self, size: int = 1 << 18) -> Iterator[bytes]:
        """The body of a streaming operation."""
        while part := self.read_body(size):
            yield part


def forbidden(what: str) -> Fault:
    return Fault("forbidden", f"Policy doesn't allow {what} to be performed.", "PolicyNotAuthorized", what=what)
