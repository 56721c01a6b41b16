"""A student as a unit: weights on disk with their manifest written last, and rows in the store after that."""

from __future__ import annotations

import json
from typing import Any

from prefect import task

from models.embedded import default_cache
from models.finetune import LOG, StudentManifest, TrainLog, TrainSpec, load_manifest, train
from models.registry import ModelEntry, fetch
from store.connection import Store
from store.home import Home
from store.types import Frozen, Recipe, digest
from tasks.keys import StudentSpec
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.progress import progress
from tasks.training_sets import examples_of


class StudentOrder(Frozen):
    """A work order: one base trained on one training set."""

    name: str
    spec: StudentSpec
    recipe: Recipe
    entry: ModelEntry

    @property
    def key(self) -> str:
        """The unit's key, which names the student's folder too."""
        return self.spec.key


@task(name="student", **UNIT_OPTIONS)
def student(order: StudentOrder) -> str:
    """Train a student unless it is there. Returns the hash of its weights."""
    return land_student(order, Home.current())


def student_missing(order: StudentOrder, home: Home) -> bool:
    """Whether the unit has to run: its row is missing, or its folder has gone since."""
    return not home.store.has_unit(order.key) or load_manifest(home.students / order.key) is None


def land_student(order: StudentOrder, home: Home) -> str:
    """The body of :func:`student`. Weights that a killed run completed but did not land are taken as they are."""
    clock, store = Clock(), home.store
    folder = home.students / order.key
    manifest = load_manifest(folder)
    if manifest is None:
        examples, held_out = examples_of(store, order.spec.training_set)
        base = fetch(order.entry, default_cache())
        spec = TrainSpec(
            base=base,
            base_key=order.spec.base_key,
            format=order.spec.format,
            hyperparameters=order.spec.hyperparameters,
            chat_template=order.entry.chat_template,
            trust_remote_code=order.entry.trust_remote_code,
        )
        with progress(order.name, 1) as meter:

            def log(line: TrainLog) -> None:
                meter.total = max(line.total_steps, 1)
                meter.advance(line.step - meter.done)

            manifest = train(spec, examples, held_out, folder, on_log=log)
    _land(store, order, manifest, clock, home)
    return digest(manifest.weights)


def _land(store: Store, order: StudentOrder, manifest: StudentManifest, clock: Clock, home: Home) -> None:
    row = {
        "student_key": order.key,
        "name": order.name,
        "base": order.entry.alias,
        "recipe": order.recipe.value,
        "training_set": order.spec.training_set,
        "hyperparameters": order.spec.hyperparameters.model_dump_json(),
        "folder": order.key,
        "weights_hash": digest(manifest.weights),
        "held_out_before": manifest.result.base_loss,
        "held_out_after": manifest.result.held_out_loss,
        "seconds": manifest.result.seconds,
        "manifest": manifest.model_dump_json(),
    }
    unit = clock.unit("student", order, order.spec, rows=1, details={"weights": digest(manifest.weights)})
    store.land({"training_logs": _log_rows(home, order.key), "students": [row]}, unit)


def _log_rows(home: Home, key: str) -> list[dict[str, Any]]:
    lines = (home.students / key / LOG).read_text(encoding="utf-8").splitlines()
    logs = [TrainLog(**json.loads(line)) for line in lines if line.strip()]
    rows: dict[int, dict[str, Any]] = {}
    for log in logs:
        # A step has a line for its loss and, where held-out loss was measured, one more: they make one row.
        row = rows.setdefault(log.step, {"student_key": key, "step": log.step})
        if log.eval_loss is not None:
            row["held_out_loss"] = log.eval_loss
        else:
            row |= {"loss": log.loss, "learning_rate": log.learning_rate, "tokens_per_second": log.tokens_per_second}
    names = ("student_key", "step", "loss", "held_out_loss", "learning_rate", "tokens_per_second")
    return [{name: row.get(name) for name in names} for row in rows.values()]
