"""First tables of placement."""

import sqlalchemy as sa

from trilith.cluster.schema import steps

PHASE = "expand"


def upgrade() -> None:
    steps.create_table(
        "placement_hosts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("number", sa.Integer()),
        sa.Column("roles", sa.JSON()),
        sa.Column("availability_zone", sa.String(length=255)),
        sa.Column("disabled", sa.Boolean()),
        sa.Column("disabled_reason", sa.String(length=255)),
        sa.Column("storage_disabled", sa.Boolean()),
        sa.Column("storage_disabled_reason", sa.String(length=255)),
        sa.Column("forced_down", sa.Boolean()),
        sa.Column("maintenance", sa.Boolean()),
        sa.Column("barred", sa.String(length=255)),
        sa.Column("knocked_at_s", sa.JSON()),
        sa.Column("inventory", sa.JSON()),
        sa.Column("versions", sa.JSON()),
        sa.Column("boot_id", sa.String(length=64)),
        sa.Column("epoch", sa.Integer()),
        sa.Column("seen_at_s", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
