"""A student as a unit: weights on disk with their manifest written last, and rows in the store after that."""

from __future__ import annotations

import json
from typing import Any

from prefect import task

from models.embedded import default_cache
from models.finetune import LOG, ProcessOptions, StudentManifest, TrainLog, TrainSpec, load_manifest, train
from models.registry import ModelEntry, fetch
from store.connection import Store
from store.home import Home
from store.types import Frozen, Recipe, Setting, digest
from tasks.examples import examples_of
from tasks.keys import StudentSpec
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.progress import Meter, progress
from tasks.student_exports import FoundStudent, write_card
from tasks.weights import tracker_secrets


class StudentOrder(Frozen):
    """A work order: one base trained on the training set called ``trained_on``, in one ``variant`` of a sweep ("": none).

    ``options`` say how it is trained and change nothing of what it becomes.
    """

    name: str
    spec: StudentSpec
    trained_on: str
    variant: str
    entry: ModelEntry
    options: ProcessOptions

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
        with progress(order.name, 1, rows="steps") as meter:
            manifest = train(
                spec, examples, held_out, folder, on_log=Course(meter).log, options=order.options,
                secrets=tracker_secrets(order.options.report_to),
            )  # fmt: skip
    _land(store, order, manifest, clock, home)
    return digest(manifest.weights)


class Course:
    """Tells a meter how a training goes: its steps, the last losses, the speed of the last step."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._known: dict[str, str] = {}

    def log(self, line: TrainLog) -> None:
        """Hear one line of the training's log."""
        meter = self._meter
        if not self._known and line.step > 1:
            meter.resume(line.step - 1)  # a run that was killed got so far
        meter.total = max(line.total_steps, 1)
        if line.eval_loss is not None:
            self._known["held out"] = f"held-out loss {line.eval_loss:.3f}"
        if line.loss is not None:
            self._known["loss"] = f"loss {line.loss:.3f}"
            self._known["speed"] = f"{line.tokens_per_second:,.0f} tokens/s"
        meter.advance(line.step - meter.done, note=", ".join(self._known.values()))


def _land(store: Store, order: StudentOrder, manifest: StudentManifest, clock: Clock, home: Home) -> None:
    row = {
        "student_key": order.key,
        "name": order.name,
        "base": order.entry.alias,
        "recipe": order.trained_on if order.trained_on in tuple(Recipe) else Setting.MIX.value,
        "trained_on": order.trained_on,
        "variant": order.variant,
        "training_set": order.spec.training_set,
        "hyperparameters": order.spec.hyperparameters.model_dump_json(),
        "folder": order.key,
        "weights_hash": digest(manifest.weights),
        "held_out_before": manifest.result.base_loss,
        "held_out_after": manifest.result.held_out_loss,
        "seconds": manifest.result.seconds,
        "manifest": manifest.model_dump_json(),
    }
    # The card is in the folder from the moment that the student is in the store; `publish` writes it anew, with results.
    write_card(home, FoundStudent(order.key, order.name, row, older=0))
    unit = clock.unit("student", order, order.spec, rows=1, details={"weights": digest(manifest.weights)})
    store.land({"training_logs": _log_rows(home, order.key), "students": [row]}, unit)


_SUMS = ("tokens", "seconds", "memory_bytes")
_OF_A_STEP = ("loss", "learning_rate", "tokens_per_second")


def _log_rows(home: Home, key: str) -> list[dict[str, Any]]:
    lines = (home.students / key / LOG).read_text(encoding="utf-8").splitlines()
    logs = [TrainLog(**json.loads(line)) for line in lines if line.strip()]
    rows: dict[int, dict[str, Any]] = {}
    for log in logs:
        # A step has a line for its loss and, where held-out loss was measured, one more: they make one row.
        row = rows.setdefault(log.step, {"student_key": key, "step": log.step})
        row |= {name: getattr(log, name) for name in _SUMS}
        if log.eval_loss is not None:
            row["held_out_loss"] = log.eval_loss
        else:
            row |= {name: getattr(log, name) for name in _OF_A_STEP}
    names = ("student_key", "step", "held_out_loss", *_OF_A_STEP, *_SUMS)
    return [{name: row.get(name) for name in names} for row in rows.values()]
