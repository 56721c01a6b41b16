"""The commands of `factscale db`: look into the results database, copy it, and keep a shared one in order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.printing import Shape, console, print_rows
from store.copying import Copied, copy_store
from store.home import Home
from store.types import InputError
from store.upkeep import KEEP_HOURS, compact, contents

db_app = typer.Typer(no_args_is_help=True, help="Look into the results database, copy it, keep a shared one in order.")

Address = Annotated[str, typer.Argument(help="The path of a DuckDB file, or a URL as in FACTSCALE_STORE.")]


@db_app.command("query")
def db_query(
    sql: Annotated[
        str,
        typer.Argument(help="One statement, for example: SELECT setting, avg(correct::INT) FROM results GROUP BY 1"),
    ],
    shape: Annotated[Shape, typer.Option("--format", help="How to print the rows.")] = Shape.TABLE,
) -> None:
    """Run a SQL query on the results database, read-only."""
    import duckdb

    home = Home.current().existing()
    try:
        rows = home.store.query_untrusted(sql)
    except duckdb.Error as error:
        raise InputError(f"the query failed: {error}") from None
    print_rows(rows, shape)


@db_app.command("info")
def db_info(
    shape: Annotated[Shape, typer.Option("--format", help="How to print the tables.")] = Shape.TABLE,
) -> None:
    """Show which store is used, the version of its schema, and its tables with rows and bytes."""
    found = contents(Home.current().existing().store)
    if shape is Shape.TABLE:
        console.print(f"Store: {found.name} ({found.kind}, schema version {found.version})", soft_wrap=True)
        rows = [row for row in found.tables if row["rows"]]
        print_rows(rows, shape, title="Tables that hold rows")
        total = sum(row["bytes"] for row in rows)
        files = sum(row.get("files", 0) for row in rows)
        console.print(f"{total:,} bytes" + (f" in {files:,} files" if found.kind == "lake" else ""))
    else:
        print_rows([{"store": found.name, "version": found.version, **row} for row in found.tables], shape)


@db_app.command("copy")
def db_copy(source: Address, target: Address) -> None:
    """Copy all rows of a store into another, which is made if it is not there; what the target has stays as it is.

    A copy that was cut goes on when it is started again. A source that is a file is held all the while.
    """
    home = Home.current()
    _copy(home, source, target)


@db_app.command("snapshot")
def db_snapshot(
    file: Annotated[Path, typer.Argument(help="The DuckDB file to make; it must not be there yet.")],
) -> None:
    """Copy the store as it is now into a new DuckDB file, to be read without it."""
    home = Home.current().existing()
    if file.exists():
        raise InputError(f"{file} is there already: name a new file, or use `factscale db copy` to add to it")
    _copy(home, home.store.address, str(file.absolute()))


@db_app.command("compact")
def db_compact(
    keep_hours: Annotated[
        float, typer.Option("--keep-hours", help="Remove files once they have been out of use for so long.")
    ] = KEEP_HOURS,
) -> None:
    """Merge a shared store's small files into large ones, and remove what no reader needs. Writers wait meanwhile."""
    home = Home.current().existing()
    done = compact(home.store, keep_hours)
    console.print(
        f"{done.moved:,} rows went from PostgreSQL into files, {done.merged:,} files became {done.into:,}, "
        f"{done.removed:,} old files were removed."
    )


def _copy(home: Home, source: str, target: str) -> None:
    def tell(copied: Copied) -> None:
        if copied.rows:
            console.print(f"{copied.table}: {copied.rows:,} rows, {copied.new:,} new")

    done = copy_store(home.store_at(source), home.store_at(target), tell)
    console.print(f"{sum(one.rows for one in done):,} rows, {sum(one.new for one in done):,} new.")
