"""From a study's parameters to the work orders of its units, in the order of the study.

Everything here is a pure function of the parameters and of what has landed in the store, so that a flow, a later flow, and
`factscale study plan` come to the same keys. A unit whose input has not landed yet has no key; its maker raises
:class:`Waiting` and says which flow lands it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from flows.parameters import STARTER, Distill, Distillation, Evaluate, Evaluation, Finetune, QuestionSet, Retrieve
from kg.starter import snapshot as starter_snapshot
from models.embedded import default_cache
from models.formats import format_named
from models.prompts import question_prompt, teacher_prompt
from models.registry import load_registry, model_key
from store.home import Home
from store.types import InputError, Question, Recipe, Setting, digest
from tasks.keys import (
    AnswerSpec,
    JudgeSpec,
    PredictionsSpec,
    RetrievalSpec,
    StudentSpec,
    ThoughtSpec,
    TracesSpec,
    TrainingSetSpec,
    set_key,
)
from tasks.paths import NeighbourhoodsOrder, PathsOrder, Source, missing_questions, search_versions
from tasks.questions import Asked, load_questions, prompt_set_key, question_key
from tasks.students import StudentOrder
from tasks.traces import Run, TracesOrder
from tasks.training_sets import TrainingSetOrder, wording
from tasks.verdicts import MATCHER, PARSER, JudgeOrder, PredictionsOrder, judge_name
from tasks.weights import ModelChoice

STUDENT_FORMAT = "blocks"
QUESTIONS_A_TASK_EACH = 500
QUESTIONS_A_BATCH = 100

P = TypeVar("P", bound=Retrieve)
R = TypeVar("R")
Section = Distillation | Evaluation


class Waiting(InputError):
    """A unit's input has not landed yet: the flow named in the message lands it."""


class RunOrder(NamedTuple):
    """One run of the study: its traces, the reading of them, and what the report needs to know."""

    role: str
    setting: Setting
    dataset: str
    traces: TracesOrder
    predictions: PredictionsOrder
    student: str | None

    @property
    def key(self) -> str:
        """Key of the run inside its study."""
        return digest([self.role, self.traces.model.name, self.setting.value, self.dataset])


class Orders:
    """Work orders of one study in one home. ``parameters`` may be those of any flow; see flows/parameters.py."""

    def __init__(self, parameters: Retrieve, home: Home) -> None:
        self.parameters = parameters
        self.home = home
        self.store = home.store
        self.registry = load_registry(parameters.registry_path)
        self._made: dict[tuple[str, ...], Any] = {}

    @cached_property
    def train_questions(self) -> tuple[Question, ...]:
        """The questions that teachers answer."""
        return _questions(self.parameters.train)

    @cached_property
    def source(self) -> Source:
        """Where facts come from."""
        chosen = self.parameters.retrieve
        if chosen.endpoint == STARTER:
            return Source(url=None, snapshot=starter_snapshot())
        return Source(
            url=chosen.endpoint, snapshot=f"{chosen.endpoint}#{chosen.snapshot}", user_agent=chosen.user_agent
        )

    @cached_property
    def retrieval(self) -> RetrievalSpec:
        """How paths are found."""
        chosen = self.parameters.retrieve
        return RetrievalSpec(
            snapshot=self.source.snapshot,
            max_hops=chosen.max_hops,
            cap=chosen.cap,
            max_degree=chosen.max_degree,
            top_paths=chosen.top_paths,
            max_triples=chosen.max_triples,
            **search_versions(),
        )

    def missing_retrievals(self) -> tuple[Question, ...]:
        """Training questions whose paths were not searched yet."""
        return missing_questions(self.store, self.retrieval, self.train_questions)

    def neighbourhoods(self, questions: Sequence[Question]) -> NeighbourhoodsOrder:
        """The one order for all neighbourhoods that ``questions`` need."""
        return NeighbourhoodsOrder(
            name="neighbourhoods", spec=self.retrieval, source=self.source, questions=tuple(questions)
        )

    def paths(self, questions: Sequence[Question]) -> list[PathsOrder]:
        """One order a question up to 500 questions, where a person wants to see each; batches of 100 beyond."""
        size = 1 if len(questions) <= QUESTIONS_A_TASK_EACH else QUESTIONS_A_BATCH
        batches = [tuple(questions[i : i + size]) for i in range(0, len(questions), size)]
        return [
            PathsOrder(
                name=f"paths {batch[0].id}" if len(batch) == 1 else f"paths {batch[0].id} to {batch[-1].id}",
                spec=self.retrieval,
                questions=batch,
            )
            for batch in batches
        ]

    @cached_property
    def graphs(self) -> dict[str, str]:
        """The linearised paths of every training question, by question key. Raises Waiting if some were not searched."""
        if missing := self.missing_retrievals():
            raise Waiting(f"the paths of {len(missing)} training questions have not landed: run `retrieve` first")
        rows = self.store.query(
            "SELECT question_key, graph FROM retrievals WHERE retrieval_key = ?", [self.retrieval.key]
        )
        return {row["question_key"]: row["graph"] for row in rows}

    def teacher(self, alias: str, recipe: Recipe) -> tuple[TracesOrder, PredictionsOrder]:
        """The traces of one teacher and recipe. A question without any path gets no ``fs1`` trace: there is nothing to follow."""
        return self._once(("teacher", alias, recipe), lambda: self._teacher(alias, recipe))

    def _teacher(self, alias: str, recipe: Recipe) -> tuple[TracesOrder, PredictionsOrder]:
        chosen = _as(self.parameters, Distill)
        asked = []
        for question in self.train_questions:
            graph = self.graphs[question_key(question)] if recipe is Recipe.FS1 else None
            if recipe is Recipe.RT or graph:
                asked.append(Asked(question, teacher_prompt(question, recipe, graph, examples=chosen.distill.examples)))
        if not asked:
            raise InputError(
                "no training question has a path: nothing can be asked in recipe fs1; mend train or retrieve"
            )
        entry = self.registry.entry(alias)
        spec = self._traces_spec(
            ModelChoice(entry=entry, format=entry.format),
            asked,
            (chosen.distill.max_thinking_tokens,),
            chosen.distill.max_thinking_tokens,
            chosen.distill,
        )
        name = f"traces {alias} {recipe} {self.parameters.train.dataset}-{self.parameters.train.split}"
        return self._with_predictions(name, spec, ModelChoice(entry=entry, format=entry.format), asked)

    def training_set(self, recipe: Recipe) -> TrainingSetOrder:
        """The training set of one recipe, from all teachers."""
        chosen = _as(self.parameters, Distill)
        pairs = [self.teacher(alias, recipe) for alias in chosen.distill.teachers]
        for _, reading in pairs:
            self._need(reading.key, "distill")
        spec = TrainingSetSpec(
            recipe=recipe,
            traces=tuple(reading.key for _, reading in pairs),
            parser=PARSER,
            matcher=MATCHER,
            wording=wording(),
            max_per_question=chosen.distill.max_traces_per_question,
            held_out=chosen.distill.held_out,
            seed=chosen.seed,
        )
        return TrainingSetOrder(name=f"training set {recipe}", spec=spec, predictions=tuple(r for _, r in pairs))

    def student(self, alias: str, recipe: Recipe) -> StudentOrder:
        """One base trained on one recipe's training set."""
        return self._once(("student", alias, recipe), lambda: self._student(alias, recipe))

    def _student(self, alias: str, recipe: Recipe) -> StudentOrder:
        chosen = _as(self.parameters, Finetune)
        order = self.training_set(recipe)
        self._need(order.key, "distill")
        made = self.store.query("SELECT versions ->> 'training_set' AS hash FROM units WHERE unit_key = ?", [order.key])
        entry = self.registry.entry(alias)
        spec = StudentSpec(
            base_key=model_key(entry, default_cache()),
            training_set=made[0]["hash"],
            hyperparameters=chosen.finetune.hyperparameters,
            format=STUDENT_FORMAT,
        )
        return StudentOrder(name=f"student {alias} {recipe}", spec=spec, recipe=recipe, entry=entry)

    def run(self, role: str, alias: str, setting: Setting, questions: QuestionSet) -> RunOrder:
        """One model, setting and dataset at every budget."""
        chosen = _as(self.parameters, Evaluate)
        student = None
        entry = self.registry.entry(alias)
        if setting in (Setting.RT, Setting.FS1):
            made = self.student(alias, Recipe(setting.value))
            self._need(made.key, "finetune")
            student = made.key
        model = ModelChoice(entry=entry, format=STUDENT_FORMAT if student else entry.format, student=student)
        asked = [Asked(q, question_prompt(q, setting)) for q in _questions(questions)]
        spec = self._traces_spec(
            model,
            asked,
            tuple(budget or 0 for budget in chosen.evaluate.budgets),
            chosen.evaluate.longest,
            chosen.evaluate,
        )
        name = f"answers {alias} {setting} {questions.dataset}-{questions.split}"
        traces, reading = self._with_predictions(name, spec, model, asked)
        return RunOrder(role, setting, questions.dataset, traces, reading, student)

    def run_names(self) -> list[tuple[str, str, Setting, QuestionSet]]:
        """The matrix: every student in every setting, and every baseline as it is, on every dataset."""
        chosen = _as(self.parameters, Evaluate)
        students = [("student", alias, s) for alias in chosen.finetune.students for s in chosen.evaluate.settings]
        baselines = [("baseline", alias, Setting.INSTRUCT) for alias in chosen.evaluate.baselines]
        return [(*model, dataset) for model in (*students, *baselines) for dataset in chosen.evaluate.datasets]

    def judge(self, runs: Sequence[RunOrder]) -> JudgeOrder | None:
        """The one order for the model judge over all runs, so that a large judge is loaded once; None without a judge."""
        chosen = _as(self.parameters, Evaluate).evaluate
        alias, examples = chosen.judge, chosen.judge_examples
        if alias is None:
            return None
        entry = self.registry.entry(alias)
        model = ModelChoice(entry=entry, format=entry.format)
        readings = tuple(run.predictions for run in runs)
        spec = JudgeSpec(
            judge=judge_name(model, model_key(entry, default_cache()), examples),
            predictions=tuple(r.key for r in readings),
        )
        return JudgeOrder(
            name=f"verdicts {alias}",
            spec=spec,
            model=model,
            predictions=readings,
            examples=examples,
            run=self._run(),
        )

    def _traces_spec(
        self, model: ModelChoice, asked: Sequence[Asked], budgets: tuple[int, ...], longest: int, section: Section
    ) -> TracesSpec:
        thought = ThoughtSpec(
            model_key=model_key(model.entry, default_cache()) if model.student is None else f"student:{model.student}",
            format=model.format,
            sampling=section.sampling,
            max_thinking_tokens=longest,
            seed=self.parameters.seed,
        )
        answer = AnswerSpec(
            forced_answer=format_named(model.format).forced_answer, max_answer_tokens=section.max_answer_tokens
        )
        return TracesSpec(
            thought=thought,
            answer=answer,
            prompt_set=prompt_set_key(asked),
            samples=section.samples,
            budgets=budgets,
        )

    def _with_predictions(
        self, name: str, spec: TracesSpec, model: ModelChoice, asked: Sequence[Asked]
    ) -> tuple[TracesOrder, PredictionsOrder]:
        traces = TracesOrder(name=name, spec=spec, model=model, asked=tuple(asked), run=self._run())
        questions = tuple(one.question for one in asked)
        reading = PredictionsSpec(
            traces=spec.key,
            questions=set_key([question_key(question) for question in questions]),
            parser=PARSER,
            matcher=MATCHER,
        )
        order = PredictionsOrder(
            name=f"predictions of {name}",
            spec=reading,
            prompt_set=spec.prompt_set,
            thought_key=spec.thought.key,
            answer_key=spec.answer.key,
            samples=spec.samples,
            questions=questions,
        )
        return traces, order

    def _run(self) -> Run:
        return Run(**_as(self.parameters, Distill).generation.model_dump())

    def _once(self, key: tuple[str, ...], make: Callable[[], R]) -> R:
        # A matrix asks for the same teacher and student many times; what waits for input is not kept.
        if key not in self._made:
            self._made[key] = make()
        made: R = self._made[key]
        return made

    def _need(self, unit_key: str, flow: str) -> None:
        if not self.store.has_unit(unit_key):
            raise Waiting(f"a unit of `{flow}` with these parameters has not landed: run `{flow}` first")


def _questions(chosen: QuestionSet) -> tuple[Question, ...]:
    return load_questions(chosen.dataset, chosen.split, chosen.limit, chosen.path)


def _as(parameters: Retrieve, kind: type[P]) -> P:
    if not isinstance(parameters, kind):
        raise TypeError(f"{type(parameters).__name__} has no parameters of {kind.__name__}")
    return parameters
