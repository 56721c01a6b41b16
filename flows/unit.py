"""The flow `unit`: one unit that loads a model, as a flow run of its own. Workers with a GPU run it; see docs/fan-out.md.

A study with ``fan_out: {kind: workers}`` starts one for each unit that is missing, and a person may start or retry one in the
UI: what has landed of it is kept, and the rest is made.
"""

from __future__ import annotations

import os
from typing import Any

from prefect.states import Failed

from flows.artifacts import gather, threads
from flows.fan_out import gpus_needed, placed
from flows.orders import Orders
from flows.parameters import Study
from flows.recorded import flow
from flows.unit_names import UnitName, questions_of, work_of
from flows.worker_commands import BOUND_VARIABLE
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
    """Make one unit of a study: traces, a student, or verdicts. Returns its key."""
    if BOUND_VARIABLE in os.environ:
        die_with_parent(os.getppid())
    try:
        orders = Orders(parameters, Home.current())
        work = work_of(orders, unit)
        if unit.key is None and (questions := questions_of(work.order)):
            register_questions(orders.store, questions)
        order = placed(work.order, gpus_needed(work.order, parameters.fan_out))
        future = submit(work.task, order, orders.store, missing=work.missing)
        try:
            gather([future])
        except RunError as error:
            if future.state.is_failed() and not retryable(work.task, None, future.state):
                return Failed(name=FAULT, message=str(error))
            raise
    except InputError as error:
        return Failed(name=BAD_INPUT, message=str(error))
    return work.order.key
