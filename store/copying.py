"""Copying a store into another: from the embedded file to a lake, back, or into a file to be read elsewhere.

Rows whose keys are in the target already stay as they are, so a copy that was cut is started again and goes on, and two
stores can be brought together. A unit's row is copied after all the rows of the store, as it lands after its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import duckdb
import pyarrow as pa

from store.connection import Store
from store.file import KEYLESS, UNINDEXED
from store.lake_schema import reference
from store.sql import literal
from store.types import InputError

_ROWS = 20_000  # read and landed at a time: of the longest texts some tens of megabytes
_LAST = ("studies", "units")
_OF_ONE_STORE = ("schema_migrations",)


class Copied(NamedTuple):
    """A table after the copy: its ``rows`` in the source, and how many of them were ``new`` in the target."""

    table: str
    rows: int
    new: int


def copy_store(source: Store, target: Store, tell: Callable[[Copied], None] = lambda _: None) -> list[Copied]:
    """Copy all rows; ``tell`` hears of each table. What the source holds is of one moment: the start.

    A source that is a file is held all the while, so nothing else can write it.

    Raises:
        InputError: there is no source, or it is the target.
    """
    if not source.exists():
        raise InputError(f"there is no store {source.name} to copy")
    source.query("SELECT 1")  # brings an older one up to date
    target.query("SELECT 1")
    if identity(source) == identity(target):
        raise InputError(f"{source.name} and {target.name} are the same store: name another target")
    done = []
    with source.connection(read_only=True) as db:
        for table in _order():
            copied = _copy_scores(db, target) if table == "scored" else _copy_table(db, target, table)
            tell(copied)
            done.append(copied)
    return done


def identity(store: Store) -> str:
    """What is equal for two names of one store."""
    lake = store.lake
    return f"lake {lake.id()}" if lake is not None else f"file {store.path.resolve()}"


def _order() -> list[str]:
    # Texts first: a thought that is there is not asked for its text again. What has no key are scores: those of a run are
    # copied with its row in `scored`, or not at all.
    tables = [table for table in reference().tables if table not in (*_OF_ONE_STORE, *KEYLESS, *UNINDEXED, *_LAST)]
    return [*UNINDEXED, *sorted(tables), *_LAST]


def _copy_table(db: duckdb.DuckDBPyConnection, target: Store, table: str) -> Copied:
    rows = new = 0
    # A cursor of its own would be of another moment, or find the file taken; rows stream on this one, table after table.
    for batch in db.execute(f"SELECT * FROM {table}").to_arrow_reader(_ROWS):  # noqa: S608 - our own names
        rows += batch.num_rows
        new += target.land({table: pa.table(batch)})
    return Copied(table, rows, new)


def _copy_scores(db: duckdb.DuckDBPyConnection, target: Store) -> Copied:
    scored = db.execute("FROM scored ORDER BY score_key").to_arrow_table()
    there = target.known("scored", "score_key", scored.column("score_key").to_pylist())
    new = 0
    for place in range(scored.num_rows):
        row = scored.slice(place, 1)
        key = row.column("score_key")[0].as_py()
        if key in there:
            continue
        with target.transaction() as landing:
            for table in KEYLESS:
                part = db.execute(f"SELECT * FROM {table} WHERE score_key = ?", [key]).to_arrow_table()  # noqa: S608
                landing.execute(f"DELETE FROM {table} WHERE score_key = {literal(key)}")  # noqa: S608 - our own names
                target.insert(landing, table, part)
            new += target.insert(landing, "scored", row)
    return Copied("scored", scored.num_rows, new)
