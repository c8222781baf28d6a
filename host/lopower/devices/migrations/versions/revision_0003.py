"""Devices' own nodes have tags of their own."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"


def upgrade() -> None:
    """From the revision before to this one."""
    op.add_column("exposures", sa.Column("tags", sa.Text, nullable=False, server_default=""))
