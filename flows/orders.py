"""From a study's parameters to the work orders of its units, in the order of the study.

Everything here is a pure function of the parameters and of what has landed in the store, so that a flow, a later flow, and
`factscale study plan` come to the same keys. A unit whose input has not landed yet has no key; its maker raises
:class:`Waiting` and says which flow lands it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from flows.evaluation_parameters import Evaluation
from flows.generation_parameters import Judge, Serving
from flows.parameters import Distill, Evaluate, Finetune, Retrieve
from flows.retrieval_parameters import QuestionSet
from flows.training_parameters import Distillation, Mix, MixPart
from kg.linking import LINKER_VERSION
from kg.similarity import best_similarity
from models.embedded import default_cache
from models.engines.base import Server
from models.example_lengths import reader_key
from models.finetune import ProcessOptions
from models.formats import format_named
from models.prompts import question_prompt, teacher_prompt
from models.registry import EMBEDDED, HOSTED, ModelEntry, load_registry, model_key, tokenizer_key
from store.home import Home
from store.types import InputError, Question, Recipe, Sampling, Setting, digest
from tasks.controls import DRAW_VERSION, ControlOrder
from tasks.examples import wording
from tasks.graphs import Source, snapshot_named
from tasks.keys import (
    AnswerSpec,
    ControlSpec,
    JudgeSpec,
    LinkingSpec,
    PredictionsSpec,
    RetrievalSpec,
    StudentSpec,
    ThoughtSpec,
    TracesSpec,
    TrainingPart,
    TrainingSetSpec,
    set_key,
)
from tasks.links import LinksOrder, mapping_hash, unlinked_questions
from tasks.overlaps import OverlapOrder, overlap_order
from tasks.paths import NeighbourhoodsOrder, PathsOrder, missing_questions, search_versions
from tasks.questions import Asked, prompt_set_key, question_key
from tasks.selection import SELECTION_VERSION
from tasks.student_checks import best_of, checked, held_out_keys
from tasks.students import StudentOrder
from tasks.traces import Run, TracesOrder
from tasks.training_sets import TrainingSetOrder
from tasks.training_statistics import semantic_encoder
from tasks.verdicts import MATCHER, PARSER, JudgeOrder, PredictionsOrder, judge_name
from tasks.weights import ModelChoice

STUDENT_FORMAT = "blocks"
QUESTIONS_A_TASK_EACH = 500  # beyond that a task a batch: tens of thousands of tasks cost more than their work
QUESTIONS_A_BATCH = 100

P = TypeVar("P", bound=Retrieve)
R = TypeVar("R")
Section = Distillation | Evaluation


class Waiting(InputError):
    """A unit's input has not landed yet: the flow named in the message lands it."""


class StudentName(NamedTuple):
    """A student as its study calls it: the base's alias, the training set, the variant of the sweep ("": there is none)."""

    base: str
    training_set: str
    variant: str


class CheckOrder(NamedTuple):
    """A student (None: the base as it is, in setting instruct) on the dev questions of ``dataset``, or on held-out ones.

    ``training_set`` and ``variant`` are what :meth:`Orders.check` was asked for.
    """

    base: str
    student: str | None
    dataset: str
    traces: TracesOrder
    predictions: PredictionsOrder
    training_set: str
    variant: str | None


class RunName(NamedTuple):
    """One run of the matrix, as :meth:`Orders.run` takes it. ``training_set`` None: the model as it is; ``variant`` None:
    the one with the best dev accuracy."""

    role: str
    base: str
    setting: Setting
    questions: QuestionSet
    training_set: str | None = None
    variant: str | None = ""


class RunOrder(NamedTuple):
    """One run of the study: its traces, the reading of them, and what the report needs to know. ``model`` is its label."""

    role: str
    model: str
    base: str
    training_set: str | None
    variant: str
    setting: Setting
    dataset: str
    traces: TracesOrder
    predictions: PredictionsOrder
    student: str | None

    @property
    def key(self) -> str:
        """Key of the run inside its study."""
        return digest([self.role, self.model, self.setting.value, self.dataset])


class Orders:
    """Work orders of one study in one home. ``parameters`` may be those of any flow; see flows/parameters.py."""

    def __init__(self, parameters: Retrieve, home: Home) -> None:
        self.parameters = parameters
        self.home = home
        self.store = home.store
        self.registry = load_registry(parameters.registry_path)
        self._made: dict[tuple[str, ...], Any] = {}

    def questions(self, chosen: QuestionSet) -> tuple[Question, ...]:
        """The questions of a set; errors as of ``QuestionSet.load``."""
        return chosen.load()

    @cached_property
    def train_questions(self) -> tuple[Question, ...]:
        """The questions that teachers answer."""
        return self.questions(self.parameters.train)

    @cached_property
    def searched_questions(self) -> tuple[Question, ...]:
        """The questions whose paths are searched: those that teachers answer, then the sets named for analysis alone."""
        sets = (self.parameters.train, *self.parameters.retrieve.datasets)
        return tuple({question_key(q): q for chosen in sets for q in self.questions(chosen)}.values())

    @cached_property
    def searched_keys(self) -> tuple[str, ...]:
        """Their keys, in their order."""
        return tuple(question_key(question) for question in self.searched_questions)

    @cached_property
    def source(self) -> Source:
        """Where facts come from."""
        chosen = self.parameters.retrieve
        if chosen.is_url:
            graph, url, snapshot = "", chosen.endpoint, f"{chosen.endpoint}#{chosen.snapshot}"
        else:
            graph, url, snapshot = chosen.endpoint, None, self._snapshot(chosen.endpoint)
        return Source(
            graph=graph,
            url=url,
            snapshot=snapshot,
            user_agent=chosen.user_agent,
            in_flight=chosen.in_flight,
            rate=chosen.requests_per_second,
        )

    def _snapshot(self, graph: str) -> str:
        return snapshot_named(graph, self.home)

    def _mids(self, table: Path) -> str:
        return mapping_hash(table)

    @cached_property
    def linking(self) -> LinkingSpec:
        """How entities are found where a dataset does not give them."""
        chosen = self.parameters.retrieve
        labels = ("lookup" if chosen.is_url else "index") if chosen.link_labels == "auto" else chosen.link_labels
        mids = self._mids(Path(chosen.mid_map)) if chosen.mid_map else "endpoint"
        return LinkingSpec(snapshot=self.source.snapshot, mids=mids, labels=labels, linker=LINKER_VERSION)

    @cached_property
    def retrieval(self) -> RetrievalSpec:
        """How paths are found."""
        chosen = self.parameters.retrieve
        return RetrievalSpec(
            snapshot=self.source.snapshot,
            linking=self.linking.key,
            max_hops=chosen.max_hops,
            policy=chosen.policy,
            cap=chosen.cap,
            deep_cap=chosen.deep_cap,
            max_degree=chosen.max_degree,
            joint=chosen.joint,
            qualifiers=chosen.qualifiers,
            top_paths=chosen.top_paths,
            max_triples=chosen.max_triples,
            max_tokens=chosen.max_tokens,
            tokenizer=tokenizer_key(self.registry.entry(chosen.tokenizer)),
            form=chosen.form,
            similarity=best_similarity(chosen.similarity).name,
            **search_versions(),
        )

    def missing_retrievals(self, *, train_only: bool = False) -> tuple[Question, ...]:
        """Questions whose paths were not searched yet."""
        questions = self.train_questions if train_only else self.searched_questions
        return missing_questions(self.store, self.retrieval, questions)

    def links(self, questions: Sequence[Question]) -> LinksOrder | None:
        """The one order for all links that ``questions`` still lack; None where they have them."""
        missing = unlinked_questions(self.store, self.linking, questions)
        mid_map = self.parameters.retrieve.mid_map
        if not missing:
            return None
        return LinksOrder(
            name=f"links of {len(missing)} questions",
            spec=self.linking,
            source=self.source,
            mid_map=Path(mid_map) if mid_map else None,
            questions=missing,
        )

    def neighbourhoods(self, questions: Sequence[Question], name: str = "neighbourhoods") -> NeighbourhoodsOrder:
        """The one order for everything that the paths of ``questions`` need from the endpoint."""
        return NeighbourhoodsOrder(
            name=name,
            spec=self.retrieval,
            linking=self.linking,
            similarity=self.parameters.retrieve.similarity,
            source=self.source,
            questions=tuple(questions),
        )

    def paths(self, questions: Sequence[Question], *, each: bool) -> list[PathsOrder]:
        """One order a question where a person wants to see ``each``, else one a batch."""
        size = 1 if each else QUESTIONS_A_BATCH
        batches = [tuple(questions[i : i + size]) for i in range(0, len(questions), size)]
        return [
            PathsOrder(
                name=f"paths {batch[0].id}" if len(batch) == 1 else f"paths {batch[0].id} to {batch[-1].id}",
                spec=self.retrieval,
                linking=self.linking,
                similarity=self.parameters.retrieve.similarity,
                tokenizer=self.registry.entry(self.parameters.retrieve.tokenizer),
                questions=batch,
            )
            for batch in batches
        ]

    def control(self) -> ControlOrder | None:
        """The wrong-answer control of all searched questions; None where none is asked for."""
        if not self.parameters.retrieve.control:
            return None
        spec = ControlSpec(
            retrieval=self.retrieval.key,
            questions=set_key(list(self.searched_keys)),
            seed=self.parameters.seed,
            draw=DRAW_VERSION,
        )
        return ControlOrder(
            name=f"control of {len(self.searched_questions)} questions",
            spec=spec,
            retrieval=self.retrieval,
            linking=self.linking,
            source=self.source,
            questions=self.searched_questions,
        )

    @cached_property
    def graphs(self) -> dict[str, str]:
        """The linearised paths of every training question, by question key. Raises Waiting if some were not searched."""
        if missing := self.missing_retrievals(train_only=True):
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
        model = self.model(alias)
        longest = chosen.distill.max_thinking_tokens
        thought = self._thought_spec(model, chosen.distill.sampling, longest)
        spec = _traces_spec(thought, model, asked, (0 if model.hosted else longest,), chosen.distill)
        name = f"traces {alias} {recipe} {self.parameters.train.dataset}-{self.parameters.train.split}"
        return self._with_predictions(name, spec, model, asked)

    def readings(self) -> tuple[PredictionsOrder, ...]:
        """The predictions of every teacher in every recipe."""
        chosen = _as(self.parameters, Distill).distill
        return tuple(self.teacher(alias, recipe)[1] for recipe in chosen.recipes for alias in chosen.teachers)

    def teachers_judge(self) -> JudgeOrder | None:
        """The order for the judge's verdicts on all teachers' answers; None where the study names none."""
        judge = _as(self.parameters, Distill).distill.judge
        if judge is None:
            return None
        order = self._judge(judge, self.readings())
        return order.model_copy(update={"name": f"{order.name} on teachers"})

    def recipes_of(self, name: str) -> tuple[Recipe, ...]:
        """The recipes whose traces a training set holds."""
        return tuple(dict.fromkeys(part.recipe for part in self._mix(name).parts))

    def training_set(self, name: str) -> TrainingSetOrder:
        """The training set of a recipe (from all teachers), or of a mix.

        Raises Waiting where its teachers' predictions, or the judge's verdicts on them, have not landed.
        """
        return self._once(("training set", name), lambda: self._training_set(name))

    def _training_set(self, name: str) -> TrainingSetOrder:
        parameters = _as(self.parameters, Distill)
        chosen, mix, judge = parameters.distill, self._mix(name), self.teachers_judge()
        parts = tuple(
            tuple(self.teacher(alias, part.recipe)[1] for alias in part.teachers or chosen.teachers)
            for part in mix.parts
        )
        for key in (*(reading.key for part in parts for reading in part), *([judge.key] if judge else [])):
            self._need(key, "distill")
        recipes, over_all = self.recipes_of(name), mix.max_traces_per_question
        tokenizer = self.registry.entry(parameters.counted_by)
        questions = tuple(question_key(question) for question in self.train_questions)
        spec = TrainingSetSpec(
            parts=tuple(
                TrainingPart(recipe=part.recipe, predictions=tuple(r.key for r in readings), traces=part.traces)
                for part, readings in zip(mix.parts, parts, strict=True)
            ),
            parser=PARSER,
            matcher=MATCHER,
            wording=wording(),
            selection=SELECTION_VERSION,
            accept=chosen.accept,
            judge=judge.spec.judge if judge else None,
            reader=reader_key(tokenizer, STUDENT_FORMAT),
            max_tokens=chosen.max_tokens,
            max_per_question=None if over_all else chosen.max_traces_per_question,
            max_per_question_over_all=over_all,
            held_out=chosen.held_out,
            questions=set_key(list(questions)),
            encoder=semantic_encoder() if chosen.semantic == "auto" else None,
            seed=parameters.seed,
        )
        return TrainingSetOrder(
            name=f"training set {name}",
            set_name=name,
            recipe=recipes[0] if len(recipes) == 1 else None,
            spec=spec,
            parts=parts,
            tokenizer=tokenizer,
            format=STUDENT_FORMAT,
            questions=questions,
            study=parameters.name,
            retrieval=self.retrieval.key if Recipe.FS1 in recipes else None,
        )

    def _mix(self, name: str) -> Mix:
        """What a training set is put together of: a recipe's own has one part. Raises InputError for an unknown name."""
        chosen = _as(self.parameters, Distill).distill
        if name in tuple(chosen.recipes):
            # No mix may be called so, and this one is not checked for it.
            return Mix.model_construct(name=name, parts=(MixPart(recipe=Recipe(name)),), max_traces_per_question=None)
        for mix in chosen.mixes:
            if mix.name == name:
                return mix
        raise InputError(
            f"training set {name!r}: the study makes {', '.join(chosen.training_sets)} (recipes and mixes)"
        )

    def student_names(self) -> list[StudentName]:
        """Every base on every training set in every variant of the sweep."""
        chosen = _as(self.parameters, Finetune)
        return [
            StudentName(alias, name, variant)
            for alias in chosen.finetune.students
            for name in chosen.trained_on
            for variant in chosen.finetune.variants
        ]

    def student(self, alias: str, training_set: str, variant: str) -> StudentOrder:
        """One base trained on one training set in one variant of the sweep."""
        key = ("student", alias, training_set, variant)
        return self._once(key, lambda: self._student(alias, training_set, variant))

    def _student(self, alias: str, training_set: str, variant: str) -> StudentOrder:
        chosen = _as(self.parameters, Finetune)
        order = self.training_set(training_set)
        self._need(order.key, "distill")
        made = self.store.query("SELECT versions ->> 'training_set' AS hash FROM units WHERE unit_key = ?", [order.key])
        entry = self.registry.entry(alias)
        spec = StudentSpec(
            base_key=model_key(entry, default_cache()),
            training_set=made[0]["hash"],
            hyperparameters=chosen.finetune.variants[variant],
            format=STUDENT_FORMAT,
        )
        return StudentOrder(
            name=student_name(alias, training_set, variant),
            spec=spec,
            trained_on=training_set,
            variant=variant,
            entry=entry,
            options=ProcessOptions(**chosen.finetune.run.model_dump()),
        )

    def check(self, alias: str, training_set: str, variant: str | None) -> CheckOrder:
        """One student on its dev questions, or (``variant`` None) its base as it is on the same.

        Raises InputError where they are the held-out questions and the training set has none.
        """
        key = ("check", alias, training_set, variant or "", str(variant is None))
        return self._once(key, lambda: self._check(alias, training_set, variant))

    def _check(self, alias: str, training_set: str, variant: str | None) -> CheckOrder:
        dev = _as(self.parameters, Finetune).finetune.dev
        if dev is None:
            raise InputError("finetune.dev: the study names no dev questions")
        student = None if variant is None else self.student(alias, training_set, variant).key
        questions = self._held_out(training_set) if dev.questions is None else self.questions(dev.questions)
        model = self.model(alias, student)
        asked = [Asked(q, question_prompt(q, Setting.INSTRUCT)) for q in questions]
        spec = TracesSpec(
            thought=self._thought_spec(model, Sampling(), dev.max_thinking_tokens),
            answer=AnswerSpec(
                forced_answer=format_named(model.format).forced_answer, max_answer_tokens=dev.max_answer_tokens
            ),
            prompt_set=prompt_set_key(asked),
            samples=1,
            budgets=(dev.max_thinking_tokens,),
        )
        who = f"{alias} instruct" if variant is None else student_name(alias, training_set, variant)
        where = (
            f"{training_set} held out" if dev.questions is None else f"{dev.questions.dataset}-{dev.questions.split}"
        )
        traces, reading = self._with_predictions(f"dev answers of {who} on {where}", spec, model, asked)
        dataset = "held out" if dev.questions is None else dev.questions.dataset
        return CheckOrder(alias, student, dataset, traces, reading, training_set, variant)

    def _held_out(self, training_set: str) -> tuple[Question, ...]:
        order = self.training_set(training_set)
        self._need(order.key, "distill")
        made = self.store.query("SELECT versions ->> 'training_set' AS hash FROM units WHERE unit_key = ?", [order.key])
        keys = held_out_keys(self.store, made[0]["hash"])
        if not keys:
            raise InputError(
                f"finetune.dev: training set {training_set} has no held-out questions (it needs 4 or more): raise "
                "distill.held_out or train.limit, or name dev.questions"
            )
        return tuple(question for question in self.train_questions if question_key(question) in keys)

    def checks(self) -> list[CheckOrder]:
        """All checks on dev questions, each once; the bases as they are come first. Empty where none are asked for."""
        dev = _as(self.parameters, Finetune).finetune.dev
        if dev is None:
            return []
        names = self.student_names()
        bases = [self.check(name.base, name.training_set, None) for name in names if dev.base]
        found: dict[str, CheckOrder] = {}
        for check in [*bases, *(self.check(*name) for name in names)]:
            found.setdefault(check.predictions.key, check)  # training sets of a study can hold out the same questions
        return list(found.values())

    def best(self, alias: str, training_set: str) -> str:
        """The variant with the highest dev accuracy (then the lowest held-out loss, then the first). Raises Waiting if a
        student has not been asked its dev questions."""
        return self._once(("best", alias, training_set), lambda: self._best(alias, training_set))

    def _best(self, alias: str, training_set: str) -> str:
        variants = list(_as(self.parameters, Finetune).finetune.variants)
        keys = [self.check(alias, training_set, variant).predictions.key for variant in variants]
        for key in keys:
            self._need(key, "finetune")
        rows = checked(self.store, keys)
        if len(rows) < len(keys):
            raise Waiting(f"dev results of {alias} on {training_set} have not landed: run `finetune` first")
        return variants[best_of([rows[key] for key in keys])]

    def label(self, name: RunName) -> str:
        """What tables call a run's model: the alias, with the mix and the variant where it has several students."""
        chosen = _as(self.parameters, Evaluate).finetune
        parts = [name.base]
        if name.setting is Setting.MIX:
            parts.append(str(name.training_set))
        if name.variant and len(chosen.variants) > 1:
            parts.append(name.variant)
        return "/".join(parts)

    def run_title(self, name: RunName) -> str:
        """The name of a run's unit of traces."""
        return f"answers {self.label(name)} {name.setting} {name.questions.dataset}-{name.questions.split}"

    def run(
        self,
        role: str,
        alias: str,
        setting: Setting,
        questions: QuestionSet,
        training_set: str | None = None,
        variant: str | None = "",
    ) -> RunOrder:
        """One model, setting and dataset at every budget; see :class:`RunName`."""
        chosen = _as(self.parameters, Evaluate)
        title = RunName(role, alias, setting, questions, training_set, variant)
        student = None
        if training_set is not None:
            variant = self.best(alias, training_set) if variant is None else variant
            made = self.student(alias, training_set, variant)
            self._need(made.key, "finetune")
            student = made.key
        model = self.model(alias, student)
        asked = self._asked(questions, setting)
        wanted = chosen.evaluate
        sampling = wanted.sampling_of(model.format)
        if model.hosted:  # its thinking is out of our hands: it can be neither cut nor extended
            budgets: tuple[int, ...] = (0,)
            thought = self._thought_spec(model, sampling, wanted.max_thinking_tokens)
        else:
            budgets = tuple(budget or 0 for budget in wanted.budgets)
            thought = self._thought_spec(
                model, sampling, wanted.longest, extension=wanted.extension, extended_to=wanted.extended_to
            )
        spec = _traces_spec(thought, model, asked, budgets, wanted)
        traces, reading = self._with_predictions(self.run_title(title), spec, model, asked)
        return RunOrder(
            role=role,
            model=self.label(title),
            base=alias,
            training_set=training_set,
            variant=variant or "",
            setting=setting,
            dataset=questions.dataset,
            traces=traces,
            predictions=reading,
            student=student,
        )

    def _asked(self, questions: QuestionSet, setting: Setting) -> list[Asked]:
        """The prompts of a setting, which all models share: tens of thousands of them are made once, not for each run."""
        key = ("asked", questions.model_dump_json(), setting.value)
        return self._once(key, lambda: [Asked(q, question_prompt(q, setting)) for q in self.questions(questions)])

    def run_names(self) -> list[RunName]:
        """The matrix: every base in every setting, that is, untrained or each of its students; every baseline as it is; on
        every dataset."""
        chosen = _as(self.parameters, Evaluate)
        asked: list[tuple[str, str, Setting, str | None, str | None]] = []
        for alias in chosen.finetune.students:
            for setting in chosen.evaluate.settings:
                if not setting.trained:
                    asked.append(("student", alias, setting, None, ""))
                for name in self.sets_of(setting):
                    asked += [("student", alias, setting, name, variant) for variant in self._evaluated()]
        asked += [("baseline", alias, Setting.INSTRUCT, None, "") for alias in chosen.evaluate.baselines]
        return [
            RunName(role, alias, setting, questions, name, variant)
            for role, alias, setting, name, variant in asked
            for questions in chosen.evaluate.datasets
        ]

    def sets_of(self, setting: Setting) -> tuple[str, ...]:
        """The training sets whose students are asked in a setting: a recipe's own, or every mix; none for untrained models."""
        if setting is not Setting.MIX:
            return (setting.value,) if setting.trained else ()
        return tuple(name for name in _as(self.parameters, Finetune).trained_on if name not in tuple(Recipe))

    def _evaluated(self) -> tuple[str | None, ...]:
        tuning = _as(self.parameters, Finetune).finetune
        return (None,) if tuning.select == "best" else tuple(tuning.variants)

    def judges(self, runs: Sequence[RunOrder]) -> tuple[JudgeOrder, ...]:
        """One order for each model judge over all runs, so that a large judge is loaded once."""
        chosen = _as(self.parameters, Evaluate).evaluate
        return tuple(self._judge(judge, tuple(run.predictions for run in runs)) for judge in chosen.judges)

    def _judge(self, judge: Judge, readings: tuple[PredictionsOrder, ...]) -> JudgeOrder:
        model = self.model(judge.model)
        name = judge_name(model, model_key(model.entry, default_cache()), judge.question, judge.examples)
        return JudgeOrder(
            name=f"verdicts {judge.model} {judge.question}",
            spec=JudgeSpec(judge=name, predictions=tuple(reading.key for reading in readings)),
            model=model,
            question=judge.question,
            predictions=readings,
            examples=judge.examples,
            retries=judge.retries,
            run=self._run(),
        )

    def overlaps(self) -> tuple[OverlapOrder, ...]:
        """One order a dataset: its questions beside those that students are trained on, and the teachers' prompts.

        None where the study trains no student. Raises Waiting if the teachers' prompts are not known yet.
        """
        chosen = _as(self.parameters, Evaluate)
        names = [name for setting in chosen.evaluate.settings for name in self.sets_of(setting)]
        taught = {recipe for name in names for recipe in self.recipes_of(name)}
        recipes = [recipe for recipe in chosen.distill.recipes if recipe in taught]
        teachers = [self.teacher(alias, recipe)[0] for recipe in recipes for alias in chosen.distill.teachers]
        if not teachers:
            return ()
        return tuple(
            overlap_order(
                f"overlap of {questions.dataset}-{questions.split} with training",
                self.train_questions,
                self.questions(questions),
                [traces.spec.prompt_set for traces in teachers],
                chosen.evaluate.overlap,
            )
            for questions in chosen.evaluate.datasets
        )

    def model(self, alias: str, student: str | None = None) -> ModelChoice:
        """The model called ``alias`` as it is (on the server that the study names for it), or a student trained on it."""
        entry = self.registry.entry(alias)
        if student is not None:
            return ModelChoice(entry=entry, format=STUDENT_FORMAT, student=student)
        servings = _as(self.parameters, Distill).generation.servers
        server = next((_server(serving, entry) for serving in servings if serving.model == alias), entry.server)
        return ModelChoice(entry=entry, format=entry.format, server=server)

    def _thought_spec(self, model: ModelChoice, sampling: Sampling, longest: int, **extended: Any) -> ThoughtSpec:
        return ThoughtSpec(
            model_key=model_key(model.entry, default_cache()) if model.student is None else f"student:{model.student}",
            format=model.format,
            sampling=sampling,
            max_thinking_tokens=longest,
            seed=self.parameters.seed,
            **extended,
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
            budgets=spec.budgets,
            questions=questions,
        )
        return traces, order

    def _run(self) -> Run:
        return Run(**_as(self.parameters, Distill).generation.model_dump(exclude={"servers"}))

    def _once(self, key: tuple[str, ...], make: Callable[[], R]) -> R:
        # A matrix asks for the same teacher and student many times; what waits for input is not kept.
        if key not in self._made:
            self._made[key] = make()
        made: R = self._made[key]
        return made

    def _need(self, unit_key: str, flow: str) -> None:
        if not self.store.has_unit(unit_key):
            raise Waiting(f"a unit of `{flow}` with these parameters has not landed: run `{flow}` first")


def student_name(alias: str, training_set: str, variant: str) -> str:
    """What people call a student."""
    return " ".join(["student", alias, training_set, *([variant] if variant else [])])


def _traces_spec(
    thought: ThoughtSpec, model: ModelChoice, asked: Sequence[Asked], budgets: tuple[int, ...], section: Section
) -> TracesSpec:
    forced = format_named(model.format).forced_answer
    return TracesSpec(
        thought=thought,
        answer=AnswerSpec(forced_answer=forced, max_answer_tokens=section.max_answer_tokens),
        prompt_set=prompt_set_key(asked),
        samples=section.samples,
        budgets=budgets,
    )


def _server(serving: Serving, entry: ModelEntry) -> Server:
    """Where the study says that a model is served. Raises InputError for one that is behind an API already."""
    if entry.source == HOSTED:
        raise InputError(f"generation.servers: model {entry.alias!r} is behind an API of its own; leave it out")
    return Server(
        url=serving.url,
        model=serving.served_as or (entry.alias if entry.folder or entry.source == EMBEDDED else entry.source),
        key_variable=serving.key_variable,
        in_flight=serving.in_flight,
    )


def _as(parameters: Retrieve, kind: type[P]) -> P:
    if not isinstance(parameters, kind):
        raise TypeError(f"{type(parameters).__name__} has no parameters of {kind.__name__}")
    return parameters
