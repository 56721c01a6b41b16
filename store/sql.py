"""Names and texts on their way into SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb


def literal(text: str) -> str:
    """The text as a constant of SQL; for statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def name(identifier: str) -> str:
    """A table's or column's name. These come from this code base only; anything else is a bug that must not reach SQL."""
    if not identifier.isidentifier():
        raise ValueError(f"not a table or column name: {identifier!r}")
    return identifier


def quiet(db: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """The connection without DuckDB's progress bar, which goes to standard output in processes that look interactive to it."""
    db.execute("SET enable_progress_bar = false")
    return db


@contextmanager
def closing(db: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """The connection, closed at the end of the block."""
    try:
        yield db
    finally:
        db.close()
