"""The report of a study: a folder of pages, with every plot and every table beside them as files.

A page needs no network: styles and plots are in it, and its content policy allows nothing else. Every text of a model, a
benchmark or a graph is escaped; pictures of paths are embedded as images, in which no script runs. What each page shows is
in ``eval.report_pages``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath

from jinja2 import Environment

from eval import report_pages
from eval.pages import environment, file_slug, write
from eval.plots import datasets_of
from eval.report_pages import ReportData
from eval.table_files import csv_text, latex_tables, parquet_bytes
from eval.tables import tables_of
from store.types import RunError

__all__ = ["ReportData", "drawn_key", "render_report"]

REPORT_VERSION = "5"
INDEX, MANIFEST = "index.html", "manifest.json"


def render_report(data: ReportData, output: Path) -> Path:
    """Write the report into the folder ``output``: pages, ``plots/``, ``tables/``. Returns the path of ``index.html``.

    Each file is replaced as a whole, ``index.html`` after all others. ``manifest.json`` names the files of the report: those
    of an earlier one that are no longer made are removed, anything else in the folder stays; and, once all is written, its
    key (:func:`drawn_key`). Raises RunError, with the file's name, where one cannot be written; a report that stood there
    before then keeps its ``index.html``.
    """
    files = _files(data)
    earlier = _listed(output / MANIFEST)
    # Until the end it names the files of both and no key, so that a report that is stopped leaves none behind for good, and
    # is not taken for a whole one.
    write(output / MANIFEST, _manifest({*files, *earlier}, None))
    for name in sorted(files, key=lambda name: name == INDEX):
        write(output / name, files[name])
    for name in earlier - files.keys():
        _remove(output, name)
    write(output / MANIFEST, _manifest(set(files), data.key))
    return output / INDEX


def drawn_key(output: Path) -> str | None:
    """The key of the report that stands in the folder ``output``; None where there is none, or not all of one."""
    try:
        found = json.loads((output / MANIFEST).read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and (output / INDEX).is_file() else None


def _files(data: ReportData) -> Mapping[str, str | bytes]:
    """Every file of the report by its path in the folder."""
    files: dict[str, str | bytes] = {}
    templates = _templates()
    drawn = report_pages.plots_of(data)
    for page in report_pages.pages_of(data):
        context = report_pages.context_of(page, data, drawn)
        files[page.file] = templates.get_template(page.template).render(**context)
    for plot in drawn.values():
        files[f"plots/{plot.file}.svg"] = plot.svg
        files[f"plots/{plot.file}.png"] = plot.png
    for table in tables_of(data.summary, data.training_quality):
        files[f"tables/{table.name}.csv"] = csv_text(table)
        files[f"tables/{table.name}.parquet"] = parquet_bytes(table)
    slugs = {dataset: file_slug(dataset) for dataset in datasets_of(data.summary)}
    return files | {f"tables/{name}": text for name, text in latex_tables(data.summary, slugs).items()}


@lru_cache(maxsize=1)
def _templates() -> Environment:
    """The environment, which keeps what it has compiled."""
    return environment()


def _manifest(names: set[str], key: str | None) -> str:
    return json.dumps({"version": REPORT_VERSION, "key": key, "files": sorted(names)}, indent=1) + "\n"


def _listed(manifest: Path) -> set[str]:
    """The files that an earlier report's manifest names; none if there is no manifest that can be read."""
    try:
        names = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if isinstance(name, str) and _inside(name)} if isinstance(names, list) else set()


def _inside(name: str) -> bool:
    # A manifest that was tampered with must not make us remove files of others.
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.parts[0] in ("plots", "tables", path.name)


def _remove(output: Path, name: str) -> None:
    try:
        (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{output / name} of an earlier report could not be removed ({error.strerror})") from error
