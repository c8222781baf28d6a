"""What devices say that they run."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"


def upgrade() -> None:
    """From the revision before to this one."""
    op.add_column("devices", sa.Column("firmware", sa.Text))
