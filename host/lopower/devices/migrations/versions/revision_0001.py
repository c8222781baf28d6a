"""The first tables."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None


def upgrade() -> None:
    """From nothing to this revision."""
    op.create_table(
        "devices",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("public_key", sa.LargeBinary(32), nullable=False),
        sa.Column("preshared_key", sa.LargeBinary(32)),
        sa.Column("ipv4", sa.String(15)),
        sa.Column("ipv6", sa.String(39)),
        sa.Column("enabled", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("full_tunnel", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("mtu", sa.Integer),
        sa.Column("persistent_keepalive", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("last_timestamp", sa.LargeBinary(12)),
        sa.Column("last_host", sa.String(64)),
        sa.Column("last_port", sa.Integer),
        sa.Column("configuration_digest", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        sa.UniqueConstraint("name", name="uq_devices_name"),
        sa.UniqueConstraint("public_key", name="uq_devices_public_key"),
        sa.UniqueConstraint("ipv4", name="uq_devices_ipv4"),
        sa.UniqueConstraint("ipv6", name="uq_devices_ipv6"),
        sa.CheckConstraint("length(public_key) = 32", name=op.f("ck_devices_public_key")),
        sa.CheckConstraint(
            "preshared_key IS NULL OR length(preshared_key) = 32", name=op.f("ck_devices_preshared_key")
        ),
        sa.CheckConstraint("ipv4 IS NOT NULL OR ipv6 IS NOT NULL", name=op.f("ck_devices_has_address")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rules",
        sa.Column("device_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("rule", sa.String(1024), nullable=False),
        sa.Column("target_id", sa.Integer),
        sa.PrimaryKeyConstraint("device_id", "position", name="pk_rules"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_rules_device_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["target_id"], ["devices.id"], name="fk_rules_target_id", ondelete="CASCADE"),
    )
    op.create_index("ix_rules_target_id", "rules", ["target_id"])
    op.create_table(
        "retired_addresses",
        sa.Column("address", sa.String(39), nullable=False),
        sa.Column("retired_at", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("address", name="pk_retired_addresses"),
    )
    op.create_table(
        "served_ports",
        sa.Column("protocol", sa.String(3), nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("target_host", sa.String(39), nullable=False),
        sa.Column("target_port", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("protocol", "port", name="pk_served_ports"),
    )
    op.create_table(
        "state",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_state"),
    )
