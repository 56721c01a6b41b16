"""The schema of a lake: the same numbered steps as of a file, without what DuckLake does not have.

DuckLake has no keys and adds no column whose default is computed. What its tables lack is taken from a reference: an empty
DuckDB in memory that went through the same steps. It says by which columns the rows of a table are told apart, and what stands
in a column that was left out.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import duckdb

from store.file import UNINDEXED
from store.migrations import migrate
from store.sql import closing

SCHEMA = "factscale"  # of PostgreSQL: beside it the database may hold something else
CATALOG = "__ducklake_metadata_store"  # DuckLake's own name for the attached catalog
_COMMENT = re.compile(r"--[^\n]*")
_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?\w+ \((?P<body>.*?)\);", re.DOTALL)
_KEY_OF_MANY = re.compile(r",\s*PRIMARY KEY\s*\((?P<columns>[^)]*)\)")
_KEY_OF_ONE = re.compile(r"\bPRIMARY KEY\b(?!\s*\()")
_COMPUTED_DEFAULT = re.compile(r"(ALTER TABLE \w+ ADD COLUMN \w+ [A-Z]+) DEFAULT current_timestamp")


class TableSchema(NamedTuple):
    """What DuckLake does not know of a table: its ``key``, and the ``computed`` defaults of columns, as SQL by name."""

    key: tuple[str, ...]
    computed: dict[str, str]


class Reference(NamedTuple):
    """The schema of every store: its tables by name, and the names of its views."""

    tables: dict[str, TableSchema]
    views: frozenset[str]


def lake_sql(sql: str) -> str:
    """A step's SQL in what DuckLake understands: columns of a key are NOT NULL, and nothing more is said of the key."""
    return _COMPUTED_DEFAULT.sub(r"\1", _TABLE.sub(_without_key, _COMMENT.sub("", sql)))


def _without_key(statement: re.Match[str]) -> str:
    text = _KEY_OF_ONE.sub("NOT NULL", statement[0])
    found = _KEY_OF_MANY.search(text)
    if found is None:
        return text
    text = text.replace(found[0], "")
    for column in found["columns"].split(","):
        text = re.sub(
            rf"(?<=[\s(]){column.strip()} ([A-Z]+)(?=\s*[,)])", rf"{column.strip()} \1 NOT NULL", text, count=1
        )
    return text


@lru_cache(maxsize=1)
def reference() -> Reference:
    """The present schema."""
    with closing(duckdb.connect()) as db:
        migrate(db, "in memory")
        keys = dict(
            db.execute(
                "SELECT table_name, constraint_column_names FROM duckdb_constraints() WHERE constraint_type = 'PRIMARY KEY'"
            ).fetchall()
        )
        columns = db.execute(
            "SELECT table_name, column_name, column_default, data_type FROM duckdb_columns() WHERE NOT internal "
            "AND schema_name = 'main' AND table_name IN (SELECT table_name FROM duckdb_tables()) "
            "ORDER BY table_name, column_index"
        ).fetchall()
        views = db.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    tables: dict[str, TableSchema] = {}
    for table, column, default, kind in columns:
        key = keys.get(table, [UNINDEXED[table]] if table in UNINDEXED else [])
        schema = tables.setdefault(table, TableSchema(tuple(key), {}))
        if default is not None and ("(" in default or "current_timestamp" in default):
            schema.computed[column] = f"({default})::{kind}"
    return Reference(tables, frozenset(row[0] for row in views))


def insertion(table: str, columns: list[str]) -> tuple[str, str]:
    """Two statements about the relation ``landing_rows``, which has these ``columns``.

    The first gives the smallest and the largest value of each column of the key, the second inserts the rows whose key is not
    there and takes these limits as its parameters: as constants they let DuckLake pass over files without opening them, since
    keys of rows that land together begin alike.
    """
    schema = reference().tables[table]
    computed = "".join(f", {sql} AS {column}" for column, sql in schema.computed.items() if column not in columns)
    rows = f"(SELECT *{computed} FROM landing_rows)" if computed else "landing_rows"  # noqa: S608 - our own names
    if not schema.key:
        return "", f"INSERT INTO {table} BY NAME SELECT * FROM {rows}"  # noqa: S608
    key = ", ".join(schema.key)
    limits = "SELECT " + ", ".join(f"min({column}), max({column})" for column in schema.key) + f" FROM {rows}"  # noqa: S608
    within = " AND ".join(f"{column} BETWEEN ? AND ?" for column in schema.key)
    return limits, (
        f"INSERT INTO {table} BY NAME SELECT DISTINCT ON ({key}) * FROM {rows} "  # noqa: S608
        f"ANTI JOIN (SELECT {key} FROM {table} WHERE {within}) USING ({key})"
    )
