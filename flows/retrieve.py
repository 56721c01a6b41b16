"""The flow `retrieve`: knowledge-graph paths of the training questions, found, ranked and landed.

Run alone: ``factscale study run deployments/studies/demo.yaml --only retrieve``.
"""

from __future__ import annotations

from prefect import flow, get_run_logger

from flows.orders import Orders
from flows.parameters import Retrieve
from flows.publish import gather, threads
from store.home import Home
from tasks.landing import submit
from tasks.paths import load_graph, neighbourhoods, paths, probe
from tasks.questions import register_questions


@flow(name="retrieve", task_runner=threads(4))
def retrieve(parameters: Retrieve) -> int:
    """Find what is missing; a question whose paths are in the store costs nothing. Returns the questions searched now."""
    orders = Orders(parameters, Home.current())
    register_questions(orders.store, orders.train_questions)
    missing = orders.missing_retrievals()
    get_run_logger().info(
        "%d of %d questions have their paths in the store",
        len(orders.train_questions) - len(missing),
        len(orders.train_questions),
    )
    if missing:
        probe(orders.source)
        neighbourhoods(orders.neighbourhoods(missing))
        graph = load_graph(orders.store, orders.retrieval)
        gather([submit(paths, order, orders.store, graph) for order in orders.paths(missing)])
    return len(missing)
