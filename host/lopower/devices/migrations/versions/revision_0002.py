"""What of the devices the tailnet reaches."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"


def upgrade() -> None:
    """From the revision before to this one."""
    op.create_table(
        "exposures",
        sa.Column("place", sa.String(32), nullable=False),
        sa.Column("device_id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(5), nullable=False),
        sa.Column("transport", sa.String(3), nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("target_port", sa.Integer, nullable=False),
        sa.Column("hostname", sa.String(63), nullable=False),
        sa.Column("sources", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_exposures"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_exposures_device_id", ondelete="CASCADE"),
    )
    op.create_index("ix_exposures_device_id", "exposures", ["device_id"])
