"""The flow `finetune`: students trained on the training sets, and asked dev questions where the study wants it.

Run alone: ``factscale study run deployments/studies/sweep.yaml --only finetune``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from eval.statistics import wilson
from eval.training_plots import training_plots
from flows.artifacts import gather, markdown, pictures, table, threads
from flows.orders import CheckOrder, Orders, student_name
from flows.parameters import Finetune
from store.home import Home
from store.queries import student_rows
from tasks.landing import submit
from tasks.questions import register_questions
from tasks.student_checks import checked, land_check
from tasks.student_exports import find_student, write_card
from tasks.students import student, student_missing
from tasks.traces import traces
from tasks.verdicts import predictions

Row = dict[str, Any]


@flow(name="finetune", task_runner=threads(1))
def finetune(parameters: Finetune) -> list[str]:
    """One student for each base, training set and variant of the sweep. Returns their keys, which name their folders."""
    home = Home.current()
    orders = Orders(parameters, home)
    names = orders.student_names()
    made = {order.key: order for order in (orders.student(*name) for name in names)}
    gather([submit(student, one, orders.store, missing=student_missing(one, home)) for one in made.values()])
    _ask(orders, orders.checks())
    best = _choose(orders, parameters)
    shown = [row for base in parameters.finetune.students for row in _rows(orders, parameters, base, best)]
    table(f"students-{parameters.name}", shown, "Students: held-out loss, answers to dev questions, speed and memory")
    known = student_rows(orders.store, list(made))
    by_key = {row["student_key"]: row for row in known["students"]}
    called = [by_key[orders.student(*n).key] | {"trained_on": n.training_set, "variant": n.variant} for n in names]
    drawn = training_plots(called, known["training_logs"])
    if drawn:
        text = pictures(((plot.title, plot.png) for plot in drawn), "The report has more plots.")
        markdown(f"training-{parameters.name}", text, "How the students were trained, step by step")
    return list(made)


def _ask(orders: Orders, checks: Sequence[CheckOrder]) -> None:
    """Have students and bases answer the dev questions, and count what they answered."""
    for check in checks:
        register_questions(orders.store, check.predictions.questions)
    gather([submit(traces, check.traces, orders.store) for check in checks])
    gather([submit(predictions, check.predictions, orders.store) for check in checks])
    for check in checks:
        land_check(orders.store, check.predictions, check.base, check.student, check.dataset)
    for key in {check.student for check in checks if check.student}:
        write_card(orders.home, find_student(orders.store, key))  # again, now that it has dev results


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


def _rows(orders: Orders, parameters: Finetune, base: str, best: set[tuple[str, str, str]]) -> list[Row]:
    """The table of one base: a row a training set for it as it is, then one a student."""
    dev = parameters.finetune.dev
    rows = []
    for training_set in parameters.trained_on:
        variants = [None] if dev is not None and dev.base else []
        for variant in [*variants, *parameters.finetune.variants]:
            check = orders.check(base, training_set, variant) if dev is not None else None
            row: Row = {
                "base": base,
                "training_set": training_set,
                "variant": "untrained" if variant is None else variant,
            }
            if best:
                row["chosen"] = "yes" if (base, training_set, variant) in best else ""
            key = None if variant is None else orders.student(base, training_set, variant).key
            rows.append(row | _trained(orders, key) | (_answered(orders, check) if check else {}))
    return rows


def _trained(orders: Orders, key: str | None) -> Row:
    names = ("held_out_before", "held_out_after", "steps", "seconds", "tokens_per_second", "peak_memory_bytes")
    if key is None:
        return dict.fromkeys((*names[:-1], "peak_memory_gib"))
    found = orders.store.query(f"SELECT {', '.join(names)} FROM student_quality WHERE student_key = ?", [key])[0]  # noqa: S608
    memory = found.pop("peak_memory_bytes")
    return {**found, "peak_memory_gib": None if memory is None else round(memory / 2**30, 2)}


def _answered(orders: Orders, check: CheckOrder) -> Row:
    found = checked(orders.store, [check.predictions.key])[check.predictions.key]
    low, high, _ = wilson(round(found["accuracy"] * found["n"]), found["n"])
    return {
        "dev_questions": found["n"],
        "dev_accuracy": round(found["accuracy"], 4),
        "95% interval": f"{low:.3f} to {high:.3f}",
        "in_a_box": round(found["boxed"], 4),
        "cut": round(found["cut"], 4),
        "thinking_tokens": round(found["thinking_tokens"], 1),
    }
