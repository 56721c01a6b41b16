"""The folder of a lake's files: told apart by what stands in it, since hosts may mount it in different places."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from store.lake_address import LakeAddress
from store.lake_schema import SCHEMA
from store.types import InputError, RunError

MARKER = "factscale-lake.json"


def new_folder(address: LakeAddress) -> None:
    """Make the folder of a new lake. Raises InputError where it holds something, RunError where it cannot be made."""
    with _writable(address):
        address.data.mkdir(parents=True, exist_ok=True)
        # A marker that was not finished is of a process that was killed while it made this lake.
        there = sorted(name for name in os.listdir(address.data) if not name.startswith(f".{MARKER}."))
    if MARKER in there:
        raise InputError(
            f"the store {address.name}: the folder {address.data} holds the files of another lake: name another folder, "
            "or the database of that lake"
        )
    if there:
        raise InputError(
            f"the store {address.name}: the folder {address.data} is not empty ({', '.join(there[:3])}): "
            "name an empty or a new folder by ?data="
        )


def mark_folder(db: duckdb.DuckDBPyConnection, catalog: str, address: LakeAddress) -> None:
    """Write into the folder which lake's files it holds. Raises RunError where that cannot be."""
    marker = address.data / MARKER
    with _writable(address):
        partial = marker.with_name(f".{MARKER}.{os.getpid()}")
        partial.write_text(json.dumps({"lake": lake_id(db, catalog)}) + "\n", encoding="utf-8")
        partial.replace(marker)


def found_lake(address: LakeAddress) -> str | None:
    """Which lake's files the folder holds; None where it does not say so, empty where it says nothing that is known."""
    try:
        os.listdir(address.data)  # a network's file system may remember that the marker was not there
        return str(json.loads((address.data / MARKER).read_text(encoding="utf-8"))["lake"])
    except OSError:
        return None
    except (ValueError, KeyError, TypeError):
        return ""


def check_folder(db: duckdb.DuckDBPyConnection, catalog: str, address: LakeAddress) -> None:
    """Raise InputError where the folder is not the one that the catalog's lake was made with."""
    found = found_lake(address)
    if found == lake_id(db, catalog):
        return
    row = db.execute(f"SELECT value FROM {catalog}.{SCHEMA}.ducklake_metadata WHERE key = 'data_path'").fetchone()  # noqa: S608
    made = f"it was made in {row[0]}" if row else "it was made in another folder"
    what = "holds the files of another lake" if found else "does not hold this lake's files"
    raise InputError(
        f"the store {address.name}: the folder {address.data} {what} ({made}): mount that folder here and name it by ?data="
    )


def lake_id(db: duckdb.DuckDBPyConnection, catalog: str) -> str:
    """What tells this lake from all others."""
    row = db.execute(f"SELECT schema_uuid FROM {catalog}.{SCHEMA}.ducklake_schema WHERE schema_id = 0").fetchone()  # noqa: S608
    return str(row[0]) if row else ""


@contextmanager
def _writable(address: LakeAddress) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the store {address.name}: the folder {address.data} cannot be written ({error.strerror})"
        ) from None
