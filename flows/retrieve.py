"""The flow `retrieve`: knowledge-graph paths of a study's questions, linked, found, ranked and landed.

Run alone: ``factscale study run deployments/studies/demo.yaml --only retrieve``.
"""

from __future__ import annotations

from prefect import get_run_logger

from flows.artifacts import gather, threads
from flows.limits import DryRun, Limit, limited
from flows.orders import QUESTIONS_A_TASK_EACH, Orders
from flows.parameters import Retrieve
from flows.plan import publish_plan
from flows.recorded import flow
from flows.retrieval import publish_retrieval
from store.home import Home
from tasks.controls import control
from tasks.graphs import load_graph, probe
from tasks.landing import run, submit
from tasks.links import links
from tasks.paths import neighbourhoods, paths
from tasks.progress import progress
from tasks.questions import register_questions

QUESTIONS_A_ROUND = 5000  # fetched for together, then searched: what a killed run has to search again at most


@flow(name="retrieve", task_runner=threads(4))
def retrieve(parameters: Retrieve, limit: Limit = None, dry_run: DryRun = False) -> int:
    """Find what is missing; a question whose paths are in the store costs nothing. Returns the questions searched now."""
    parameters = limited(parameters, limit)
    if dry_run:
        publish_plan(parameters, "retrieve")
        return 0
    orders = Orders(parameters, Home.current())
    store = orders.store
    missing = orders.missing_retrievals()
    control_order = orders.control()
    controlled = control_order is None or store.has_unit(control_order.key)
    done = len(orders.searched_questions) - len(missing)
    get_run_logger().info("%d of %d questions have their paths in the store", done, done + len(missing))
    if missing or not controlled:
        probe(orders.source)
        register_questions(store, missing)
        if linking := orders.links(missing):
            gather([submit(links, linking, store)])
        graph = load_graph(store, orders.retrieval.snapshot, orders.retrieval.cap)
        rounds = [missing[i : i + QUESTIONS_A_ROUND] for i in range(0, len(missing), QUESTIONS_A_ROUND)]
        for number, some in enumerate(rounds, start=1):
            name = f"neighbourhoods {number}" if len(rounds) > 1 else "neighbourhoods"
            run(neighbourhoods, orders.neighbourhoods(some, name), graph)
            made = orders.paths(some, each=len(missing) <= QUESTIONS_A_TASK_EACH)
            with progress(name.replace("neighbourhoods", "paths"), len(made)) as meter:
                # No unit stands for them in the store: what is missing was asked of its rows.
                futures = [submit(paths, order, store, graph, missing=True) for order in made]
                gather(futures, lambda: meter.advance(1))
        if control_order is not None and not controlled:
            gather([submit(control, control_order, store, graph)])
    publish_retrieval(orders, draw=bool(missing) or not controlled)
    return len(missing)
