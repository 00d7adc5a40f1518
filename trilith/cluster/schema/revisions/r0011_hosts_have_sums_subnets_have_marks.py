"""Hosts have sums, subnets have marks."""

import sqlalchemy as sa

from trilith.cluster.schema import steps

PHASE = "expand"


def upgrade() -> None:
    steps.create_table(
        "network_allocation_marks",
        sa.Column("subnet_id", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subnet_id"),
    )
    steps.create_table(
        "placement_loads",
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("vcpus", sa.BigInteger(), nullable=False),
        sa.Column("ram_mib", sa.BigInteger(), nullable=False),
        sa.Column("disk_gib", sa.BigInteger(), nullable=False),
        sa.Column("servers", sa.BigInteger(), nullable=False),
        sa.Column("claims", sa.BigInteger(), nullable=False),
        sa.Column("free_ram_mib", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host"),
        steps.Index("ix_placement_loads_free_ram_mib_host", ["free_ram_mib", "host"]),
    )
    steps.create_index("ix_compute_servers_number", "compute_servers", ["number"], unique=False)
