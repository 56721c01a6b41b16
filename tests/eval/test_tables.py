"""The report's tables: their values against the summary's, their types in Parquet, and names that LaTeX only prints."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

import made_study
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from eval.findings import magnitude, markdown_summary
from eval.statistics import Estimate, wilson
from eval.summary import Summary, summarise
from eval.table_files import csv_text, latex_escaped, latex_tables, parquet_bytes, type_of
from eval.table_rows import mean_of
from eval.tables import COUNTS, FLAGS, TEXTS, Table, leaderboard_rows, table_rows, tables_of
from store.connection import Store
from store.scores import score_study
from tasks.reports import summary_of

NAMES = [
    *("results", "leaderboard", "comparisons", "budget_gains", "pass_at_k", "calibration", "by_hops", "by_answer_type"),
    *("by_model_size", "trace_lengths", "overlap", "training_quality", "judges", "judges_by_run"),
]
QUALITY = {
    "study_key": "s",
    "name": "rt",
    "questions": 3,
    "held_out_questions": 1,
    "semantic_match": 0.5,
    "judge_accuracy": None,
    "judge_agreement": None,
    "median_thinking_tokens": 28,
    "p95_thinking_tokens": 60,
    "mean_kept_thinking_tokens": 25.5,
    "mean_example_tokens": 80.0,
    "p95_example_tokens": 120,
    "max_example_tokens": 130,
    "recipe": "rt",
    "training_set": "t",
    "candidates": 12,
    "kept": 3,
    "accuracy": 0.25,
    "mean_thinking_tokens": 30.0,
    "dropped": {"wrong": 9},
    "students": 2,
    "held_out_before": None,
    "held_out_after": 2.5,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store") / "made.duckdb")
    made_study.make(store)
    score_study(store, made_study.STUDY)
    return store


@pytest.fixture(scope="module")
def summary(store: Store) -> Summary:
    return summary_of(store, made_study.STUDY)


@pytest.fixture(scope="module")
def tables(summary: Summary) -> dict[str, Table]:
    return {table.name: table for table in tables_of(summary, [QUALITY])}


def test_every_table_is_there_with_rows(tables: dict[str, Table]) -> None:
    assert list(tables) == NAMES
    for table in tables.values():
        assert table.rows, table.name
        assert all(tuple(row) == table.columns for row in table.rows), table.name


@pytest.mark.parametrize("name", ["results", "leaderboard", "comparisons", "budget_gains", "pass_at_k", "calibration"])
def test_every_result_carries_n_an_interval_and_what_went_wrong(tables: dict[str, Table], name: str) -> None:
    assert {"n", "cut", "refused", "unparsed", "missing"} <= set(tables[name].columns)
    ends = ("majority_low", "majority_high") if name == "pass_at_k" else ("low", "high")
    value = {"pass_at_k": "majority_at_k", "comparisons": "difference", "budget_gains": "difference"}.get(
        name, "accuracy"
    )
    for row in tables[name].rows:
        assert row[ends[0]] <= row[value] <= row[ends[1]]
        assert row["n"] > 0
        assert "pass_at_k" not in row or row["pass_low"] <= row["pass_at_k"] <= row["pass_high"]


def test_results_are_the_cells(tables: dict[str, Table], summary: Summary) -> None:
    assert len(tables["results"].rows) == len(summary.cells)
    for row, cell in zip(tables["results"].rows, summary.cells, strict=True):
        assert cell.accuracy
        assert cell.clean
        assert (row["model"], row["setting"], row["budget"]) == (cell.run.model, cell.run.setting, cell.budget)
        assert (row["accuracy"], row["accuracy_clean"]) == (cell.accuracy.value, cell.clean.value)
        assert (row["flagged"], row["n_clean"]) == (cell.flagged, cell.clean.n) == (2, 8)
        assert (row["pass_k"], row["pass_at_k"]) == (4, cell.pass_at_k[-1].value)
    assert {row["budget"] for row in tables["leaderboard"].rows} == {None}
    assert [row["missing"] for row in tables["leaderboard"].rows] == [cell.missing for cell in summary.largest]


def test_comparisons_are_told_with_and_without_flagged_questions(tables: dict[str, Table], summary: Summary) -> None:
    for row, one in zip(tables["comparisons"].rows, summary.comparisons, strict=True):
        assert one.clean
        assert (row["versus"], row["difference"], row["n"]) == ("instruct", one.difference.diff, 10)
        assert (row["difference_clean"], row["n_clean"]) == (one.clean.diff, 8)
        assert (row["p_bootstrap_holm"], row["outcome"]) == (one.holm_difference, one.outcome)
        cell = next(cell for cell in summary.largest if cell.run == one.run)
        assert (row["cut"], row["missing"]) == (cell.cut, cell.missing)
    assert {row["versus"] for row in tables["budget_gains"].rows} == {"16"}


def test_curves_hold_every_k_with_both_intervals(tables: dict[str, Table], summary: Summary) -> None:
    rows = tables["pass_at_k"].rows
    assert len(rows) == 4 * len(summary.cells)
    assert [row["k"] for row in rows[:4]] == [1, 2, 3, 4]
    point, most = summary.cells[0].pass_at_k[2], summary.cells[0].majority_at_k[2]
    assert (rows[2]["pass_at_k"], rows[2]["pass_low"], rows[2]["pass_high"]) == (point.value, point.low, point.high)
    assert (rows[2]["majority_at_k"], rows[2]["majority_low"]) == (most.value, most.low)


def test_groups_sizes_and_lengths_add_up(tables: dict[str, Table], summary: Summary) -> None:
    for cell in summary.largest:
        assert cell.accuracy
        for name in ("by_hops", "by_answer_type"):
            mine = [
                row for row in tables[name].rows if (row["model"], row["setting"]) == (cell.run.model, cell.run.setting)
            ]
            assert sum(row["n"] for row in mine) == cell.accuracy.n
            assert sum(row["n"] * row["accuracy"] for row in mine) == pytest.approx(
                cell.accuracy.n * cell.accuracy.value
            )
            assert sum(row["traces"] for row in mine) == cell.traces
        (size,) = (
            r for r in tables["by_model_size"].rows if (r["model"], r["setting"]) == (cell.run.model, cell.run.setting)
        )
        assert (size["datasets"], size["accuracy"]) == (1, cell.accuracy.value)
    traces = sum(cell.traces for cell in summary.cells)
    assert sum(row["traces"] for row in tables["trace_lengths"].rows) == traces
    assert all(row["from_tokens"] <= row["mean_tokens"] < row["to_tokens"] for row in tables["trace_lengths"].rows)


def test_overlaps_and_training_sets_are_counted(tables: dict[str, Table]) -> None:
    assert tables["overlap"].rows[0] == {
        "dataset": "starter",
        "questions": 10,
        "exact": 1,
        "ngram": 1,
        "cosine": None,
        "question_leaks": 0,
        "fact_leaks": 1,
        "flagged": 2,
    }
    (row,) = tables["training_quality"].rows
    assert row["dropped"] == '{"wrong": 9}'
    assert (row["low"], row["high"]) == pytest.approx(wilson(3, 12)[:2])
    assert len(tables["judges"].rows) == 2
    assert len(tables["judges_by_run"].rows) == 10


def test_parquet_gives_back_every_value_in_its_type(tables: dict[str, Table]) -> None:
    for table in tables.values():
        read = parquet.read_table(io.BytesIO(parquet_bytes(table)))
        assert read.to_pylist() == [dict(row) for row in table.rows]
        for field in read.schema:
            expected = pa.string() if field.name in TEXTS else pa.int64() if field.name in COUNTS else pa.float64()
            assert field.type == (pa.bool_() if field.name in FLAGS else expected), (table.name, field.name)
    assert type_of("is_cut") == pa.bool_()


def test_csv_gives_back_every_value(tables: dict[str, Table]) -> None:
    for table in tables.values():
        rows = list(csv.DictReader(io.StringIO(csv_text(table), newline="")))
        for read, row in zip(rows, table.rows, strict=True):
            for name, value in row.items():
                if isinstance(value, float):
                    assert float(read[name]) == pytest.approx(value, rel=1e-5)
                else:
                    assert read[name] == ("" if value is None else str(value))


def test_tables_of_nothing_keep_their_columns_and_types() -> None:
    for table in tables_of(summarise([], [])):
        assert table.rows == ()
        assert csv_text(table).splitlines() == [",".join(table.columns)]
        assert parquet.read_schema(io.BytesIO(parquet_bytes(table))).names == list(table.columns)


def test_means_of_datasets_have_the_interval_that_simulation_gives() -> None:
    one = mean_of([Estimate(0.5, 0.4, 0.6, 100), Estimate(0.1, 0.05, 0.2, 50)])
    assert one.value == pytest.approx(0.3)
    assert one.n == 150
    assert one.low == pytest.approx(0.3 - math.hypot(0.1, 0.05) / 2)
    assert one.high == pytest.approx(0.3 + math.hypot(0.1, 0.1) / 2)
    # Four datasets of 400 questions each: the interval covers the true mean about 95 times in 100.
    rng, shares = np.random.default_rng(3), (0.2, 0.4, 0.5, 0.9)
    covered = 0
    for _ in range(2_000):
        counts = [int(rng.binomial(400, share)) for share in shares]
        limits = [wilson(count, 400) for count in counts]
        mean = mean_of([Estimate(c / 400, low, high, 400) for c, (low, high, _) in zip(counts, limits, strict=True)])
        covered += mean.low <= 0.5 <= mean.high
    assert 0.935 < covered / 2_000 < 0.965


def rows_of(latex: str) -> list[list[str]]:
    """The cells of a table's rows, its head first; an escaped & is text."""
    body = latex[latex.index("\\toprule") : latex.index("\\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(" \\\\")]
    return [re.split(r"(?<!\\)&", line.removesuffix(" \\\\")) for line in lines]


def test_latex_results_are_a_row_a_model_and_a_column_a_setting(summary: Summary) -> None:
    found = latex_tables(summary, {"starter": "starter"})
    assert list(found) == ["results-starter.tex", "comparisons-starter.tex", "budgets-starter.tex"]
    head, small, big = rows_of(found["results-starter.tex"])
    assert [cell.strip() for cell in head] == ["Model", *made_study.SETTINGS, "cut", "ref.", "unp.", "miss."]
    cells = [cell for cell in summary.largest if cell.run.model == made_study.SMALL]
    values = [f"{100 * cell.accuracy.value:.1f}" for cell in cells if cell.accuracy]
    assert [re.sub(r"\\textbf\{(.*?)\}", r"\1", cell).split()[0] for cell in small[1:5]] == values
    best = max(range(4), key=lambda place: float(values[place]))
    assert ["\\textbf" in cell for cell in small[1:5]] == [place == best for place in range(4)]
    assert int(small[-1]) == sum(cell.missing for cell in cells)
    assert "\\textbf" not in big[1], "the best of one"
    assert [cell.strip() for cell in big[2:5]] == ["--"] * 3
    assert "$n$ = 10 questions, 4 samples each" in found["results-starter.tex"]
    assert "BCa bootstrap intervals over questions" in found["results-starter.tex"]


def test_latex_comparisons_and_budgets_hold_every_run(summary: Summary) -> None:
    found = latex_tables(summary, {"starter": "starter"})
    head, *rows = rows_of(found["comparisons-starter.tex"])
    assert len(rows) == len(summary.comparisons)
    assert {len(row) for row in rows} == {len(head)} == {9}
    assert f"${100 * summary.comparisons[0].difference.diff:+.1f}$" in rows[0][4]
    head, *rows = rows_of(found["budgets-starter.tex"])
    assert [cell.strip() for cell in head[2:5]] == ["16", "48", "no limit"]
    assert len(rows) == 5


SPECIAL = '\\input{x} & 50% of $a_b^c$ #1 ~{~} <tag> | "q" `\'\n%'


def test_no_name_acts_in_latex(summary: Summary) -> None:
    cells = tuple(c._replace(run=c.run._replace(model=SPECIAL, dataset=SPECIAL)) for c in summary.cells)
    compared = tuple(c._replace(run=c.run._replace(model=SPECIAL, dataset=SPECIAL)) for c in summary.comparisons)
    named = summary.model_copy(update={"cells": cells, "comparisons": compared})
    for latex in latex_tables(named, {SPECIAL: "special"}).values():
        assert "\\input" not in latex
        depth = 0
        for brace in re.findall(r"(?<!\\)[{}]", latex):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
        assert depth == 0
        assert re.search(r"(?<!\\)[%#~]", latex) is None
        head, *rows = rows_of(latex)
        assert {len(row) for row in rows} == {len(head)}
        assert len(re.findall(r"(?<!\\)\$", latex)) % 2 == 0
        assert re.search(r"\\label\{tab:[A-Za-z0-9-]+\}", latex)


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("qwen2.5-0.5b", "qwen2.5-0.5b"),
        ("a_b & 5%", r"a\_b \& 5\%"),
        ("\\end{table}", r"\textbackslash{}end\{table\}"),
        ("a\nb\x00c", "a b c"),
        ("中文 ü", "中文 ü"),
    ],
)
def test_letters_that_mean_something_to_latex_are_escaped(text: str, latex: str) -> None:
    assert latex_escaped(text) == latex


def test_lists_for_people_name_budgets_and_round(summary: Summary) -> None:
    rows = leaderboard_rows(summary)
    assert [row["budget"] for row in rows] == ["no limit"] * 5
    assert [row["budget"] for row in table_rows(summary)][:3] == ["16", "48", "no limit"]
    assert all(value == round(value, 4) for row in rows for value in row.values() if isinstance(value, float))


def test_a_large_study_is_summed_up_in_a_row_a_model(summary: Summary) -> None:
    many = summary.model_copy(
        update={
            "cells": tuple(
                cell._replace(run=cell.run._replace(run_key=f"{cell.run.run_key}-{name}", dataset=name))
                for name in ("a", "b|c", "d")
                for cell in summary.cells
            )
        }
    )
    lines = [line for line in markdown_summary(many).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3 * 2
    assert lines[0] == "| dataset | model | n | instruct | cot | rt | fs1 | cut | refused | unparsed | missing |"
    assert "b\\|c" in lines[4]
    small = [line for line in markdown_summary(summary).splitlines() if line.startswith("|")]
    assert len(small) == 2 + len(summary.cells)


def test_a_summary_leads_to_its_report(summary: Summary) -> None:
    assert "Report: `/home/me/reports/made/index.html`" in markdown_summary(summary, "/home/me/reports/made/index.html")
    assert "[The report](<http://127.0.0.1:8080/>)" in markdown_summary(summary, "http://127.0.0.1:8080/")
    assert "eport:" not in markdown_summary(summary)


@pytest.mark.parametrize(
    ("number", "words"),
    [(135e6, "135M"), (1_543_714_304, "1.54B"), (999_600_000, "1B"), (671e9, "671B"), (12.0, "12"), (1.2e12, "1.2T")],
)
def test_large_numbers_have_three_digits(number: Any, words: str) -> None:
    assert magnitude(number) == words
