"""Lists of servers come in order."""

from trilith.cluster.schema import steps

PHASE = "expand"


def upgrade() -> None:
    steps.create_index("ix_compute_servers_created_at_id", "compute_servers", ["created_at", "id"], unique=False)
    steps.create_index(
        "ix_compute_servers_project_id_deleted_at_created_at_id",
        "compute_servers",
        ["project_id", "deleted_at", "created_at", "id"],
        unique=False,
    )
