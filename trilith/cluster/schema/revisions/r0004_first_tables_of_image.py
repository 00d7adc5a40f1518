"""First tables of image."""

import sqlalchemy as sa

from trilith.cluster.schema import steps

PHASE = "expand"


def upgrade() -> None:
    steps.create_table(
        "image_images",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255)),
        sa.Column("phase", sa.String(length=16)),
        sa.Column("deactivated", sa.Boolean()),
        sa.Column("status", sa.String(length=30)),
        sa.Column("visibility", sa.String(length=64)),
        sa.Column("protected", sa.Boolean()),
        sa.Column("os_hidden", sa.Boolean()),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("disk_format", sa.String(length=64)),
        sa.Column("container_format", sa.String(length=64)),
        sa.Column("min_disk_gib", sa.Integer()),
        sa.Column("min_ram_mib", sa.Integer()),
        sa.Column("size_bytes", sa.BigInteger()),
        sa.Column("virtual_size_bytes", sa.BigInteger()),
        sa.Column("checksum", sa.String(length=32)),
        sa.Column("os_hash_algo", sa.String(length=16)),
        sa.Column("os_hash_value", sa.String(length=128)),
        sa.Column("tags", sa.JSON()),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("busy_until", sa.String(length=26)),
        sa.Column("busy_token", sa.String(length=64)),
        sa.Column("method", steps.LONG_TEXT),
        sa.Column("extra", sa.JSON()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        steps.Index("ix_image_images_project_id", ["project_id"]),
    )
    steps.create_table(
        "image_members",
        sa.Column("image_id", sa.String(length=64), nullable=False),
        sa.Column("member_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.String(length=26), nullable=False),
        sa.Column("updated_at", sa.String(length=26), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "member_id"),
    )
    steps.create_table(
        "image_tasks",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.String(length=64)),
        sa.Column("type", sa.String(length=64)),
        sa.Column("status", sa.String(length=64)),
        sa.Column("project_id", sa.String(length=64)),
        sa.Column("user_id", sa.String(length=64)),
        sa.Column("request_id", sa.String(length=64)),
        sa.Column("message", steps.LONG_TEXT),
        sa.Column("created_at", sa.String(length=26)),
        sa.Column("updated_at", sa.String(length=26)),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        steps.Index("ix_image_tasks_image_id", ["image_id"]),
    )
