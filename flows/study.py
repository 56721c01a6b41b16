"""The flow `study`: paths, teachers, students, evaluation and report in one run, each stage a flow of its own.

Run it: ``factscale study run deployments/studies/demo.yaml``. Run it again and every unit is Cached.
"""

from __future__ import annotations

from flows.cancelling import cancel_children
from flows.distill import distill
from flows.evaluate import evaluate
from flows.fan_out import check_place, check_trainings, warn_of_place
from flows.finetune import finetune
from flows.limits import DryRun, Limit, limited
from flows.orders import Orders
from flows.parameters import Study
from flows.plan import publish_plan
from flows.recorded import flow
from flows.report import report
from flows.retrieve import retrieve
from store.home import Home


@flow(name="study", on_cancellation=[cancel_children])
def study(parameters: Study, limit: Limit = None, dry_run: DryRun = False) -> str:
    """The whole study. Returns the path of its report."""
    parameters = limited(parameters, limit)
    if dry_run:
        return publish_plan(parameters, None)
    check_place(parameters)  # now, and not where a stage first hands out a unit, after hours maybe
    warn_of_place(parameters)
    if parameters.evaluate.asks_students:
        check_trainings(Orders(parameters, Home.current()))
        retrieve(parameters)
        distill(parameters)
        finetune(parameters)
    evaluate(parameters)
    return report(parameters)
