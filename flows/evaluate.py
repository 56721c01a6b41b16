"""The flow `evaluate`: the matrix of runs, each at every budget, with verdicts.

Run alone: ``factscale study run deployments/studies/demo.yaml --only evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from flows.artifacts import gather, threads
from flows.orders import Orders, RunOrder
from flows.parameters import Evaluate
from store.home import Home
from store.scores import score_study
from store.types import digest
from tasks.keys import score_key
from tasks.landing import submit
from tasks.overlaps import OverlapOrder, overlap
from tasks.questions import register_questions
from tasks.traces import traces
from tasks.verdicts import MATCHER, PARSER, JudgeOrder, predictions, verdicts


@flow(name="evaluate", task_runner=threads(1))
def evaluate(parameters: Evaluate) -> str:
    """Answers of every run, their predictions, and the judges' verdicts. Returns the study's key."""
    orders = Orders(parameters, Home.current())
    runs = [orders.run(*names) for names in orders.run_names()]
    for run in runs:
        register_questions(orders.store, run.predictions.questions)
    gather([submit(traces, run.traces, orders.store) for run in runs])
    gather([submit(predictions, run.predictions, orders.store) for run in runs])
    judges = orders.judges(runs)
    gather([submit(verdicts, judge, orders.store) for judge in judges])
    overlaps = orders.overlaps()
    gather([submit(overlap, order, orders.store) for order in overlaps])
    key = _register(orders, parameters, runs, judges, overlaps)
    score_study(orders.store, key)
    return key


def study_key(
    parameters: Evaluate, runs: Sequence[RunOrder], judges: Sequence[JudgeOrder], overlaps: Sequence[OverlapOrder]
) -> str:
    """Key of a study: all that it asks for (how its models are run and its report looks is no part of it), and the units
    that it came to, which change with their students and judges."""
    asked = parameters.model_dump(mode="json", exclude={"generation", "report"})
    readings = sorted(run.predictions.key for run in runs)
    return digest([asked, readings, [judge.spec.judge for judge in judges], [order.key for order in overlaps]])


def _register(
    orders: Orders,
    parameters: Evaluate,
    runs: Sequence[RunOrder],
    judges: Sequence[JudgeOrder],
    overlaps: Sequence[OverlapOrder],
) -> str:
    key = study_key(parameters, runs, judges, overlaps)
    first = judges[0].spec.judge if judges else None
    rows = [
        {
            "study_key": key,
            "run_key": run.key,
            "unit_key": run.traces.key,
            "role": run.role,
            "model": run.traces.model.name,
            "setting": run.setting.value,
            "dataset": run.dataset,
            "prompt_set": run.traces.spec.prompt_set,
            "thought_key": run.traces.spec.thought.key,
            "answer_key": run.traces.spec.answer.key,
            "samples": run.traces.spec.samples,
            "budgets": list(run.traces.spec.budgets),
            "parser": PARSER,
            "matcher": MATCHER,
            "judge": first,
            "student_key": run.student,
            "retrieval_key": orders.retrieval.key,
            "parameters": run.traces.model.entry.parameters,
            "score_key": score_key(run.traces.key, PARSER, MATCHER, first),
        }
        for run in runs
    ]
    named = [
        {
            "study_key": key,
            "position": position,
            "judge": judge.spec.judge,
            "model": judge.model.name,
            "question": judge.question,
        }
        for position, judge in enumerate(judges)
    ]
    datasets = parameters.evaluate.datasets
    near = [
        {"study_key": key, "dataset": chosen.dataset, "overlap_key": order.key}
        for chosen, order in zip(datasets, overlaps, strict=False)  # none where no student is trained
    ]
    study = {"study_key": key, "name": parameters.name, "spec": parameters.model_dump_json()}
    orders.store.land({"study_runs": rows, "study_judges": named, "study_overlaps": near, "studies": [study]})
    return key
