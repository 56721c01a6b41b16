"""The whole fs1 study, 168 runs at full width, with a stand-in for its models: does everything around them hold?

    python -m bench.fs1 --recorded HOME [--limit N] [--check] [--data FOLDER] [--keep FOLDER]

``deployments/studies/fs1.yaml`` is planned and run through its flows on the real questions of all six benchmarks and a real
Wikidata extract: paths, teachers' traces, training sets, students, the ladder of every run, predictions, verdicts, overlap,
scores, report. In place of the models stands ``bench.replay``, which replays the traces that another study recorded
(``--recorded``: the home of a demo will do), so that figures of accuracy mean nothing and those of time leave the models out.
What differs from the study, beside the models: TimeQuestions dev teaches in place of CWQ dev and Mintaka is asked its dev
questions, since the data has these; units are made in this process (``fan_out: local``); tokens are counted by the tokenizer
that comes with factscale, and no encoder compares relations, answers or questions.

Prints a table, then one JSON object as its last line. With ``--check`` a missed bar is named and the exit status is 1: 168 runs
planned and landed, every trace that was planned is there and none twice, the task runs of each flow are recorded as it made
them, and a second run comes to the same study and asks the stand-in for nothing. ``--limit`` takes the first so many
questions of each set. ``--keep`` leaves the home in a folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import yaml
from rich.console import Console
from rich.table import Table

from bench.benchmark_files import DATA, FILES, named_cwq
from bench.outcome import finish
from store.home import Home
from store.types import InputError, RunError

STUDY = Path(__file__).resolve().parents[1] / "deployments" / "studies" / "fs1.yaml"
TRAIN = {"dataset": "exaqt", "split": "dev", "path": "exaqt/timequestions_dev.json.gz"}
TOKENIZER = "smollm2-135m"  # comes with factscale; the study's own has to be fetched
RUNS = 168
KIB_A_GIB = 1024**2  # ru_maxrss is in KiB

Figures = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 1 for a missed bar or a failed run, 2 where the data is not here."""
    parser = argparse.ArgumentParser(prog="python -m bench.fs1", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--recorded", type=Path, required=True, help="the home of a study whose traces are replayed")
    parser.add_argument("--limit", type=int, help="the first so many questions of each set")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a bar is missed")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the real data (%(default)s)")
    parser.add_argument("--keep", type=Path, help="leave the home in this folder")
    given = parser.parse_args(arguments)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="factscale-fs1-"))
    try:
        figures = run(Home(folder.resolve()), Home(given.recorded.resolve()), given.data, given.limit)
    except (InputError, RunError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    finally:
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    missed = missed_bars(figures)
    _print(figures)
    return finish("fs1", missed, check=given.check, limit=given.limit, **figures)


def run(home: Home, source: Home, data: Path, limit: int | None) -> Figures:
    """Plan and run the study in ``home``. Raises InputError where data or recorded traces are missing."""
    for file in (TRAIN["path"], *(file for _, file in FILES.values())):
        if not (data / "benchmarks" / file).is_file():
            raise InputError(f"the benchmark data is not here: no file {data / 'benchmarks' / file}; give it by --data")
    home.folder.mkdir(parents=True, exist_ok=True)
    os.environ["FACTSCALE_HOME"] = str(home.folder)
    # Prefect reads its settings when it is imported.
    from flows.server import prefect_api, prepare_environment

    prepare_environment(home, quiet=True)
    from bench import replay
    from flows.parameters import Study
    from kg.graphs import load_graph
    from tasks import students, traces

    study = Study.model_validate(_parameters(home, data, limit))
    figures: Figures = {}
    with _timed(figures, "load the graph"):
        load_graph(sorted((data / "kg").glob("*.nt.gz")), "wikidata", home.kg)
    figures |= _planned(study, home)
    sets = (study.train, *study.evaluate.datasets)
    recording = replay.recorded(source, [question for chosen in sets for question in chosen.load()])
    figures["questions"] = sum(len(chosen.load()) for chosen in study.evaluate.datasets)
    stand_in = replay.StandIn(recording)
    with (
        patch.object(traces, "open_session", stand_in.open_session),
        patch.object(students, "train", stand_in.train),
        patch.object(students, "fetch", lambda _entry, _cache: home.folder),
        prefect_api(home),
    ):
        started = time.perf_counter()
        key = _stages(study, figures)
        figures["whole study, s"] = round(time.perf_counter() - started, 1)
        figures |= _landed(home, key)
        stand_in.asked.clear()
        with _timed(figures, "second run"):
            again = _stages(study, {})
        figures["asked by the second run"] = stand_in.asked.total() + (again != key)
        figures |= _recorded(home)
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    figures["CPU of both runs, s"] = round(sum(one.ru_utime + one.ru_stime for one in (own, children)), 1)
    figures["peak memory, GiB"] = round(own.ru_maxrss / KIB_A_GIB, 2)
    figures["peak memory of a child, GiB"] = round(children.ru_maxrss / KIB_A_GIB, 2)
    figures["store, GiB"] = round((home.folder / "factscale.duckdb").stat().st_size / 2**30, 2)
    return figures


@contextmanager
def _timed(figures: Figures, name: str) -> Iterator[None]:
    """Adds the seconds of a block to the figures."""
    print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr)
    started = time.perf_counter()
    yield
    figures[f"{name}, s"] = round(time.perf_counter() - started, 1)


def _parameters(home: Home, data: Path, limit: int | None) -> dict[str, Any]:
    """The shipped study on the files that are here."""
    study: dict[str, Any] = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    folder = data / "benchmarks"
    sets = [
        {"dataset": name, "split": split, "path": str(folder / file), "limit": limit}
        for name, (split, file) in FILES.items()
    ]
    sets[list(FILES).index("cwq")]["path"] = str(named_cwq(home.folder / "cwq", data))
    study["train"] = {**TRAIN, "path": str(folder / TRAIN["path"]), "limit": limit}
    study["retrieve"] |= {
        "datasets": sets, "tokenizer": TOKENIZER, "similarity": "lexical",
        "mid_map": str(data / "kg" / "freebase_mid2qid.tsv.gz"),
    }  # fmt: skip
    study["distill"] |= {"tokenizer": TOKENIZER, "semantic": "off"}
    study["evaluate"] |= {"datasets": sets, "overlap": {"encoder": "off"}}
    study["fan_out"] = {"kind": "local"}  # the stand-in is in this process
    return study


def _planned(study: Any, home: Home) -> Figures:
    from flows.orders import Orders
    from flows.plan import plan

    figures: Figures = {}
    with _timed(figures, "plan"):
        rows = plan(study, home)
    orders = Orders(study, home)
    titles = {orders.run_title(name) for name in orders.run_names()}
    figures["units planned"] = len(rows)
    figures["runs planned"] = sum(row["unit"] in titles for row in rows)
    figures["traces planned"] = sum(row["rows"] or 0 for row in rows if row["unit"] in titles)
    return figures


def _stages(study: Any, figures: Figures) -> str:
    from flows.distill import distill
    from flows.evaluate import evaluate
    from flows.finetune import finetune
    from flows.report import report
    from flows.retrieve import retrieve

    with _timed(figures, "retrieve"):
        retrieve(study)
    with _timed(figures, "distill"):
        distill(study)
    with _timed(figures, "finetune"):
        finetune(study)
    with _timed(figures, "evaluate"):
        key: str = evaluate(study)
    with _timed(figures, "report"):
        report(study)
    return key


def _landed(home: Home, key: str) -> Figures:
    counts = home.store.query(
        "SELECT count(*) AS traces, count(DISTINCT trace_id) AS distinct_traces, count(DISTINCT run_key) AS runs "
        "FROM results WHERE study_key = ?",
        [key],
    )[0]
    doubled = home.store.query(
        "SELECT (SELECT count(*) - count(DISTINCT trace_id) FROM trace_texts) + "
        "(SELECT count(*) - count(DISTINCT thought_id) FROM thought_texts) AS n"
    )[0]
    return {
        "runs": counts["runs"],
        "traces": counts["traces"],
        # Two runs of one model and setting on one dataset share their traces; this study has none such.
        "traces twice": counts["traces"] - counts["distinct_traces"] + doubled["n"],
        "verdicts of the judge": home.store.query("SELECT count(*) AS n FROM verdicts WHERE attempts > 0")[0]["n"],
    }


def _recorded(home: Home) -> Figures:
    """Task runs that flows made, those that the API has of them, and how many flow runs have others than they made."""
    from prefect.client.orchestration import get_client

    from flows.recorded import count_task_runs, promised_task_runs

    found = home.store.query("SELECT DISTINCT flow_run_id FROM flow_runs")
    runs = [UUID(row["flow_run_id"]) for row in found]
    with get_client(sync_client=True) as client:
        counts = [(promised_task_runs(home.store, run), count_task_runs(client, run)) for run in runs]
    return {
        "task runs promised": sum(made for made, _ in counts),
        "task runs recorded": sum(shown for _, shown in counts),
        "flow runs with others": sum(made != shown for made, shown in counts),
    }


def missed_bars(figures: Figures) -> list[str]:
    """Which bars these figures miss, in words."""
    counts = ("runs planned", "runs")
    missed = [f"{name}: {figures[name]:.0f}, the study has {RUNS}" for name in counts if figures[name] != RUNS]
    if figures["traces"] != figures["traces planned"]:
        missed.append(f"{figures['traces']:,.0f} traces, {figures['traces planned']:,.0f} planned")
    if figures["traces twice"]:
        missed.append(f"{figures['traces twice']:,.0f} traces are there twice")
    if figures["asked by the second run"]:
        missed.append(f"the second run asked for {figures['asked by the second run']:,.0f} units or rows")
    made, shown = figures["task runs promised"], figures["task runs recorded"]
    if figures["flow runs with others"] or not made:
        missed.append(f"{shown:.0f} of {made:.0f} task runs are recorded")
    return missed


def _print(figures: Figures) -> None:
    table = Table(title="The fs1 study with a stand-in for its models", title_justify="left", box=None)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.1f}" if name.endswith((", s", "GiB")) else f"{value:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
