"""The folder of a lake's files: told apart by what stands in it, since hosts may mount it in different places."""

from __future__ import annotations

import json
import os

import duckdb

from store.lake_address import LakeAddress
from store.types import InputError, RunError

MARKER = "factscale-lake.json"


def make_folder(address: LakeAddress, db: duckdb.DuckDBPyConnection | None = None, catalog: str = "") -> None:
    """Make the folder; with an attached catalog, write whose it is. Raises InputError where it is another lake's."""
    marker = address.data / MARKER
    try:
        address.data.mkdir(parents=True, exist_ok=True)
        if db is None:
            if marker.exists():
                raise InputError(
                    f"the store {address.name}: the folder {address.data} holds the files of another lake: name another folder, "
                    "or the database of that lake"
                )
            return
        if not marker.exists():
            partial = marker.with_name(f".{MARKER}.{os.getpid()}")
            partial.write_text(json.dumps({"lake": lake_id(db, catalog)}) + "\n", encoding="utf-8")
            partial.replace(marker)
    except OSError as error:
        raise RunError(
            f"the store {address.name}: the folder {address.data} cannot be written ({error.strerror})"
        ) from None


def check_folder(db: duckdb.DuckDBPyConnection, catalog: str, address: LakeAddress) -> None:
    """Raise InputError where the folder is not the one that the catalog's lake was made with."""
    try:
        found = json.loads((address.data / MARKER).read_text(encoding="utf-8")).get("lake")
    except (OSError, ValueError, AttributeError):
        found = None
    if found == lake_id(db, catalog):
        return
    row = db.execute(f"SELECT value FROM {catalog}.factscale.ducklake_metadata WHERE key = 'data_path'").fetchone()  # noqa: S608
    made = f"it was made in {row[0]}" if row else "it was made in another folder"
    what = "holds the files of another lake" if found else "does not hold this lake's files"
    raise InputError(
        f"the store {address.name}: the folder {address.data} {what} ({made}): mount that folder here and name it by ?data="
    )


def lake_id(db: duckdb.DuckDBPyConnection, catalog: str) -> str:
    """What tells this lake from all others."""
    row = db.execute(f"SELECT schema_uuid FROM {catalog}.factscale.ducklake_schema WHERE schema_id = 0").fetchone()  # noqa: S608
    return str(row[0]) if row else ""
