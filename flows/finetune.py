"""The flow `finetune`: students trained on the training sets.

Run alone: ``factscale study run deployments/studies/demo.yaml --only finetune``.
"""

from __future__ import annotations

from prefect import flow

from flows.artifacts import gather, table, threads
from flows.orders import Orders
from flows.parameters import Finetune
from store.home import Home
from tasks.landing import submit
from tasks.students import student, student_missing


@flow(name="finetune", task_runner=threads(1))
def finetune(parameters: Finetune) -> list[str]:
    """One student for each base and recipe. Returns the students' keys, which name their folders."""
    home = Home.current()
    orders = Orders(parameters, home)
    made = [orders.student(a, recipe) for a in parameters.finetune.students for recipe in parameters.distill.recipes]
    gather([submit(student, order, orders.store, missing=student_missing(order, home)) for order in made])
    keys = [order.key for order in made]
    rows = orders.store.query_for(
        keys,
        "SELECT name, recipe, held_out_before, held_out_after, seconds, weights_hash FROM students "
        "SEMI JOIN wanted_ids ON wanted = student_key ORDER BY name",
    )
    table(f"students-{parameters.name}", rows, "Students with their held-out loss before and after training")
    return keys
