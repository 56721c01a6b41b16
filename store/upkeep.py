"""What a store holds, and what keeps a lake quick: small commits become large files, and what no reader needs goes.

A lake's rows of small landings wait in PostgreSQL, and each large landing is a file a table. Compaction writes both into large
files, in the order in which they landed. Files that were replaced are removed once they have been so for longer than any reader
reads, and so are files of writers that were killed before they committed. Nothing else in the lake's folder is touched.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from store.connection import Store
from store.lake_schema import CATALOG, SCHEMA, reference
from store.migrations import applied
from store.sql import literal
from store.types import InputError

_BLOCK = 262_144  # bytes of DuckDB's blocks
KEEP_HOURS = 24.0
_LAKE_FILE = re.compile(r"ducklake-[0-9a-f-]{36}(-deletes?)?\.parquet")
SAFE_HOURS = 1.0  # no reader's block and no writer's transaction may take longer


class Contents(NamedTuple):
    """A store: its ``name``, the ``version`` of its schema, ``kind`` (file, lake), and a row a table with rows, bytes, files."""

    name: str
    version: int
    kind: str
    tables: list[dict[str, Any]]


class Compacted(NamedTuple):
    """What a compaction did: rows moved out of PostgreSQL, files merged into fewer, and old files removed."""

    moved: int
    merged: int
    into: int
    removed: int


def contents(store: Store) -> Contents:
    """What is in the store, tables in the order of their names. ``bytes`` are those on the disk.

    Of a lake, ``waiting`` is the number of rows in PostgreSQL that no file holds yet.
    """
    with store.connection(read_only=True) as db:
        version = applied(db)
        counts = [f"SELECT '{table}', count(*) FROM {table}" for table in reference().tables]  # noqa: S608 - our own names
        rows = dict(db.execute(" UNION ALL ".join(counts)).fetchall())
        sizes = _lake_sizes(db) if store.lake is not None else {table: (_file_bytes(db, table), 1) for table in rows}
        waiting = store.lake.waiting(db) if store.lake is not None else {}
    tables = [
        {"table": table, "rows": rows[table], "bytes": sizes.get(table, (0, 0))[0]}
        | ({"files": sizes.get(table, (0, 0))[1], "waiting": waiting.get(table, 0)} if store.lake else {})
        for table in sorted(rows)
    ]
    return Contents(store.name, version, "lake" if store.lake else "file", tables)


def _lake_sizes(db: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, int]]:
    found = db.execute(
        "SELECT table_name, file_size_bytes + delete_file_size_bytes, file_count + delete_file_count "
        "FROM ducklake_table_info('store')"
    ).fetchall()
    return {table: (int(size), int(files)) for table, size, files in found}


def _file_bytes(db: duckdb.DuckDBPyConnection, table: str) -> int:
    blocks = f"SELECT count(DISTINCT block_id) FROM pragma_storage_info({literal(table)}) WHERE persistent"  # noqa: S608
    row = db.execute(blocks).fetchone()
    return int(row[0]) * _BLOCK if row else 0


def compact(store: Store, keep_hours: float = KEEP_HOURS) -> Compacted:
    """Merge a lake's small files, and remove files that have been out of use for ``keep_hours``. Writers wait meanwhile.

    Readers do not, and what they read stays: a file is removed only after it has been out of use for so long.

    Raises:
        InputError: the store is a file, or ``keep_hours`` is less than :data:`SAFE_HOURS`.
    """
    if store.lake is None:
        raise InputError(
            f"the store {store.name} is a file, which DuckDB keeps in order; `factscale db copy` into a new file makes it small"
        )
    if keep_hours < SAFE_HOURS:
        raise InputError(
            f"--keep-hours {keep_hours:g}: a reader may need a file for {SAFE_HOURS:g} hour; give at least that"
        )
    age = f"now() - INTERVAL '{keep_hours * 3600:.0f} seconds'"
    with store.connection() as db:
        moved = db.execute("CALL ducklake_flush_inlined_data('store')").fetchall()
        db.execute("CALL ducklake_rewrite_data_files('store')")
        merged = db.execute("CALL ducklake_merge_adjacent_files('store')").fetchall()
        db.execute(f"CALL ducklake_expire_snapshots('store', older_than => {age})")
        old = db.execute(f"CALL ducklake_cleanup_old_files('store', older_than => {age})").fetchall()
        orphans = _orphans(db, store.lake.folder, age)
        for file in orphans:
            file.unlink(missing_ok=True)
    return Compacted(
        moved=sum(int(row[2]) for row in moved),
        merged=sum(int(row[2]) for row in merged),
        into=sum(int(row[3]) for row in merged),
        removed=len(old) + len(orphans),
    )


def _orphans(db: duckdb.DuckDBPyConnection, folder: Path, age: str) -> list[Path]:
    """Files of writers that were killed: older than ``age``, since a transaction's files are there before it commits.

    DuckLake itself would take every Parquet file for one, wherever below the folder it lies and whoever wrote it.
    """
    found = db.execute(f"CALL ducklake_delete_orphaned_files('store', dry_run => true, older_than => {age})").fetchall()
    tables = db.execute(
        f"SELECT s.path, t.path FROM {CATALOG}.{SCHEMA}.ducklake_table t "  # noqa: S608 - our own names
        f"JOIN {CATALOG}.{SCHEMA}.ducklake_schema s USING (schema_id) WHERE s.path_is_relative AND t.path_is_relative"
    ).fetchall()
    own = {folder / schema / table for schema, table in tables}
    files = [Path(row[0]) for row in found]
    return [file for file in files if file.parent in own and _LAKE_FILE.fullmatch(file.name)]
