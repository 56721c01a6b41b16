"""Whether a study can run, and what it would take: both without running anything.

The plan itself is made in ``plan_units`` (what is missing), ``plan_absent`` (what stands in for data that is not here),
``plan_models`` (what that takes) and ``plan_text`` (how it is told).
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from flows.artifacts import markdown, table
from flows.generation_parameters import Judge
from flows.orders import STUDENT_FORMAT, Orders
from flows.parameters import Retrieve, Study
from flows.plan_units import ready
from flows.retrieval_parameters import QuestionSet
from models.embedded import default_cache
from models.example_lengths import reader_key
from models.finetune import Hyperparameters, ProcessOptions, check_packages, check_wandb_key
from models.launching import check_devices
from models.registry import model_key
from store.home import Home
from store.types import InputError
from tasks.overlaps import encoder_name
from tasks.questions import question_key
from tasks.students import student_missing
from tasks.weights import tracker_secrets

Row = dict[str, Any]
_LEAST_FREE_BYTES = 200 * 1024**2
_TRAINING = (None, "study", "finetune")
"""Runs that train: of everything, and of the one stage."""


def check(study: Study, home: Home, only: str | None = None) -> None:
    """Everything that can be told wrong before the first unit of a run (or of one stage of it) begins.

    Raises InputError, or RunError for a locked store.
    """
    check_orders(study, Orders(study, home), only)


def check_orders(study: Study, orders: Orders, only: str | None = None) -> None:
    """The same by orders that are there."""
    home = orders.home
    home.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home.folder).free
    if free < _LEAST_FREE_BYTES:
        raise InputError(
            f"the disk of {home.folder} has {free // 1024**2} MiB free: free some space, or set FACTSCALE_HOME to another disk"
        )
    orders.store.query("SELECT 1 FROM units LIMIT 1")
    parts = _parts(study, only)
    for alias in _asked(study, parts):
        model_key(orders.registry.entry(alias), default_cache())
    for alias in study.finetune.students if "finetune" in parts else ():
        if orders.model(alias).hosted:
            raise InputError(
                f"finetune.students: model {alias!r} is only behind an API and cannot be trained; name it in evaluate.baselines"
            )
    _check_servers(study, parts)
    _ = orders.retrieval
    if parts and study.evaluate.asks_students:
        _check_tokenizer(study, orders)
        encoder_name(study.evaluate.overlap)
    if orders.source.url is not None:
        orders.source.remote()
    dev = study.finetune.dev
    named = (dev.questions,) if dev is not None and dev.questions is not None else ()
    asked = study.evaluate.datasets if "evaluate" in parts else ()
    for questions in (study.train, *study.retrieve.datasets, *named, *asked):
        orders.questions(questions)
    if dev is not None and dev.questions is not None:
        _check_dev_questions(study, orders, dev.questions)
    if "finetune" in parts and _trains(study, only):
        _check_training(study, orders, only)


def _trains(study: Study, only: str | None) -> bool:
    """Whether students are trained: a study that evaluates none leaves that stage out."""
    return only == "finetune" or study.evaluate.asks_students


def _check_training(study: Study, orders: Orders, only: str | None) -> None:
    """What would end a training at its very beginning, in the order of the sweep."""
    options = ProcessOptions(**study.finetune.run.model_dump())
    for name, hyper in study.finetune.variants.items():
        try:
            check_devices(hyper, options)
            for alias in study.finetune.students:
                entry = orders.registry.entry(alias)
                if hyper.max_length > entry.context_length:
                    raise InputError(
                        f"max_length: {hyper.max_length} is more than the context of model {alias!r}, {entry.context_length} "
                        f"tokens by {orders.registry.path}; use at most that"
                    )
            if only in _TRAINING:
                _check_packages(hyper, options, orders)
        except InputError as error:
            where = f"finetune.sweep {name!r}" if name else "finetune"
            raise InputError(f"{where}: {error}") from None


def _check_packages(hyper: Hyperparameters, options: ProcessOptions, orders: Orders) -> None:
    try:
        check_packages(hyper.method, options)
    except InputError:
        if _untrained(orders):  # else another machine has trained them
            raise


def _untrained(orders: Orders) -> bool:
    """Whether a student is still to be trained, as far as can be told."""
    students = (ready(lambda: orders.student(*name)) for name in orders.student_names())  # noqa: B023 - called at once
    return any(one is None or student_missing(one, orders.home) for one in students)


def _check_dev_questions(study: Study, orders: Orders, questions: QuestionSet) -> None:
    """Dev questions that students have learned, or are evaluated on, would tell nothing or flatter the results."""
    dev = {question_key(question) for question in orders.questions(questions)}
    others = [("train", study.train), *(("evaluate.datasets", one) for one in study.evaluate.datasets)]
    for field, other in others:
        shared = len(dev & {question_key(question) for question in orders.questions(other)})
        if shared:
            raise InputError(
                f"finetune.dev.questions: {shared} of its {len(dev)} questions are in {field} "
                f"({other.dataset}-{other.split}) as well; name another split or set, or leave it out for the held-out ones"
            )


def _check_tokenizer(study: Study, orders: Orders) -> None:
    try:
        reader_key(orders.registry.entry(study.counted_by), STUDENT_FORMAT)
    except InputError as error:
        raise InputError(f"distill.tokenizer: {error}") from None


def _parts(study: Study, only: str | None) -> set[str]:
    """The sections that name models and that a run needs: all, or those of the one stage and those that were given, since
    parameters of an earlier flow say nothing of what comes after it (``as_study``)."""
    sections = {"distill", "finetune", "evaluate"}
    if only in (None, "study", "report"):
        return sections
    return {only, *study.model_fields_set} & sections


def _asked(study: Study, parts: set[str]) -> list[str]:
    """The aliases of the models that these sections ask or train."""
    named = {
        "distill": (*study.distill.teachers, *(judge.model for judge in _teachers_judge(study))),
        "finetune": study.finetune.students,
        "evaluate": (*study.evaluate.baselines, *(judge.model for judge in study.evaluate.judges)),
    }
    return list(dict.fromkeys(alias for part, aliases in named.items() if part in parts for alias in aliases))


def _check_servers(study: Study, parts: set[str]) -> None:
    """A server of a model that the study does not ask would be passed over in silence."""
    asked = _asked(study, parts)
    for serving in study.generation.servers:
        if serving.model not in asked:
            raise InputError(
                f"generation.servers: the study asks no model {serving.model!r}; it asks {', '.join(sorted(asked))}"
            )


def check_keys(study: Study, home: Home, only: str | None = None) -> None:
    """Whether there is a key for every server that a run (or one stage of it) asks, and for the tracker that it reports
    to: in the environment or the Prefect API.

    Raises InputError that names the variable, the Prefect block and the model.
    """
    orders = Orders(study, home)
    aliases: list[str] = []
    if only in (None, "study", "distill"):
        aliases += (*study.distill.teachers, *(judge.model for judge in _teachers_judge(study)))
    if only in (None, "study", "evaluate"):
        judges = (judge.model for judge in study.evaluate.judges)
        aliases += (*study.finetune.students, *study.evaluate.baselines, *judges)
    if only == "finetune" and study.finetune.dev is not None and study.finetune.dev.base:
        aliases += study.finetune.students  # as they are; with the whole study they are asked to evaluate them, too
    for alias in aliases:
        orders.model(alias).secrets()
    trackers = study.finetune.run.report_to
    if only in _TRAINING and "wandb" in trackers and _trains(study, only) and _untrained(orders):
        check_wandb_key({**os.environ, **tracker_secrets(trackers)})


def plan(study: Study, home: Home, only: str | None = None) -> list[Row]:
    """One row a unit (retrieval: one row in all): unit, state (done, missing, partly, waits), rows to do, tokens to generate
    at most and as expected, prompt tokens, and the cost in US dollars at most, if any model of the study has prices."""
    from flows.plan_text import make_plan, unit_rows

    return unit_rows(make_plan(study, home, only).units)


def publish_plan(
    parameters: Retrieve, only: str | None, gpu_price: float | None = None, gpus: int | None = None
) -> str:
    """The plan of a flow's parameters as artifacts of its run, of one stage or of all; returns what it comes to in a line."""
    from flows.plan_text import make_plan, shown_models, summary_lines, unit_rows

    made = make_plan(as_study(parameters), Home.current(), only, gpu_price, gpus)
    lines = summary_lines(made)
    markdown(
        f"plan-{made.study}", "\n\n".join((f"## Plan of {made.study}", *lines)), f"What study {made.study} would take"
    )
    table(f"plan-units-{made.study}", unit_rows(made.units), "The units, and what those that are missing take")
    table(f"plan-models-{made.study}", shown_models(made.models), "By model: speed, GPUs, hours, money")
    return lines[0]


def as_study(parameters: Retrieve) -> Study:
    """The parameters of any flow as those of a study; what they do not say is as it is by default, and is not checked."""
    if isinstance(parameters, Study):
        return parameters
    return Study.model_construct(**{name: getattr(parameters, name) for name in type(parameters).model_fields})


def _teachers_judge(study: Study) -> tuple[Judge, ...]:
    return () if study.distill.judge is None else (study.distill.judge,)
