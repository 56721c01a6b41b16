"""Units that sleep as long as real ones work, handed out to a local Ray with declared GPUs: what of the GPUs' time is used.

    python -m bench.orchestration_gpus GPUS UNITS SECONDS

The way is that of a study (flows.fan_out): real orders, Prefect task runs on the server of PREFECT_API_URL, rows in the store.
Only the task is another: it sleeps for SECONDS, by turns a fiftieth less or more, and lands its unit's row. They differ little,
so that what GPUs wait for at the end is not the other GPUs' luck. Prints the figures as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from prefect import flow, task

from flows.artifacts import threads
from flows.fan_out import handing_out
from flows.orders import Orders
from flows.parameters import Study
from flows.unit_names import Work, run_work
from store.home import Home
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.traces import TracesOrder

SECONDS = "FACTSCALE_BENCH_SECONDS"


@task(name="traces", **UNIT_OPTIONS)
def sleeping(order: TracesOrder) -> float:
    """Sleep, and land the unit."""
    clock = Clock()
    mean = float(os.environ[SECONDS])
    seconds = mean * (0.98 + 0.02 * (order.spec.thought.seed % 3))
    began = {"began": time.time()}
    time.sleep(seconds)
    Home.current().store.land({}, clock.unit("traces", order, order.spec, rows=0, details=began))
    return seconds


def works(orders: Orders, units: int) -> list[Work]:
    """So many units of generation that differ in their seed."""
    (name,) = orders.run_names()
    order = orders.run(*name).traces
    made = []
    for seed in range(units):
        thought = order.spec.thought.model_copy(update={"seed": seed})
        changed = order.model_copy(
            update={"name": f"sleep {seed}", "spec": order.spec.model_copy(update={"thought": thought})}
        )
        made.append(run_work(name, changed)._replace(task=sleeping))
    return made


@flow(name="bench-gpus", task_runner=threads(1))
def bench_gpus(parameters: Study, units: int) -> float:
    """Hand them out; the sum of their seconds."""
    orders = Orders(parameters, Home.current())
    with handing_out(orders) as hand_out:
        return float(sum(hand_out(works(orders, units))))


def main(arguments: Sequence[str]) -> None:
    """One cluster with so many GPUs."""
    gpus, units, os.environ[SECONDS] = int(arguments[0]), int(arguments[1]), arguments[2]
    parameters = Study.model_validate(
        {
            "name": f"gpus-{gpus}",
            "fan_out": {"kind": "ray", "local_gpus": gpus},
            "evaluate": {"settings": ["instruct"], "datasets": [{"split": "test", "limit": 4}]},
        }
    )
    started, clock = time.perf_counter(), time.time()
    slept = bench_gpus(parameters, units)
    wall = time.perf_counter() - started
    rows = Home.current().store.query(
        "SELECT sum(units) AS units, count(*) AS devices, max(first) AS last_first FROM (SELECT count(*) AS units, "
        "min((versions ->> 'began')::DOUBLE) AS first FROM units GROUP BY versions ->> 'devices')"
    )
    busy = round(rows[0]["last_first"] - clock, 1)
    figures: dict[str, Any] = {
        "GPUs": gpus,
        "units": int(rows[0]["units"]),
        "GPUs used": int(rows[0]["devices"]),
        "seconds a unit": round(slept / units, 1),
        "wall seconds": round(wall, 1),
        "seconds until all GPUs had a unit": busy,
        "efficiency": round(slept / gpus / wall, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    # Ray's workers know the task by its module's name, and not as one of __main__.
    from bench import orchestration_gpus

    orchestration_gpus.main(sys.argv[1:])
