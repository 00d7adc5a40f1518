"""Copies of one server in nova's databases: making thousands through the API would take hours."""

import uuid
from typing import Any

from pymysql.cursors import DictCursor

OTHER_HOST = "compute2"  # nobody answers for it, so that the running nova-compute does not care
CELL_TABLES = (
    "instance_extra", "instance_info_caches", "block_device_mapping", "instance_system_metadata", "instance_metadata",
    "instance_actions",
)  # fmt: skip
API_TABLES = ("instance_mappings", "request_specs")
BATCH = 500
Row = dict[str, Any]


def copy_servers(connection: Any, server_id: str, count: int) -> None:
    with connection.cursor(DictCursor) as cursor:
        cursor.execute("SELECT * FROM nova.instances WHERE uuid = %s AND deleted = 0", (server_id,))
        server = cursor.fetchone()
        beside: dict[str, list[Row]] = {}
        for database, tables in (("nova", CELL_TABLES), ("nova_api", API_TABLES)):
            for table in tables:
                cursor.execute(f"SELECT * FROM {database}.{table} WHERE instance_uuid = %s", (server_id,))
                beside[f"{database}.{table}"] = list(cursor.fetchall())
        for begin in range(0, count, BATCH):
            _insert(cursor, server, beside, range(begin, min(begin + BATCH, count)))


def _insert(cursor: Any, server: Row, beside: dict[str, list[Row]], numbers: range) -> None:
    rows: dict[str, list[Row]] = {"nova.instances": [], **{table: [] for table in beside}}
    for number in numbers:
        new, name = str(uuid.uuid4()), f"copy-{number}"
        where = {"host": OTHER_HOST, "node": OTHER_HOST, "launched_on": OTHER_HOST, "compute_id": None}
        rows["nova.instances"].append(
            {**server, **where, "uuid": new, "hostname": name, "display_name": name, "reservation_id": f"r-{number}"}
        )
        for table, found in beside.items():
            for row in found:
                own = {"instance_uuid": new} | ({"uuid": str(uuid.uuid4())} if row.get("uuid") else {})
                rows[table].append({**row, **own})
    for table, found in rows.items():
        if found:
            names = [name for name in found[0] if name != "id"]
            words = f"INSERT INTO {table} ({', '.join(f'`{name}`' for name in names)})"
            marks = ", ".join(["%s"] * len(names))
            cursor.executemany(f"{words} VALUES ({marks})", [[row[name] for name in names] for row in found])
