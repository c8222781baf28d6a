"""The registry's tables. A change to them is a new revision in `migrations/versions`, and `REVISIONS` ends with it."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

# Oldest first; each is the name of a file in migrations/versions.
REVISIONS: Final = ("0001", "0002", "0003", "0004")
HEAD: Final = REVISIONS[-1]

# Marks a SQLite file as ours ("lopo"), so that another program's database is not taken for a damaged one of ours.
APPLICATION_ID: Final = 0x6C6F706F

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

# A preshared key must be known to both sides, so it is here; a device's private key never is.
devices: Final = Table(
    "devices",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("public_key", LargeBinary(32), nullable=False, unique=True),
    Column("preshared_key", LargeBinary(32)),
    Column("ipv4", String(15), unique=True),
    Column("ipv6", String(39), unique=True),
    Column("enabled", Boolean(create_constraint=False), nullable=False),
    Column("full_tunnel", Boolean(create_constraint=False), nullable=False),
    Column("mtu", Integer),
    Column("persistent_keepalive", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),  # Unix time, seconds
    Column("last_timestamp", LargeBinary(12)),
    Column("last_host", String(64)),
    Column("last_port", Integer),
    Column("configuration_digest", String(64)),
    Column("firmware", Text),  # what the device said last of what it runs
    CheckConstraint("length(public_key) = 32", name="public_key"),
    CheckConstraint("preshared_key IS NULL OR length(preshared_key) = 32", name="preshared_key"),
    CheckConstraint("ipv4 IS NOT NULL OR ipv6 IS NOT NULL", name="has_address"),
    sqlite_autoincrement=True,  # ids are never used again
)

rules: Final = Table(
    "rules",
    metadata,
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("rule", String(1024), nullable=False),
    # The device that the rule names. Its name in `rule` is not looked at: a rule follows its device when that is
    # renamed and ends with it, so that a later one of the same name does not inherit what was permitted to the first.
    Column("target_id", ForeignKey("devices.id", ondelete="CASCADE"), index=True),
)

retired_addresses: Final = Table(
    "retired_addresses",
    metadata,
    Column("address", String(39), primary_key=True),
    Column("retired_at", Integer, nullable=False),  # Unix time, seconds
)

served_ports: Final = Table(
    "served_ports",
    metadata,
    Column("protocol", String(3), primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("target_host", String(39), nullable=False),
    Column("target_port", Integer, nullable=False),
)

# Ports are 0 and the host's name is empty where the kind of exposure has none.
exposures: Final = Table(
    "exposures",
    metadata,
    Column("place", String(32), primary_key=True),
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", String(5), nullable=False),
    Column("transport", String(3), nullable=False),
    Column("port", Integer, nullable=False),
    Column("target_port", Integer, nullable=False),
    Column("hostname", String(63), nullable=False),
    Column("sources", Text, nullable=False),  # separated by blanks
    Column("tags", Text, nullable=False, server_default=""),  # likewise
)

# Single values: the ranges, and how far our own time stamps are reserved.
state: Final = Table(
    "state",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
)
