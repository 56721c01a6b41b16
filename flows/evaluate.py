"""The flow `evaluate`: the matrix of runs, each at every budget, with verdicts.

Run alone: ``factscale study run deployments/studies/demo.yaml --only evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from flows.artifacts import gather, threads
from flows.cancelling import cancel_children
from flows.fan_out import check_place, handing_out
from flows.limits import DryRun, Limit, limited
from flows.orders import Orders, RunOrder, Waiting
from flows.parameters import Evaluate
from flows.plan import publish_plan
from flows.recorded import flow
from flows.unit_names import judge_work, run_work
from store.home import Home
from store.scores import score_study
from store.types import digest
from tasks.keys import score_key
from tasks.landing import submit
from tasks.overlaps import OverlapOrder, overlap
from tasks.questions import register_questions
from tasks.verdicts import MATCHER, PARSER, JudgeOrder, predictions


@flow(name="evaluate", task_runner=threads(1), on_cancellation=[cancel_children])
def evaluate(parameters: Evaluate, limit: Limit = None, dry_run: DryRun = False) -> str:
    """Answers of every run, their predictions, and the judges' verdicts. Returns the study's key."""
    parameters = limited(parameters, limit)
    if dry_run:
        return publish_plan(parameters, "evaluate")
    check_place(parameters)
    orders = Orders(parameters, Home.current())
    names = orders.run_names()
    runs = [orders.run(*name) for name in names]
    for run in runs:
        register_questions(orders.store, run.predictions.questions)
    with handing_out(orders) as hand_out:
        hand_out([run_work(name, run.traces) for name, run in zip(names, runs, strict=True)])
        gather([submit(predictions, run.predictions, orders.store) for run in runs])
        judges = orders.judges(runs)
        hand_out([judge_work(judge, position) for position, judge in enumerate(judges)])
    overlaps = orders.overlaps()
    gather([submit(overlap, order, orders.store) for order in overlaps])
    key = _register(orders, parameters, runs, judges, overlaps)
    score_study(orders.store, key)
    return key


def study_key(
    parameters: Evaluate,
    runs: Sequence[RunOrder],
    judges: Sequence[JudgeOrder],
    overlaps: Sequence[OverlapOrder],
    trained: Sequence[str],
) -> str:
    """Key of a study: all that it asks for (how its models are run and its report looks is no part of it), and the units
    that it came to, which change with their students and judges; ``trained`` are those of :func:`training_units`."""
    # How students are trained, beside what they become, is left out as well.
    asked = parameters.model_dump(
        mode="json", exclude={"generation": True, "fan_out": True, "report": True, "finetune": {"run"}}
    )
    # Studies that landed before there was such a field keep their keys.
    if parameters.evaluate.reasoning_sampling is None:
        del asked["evaluate"]["reasoning_sampling"]
    readings = sorted(run.predictions.key for run in runs)
    made = [[judge.spec.judge for judge in judges], [order.key for order in overlaps], *([trained] if trained else [])]
    return digest([asked, readings, *made])


def training_units(orders: Orders, parameters: Evaluate) -> list[str]:
    """Keys of the training sets that were made on the way to a study, and of the checks of its students on dev questions:
    those that have landed. None where it evaluates no student."""
    if not parameters.evaluate.asks_students:
        return []
    sets = _training_sets(orders, parameters).values()
    return sorted({*(unit for unit, _ in sets), *_checked(orders)})


def _checked(orders: Orders) -> set[str]:
    """Keys of the checks on dev questions that have landed."""
    return orders.store.known("student_checks", "check_key", [check.predictions.key for check in orders.checks()])


def _register(
    orders: Orders,
    parameters: Evaluate,
    runs: Sequence[RunOrder],
    judges: Sequence[JudgeOrder],
    overlaps: Sequence[OverlapOrder],
) -> str:
    key = study_key(parameters, runs, judges, overlaps, training_units(orders, parameters))
    first = judges[0].spec.judge if judges else None
    rows = [
        {
            "study_key": key,
            "run_key": run.key,
            "unit_key": run.traces.key,
            "role": run.role,
            "model": run.model,
            "base": run.base,
            "trained_on": run.training_set,
            "variant": run.variant,
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
    tables = {
        "study_runs": rows,
        "study_judges": named,
        "study_overlaps": near,
        "study_students": _student_rows(orders, parameters, key, {run.student for run in runs}),
        "study_training_sets": _training_set_rows(orders, parameters, key),
        "studies": [{"study_key": key, "name": parameters.name, "spec": parameters.model_dump_json()}],
    }
    orders.store.land(tables)
    return key


def _student_rows(
    orders: Orders, parameters: Evaluate, key: str, evaluated: set[str | None]
) -> list[dict[str, str | bool | None]]:
    """The students that were trained on the way to this study, where it evaluates any."""
    dev = parameters.finetune.dev
    if not parameters.evaluate.asks_students:
        return []
    there = _checked(orders)
    rows: list[dict[str, str | bool | None]] = []
    for name in orders.student_names():
        student = orders.student(*name).key
        own = orders.check(*name).predictions.key if dev else None
        base = orders.check(name.base, name.training_set, None).predictions.key if dev and dev.base else None
        rows.append(
            {
                "study_key": key,
                "student_key": student,
                "base": name.base,
                "trained_on": name.training_set,
                "variant": name.variant,
                "check_key": own if own in there else None,
                "base_check_key": base if base in there else None,
                "chosen": student in evaluated,
            }
        )
    return rows


def _training_set_rows(orders: Orders, parameters: Evaluate, key: str) -> list[dict[str, str]]:
    """The training sets that were made on the way to this study, where it evaluates any student."""
    if not parameters.evaluate.asks_students:
        return []
    return [
        {"study_key": key, "name": name, "training_set": training_set, "unit_key": unit}
        for name, (unit, training_set) in _training_sets(orders, parameters).items()
    ]


def _training_sets(orders: Orders, parameters: Evaluate) -> dict[str, tuple[str, str]]:
    """Unit and content of the training sets that have landed, by name."""
    units: dict[str, str] = {}
    for name in parameters.distill.training_sets:
        with suppress(Waiting):  # one that no student is trained on need not be there
            units[name] = orders.training_set(name).key
    rows = orders.store.query_for(
        list(units.values()),
        "SELECT unit_key, training_set FROM training_set_units SEMI JOIN wanted_ids ON wanted = unit_key",
    )
    made = {row["unit_key"]: row["training_set"] for row in rows}
    return {name: (unit, made[unit]) for name, unit in units.items() if unit in made}
