"""The shared store: a DuckLake, whose catalog is on PostgreSQL and whose files lie in a folder that all hosts mount.

DuckLake lets many read and many write, but has no keys. So whoever writes holds one lock (:mod:`store.lake_lock`), from before
the transaction sees the tables until after it has committed, and inserts the rows whose keys are not there. Of a transaction
that does not commit nothing stays. Readers take no lock; what they read in one block is of one moment.

Connections stay open as long as the process, since an open lake keeps nobody out.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from store.lake_address import LakeAddress
from store.lake_errors import clear_error
from store.lake_folder import lake_id
from store.lake_lock import LakeLock
from store.lake_opening import attach, connected, prepared
from store.lake_schema import CATALOG, SCHEMA, insertion, reference
from store.migrations import applied
from store.sql import closing, literal, name, quiet
from store.types import RunError
from store.untrusted import check_statement


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
        self.version = applied(db)
        self.schema: tuple[Any, ...] | None = None  # DuckLake's number, once looked at
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
        self._lock = LakeLock(address.name, lock_timeout)

    @property
    def name(self) -> str:
        """The URL without the password."""
        return self._address.name

    @property
    def address(self) -> str:
        """The URL."""
        return self._address.url

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self._address.data

    def exists(self) -> bool:
        """Whether there is a lake; nothing is created. Raises InputError and RunError as a query would."""
        with _lakes_lock:
            if self._found() is not None:
                return True
        with self._clear_errors(), closing(connected(self._address)) as db:
            return attach(db, self._address, "READ_ONLY")

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
        with self._clear_errors(), closing(connected(self._address)) as db:
            attach(db, self._address, "READ_ONLY")
            db.execute("USE store")
            db.execute(f"SET allowed_directories = [{literal(str(self._address.data))}]")
            db.execute("SET enable_external_access = false")
            db.execute("SET lock_configuration = true")
            yield db

    def id(self) -> str:
        """What tells this lake from all others, whatever its URL says."""
        with closing(quiet(self._opened().db.cursor())) as db:
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
        with closing(quiet(self._opened().db.cursor())) as db:
            return self._lock.holder(db, CATALOG)

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
                    found = _lakes[self._address] = _Opened(prepared(self._address, self._lock))
            return found

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
        if not opened.writing.acquire(timeout=min(self._lock.timeout, threading.TIMEOUT_MAX)):
            raise self._lock.refusal("another thread of this process")
        try:
            with self._lock.held(opened.db, CATALOG) as holder:
                opened.thread.holder = holder
                db = self._kept(opened)
                try:
                    self._check_version(opened, db)
                    yield db
                finally:
                    # What the block did not commit must not be committed later, without the lock.
                    self._end(opened, db)
        finally:
            opened.thread.holder = None
            opened.writing.release()

    def _check_version(self, opened: _Opened, db: duckdb.DuckDBPyConnection) -> None:
        # DuckLake's own number of the schema is one query to PostgreSQL; where it is another, factscale's may be too.
        newest = f"SELECT schema_version FROM {SCHEMA}.ducklake_snapshot ORDER BY snapshot_id DESC LIMIT 1"  # noqa: S608
        schema = db.execute(f"FROM postgres_query({literal(CATALOG)}, {literal(newest)})").fetchone()
        if schema == opened.schema:
            return
        found = db.execute("SELECT max(version) FROM schema_migrations").fetchone()
        if found and found[0] != opened.version:
            raise RunError(
                f"the store {self.name} was brought to schema version {found[0]} after this process had opened it with "
                f"{opened.version}: start again with the new version of factscale"
            )
        opened.schema = schema

    def _kept(self, opened: _Opened) -> duckdb.DuckDBPyConnection:
        if opened.thread.kept is None:
            opened.thread.kept = quiet(opened.db.cursor())
            opened.thread.kept.execute("USE store")
        return opened.thread.kept

    def _end(self, opened: _Opened, db: duckdb.DuckDBPyConnection) -> None:
        try:
            db.rollback()
        except duckdb.Error as error:
            # Of a connection that is lost; the next block gets another. Else the block ended what it began, or began nothing.
            if "no transaction is active" not in str(error):
                opened.thread.kept = None

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise clear_error(error, self._address) from None

    def _first_line(self, error: duckdb.Error) -> str:
        return self._address.masked(str(error)).splitlines()[0]
