"""The store at the size of the whole study: landing, scores, leaderboard, and single questions, on 1.7 million made-up traces.

    python -m bench.store [--quick] [--check] [--data FOLDER] [--keep FOLDER]

The study has the fs1 study's 168 runs over real question ids of its six benchmarks (8 samples, 2 budgets, thoughts of 3 KB).
Its traces land in groups as units land them, through the store's own interface, and the same rows are written by a plain COPY to
Parquet (zstd), group for group in turn, so that both are measured on the same machine in the same minutes. Then the study is
scored and its leaderboard read, from a store that is opened anew each time. Prints a table, then one JSON object as its last
line. With ``--check`` a missed bar is named and the exit status is 1:

- landing at .25 or more of the speed of COPY;
- the leaderboard with pass@k and majority within .2 seconds, and equal to what is counted from the traces of some runs;
- each page of the explorer within a second: the list, its search, and a question with two runs.

``--quick`` takes 24 questions a dataset. ``--keep`` leaves the store in a folder, a home of which ``factscale ui report`` can
be tried; without it everything is removed. Needs the benchmark files (``--data``).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from bench.benchmark_files import DATA, FILES
from bench.outcome import finish
from bench.store_rows import STUDY, Maker, Shape, groups, question_tables, runs_of, study_tables
from eval.benchmarks import load
from eval.explorer import render_list, render_question
from eval.explorer_views import Filters
from eval.statistics import maj_at_k
from store.connection import Store
from store.scores import score_study
from store.types import InputError, Question, RunError
from tasks.exploring import Explorer

BENCHMARKS = DATA / "benchmarks"
SHAPE = Shape(samples=8, budgets=(512, 2048))
QUESTIONS, QUICK_QUESTIONS = 633, 24  # a dataset: 168 runs of them make 1.7 million traces
GROUP = 2048  # thoughts a landing, as of an engine that computes some hundreds of rows at a time
LANDING, LEADERBOARD, PAGE = 0.25, 0.2, 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 1 for a missed bar, 2 where the data is not there."""
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_QUESTIONS} questions a dataset")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a bar is missed")
    parser.add_argument("--data", type=Path, default=BENCHMARKS, help="the folder of the benchmark files")
    parser.add_argument("--keep", type=Path, help="leave the store in this folder")
    given = parser.parse_args(arguments)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="factscale-store-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        questions = chosen_questions(given.data, QUICK_QUESTIONS if given.quick else QUESTIONS)
        figures = measure(Store(folder / "factscale.duckdb"), questions, folder)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    _print(figures)
    missed = _missed(figures) if given.check else []
    return finish("store", missed, check=given.check, quick=given.quick, **figures)


def chosen_questions(data: Path, count: int) -> dict[str, tuple[Question, ...]]:
    """The first ``count`` questions of each benchmark. Raises InputError where a file is missing."""
    names = {}
    for dataset, (split, file) in FILES.items():
        if not (data / file).is_file():
            raise InputError(f"the benchmark data is not here: no file {data / file}; give its folder by --data")
        # The CWQ file gives some answers as ids alone; any name will do here.
        nameless = _Nameless() if dataset == "cwq" else None
        names[dataset] = load(dataset, split, path=data / file, names=nameless, limit=count)
    return names


class _Nameless(dict[str, str]):
    """A name for every id: the id."""

    def get(self, key: str, default: Any = None) -> Any:
        return key


def measure(store: Store, questions: dict[str, tuple[Question, ...]], folder: Path) -> dict[str, Any]:
    """Land, score and read the study; seconds, ratios and sizes."""
    runs = runs_of(list(questions))
    maker = Maker(questions, SHAPE)
    store.land({**question_tables(questions), **study_tables(runs, SHAPE), **maker.verdicts()})
    parquet = folder / "parquet"
    parquet.mkdir(exist_ok=True)
    landing = copying = 0.0
    traces = 0
    for run in runs:
        tables = maker.traces(run)
        for place, group in enumerate(groups(tables, SHAPE, GROUP)):
            landing += _timed(partial(store.land, group))
            copying += _timed(partial(_copy, group, parquet, f"{run.place}-{place}"))
        traces += tables["traces"].num_rows
        store.land({"predictions": tables["predictions"]})
    size = sum(file.stat().st_size for file in parquet.iterdir())
    shutil.rmtree(parquet)
    scoring = _timed(lambda: score_study(store, STUDY))
    return {
        "traces": traces,
        "runs": len(runs),
        "landing seconds": round(landing, 1),
        "copy seconds": round(copying, 1),
        "landing over copy": round(copying / landing, 3),
        "traces landed a second": round(traces / landing),
        "store MB": round(store.path.stat().st_size / 1e6),
        "parquet MB": round(size / 1e6),
        "scoring seconds": round(scoring, 1),
        **_reading(store),
    }


def _copy(tables: dict[str, pa.Table], folder: Path, name: str) -> None:
    with duckdb.connect() as db:
        for table, rows in tables.items():
            db.register("copied", rows)
            db.execute(f"COPY copied TO '{folder}/{table}-{name}.parquet' (FORMAT parquet, COMPRESSION zstd)")
            db.unregister("copied")


def _reading(store: Store) -> dict[str, Any]:
    board = "SELECT * FROM leaderboard WHERE study_key = ?"
    opened = [_timed(lambda: store.query("SELECT 1")) for _ in range(5)]
    boards = [_timed(lambda: store.query(board, [STUDY])) for _ in range(5)]
    direct = [_timed(lambda: store.query(_DIRECT, [STUDY])) for _ in range(2)]
    return {
        "leaderboard rows": len(store.query(board, [STUDY])),
        "open the store, seconds": round(statistics.median(opened), 3),
        "leaderboard seconds": round(statistics.median(boards), 3),
        "leaderboard from the traces, seconds": round(statistics.median(direct), 3),
        **_pages(store),
        "leaderboard differs from the traces": _differences(store, store.query(board, [STUDY])),
    }


# The same accuracies without the derived tables: every trace joined with its prediction and verdict.
_DIRECT = "SELECT run_key, budget, avg(correct::INT) FROM results WHERE study_key = ? GROUP BY ALL"


def _pages(store: Store) -> dict[str, float]:
    """Seconds of the explorer's pages, from the open of the store to the HTML; the median of several."""
    explorer = Explorer(store, STUDY, "bench-store")
    keys = store.query("SELECT DISTINCT question_key FROM scores WHERE study_key = ? ORDER BY ALL LIMIT 5", [STUDY])
    lists = [_timed(lambda: render_list(explorer.list_view(Filters()))) for _ in keys]
    searches = [_timed(lambda: render_list(explorer.list_view(Filters(q="capital", show="a_only")))) for _ in keys]
    questions = [_timed(partial(_question, explorer, row["question_key"])) for row in keys]
    return {
        f"explorer: {name}, seconds": round(statistics.median(times), 3)
        for name, times in (("list", lists), ("search", searches), ("question", questions))
    }


def _question(explorer: Explorer, question_key: str) -> None:
    view = explorer.question_view(question_key, Filters())
    if view is None:
        raise RunError(f"question {question_key} of the made-up study is not shown")
    render_question(view)


def _differences(store: Store, board: Sequence[dict[str, Any]]) -> int:
    """Runs and budgets, of a few, whose accuracy or majority is not what their traces say when counted one by one."""
    different = 0
    for row in board[:: max(1, len(board) // 12)]:
        traces = store.query(
            "SELECT question_key, sample, class, correct FROM results WHERE study_key = ? AND run_key = ? AND budget = ? "
            "ORDER BY question_key, sample",
            [STUDY, row["run_key"], row["budget"]],
        )
        by_question: dict[str, list[dict[str, Any]]] = {}
        for trace in traces:
            by_question.setdefault(trace["question_key"], []).append(trace)
        shares = [statistics.fmean(t["correct"] for t in members) for members in by_question.values()]
        majority = [
            maj_at_k([t["class"] for t in members], [t["correct"] for t in members], len(members))
            for members in by_question.values()
        ]
        same = abs(statistics.fmean(shares) - row["accuracy"]) < 1e-9 and statistics.fmean(majority) == row["majority"]
        different += not same
    return different


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _missed(figures: dict[str, Any]) -> list[str]:
    missed = []
    if figures["landing over copy"] < LANDING:
        missed.append(f"landing at {figures['landing over copy']} of COPY, {LANDING} wanted")
    if figures["leaderboard seconds"] > LEADERBOARD:
        missed.append(f"leaderboard in {figures['leaderboard seconds']} s, {LEADERBOARD} at most")
    for name, seconds in figures.items():
        if name.startswith("explorer") and seconds > PAGE:
            missed.append(f"{name}: {seconds}, {PAGE} at most")
    if figures["leaderboard differs from the traces"]:
        missed.append(
            f"{figures['leaderboard differs from the traces']} rows of the leaderboard are not what the traces say"
        )
    return missed


def _print(figures: dict[str, Any]) -> None:
    table = Table(title="The store at size", title_justify="left", box=None)
    table.add_column("figure")
    table.add_column("", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
