"""The two designs that bench.orchestration compares, each as a process of its own.

    python -m bench.orchestration_designs {batches,each} UNITS

Both make the same rows with the same threads, on the Prefect server of PREFECT_API_URL. `batches` is how this application
retrieves paths: the store says by an anti-join which units are missing, and a task makes a batch of them and lands its rows in
one transaction. `each` is a Prefect task a unit with an explicit cache key, whose results Prefect keeps: it lands nothing in
the store, which would cost it a transaction a unit. Prints how many task runs it promised, as JSON, and exits once Prefect's
own threads have sent what they had.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow, task
from prefect.utilities.annotations import quote

from flows.artifacts import gather, threads
from store.home import Home
from store.types import Frozen, digest
from tasks.landing import UNIT_OPTIONS, submit

THREADS = 8
BATCH = 250
RETRIEVAL = "bench"


class Batch(Frozen):
    """A work order for some units: their keys."""

    name: str
    units: tuple[str, ...]

    @property
    def key(self) -> str:
        """Of the batch, for Prefect's cache."""
        return digest(list(self.units))


def row(unit: str) -> dict[str, Any]:
    """What a unit comes to: a row as that of a question's paths."""
    return {
        "retrieval_key": RETRIEVAL,
        "question_key": unit,
        "snapshot": "bench",
        "pairs": 1,
        "connected": 1,
        "paths": 2,
        "min_hops": 1,
        "truncated": 0,
        "graph": f"{unit}, capital, {unit}\n" * 3,
    }


@task(name="batch", **UNIT_OPTIONS)
def batch(order: Batch) -> int:
    """Make some units and land them together."""
    Home.current().store.land({"retrievals": [row(unit) for unit in order.units]})
    return len(order.units)


@flow(name="bench-batches", task_runner=threads(THREADS))
def batches(units: int) -> int:
    """Make what the store lacks of so many units. Returns the task runs that it took."""
    store = Home.current().store
    names = _names(units)
    there = store.known("retrievals", "question_key", names)
    missing = [name for name in names if name not in there]
    orders = [
        Batch(name=f"units {start} on", units=tuple(missing[start : start + BATCH]))
        for start in range(0, len(missing), BATCH)
    ]
    gather([submit(batch, order, store, missing=True) for order in orders])
    return len(orders)


@task(name="one", **UNIT_OPTIONS)
def one(order: Batch) -> dict[str, Any]:
    """Make one unit; Prefect keeps the result."""
    return row(order.units[0])


@flow(name="bench-each", task_runner=threads(THREADS))
def each(units: int) -> int:
    """Make so many units, a task each; Prefect's cache has those that were made before."""
    orders = [Batch(name=name, units=(name,)) for name in _names(units)]
    naive: Any = one  # its types know nothing of quotes
    gather([naive.with_options(task_run_name=order.name).submit(quote(order)) for order in orders])
    return len(orders)


def _names(units: int) -> list[str]:
    return [f"unit-{number:06}" for number in range(units)]


def main(arguments: Sequence[str]) -> None:
    """Run one design once."""
    design, units = arguments
    chosen: Any = {"batches": batches, "each": each}[design]
    state = chosen(int(units), return_state=True)
    print(json.dumps({"promised": state.result(), "flow_run": str(state.state_details.flow_run_id)}))


if __name__ == "__main__":
    main(sys.argv[1:])
