"""What a person may ask of a lake: statements that read the store's tables, and nothing else.

A lake needs PostgreSQL and files to be read, so a connection to it cannot be cut off from both as one to a file can. DuckDB is
told to open no files outside the lake's folder; and before a statement runs, what DuckDB's own parser makes of it is gone
through: tables and views of the store and the statement's own, and table functions that make rows of their arguments. What
is not known is refused: functions that read files, other databases, the catalog or settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from store.sql import closing
from store.types import InputError

_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "repeat", "json_each", "json_tree"})
_SCALARS_REFUSED = frozenset(
    {"getenv", "getvariable", "current_setting", "read_text", "read_blob", "nextval", "currval"}
)


def check_statement(sql: str, tables: frozenset[str]) -> None:
    """Raise InputError unless ``sql`` is one SELECT on ``tables``, the tables and views of the store in lower case."""
    with closing(duckdb.connect()) as db:
        (serialised,) = db.execute("SELECT json_serialize_sql(?)", [sql]).fetchone() or ("{}",)
        system = {str(row[0]).lower() for row in db.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    parsed = json.loads(serialised)
    if parsed.get("error"):
        if parsed.get("error_type") == "not implemented":
            raise InputError(
                "a shared store answers SELECT, DESCRIBE, SUMMARIZE and SHOW TABLES only; for anything else make a copy with "
                "`factscale db snapshot FILE`"
            )
        raise InputError(f"the query failed: {parsed.get('error_message')}")
    named = {entry["key"].lower() for node in _nodes(parsed) for entry in _ctes(node)}
    # A name of the system's would mean the system's own view wherever the statement's is not in reach.
    if wrong := (named & system) - tables:
        raise InputError(f"WITH {min(wrong)}: that is a view of DuckDB's; use another name")
    for node in _nodes(parsed):
        _check(node, tables | named)


def _check(node: dict[str, Any], tables: frozenset[str]) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        named = ".".join(filter(None, (node.get("catalog_name"), node.get("schema_name"), node["table_name"])))
        if node.get("catalog_name") not in ("", "store") or node.get("schema_name") not in ("", "main", "store"):
            raise InputError(f"{named}: only tables and views of the store can be read")
        if node["table_name"].lower() not in tables:
            raise InputError(f"{named}: the store has no such table or view; SHOW TABLES lists them")
    elif kind == "TABLE_FUNCTION":
        function = node["function"]
        named = str(function.get("function_name", "")).lower()
        if function.get("type") != "FUNCTION" or function.get("schema") or named not in _TABLE_FUNCTIONS:
            raise InputError(
                f"{named or 'this'}: no function that can be read from here; name tables and views of the store"
            )
    elif kind == "SHOW_REF":
        if node.get("query") is None and str(node.get("table_name", "")).strip('"') != "tables":
            raise InputError("SHOW: a shared store shows its tables only (SHOW TABLES)")
    elif node.get("class") == "FUNCTION" and str(node.get("function_name", "")).lower() in _SCALARS_REFUSED:
        raise InputError(f"{node['function_name']}: not on a shared store")


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every object in the parsed statement."""
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from _nodes(value)
    elif isinstance(part, list):
        for value in part:
            yield from _nodes(value)


def _ctes(node: dict[str, Any]) -> list[dict[str, Any]]:
    found = node.get("cte_map")
    return list(found.get("map", [])) if isinstance(found, dict) else []
