"""The registry's SQLite file: made, checked before anything is written to it, opened, and its errors in words.

A change is durable when its transaction ends: WAL with `synchronous=FULL` flushes the log at each commit, so that
neither a killed process nor a power cut takes it back, and either shows all of it or nothing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from lopower.devices.errors import DatabaseCorrupt, DatabaseError, DatabaseForeign, DatabaseFull, DatabaseNewer
from lopower.devices.schema import APPLICATION_ID, HEAD, REVISIONS, metadata

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
# Another process may hold the file for a moment (a backup); seconds.
_BUSY_TIMEOUT: Final = 5.0
# The primary result code is the lowest byte of the extended one (sqlite.org/rescode.html).
_PRIMARY: Final = 0xFF


def open_database(path: Path, *, revisions: tuple[str, ...] = REVISIONS, migrations: Path = MIGRATIONS) -> Engine:
    """Open the database, making or migrating it if need be.

    Args:
        path: its file, in a directory that exists.
        revisions: the revisions known, oldest first.
        migrations: the directory of Alembic's scripts.

    Raises:
        DatabaseError: it cannot be used; what was there is as it was.
    """
    with _errors_in_words(path):
        revision = None if _is_unused(path) else _inspect(path, revisions)
        _restrict(path)
        engine = _engine(path)
        try:
            if revision is None:
                _create(engine)
            elif revision != revisions[-1]:
                _migrate(engine, migrations)
            _sync_directory(path.parent)
        except BaseException:
            engine.dispose()
            raise
    return engine


@contextlib.contextmanager
def transaction(engine: Engine, path: Path) -> Iterator[Connection]:
    """One transaction: all of it is kept, or an error says why nothing was.

    Raises:
        DatabaseError: the database did not take it.
    """
    with _errors_in_words(path), engine.begin() as connection:
        yield connection


def _is_unused(path: Path) -> bool:
    """Whether nothing has ever been stored there: no file, or one whose making was cut short."""
    try:
        if path.stat().st_size == 0:
            return True
        with path.open("rb") as file:
            if file.read(len(_SQLITE_MAGIC)) != _SQLITE_MAGIC:
                raise DatabaseForeign(
                    f"{path} is not a database; move it away, or use another --state-dir. It was not touched."
                )
    except FileNotFoundError:
        return True
    return False


def _inspect(path: Path, revisions: tuple[str, ...]) -> str | None:
    """The revision of an existing database, found without writing to it; None: nothing has been stored in it."""
    connection = sqlite3.connect(f"file:{_uri_path(path)}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT)
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return None
        if "alembic_version" not in tables or connection.execute("PRAGMA application_id").fetchone() != (
            APPLICATION_ID,
        ):
            raise DatabaseForeign(
                f"{path} is another program's database; move it away, or use another --state-dir. It was not touched."
            )
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        revision = str(row[0]) if row else ""
        if revision and revision not in revisions:
            raise DatabaseNewer(
                f"{path} was written by a newer lopower (revision {revision}; this one knows {revisions[-1]}); "
                "install that version again, or restore a backup made before. It was not touched."
            )
        found = [line for (line,) in connection.execute("PRAGMA quick_check(5)")]
        found += [
            f"{table} refers to what is not there" for table, *_ in connection.execute("PRAGMA foreign_key_check")
        ]
    finally:
        connection.close()
    if found != ["ok"]:
        raise DatabaseCorrupt(_corrupt(path, "; ".join(found)))
    return revision


def _restrict(path: Path) -> None:
    """Make the file 0600, before the first byte is in it; SQLite gives its log files the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        with contextlib.suppress(FileNotFoundError):
            file.chmod(0o600)


def _engine(path: Path) -> Engine:
    # One connection for all threads: the registry's lock orders its writers, and there are no readers but at the start.
    engine = create_engine(
        sqlalchemy.URL.create("sqlite", database=str(path)),
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT},
        hide_parameters=True,  # preshared keys are parameters; errors go to logs
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # The sqlite3 module's own transactions begin late and leave out DDL; ours begin with BEGIN IMMEDIATE below.
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _create(engine: Engine) -> None:
    """Make all tables in one transaction, and stamp them with the newest revision as Alembic would."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        metadata.create_all(connection)
        connection.exec_driver_sql(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
            "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def _migrate(engine: Engine, migrations: Path) -> None:
    """Bring an older database to the newest revision, in one transaction."""
    from alembic import command  # 10 MB and 0.2 s that a start without a migration does not need
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _sync_directory(directory: Path) -> None:
    """Make the names of new files durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _uri_path(path: Path) -> str:
    """The path as part of a URI (sqlite.org/uri.html)."""
    return path.absolute().as_uri().removeprefix("file://")


@contextlib.contextmanager
def _errors_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise _translated(path, error.orig) from None
    except sqlite3.Error as error:
        raise _translated(path, error) from None
    except OSError as error:
        raise DatabaseError(f"the database {path} cannot be used: {error.strerror}") from None


def _translated(path: Path, error: BaseException | None) -> DatabaseError:
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DatabaseCorrupt(_corrupt(path, str(error)))
    if code == sqlite3.SQLITE_FULL:
        return DatabaseFull(
            f"the disk that {path} is on is full; nothing was changed. Free some space, then try again."
        )
    if code == sqlite3.SQLITE_BUSY:
        return DatabaseError(f"another process holds the database {path}; end it, then try again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return DatabaseError(
            f"the database {path} cannot be opened for writing ({error}); are the file and its directory writable?"
        )
    return DatabaseError(f"the database {path} did not take the change, nothing of it was kept: {error}")


def _corrupt(path: Path, found: str) -> str:
    return (
        f"the database {path} is damaged ({found}). It was not touched: restore it from a backup, "
        "or move it away to start with no devices"
    )
