"""Numbered SQL files that bring a store to the present schema, each applied once, in one transaction."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import NamedTuple

import duckdb

from store.types import InputError


class Migration(NamedTuple):
    """One numbered step of the schema."""

    version: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """All steps, in order of their numbers."""
    found = []
    for entry in files(__name__).iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name)
        if match:
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    return sorted(found)


_TABLES = "SELECT 1 FROM duckdb_tables() WHERE database_name = current_database()"
_APPLIED = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL DEFAULT current_timestamp
);
"""


def applied(db: duckdb.DuckDBPyConnection) -> int:
    """The number of the last step that this database has; 0 for an empty one."""
    known = db.execute(f"{_TABLES} AND table_name = 'schema_migrations'").fetchone()
    if known is None:
        return 0
    last = db.execute("SELECT max(version) FROM schema_migrations").fetchone()
    return int(last[0]) if last and last[0] is not None else 0


def pending(db: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether steps are missing. Raises InputError for a database of a newer factscale, or of somebody else."""
    have, newest = applied(db), migrations()[-1].version
    if have > newest:
        raise InputError(f"the store {name} has schema version {have}, this factscale knows {newest}: update factscale")
    if have == 0 and db.execute(f"{_TABLES} LIMIT 1").fetchone():
        raise InputError(f"the store {name} is a DuckDB database of something else: name another file")
    return have < newest


def migrate(db: duckdb.DuckDBPyConnection, name: str, dialect: Callable[[str], str] = str) -> None:
    """Apply the missing steps to the store called ``name``. A step that fails leaves the database as it was before the step.

    ``dialect`` makes of a step's SQL what this database understands.
    """
    if not pending(db, name):
        return
    have = applied(db)
    for step in migrations():
        if step.version <= have:
            continue
        db.begin()
        try:
            db.execute(dialect(_APPLIED))
            db.execute(dialect(step.sql))
            db.execute("INSERT INTO schema_migrations (version, name) VALUES (?, ?)", [step.version, step.name])
            db.commit()
        except BaseException:
            db.rollback()
            raise
