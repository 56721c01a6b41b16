"""The flow `evaluate`: the matrix of runs, each at every budget, with verdicts.

Run alone: ``factscale study run deployments/studies/demo.yaml --only evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from flows.orders import Orders, RunOrder
from flows.parameters import Evaluate
from flows.publish import gather, threads
from store.home import Home
from store.types import digest
from tasks.landing import submit
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
    return _register(orders, parameters, runs, judges)


def study_key(parameters: Evaluate, runs: Sequence[RunOrder], judges: Sequence[JudgeOrder]) -> str:
    """Key of a study: all that it asks for (how its models are run is no part of it), and the units that it came to,
    which change with their students and judges."""
    readings = sorted(run.predictions.key for run in runs)
    return digest(
        [parameters.model_dump(mode="json", exclude={"generation"}), readings, [judge.spec.judge for judge in judges]]
    )


def _register(orders: Orders, parameters: Evaluate, runs: Sequence[RunOrder], judges: Sequence[JudgeOrder]) -> str:
    key = study_key(parameters, runs, judges)
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
            "judge": judges[0].spec.judge if judges else None,
            "student_key": run.student,
            "retrieval_key": orders.retrieval.key,
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
    study = {"study_key": key, "name": parameters.name, "spec": parameters.model_dump_json()}
    orders.store.land({"study_runs": rows, "study_judges": named, "studies": [study]})
    return key
