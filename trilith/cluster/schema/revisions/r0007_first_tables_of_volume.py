"""First tables of volume."""

import sqlalchemy as sa

from trilith.cluster.schema import steps

PHASE = "expand"


def upgrade() -> None:
    steps.create_table(
        "volume_attachments",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("volume_id", sa.String(length=64)),
        sa.Column("server_id", sa.String(length=64)),
        sa.Column("status", sa.String(length=16)),
        sa.Column("mode", sa.String(length=4)),
        sa.Column("attached_at", sa.String(length=26)),
        sa.Column("connection_info", sa.JSON()),
        sa.Column("host", sa.String(length=255)),
        sa.Column("device", sa.String(length=255)),
        sa.Column("by_network", sa.Boolean()),
        sa.Column("project_id", sa.String(length=64)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index("ix_volume_attachments_project_id", "volume_attachments", ["project_id"], unique=False)
    steps.create_index("ix_volume_attachments_server_id", "volume_attachments", ["server_id"], unique=False)
    steps.create_index("ix_volume_attachments_volume_id", "volume_attachments", ["volume_id"], unique=False)
    steps.create_table(
        "volume_shared_storage",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("images_pool", sa.String(length=64)),
        sa.Column("volumes_pool", sa.String(length=64)),
        sa.Column("machines_pool", sa.String(length=64)),
        sa.Column("health", sa.String(length=32)),
        sa.Column("problems", sa.JSON()),
        sa.Column("total_gib", sa.Integer()),
        sa.Column("free_gib", sa.Integer()),
        sa.Column("seen_at_s", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_table(
        "volume_snapshots",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", sa.String(length=255)),
        sa.Column("volume_id", sa.String(length=64)),
        sa.Column("volume_size_gib", sa.Integer()),
        sa.Column("status", sa.String(length=32)),
        sa.Column("metadata", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("user_id", sa.String(length=64)),
        sa.Column("deleting", sa.Boolean()),
        sa.Column("seen", sa.Boolean()),
        sa.Column("fault", steps.LONG_TEXT),
        sa.Column("forced_status", sa.String(length=32)),
        sa.Column("told_progress", sa.String(length=8)),
        sa.Column("project_id", sa.String(length=64)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index("ix_volume_snapshots_project_id", "volume_snapshots", ["project_id"], unique=False)
    steps.create_index("ix_volume_snapshots_volume_id", "volume_snapshots", ["volume_id"], unique=False)
    steps.create_table(
        "volume_transfers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("volume_id", sa.String(length=64)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("source_project_id", sa.String(length=64)),
        sa.Column("destination_project_id", sa.String(length=64)),
        sa.Column("accepted", sa.Boolean()),
        sa.Column("no_snapshots", sa.Boolean()),
        sa.Column("salt", sa.String(length=64)),
        sa.Column("key_hash", sa.String(length=128)),
        sa.Column("project_id", sa.String(length=64)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index("ix_volume_transfers_project_id", "volume_transfers", ["project_id"], unique=False)
    steps.create_table(
        "volume_type_access",
        sa.Column("type_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("type_id", "project_id"),
    )
    steps.create_table(
        "volume_volume_types",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", sa.String(length=255)),
        sa.Column("is_public", sa.Boolean()),
        sa.Column("extra_specs", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    steps.create_table(
        "volume_volumes",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("description", sa.String(length=255)),
        sa.Column("size_gib", sa.Integer()),
        sa.Column("status", sa.String(length=32)),
        sa.Column("user_id", sa.String(length=64)),
        sa.Column("availability_zone", sa.String(length=255)),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("type_id", sa.String(length=64)),
        sa.Column("snapshot_id", sa.String(length=64)),
        sa.Column("source_volid", sa.String(length=64)),
        sa.Column("metadata", sa.JSON()),
        sa.Column("bootable", sa.Boolean()),
        sa.Column("multiattach", sa.Boolean()),
        sa.Column("host", sa.String(length=255)),
        sa.Column("image_metadata", sa.JSON()),
        sa.Column("readonly", sa.Boolean()),
        sa.Column("pool", sa.String(length=64)),
        sa.Column("source", sa.JSON()),
        sa.Column("deleting", sa.Boolean()),
        sa.Column("uploads", sa.JSON()),
        sa.Column("transferring", sa.Boolean()),
        sa.Column("attach_phase", sa.String(length=16)),
        sa.Column("forced_status", sa.String(length=32)),
        sa.Column("path", sa.String(length=1024)),
        sa.Column("seen_size_gib", sa.Integer()),
        sa.Column("seen_error", steps.LONG_TEXT),
        sa.Column("export", sa.JSON()),
        sa.Column("fault", steps.LONG_TEXT),
        sa.Column("transient_since", sa.String(length=26)),
        sa.Column("project_id", sa.String(length=64)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    steps.create_index("ix_volume_volumes_project_id", "volume_volumes", ["project_id"], unique=False)
