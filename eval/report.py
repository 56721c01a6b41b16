"""The report of a study: one page that holds everything it shows, and the result table as CSV beside it.

The page needs no network: styles, plots and pictures are in it, and its content policy allows nothing else. Every text
of a model, a benchmark or a graph is escaped; pictures of paths are embedded as images, in which no script runs.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup

from eval import findings, plots
from eval.findings import markdown_summary, table_rows
from eval.pages import duration, environment, image, plot, style, write
from eval.retrieval_report import Example, retrieval_section
from eval.retrieval_summary import RetrievalSummary
from eval.summary import Cell, Comparison, Group, Summary, budget_name, setting_rank

__all__ = ["ReportData", "duration", "markdown_summary", "render_report", "table_rows"]

REPORT_VERSION = "3"
Row = Mapping[str, Any]
Item = TypeVar("Item", Cell, Comparison, Group)
_DETAILS = (
    "engine",
    "engine_version",
    "dtype",
    "device",
    "training_set",
    "weights",
)  # what units tell of themselves beside versions


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows; rows are those of ``store.queries`` (the function's name is given where they differ).

    ``study`` (``study``), ``runs`` (``run_rows``), ``units`` (``units_of_study``), ``training`` (``training_rows``),
    ``graphs`` (``graphs_of``). ``drawings`` holds SVG pictures of the paths by question key, where there are any.
    ``seeds`` are named for people, ``versions`` are those of the program that writes the report. ``retrieval_summary`` is
    None where no path was searched; ``retrieval_examples`` are shown with it.
    """

    study: Row
    summary: Summary
    runs: Sequence[Row]
    units: Sequence[Row]
    training: Mapping[str, Sequence[Row]]
    graphs: Mapping[str, str]
    training_examples: Sequence[Row]
    trace_samples: Sequence[Row]
    drawings: Mapping[str, str]
    versions: Mapping[str, str]
    seeds: Mapping[str, int]
    generated_at: datetime
    retrieval_summary: RetrievalSummary | None = None
    retrieval_examples: Sequence[Example] = ()


class Cut(NamedTuple):
    """A place in a thought at which a smaller budget cut it, and what was answered from there."""

    budget: str
    prediction: str | None
    correct: bool


class Piece(NamedTuple):
    """A part of a thought, and the cut that ends it (None for the last part)."""

    text: str
    cut: Cut | None


def render_report(data: ReportData, output: Path) -> Path:
    """Write ``index.html`` and ``results.csv`` into the folder ``output``; the page's path is returned.

    Each file is replaced as a whole, the page last, so that a reader never sees half of one. Raises RunError, with the
    file's name, where it cannot be written.
    """
    page = environment().get_template("report.html.j2").render(**_context(data))
    write(output / "results.csv", _csv(table_rows(data.summary)))
    return write(output / "index.html", page)


def _context(data: ReportData) -> dict[str, Any]:
    summary = data.summary
    datasets = list(dict.fromkeys(cell.run.dataset for cell in summary.cells))
    return {
        "data": data,
        "summary": summary,
        "style": style(),
        "runs": sorted(data.runs, key=lambda run: (run["dataset"], run["model"], setting_rank(run["setting"]))),
        "verdict": findings.verdict(summary),
        "scope": findings.scope(summary),
        "datasets": datasets,
        "grouped_cells": _grouped(summary.cells),
        "grouped_largest": _grouped(summary.largest),
        "comparisons": _grouped(summary.comparisons),
        "budget_gains": _grouped(summary.budget_gains),
        "reach": _reach([*summary.comparisons, *summary.budget_gains]),
        "plots": {name: _plots(summary, name) for name in datasets},
        "loss_plot": plot(plots.loss_curves(data.training["students"], data.training["training_logs"])),
        "breakdown": {by: _breakdown(summary, by) for by in ("hops", "answer_type")},
        "units": _unit_table(data.units),
        "packages": _packages(data.units),
        "engines": _engines(data.units),
        "training_sets": [_training_set(row) for row in data.training["training_sets"]],
        "retrieval_section": _retrieval_section(data),
        "examples": _examples(data),
        "questions": _questions(data.trace_samples),
    }


def _grouped(items: Sequence[Item]) -> list[tuple[tuple[str, str], list[Item]]]:
    """Items by dataset and model, which head their rows in the tables."""
    found: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        found.setdefault((item.run.dataset, item.run.model), []).append(item)
    return list(found.items())


def _reach(comparisons: Sequence[Comparison]) -> int:
    """Percentage points to either side that a drawing of the differences needs, in steps of 10."""
    far = max((max(abs(one.difference.low), abs(one.difference.high)) for one in comparisons), default=1.0)
    return min(100, 10 * math.ceil(far * 10 - 1e-9) or 10)


def _plots(summary: Summary, dataset: str) -> dict[str, Markup | None]:
    return {
        "budget": plot(plots.accuracy_by_budget(summary, dataset)),
        "pass": plot(plots.pass_at_k(summary, dataset)),
        "hops": plot(plots.accuracy_by_hops(summary, dataset)),
    }


class BreakdownRow(NamedTuple):
    """The questions of one hop count or answer type: accuracy in each setting, None where there is no such question."""

    value: str
    groups: tuple[Group | None, ...]


def _breakdown(summary: Summary, by: str) -> tuple[tuple[str, ...], list[tuple[tuple[str, str], list[BreakdownRow]]]]:
    """The settings as columns, and rows by value under each dataset and model."""
    groups = [group for group in summary.groups if group.by == by]
    settings = tuple(sorted({group.run.setting for group in groups}, key=lambda s: (setting_rank(s), s)))
    blocks = []
    for key, members in _grouped(groups):
        found: dict[str, dict[str, Group]] = {}
        for group in members:
            found.setdefault(group.value, {})[group.run.setting] = group
        rows = [
            BreakdownRow(value, tuple(found[value].get(setting) for setting in settings)) for value in sorted(found)
        ]
        blocks.append((key, rows))
    return settings, blocks


def _unit_table(units: Sequence[Row]) -> dict[str, Any]:
    fields = ("seconds", "row_count", "prompt_tokens", "cached_tokens", "generated_tokens")
    costs = [unit["cost"] for unit in units if unit["cost"] is not None]
    return {
        "rows": units,
        "cost": sum(costs) if costs else None,
        "totals": {field: sum(unit[field] for unit in units) for field in fields},
        "reused": sum(bool(unit["reused"]) for unit in units),
        "hosts": sorted({str(unit["host"]) for unit in units}),
    }


def _packages(units: Sequence[Row]) -> dict[str, str]:
    """Versions that the units were made with; where they differ all are named."""
    found: dict[str, set[str]] = {}
    for unit in units:
        for name, version in unit["versions"].items():
            if name not in _DETAILS:
                found.setdefault(str(name), set()).add(str(version))
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def _engines(units: Sequence[Row]) -> list[str]:
    """Engine, precision and device of the units that ran a model."""
    ran = [unit["versions"] for unit in units if "engine" in unit["versions"]]
    return sorted({" ".join(str(made.get(name, "")) for name in ("engine", "dtype", "device")).strip() for made in ran})


def _training_set(row: Row) -> dict[str, Any]:
    """A training set's row with its statistics split: plain numbers, and counts by name (reasons for a drop)."""
    numbers = {name: value for name, value in row["statistics"].items() if not isinstance(value, dict | list)}
    counts = {name: value for name, value in row["statistics"].items() if isinstance(value, dict)}
    return {**row, "numbers": numbers, "counts": counts}


def _retrieval_section(data: ReportData) -> Markup | None:
    if data.retrieval_summary is None:
        return None
    return Markup(retrieval_section(data.retrieval_summary, data.retrieval_examples))  # noqa: S704 - our own template


def _examples(data: ReportData) -> list[dict[str, Any]]:
    """Training questions with their picture, their linearised graph and a teacher's trace for each recipe."""
    found: dict[str, dict[str, Any]] = {}
    for row in data.training_examples:
        key = row["question_key"]
        entry = found.setdefault(
            key, {**row, "graph": data.graphs.get(key, ""), "drawing": image(data.drawings.get(key)), "traces": []}
        )
        entry["traces"].append(row)
    for entry in found.values():
        entry["traces"].sort(key=lambda row: setting_rank(row["recipe"]))
    return list(found.values())


def _questions(samples: Sequence[Row]) -> list[dict[str, Any]]:
    """Test questions, each with its models, and for each model the settings' traces side by side."""
    ladders: dict[tuple[str, str, str], list[Row]] = {}
    for row in samples:
        if row["role"] != "teacher":
            ladders.setdefault((row["question_key"], row["model"], row["run_key"]), []).append(row)
    found: dict[str, dict[str, Any]] = {}
    # A baseline has one trace and stands after the models that have several to compare.
    for (question, model, _), rows in sorted(ladders.items(), key=lambda item: item[1][0]["role"] == "baseline"):
        ladder = sorted(rows, key=lambda row: (row["budget"] is None, row["budget"] or 0))
        entry = found.setdefault(question, {**ladder[-1], "models": {}})
        shown = {**ladder[-1], "ladder": ladder, "pieces": pieces(ladder)}
        entry["models"].setdefault(model, []).append(shown)
    for entry in found.values():
        for traces in entry["models"].values():
            traces.sort(key=lambda row: (setting_rank(row["setting"]), row["run_key"]))
    return list(found.values())


def pieces(ladder: Sequence[Row]) -> tuple[Piece, ...]:
    """The longest thought of a ladder of budgets (ascending), split where a budget cut it."""
    text, start, found = str(ladder[-1]["thinking"]), 0, []
    for row in ladder:
        if row["cut"]:
            end = max(start, min(int(row["thinking_chars"]), len(text)))
            cut = Cut(budget_name(row["budget"]), row["prediction"], bool(row["correct"]))
            found.append(Piece(text[start:end], cut))
            start = end
    if start < len(text) or not found:
        found.append(Piece(text[start:], None))
    return tuple(found)


def _csv(rows: Sequence[Row]) -> str:
    text = StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
