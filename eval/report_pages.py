"""What each page of a study's report shows: its place among the pages, its plots, and the values that its template prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup

from eval import analysis_plots, findings, retrieval_plots, scaling_plots, training_plots
from eval.pages import file_slug, plot, style
from eval.plots import Plot, datasets_of
from eval.report_rows import engines_of, packages_of, taught, training_examples, unit_table
from eval.retrieval_report import Example, retrieval_section
from eval.retrieval_summary import RetrievalSummary
from eval.statistics import Estimate
from eval.summary import Cell, Comparison, Group, LengthBin, Summary, setting_rank
from eval.table_rows import mean_of

Row = Mapping[str, Any]
Item = TypeVar("Item", Cell, Comparison, Group, LengthBin)
_OPEN_ROWS = 24  # of a table that stands open: more are folded up
_KS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows; rows are those of ``store.queries`` (the function's name is given where they differ).

    ``study`` (``study``), ``runs`` (``run_rows``), ``units`` (``units_of_study``), ``training`` (``training_rows``),
    ``graphs`` (``graphs_of``). ``drawings`` holds SVG pictures of the paths by question key, where there are any.
    ``seeds`` are named for people, ``versions`` are those of the program that writes the report. ``retrieval_summary`` is
    None where no path was searched; ``retrieval_examples`` are shown with it. ``training_quality`` are rows of that view,
    ``dev`` those of ``dev_rows``.
    ``questions_page``: pages of test questions are written into ``questions/`` beside the report, which links to them.
    ``key`` tells this report from others that are drawn into the same folder.
    """

    study: Row
    summary: Summary
    runs: Sequence[Row]
    units: Sequence[Row]
    training: Mapping[str, Sequence[Row]]
    graphs: Mapping[str, str]
    training_examples: Sequence[Row]
    drawings: Mapping[str, str]
    versions: Mapping[str, str]
    seeds: Mapping[str, int]
    generated_at: datetime
    retrieval_summary: RetrievalSummary | None = None
    retrieval_examples: Sequence[Example] = ()
    training_quality: Sequence[Row] = ()
    dev: Sequence[Row] = ()
    questions_page: bool = False
    key: str = ""


class Page(NamedTuple):
    """A page: its file in the folder, the words that name it in the navigation, its template, what it needs beside the
    things that all pages share, and the file of the page that it stands ``under`` (None: it is in the navigation itself)."""

    file: str
    name: str
    template: str
    context: Callable[[ReportData], Mapping[str, Any]]
    under: str | None = None


def pages_of(data: ReportData) -> tuple[Page, ...]:
    """The pages of a report, in the order of the navigation; pages of questions that another writes are not among them."""
    return (
        Page("index.html", "Overview", "report_index.html.j2", _index),
        Page("budgets.html", "Budgets", "report_budgets.html.j2", _budgets),
        Page("parallel.html", "Samples", "report_parallel.html.j2", _parallel),
        Page("datasets.html", "Datasets", "report_datasets.html.j2", _datasets),
        *_dataset_pages(datasets_of(data.summary)),
        Page("training.html", "Training", "report_training.html.j2", _training),
        Page("retrieval.html", "Retrieval", "report_retrieval.html.j2", _retrieval),
        Page("judges.html", "Judges", "report_judges.html.j2", _judges),
        Page("methods.html", "Methods", "report_methods.html.j2", lambda _: {}),
        Page("run.html", "Run", "report_run.html.j2", _run),
    )


def plots_of(data: ReportData) -> dict[str, Plot]:
    """All plots of a study by name."""
    summary = data.summary
    found = [
        analysis_plots.accuracy_by_dataset(summary),
        scaling_plots.accuracy_by_model_size(summary),
        *training_plots.training_plots(data.training["students"], data.training["training_logs"]),
        analysis_plots.training_quality(data.training_quality),
    ]
    if data.retrieval_summary is not None and data.retrieval_summary.parts:
        parts = data.retrieval_summary.parts
        found += [retrieval_plots.coverage_bars(parts), retrieval_plots.hop_bars(parts)]
    for dataset in datasets_of(summary):
        found += [
            scaling_plots.accuracy_by_budget(summary, dataset),
            scaling_plots.pass_and_majority(summary, dataset),
            analysis_plots.reliability(summary, dataset),
            analysis_plots.accuracy_by_group(summary, dataset, "hops"),
            analysis_plots.accuracy_by_group(summary, dataset, "answer_type"),
            scaling_plots.accuracy_by_length(summary, dataset),
            analysis_plots.judge_against_matcher(summary, dataset),
        ]
    return {plot.name: plot for plot in found if plot}


def context_of(page: Page, data: ReportData, drawn: Mapping[str, Plot]) -> dict[str, Any]:
    """Everything that a page's template prints."""
    nav = [(one.file, one.name) for one in pages_of(data) if one.under is None]
    if data.questions_page:
        nav.insert(len(nav) - 2, ("questions/index.html", "Questions"))
    shared = {
        "data": data,
        "summary": data.summary,
        "style": style(),
        "nav": nav,
        "page": page,
        "datasets": [(dataset, file_slug(dataset)) for dataset in datasets_of(data.summary)],
        "reach": _reach([*data.summary.comparisons, *data.summary.budget_gains]),
        "any_flagged": any(cell.flagged for cell in data.summary.cells),
        "plot_of": lambda name: _drawn(drawn.get(name)),
        "open": len(data.summary.largest) <= _OPEN_ROWS,
    }
    return shared | dict(page.context(data))


class Drawn(NamedTuple):
    """A plot in a page, and the name of its files."""

    svg: Markup
    file: str


def _drawn(one: Plot | None) -> Drawn | None:
    svg = plot(one.inline) if one else None
    return Drawn(svg, one.file) if one and svg else None


class Entry(NamedTuple):
    """A setting of a model in the board: whether it is the ``best`` of its row, and the comparison with the baseline."""

    cell: Cell
    best: bool
    comparison: Comparison | None


class BoardRow(NamedTuple):
    """A model in the board of a dataset, an entry a setting."""

    model: str
    role: str
    parameters: int | None
    entries: tuple[Entry | None, ...]


class Board(NamedTuple):
    """The compact table of a dataset: a row a model, from small to large, a column a setting."""

    settings: tuple[str, ...]
    rows: tuple[BoardRow, ...]


def board(summary: Summary, dataset: str) -> Board:
    """Each run of the dataset at its largest budget; baselines come last."""
    cells = [cell for cell in summary.largest if cell.run.dataset == dataset]
    settings = _settings(cells)
    compared = {one.run.run_key: one for one in summary.comparisons}
    models = dict.fromkeys((cell.run.model, cell.run.role) for cell in cells)
    rows = []
    for model, role in models:
        mine = {cell.run.setting: cell for cell in cells if (cell.run.model, cell.run.role) == (model, role)}
        top = max((cell.accuracy.value for cell in mine.values() if cell.accuracy), default=None)
        entries = tuple(
            Entry(
                cell,
                len(mine) > 1 and cell.accuracy is not None and cell.accuracy.value == top,
                compared.get(cell.run.run_key),
            )
            if (cell := mine.get(setting))
            else None
            for setting in settings
        )
        rows.append(BoardRow(model, role, next(iter(mine.values())).run.parameters, entries))
    return Board(settings, tuple(rows))


def _settings(items: Sequence[Item]) -> tuple[str, ...]:
    return tuple(sorted({item.run.setting for item in items}, key=lambda setting: (setting_rank(setting), setting)))


def _by_model(items: Sequence[Item], dataset: str) -> list[tuple[str, list[Item]]]:
    """The items of a dataset by model, which heads their rows in the tables."""
    found: dict[str, list[Item]] = {}
    for item in items:
        if item.run.dataset == dataset:
            found.setdefault(item.run.model, []).append(item)
    return list(found.items())


def _reach(comparisons: Sequence[Comparison]) -> int:
    """Percentage points to either side that a drawing of the differences needs, in steps of 10."""
    far = max((max(abs(one.difference.low), abs(one.difference.high)) for one in comparisons), default=1.0)
    return min(100, 10 * math.ceil(far * 10 - 1e-9) or 10)


def _index(data: ReportData) -> dict[str, Any]:
    summary = data.summary
    return {
        "verdict": findings.verdict(summary),
        "scope": findings.scope(summary) if summary.cells else "",
        "units": unit_table(data.units),
        "traces": sum(cell.traces for cell in summary.cells),
        "missing": sum(cell.missing for cell in summary.cells),
        "scored": [
            (name, file_slug(name))
            for name in dict.fromkeys(cell.run.dataset for cell in summary.largest if cell.accuracy)
        ],
        "boards": {name: board(summary, name) for name in datasets_of(summary)},
        "largest": {name: _by_model(summary.largest, name) for name in datasets_of(summary)},
        "compared": {one.run.run_key: one for one in summary.comparisons},
        "comparisons": {name: _by_model(summary.comparisons, name) for name in datasets_of(summary)},
    }


def _budgets(data: ReportData) -> dict[str, Any]:
    summary = data.summary
    return {
        "cells": {name: _by_model(summary.cells, name) for name in datasets_of(summary)},
        "gains": {name: _by_model(summary.budget_gains, name) for name in datasets_of(summary)},
    }


def _parallel(data: ReportData) -> dict[str, Any]:
    several = [cell for cell in data.summary.largest if cell.samples > 1]
    most = max((cell.samples for cell in several), default=1)
    return {
        "ks": [k for k in _KS if k <= most] + ([most] if most not in _KS else []),
        "cells": {name: groups for name in datasets_of(data.summary) if (groups := _by_model(several, name))},
    }


def _datasets(data: ReportData) -> dict[str, Any]:
    summary = data.summary
    names = datasets_of(summary)
    return {
        **_details(data, names if len(names) == 1 else []),
        "means": _means(summary),
        "moved": {name: _moved(summary, name) for name in names},
    }


def _dataset_pages(names: Sequence[str]) -> list[Page]:
    """A page a dataset, where there are several: together they would be too much for one."""
    return [
        Page(
            f"dataset-{file_slug(name)}.html",
            name,
            "report_dataset.html.j2",
            lambda data, name=name: _details(data, [name]),  # type: ignore[misc]
            under="datasets.html",
        )
        for name in names
        if len(names) > 1
    ]


def _details(data: ReportData, names: Sequence[str]) -> dict[str, Any]:
    """Hops, answer types and lengths of these datasets."""
    summary = data.summary
    largest = {cell.run.run_key: cell.budget for cell in summary.largest}
    lengths = [one for one in summary.lengths if one.budget == largest.get(one.run.run_key)]
    return {
        "shown": [(name, file_slug(name)) for name in names],
        "breakdown": {by: {name: _breakdown(summary, by, name) for name in names} for by in ("hops", "answer_type")},
        "lengths": {name: _by_model(lengths, name) for name in names},
    }


class Mean(NamedTuple):
    """A model over all datasets: the mean accuracy of each setting (None: not run on all of them)."""

    model: str
    role: str
    parameters: int | None
    estimates: tuple[Estimate | None, ...]


def _means(summary: Summary) -> tuple[tuple[str, ...], list[Mean]]:
    """The settings, and a row a model with its mean over the datasets; nothing where there is one dataset only."""
    cells = [cell for cell in summary.largest if cell.accuracy]
    datasets, settings = datasets_of(summary), _settings(cells)
    found: dict[tuple[str, str], dict[str, list[Cell]]] = {}
    for cell in cells:
        found.setdefault((cell.run.role, cell.run.model), {}).setdefault(cell.run.setting, []).append(cell)
    rows = []
    for (role, model), runs in found.items():
        estimates = tuple(
            mean_of([cell.accuracy for cell in members if cell.accuracy]) if len(members) == len(datasets) else None
            for members in (runs.get(setting, []) for setting in settings)
        )
        rows.append(Mean(model, role, next(iter(runs.values()))[0].run.parameters, estimates))
    rows.sort(key=lambda row: (row.role == "baseline", row.parameters or 0, row.model))
    return settings, rows if len(datasets) > 1 else []


def _moved(summary: Summary, dataset: str) -> list[Cell]:
    """The runs of a dataset whose accuracy can be told without the questions that overlap with training."""
    return [cell for cell in summary.largest if cell.run.dataset == dataset and cell.clean and cell.accuracy]


class BreakdownRow(NamedTuple):
    """The questions of one hop count or answer type: accuracy in each setting, None where there is no such question."""

    value: str
    groups: tuple[Group | None, ...]


def _breakdown(summary: Summary, by: str, dataset: str) -> tuple[tuple[str, ...], list[tuple[str, list[BreakdownRow]]]]:
    """The settings as columns, and rows by value under each model."""
    groups = [group for group in summary.groups if group.by == by and group.run.dataset == dataset]
    settings = _settings(groups)
    blocks = []
    for key, members in _by_model(groups, dataset):
        found: dict[str, dict[str, Group]] = {}
        for group in members:
            found.setdefault(group.value, {})[group.run.setting] = group
        rows = [
            BreakdownRow(value, tuple(found[value].get(setting) for setting in settings)) for value in sorted(found)
        ]
        blocks.append((key, rows))
    return settings, blocks


def _training(data: ReportData) -> dict[str, Any]:
    return {
        "taught": [one for row in data.training["training_sets"] for one in taught(row)],
        "examples": training_examples(data.training_examples, data.graphs, data.drawings),
    }


def _retrieval(data: ReportData) -> dict[str, Any]:
    if data.retrieval_summary is None:
        return {"retrieval_section": None}
    section = retrieval_section(data.retrieval_summary, data.retrieval_examples)
    return {"retrieval_section": Markup(section)}  # noqa: S704 - our own template


def _judges(data: ReportData) -> dict[str, Any]:
    return {"largest": {name: _by_model(data.summary.largest, name) for name in datasets_of(data.summary)}}


def _run(data: ReportData) -> dict[str, Any]:
    return {
        "runs": sorted(data.runs, key=lambda run: (run["dataset"], run["model"], setting_rank(run["setting"]))),
        "units": unit_table(data.units),
        "packages": packages_of(data.units),
        "engines": engines_of(data.units),
    }
