"""The northbound database as a dict: same interface and same rules as `ovn.Northbound`, no engine."""

import threading
from collections.abc import Callable, Iterable

from trilith.drivers.ovn import COLUMNS, Change, Row, Rows
from trilith.kernel.errors import Refused, Unavailable

REFERENCES = {
    ("Logical_Switch", "ports"): "Logical_Switch_Port",
    ("Logical_Switch", "dns_records"): "DNS",
    ("Logical_Switch_Port", "dhcpv4_options"): "DHCP_Options",
    ("Logical_Switch_Port", "dhcpv6_options"): "DHCP_Options",
    ("Logical_Router", "ports"): "Logical_Router_Port",
    ("Logical_Router", "static_routes"): "Logical_Router_Static_Route",
    ("Logical_Router", "nat"): "NAT",
    ("Logical_Router_Port", "gateway_chassis"): "Gateway_Chassis",
    ("Port_Group", "ports"): "Logical_Switch_Port",
    ("Port_Group", "acls"): "ACL",
}


class FakeNorthbound:
    """Ports are up as soon as a test (or a fake host) says so with `set_up`; `away` makes every call `Unavailable`."""

    def __init__(self) -> None:
        self.away = False
        self._rows: Rows = {table: {} for table in COLUMNS}
        self._up: set[str] = set()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._epoch = 0

    def close(self) -> None:
        self._callbacks.clear()

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def read(self) -> Rows:
        self._check_present()
        with self._lock:
            return {table: {key: dict(row) for key, row in rows.items()} for table, rows in self._rows.items()}

    def ports_up(self) -> set[str]:
        self._check_present()
        with self._lock:
            return {row["name"] for key, row in self._rows["Logical_Switch_Port"].items() if key in self._up}

    def set_up(self, port: str, up: bool = True) -> None:
        self._up = self._up | {port} if up else self._up - {port}
        self._tell()

    def take(self, epoch: int, force: bool = False) -> None:
        self._check_present()
        if epoch < self._epoch and not force:
            raise Unavailable(f"Written under lease {self._epoch}, this is {epoch}: another controller has taken over.")
        self._epoch = epoch

    def apply(self, changes: Iterable[Change]) -> None:
        self._check_present()
        with self._lock:
            rows = {table: {key: dict(row) for key, row in keyed.items()} for table, keyed in self._rows.items()}
            for change in changes:
                _apply_one(rows, *change)
            _check(rows)
            changed, self._rows = rows != self._rows, rows
        if changed:
            self._tell()

    def replace(self, rows: Rows) -> None:
        self._check_present()
        new = {table: {key: dict(row) for key, row in rows.get(table, {}).items()} for table in COLUMNS}
        _check(new)
        with self._lock:
            self._rows = new
        self._tell()

    def _check_present(self) -> None:
        if self.away:
            raise Unavailable("OVN_Northbound does not answer.")

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()


def _apply_one(rows: Rows, what: str, table: str, key: str, columns: Row) -> None:
    if what == "delete":
        rows[table].pop(key, None)
        return
    if what == "update" and key not in rows[table]:
        raise Unavailable(f"{table} {key} went away meanwhile; read again.")
    row = rows[table].setdefault(key, {})
    for column, value in columns.items():
        if value in (None, "", [], {}):
            row.pop(column, None)
        else:
            row[column] = sorted(value) if isinstance(value, list) else value


def _check(rows: Rows) -> None:
    """What the database would not take: an unknown column, a reference to nothing, a second port of the same name."""
    for table, keyed in rows.items():
        for key, row in keyed.items():
            if unknown := row.keys() - set(COLUMNS[table]):
                raise Refused(f"{table} {key} has unknown columns {sorted(unknown)}.")
            for column, value in row.items():
                target = REFERENCES.get((table, column))
                named = [] if target is None else value if isinstance(value, list) else [value]
                if missing := [name for name in named if name not in rows[target or ""]]:
                    raise Unavailable(f"{table} {key} refers to {target} {missing[0]}, which is not there.")
    for table in ("Logical_Switch_Port", "Logical_Router_Port", "Port_Group", "Gateway_Chassis"):
        names = [row.get("name") for row in rows[table].values()]
        if len(names) != len(set(names)):
            raise Refused(f"Two rows of {table} have the same name.")
