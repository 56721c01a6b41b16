"""The flow `unit`: one unit that loads a model, as a flow run of its own. Workers with a GPU run it; see docs/fan-out.md.

A study with ``fan_out: {kind: workers}`` starts one for each unit that is missing, and a person may start or retry one in the
UI: what has landed of it is kept, and the rest is made.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from prefect.states import Failed

from flows.artifacts import gather, threads
from flows.fan_out import gpus_needed, placed
from flows.orders import Orders
from flows.parameters import Study
from flows.processes import BOUND_VARIABLE
from flows.recorded import flow
from flows.unit_names import UnitName, questions_of, work_of
from models.training_process import die_with_parent
from store.home import Home
from store.types import InputError, RunError
from tasks.landing import retryable, submit
from tasks.questions import register_questions

BAD_INPUT = "Bad input"
"""The name of the failed state of a run that no further try can help: whoever waits for it starts no other."""

FAULT = "Fault"
"""The same, for an error that nobody foresaw."""


@flow(name="unit", task_runner=threads(1))
def unit(parameters: Study, unit: UnitName) -> Any:
    """Make one unit of a study: traces, a student, or verdicts. Returns its key. It is tried once: who waits for it tries
    again."""
    bind_to_worker()
    try:
        orders = Orders(parameters, Home.current())
        work = work_of(orders, unit)
        if unit.key is None and (questions := questions_of(work.order)):
            register_questions(orders.store, questions)
        order = placed(work.order, gpus_needed(work.order, parameters.fan_out))
        # Whoever waits for this run starts it again (fan_out.retries), elsewhere if need be: tries of its own would multiply.
        once = work.task.with_options(retries=0)
        future = submit(once, order, orders.store, missing=work.missing)
        try:
            gather([future])
        except RunError as error:
            if future.state.is_failed() and not retryable(work.task, None, future.state):
                return Failed(name=FAULT, message=str(error))
            raise
    except InputError as error:
        return Failed(name=BAD_INPUT, message=str(error))
    return work.order.key


def bind_to_worker() -> None:
    """Have the kernel end this process with the worker that started it, where `factscale workers` started that.

    Leaves at once where the worker is gone already: it can die while this process imports, and another worker has the unit then.
    """
    if BOUND_VARIABLE not in os.environ:
        return
    parent = os.getppid()
    if not _is_worker(parent):
        print(f"the worker that started this process is gone ({parent} is its parent now): leaving", file=sys.stderr)
        os._exit(1)
    die_with_parent(parent)


def _is_worker(pid: int) -> bool:
    # A worker was started with the variable, and whoever takes over the children of a dead one (init, a session's manager, the
    # command `factscale workers`) was not.
    try:
        started_with = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return pid != 1 and not Path("/proc/self/environ").exists()
    return any(variable.startswith(f"{BOUND_VARIABLE}=".encode()) for variable in started_with)
