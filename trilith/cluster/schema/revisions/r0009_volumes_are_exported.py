"""Volumes are exported."""

import sqlalchemy as sa

from trilith.cluster.schema import steps

PHASE = "expand"


def upgrade() -> None:
    steps.add_column("volume_volumes", sa.Column("export", sa.JSON()))
