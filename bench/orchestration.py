"""What Prefect costs a study of tens of thousands of units, whether its server keeps what it is told, and how busy GPUs are kept.

    python -m bench.orchestration [--quick] [--check] [--only units|gpus]

Units: 22,600 of them are made and then asked for again, by this application's design and by one Prefect task each
(bench.orchestration_designs), side by side: each run is a process of its own, timed from its start to its exit, on a real
Prefect server of the bench with this application's settings. Afterwards the server is asked how many of the promised task
runs it has.

GPUs: a local Ray declares 2, 4 and 8 of them, and a flow hands out units that sleep for a minute, five a GPU, in a study's own
way (bench.orchestration_gpus), the largest cluster first and the others beside it. Efficiency is the seconds of all units over
GPUs times wall time, the start of Ray and of its workers included.

A task each may fail: that stands among the figures with its reason, its seconds are those until then, and the bench goes on.
Says on stderr what it is about; prints a table, then one JSON object as its last line. With ``--check`` a missed bar is named
and the exit status is 1:

- ours is at least 10 times as fast as a task each, cold and warm, and the server has every task run that ours promised;
- all declared GPUs are used, and efficiency is 0.9 at least (not asked for with ``--quick``, whose units are too short).

``--quick`` takes 1,000 units, and one cluster with 2 GPUs and units of 3 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.outcome import finish
from store.home import HOME_VARIABLE, Home
from store.types import RunError

UNITS, QUICK_UNITS = 22_600, 1_000
CLUSTERS, QUICK_CLUSTERS = (2, 4, 8), (2,)
UNITS_A_GPU, SECONDS, QUICK_SECONDS = 5, 60.0, 3.0
APART = 45.0
"""Seconds from the start of one Ray to that of the next: their workers' imports are what takes cores."""
FASTER, EFFICIENCY = 10.0, 0.9
_PATIENCE = 30.0
"""Seconds without another task run on the server, after which it is taken to have written down all that it will."""

Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, or 1 for a missed bar or a run that failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.orchestration", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_UNITS:,} units, 2 GPUs")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a bar is missed")
    parser.add_argument("--only", choices=("units", "gpus"), help="one of the two parts")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="factscale-orchestration-") as folder:
        try:
            with _server(Path(folder)) as environment:
                units = [] if given.only == "gpus" else measure_units(Path(folder), environment, quick=given.quick)
                gpus = [] if given.only == "units" else measure_gpus(Path(folder), environment, quick=given.quick)
        except RunError as error:
            print(error, file=sys.stderr)
            return 1
    missed = missed_bars(units, gpus, quick=given.quick)
    _print("Units through Prefect", units)
    _print("Sleeping units on declared GPUs of a local Ray", gpus)
    return finish("orchestration", missed, check=given.check, quick=given.quick, units=units, gpus=gpus)


def measure_units(folder: Path, environment: dict[str, str], *, quick: bool) -> list[Figures]:
    """Both designs, cold and warm: a line each, and the ratios of their seconds."""
    count = QUICK_UNITS if quick else UNITS
    lines = []
    for name in ("cold", "warm"):
        line: Figures = {"run": name, "units": count}
        for design in ("batches", "each"):
            _tell(f"{count:,} units, {name}, {design}")
            line |= _measured(design, count, {**environment, HOME_VARIABLE: str(folder / design)})
        line["each/batches"] = round(line["each, seconds"] / line["batches, seconds"], 1)
        lines.append(line)
        _tell(json.dumps(line))  # the whole takes long, and may fail on the way
    return lines


def _measured(design: str, count: int, environment: dict[str, str]) -> Figures:
    """The figures of one run of a design. A task each may fail, which is a figure too: its seconds are those until it did."""
    started = time.perf_counter()
    try:
        said = _run(["bench.orchestration_designs", design, str(count)], environment)
    except RunError as error:
        if design == "batches":
            raise
        reason = str(error).strip().splitlines()[-1][:300]
        said = {"promised": f"did not finish: {reason}", "flow_run": None}
    seconds = round(time.perf_counter() - started, 2)
    recorded = _recorded(environment, said["flow_run"], said["promised"]) if said["flow_run"] else "not counted"
    return {
        f"{design}, seconds": seconds,
        f"{design}, task runs promised": said["promised"],
        f"{design}, task runs on the server": recorded,
    }


def measure_gpus(folder: Path, environment: dict[str, str], *, quick: bool) -> list[Figures]:
    """A line for each cluster. They run beside one another, since units that sleep take no core, but start apart."""
    clusters = QUICK_CLUSTERS if quick else CLUSTERS
    seconds = QUICK_SECONDS if quick else SECONDS

    def measure(gpus: int) -> Figures:
        time.sleep(APART * (len(clusters) - 1 - clusters.index(gpus)))
        _tell(f"{gpus} GPUs, {gpus * UNITS_A_GPU} units of {seconds:g} s")
        arguments = [str(gpus), str(gpus * UNITS_A_GPU), str(seconds)]
        home = str(folder / f"gpus-{gpus}")
        line = _run(["bench.orchestration_gpus", *arguments], {**environment, HOME_VARIABLE: home})
        _tell(json.dumps(line))
        return line

    with ThreadPoolExecutor(len(clusters)) as pool:
        return list(pool.map(measure, clusters))


def missed_bars(units: Sequence[Figures], gpus: Sequence[Figures], *, quick: bool) -> list[str]:
    """Which bars these figures miss, in words."""
    missed = []
    for line in units:
        if isinstance(line["each, task runs promised"], str) and line["each/batches"] < FASTER:
            missed.append(f"{line['run']}: a task each {line['each, task runs promised']}")
        elif not quick and line["each/batches"] < FASTER:
            missed.append(f"{line['run']}: {line['each/batches']} times as fast as a task each, {FASTER:g} wanted")
        promised, recorded = line["batches, task runs promised"], line["batches, task runs on the server"]
        if recorded != promised:
            missed.append(f"{line['run']}: {promised} task runs promised, {recorded} on the server")
    for line in gpus:
        if line["GPUs used"] != line["GPUs"]:
            missed.append(f"{line['GPUs']} GPUs: {line['GPUs used']} were used")
        if not quick and line["efficiency"] < EFFICIENCY:
            missed.append(f"{line['GPUs']} GPUs: efficiency {line['efficiency']}, {EFFICIENCY} wanted")
    return missed


@contextmanager
def _server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of processes that use a server of the bench's own."""
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    # Prefect reads its settings when it is imported.
    from flows.server import free_port, prepare_environment, running_server

    home = Home(folder / "server")
    prepare_environment(home)
    with running_server(home, free_port(), with_ui=False) as url:
        yield {**os.environ, "PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "ERROR"}


def _run(command: Sequence[str], environment: dict[str, str]) -> Figures:
    """What a process of the bench prints in its last line. Raises RunError where it fails."""
    Path(environment[HOME_VARIABLE]).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "Still processing items" not in line]
        raise RunError(f"{' '.join(command)} failed: " + "\n".join(said)[-2000:])
    found: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _recorded(environment: dict[str, str], run: str, promised: int) -> int:
    """How many task runs of a flow run the server has, once it has written down what it will."""
    import httpx

    asked = {"flow_runs": {"id": {"any_": [run]}}}
    most, since = -1, time.monotonic()
    while time.monotonic() - since < _PATIENCE and most < promised:
        found = int(httpx.post(f"{environment['PREFECT_API_URL']}/task_runs/count", json=asked, timeout=60).json())
        if found > most:
            most, since = found, time.monotonic()
        time.sleep(0.5)
    return most


def _print(title: str, lines: Sequence[Figures]) -> None:
    if not lines:
        return
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("figure")
    for _ in lines:
        table.add_column("", justify="right")
    for name in lines[0]:
        table.add_row(name, *(str(line[name]) for line in lines))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
