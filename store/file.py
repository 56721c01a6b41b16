"""The embedded store: one DuckDB file, held only for the length of a transaction.

DuckDB lets one process write a file, or several read it. A study runs for hours, so the file is opened for each
transaction and closed after it (about 25 ms), and whoever finds it taken waits a little.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from store.migrations import migrate, pending
from store.sql import closing, literal, name, quiet
from store.types import InputError, RunError

# Rows that DuckDB stores together. The file is closed after each landing, and closing writes the last, unfilled group anew:
# at its default of 122,880 rows of long text that is hundreds of megabytes for each landing.
_ROW_GROUP = 4096
# Tables of long texts and their keys, which no index holds: at millions of rows it would cost more than the rows.
UNINDEXED = {"thought_texts": "thought_id", "trace_texts": "trace_id"}
# Tables that have no key at all: what stands in them is derived, and put there anew as a whole.
KEYLESS = ("question_scores", "length_scores")


class _Opened:
    """What all stores of one file in this process share, since DuckDB opens a file once a process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.db: duckdb.DuckDBPyConnection | None = None
        self.ready = False


_files: dict[Path, _Opened] = {}
_files_lock = threading.Lock()


class DuckDBFile:
    """A store in the file ``path``. Whoever reads or writes holds it alone, threads and processes alike."""

    def __init__(self, path: Path, lock_timeout: float) -> None:
        self.path = path
        self._lock_timeout = lock_timeout
        with _files_lock:
            self._opened = _files.setdefault(path.resolve(), _Opened())

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def address(self) -> str:
        """What opens this store from another process."""
        return str(self.path.resolve())

    def exists(self) -> bool:
        """Whether there is a file; nothing is created."""
        return self.path.is_file()

    @contextmanager
    def connection(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        """The open database. Re-entrant in a thread."""
        opened = self._opened
        with opened.lock:
            if opened.db is not None:
                yield opened.db
                return
            if not opened.ready or not self.path.exists():
                self._prepare()
            opened.db = self._connect(read_only=read_only)
            try:
                with self._clear_errors():
                    yield opened.db
            finally:
                db, opened.db = opened.db, None
                db.close()

    def before_commit(self) -> None:
        """Nothing: the file is held."""

    def insert(self, db: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> int:
        """Insert the rows whose keys are not there, in the transaction that ``db`` is in. Returns their number."""
        db.register("landing_rows", rows)
        try:
            counted = db.execute(_insertion(table)).fetchone()
        finally:
            db.unregister("landing_rows")
        return int(counted[0]) if counted else 0

    @contextmanager
    def untrusted(self, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection for one statement that a person typed, which reaches neither files nor settings."""
        with self.connection(read_only=True):
            pass  # brings the schema up to date
        with self._opened.lock, closing(self._connect(read_only=True)) as db:
            db.execute("SET enable_external_access = false")
            db.execute("SET lock_configuration = true")
            yield db

    def _prepare(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            raise InputError(
                f"the store {self.path} is a folder; name a file, for example {self.path / 'factscale.duckdb'}"
            )
        if self.path.exists():
            with self._clear_errors(), closing(self._connect(read_only=True)) as db:
                needs_migration = pending(db, self.name)
        else:
            needs_migration = True
        if needs_migration:
            with self._clear_errors(), closing(self._connect(read_only=False)) as db:
                migrate(db, self.name)
        self._opened.ready = True

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self._lock_timeout
        pause = 0.01
        while True:
            try:
                with self._clear_errors():
                    return self._attached(read_only=read_only)
            except _LockedError as error:
                if time.monotonic() >= deadline:
                    raise RunError(
                        f"the store {self.path} is locked by another process and stayed so for {self._lock_timeout:.0f} s "
                        f"({error}): end that process, or name another store with FACTSCALE_HOME"
                    ) from None
                time.sleep(pause)
                pause = min(pause * 1.5, 0.25)

    def _attached(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        db = quiet(duckdb.connect())
        try:
            options = f"ROW_GROUP_SIZE {_ROW_GROUP}{', READ_ONLY' if read_only else ''}"
            db.execute(f"ATTACH {literal(str(self.path))} AS store ({options})")
            db.execute("USE store")
            # An attached file does not say where to spill: without this it would be `.tmp` in the current folder.
            db.execute(f"SET temp_directory = {literal(str(self.path) + '.tmp')}")
            db.execute("SET TimeZone = 'UTC'")
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise self._clear_error(error) from error

    def _clear_error(self, error: duckdb.Error) -> Exception:
        text = str(error)
        if "Could not set lock" in text or "Conflicting lock" in text:
            holder = text.split("held in ", 1)[-1].splitlines()[0] if "held in " in text else "holder unknown"
            return _LockedError(holder)
        if "No space left" in text or "disk full" in text.lower() or "ENOSPC" in text:
            return RunError(
                f"the disk of the store {self.path} is full: nothing of this landing was kept; free some space and start again"
            )
        if "not a valid DuckDB database" in text or "Corrupt" in text or "checksum" in text or "Serialization" in text:
            return InputError(
                f"the store {self.path} is not a readable DuckDB database ({text.splitlines()[0]}): restore a copy, or move "
                "the file away to start an empty store"
            )
        if isinstance(error, duckdb.IOException):
            return RunError(f"the store {self.path} cannot be used: {text.splitlines()[0]}")
        return error


class _LockedError(Exception):
    """The file is held by another process; the text says by which."""


def _insertion(table: str) -> str:
    into = f"INSERT INTO {name(table)} BY NAME"
    key = UNINDEXED.get(table)
    if key is None:
        known = "" if table in KEYLESS else " ON CONFLICT DO NOTHING"
        return f"{into} SELECT * FROM landing_rows{known}"  # noqa: S608
    # Keys of rows that land together begin alike: the range leaves most of the table unread.
    there = (
        f"SELECT {key} FROM {table} WHERE {key} BETWEEN (SELECT min({key}) FROM landing_rows) "  # noqa: S608 - our own names
        f"AND (SELECT max({key}) FROM landing_rows)"
    )
    return f"{into} SELECT DISTINCT ON ({key}) * FROM landing_rows WHERE {key} NOT IN ({there})"  # noqa: S608
