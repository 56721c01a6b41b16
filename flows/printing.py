"""Rows on the terminal: as a table for people, as JSON or CSV for programs."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# A log file has no width of its own, and folded tables cannot be read there.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


class Shape(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def print_rows(rows: list[dict[str, Any]], shape: Shape, title: str | None = None) -> None:
    """Print rows that all have the columns of the first."""
    if shape is Shape.JSON:
        print(json.dumps(rows, indent=1, default=str, ensure_ascii=False))
        return
    if shape is Shape.CSV:
        import csv

        writer = csv.writer(sys.stdout)
        writer.writerow(list(rows[0]) if rows else [])
        writer.writerows([list(row.values()) for row in rows])
        return
    if not rows:
        console.print(f"{title}: nothing yet" if title else "no rows")
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for name, value in rows[0].items():
        table.add_column(Text(name), justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(table)


def size_of(count: int) -> str:
    """So many bytes as people say it."""
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
