"""The report's tables as files: CSV and Parquet for programs, LaTeX (booktabs) for papers.

A LaTeX table is meant for ``\\input``: it needs ``\\usepackage{booktabs}`` and Unicode fonts where names have them. Every name
is escaped, so that none acts.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from eval.statistics import Estimate, PairedDifference
from eval.summary import Cell, Comparison, Summary, budget_name, setting_rank
from eval.tables import COUNTS, FLAGS, TEXTS, Table
from store.types import budget_order

_DIGITS = 6  # of a share in a CSV: far below its interval
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
}
_INTERVALS = (
    r"In brackets: 95\% BCa bootstrap intervals over questions (Wilson's where all questions agree). "
    r"Refused and unparsed answers count as wrong; missing ones are left out."
)


def csv_text(table: Table) -> str:
    """The table as CSV with a head; what is not there is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=table.columns, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        writer.writerow({name: _plain(value) for name, value in row.items()})
    return text.getvalue()


def parquet_bytes(table: Table) -> bytes:
    """The table as Parquet, each column of the type that its name has in all tables; what is not there is null."""
    schema = pa.schema([(name, type_of(name)) for name in table.columns])
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([dict(row) for row in table.rows], schema=schema), sink)
    return sink.getvalue()


def type_of(column: str) -> Any:
    """The Arrow type of a column."""
    if column in TEXTS:
        return pa.string()
    if column in COUNTS:
        return pa.int64()
    return pa.bool_() if column in FLAGS else pa.float64()


def latex_tables(summary: Summary, slugs: Mapping[str, str]) -> dict[str, str]:
    """LaTeX tables by file name: results, comparisons and budgets of each dataset that has them.

    ``slugs`` are the names of datasets as they stand in file names.
    """
    found = {}
    for dataset, slug in slugs.items():
        largest = [cell for cell in summary.largest if cell.run.dataset == dataset and cell.accuracy]
        compared = [one for one in summary.comparisons if one.run.dataset == dataset]
        cells = [cell for cell in summary.cells if cell.run.dataset == dataset and cell.accuracy]
        if largest:
            found[f"results-{slug}.tex"] = _results(dataset, largest)
        if compared:
            found[f"comparisons-{slug}.tex"] = _comparisons(dataset, compared, summary.baseline.label)
        if len({cell.budget for cell in cells}) > 1:
            found[f"budgets-{slug}.tex"] = _budgets(dataset, cells)
    return found


def latex_escaped(text: str) -> str:
    """The text as LaTeX prints it: nothing in it is a command, a comment or a new line; control characters are left out."""
    printable = re.sub(r"[\x00-\x1f\x7f]+", " ", text)
    return "".join(_LATEX.get(letter, letter) for letter in printable)


def _results(dataset: str, cells: Sequence[Cell]) -> str:
    settings = sorted({cell.run.setting for cell in cells}, key=lambda setting: (setting_rank(setting), setting))
    runs = {(cell.run.model, cell.run.setting): cell for cell in cells}
    rows = []
    for model in dict.fromkeys(cell.run.model for cell in cells):
        mine = [runs.get((model, setting)) for setting in settings]
        there = [cell.accuracy.value for cell in mine if cell and cell.accuracy]
        best = max(there) if len(there) > 1 else None
        shown = [_share(cell.accuracy if cell else None, best) for cell in mine]
        rows.append([latex_escaped(model), *shown, *_went(cell for cell in mine if cell)])
    caption = f"Accuracy (\\%) on {latex_escaped(dataset)} at each run's largest thinking budget, {_asked(cells)}. {_INTERVALS}"
    heads = ["Model", *map(latex_escaped, settings), "cut", "ref.", "unp.", "miss."]
    return _table(rows, heads, "l" + "r" * (len(heads) - 1), caption, f"results-{dataset}")


def _comparisons(dataset: str, compared: Sequence[Comparison], baseline: str) -> str:
    rows = [
        [
            latex_escaped(one.run.model),
            latex_escaped(one.run.setting),
            latex_escaped(budget_name(one.budget)),
            f"{one.difference.n:,}",
            _points(one.difference),
            _points(one.clean) if one.clean else "--",
            f"{one.gained}/{one.lost}",
            _p(one.holm_difference),
            _p(one.holm_mcnemar),
        ]
        for one in compared
    ]
    caption = (
        f"Differences from {latex_escaped(baseline)} in percentage points on the same questions of {latex_escaped(dataset)}. "
        r"In brackets: 95\% BCa intervals of the paired bootstrap; clean: without questions that overlap with training; $+/-$: "
        r"questions whose majority answer turned right/wrong. $p$ of the bootstrap and of McNemar's exact test, after Holm over "
        "all comparisons of the study."
    )
    heads = ["Model", "Setting", "Budget", "$n$", "Difference", "Clean", "$+/-$", "$p$", "$p$ (McN.)"]
    return _table(rows, heads, "lllrrrrrr", caption, f"comparisons-{dataset}")


def _budgets(dataset: str, cells: Sequence[Cell]) -> str:
    budgets = list(dict.fromkeys(cell.budget for cell in sorted(cells, key=lambda cell: budget_order(cell.budget))))
    found = {(cell.run.run_key, cell.budget): cell for cell in cells}
    rows = []
    for run in dict.fromkeys(cell.run for cell in cells):
        mine = [found.get((run.run_key, budget)) for budget in budgets]
        shown = [_share(cell.accuracy if cell else None, None) for cell in mine]
        went = _went(cell for cell in mine if cell)
        rows.append([latex_escaped(run.model), latex_escaped(run.setting), *shown, *went])
    caption = (
        f"Accuracy (\\%) on {latex_escaped(dataset)} by thinking budget (tokens), {_asked(cells)}. {_INTERVALS} "
        "Counts are of the traces at all budgets."
    )
    heads = [
        "Model",
        "Setting",
        *(latex_escaped(budget_name(budget)) for budget in budgets),
        "cut",
        "ref.",
        "unp.",
        "miss.",
    ]
    return _table(rows, heads, "ll" + "r" * (len(heads) - 2), caption, f"budgets-{dataset}")


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str], columns: str, caption: str, label: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', label).strip('-')}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _share(estimate: Estimate | None, best: float | None) -> str:
    if estimate is None:
        return "--"
    value = f"{100 * estimate.value:.1f}"
    marked = rf"\textbf{{{value}}}" if estimate.value == best else value
    return rf"{marked} {{\scriptsize [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]}}"


def _points(one: PairedDifference) -> str:
    value, low, high = (
        f"${round(100 * part, 1) + 0.0:+.1f}$" for part in (one.diff, one.low, one.high)
    )  # no minus zero
    return rf"{value} {{\scriptsize [{low}, {high}]}}"


def _p(p: float) -> str:
    return "$<$.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _went(cells: Iterable[Cell]) -> list[str]:
    mine = list(cells)
    return [f"{sum(getattr(cell, name) for cell in mine):,}" for name in ("cut", "refused", "unparsed", "missing")]


def _asked(cells: Sequence[Cell]) -> str:
    n = sorted({cell.accuracy.n for cell in cells if cell.accuracy})
    samples = sorted({cell.samples for cell in cells})
    told = f"$n$ = {n[0]:,}" if len(n) == 1 else f"$n$ = {n[0]:,} to {n[-1]:,}"
    return f"{told} questions, {' or '.join(map(str, samples))} sample{'s' if samples[-1] > 1 else ''} each"


def _plain(value: Any) -> Any:
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else value
