"""The results database: one DuckDB file, held only for the length of a transaction.

DuckDB lets one process write a file, or several read it. A study runs for hours, so the file is opened for each
transaction and closed after it (about 25 ms), and whoever finds it taken waits a little: `factscale status` works while a
study runs, and two studies can land in one file. Rows and the ``units`` row that says "complete" are written in one
transaction, the ``units`` row last; a row whose key is there already is left untouched.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from store.migrations import migrate, pending
from store.types import InputError, RunError

Row = Mapping[str, Any]
LOCK_TIMEOUT_VARIABLE = "FACTSCALE_LOCK_TIMEOUT"

# Rows that DuckDB stores together. The file is closed after each landing, and closing writes the last, unfilled group anew:
# at its default of 122,880 rows of long text that is hundreds of megabytes for each landing.
_ROW_GROUP = 4096
# Tables of long texts and their keys, which no index holds: at millions of rows it would cost more than the rows.
_UNINDEXED = {"thought_texts": "thought_id", "trace_texts": "trace_id"}


class Unit(NamedTuple):
    """The manifest row of a finished unit. ``seconds`` is wall time; tokens and cost (US dollars) are what it took."""

    unit_key: str
    kind: str
    name: str
    spec: str
    row_count: int
    seconds: float
    versions: str
    host: str
    flow_run_id: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    cost: float | None = None


class _File:
    """What all stores of one file in this process share, since DuckDB opens a file once a process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.opened: duckdb.DuckDBPyConnection | None = None
        self.ready = False


_files: dict[Path, _File] = {}
_files_lock = threading.Lock()


def _shared(path: Path) -> _File:
    with _files_lock:
        return _files.setdefault(path.resolve(), _File())


class Store:
    """A results database at ``path``. Safe to share between threads; other processes may use the same file.

    ``lock_timeout`` (seconds; default from FACTSCALE_LOCK_TIMEOUT, else 60) is how long a transaction waits for another
    process. Errors: InputError for a file that is no DuckDB database, is damaged, or comes from a newer factscale;
    RunError for a file that stays locked or a disk that is full.
    """

    def __init__(self, path: Path, *, lock_timeout: float | None = None) -> None:
        self.path = Path(path)
        self.lock_timeout = float(os.environ.get(LOCK_TIMEOUT_VARIABLE, "60")) if lock_timeout is None else lock_timeout
        self._file = _shared(self.path)

    @contextmanager
    def connection(self, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """The open database, for a short while: other processes wait as long as the block lasts. Re-entrant in a thread."""
        with self._file.lock:
            if self._file.opened is not None:
                yield self._file.opened
                return
            if not self._file.ready or not self.path.exists():
                self._prepare()
            self._file.opened = self._connect(read_only=read_only)
            try:
                with self._clear_errors():
                    yield self._file.opened
            finally:
                opened, self._file.opened = self._file.opened, None
                opened.close()

    def land(self, tables: Mapping[str, Sequence[Row] | pa.Table], unit: Unit | None = None) -> int:
        """Insert the rows of all ``tables`` and then the unit's row, in one transaction.

        Rows whose key is in the table already are left as they are. Returns the number of rows that were new.
        """
        landed = 0
        with self.transaction() as db:
            for table, rows in tables.items():
                landed += _insert(db, table, rows)
            if unit is not None:
                _insert(db, "units", [unit._asdict()])
        return landed

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The open database in a transaction that commits at the end of the block, or leaves all as it was."""
        with self.connection() as db:
            db.begin()
            try:
                yield db
                db.commit()
            except BaseException:
                # After a full disk DuckDB has ended the transaction itself; that must not hide why.
                with suppress(duckdb.TransactionException):
                    db.rollback()
                raise

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a read-only statement, as dicts. Values go in as ``parameters``, never pasted into the SQL."""
        with self.connection(read_only=True) as db:
            cursor = db.execute(sql, parameters)
            names = [column[0] for column in cursor.description or []]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def arrow(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """The result of a read-only statement as an Arrow table: for what is too long for rows of dicts."""
        with self.connection(read_only=True) as db:
            return db.execute(sql, parameters).to_arrow_table()

    def query_untrusted(self, sql: str) -> list[dict[str, Any]]:
        """Rows of one statement that a person typed: on a read-only connection that cannot reach files or settings."""
        if len(duckdb.extract_statements(sql)) != 1:
            raise InputError("give exactly one SQL statement")
        self.query("SELECT 1")
        with self._file.lock, _closing(self._connect(read_only=True)) as db:
            db.execute("SET enable_external_access = false")
            db.execute("SET lock_configuration = true")
            cursor = db.execute(sql)
            names = [column[0] for column in cursor.description or []]
            return [dict(zip(names, row, strict=False)) for row in cursor.fetchall()]

    def has_unit(self, unit_key: str) -> bool:
        """Whether the unit is complete in this store."""
        return bool(self.query("SELECT 1 FROM units WHERE unit_key = ?", [unit_key]))

    def query_for(self, ids: Sequence[str], sql: str) -> list[dict[str, Any]]:
        """Rows of a read-only statement that names the relation ``wanted_ids`` (one column, ``wanted``) holding ``ids``."""
        with self.connection(read_only=True) as db:
            db.register("wanted_ids", pa.table({"wanted": pa.array(ids, pa.string())}))
            try:
                return self.query(sql)
            finally:
                db.unregister("wanted_ids")

    def known(self, table: str, column: str, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that stand in ``table.column``: the anti-join that says what is left to do."""
        sql = f"SELECT wanted FROM wanted_ids SEMI JOIN {_name(table)} ON {_name(column)} = wanted"  # noqa: S608
        return {row["wanted"] for row in self.query_for(ids, sql)} if ids else set()

    def _prepare(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            raise InputError(
                f"the store {self.path} is a folder; name a file, for example {self.path / 'factscale.duckdb'}"
            )
        if self.path.exists():
            with self._clear_errors(), _closing(self._connect(read_only=True)) as db:
                needs_migration = pending(db, self.path)
        else:
            needs_migration = True
        if needs_migration:
            with self._clear_errors(), _closing(self._connect(read_only=False)) as db:
                migrate(db, self.path)
        self._file.ready = True

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.lock_timeout
        pause = 0.01
        while True:
            try:
                with self._clear_errors():
                    return self._attached(read_only=read_only)
            except _LockedError as error:
                if time.monotonic() >= deadline:
                    raise RunError(
                        f"the store {self.path} is locked by another process and stayed so for {self.lock_timeout:.0f} s "
                        f"({error}): end that process, or name another store with FACTSCALE_HOME"
                    ) from None
                time.sleep(pause)
                pause = min(pause * 1.5, 0.25)

    def _attached(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        db = duckdb.connect()
        try:
            options = f"ROW_GROUP_SIZE {_ROW_GROUP}{', READ_ONLY' if read_only else ''}"
            db.execute(f"ATTACH {_literal(str(self.path))} AS store ({options})")
            db.execute("USE store")
            # An attached file does not say where to spill: without this it would be `.tmp` in the current folder.
            db.execute(f"SET temp_directory = {_literal(str(self.path) + '.tmp')}")
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


@contextmanager
def _closing(db: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        yield db
    finally:
        db.close()


def _insert(db: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row] | pa.Table) -> int:
    arrow = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows])
    if arrow.num_rows == 0:
        return 0
    db.register("landing_rows", arrow)
    try:
        counted = db.execute(_insertion(table)).fetchone()
    finally:
        db.unregister("landing_rows")
    return int(counted[0]) if counted else 0


def _insertion(table: str) -> str:
    into = f"INSERT INTO {_name(table)} BY NAME"
    key = _UNINDEXED.get(table)
    if key is None:
        return f"{into} SELECT * FROM landing_rows ON CONFLICT DO NOTHING"  # noqa: S608
    # Keys of rows that land together begin alike: the range leaves most of the table unread.
    there = (
        f"SELECT {key} FROM {table} WHERE {key} BETWEEN (SELECT min({key}) FROM landing_rows) "  # noqa: S608 - our own names
        f"AND (SELECT max({key}) FROM landing_rows)"
    )
    return f"{into} SELECT DISTINCT ON ({key}) * FROM landing_rows WHERE {key} NOT IN ({there})"  # noqa: S608


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(identifier: str) -> str:
    # Table and column names come from this code base only; anything else is a bug that must not reach SQL.
    if not identifier.isidentifier():
        raise ValueError(f"not a table or column name: {identifier!r}")
    return identifier
