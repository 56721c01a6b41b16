"""The shared store: a DuckLake, whose catalog is on PostgreSQL and whose files lie in a folder that all hosts mount.

DuckLake lets many read and many write, but has no keys: two who insert the same rows at once both succeed. So whoever writes
holds one lock of PostgreSQL, from before the transaction sees the tables until after it has committed, and inserts the rows
whose keys are not there. The lock is held by a connection of its own, with which it ends: a writer that is killed leaves it to
the next at once, and of its transaction nothing. Readers take no lock; what they read in one block is of one moment.

Connections stay open as long as the process, since an open lake keeps nobody out.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import duckdb
import pyarrow as pa

from store.extensions import load_lake_extensions
from store.lake_address import LakeAddress
from store.lake_errors import clear_error, is_missing
from store.lake_folder import check_folder, lake_id, make_folder
from store.lake_schema import insertion, lake_sql, reference
from store.migrations import migrate, pending
from store.sql import closing, literal, name
from store.types import RunError
from store.untrusted import check_statement

SCHEMA = "factscale"  # of PostgreSQL: beside it the database may hold something else
CATALOG = "__ducklake_metadata_store"  # DuckLake's own name for the attached catalog
_LOCK = "19790, 1"  # one lock a database, since a database holds one lake
# Seconds that PostgreSQL is waited for at a time, so that Ctrl-C gets through; whoever asks again is the last in its queue.
_SLICE = 60.0
# Set when a lake is made. Rows of up to so many a table and transaction go into PostgreSQL until the lake is compacted: a file
# for each would be tens of thousands of files. Small row groups, since one question's texts are read without the others'.
_OPTIONS = {"data_inlining_row_limit": "200", "parquet_compression": "zstd", "parquet_row_group_size": "4096"}
# Of every connection: a host that goes away without a word is noticed in a minute, and a lock may be held as long as it takes.
_SESSION = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "0",
    "statement_timeout": "0",
}


class _Thread(threading.local):
    """What a thread has open of a lake: a connection that it keeps, and the one of the block that it is in."""

    kept: duckdb.DuckDBPyConnection | None = None
    inside: duckdb.DuckDBPyConnection | None = None
    read_only = True
    holder: duckdb.DuckDBPyConnection | None = None


class _Opened:
    """What all stores of one lake in this process share."""

    def __init__(self, db: duckdb.DuckDBPyConnection) -> None:
        self.db = db
        self.process = os.getpid()
        self.writing = threading.Lock()
        self.thread = _Thread()


_lakes: dict[LakeAddress, _Opened] = {}
_lakes_lock = threading.Lock()
_inherited: list[_Opened] = []  # from a parent process, whose connections must be neither used nor closed


class Lake:
    """A store in the lake at ``address``. Threads and processes, of this host or another, may use it at once."""

    def __init__(self, address: LakeAddress, lock_timeout: float) -> None:
        self._address = address
        self._lock_timeout = lock_timeout

    @property
    def name(self) -> str:
        """The URL without the password."""
        return self._address.name

    @property
    def address(self) -> str:
        """The URL."""
        return self._address.url

    def exists(self) -> bool:
        """Whether there is a lake; nothing is created. Raises InputError and RunError as a query would."""
        with _lakes_lock:
            if self._found() is not None:
                return True
        with self._clear_errors(), closing(self._connected()) as db:
            return self._attach(db, "READ_ONLY")

    @contextmanager
    def connection(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        """The open lake: for reading as it is at this moment, or for writing, alone. Re-entrant in a thread."""
        opened = self._opened()
        thread = opened.thread
        if thread.inside is not None:
            if thread.read_only and not read_only:
                raise RuntimeError("what is read in this block is of one moment: write before it or after it")
            yield thread.inside
            return
        with self._clear_errors(), self._reading(opened) if read_only else self._writing(opened) as db:
            thread.inside, thread.read_only = db, read_only
            try:
                yield db
            finally:
                thread.inside = None

    def before_commit(self) -> None:
        """Raise RunError if the lock is gone, say because the server's administrator ended the connection that held it."""
        holder = self._opened().thread.holder
        try:
            if holder is not None:
                holder.execute(f"FROM postgres_query({literal(CATALOG)}, 'SELECT 1')")
        except duckdb.Error as error:
            raise RunError(
                f"the store {self.name} has lost its lock ({self._first_line(error)}): nothing of this "
                "landing was kept; start again"
            ) from None

    def insert(self, db: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> int:
        """Insert the rows whose keys are not there, in the transaction that ``db`` is in. Returns their number."""
        limits, statement = insertion(name(table), rows.column_names)
        db.register("landing_rows", rows)
        try:
            parameters = db.execute(limits).fetchone() if limits else ()
            counted = db.execute(statement, parameters).fetchone()
        finally:
            db.unregister("landing_rows")
        return int(counted[0]) if counted else 0

    @contextmanager
    def untrusted(self, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own for one statement that a person typed, which reads nothing but the store's tables.

        Raises InputError for a statement that would do anything else.
        """
        known = reference()
        check_statement(sql, known.views | known.tables.keys())
        self._opened()
        with self._clear_errors(), closing(self._connected()) as db:
            self._attach(db, "READ_ONLY")
            db.execute("USE store")
            db.execute(f"SET allowed_directories = [{literal(str(self._address.data))}]")
            db.execute("SET enable_external_access = false")
            db.execute("SET lock_configuration = true")
            yield db

    def id(self) -> str:
        """What tells this lake from all others, whatever its URL says."""
        with closing(_quiet(self._opened().db.cursor())) as db:
            return lake_id(db, CATALOG)

    def waiting(self, db: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """How many rows of each table are in PostgreSQL still, and in no file."""
        found = db.execute(
            f"SELECT t.table_name, i.table_name FROM {CATALOG}.{SCHEMA}.ducklake_inlined_data_tables i "  # noqa: S608
            f"JOIN {CATALOG}.{SCHEMA}.ducklake_table t USING (table_id) WHERE t.end_snapshot IS NULL"
        ).fetchall()
        waiting: dict[str, int] = {}
        for table, inlined in found:
            rows = f"{CATALOG}.{SCHEMA}.{inlined}"
            counted = db.execute(f"SELECT count(*) FROM {rows} WHERE end_snapshot IS NULL").fetchone()  # noqa: S608
            waiting[table] = waiting.get(table, 0) + int(counted[0] if counted else 0)
        return waiting

    def writer(self) -> str:
        """Who holds the lock, as ``factscale host:process``; empty: nobody."""
        with closing(_quiet(self._opened().db.cursor())) as db:
            return self._holder(db, CATALOG)

    def close(self) -> None:
        """Close this process's connections; the next use opens the lake again."""
        with _lakes_lock:
            found = _lakes.pop(self._address, None)
        if found is not None and found.process == os.getpid():
            found.db.close()

    def _found(self) -> _Opened | None:
        found = _lakes.get(self._address)
        if found is not None and found.process != os.getpid():
            _inherited.append(_lakes.pop(self._address))
            return None
        return found

    def _opened(self) -> _Opened:
        with _lakes_lock:
            found = self._found()
            if found is None:
                with self._clear_errors():
                    found = _lakes[self._address] = _Opened(self._prepared())
            return found

    def _prepared(self) -> duckdb.DuckDBPyConnection:
        db = self._connected()
        try:
            if not self._attach(db, "CREATE_IF_NOT_EXISTS false"):
                self._create(db)
            check_folder(db, CATALOG, self._address)
            db.execute("USE store")
            if pending(db, self.name):
                with self._locked(db, CATALOG):
                    migrate(db, self.name, lake_sql)
        except BaseException:
            db.close()
            raise
        return db

    def _connected(self) -> duckdb.DuckDBPyConnection:
        """DuckDB with its extensions, and the password where no statement shows it."""
        db = _quiet(duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}))
        try:
            load_lake_extensions(db)
            address = self._address
            parts = {"HOST": address.host, "PORT": address.port, "DATABASE": address.database, "USER": address.user}
            parts["PASSWORD"] = address.password
            said = ", ".join(f"{key} {literal(str(value))}" for key, value in parts.items() if value is not None)
            db.execute(f"CREATE SECRET catalog (TYPE postgres, {said})")
            db.execute("SET GLOBAL TimeZone = 'UTC'")
            db.execute(f"SET temp_directory = {literal(tempfile.gettempdir() + f'/factscale-{os.getpid()}.tmp')}")
            # The system's page cache has the files already, and this process may need its memory for a model.
            db.execute("SET enable_external_file_cache = false")
            db.execute("SET python_enable_replacements = false")

        except BaseException:
            db.close()
            raise
        return db

    def _client(self) -> str:
        """What PostgreSQL's client is told beside what is in the secret."""
        words = {
            "application_name": f"factscale {socket.gethostname()}:{os.getpid()}",
            "connect_timeout": "10",
            "keepalives_idle": "30",
            "options": " ".join(f"-c {key}={value}" for key, value in _SESSION.items()),
            **dict(self._address.ssl),
        }
        return " ".join(f"{key}='{_escaped(value)}'" for key, value in words.items())

    def _attach(self, db: duckdb.DuckDBPyConnection, mode: str) -> bool:
        """Attach the lake; False where there is none."""
        # The folder is told apart by what stands in it (check_folder): hosts may mount it in different places.
        where = f"DATA_PATH {literal(str(self._address.data))}, OVERRIDE_DATA_PATH true"
        try:
            db.execute(
                f"ATTACH {literal('ducklake:postgres:' + self._client())} AS store "
                f"(METADATA_SCHEMA {literal(SCHEMA)}, META_SECRET 'catalog', {where}{', ' + mode if mode else ''})"
            )
        except duckdb.Error as error:
            if is_missing(error):
                return False
            raise
        return True

    def _create(self, db: duckdb.DuckDBPyConnection) -> None:
        db.execute(f"ATTACH {literal(self._client())} AS catalog (TYPE postgres, SECRET catalog)")
        with self._locked(db, "catalog"):
            if not self._attach(
                db, "CREATE_IF_NOT_EXISTS false"
            ):  # still: another process may have had the lock before
                make_folder(self._address)
                self._attach(db, "")
                for key, value in _OPTIONS.items():
                    db.execute(f"CALL store.set_option({literal(key)}, {literal(value)})")
            make_folder(self._address, db, CATALOG)
            db.execute("USE store")
            migrate(db, self.name, lake_sql)
        db.execute("DETACH catalog")

    @contextmanager
    def _reading(self, opened: _Opened) -> Iterator[duckdb.DuckDBPyConnection]:
        db = self._kept(opened)
        db.execute("BEGIN TRANSACTION READ ONLY")
        try:
            yield db
        finally:
            self._end(opened, db)

    @contextmanager
    def _writing(self, opened: _Opened) -> Iterator[duckdb.DuckDBPyConnection]:
        if not opened.writing.acquire(timeout=self._lock_timeout):
            raise RunError(self._locked_message("another thread of this process"))
        try:
            with self._locked(opened.db, CATALOG) as holder:
                opened.thread.holder = holder
                yield self._kept(opened)
        finally:
            opened.thread.holder = None
            opened.writing.release()

    def _kept(self, opened: _Opened) -> duckdb.DuckDBPyConnection:
        if opened.thread.kept is None:
            opened.thread.kept = _quiet(opened.db.cursor())
            opened.thread.kept.execute("USE store")
        return opened.thread.kept

    def _end(self, opened: _Opened, db: duckdb.DuckDBPyConnection) -> None:
        try:
            db.rollback()
        except duckdb.Error:  # of a connection that is lost: the next block gets another
            opened.thread.kept = None

    @contextmanager
    def _locked(self, db: duckdb.DuckDBPyConnection, catalog: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """The lock, held by the transaction of a connection of its own. Raises RunError where another keeps it too long."""
        deadline = time.monotonic() + self._lock_timeout
        with closing(_quiet(db.cursor())) as holder:
            while not self._take(holder, catalog, max(0.001, min(_SLICE, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    raise RunError(self._locked_message(self._holder(holder, catalog)))
            try:
                yield holder
            finally:
                with suppress(duckdb.Error):
                    holder.rollback()

    def _take(self, holder: duckdb.DuckDBPyConnection, catalog: str, seconds: float) -> bool:
        holder.begin()
        try:
            for statement in (
                f"SELECT set_config('lock_timeout', '{seconds * 1000:.0f}ms', true)",
                f"SELECT pg_advisory_xact_lock({_LOCK})",
            ):
                holder.execute(f"FROM postgres_query({literal(catalog)}, {literal(statement)})").fetchall()
        except BaseException as error:
            with suppress(duckdb.Error):
                holder.rollback()
            if isinstance(error, duckdb.Error) and "lock timeout" in str(error):
                return False
            raise
        return True

    def _holder(self, db: duckdb.DuckDBPyConnection, catalog: str) -> str:
        classid, objid = _LOCK.split(", ")
        asked = (
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "  # noqa: S608
            f"AND classid = {classid} AND objid = {objid} AND datname = current_database()"
        )
        with suppress(duckdb.Error):
            found = db.execute(f"FROM postgres_query({literal(catalog)}, {literal(asked)})").fetchone()
            return str(found[0]) if found else ""
        return ""

    def _locked_message(self, holder: str) -> str:
        return (
            f"the store {self.name} is locked by another writer and stayed so for {self._lock_timeout:.0f} s "
            f"({holder or 'holder unknown'}): "
            "end that process, or wait longer with FACTSCALE_LOCK_TIMEOUT"
        )

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise clear_error(error, self._address) from None

    def _first_line(self, error: duckdb.Error) -> str:
        return self._address.masked(str(error)).splitlines()[0]


def _quiet(db: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """The connection without DuckDB's progress bar, which goes to standard output in processes that look interactive to it."""
    db.execute("SET enable_progress_bar = false")
    return db


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
