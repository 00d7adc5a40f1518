"""OVN's northbound database: what the network should be, as rows that OVN makes true on every host.

Rows are plain: ``{table: {key: {column: value}}}``. A key is ours (a network's id, a rule's id) and stands in the row's
``external_ids:trilith:key``; rows without one belong to somebody else and are never read, changed or deleted.
A reference is the key of the other row. Normal form: a column at its default is absent, sets are sorted lists.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal
from uuid import UUID

from trilith.drivers.ovsdb import Operation, Replica, Tables, Tls, as_map, as_set, where
from trilith.kernel.errors import Unavailable

Row = dict[str, Any]
Rows = dict[str, dict[str, Row]]
Change = tuple[Literal["insert", "update", "delete"], str, str, Row]  # what, table, key, columns (None: to default)

KEY = "trilith:key"
FENCE = "trilith:epoch"
# Gateways watch each other five times a second: a dead one is noticed within a second, not within five.
OPTIONS = {"bfd-min-rx": "200", "bfd-min-tx": "200", "bfd-mult": "3"}
SCHEMA = "/usr/share/ovn/ovn-nb.ovsschema"
COLUMNS: dict[str, tuple[str, ...]] = {
    "Logical_Switch": ("name", "ports", "dns_records", "other_config"),
    "Logical_Switch_Port": (
        *("name", "type", "options", "addresses", "port_security", "enabled", "tag"),
        *("dhcpv4_options", "dhcpv6_options"),
    ),
    "Logical_Router": ("name", "ports", "static_routes", "nat", "enabled", "options"),
    "Logical_Router_Port": ("name", "mac", "networks", "gateway_chassis", "enabled", "options", "ipv6_ra_configs"),
    "Logical_Router_Static_Route": ("ip_prefix", "nexthop", "output_port"),
    "Gateway_Chassis": ("name", "chassis_name", "priority"),
    "NAT": ("type", "external_ip", "logical_ip"),
    "DHCP_Options": ("cidr", "options"),
    "DNS": ("records",),
    "Port_Group": ("name", "ports", "acls"),
    "ACL": ("priority", "direction", "match", "action"),
}
SEEN_ONLY = {"Logical_Switch_Port": ("up",)}  # OVN writes it
GLOBAL = "NB_Global"  # a table of one row


class Northbound:
    """A live copy of our rows in the northbound database at `remote`. Safe to use from several threads.

    Who writes says with `take` under which lease; from then on, nothing is written under an older one.
    """

    def __init__(self, remote: str, timeout_s: float = 10.0, tls: Tls | None = None) -> None:
        columns = {table: (*names, *SEEN_ONLY.get(table, ()), "external_ids") for table, names in COLUMNS.items()}
        columns[GLOBAL] = ("external_ids", "options")
        self._replica = Replica(remote, "OVN_Northbound", SCHEMA, columns, timeout_s, track=True, tls=tls)
        self._epoch: int | None = None
        self._known: dict[str, dict[UUID, tuple[str, Row]]] = {table: {} for table in COLUMNS}

    def close(self) -> None:
        self._replica.close()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Called after every change, in a thread of ours: set an event there, do not call back."""
        self._replica.on_change(callback)

    def read(self) -> Rows:
        """All rows of ours. Not to be changed by the caller. A second row with the same key has ``#uuid`` after it."""
        with self._replica.frozen() as tables:
            self._refresh(tables)
            return {table: {key: row for key, row, _ in self._named(table)} for table in COLUMNS}

    def ports_up(self) -> set[str]:
        """Names of the ports that are bound on a host and work."""
        with self._replica.frozen() as tables:
            rows = tables.rows("Logical_Switch_Port").values()
            return {
                tables.value(row, "name")
                for row in rows
                if _key_of(tables, row) and tables.value(row, "up") == [True] and not tables.value(row, "type")
            }

    def take(self, epoch: int, force: bool = False) -> None:
        """Write from now on under the lease with this epoch; whoever has an older one can write nothing any more.

        Raises `Unavailable` when the database has seen a newer one, unless `force`.
        """

        def build(tables: Tables) -> list[Operation]:
            for uuid, row in tables.rows(GLOBAL).items():
                ids, options = tables.value(row, "external_ids"), tables.value(row, "options")
                there = ids.get(FENCE)
                if int(there or 0) > epoch and not force:
                    raise Unavailable(
                        f"OVN's northbound database was written under lease {there}, this is {epoch}: another "
                        "controller has taken over. If SQL was restored from a backup: trilith repair network"
                    )
                if there == str(epoch) and options.items() >= OPTIONS.items():
                    return []
                mutations = [
                    ["external_ids", "delete", ["set", [FENCE]]],
                    ["external_ids", "insert", as_map({FENCE: str(epoch)})],
                    ["options", "delete", ["set", list(OPTIONS)]],
                    ["options", "insert", as_map(OPTIONS)],
                ]
                if there is None:  # an insertion leaves the epoch that somebody else has put there meanwhile
                    del mutations[0]
                    return [{"op": "mutate", "table": GLOBAL, "where": where(uuid), "mutations": mutations}]
                return [
                    _only_under(there),
                    {"op": "mutate", "table": GLOBAL, "where": where(uuid), "mutations": mutations},
                ]
            first = {"external_ids": as_map({FENCE: str(epoch)}), "options": as_map(OPTIONS)}
            return [{"op": "insert", "table": GLOBAL, "row": first}]

        self._replica.transact(build)
        self._epoch = epoch

    def apply(self, changes: Iterable[Change]) -> None:
        """All of them in one transaction. Inserting what is there updates it, deleting what is not there is nothing.

        Raises `Unavailable` (away, the rows changed since they were read, or another controller has taken over) or
        `Refused` (OVN does not take a row).
        """
        self._replica.transact(lambda tables: self._fenced(_Writer(tables, self._uuids(tables)).operations(changes)))

    def replace(self, rows: Rows) -> None:
        """Delete every row of ours and insert these, in one transaction: connections through the network live on."""

        def build(tables: Tables) -> list[Operation]:
            old = [
                {"op": "delete", "table": table, "where": where(uuid)}
                for table, uuids in self._uuids(tables).items()
                for uuid in uuids.values()
            ]
            changes: list[Change] = [
                ("insert", table, key, row) for table, keyed in rows.items() for key, row in keyed.items()
            ]
            return self._fenced([*old, *_Writer(tables, {}).operations(changes)])

        self._replica.transact(build)

    def _fenced(self, operations: list[Operation]) -> list[Operation]:
        return [_only_under(str(self._epoch)), *operations] if operations and self._epoch is not None else operations

    def _uuids(self, tables: Tables) -> dict[str, dict[str, UUID]]:
        self._refresh(tables)
        return {table: {key: uuid for key, _, uuid in self._named(table)} for table in COLUMNS}

    def _refresh(self, tables: Tables) -> None:
        """Bring `_known` up to date; only rows that changed are looked at."""
        for table, known in self._known.items():
            for gone in known.keys() - tables.rows(table).keys():
                del known[gone]
        for table, uuid in tables.take_changed():
            if table not in self._known:
                continue
            row = tables.rows(table).get(uuid)
            if row is not None and (key := _key_of(tables, row)):
                self._known[table][uuid] = (key, _plain(tables, table, row))
            else:
                self._known[table].pop(uuid, None)

    def _named(self, table: str) -> Iterable[tuple[str, Row, UUID]]:
        taken: set[str] = set()
        for uuid, (key, row) in self._known[table].items():
            yield (f"{key}#{uuid}" if key in taken else key), row, uuid
            taken.add(key)


def _only_under(epoch: str) -> Operation:
    """An operation that makes its transaction fail unless the database is at this epoch: no row of it, no change."""
    holds = [["external_ids", "includes", as_map({FENCE: epoch})]]
    return {"op": "wait", "timeout": 0, "table": GLOBAL, "where": holds, "columns": [], "until": "!=", "rows": []}


def _key_of(tables: Tables, row: Any) -> str:
    return str(tables.value(row, "external_ids").get(KEY, ""))


def _plain(tables: Tables, table: str, row: Any) -> Row:
    """A row in normal form."""
    plain: Row = {}
    for column in COLUMNS[table]:
        value = tables.value(row, column)
        kind = tables.kind(table, column)
        target = tables.references(table, column)
        if target:
            others = (tables.rows(target).get(uuid) for uuid in value)
            value = [key for other in others if other is not None and (key := _key_of(tables, other))]
        if isinstance(value, list):
            value = (value[0] if value else None) if kind.is_optional() else sorted(value)
        if value not in (None, "", [], {}):
            plain[column] = value
    return plain


class _Writer:
    """Turns changes into OVSDB operations, with the rows that exist and the rows being made as possible references."""

    def __init__(self, tables: Tables, uuids: dict[str, dict[str, UUID]]) -> None:
        self.tables = tables
        self.uuids = uuids
        self.new: dict[tuple[str, str], str] = {}

    def operations(self, changes: Iterable[Change]) -> list[Operation]:
        changes = list(changes)
        for what, table, key, _ in changes:
            if what == "insert" and not self._uuid(table, key):
                self.new[table, key] = f"n{len(self.new)}"
        return [operation for change in changes for operation in self._one(*change)]

    def _uuid(self, table: str, key: str) -> UUID | None:
        return self.uuids.get(table, {}).get(key)

    def _one(self, what: str, table: str, key: str, columns: Row) -> list[Operation]:
        uuid = self._uuid(table, key)
        if what == "delete":
            return [{"op": "delete", "table": table, "where": where(uuid)}] if uuid else []
        if uuid:
            return self._update(table, uuid, columns)
        if what == "update":
            raise Unavailable(f"{table} {key} went away meanwhile; read again.")
        row = {column: self._json(table, column, value) for column, value in columns.items()}
        row["external_ids"] = as_map({KEY: key})
        return [{"op": "insert", "table": table, "uuid-name": self.new[table, key], "row": row}]

    def _update(self, table: str, uuid: UUID, columns: Row) -> list[Operation]:
        """Plain columns are written; of a set of references only what differs is, so that others' references stay."""
        row, mutations = {}, []
        for column, value in columns.items():
            target = self.tables.references(table, column)
            if target and not self.tables.kind(table, column).is_optional():
                mutations += self._reference_mutations(table, uuid, column, target, value or [])
            else:
                row[column] = self._json(table, column, value)
        operations: list[Operation] = []
        if row:
            operations.append({"op": "update", "table": table, "where": where(uuid), "row": row})
        if mutations:
            operations.append({"op": "mutate", "table": table, "where": where(uuid), "mutations": mutations})
        return operations

    def _reference_mutations(self, table: str, uuid: UUID, column: str, target: str, keys: list[str]) -> list[Any]:
        rows = self.tables.rows(target)
        ours = {
            other
            for other in self.tables.value(self.tables.rows(table)[uuid], column)
            if other in rows and _key_of(self.tables, rows[other])
        }
        wanted = {self._uuid(target, key): key for key in keys if self._uuid(target, key)}
        added = [self._reference(target, key) for uuid_, key in wanted.items() if uuid_ not in ours]
        added += [self._reference(target, key) for key in keys if not self._uuid(target, key)]
        removed = [["uuid", str(other)] for other in ours - wanted.keys()]
        mutations = []
        if removed:
            mutations.append([column, "delete", as_set(removed)])
        if added:
            mutations.append([column, "insert", as_set(added)])
        return mutations

    def _reference(self, table: str, key: str) -> list[str]:
        if uuid := self._uuid(table, key):
            return ["uuid", str(uuid)]
        if name := self.new.get((table, key)):
            return ["named-uuid", name]
        raise Unavailable(f"{table} {key} went away meanwhile; read again.")

    def _json(self, table: str, column: str, value: Any) -> Any:
        kind = self.tables.kind(table, column)
        if kind.is_map():
            return as_map(value or {})
        if kind.n_min == 1 and kind.n_max == 1:
            return value if value is not None else kind.key.default().to_json()
        values = [] if value is None else value if isinstance(value, list) else [value]
        target = self.tables.references(table, column)
        return as_set([self._reference(target, each) if target else each for each in values])
