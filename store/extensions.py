"""DuckDB's extensions, from the packages of ``pip install 'factscale[shared]'``, so that nothing is fetched at run time."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import duckdb

from store.sql import literal
from store.types import InputError

_LAKE = ("ducklake", "postgres_scanner")


def load_lake_extensions(db: duckdb.DuckDBPyConnection) -> None:
    """Load what a lake on PostgreSQL needs. Raises InputError where it is not installed, or is of another DuckDB."""
    for extension in _LAKE:
        file = _packaged(extension)
        try:
            # Without a package: what `INSTALL` put into DuckDB's own folder.
            db.execute(f"LOAD {literal(str(file)) if file else extension}")
        except duckdb.Error as error:
            raise InputError(
                f"a shared store needs DuckDB's extension {extension} for {duckdb.__version__} "
                f"({str(error).splitlines()[0]}): pip install 'factscale[shared]'"
            ) from None


def _packaged(extension: str) -> Path | None:
    spec = find_spec(f"duckdb_extension_{extension}")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob(f"extensions/*/{extension}.duckdb_extension")):
            return file
    return None
