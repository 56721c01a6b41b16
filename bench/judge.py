"""Judge calls for a trace, on a real run: one for each distinct (judge, gold answers, prediction), whatever run it came from.

    python -m bench.judge [--quick] [--check] [--home FOLDER]

A small real study (the embedded model, sampled, at several budgets) is evaluated and judged by two judges; then once more as
it is; then with one more run over the same questions. The calls are counted in the log of generations, that is where they
happen, and held against the naive design, which asks each judge once for every trace. Prints a table, then one JSON
object as its last line. With ``--check`` a missed bar is named and the exit status is 1:

- calls are at most distinct pairs of gold answers and prediction, times one and the retries, for each judge;
- the log holds as many calls as the verdicts account for, and every pair has a verdict of every judge;
- the second evaluation makes no call, and the wider one only those for pairs that are new.

``--quick`` takes 4 questions. ``--home`` tells of the judged studies of a store that is there, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.outcome import finish
from store import queries
from store.connection import Store
from store.home import Home
from store.types import InputError, RunError

QUESTIONS, SAMPLES, BUDGETS = 16, 16, (8, 16, 48)
QUICK_QUESTIONS, QUICK_SAMPLES, QUICK_BUDGETS = 4, 4, (8, 16)
MODEL, RETRIES = "smollm2-135m", 2

Figures = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 1 for a missed bar or a failed run, 2 for a home without a study."""
    parser = argparse.ArgumentParser(prog="python -m bench.judge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_QUESTIONS} questions, {QUICK_SAMPLES} samples")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a bar is missed")
    parser.add_argument("--home", type=Path, help="a home with judged studies, to tell of instead of running one")
    given = parser.parse_args(arguments)
    try:
        figures = stored(Home(given.home)) if given.home else run(quick=given.quick)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    missed = [f"{name}: {bar}" for name, some in figures.items() for bar in missed_bars(some)]
    _print(figures)
    return finish("judge", missed, check=given.check, quick=given.quick, evaluations=figures)


def run(*, quick: bool) -> dict[str, Figures]:
    """The three evaluations in a home of their own, which is gone afterwards: their figures by name."""
    with tempfile.TemporaryDirectory(prefix="factscale-judge-") as folder:
        home = Home(Path(folder))
        os.environ["FACTSCALE_HOME"] = folder
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
        # Prefect reads its settings when it is imported.
        from flows.server import prefect_api, prepare_environment

        prepare_environment(home)
        with prefect_api(home):
            first = _evaluated(home, ("instruct",), quick=quick)
            again = _evaluated(home, ("instruct",), quick=quick)
            wider = _evaluated(home, ("instruct", "cot"), quick=quick)
    again["pairs not judged before"] = 0
    wider["pairs not judged before"] = wider["distinct pairs"] - first["distinct pairs"]
    for figures in (again, wider):
        figures["most calls"] = figures["pairs not judged before"] * figures["judges"] * (1 + RETRIES)
    return {"first": first, "again": again, "one run more": wider}


def stored(home: Home) -> dict[str, Figures]:
    """The judged studies of a home; a study's calls are those its verdicts took, whichever study paid for them.

    Raises InputError where there is none.
    """
    if not home.store.exists():
        raise InputError(f"{home.folder} holds no store: run a study with FACTSCALE_HOME={home.folder} first")
    rows = home.store.query(
        "SELECT study_key, name FROM studies SEMI JOIN study_judges USING (study_key) ORDER BY started_at"
    )
    if not rows:
        raise InputError(f"no study of {home.store.name} has a judge: name one in evaluate.judges")
    return {f"{row['name']} {row['study_key'][:6]}": measure(home.store, row["study_key"]) for row in rows}


def measure(store: Store, study_key: str) -> Figures:
    """What the judges of a study were asked, beside what the naive design would ask them."""
    judges, ballots = queries.judge_rows(store, study_key), queries.ballot_rows(store, study_key)
    study = queries.study(store, study_key)
    asked = study["spec"]["evaluate"]["judges"] if study else []
    traces = sum(row["n"] for row in ballots)
    pairs = max((judge["pairs"] for judge in judges), default=0)
    calls = sum(judge["calls"] for judge in judges)
    return {
        "judges": len(judges),
        "traces": traces,
        "traces with a prediction": sum(row["n"] for row in ballots if row["answered"]),
        "distinct pairs": pairs,
        "verdicts": sum(judge["verdicts"] for judge in judges),
        "asked again": sum(judge["retried"] for judge in judges),
        "invalid": sum(judge["invalid"] for judge in judges),
        "calls": calls,
        "calls a trace and judge": round(calls / (traces * len(judges)), 4) if traces else 0.0,
        "calls, naive": traces * len(judges),
        "naive/ours": round(traces * len(judges) / calls, 3) if calls else 0.0,
        "most calls": pairs * sum(1 + judge["retries"] for judge in asked),
    }


def missed_bars(figures: Figures) -> list[str]:
    """Which bars these figures miss, in words."""
    made = figures.get("calls made now", figures["calls"])
    missed = []
    if made > figures["most calls"]:
        missed.append(f"{made:.0f} calls, {figures['most calls']:.0f} at most")
    if figures["verdicts"] != figures["distinct pairs"] * figures["judges"]:
        missed.append(
            f"{figures['verdicts']:.0f} verdicts of {figures['judges']:.0f} judges on {figures['distinct pairs']:.0f} pairs"
        )
    if made != figures.get("calls accounted for now", made):
        missed.append(f"{made:.0f} calls in the log, {figures['calls accounted for now']:.0f} in the verdicts")
    return missed


def _evaluated(home: Home, settings: tuple[str, ...], *, quick: bool) -> Figures:
    """Evaluate and judge; the study's figures, and what was made now."""
    from flows.evaluate import evaluate

    logged, accounted, started = _logged(home), _accounted(home.store), time.perf_counter()
    key = evaluate(_parameters(settings, quick=quick))
    seconds = time.perf_counter() - started
    return {
        **measure(home.store, key),
        "calls made now": _logged(home) - logged,
        "calls accounted for now": _accounted(home.store) - accounted,
        "seconds": round(seconds, 1),
    }


def _parameters(settings: tuple[str, ...], *, quick: bool) -> Any:
    from flows.parameters import Evaluate

    sampled = {"samples": QUICK_SAMPLES if quick else SAMPLES, "budgets": QUICK_BUDGETS if quick else BUDGETS}
    judge = {"model": MODEL, "examples": True, "retries": RETRIES}
    return Evaluate.model_validate(
        {
            "name": "judged",
            "generation": {"engine": "transformers", "batch_size": 64},
            "evaluate": {
                "settings": settings,
                "datasets": [{"split": "test", "limit": QUICK_QUESTIONS if quick else QUESTIONS}],
                "max_answer_tokens": 12,
                "judges": [judge, {**judge, "question": "grade"}],
                **sampled,
            },
        }
    )


def _logged(home: Home) -> int:
    """Short questions that went to an engine, as the log of generations has them."""
    if not home.generation_log.exists():
        return 0
    lines = [json.loads(line) for line in home.generation_log.read_text(encoding="utf-8").splitlines()]
    return sum(len(line["ids"]) for line in lines if line.get("phase") == "text")


def _accounted(store: Store) -> int:
    """Attempts of all verdicts of model judges in the store; the matcher's have none."""
    return int(store.query("SELECT coalesce(sum(attempts), 0)::BIGINT AS calls FROM verdicts")[0]["calls"])


def _print(figures: dict[str, Figures]) -> None:
    table = Table(title="Judge calls", title_justify="left", box=None)
    table.add_column("figure")
    for name in figures:
        table.add_column(name, justify="right")
    for figure in dict.fromkeys(name for some in figures.values() for name in some):
        table.add_row(figure, *(f"{some[figure]:,g}" if figure in some else "" for some in figures.values()))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
