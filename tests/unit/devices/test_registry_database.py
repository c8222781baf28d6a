"""The database file: made whole, kept to its owner, and never touched when it is not ours to touch."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from lopower.devices import database, schema
from lopower.devices.errors import DatabaseCorrupt, DatabaseError, DatabaseForeign, DatabaseFull, DatabaseNewer
from tests.support.registries import new_device, open_registry
from tests.support.requirements import require_root


def schema_of(path: Path) -> set[tuple[str, ...]]:
    """Every table's columns, indices and keys as SQLite sees them, whatever the text they were made with."""
    connection = sqlite3.connect(path)
    found = set()
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for pragma in ("table_xinfo", "foreign_key_list", "index_list"):
            found |= {(table, pragma, *map(str, row)) for row in connection.execute(f"PRAGMA {pragma}({table})")}
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        found |= {(table, line.strip(" ,\t")) for line in sql.splitlines() if "CONSTRAINT" in line}
        found.add((table, "AUTOINCREMENT" if "AUTOINCREMENT" in sql else ""))
    connection.close()
    return found


def test_all_files_are_for_their_owner_only(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        registry = open_registry(tmp_path)
        registry.add(new_device("a"))
    finally:
        os.umask(umask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"devices.db": 0o600, "devices.db-wal": 0o600, "devices.db-shm": 0o600}
    registry.close()
    (tmp_path / "devices.db").chmod(0o644)
    open_registry(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "devices.db").stat().st_mode) == 0o600


def test_a_commit_is_durable(tmp_path: Path) -> None:
    """WAL and synchronous=FULL (2): each commit is flushed."""
    engine = database.open_database(tmp_path / "devices.db")
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    engine.dispose()


def test_a_migrated_database_equals_a_new_one(tmp_path: Path) -> None:
    """From nothing through all migrations, and as made at once: the same tables."""
    new, migrated = tmp_path / "new.db", tmp_path / "migrated.db"
    database.open_database(new).dispose()
    connection = sqlite3.connect(migrated)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.close()
    database.open_database(migrated).dispose()
    assert schema_of(migrated) == schema_of(new)


NEXT = f"""
import sqlalchemy as sa
from alembic import op
revision = "9000"
down_revision = "{schema.HEAD}"
def upgrade():
    op.add_column("devices", sa.Column("note", sa.String(100)))
    {{more}}
"""


def migrations_with_a_next(directory: Path, more: str = "") -> Path:
    migrations = directory / "migrations"
    (migrations / "versions").mkdir(parents=True)
    for name in ("env.py", *(f"versions/revision_{revision}.py" for revision in schema.REVISIONS)):
        (migrations / name).write_text((database.MIGRATIONS / name).read_text())
    (migrations / "versions" / "revision_9000.py").write_text(NEXT.format(more=more))
    return migrations


def test_an_older_database_is_migrated_and_keeps_its_devices(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    device = registry.add(new_device("a"))
    registry.close()
    path = tmp_path / "devices.db"
    migrations = migrations_with_a_next(tmp_path)
    database.open_database(path, revisions=(*schema.REVISIONS, "9000"), migrations=migrations).dispose()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9000",)]
    assert connection.execute("SELECT id, name, note FROM devices").fetchall() == [(device.id, "a", None)]
    connection.close()


def test_a_failed_migration_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    registry.add(new_device("a"))
    registry.close()
    path = tmp_path / "devices.db"
    before = schema_of(path)
    migrations = migrations_with_a_next(tmp_path, more='op.execute("DROP TABLE no_such_table")')
    with pytest.raises(DatabaseError, match="no such table"):
        database.open_database(path, revisions=(*schema.REVISIONS, "9000"), migrations=migrations)
    assert schema_of(path) == before
    registry = open_registry(tmp_path)
    assert [device.name for device in registry.devices()] == ["a"]
    registry.close()


def test_alembic_is_not_imported_without_a_migration(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from lopower.devices.registry import Registry\n"
        "for _ in range(2): Registry.open(Path(sys.argv[1]), server_public_key=bytes(32)).close()\n"
        "sys.exit(3 if 'alembic' in sys.modules or 'qrcode' in sys.modules or 'PIL' in sys.modules else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path / "devices.db")], env=environment, check=False)
    assert result.returncode == 0


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    open_registry(tmp_path).close()
    path = tmp_path / "devices.db"
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    words = rf"newer lopower \(revision 9999; this one knows {schema.HEAD}\).*not touched"
    with pytest.raises(DatabaseNewer, match=words):
        open_registry(tmp_path)
    assert path.read_bytes() == before


def test_a_newer_database_left_by_a_killed_process_is_refused_with_its_log(tmp_path: Path) -> None:
    """The newer version may still stand in the log alone, and the log must survive as well."""
    open_registry(tmp_path).close()
    path = tmp_path / "devices.db"
    program = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA wal_autocheckpoint = 0')\n"
        "c.execute(\"UPDATE alembic_version SET version_num = '9999'\"); c.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    log = tmp_path / "devices.db-wal"
    before = path.read_bytes(), log.read_bytes()
    assert before[1]
    with pytest.raises(DatabaseNewer):
        open_registry(tmp_path)
    assert (path.read_bytes(), log.read_bytes()) == before


@pytest.mark.parametrize("content", [b"hello world, this is no database", b"SQLite", b"\0" * 8192])
def test_a_file_that_is_no_database_is_refused_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "devices.db"
    path.write_bytes(content)
    with pytest.raises(DatabaseForeign, match=r"is not a database; move it away.*not touched"):
        open_registry(tmp_path)
    assert path.read_bytes() == content


def test_another_program_s_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "devices.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE devices (id INTEGER)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseForeign, match="another program's database"):
        open_registry(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "overwritten", "header"])
def test_a_damaged_database_is_reported_and_never_overwritten(tmp_path: Path, damage: str) -> None:
    registry = open_registry(tmp_path)
    registry.add_many([new_device(f"device-{number}") for number in range(200)])
    registry.close()
    path = tmp_path / "devices.db"
    content = path.read_bytes()
    if damage == "cut":
        content = content[: len(content) // 2 + 100]
    elif damage == "overwritten":
        content = content[:8192] + b"\xa5" * (len(content) - 8192)
    else:
        content = content[:16] + b"\xff" * 84 + content[100:]
    path.write_bytes(content)
    with pytest.raises(DatabaseCorrupt, match=r"is damaged.*not touched: restore it from a backup"):
        open_registry(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("prepared", ["empty", "no tables"])
def test_a_database_whose_making_was_cut_short_is_made_anew(tmp_path: Path, prepared: str) -> None:
    path = tmp_path / "devices.db"
    path.touch()
    if prepared == "no tables":
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        assert path.stat().st_size > 0
    registry = open_registry(tmp_path)
    assert registry.devices() == []
    registry.close()


def test_a_full_database_says_so_and_keeps_what_was_there(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    kept = registry.add(new_device("kept"))
    with registry._engine.connect() as connection:  # no disk is as small as a test needs it
        connection.execute(text("PRAGMA max_page_count = 1"))
        connection.rollback()
    with pytest.raises(DatabaseFull, match=r"is full; nothing was changed\. Free some space"):
        registry.add_many([new_device(f"device-{number}") for number in range(200)])
    assert registry.devices() == [kept]
    with registry._engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 100000"))
        connection.rollback()
    assert str(registry.add(new_device("next")).ipv4) == "10.90.0.3"
    registry.close()


def test_a_full_disk_says_so_and_keeps_what_was_there(tmp_path: Path) -> None:
    require_root()
    program = (
        "import subprocess, sys; from pathlib import Path\n"
        "from lopower.devices.errors import DatabaseFull\n"
        "from tests.support.registries import new_device, open_registry\n"
        "directory = Path(sys.argv[1])\n"
        "subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=512k', 'none', str(directory)], check=True)\n"
        "registry = open_registry(directory)\n"
        "kept = 0\n"
        "try:\n"
        "    while kept < 10000:\n"
        "        registry.add_many([new_device(f'd-{kept}-{i}', ipv4=None) for i in range(50)])\n"
        "        kept += 50\n"
        "except DatabaseFull as error:\n"
        "    assert 'is full' in str(error), error\n"
        "assert 0 < kept < 10000 and len(registry.devices()) == kept, kept\n"
        "registry.close()\n"
        "registry = open_registry(directory)\n"
        "assert len(registry.devices()) == kept\n"
        "registry.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["unshare", "--mount", sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_directory_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="cannot be used: No such file or directory"):
        open_registry(tmp_path / "missing")


def test_a_database_held_by_another_process_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_TIMEOUT", 0.1)
    registry = open_registry(tmp_path)
    other = sqlite3.connect(tmp_path / "devices.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseError, match="another process holds the database"):
        registry.add(new_device("a"))
    other.close()
    assert str(registry.add(new_device("a")).ipv4) == "10.90.0.2"
    registry.close()


def test_preshared_keys_are_not_in_errors(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    secret = b"\xabsecret" * 4 + b"\xabsec"
    with registry._engine.begin() as connection:
        connection.execute(text("DROP TABLE retired_addresses"))
    with pytest.raises(DatabaseError, match="no such table") as caught:
        registry.add(new_device("a", preshared_key=secret))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    registry.close()
