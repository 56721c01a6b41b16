"""The flow `finetune`: students trained on the training sets, and asked dev questions where the study wants it.

Run alone: ``factscale study run deployments/studies/sweep.yaml --only finetune``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect.logging import get_run_logger

from eval.training_plots import training_plots
from flows.artifacts import gather, markdown, pictures, table, threads
from flows.cancelling import cancel_children
from flows.fan_out import HandOut, check_place, check_trainings, handing_out
from flows.limits import DryRun, Limit, limited
from flows.orders import CheckOrder, Orders, student_name
from flows.parameters import Finetune
from flows.plan import publish_plan
from flows.recorded import flow
from flows.unit_names import check_work, student_work
from store.connection import Store
from store.home import Home
from store.queries import student_rows
from tasks.landing import submit
from tasks.questions import register_questions
from tasks.student_checks import checked, land_check
from tasks.student_exports import find_student, write_card
from tasks.verdicts import predictions

Row = dict[str, Any]


@flow(name="finetune", task_runner=threads(1), on_cancellation=[cancel_children])
def finetune(parameters: Finetune, limit: Limit = None, dry_run: DryRun = False) -> list[str]:
    """One student for each base, training set and variant of the sweep. Returns their keys, which name their folders."""
    parameters, home = limited(parameters, limit), Home.current()
    if dry_run:
        publish_plan(parameters, "finetune")
        return []
    check_place(parameters)
    orders = Orders(parameters, home)
    check_trainings(orders)
    names = orders.student_names()
    made = {work.order.key: work for work in (student_work(orders, name) for name in names)}
    with handing_out(orders) as hand_out:
        hand_out(list(made.values()))
        _ask(orders, orders.checks(), hand_out)
    best = _choose(orders, parameters)
    shown = _rows(orders, parameters, best)
    table(f"students-{parameters.name}", shown, "Students: held-out loss, answers to dev questions, speed and memory")
    known = student_rows(orders.store, list(made))
    by_key = {row["student_key"]: row for row in known["students"]}
    called = [by_key[orders.student(*n).key] | {"trained_on": n.training_set, "variant": n.variant} for n in names]
    drawn = training_plots(called, known["training_logs"])
    if drawn:
        text = pictures(((plot.title, plot.png) for plot in drawn), "The report has more plots.")
        markdown(f"training-{parameters.name}", text, "How the students were trained, step by step")
    return list(made)


def _ask(orders: Orders, checks: Sequence[CheckOrder], hand_out: HandOut) -> None:
    """Have students and bases answer the dev questions, and count what they answered."""
    for check in checks:
        register_questions(orders.store, check.predictions.questions)
    hand_out([check_work(check) for check in checks])
    gather([submit(predictions, check.predictions, orders.store) for check in checks])
    there = orders.store.known("student_checks", "check_key", [check.predictions.key for check in checks])
    new = [check for check in checks if check.predictions.key not in there and _land(orders.store, check)]
    students, bases = {check.student for check in new}, {check.base for check in new if check.student is None}
    for check in checks:
        # A card shows a student beside its base, so what is new of either belongs into it.
        if check.student is not None and (check.student in students or check.base in bases):
            write_card(orders.home, find_student(orders.store, check.student))


def _land(store: Store, check: CheckOrder) -> bool:
    return land_check(store, check.base, check.student, check.dataset, check.traces, check.predictions)


def _choose(orders: Orders, parameters: Finetune) -> set[tuple[str, str, str]]:
    """Which student of each base and training set will be evaluated, where the best is wanted; said in the run's log."""
    if parameters.finetune.select == "all":
        return set()
    found = set()
    for base in parameters.finetune.students:
        for name in parameters.trained_on:
            variant = orders.best(base, name)
            found.add((base, name, variant))
            get_run_logger().info("best on dev questions: %s", student_name(base, name, variant))
    return found


def _rows(orders: Orders, parameters: Finetune, best: set[tuple[str, str, str]]) -> list[Row]:
    """A row a student, those of one base and training set together; before them the base as it is, where it was asked."""
    tuning, dev = parameters.finetune, parameters.finetune.dev
    variants = [*([None] if dev is not None and dev.base else []), *tuning.variants]
    pairs = [(base, training_set) for base in tuning.students for training_set in parameters.trained_on]
    names = [(*pair, variant) for pair in pairs for variant in variants]
    students = {name: orders.student(*name[:2], name[2]).key for name in names if name[2] is not None}
    checks = {name: orders.check(*name).predictions.key for name in names} if dev is not None else {}
    trained, answered = _trained(orders, list(students.values())), checked(orders.store, list(checks.values()))
    rows = []
    for name in names:
        base, training_set, variant = name
        shown = "untrained" if variant is None else variant
        row: Row = {"base": base, "training_set": training_set, "variant": shown}
        if best:
            row["chosen"] = "yes" if name in best else ""
        row |= trained[students[name]] if name in students else dict.fromkeys(_TRAINED)
        rows.append(row | (_answered(answered[checks[name]]) if checks else {}))
    return rows


_LOSSES_AND_SPEED = ("held_out_before", "held_out_after", "steps", "seconds", "tokens_per_second")
_TRAINED = (*_LOSSES_AND_SPEED, "peak_memory_gib")


def _trained(orders: Orders, keys: Sequence[str]) -> dict[str, Row]:
    """How students were trained, by their keys."""
    rows = orders.store.query_for(
        keys,
        f"SELECT DISTINCT student_key, {', '.join(_LOSSES_AND_SPEED)}, "  # noqa: S608 - names of this module
        "round(peak_memory_bytes / 2**30, 2) AS peak_memory_gib FROM student_quality SEMI JOIN wanted_ids "
        "ON wanted = student_key",
    )
    return {row.pop("student_key"): row for row in rows}


def _answered(found: Mapping[str, Any]) -> Row:
    """What a check on dev questions told."""
    return {
        "dev_questions": found["n"],
        "dev_accuracy": round(found["accuracy"], 4),
        "95% interval": f"{found['low']:.3f} to {found['high']:.3f}",
        "in_a_box": round(found["boxed"], 4),
        "cut": round(found["cut"], 4),
        "thinking_tokens": round(found["thinking_tokens"], 1),
    }
