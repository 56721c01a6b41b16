"""The results database: a DuckDB file of one machine, or a lake that several write, behind one interface.

Rows and the ``units`` row that says "complete" are written in one transaction, the ``units`` row last; a row whose key is
there already is left untouched. The file (:mod:`store.file`) is held for the length of a transaction: `factscale status` works
while a study runs, and two studies can land in one file. A lake (:mod:`store.lake`) lets its readers in at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import duckdb
import pyarrow as pa

from store.file import DuckDBFile
from store.lake import Lake
from store.lake_address import LakeAddress, is_lake
from store.sql import name as _name
from store.types import InputError

Row = Mapping[str, Any]
LOCK_TIMEOUT_VARIABLE = "FACTSCALE_LOCK_TIMEOUT"


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


class Backend(Protocol):
    """What a kind of store brings: how it is opened, held and inserted into."""

    @property
    def name(self) -> str:
        """What people read; without a password."""
        ...

    @property
    def address(self) -> str:
        """What opens the store from another process; with the password, if its URL has one."""
        ...

    def exists(self) -> bool:
        """Whether there is such a store; nothing is created."""
        ...

    def connection(self, *, read_only: bool) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """The open database; with ``read_only`` False no other writes meanwhile."""
        ...

    def before_commit(self) -> None:
        """Raise RunError where the transaction in this thread may no longer commit."""
        ...

    def insert(self, db: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> int:
        """Insert the rows whose keys are not there. Returns their number."""
        ...

    def untrusted(self, sql: str) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A connection on which nothing can be done but read the store's tables."""
        ...


class Store:
    """A results database: the path of a DuckDB file, or the URL of a lake. Safe to share between threads.

    ``lock_timeout`` (seconds; default from FACTSCALE_LOCK_TIMEOUT, else 60 for a file, and 300 for a lake, where many may stand
    in the queue) is how long a transaction waits for other processes. Errors: InputError for a file that is no DuckDB database,
    is damaged, or comes from a newer factscale, and for a URL or a lake that cannot be right; RunError for a store that stays
    locked, a disk that is full, or a server that is away.
    """

    def __init__(self, address: Path | str, *, lock_timeout: float | None = None, folder: Path | None = None) -> None:
        """``folder`` is where the files of a lake lie whose URL does not say it; a file needs none."""
        lake = is_lake(address)
        default = os.environ.get(LOCK_TIMEOUT_VARIABLE, "300" if lake else "60")
        self.lock_timeout = float(default) if lock_timeout is None else lock_timeout
        self._backend: Backend
        if lake:
            self._backend = Lake(LakeAddress.parse(str(address), folder), self.lock_timeout)
        else:
            self._backend = DuckDBFile(Path(address), self.lock_timeout)

    def __repr__(self) -> str:
        return f"Store({self.name})"

    @property
    def name(self) -> str:
        """What to call the store where people read it: its path, or its URL without the password."""
        return self._backend.name

    @property
    def address(self) -> str:
        """What :class:`Store` takes to open it again, also in another process. Not for people: it may hold a password."""
        return self._backend.address

    @property
    def path(self) -> Path:
        """The file. Raises TypeError for a lake."""
        if not isinstance(self._backend, DuckDBFile):
            raise TypeError(f"the store {self.name} is no file")
        return self._backend.path

    @property
    def lake(self) -> Lake | None:
        """The lake, for what only a lake has; None for a file."""
        return self._backend if isinstance(self._backend, Lake) else None

    def exists(self) -> bool:
        """Whether there is such a store; nothing is created."""
        return self._backend.exists()

    def close(self) -> None:
        """Close what this process keeps open of a lake; a file is never kept open. The next use opens it again."""
        if self.lake is not None:
            self.lake.close()

    @contextmanager
    def connection(self, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """The open database, for a short while: other writers wait as long as the block lasts. Re-entrant in a thread.

        With ``read_only`` others wait for a file only, and all that is read in the block is of one moment.
        """
        with self._backend.connection(read_only=read_only) as db:
            yield db

    def land(self, tables: Mapping[str, Sequence[Row] | pa.Table], unit: Unit | None = None) -> int:
        """Insert the rows of all ``tables`` and then the unit's row, in one transaction.

        Rows whose key is in the table already are left as they are. Returns the number of rows that were new.
        """
        landed = 0
        with self.transaction() as db:
            for table, rows in tables.items():
                landed += self.insert(db, table, rows)
            if unit is not None:
                self.insert(db, "units", [unit._asdict()])
        return landed

    def insert(self, db: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row] | pa.Table) -> int:
        """Insert, in the transaction that ``db`` is in, the rows whose keys are not there. Returns their number."""
        arrow = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows])
        return self._backend.insert(db, table, arrow) if arrow.num_rows else 0

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The open database in a transaction that commits at the end of the block, or leaves all as it was."""
        with self.connection() as db:
            db.begin()
            try:
                yield db
                self._backend.before_commit()
                db.commit()
            except BaseException:
                # After a full disk DuckDB has ended the transaction itself; that must not hide why.
                with suppress(duckdb.Error):
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
        with self._backend.untrusted(sql) as db:
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
