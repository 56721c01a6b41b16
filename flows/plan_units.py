"""The units of a study one by one: which are there, and what those that are not will take at most and by what is known.

A unit whose input has not landed yet has no key, so what of it is missing cannot be known; it is counted whole ("waits").
``tokens`` are an upper bound: every missing thought at its full length, every missing answer at its full room. ``expected`` are
the same rows at the mean lengths of this kind of thought in the store, else of all that the store has of this model; None where
it has nothing. Tokens of prompts are counted by their characters, four a token: once for all samples of a question where a
model is run by us, which keeps them, and once a request behind an API, which bills each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from flows.generation_parameters import Judge
from flows.orders import STUDENT_FORMAT, CheckOrder, Orders, RunName, RunOrder, Waiting, student_name
from flows.parameters import Study
from flows.retrieval_parameters import QuestionSet
from models.embedded import default_cache
from models.finetune import Hyperparameters
from models.prompts import judge_again, judge_prompt
from models.registry import model_key
from store.rates import Length, Lengths, distinct_predictions, known_lengths, training_means
from store.types import Message, Question
from tasks.traces import TracesOrder, missing_rows
from tasks.verdicts import REPLY_TOKENS, JudgeOrder, judge_name
from tasks.weights import ModelChoice

State = Literal["done", "missing", "partly", "waits"]
Work = Literal["paths", "teacher", "judge", "training set", "train", "dev", "answers", "overlap"]
STAGES: dict[str, tuple[Work, ...]] = {
    "retrieve": ("paths",),
    "distill": ("teacher", "judge", "training set"),
    "finetune": ("train", "dev"),
    "evaluate": ("answers", "overlap", "judge"),
    "report": (),
}
CHARACTERS_A_TOKEN = 4
_LEAST = 20  # thoughts of a kind before its own mean is preferred to that of the model
_UNKNOWN_PROMPT = 300  # tokens of a prompt that is not known yet: a question, its paths, the instruction


class Planned(NamedTuple):
    """One unit. ``tokens`` are generated at most (training: read at most), ``expected`` by what is known (None: nothing is),
    ``prompt`` those of prompts, about; ``cost`` US dollars at most by the registry (None: no price). ``hyper`` is of trainings,
    ``judge`` the judge's name in rates."""

    unit: str
    work: Work
    stage: str
    state: State
    rows: int | None = None
    tokens: int = 0
    expected: int | None = None
    prompt: int = 0
    cost: float | None = None
    model: ModelChoice | None = None
    hyper: Hyperparameters | None = None
    judge: str | None = None

    @property
    def away(self) -> bool:
        """Whether a server does it: no GPU of ours is needed. Training is always ours."""
        return self.work != "train" and self.model is not None and self.model.asked_at is not None


class Planner:
    """Reads what a plan stands on once; :meth:`units` are those of a study, or of one stage of it."""

    def __init__(self, study: Study, orders: Orders) -> None:
        self._study, self._orders = study, orders
        self._lengths: Lengths = known_lengths(orders.store)
        self._trains = study.evaluate.asks_students

    def units(self, only: str | None = None) -> Iterator[Planned]:
        """Retrieval is one unit here. Raises what the orders raise."""
        if only == "retrieve" or (only is None and self._trains):
            yield self._paths()
        if only == "distill" or (only is None and self._trains):
            yield from self._distill()
        if only == "finetune" or (only is None and self._trains):
            yield from self._finetune()
        if only in (None, "evaluate"):
            yield from self._evaluate()

    def _paths(self) -> Planned:
        missing, total = len(self._orders.missing_retrievals()), len(self._orders.searched_questions)
        state: State = "done" if not missing else "missing" if missing == total else "partly"
        return Planned(f"paths of {total} questions", "paths", "retrieve", state, missing)

    def _distill(self) -> Iterator[Planned]:
        study, orders = self._study, self._orders
        for recipe in study.distill.recipes:
            for alias in study.distill.teachers:
                made = ready(lambda: orders.teacher(alias, recipe))  # noqa: B023 - called at once
                if made is not None:
                    yield self._traces(made[0], "teacher", "distill")
                    continue
                rows = len(orders.train_questions) * study.distill.samples
                room = study.distill.max_thinking_tokens, study.distill.max_answer_tokens
                questions = len(orders.train_questions)
                yield self._waiting(
                    f"traces {alias} {recipe}", "teacher", "distill", orders.model(alias), rows, rows, *room, questions
                )
        yield from self._teachers_judge()
        for name in study.distill.training_sets:
            order = ready(lambda: orders.training_set(name))  # noqa: B023 - called at once
            yield self._simple(f"training set {name}", "training set", "distill", order.key if order else None)

    def _teachers_judge(self) -> Iterator[Planned]:
        study, orders, named = self._study, self._orders, self._study.distill.judge
        if named is None:
            return
        judge = ready(orders.teachers_judge)
        title = judge.name if judge else f"verdicts {named.model} {named.question} on teachers"
        known = judge is not None and all(orders.store.has_unit(one.key) for one in judge.predictions)
        each = study.distill.samples * len(study.distill.recipes) * len(study.distill.teachers)
        asked = {study.train: each}
        yield self._judged(title, "distill", judge if known else None, named, asked, study.distill.max_answer_tokens)

    def _finetune(self) -> Iterator[Planned]:
        study, orders = self._study, self._orders
        means = training_means(orders.store)
        for name in orders.student_names():
            student = ready(lambda: orders.student(*name))  # noqa: B023 - called at once
            done = student is not None and orders.store.has_unit(student.key)
            state: State = "waits" if student is None else "done" if done else "missing"
            hyper = study.finetune.variants[name.variant]
            examples, longest = self._examples(name.training_set, hyper)
            kept, mean = means.kept, means.example_tokens
            expected = None if mean is None else round(examples * (kept or 1.0) * min(mean, longest) * hyper.epochs)
            yield Planned(
                student_name(*name), "train", "finetune", state, 0 if done else 1,
                0 if done else round(examples * longest * hyper.epochs), 0 if done else expected,
                model=orders.model(name.base), hyper=hyper,
            )  # fmt: skip
        yield from self._dev()

    def _examples(self, training_set: str, hyper: Hyperparameters) -> tuple[float, int]:
        """The most examples that a training set can have, and their greatest length."""
        study = self._study
        recipes = self._orders.recipes_of(training_set)
        asked = len(self._orders.train_questions) * (1 - study.distill.held_out)
        each = min(study.distill.max_traces_per_question, study.distill.samples * len(study.distill.teachers))
        room = study.distill.max_thinking_tokens + study.distill.max_answer_tokens + _UNKNOWN_PROMPT
        return asked * each * len(recipes), min(hyper.max_length, study.distill.max_tokens or hyper.max_length, room)

    def _dev(self) -> Iterator[Planned]:
        study, orders, dev = self._study, self._orders, self._study.finetune.dev
        if dev is None:
            return
        checks: list[CheckOrder] | None = ready(orders.checks)
        if checks is not None:
            yield from (
                self._traces(check.traces, "dev", "finetune", student=check.student is not None) for check in checks
            )
            return
        names = orders.student_names()
        for alias in study.finetune.students:
            mine = [name for name in names if name.base == alias]
            bases = {name[: 1 if dev.questions else 2] for name in mine if dev.base}
            count = (
                self._count(dev.questions)
                if dev.questions
                else round(study.distill.held_out * len(orders.train_questions))
            )
            room = dev.max_thinking_tokens, dev.max_answer_tokens
            for title, asked, student in (
                (f"dev answers of {alias}", len(bases), False),
                (f"dev answers of {len(mine)} students of {alias}", len(mine), True),
            ):
                if rows := asked * count:
                    model = orders.model(alias)
                    yield self._waiting(title, "dev", "finetune", model, rows, rows, *room, rows, student=student)

    def _evaluate(self) -> Iterator[Planned]:
        study, orders = self._study, self._orders
        names, runs = orders.run_names(), list[RunOrder]()
        for name in names:
            run = ready(lambda: orders.run(*name))  # noqa: B023 - called at once
            if run is None:
                yield self._waiting_run(name)
            else:
                runs.append(run)
                yield self._traces(run.traces, "answers", "evaluate", student=run.student is not None)
        if self._trains:
            made = ready(orders.overlaps)
            for place, questions in enumerate(study.evaluate.datasets):
                title = f"overlap of {questions.dataset}-{questions.split} with training"
                yield self._simple(title, "overlap", "evaluate", made[place].key if made else None)
        asked = Counter[QuestionSet]()
        for name in names:
            budgets = 1 if orders.model(name.base).hosted else len(study.evaluate.budgets)
            asked[name.questions] += study.evaluate.samples * budgets
        for judge, named in zip(orders.judges(runs), study.evaluate.judges, strict=True):
            known = judge if len(runs) == len(names) else None
            yield self._judged(judge.name, "evaluate", known, named, asked, study.evaluate.max_answer_tokens)

    def _waiting_run(self, name: RunName) -> Planned:
        wanted, model = self._study.evaluate, self._orders.model(name.base)
        thoughts = self._count(name.questions) * wanted.samples
        rows, title = thoughts * len(wanted.budgets), self._orders.run_title(name)
        room = wanted.longest, wanted.max_answer_tokens
        questions, student = self._count(name.questions), name.setting.trained
        return self._waiting(title, "answers", "evaluate", model, thoughts, rows, *room, questions, student=student)

    def _traces(self, order: TracesOrder, work: Work, stage: str, *, student: bool = False) -> Planned:
        model = _as_asked(order.model, student)
        if self._orders.store.has_unit(order.key):
            return Planned(order.name, work, stage, "done", 0, 0, 0, 0, _cost(model, 0, 0), model)
        spec, known = order.spec, self._lengths.by_thought.get(order.spec.thought.key)
        if known is None:  # nothing of this kind has landed, which is known without a million keys
            thoughts, rows = len(order.asked) * spec.samples, len(order.asked) * spec.samples * len(spec.budgets)
            part, asked = False, len(order.asked) * spec.samples
        else:
            found = missing_rows(self._orders.store, spec, order.asked)
            thoughts, rows, part = found.thoughts, found.total - found.done, found.done > 0
            asked = len(found.jobs)
        prompt = round(_prompt_tokens(order) * asked / (len(order.asked) * (1 if model.hosted else spec.samples)))
        tokens = thoughts * spec.thought.max_thinking_tokens + rows * spec.answer.max_answer_tokens
        expected = self._expected(
            known, model, thoughts, rows, spec.thought.max_thinking_tokens, spec.answer.max_answer_tokens
        )
        state: State = "partly" if part else "missing"
        return Planned(
            order.name, work, stage, state, rows, tokens, expected, prompt, _cost(model, prompt, tokens), model
        )

    def _waiting(
        self, unit: str, work: Work, stage: str, model: ModelChoice, thoughts: int, rows: int, thinking: int, answer: int,
        questions: int, *, student: bool = False,
    ) -> Planned:  # fmt: skip
        model = _as_asked(model, student)
        tokens = thoughts * thinking + rows * answer
        known = self._lengths.by_model.get(model.name)
        prompt = round((thoughts if model.hosted else questions) * (known.prompt if known else _UNKNOWN_PROMPT))
        expected = self._expected(None, model, thoughts, rows, thinking, answer)
        return Planned(unit, work, stage, "waits", rows, tokens, expected, prompt, _cost(model, prompt, tokens), model)

    def _expected(
        self, own: Length | None, model: ModelChoice, thoughts: int, rows: int, thinking: int, answer: int
    ) -> int | None:
        known = own if own is not None and own.n >= _LEAST else self._lengths.by_model.get(model.name)
        if known is None:
            return None
        return round(thoughts * min(known.thinking, thinking) + rows * min(known.answer, answer))

    def _judged(
        self,
        unit: str,
        stage: str,
        order: JudgeOrder | None,
        judge: Judge,
        asked: Mapping[QuestionSet, int],
        room: int,
    ) -> Planned:
        """The verdicts of a judge on ``asked``: sets of questions, and how many traces there are of each question.

        At most every trace gives a prediction of its own, of ``room`` tokens, and every reply is invalid until no retry is left.
        """
        model, store = self._orders.model(judge.model), self._orders.store
        name = judge_name(model, key_of_base(model), judge.question, judge.examples)
        if order is not None and store.has_unit(order.key):
            return Planned(unit, "judge", stage, "done", 0, 0, 0, 0, _cost(model, 0, 0), model, judge=name)
        traces, tries = sum(self._count(questions) * each for questions, each in asked.items()), 1 + judge.retries
        likely = None if (share := distinct_predictions(store)) is None else round(traces * share)
        tokens = traces * tries * REPLY_TOKENS
        first = judge_prompt(("a gold answer",), "a prediction", judge.question, examples=judge.examples)
        again = _tokens(judge_again(first, "reply" * REPLY_TOKENS, judge.question)) - _tokens(first)
        prompt = (traces if likely is None else likely) * _tokens(first)
        cost = None
        if model.prices is not None:
            shown = sum(
                _gold_tokens(judge, self._orders.questions(questions)) * each for questions, each in asked.items()
            )
            cost = _cost(model, (shown + traces * room) * tries + traces * again * judge.retries, tokens)
        expected = None if likely is None else likely * REPLY_TOKENS
        state: State = "waits" if order is None else "missing"
        return Planned(unit, "judge", stage, state, traces, tokens, expected, prompt, cost, model, judge=name)

    def _count(self, questions: QuestionSet) -> int:
        return len(self._orders.questions(questions))

    def _simple(self, unit: str, work: Work, stage: str, key: str | None) -> Planned:
        if key is None:
            return Planned(unit, work, stage, "waits", 1)
        done = self._orders.store.has_unit(key)
        return Planned(unit, work, stage, "done" if done else "missing", 0 if done else 1)


def ready(make: Callable[[], Any]) -> Any:
    """What ``make`` gives; None where its input has not landed."""
    try:
        return make()
    except Waiting:
        return None


def key_of_base(model: ModelChoice) -> str:
    """What a model's speed is known by."""
    return model_key(model.entry, default_cache())


def _prompt_tokens(order: TracesOrder) -> int:
    return _tokens(message for one in order.asked for message in one.prompt.messages)


def _gold_tokens(judge: Judge, questions: Iterable[Question]) -> int:
    """What a judge is shown of all questions, without the predictions."""
    gold = ([form for answer in one.answers for form in answer.forms] for one in questions)
    return sum(_tokens(judge_prompt(forms, "", judge.question, examples=judge.examples)) for forms in gold)


def _tokens(messages: Iterable[Message]) -> int:
    return sum(len(message.content) for message in messages) // CHARACTERS_A_TOKEN


def _cost(model: ModelChoice, prompt: int, tokens: int) -> float | None:
    return None if model.prices is None else model.prices.cost(prompt, 0, tokens)


def _as_asked(model: ModelChoice, student: bool) -> ModelChoice:
    """A student that has no key yet: it costs nothing by the token, and no server runs it."""
    waiting = student and model.student is None
    return model.model_copy(update={"student": "waits", "format": STUDENT_FORMAT, "server": None}) if waiting else model
