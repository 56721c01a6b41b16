"""The report's tables as flat, typed rows: shares between 0 and 1, one row a run and budget unless said otherwise.

Every table says of how many questions (``n``) and with which 95% interval (``low``, ``high``), and how many traces were cut,
refused, unparsed or missing. ``_clean`` columns leave out the questions that overlap with training; they are empty where
none was flagged. An empty budget is no limit. ``eval.table_files`` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from eval.summary import Summary, budget_name
from eval.table_rows import (
    WENT,
    Flat,
    Row,
    bin_rows,
    comparison_row,
    curve_rows,
    group_rows,
    judged_rows,
    length_rows,
    quality_row,
    result_row,
    size_rows,
)

TEXTS = frozenset((
    *("dataset", "model", "role", "setting", "versus", "outcome", "hops", "answer_type", "judge", "recipe", "training_set"),
    *("dropped", "name"),
))  # fmt: skip
COUNTS = frozenset((
    *("parameters", "budget", "questions", "samples", "n", "n_clean", "flagged", "k", "pass_k", "traces", "cut", "forced"),
    *("unparsed", "refused", "missing", "gained", "lost", "judge_n", "judge_invalid", "correct", "datasets", "exact", "ngram"),
    *("cosine", "question_leaks", "fact_leaks", "kept", "candidates", "students", "verdicts", "calls", "retried", "invalid"),
    *("not_attempted", "held_out_questions", "median_thinking_tokens", "p95_thinking_tokens", "p95_example_tokens"),
    *("max_example_tokens",),
))  # fmt: skip
FLAGS = frozenset(("is_cut",))


class Table(NamedTuple):
    """A table under the name of its files. ``columns`` are there without a row too; ``rows`` have all of them, in order."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Flat, ...]


def tables_of(summary: Summary, training_quality: Sequence[Row] = ()) -> tuple[Table, ...]:
    """All tables of a study; ``training_quality`` are rows of that view."""
    cells = summary.cells
    counts = {(cell.run.run_key, cell.budget): cell for cell in cells}
    return (
        _table("results", [result_row(cell) for cell in cells], _RESULT),
        _table("leaderboard", [result_row(cell) for cell in summary.largest], _RESULT),
        _table("comparisons", [comparison_row(one, counts) for one in summary.comparisons], _COMPARISON),
        _table("budget_gains", [comparison_row(one, counts) for one in summary.budget_gains], _COMPARISON),
        _table("pass_at_k", [row for cell in cells for row in curve_rows(cell)], _CURVE),
        _table("calibration", [row for cell in cells for row in bin_rows(cell)], _BIN),
        _table("by_hops", group_rows(summary.groups, "hops"), (*_RUN, "hops", *_GROUP)),
        _table("by_answer_type", group_rows(summary.groups, "answer_type"), (*_RUN, "answer_type", *_GROUP)),
        _table("by_model_size", size_rows(summary.largest), _SIZE),
        _table("trace_lengths", length_rows(summary), _LENGTH),
        _table("overlap", [one._asdict() for one in summary.overlaps], _OVERLAP),
        _table("training_quality", [quality_row(row) for row in training_quality], _QUALITY),
        _table("judges", judge_table(summary), _JUDGE),
        _table("judges_by_run", judged_rows(summary), _JUDGED_RUN),
    )


def table_rows(summary: Summary) -> list[Flat]:
    """The results as people read them in a list: budgets named, shares with four digits."""
    return [_readable(result_row(cell)) for cell in summary.cells]


def leaderboard_rows(summary: Summary) -> list[Flat]:
    """:func:`table_rows` of each run at its largest budget."""
    return [_readable(result_row(cell)) for cell in summary.largest]


def judge_table(summary: Summary) -> list[Flat]:
    """One flat row a judge: what it was asked, and its agreement with the matcher and with the other judges."""
    return [
        {
            "judge": one.label,
            "verdicts": one.verdicts,
            "calls": one.calls,
            "calls_a_trace": _rounded(one.calls_a_trace),
            "retried": one.retried,
            "invalid": one.invalid,
            "not_attempted": one.not_attempted if one.question == "grade" else None,
            "cost": one.cost,
            "n": one.total.matcher.n,
            "agreement": _rounded(one.total.matcher.share),
            "kappa": _rounded(one.total.matcher.kappa),
        }
        | {
            f"kappa with {other.label}": _rounded(agreement.kappa if agreement else None)
            for other, agreement in zip(summary.judges, one.others, strict=True)
        }
        for one in summary.judges
    ]


_RUN = ("dataset", "model", "role", "parameters", "setting", "budget")
_CLEAN = ("flagged", "n_clean", "accuracy_clean", "low_clean", "high_clean")
_SHARE = ("n", "accuracy", "low", "high")
_RESULT = (
    *_RUN, "questions", "samples", *_SHARE, *_CLEAN, "majority", "majority_low", "majority_high", "pass_k", "pass_at_k",
    *("pass_low", "pass_high"), *WENT,
    *("judge_accuracy", "judge_kappa", "judge_n", "judge_invalid", "ece", "thinking_tokens", "generated_tokens"),
)  # fmt: skip
_COMPARISON = (
    *_RUN, "versus", "n", "difference", "low", "high", "n_clean", "difference_clean", "low_clean", "high_clean", "gained", "lost",
    *("p_bootstrap", "p_mcnemar", "p_bootstrap_holm", "p_mcnemar_holm", "outcome", *WENT),
)  # fmt: skip
_CURVE = (
    *_RUN,
    "k",
    "n",
    "pass_at_k",
    "pass_low",
    "pass_high",
    "majority_at_k",
    "majority_low",
    "majority_high",
    *WENT,
)
_BIN = (
    *_RUN, "from_confidence", "to_confidence", "confidence", *_SHARE,
    *("ece", "ece_low", "ece_high", "ece_by_chance", "brier", *WENT),
)  # fmt: skip
_GROUP = (*_SHARE, *_CLEAN, "traces", "cut", "unparsed", "refused", "missing")
_SIZE = ("model", "role", "parameters", "setting", "datasets", *_SHARE, *WENT)
_LENGTH = (*_RUN, "from_tokens", "to_tokens", "is_cut", "mean_tokens", "traces", "correct", "accuracy", "low", "high")
_OVERLAP = ("dataset", "questions", "exact", "ngram", "cosine", "question_leaks", "fact_leaks", "flagged")
_QUALITY = (
    *("name", "recipe", "training_set", "candidates", "accuracy", "low", "high", "semantic_match", "judge_accuracy"),
    *("judge_agreement", "kept", "dropped", "questions", "held_out_questions", "mean_thinking_tokens"),
    *("median_thinking_tokens", "p95_thinking_tokens", "mean_kept_thinking_tokens", "mean_example_tokens"),
    *("p95_example_tokens", "max_example_tokens", "students", "held_out_before", "held_out_after"),
)
_JUDGE = (
    *("judge", "verdicts", "calls", "calls_a_trace", "retried", "invalid", "not_attempted", "cost", "n", "agreement", "kappa"),
)  # fmt: skip
_JUDGED_RUN = (
    *_RUN, "judge", "judge_accuracy", "n", "accuracy", "low", "high", "agreement", "kappa", "invalid", "not_attempted",
)  # fmt: skip


def _table(name: str, rows: Iterable[Row], columns: tuple[str, ...]) -> Table:
    found = [dict(row) for row in rows]
    if found:
        columns = (*columns, *(column for column in found[0] if column.startswith("kappa with ")))
    return Table(name, columns, tuple({column: row[column] for column in columns} for row in found))


def _readable(row: Flat) -> Flat:
    digits = {"thinking_tokens": 1, "generated_tokens": 1}
    shown = {
        name: round(value, digits.get(name, 4)) if isinstance(value, float) else value for name, value in row.items()
    }
    return shown | {"budget": budget_name(row["budget"])}


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
