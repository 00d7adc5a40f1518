"""The vocabulary of declarations: services, nouns, fields, verbs, routes.

A noun is declared once, in its own file: its fields with their kinds, versions and policies; who may do what; its
quota. From that
the kernel derives routes, validation, the SQL table, filters, sorting, paging, views at every microversion, and
status codes. What is irregular is a plain
function in the noun's file, registered on the noun: ``@SERVER.on("create")``.

**An operation that `policy` does not name does not exist.** Version numbers stand in declarations only.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from trilith.kernel.errors import Fault
from trilith.kernel.kinds import Bad, Choice, Flag, Id, Json, Kind, ListOf, Text, Time, Whole
from trilith.kernel.policy import settled
from trilith.kernel.statements import mine
from trilith.kernel.store import METADATA, missing
from trilith.kernel.versions import NEWEST, OLDEST, Stepped, Version, VersionRange

if TYPE_CHECKING:
    from trilith.kernel.notices import Notices
    from trilith.kernel.request import Ctx
    from trilith.kernel.store import Tx
    from trilith.kernel.wire import Wire

Row = dict[str, Any]
ABSENT: Any = object()  # what `Field.show` gives where the field is left out of this view
Use = Literal["no", "optional", "required"]
Filter = Callable[["Ctx", list[str]], sa.ColumnElement[bool] | None]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One attribute of a noun: a column, an input, something computed, or all of these."""

    kind: Kind = Text()
    create: Use = "no"  # may, must, may not stand in a creation's body
    update: bool = False
    default: Any = None  # at creation; a function is called with the Ctx
    null: bool = False  # null is taken (and stored)
    since: Version = OLDEST  # the microversions that have it
    until: Version = NEWEST
    accept_since: Version | None = None  # where requests may hold it differs from where replies do
    accept_until: Version | None = None
    wire: str = ""  # its name in JSON where that is not its column's: "OS-EXT-STS:vm_state"
    stored: bool = True  # has a column
    show: Callable[[Row, "Ctx"], Any] | None = None  # computes what is shown
    hidden: bool = False  # never shown
    brief: bool = False  # also in the short form of a list
    optional_in_view: bool = False  # left out where `show` gives None
    filter: bool | Filter = False
    sort: bool = False
    policy: str = ""  # who may set it, beyond who may create or update
    see: str = ""  # who may see it
    extension: str = ""  # the Neutron extension that it belongs to
    index: bool = False

    def accepted(self, at: Version) -> bool:
        since = self.since if self.accept_since is None else self.accept_since
        until = self.until if self.accept_until is None else self.accept_until
        return since <= at <= until

    def visible(self, at: Version) -> bool:
        return not self.hidden and self.since <= at <= self.until

    def but(self, **changes: Any) -> "Field":
        return replace(self, **changes)


def text(limit: int = 255, pattern: str = "", least: int = 0, strip: bool = False, **more: Any) -> Field:
    return Field(kind=Text(limit, least, pattern, strip), **more)


def whole(low: int = 0, high: int = 2**31 - 1, **more: Any) -> Field:
    return Field(kind=Whole(low, high), **more)


def flag(**more: Any) -> Field:
    return Field(kind=Flag(), **more)


def choice(*options: Any, **more: Any) -> Field:
    return Field(kind=Choice(options), **more)


def ident(**more: Any) -> Field:
    """A UUID."""
    return Field(kind=Id(), **more)


def time(**more: Any) -> Field:
    return Field(kind=Time(), **more)


def json(**more: Any) -> Field:
    return Field(kind=Json(), **more)


def listing(of: Kind, **more: Any) -> Field:
    more.setdefault("default", list)
    return Field(kind=ListOf(of), **more)


def computed(show: Callable[[Row, "Ctx"], Any], **more: Any) -> Field:
    """Shown, never stored, never taken."""
    return Field(stored=False, show=show, **more)


def given(kind: Kind, **more: Any) -> Field:
    """Taken, never stored under its own name, never shown."""
    more.setdefault("create", "optional")
    return Field(kind=kind, stored=False, hidden=True, **more)


@dataclass(frozen=True)
class Quota:
    """A counted limit: `count(tx, project_id)` says what is used; by default the rows that the project owns."""

    name: str
    default: int
    count: Callable[[Any, str], int] | None = None


@dataclass(frozen=True)
class Verb:
    """``POST /{noun}/{id}/action`` with the verb as the body's only key. `run(ctx, row, body)` returns a body."""

    run: Callable[["Ctx", Row, Any], Any]
    policy: str
    body: Kind = Json()
    status: Stepped = 202
    since: Version = OLDEST
    until: Version = NEWEST


@dataclass(frozen=True)
class Route:
    """Any other operation: `run(ctx)`, or `run(ctx, row)` below a noun's member."""

    method: str
    path: str
    run: Callable[..., Any]
    policy: str
    status: Stepped = 200
    body: Kind | None = None
    since: Version = OLDEST
    until: Version = NEWEST
    noun: "Noun | None" = None
    member: bool = False
    stream: bool = False  # reads its body by itself, opens its own transactions
    media: tuple[str, ...] = ()  # content types besides application/json
    write: bool | None = None  # default: everything but GET and HEAD
    name: str = ""


class Service:
    """One entry of the catalogue."""

    def __init__(
        self,
        name: str,
        type_: str,
        prefix: str,
        wire: "Wire",
        versions: VersionRange | None = None,
        project_in_path: bool = False,
        listed: bool = True,
        plain_prefix: str = "",
    ) -> None:
        self.name, self.type, self.prefix, self.wire = name, type_, prefix, wire
        self.versions = versions
        self.project_in_path = project_in_path
        self.plain_prefix = plain_prefix  # where the same is served to those who know no microversions
        self.nouns: list[Noun] = []
        self.routes: list[Route] = []
        self.quotas: dict[str, Quota] = {}
        self.notices: Notices | None = None  # what billing and audit tools are told of its rows
        if listed:
            SERVICES.append(self)

    def route(
        self, method: str, path: str, policy: str, **more: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def add(run: Callable[..., Any]) -> Callable[..., Any]:
            self.routes.append(Route(method, path, run, policy, **more))
            return run

        return add

    def quota(self, name: str, default: int, count: Callable[[Any, str], int] | None = None) -> None:
        """A limit that no single noun owns (cores, gigabytes)."""
        self.quotas[name] = Quota(name, default, count)


SERVICES: list[Service] = []


class Shape:
    """How a noun's rows are shown at one version to callers with the same rights: plain columns at once, in the order
    of the declaration, then what is computed. `sees`: what each rule says of the caller (see `policy.settled`)."""

    def __init__(self, fields: Sequence[tuple[str, str, Field]], sees: Mapping[str, bool | None], extra: bool) -> None:
        shown = [entry for entry in fields if not entry[2].see or sees[entry[2].see] is not False]
        plain = [item.show is None and item.stored and not item.optional_in_view for _, _, item in shown]
        self.labels = tuple(label for _, label, _ in shown)
        self.columns = tuple(name if is_plain else "id" for (name, _, _), is_plain in zip(shown, plain, strict=True))
        self.computed = [
            (label, item.show or _column(name), item.optional_in_view, "" if sees.get(item.see) else item.see)
            for (name, label, item), is_plain in zip(shown, plain, strict=True)
            if not is_plain or (item.see and not sees[item.see])
        ]
        self.values = itemgetter(*self.columns, "id")
        self.extra = extra

    def view(self, row: Row, ctx: "Ctx") -> Row:
        try:
            values = self.values(row)
        except KeyError:  # not a table's row
            values = tuple(map(row.get, (*self.columns, "id")))
        out: Row = dict(zip(self.labels, values, strict=False))
        for label, show, optional, see in self.computed:
            value = ABSENT if see and not ctx.may(see, row) else show(row, ctx)
            if value is ABSENT or (value is None and optional):
                del out[label]
            else:
                out[label] = value
        if self.extra and (extra := row.get("extra")):
            for label, value in extra.items():
                out.setdefault(label, value)
        return out


class Noun:
    """A resource. See the module's docstring; the arguments:

    `path` below the service's prefix; parts in braces are columns of the row (``/servers/{server_id}/tags``),
    `parent` the noun that the last of
    them is the key of. `policy` maps an operation (list show create update delete) to rules. `owner` is the column
    that scopes rows to a project
    (None: everybody sees all). `scope(ctx)` replaces that by a condition. `derive(row)` computes stored columns (a
    public status) from others
    at every write. `expand(ctx, rows)` adds what views need, in bulk. `wakes(row)` names the hint topics of a write.
    `extra` takes unknown attributes, kept in one JSON column. `filters` are query keys beyond the fields' own.
    `hidden_in_lists` are columns that views do not need: the rows of lists come without them. `indexes` are those of
    several columns.
    """

    def __init__(
        self,
        service: Service,
        name: str,
        path: str,
        fields: Mapping[str, Field],
        policy: Mapping[str, str],
        *,
        plural: str = "",
        key: str = "id",
        owner: str | None = "project_id",
        parent: "Noun | None" = None,
        quota: Quota | None = None,
        status: Mapping[str, Stepped] | None = None,
        verbs: Mapping[str, Verb] | None = None,
        unique: Sequence[tuple[str, ...]] = (),
        detail: bool = False,
        extra: Kind | None = None,
        scope: Callable[["Ctx"], sa.ColumnElement[bool] | None] | None = None,
        derive: Callable[[Row], Row] = lambda row: {},
        expand: Callable[["Ctx", list[Row]], None] | None = None,
        wakes: Callable[[Row], Iterable[str]] | None = None,
        filters: Mapping[str, Filter] | None = None,
        order: Sequence[tuple[str, str]] = (("created_at", "desc"), ("id", "desc")),
        since: Version = OLDEST,
        until: Version = NEWEST,
        table: str | sa.Table = "",
        type_name: str = "",
        extension: str = "",
        envelope: str | None = "",
        update_method: str = "",
        beside: Sequence[str] = (),
        hidden_in_lists: Sequence[str] = (),
        indexes: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self.service, self.name, self.path = service, name, path
        self.plural = plural or path.rsplit("/", 1)[1].removeprefix("os-").replace("-", "_")
        self.fields = dict(fields)
        self.policy, self.key, self.owner, self.parent = dict(policy), key, owner, parent
        self.quota, self.status, self.verbs = quota, dict(status or {}), dict(verbs or {})
        self.unique, self.detail, self.extra, self.order = unique, detail, extra, tuple(order)
        self.custom_scope, self.derive, self.expand, self.wakes = scope, derive, expand, wakes
        self.filters = dict(filters or {})
        self.since, self.until = since, until
        self.type_name = type_name or "".join(part.capitalize() for part in name.split("_"))
        self.extension = extension
        self.envelope = name if envelope == "" else envelope
        self.update_method = update_method or service.wire.update_method
        self.beside = frozenset(beside)
        self.identity = "id"
        self.operations: dict[str, Callable[..., Any]] = {}
        self.routes: list[Route] = []
        self.follows: list[Callable[[Tx, Row | None, Row | None], None]] = []  # called at every change of a row
        self._sees = sorted({item.see for item in self.fields.values() if item.see})
        self._shapes: dict[Any, Shape] = {}
        self.statements: dict[Any, sa.Select[Any]] = {}  # see `statements`
        if not isinstance(table, sa.Table):  # else: the same rows under another path
            table = self._make_table(table or f"{service.name}_{self.plural}")
            for names in indexes:
                sa.Index(f"ix_{table.name}_{'_'.join(names)}", *(table.c[name] for name in names))
        self.table: sa.Table = table
        this, unchanged = (
            table.c["id"] == sa.bindparam("at_identity"),
            table.c.generation == sa.bindparam("at_generation"),
        )
        self.inserts, self.updates = table.insert(), table.update().where(this, unchanged)
        self.deletes = table.delete().where(this)
        self.listed = sa.select(*(column for column in self.table.c if column.name not in hidden_in_lists))
        if quota:
            service.quotas[quota.name] = quota
        service.nouns.append(self)

    # what irregular operations are registered with
    def on(self, operation: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Replaces a regular operation: ``list(ctx) -> rows``, ``show(ctx, row) -> row``, ``create(ctx, new) ->
        row``,
        ``update(ctx, row, changes) -> row``, ``delete(ctx, row) -> None``."""

        def add(run: Callable[..., Any]) -> Callable[..., Any]:
            self.operations[operation] = run
            return run

        return add

    def route(
        self, method: str, path: str, policy: str, member: bool = True, **more: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """An operation below the noun's path; with `member` the path begins with ``/{id}`` and `run` gets the row."""

        def add(run: Callable[..., Any]) -> Callable[..., Any]:
            self.routes.append(Route(method, path, run, policy, noun=self, member=member, **more))
            return run

        return add

    def verb(self, name: str, policy: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """An action: ``POST .../{id}/action``."""

        def add(run: Callable[..., Any]) -> Callable[..., Any]:
            self.verbs[name] = Verb(run, policy, **more)
            return run

        return add

    # what the kernel asks
    def _make_table(self, name: str) -> sa.Table:
        columns: dict[str, sa.Column[Any]] = {"id": sa.Column("id", sa.String(64), primary_key=True)}
        for column, item in self.fields.items():
            if item.stored and column != "id":
                columns[column] = sa.Column(column, item.kind.column(), index=item.index or column == self.owner)
        if self.owner and self.owner not in columns:
            columns[self.owner] = sa.Column(self.owner, sa.String(64), index=True)
        if self.extra:
            columns["extra"] = sa.Column("extra", sa.JSON())
        columns.setdefault("created_at", sa.Column("created_at", sa.String(26)))
        columns.setdefault("updated_at", sa.Column("updated_at", sa.String(26)))
        columns["generation"] = sa.Column("generation", sa.Integer(), nullable=False)
        rules = [sa.UniqueConstraint(*names) for names in self.unique]
        return sa.Table(name, METADATA, *columns.values(), *rules)

    @property
    def c(self) -> Any:
        """The columns, for conditions: ``SERVER.c.host == "c1"``."""
        return self.table.c

    def blank(self) -> Row:
        """A row of defaults (those that need no request)."""
        found: Row = {"extra": {}} if self.extra else {}
        for name, item in self.fields.items():
            if item.stored and not (callable(item.default) and item.default not in (list, dict)):
                found[name] = item.default() if callable(item.default) else item.default
        return found

    def scope(self, ctx: "Ctx") -> sa.ColumnElement[bool] | None:
        """What rows the caller may see at all."""
        if self.custom_scope is not None:
            return self.custom_scope(ctx)
        if self.owner is None or ctx.who.is_admin:
            return None
        return mine(self.c[self.owner], "user_id" if self.owner == "user_id" else "project_id", ctx.who)

    def missing(self, key: str) -> Fault:
        fault = missing(self.name, key)
        fault.type_name = f"{self.type_name}NotFound"
        return fault

    def duplicate(self, row: Mapping[str, Any]) -> Fault:
        label = row.get("name") or row.get(self.key)
        return Fault(
            "conflict",
            f"{self.name.replace('_', ' ').capitalize()} '{label}' already exists.",
            f"{self.type_name}Duplicate",
        )

    def accept(self, ctx: "Ctx", body: Any, operation: Literal["create", "update"]) -> Row:
        """A request's body at the asked version, checked, as columns and inputs; defaults filled in at creation."""
        return accept(self.fields, body, operation, ctx, self.envelope or self.name, self.extra)

    def view(self, ctx: "Ctx", row: Row, brief: bool = False) -> Row:
        """A row as JSON at the asked version. Rows that views need related rows for were given to `expand` first."""
        return self.views(ctx, [row], brief)[0]

    def views(self, ctx: "Ctx", rows: Iterable[Row], brief: bool = False) -> list[Row]:
        """The same for many."""
        sees = [(rules, settled(rules, ctx.who)) for rules in self._sees]
        key = (ctx.at, brief, *sees)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = Shape(
                self._shown(ctx.at, brief), dict(sees), self.extra is not None and not brief
            )
        return [shape.view(row, ctx) for row in rows]

    def _shown(self, at: Version, brief: bool) -> list[tuple[str, str, Field]]:
        return [
            (name, item.wire or name, item)
            for name, item in self.fields.items()
            if item.visible(at) and (item.brief or not brief)
        ]

    def by_wire(self) -> dict[str, tuple[str, Field]]:
        cache = self.__dict__.get("_by_wire")
        if cache is None:
            cache = self.__dict__["_by_wire"] = {item.wire or name: (name, item) for name, item in self.fields.items()}
        return cache


def accept(
    fields: Mapping[str, Field],
    body: Any,
    operation: Literal["create", "update"],
    ctx: "Ctx",
    label: str,
    extra: Kind | None = None,
) -> Row:
    """See `Noun.accept`; usable for any dict of fields."""
    if not isinstance(body, dict):
        raise Bad(label, body, f"{body!r} is not of type 'object'")
    at = ctx.at
    known = {item.wire or name: (name, item) for name, item in fields.items()}
    clean: Row = {}
    for label_, value in body.items():
        name, item = known.get(label_, (label_, None))
        if item is None or not item.accepted(at):
            if extra is None:
                raise Bad(label_, value, f"'{label_}' was unexpected", "unknown")
            clean.setdefault("extra", {})[label_] = extra.check(value, label_, at)
            continue
        if not (item.create != "no" if operation == "create" else item.update):
            if extra is not None and item.stored is False:
                continue
            raise Bad(label_, value, f"'{label_}' is not allowed in a request to {operation}", "readonly")
        clean[name] = None if value is None and item.null else item.kind.check(value, label_, at)
        default_again = operation == "create" and clean[name] == item.default
        if item.policy and not default_again and not ctx.may(item.policy, None):
            raise Fault(
                "forbidden",
                f"Policy doesn't allow {label}:{operation}:{label_} to be performed.",
                "PolicyNotAuthorized",
            )
    if operation == "create":
        for name, item in fields.items():
            if name in clean:
                continue
            if item.create == "required" and item.accepted(at):
                raise Bad(item.wire or name, None, f"'{item.wire or name}' is a required property", "required")
            if item.stored or item.create != "no":
                clean[name] = _default(item, ctx)
    return clean


def _column(name: str) -> Callable[[Row, "Ctx"], Any]:
    return lambda row, ctx: row.get(name)


def _default(item: Field, ctx: "Ctx") -> Any:
    if not callable(item.default):
        return item.default
    return item.default() if item.default in (list, dict) else item.default(ctx)


def new_id(seed: str, number: int) -> str:
    """Ids of one request are the same each time its transaction runs."""
    return str(uuid.uuid5(uuid.UUID(seed), str(number)))
