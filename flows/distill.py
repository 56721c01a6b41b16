"""The flow `distill`: teachers' traces, their verdicts, and the training sets of the correct ones.

Run alone: ``factscale study run deployments/studies/demo.yaml --only distill``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from flows.artifacts import gather, table, threads
from flows.cancelling import cancel_children
from flows.fan_out import check_place, handing_out
from flows.limits import DryRun, Limit, limited
from flows.orders import Orders
from flows.parameters import Distill
from flows.plan import publish_plan
from flows.recorded import flow
from flows.unit_names import judge_work, teacher_work
from store.home import Home
from tasks.landing import submit
from tasks.questions import register_questions
from tasks.training_folders import folder_of
from tasks.training_sets import TrainingSetOrder, training_set, training_set_missing
from tasks.verdicts import predictions

_DIGITS = 4


@flow(name="distill", task_runner=threads(1), on_cancellation=[cancel_children])
def distill(parameters: Distill, limit: Limit = None, dry_run: DryRun = False) -> list[str]:
    """Traces of every teacher in every recipe, a judge's verdicts on them if one is named, then one training set a recipe
    and one a mix. Returns the training sets' keys, which name their folders."""
    parameters, home = limited(parameters, limit), Home.current()
    if dry_run:
        publish_plan(parameters, "distill")
        return []
    check_place(parameters)
    orders = Orders(parameters, home)
    register_questions(orders.store, orders.train_questions)
    chosen = parameters.distill
    with handing_out(orders) as hand_out:
        hand_out([teacher_work(orders, alias, recipe) for recipe in chosen.recipes for alias in chosen.teachers])
        gather([submit(predictions, reading, orders.store) for reading in orders.readings()])
        if (judge := orders.teachers_judge()) is not None:
            hand_out([judge_work(judge, None)])
    sets = [orders.training_set(name) for name in chosen.training_sets]
    made = [submit(training_set, one, orders.store, missing=training_set_missing(one, home)) for one in sets]
    keys = [str(key) for key in gather(made)]
    table(
        f"training-sets-{parameters.name}",
        training_set_rows(home, sets),
        "Traces that entered each training set, why others did not, and where the set lies as Parquet with its card",
    )
    return keys


def training_set_rows(home: Home, sets: Sequence[TrainingSetOrder]) -> list[dict[str, Any]]:
    """A row a training set, and one for each recipe and teacher in it, as people read them."""
    found = home.store.query_for(
        [order.key for order in sets], "SELECT * FROM training_set_units SEMI JOIN wanted_ids ON wanted = unit_key"
    )
    made = {row["unit_key"]: row for row in found}
    rows = []
    for order in sets:
        row = made[order.key]
        statistics = json.loads(row["statistics"])
        sources = statistics.pop("sources")
        rows.append(
            {"set": order.set_name, "recipe": "all", "teacher": "all"}
            | _readable(statistics)
            | {"training_set": row["training_set"], "folder": str(folder_of(home, row["training_set"]))}
        )
        if len(sources) > 1:
            rows += [{"set": order.set_name, **_readable(one)} for one in sources]
    return rows


def _readable(statistics: dict[str, Any]) -> dict[str, Any]:
    """Shares with four digits, means with one; the reasons in words."""
    dropped = statistics.get("dropped", {})
    shown = {
        name: round(value, 1 if name.startswith("mean_") else _DIGITS) if isinstance(value, float) else value
        for name, value in statistics.items()
        if name != "dropped"
    }
    return shown | {"dropped": ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "none"}
