"""Lists of servers come in order, what goes."""

from trilith.cluster.schema import steps

PHASE = "contract"


def upgrade() -> None:
    steps.drop_index("ix_compute_servers_deleted_at", table_name="compute_servers")
