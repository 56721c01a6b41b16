"""The parameters of every flow, as frozen models: a study's YAML and Prefect's run form are the same thing.

Each flow takes what it needs and what the flows before it needed, so that it can find their units by their keys:
``Retrieve`` < ``Distill`` < ``Finetune`` < ``Evaluate`` < ``Study``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from eval.benchmarks import LOADERS, Columns, Custom
from eval.benchmarks.registry import HUB_ID, check_pinned
from eval.overlap import OverlapOptions
from models.budgets import Extension
from models.engines.base import KEY_VARIABLE, plain_url
from models.finetune import ADAPTER_FIELDS, Hyperparameters, Method, Precision, Scheduler, Tracker
from models.formats import format_named
from store.types import STUDY_SETTINGS, Frozen, InputError, JudgeQuestion, Question, Recipe, Sampling, Setting, Split
from tasks.questions import load_questions
from tasks.traces import Run

STARTER = "starter"
NAME = r"^[a-z0-9][a-z0-9._-]*$"
"""What people call a mix or a variant: it stands in names of runs, files and artifacts."""
_GRAPH_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
REPOSITORY = Path(__file__).resolve().parent.parent
STUDIES = REPOSITORY / "deployments" / "studies"
DEFAULT_REGISTRY = REPOSITORY / "deployments" / "models.yaml"


def _increasing(budgets: tuple[int | None, ...]) -> tuple[int | None, ...]:
    finite = [b for b in budgets if b is not None]
    for budget in finite:
        if budget < 1:
            raise ValueError(f"budget {budget} gives no room to think: use 1 or more tokens, or null for no limit")
    if finite != sorted(set(finite)) or None in budgets[:-1]:
        raise ValueError(f"budgets {list(budgets)} must rise without repeats; null (no limit) comes last")
    return budgets


Budgets = Annotated[tuple[int | None, ...], Field(min_length=1), AfterValidator(_increasing)]
Alias = Annotated[str, Field(min_length=1, description="A model of the registry (deployments/models.yaml)")]


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values as they are. Raises ValueError that names those that are there more than once."""
    repeated = sorted({str(v) for v in values if values.count(v) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} is named more than once")
    return values


class QuestionSet(Frozen):
    """The first ``limit`` questions of one split of a dataset."""

    dataset: str = Field(
        default=STARTER,
        min_length=1,
        description="A benchmark's name (`factscale data ls`), `jsonl` with a path, or a name of your own with hub or columns",
    )
    split: Split = Field(default="test", description="train for the questions of teachers, test for evaluation")
    limit: int | None = Field(default=None, ge=1, description="The first so many questions; empty for all")
    path: str | None = Field(
        default=None,
        description="The file of the dataset, or a folder; empty: the starter set, or what `data get` fetched",
    )
    hub: str | None = Field(default=None, pattern=HUB_ID, description="A hub dataset, owner/name; with a revision")
    revision: str | None = Field(default=None, description="Its commit: 40 hex digits")
    config: str | None = Field(default=None, min_length=1, description="Its configuration, where it has several")
    hub_split: str | None = Field(
        default=None, min_length=1, description="Its own name of the split; empty: the one that means the same"
    )
    columns: Columns | None = Field(
        default=None, description="Which columns hold what, for a hub dataset or a file that is in no known form"
    )

    @model_validator(mode="after")
    def _where_it_comes_from(self) -> QuestionSet:
        if self.dataset in LOADERS:
            for field in ("hub", "revision", "config", "hub_split", "columns"):
                if getattr(self, field) is not None:
                    raise ValueError(
                        f"{field}: dataset {self.dataset!r} has a form of its own; give your set another name"
                    )
            return self
        if self.hub is not None:
            check_pinned(self.hub, self.revision)
            if self.path is not None:
                raise ValueError("hub and path: a set comes from one of them; leave one out")
        elif self.revision is not None:
            raise ValueError("revision: only a hub dataset has one; name it in hub, or leave revision out")
        elif self.path is None and (self.columns or self.config or self.hub_split):
            raise ValueError(f"dataset {self.dataset!r}: say where it comes from, in hub or path")
        return self

    @property
    def custom(self) -> Custom | None:
        """How a set of your own is read; None where the dataset has a loader."""
        if not (self.hub or self.columns or self.config or self.hub_split):
            return None
        return Custom(self.hub, self.revision, self.config, self.hub_split, self.columns or Columns())

    def load(self) -> tuple[Question, ...]:
        """Its questions. Raises InputError for what is wrong with it, RunError where the hub cannot be reached."""
        return load_questions(self.dataset, self.split, self.limit, self.path, self.custom)


class Retrieval(Frozen):
    """How knowledge-graph paths are found."""

    endpoint: str = Field(
        default=STARTER,
        min_length=1,
        description="`starter` for the facts that come with factscale, the name of a graph that `factscale kg load` "
        "loaded, or the URL of a SPARQL endpoint",
    )
    snapshot: str | None = Field(
        default=None, description="A name for the endpoint's content (a date, a dump); compulsory for a URL"
    )
    user_agent: str | None = Field(
        default=None, description="Who asks, with an e-mail or URL; public endpoints want it"
    )
    in_flight: int | None = Field(
        default=None, ge=1, le=64, description="Requests at a time; empty: 2 at a public host, 4 at one of this machine"
    )
    requests_per_second: float | None = Field(
        default=None, gt=0, description="Empty: 2 at a public host, any number at one of this machine"
    )
    datasets: tuple[QuestionSet, ...] = Field(
        default=(),
        description="Further question sets to search, for analysis by hops; their paths are never shown to a model",
    )
    mid_map: str | None = Field(
        default=None, description="A TSV file (mid, qid) for Freebase ids; empty: the endpoint is asked (P646)"
    )
    link_labels: Literal["auto", "index", "lookup", "off"] = Field(
        default="auto",
        description="Links by name where a dataset gives none. index: all names of the graph (local graphs); lookup: a "
        "question's own words (any endpoint); auto: index for local graphs, lookup for URLs",
    )
    max_hops: int = Field(default=3, ge=1, le=4, description="Triples of a path at most")
    policy: Literal["minimal", "all"] = Field(
        default="minimal",
        description="minimal: the shortest paths of a pair (fs1); all: of every length up to max_hops",
    )
    joint: bool = Field(default=True, description="Add paths that use several entities of the question")
    cap: int = Field(default=500, ge=1, description="In-edges fetched for an entity at most; a cut is recorded")
    deep_cap: int = Field(
        default=20_000, ge=1, description="The cap for a cut entity of a pair that would otherwise have no path"
    )
    max_degree: int = Field(
        default=500, ge=1, description="Paths through nodes with more edges are dropped where a pair has others"
    )
    similarity: Literal["lexical", "embedding", "mixed", "auto"] = Field(
        default="auto",
        description="How relations are compared with the question: by words, by a small sentence encoder (one more "
        "package), or by both; auto: both where the encoder is installed",
    )
    qualifiers: bool = Field(
        default=True, description="Fetch start, end and point in time, precision and unit of kept facts"
    )
    form: Literal["fs1", "verbalised"] = Field(
        default="fs1", description="fs1: one `subject, relation, object` a line; verbalised: one sentence a line"
    )
    top_paths: int = Field(default=5, ge=1, description="Best-ranked paths of a question that a teacher sees")
    max_triples: int = Field(default=12, ge=1, description="Distinct triples that a teacher sees at most")
    max_tokens: int | None = Field(
        default=None, ge=8, description="Tokens of the linearised paths at most; the lowest-ranked paths are left out"
    )
    tokenizer: Alias = Field(default="smollm2-135m", description="The model whose tokenizer counts, usually a student")
    control: bool = Field(
        default=True, description="Search for a wrong answer of each question too: what coverage is worth"
    )

    @model_validator(mode="after")
    def _a_url_has_a_snapshot(self) -> Retrieval:
        if self.is_url and not self.snapshot:
            raise ValueError(f"endpoint {self.endpoint}: name its content in `snapshot`, for example the dump's date")
        if not self.is_url and not _GRAPH_NAME.fullmatch(self.endpoint):
            raise ValueError(f"endpoint {self.endpoint!r} is neither a loaded graph's name nor an http(s) URL")
        if not self.is_url and self.snapshot:
            raise ValueError(
                "snapshot names the content of a URL; a loaded graph is known by its content: leave it out"
            )
        if self.max_degree > self.cap:
            raise ValueError(f"max_degree {self.max_degree} is above cap {self.cap}, up to which degrees are counted")
        if self.deep_cap < self.cap:
            raise ValueError(f"deep_cap {self.deep_cap} is below cap {self.cap}: raise it")
        return self

    @property
    def is_url(self) -> bool:
        """Whether the endpoint is somebody else's server."""
        return self.endpoint.startswith(("http://", "https://"))


class Serving(Frozen):
    """A server that already runs one of the study's models as it is (students that the study trains are loaded here)."""

    model: Alias
    url: str = Field(description="The base of an OpenAI-compatible API: http://127.0.0.1:8000/v1 of `vllm serve`")
    served_as: str | None = Field(default=None, description="The server's name for the model; empty: its hub id")
    key_variable: str | None = Field(
        default=None, pattern=KEY_VARIABLE, description="The environment variable that holds the server's key"
    )
    in_flight: int = Field(default=64, ge=1, le=4096, description="Requests open at a time")

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        return plain_url(url)


class Generation(Run):
    """How models are run; nothing here enters a key."""

    servers: tuple[Serving, ...] = Field(
        default=(), description="Models that are asked through a server instead of being loaded here"
    )

    @model_validator(mode="after")
    def _one_server_a_model(self) -> Generation:
        unique(tuple(serving.model for serving in self.servers))
        return self


class FanOut(Frozen):
    """Where the units that load a model are made: thoughts and answers, students, verdicts. Nothing here enters a key."""

    kind: Literal["local", "workers", "ray"] = Field(
        default="local",
        description="local: in the flow's own process, one after another; workers: each as a run of the deployment `unit` on the "
        "work pool `gpu`, where one worker a GPU takes them; ray: as tasks of a Ray cluster",
    )
    at_once: int = Field(default=64, ge=1, le=1000, description="Units handed out at a time (workers, ray)")
    retries: int = Field(
        default=3, ge=0, le=20, description="How often a unit is started again, elsewhere, after its worker has died"
    )
    gpu_gib: float = Field(
        default=80.0, gt=0, le=1000, description="Memory of one GPU in GiB, which tells how many of them a model needs"
    )
    share_gpus: bool = Field(default=False, description="ray: small models take a part of a GPU each, several on one")
    address: str | None = Field(
        default=None,
        min_length=1,
        description="ray: the cluster, ray://host:10001 or `auto` for the one that this machine belongs to; empty: a Ray "
        "that is started here and ends with the flow",
    )
    local_gpus: int | None = Field(
        default=None, ge=0, le=64, description="ray, started here: the GPUs to declare; empty: those that are found"
    )

    @model_validator(mode="after")
    def _what_belongs_to_ray(self) -> FanOut:
        for name in ("address", "local_gpus", "share_gpus"):
            if self.kind != "ray" and getattr(self, name):
                raise ValueError(f"{name}: only fan-out `ray` has one, and kind is {self.kind!r}; leave it out")
        if self.address is not None and self.local_gpus is not None:
            raise ValueError("local_gpus: a cluster with an address knows its own GPUs; leave one of the two out")
        return self


class Judge(Frozen):
    """A model that judges predictions. In YAML its alias alone will do."""

    model: Alias
    question: JudgeQuestion = Field(
        default="contains",
        description="contains: does the prediction give a gold answer, 1 or 0 (fs1); grade: correct, incorrect or not "
        "attempted (SimpleQA)",
    )
    examples: bool = Field(default=False, description="Show it made-up cases: only very small ones need them")
    retries: int = Field(
        default=2,
        ge=0,
        le=5,
        description="How often an invalid reply is asked for again; what has landed as invalid is not asked again",
    )

    @model_validator(mode="before")
    @classmethod
    def _alias_alone(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class MixPart(Frozen):
    """Traces of one recipe that enter a mix."""

    recipe: Recipe = Field(description="rt: from the question alone; fs1: with paths in the prompt")
    teachers: Annotated[tuple[Alias, ...], AfterValidator(unique)] = Field(
        default=(), description="Of these teachers alone; empty: of all that the study asks"
    )
    traces: int | None = Field(
        default=None, ge=1, description="At most so many of its correct traces, drawn by question; empty: all"
    )


class Mix(Frozen):
    """A training set put together of several recipes or teachers, beside the one that each recipe gets."""

    name: Annotated[str, Field(pattern=NAME, description="How runs and tables call it")]
    parts: tuple[MixPart, ...] = Field(min_length=1, description="What it is put together of")
    max_traces_per_question: int | None = Field(
        default=None, ge=1, description="Over all parts; empty: as in distill, for each part"
    )

    @field_validator("name")
    @classmethod
    def _is_no_recipe(cls, name: str) -> str:
        if name in tuple(Setting):
            raise ValueError(f"{name!r} is the name of a setting, or of a recipe's own training set; choose another")
        return name


class Distillation(Frozen):
    """Teachers' traces, and what of them students are trained on."""

    teachers: Annotated[tuple[Alias, ...], AfterValidator(unique)] = Field(
        default=("smollm2-135m",), min_length=1, description="Who is asked for traces, by aliases in the registry"
    )
    recipes: Annotated[tuple[Recipe, ...], AfterValidator(unique)] = Field(
        default=(Recipe.RT, Recipe.FS1),
        min_length=1,
        description="rt: from the question alone; fs1: with paths in the prompt. Each gives a training set",
    )
    examples: bool = Field(
        default=False,
        description="Show teachers two made-up examples: small ones use the box only so; reasoning models need none",
    )
    samples: int = Field(default=1, ge=1, description="Traces of a question and teacher in each recipe")
    sampling: Sampling = Field(
        default=Sampling(temperature=0.6, top_p=0.95), description="How teachers draw tokens; temperature 0: greedily"
    )
    max_thinking_tokens: int = Field(default=1024, ge=1, description="The budget of a teacher's thought")
    max_answer_tokens: int = Field(default=256, ge=1, description="Tokens of a teacher's answer at most")
    accept: Literal["exact", "judge", "both"] = Field(
        default="exact", description="Whose word makes a trace correct: the matcher's, the judge's, or that of both"
    )
    judge: Judge | None = Field(
        default=None,
        description="A model that judges the teachers' answers; named, its verdicts are in the statistics too",
    )
    max_tokens: int | None = Field(
        default=8192,
        ge=8,
        description="Tokens of a whole training example (prompt, thought, answer) at most (fs1: 8192); empty: no limit here",
    )
    tokenizer: Alias | None = Field(
        default=None,
        description="The model whose tokenizer counts, usually a student; empty: that of retrieve.tokenizer",
    )
    max_traces_per_question: int = Field(default=1, ge=1, description="Correct traces of a question used in training")
    held_out: float = Field(default=0.1, ge=0.0, lt=1.0, description="Share of the questions kept for held-out loss")
    semantic: Literal["auto", "off"] = Field(
        default="auto",
        description="Count answers that are near a gold one in meaning: auto does where the encoder is installed",
    )
    mixes: tuple[Mix, ...] = Field(
        default=(), description="More training sets, beside the one of each recipe with the traces of all teachers"
    )

    @model_validator(mode="after")
    def _greedy_is_sampled_once(self) -> Distillation:
        _check_greedy(self.sampling, self.samples)
        return self

    @model_validator(mode="after")
    def _a_judge_is_named(self) -> Distillation:
        if self.accept != "exact" and self.judge is None:
            raise ValueError(f"accept {self.accept!r} needs a judge: name a model in distill.judge")
        return self

    @model_validator(mode="after")
    def _mixes_are_of_what_is_asked(self) -> Distillation:
        unique(tuple(mix.name for mix in self.mixes))
        for mix in self.mixes:
            unique(tuple((part.recipe.value, part.teachers) for part in mix.parts))
            for part in mix.parts:
                if part.recipe not in self.recipes:
                    raise ValueError(
                        f"mix {mix.name!r} takes recipe {part.recipe}, but distill.recipes has none: add it"
                    )
                if unasked := sorted(set(part.teachers) - set(self.teachers)):
                    raise ValueError(
                        f"mix {mix.name!r} takes traces of {', '.join(unasked)}, which distill.teachers does not name: add it"
                    )
        return self

    @property
    def training_sets(self) -> tuple[str, ...]:
        """The names of all training sets: the recipes, then the mixes."""
        return (*(recipe.value for recipe in self.recipes), *(mix.name for mix in self.mixes))


def _as_in(name: str) -> str:
    """The help of a variant's field: that of the hyperparameter, and what empty means."""
    return f"{Hyperparameters.model_fields[name].description}. Empty: as in the study's hyperparameters"


class Variant(Frozen):
    """One way to train in a sweep: hyperparameters that differ from the study's; what is left out is as there."""

    name: Annotated[str, Field(pattern=NAME, description="How runs and tables call it")]
    method: Method | None = Field(default=None, description=_as_in("method"))
    learning_rate: float | None = Field(default=None, gt=0, le=1, description=_as_in("learning_rate"))
    epochs: float | None = Field(default=None, gt=0, le=1000, description=_as_in("epochs"))
    max_steps: int | None = Field(default=None, ge=1, description=_as_in("max_steps"))
    batch_size: int | None = Field(default=None, ge=1, description=_as_in("batch_size"))
    gradient_accumulation: int | None = Field(default=None, ge=1, description=_as_in("gradient_accumulation"))
    max_length: int | None = Field(default=None, ge=8, description=_as_in("max_length"))
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1, description=_as_in("warmup_ratio"))
    weight_decay: float | None = Field(default=None, ge=0, le=1, description=_as_in("weight_decay"))
    scheduler: Scheduler | None = Field(default=None, description=_as_in("scheduler"))
    lora_r: int | None = Field(default=None, ge=1, le=1024, description=_as_in("lora_r"))
    lora_alpha: int | None = Field(default=None, ge=1, description=_as_in("lora_alpha"))
    lora_dropout: float | None = Field(default=None, ge=0, lt=1, description=_as_in("lora_dropout"))
    seed: int | None = Field(default=None, ge=0, lt=2**32, description=_as_in("seed"))
    precision: Precision | None = Field(default=None, description=_as_in("precision"))

    def applied(self, base: Hyperparameters) -> Hyperparameters:
        """``base`` with what this variant says. Full training after adapters, or the other way round, takes the rate and the
        adapter of its own method where the variant does not say more."""
        changed = self.model_dump(exclude={"name"}, exclude_none=True)
        known = base.model_dump()
        if (changed.get("method", base.method) == "full") != (base.method == "full"):
            for name in ("learning_rate", *ADAPTER_FIELDS):
                del known[name]
        return Hyperparameters.model_validate(known | changed)


class DevCheck(Frozen):
    """How students are compared on questions that none was trained on: each is asked once, greedily."""

    questions: QuestionSet | None = Field(
        default=None, description="Empty: the questions held out of the student's own training set (distill.held_out)"
    )
    max_thinking_tokens: int = Field(default=1024, ge=1, description="The budget of a thought")
    max_answer_tokens: int = Field(default=256, ge=1, description="Tokens of an answer at most")
    base: bool = Field(
        default=True, description="Ask the untrained model (setting `instruct`) as well, to compare with"
    )


class TrainingRun(Frozen):
    """How students are trained, beside what they become; nothing here enters a key."""

    gpus: int = Field(
        default=1, ge=1, le=64, description="GPUs a node (FSDP2 beyond 1); gradient_accumulation is divided among all"
    )
    nodes: int = Field(
        default=1, ge=1, le=64, description="Machines; docs/training-several-gpus.md has the others' command"
    )
    main_address: str | None = Field(
        default=None, description="host:port of the first machine, where there are several; empty: one machine"
    )
    packing: bool = Field(
        default=False, description="Join a batch's examples in one row without padding; the loss is the same"
    )
    gradient_checkpointing: bool = Field(default=False, description="Compute activations again to save memory; slower")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; empty: torch's choice")
    checkpoint_steps: int = Field(default=50, ge=1, description="Steps between checkpoints; a kill loses at most these")
    report_to: Annotated[tuple[Tracker, ...], AfterValidator(unique)] = Field(
        default=(), description="Trackers that are told of losses as well, where their packages are installed"
    )

    @model_validator(mode="after")
    def _several_nodes_have_an_address(self) -> TrainingRun:
        if (self.nodes > 1) != (self.main_address is not None):
            raise ValueError("nodes and main_address go together: several machines meet at host:port of the first one")
        return self


class Tuning(Frozen):
    """Students: which bases are trained on which training sets, and how."""

    students: Annotated[tuple[Alias, ...], AfterValidator(unique)] = Field(
        default=("smollm2-135m",), min_length=1, description="The bases, by their aliases in the registry"
    )
    training_sets: Annotated[tuple[str, ...], AfterValidator(unique)] = Field(
        default=(), description="Recipes and mixes to train on; empty: all of distill"
    )
    hyperparameters: Hyperparameters = Field(default=Hyperparameters(), description="How every student is trained")
    sweep: tuple[Variant, ...] = Field(
        default=(),
        description="Several ways to train, each a student of its own; empty: one, with hyperparameters as they are",
    )
    select: Literal["all", "best"] = Field(
        default="all",
        description="all: every variant is evaluated; best: of each base and training set the one with the highest dev accuracy",
    )
    dev: DevCheck | None = Field(
        default=None, description="Ask students dev questions after training; needed to select the best"
    )
    run: TrainingRun = Field(
        default=TrainingRun(), description="GPUs, packing, trackers: what changes no student and enters no key"
    )

    @model_validator(mode="after")
    def _variants_differ(self) -> Tuning:
        unique(tuple(variant.name for variant in self.sweep))
        seen: dict[Hyperparameters, str] = {}
        for variant in self.sweep:
            made = variant.applied(self.hyperparameters).filled()
            if made in seen:
                raise ValueError(f"sweep: {variant.name!r} is the same student as {seen[made]!r}; leave one out")
            seen[made] = variant.name
        if self.select == "best" and self.dev is None:
            raise ValueError("select 'best' compares students on dev questions: say in finetune.dev which and how")
        return self

    @property
    def variants(self) -> dict[str, Hyperparameters]:
        """Hyperparameters by the variant's name; one without a name where there is no sweep."""
        return {v.name: v.applied(self.hyperparameters) for v in self.sweep} or {"": self.hyperparameters}


class Evaluation(Frozen):
    """The matrix of runs: models x settings x datasets, each at every budget, ``samples`` times."""

    settings: Annotated[tuple[Setting, ...], AfterValidator(unique)] = Field(
        default=STUDY_SETTINGS,
        min_length=1,
        description="instruct: the model as it is; cot: asked to think step by step; rt, fs1, mix: students trained so",
    )
    baselines: Annotated[tuple[Alias, ...], AfterValidator(unique)] = Field(
        default=(), description="Models asked as they are, beside the students (setting `instruct`)"
    )
    datasets: tuple[QuestionSet, ...] = Field(
        default=(QuestionSet(),), min_length=1, description="The questions that every run answers, each set once"
    )
    budgets: Budgets = Field(
        default=(256, 1024, 4096), description="Thinking tokens, rising; empty, last: no limit. All are one generation"
    )
    max_thinking_tokens: int = Field(default=8192, ge=1, description="The room of a thought without a budget")
    extension: Extension | None = Field(
        default=None,
        description='Put off early ends of thinking ("Wait,", after s1) until a budget is used up; empty: leave them alone',
    )
    max_answer_tokens: int = Field(default=256, ge=1, description="Tokens of an answer at most")
    samples: int = Field(default=1, ge=1, description="Answers of a question in parallel: what pass@k counts")
    sampling: Sampling = Field(
        default=Sampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05),
        description="How models draw tokens; temperature 0: greedily",
    )
    reasoning_sampling: Sampling | None = Field(
        default=None,
        description="How models that open a block of thinking (students, reasoning models) do; empty: as the others",
    )
    judges: tuple[Judge, ...] = Field(
        default=(),
        description="Models that judge predictions beside the matcher; the first one's stand in the result table",
    )
    overlap: OverlapOptions = Field(
        default=OverlapOptions(),
        description="When a test question counts as overlapping with training; tables show results with and without those",
    )

    @model_validator(mode="after")
    def _greedy_is_sampled_once(self) -> Evaluation:
        _check_greedy(self.sampling, self.samples)
        if self.reasoning_sampling is not None:
            _check_greedy(self.reasoning_sampling, self.samples)
        names = [d.dataset for d in self.datasets]
        unique(tuple(names))
        unique(tuple(f"judge {judge.model} with question {judge.question}" for judge in self.judges))
        if any(b is not None and b > self.max_thinking_tokens for b in self.budgets):
            raise ValueError(
                f"budgets {list(self.budgets)} exceed max_thinking_tokens {self.max_thinking_tokens}: raise it"
            )
        if self.extension is not None and self.extended_to == 0:
            raise ValueError("extension: without a budget there is nothing to extend to; name one in budgets")
        return self

    def sampling_of(self, form: str) -> Sampling:
        """How a model draws tokens whose turns are laid out in the format ``form``."""
        thinks = format_named(form).think_open != ""
        return self.reasoning_sampling if thinks and self.reasoning_sampling is not None else self.sampling

    @property
    def asks_students(self) -> bool:
        """Whether trained models are asked: else paths, teachers and training are left out."""
        return any(setting.trained for setting in self.settings)

    @property
    def longest(self) -> int:
        """Tokens of the one generation that serves every budget."""
        return self.max_thinking_tokens if self.budgets[-1] is None else self.budgets[-1]

    @property
    def extended_to(self) -> int:
        """The budget up to which early ends are put off; 0 without an extension."""
        return 0 if self.extension is None else max((b for b in self.budgets if b is not None), default=0)


def _check_greedy(sampling: Sampling, samples: int) -> None:
    if sampling.temperature == 0.0 and samples > 1:
        raise ValueError(f"samples {samples} at temperature 0 would all be equal: use 1 sample, or a temperature")


class Retrieve(Frozen):
    """Parameters of `retrieve`: find and rank the paths of the training questions."""

    name: str = Field(
        default="study",
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        description="Of the study, in tables and folders: lower-case letters, digits, - and _",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Every row's own seed comes from it")
    train: QuestionSet = Field(default=QuestionSet(split="train"), description="The questions that teachers answer")
    retrieve: Retrieval = Field(default=Retrieval(), description="Where paths come from, and which a teacher sees")
    registry: str | None = Field(default=None, description="A registry of models; empty: deployments/models.yaml")

    @property
    def registry_path(self) -> Path:
        """The registry's file."""
        return Path(self.registry) if self.registry else DEFAULT_REGISTRY


class Distill(Retrieve):
    """Parameters of `distill`: teachers' traces and the training sets made of them."""

    distill: Distillation = Field(
        default=Distillation(), description="Who is asked for traces, and what students learn"
    )
    generation: Generation = Field(default=Generation(), description="How models are run: no result depends on it")
    fan_out: FanOut = Field(default=FanOut(), description="Where models are run: no result depends on it")

    @property
    def counted_by(self) -> str:
        """The alias of the model whose tokenizer counts the tokens of examples."""
        return self.distill.tokenizer or self.retrieve.tokenizer


class Finetune(Distill):
    """Parameters of `finetune`: students trained on the training sets."""

    finetune: Tuning = Field(default=Tuning(), description="Which students are trained on what, and how")

    @model_validator(mode="after")
    def _training_sets_are_made(self) -> Finetune:
        made = self.distill.training_sets
        if unmade := [name for name in self.finetune.training_sets if name not in made]:
            raise ValueError(
                f"finetune.training_sets names {', '.join(unmade)}; distill makes {', '.join(made)} (recipes and mixes)"
            )
        dev = self.finetune.dev
        if dev is not None and dev.questions is None and self.distill.held_out == 0:
            raise ValueError(
                "finetune.dev: distill.held_out is 0, so there are no dev questions; name some in dev.questions"
            )
        return self

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The names of the training sets that students are trained on."""
        return self.finetune.training_sets or self.distill.training_sets


class Evaluate(Finetune):
    """Parameters of `evaluate`: the matrix of runs, their answers and verdicts."""

    evaluate: Evaluation = Field(default=Evaluation(), description="Who answers what, how often, at which budgets")

    @model_validator(mode="after")
    def _students_need_their_recipe(self) -> Evaluate:
        for setting in self.evaluate.settings:
            if setting is Setting.MIX:
                if not any(mix.name in self.trained_on for mix in self.distill.mixes):
                    raise ValueError(
                        "evaluate.settings names mix, but no student is trained on one: add it to distill.mixes"
                    )
            elif setting.trained and Recipe(setting.value) not in self.distill.recipes:
                raise ValueError(f"evaluate.settings names {setting}, but distill.recipes has no {setting}: add it")
            elif setting.trained and setting.value not in self.trained_on:
                raise ValueError(f"evaluate.settings names {setting}, but finetune.training_sets does not: add it")
        return self


class Reporting(Frozen):
    """What a report compares and shows; nothing here changes a result."""

    baseline: Setting = Field(default=Setting.INSTRUCT, description="The setting that runs are compared with")
    baseline_model: Alias | None = Field(
        default=None, description="Compare with this model's run in that setting; empty: with the same model's"
    )
    questions: int = Field(
        default=12, ge=0, le=2000, description="Test questions that get a page of their own in the report"
    )


class Study(Evaluate):
    """Parameters of `study`: everything from paths to the report."""

    report: Reporting = Field(default=Reporting(), description="What the report compares and shows")

    @model_validator(mode="after")
    def _the_baseline_is_run(self) -> Study:
        chosen, wanted = self.report, self.evaluate
        if chosen.baseline_model is not None:
            students = set(self.finetune.students)
            if chosen.baseline_model not in students | set(wanted.baselines):
                raise ValueError(
                    f"report.baseline_model {chosen.baseline_model!r} is not run in this study; it runs "
                    f"{', '.join(sorted(students | set(wanted.baselines)))}"
                )
            if chosen.baseline_model not in students and chosen.baseline is not Setting.INSTRUCT:
                raise ValueError(
                    f"report.baseline {chosen.baseline}: {chosen.baseline_model!r} is a baseline and run as it is; use instruct"
                )
        return self


def reporting(study: Study, baseline: Setting | None, baseline_model: str | None, questions: int | None) -> Study:
    """The study with another report; None leaves what it says. Raises InputError for a baseline that it does not run."""
    given = {"baseline": baseline, "baseline_model": baseline_model, "questions": questions}
    chosen = study.report.model_dump() | {name: value for name, value in given.items() if value is not None}
    try:
        return Study.model_validate({**study.model_dump(), "report": chosen})
    except ValidationError as error:
        raise InputError(_first_errors(error)) from None


def load_study(path: Path) -> Study:
    """The study of a YAML file. Raises InputError that names the file, the field, the value and what is wrong."""
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in STUDIES.glob("*.yaml")))
        raise InputError(f"no study file {path}; shipped studies (deployments/studies): {known}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not the fields of a study")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_errors(error)}") from None


def _first_errors(error: ValidationError) -> str:
    lines = []
    errors = error.errors(include_url=False)
    # A list whose items are wrong is told to be too short as well.
    told = {item["loc"][:length] for item in errors for length in range(len(item["loc"]))}
    for item in errors:
        if item["type"] == "too_short" and item["loc"] in told:
            continue
        field = ".".join(str(part) for part in item["loc"]) or "study"
        # What stands in a server's field by mistake may be a key.
        hidden = isinstance(item["input"], dict | Frozen) or "servers" in item["loc"]
        shown = "" if hidden else f" (got {item['input']!r})"
        mend = "unknown field: remove it or mend its spelling" if item["type"] == "extra_forbidden" else item["msg"]
        lines.append(f"{field}: {mend.removeprefix('Value error, ')}{shown}")
    return "; ".join(lines)
