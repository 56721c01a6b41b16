"""The flow `distill`: teachers' traces, their verdicts, and the training sets of the correct ones.

Run alone: ``factscale study run deployments/studies/demo.yaml --only distill``.
"""

from __future__ import annotations

import json

from prefect import flow

from flows.artifacts import gather, table, threads
from flows.orders import Orders
from flows.parameters import Distill
from store.home import Home
from tasks.landing import submit
from tasks.questions import register_questions
from tasks.traces import traces
from tasks.training_sets import training_set
from tasks.verdicts import predictions


@flow(name="distill", task_runner=threads(1))
def distill(parameters: Distill) -> list[str]:
    """Traces of every teacher in every recipe, then one training set a recipe. Returns the training sets' keys."""
    orders = Orders(parameters, Home.current())
    register_questions(orders.store, orders.train_questions)
    pairs = [orders.teacher(alias, r) for r in parameters.distill.recipes for alias in parameters.distill.teachers]
    gather([submit(traces, made, orders.store) for made, _ in pairs])
    gather([submit(predictions, reading, orders.store) for _, reading in pairs])
    sets = [orders.training_set(recipe) for recipe in parameters.distill.recipes]
    keys = gather([submit(training_set, order, orders.store) for order in sets])
    rows = orders.store.query_for(keys, "SELECT * FROM training_sets SEMI JOIN wanted_ids ON wanted = training_set")
    table(
        f"training-sets-{parameters.name}",
        [{"recipe": r["recipe"], "traces": r["row_count"], **json.loads(r["statistics"])} for r in rows],
        "Traces that entered each training set, and why others did not",
    )
    return [str(key) for key in keys]
