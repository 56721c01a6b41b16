"""What running a study would take, and what is in a store: both without running anything.

A unit whose input has not landed has no key yet, so what of it is missing cannot be known; it is counted whole ("waits").
Tokens are an upper bound: every missing thought at its full length, every missing answer at its full room. So is the cost,
which is that of these tokens where the registry gives a model prices; prompts are not in it, nor what a judge replies.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from flows.artifacts import table
from flows.orders import STUDENT_FORMAT, CheckOrder, Orders, RunOrder, Waiting, student_name
from flows.parameters import Judge, QuestionSet, Retrieve, Study
from models.embedded import default_cache
from models.example_lengths import reader_key
from models.finetune import Hyperparameters, ProcessOptions, check_packages, check_wandb_key
from models.launching import check_devices
from models.registry import model_key
from store.connection import Store
from store.home import Home
from store.types import InputError
from tasks.overlaps import encoder_name
from tasks.questions import question_key
from tasks.students import student_missing
from tasks.traces import TracesOrder, missing_rows
from tasks.weights import ModelChoice, tracker_secrets

Row = dict[str, Any]
_LEAST_FREE_BYTES = 200 * 1024**2
_TRAINING = (None, "study", "finetune")
"""Runs that train: of everything, and of the one stage."""


def check(study: Study, home: Home, only: str | None = None) -> None:
    """Everything that can be told wrong before the first unit of a run (or of one stage of it) begins.

    Raises InputError, or RunError for a locked store.
    """
    home.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home.folder).free
    if free < _LEAST_FREE_BYTES:
        raise InputError(
            f"the disk of {home.folder} has {free // 1024**2} MiB free: free some space, or set FACTSCALE_HOME to another disk"
        )
    orders = Orders(study, home)
    home.store.query("SELECT 1 FROM units LIMIT 1")
    for alias in (*study.distill.teachers, *study.finetune.students, *study.evaluate.baselines, *_judges(study)):
        model_key(orders.registry.entry(alias), default_cache())
    for alias in study.finetune.students:
        if orders.model(alias).hosted:
            raise InputError(
                f"finetune.students: model {alias!r} is only behind an API and cannot be trained; name it in evaluate.baselines"
            )
    _check_servers(study)
    _ = orders.retrieval
    if any(setting.trained for setting in study.evaluate.settings):
        _check_tokenizer(study, orders)
        encoder_name(study.evaluate.overlap)
    if orders.source.url is not None:
        orders.source.remote()
    dev = study.finetune.dev
    named = (dev.questions,) if dev is not None and dev.questions is not None else ()
    for questions in (study.train, *study.retrieve.datasets, *named, *study.evaluate.datasets):
        questions.load()
    if dev is not None and dev.questions is not None:
        _check_dev_questions(study, dev.questions)
    if _trains(study, only):
        _check_training(study, orders, only)


def _trains(study: Study, only: str | None) -> bool:
    """Whether students are trained: a study that evaluates none leaves that stage out."""
    return only == "finetune" or any(setting.trained for setting in study.evaluate.settings)


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
    students = (_ready(lambda: orders.student(*name)) for name in orders.student_names())  # noqa: B023 - called at once
    return any(one is None or student_missing(one, orders.home) for one in students)


def _check_dev_questions(study: Study, questions: QuestionSet) -> None:
    """Dev questions that students have learned, or are evaluated on, would tell nothing or flatter the results."""
    dev = {question_key(question) for question in questions.load()}
    others = [("train", study.train), *(("evaluate.datasets", one) for one in study.evaluate.datasets)]
    for field, other in others:
        shared = len(dev & {question_key(question) for question in other.load()})
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


def _check_servers(study: Study) -> None:
    """A server of a model that the study does not ask would be passed over in silence."""
    asked = {*study.distill.teachers, *study.finetune.students, *study.evaluate.baselines, *_judges(study)}
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


def plan(study: Study, home: Home) -> list[Row]:
    """One row a unit (retrieval: one row in all): unit, state (done, missing, partly, waits), rows to do, tokens to generate,
    and their cost in US dollars at most, if any model of the study has prices."""
    check(study, home)
    rows = list(_rows(study, Orders(study, home)))
    priced = any(row["cost"] is not None for row in rows)
    return rows if priced else [{name: row[name] for name in row if name != "cost"} for row in rows]


def publish_plan(parameters: Retrieve, only: str | None) -> str:
    """The plan of a flow's parameters as an artifact of its run, of one stage or of all; returns what it comes to in a line."""
    study = Study.model_validate(parameters.model_dump())
    rows = plan(study, Home.current())
    table(f"plan-{study.name}", rows, f"What study {study.name} would take")
    return f"{len(rows)} units"


def status_rows(store: Store) -> tuple[list[Row], list[Row]]:
    """The studies of a store, and its units by kind with their rows, seconds, tokens and cost in US dollars."""
    studies = store.query(
        "SELECT name, left(study_key, 8) AS key, started_at, (SELECT count(*) FROM study_runs r WHERE r.study_key = "
        "s.study_key) AS runs FROM studies s ORDER BY started_at DESC"
    )
    units = store.query(
        "SELECT kind, count(*) AS units, sum(row_count)::BIGINT AS rows, sum(seconds) AS seconds, "
        # Units share traces and verdicts: what these took is told by their rows.
        "CASE kind WHEN 'verdicts' THEN (SELECT sum(generated_tokens) FROM verdicts) WHEN 'traces' THEN NULL "
        "ELSE sum(generated_tokens) END::BIGINT AS tokens, "
        "CASE kind WHEN 'verdicts' THEN (SELECT sum(cost) FROM verdicts) END AS cost, max(landed_at) AS last "
        "FROM units GROUP BY kind ORDER BY max(landed_at)"
    )
    landed = store.query(
        "SELECT 'paths' AS kind, count(*) AS units, coalesce(sum(paths), 0)::BIGINT AS rows, NULL::DOUBLE AS seconds, "
        "0::BIGINT AS tokens, NULL::DOUBLE AS cost, max(landed_at) AS last FROM retrievals HAVING count(*) > 0"
    )
    traces = store.query(
        "WITH made AS (SELECT generated_tokens AS tokens, cost FROM thoughts UNION ALL "
        "SELECT answer_tokens, cost FROM traces WHERE NOT shared) "
        "SELECT 'traces landed, also of unfinished units' AS kind, NULL::BIGINT AS units, (SELECT count(*) FROM traces) AS "
        "rows, NULL::DOUBLE AS seconds, sum(tokens)::BIGINT AS tokens, sum(cost) AS cost, NULL::TIMESTAMP AS last FROM made"
    )
    return studies, [*landed, *units, *traces]


def _rows(study: Study, orders: Orders) -> Iterator[Row]:
    trains = any(setting.trained for setting in study.evaluate.settings)
    if trains:
        missing = len(orders.missing_retrievals())
        total = len(orders.searched_questions)
        state = "done" if not missing else "missing" if missing == total else "partly"
        yield _row(f"paths of {total} questions", state, missing, 0)
        yield from _training_rows(study, orders)
    runs: list[RunOrder] = []
    for asked in orders.run_names():
        run = _ready(lambda: orders.run(*asked))  # noqa: B023 - called at once
        if run is None:
            count = len(asked.questions.load())
            samples = count * study.evaluate.samples
            each = study.evaluate.longest + len(study.evaluate.budgets) * study.evaluate.max_answer_tokens
            tokens = samples * each
            cost = None if asked.setting.trained else _cost(orders.model(asked.base), tokens)
            yield _row(orders.run_title(asked), "waits", samples * len(study.evaluate.budgets), tokens, cost)
            continue
        runs.append(run)
        yield _traces_row(orders, run.traces)
    complete = len(runs) == len(orders.run_names())
    if trains:
        made = _ready(orders.overlaps)
        for place, questions in enumerate(study.evaluate.datasets):
            name = f"overlap of {questions.dataset}-{questions.split} with training"
            yield _simple_row(orders, name, made[place].key if made else None)
    for judge in orders.judges(runs):
        done = complete and orders.store.has_unit(judge.key)
        yield _row(judge.name, "done" if done else "missing" if complete else "waits", None, None)


def _training_rows(study: Study, orders: Orders) -> Iterator[Row]:
    for recipe in study.distill.recipes:
        for alias in study.distill.teachers:
            made = _ready(lambda: orders.teacher(alias, recipe))  # noqa: B023 - called at once
            if made is None:
                rows = len(orders.train_questions) * study.distill.samples
                tokens = rows * (study.distill.max_thinking_tokens + study.distill.max_answer_tokens)
                yield _row(f"traces {alias} {recipe}", "waits", rows, tokens, _cost(orders.model(alias), tokens))
            else:
                yield _traces_row(orders, made[0])
    if study.distill.judge is not None:
        judge = _ready(orders.teachers_judge)
        named = study.distill.judge
        title = judge.name if judge else f"verdicts {named.model} {named.question} on teachers"
        waits = judge is None or not all(orders.store.has_unit(one.key) for one in judge.predictions)
        state = "waits" if waits else "done" if orders.store.has_unit(judge.key) else "missing"
        yield _row(title, state, None, None)
    for set_name in study.distill.training_sets:
        order = _ready(lambda: orders.training_set(set_name))  # noqa: B023 - called at once
        yield _simple_row(orders, f"training set {set_name}", order.key if order else None)
    for name in orders.student_names():
        student = _ready(lambda: orders.student(*name))  # noqa: B023 - called at once
        yield _simple_row(orders, student_name(*name), student.key if student else None)
    yield from _dev_rows(study, orders)


def _dev_rows(study: Study, orders: Orders) -> Iterator[Row]:
    dev = study.finetune.dev
    if dev is None:
        return
    checks: list[CheckOrder] | None = _ready(orders.checks)
    if checks is not None:
        yield from (_traces_row(orders, check.traces) for check in checks)
        return
    names = orders.student_names()
    bases = {name[: 1 if dev.questions else 2] for name in names if dev.base}
    count = len(dev.questions.load()) if dev.questions else round(study.distill.held_out * len(orders.train_questions))
    rows = (len(names) + len(bases)) * count
    tokens = rows * (dev.max_thinking_tokens + dev.max_answer_tokens)
    yield _row(f"dev answers of {len(names)} students", "waits", rows, tokens)


def _traces_row(orders: Orders, order: TracesOrder) -> Row:
    if orders.store.has_unit(order.key):
        return _row(order.name, "done", 0, 0, _cost(order.model, 0))
    missing = missing_rows(orders.store, order.spec, order.asked)
    rows = missing.total - missing.done
    tokens = missing.thoughts * order.spec.thought.max_thinking_tokens + rows * order.spec.answer.max_answer_tokens
    return _row(order.name, "partly" if missing.done else "missing", rows, tokens, _cost(order.model, tokens))


def _simple_row(orders: Orders, name: str, key: str | None) -> Row:
    if key is None:
        return _row(name, "waits", 1, 0)
    done = orders.store.has_unit(key)
    return _row(name, "done" if done else "missing", 0 if done else 1, 0)


def _row(name: str, state: str, rows: int | None, tokens: int | None, cost: float | None = None) -> Row:
    return {"unit": name, "state": state, "rows": rows, "tokens": tokens, "cost": cost}


def _cost(model: ModelChoice, tokens: int) -> float | None:
    return None if model.prices is None else model.prices.cost(0, 0, tokens)


def _judges(study: Study) -> tuple[str, ...]:
    """The judges of answers, and the one of teachers."""
    return tuple(dict.fromkeys(judge.model for judge in (*study.evaluate.judges, *_teachers_judge(study))))


def _teachers_judge(study: Study) -> tuple[Judge, ...]:
    return () if study.distill.judge is None else (study.distill.judge,)


def _ready(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Waiting:
        return None
