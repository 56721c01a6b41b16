"""Numbered SQL files that bring a store to the present schema, each applied once, in one transaction."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
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


def applied(db: duckdb.DuckDBPyConnection) -> int:
    """The number of the last step that this database has; 0 for an empty one."""
    known = db.execute("SELECT 1 FROM information_schema.tables WHERE table_name = 'schema_migrations'").fetchone()
    if known is None:
        return 0
    last = db.execute("SELECT max(version) FROM schema_migrations").fetchone()
    return int(last[0]) if last and last[0] is not None else 0


def pending(db: duckdb.DuckDBPyConnection, path: Path) -> bool:
    """Whether steps are missing. Raises InputError for a database of a newer factscale, or of somebody else."""
    have, newest = applied(db), migrations()[-1].version
    if have > newest:
        raise InputError(f"the store {path} has schema version {have}, this factscale knows {newest}: update factscale")
    if have == 0 and db.execute("SELECT 1 FROM information_schema.tables LIMIT 1").fetchone():
        raise InputError(f"the store {path} is a DuckDB database of something else: name another file")
    return have < newest


def migrate(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Apply the missing steps. A step that fails leaves the database as it was before the step."""
    if not pending(db, path):
        return
    have = applied(db)
    for step in migrations():
        if step.version <= have:
            continue
        db.begin()
        try:
            db.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, "
                "applied_at TIMESTAMP NOT NULL DEFAULT current_timestamp)"
            )
            db.execute(step.sql)
            db.execute("INSERT INTO schema_migrations (version, name) VALUES (?, ?)", [step.version, step.name])
            db.commit()
        except BaseException:
            db.rollback()
            raise
