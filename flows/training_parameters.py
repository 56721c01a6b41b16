"""The sections of a study about what students learn and how they are trained: ``distill``, ``finetune``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from flows.generation_parameters import Judge
from flows.parameter_types import NAME, Alias, check_greedy, unique
from flows.retrieval_parameters import QuestionSet
from models.finetune import ADAPTER_FIELDS, Hyperparameters, Method, Precision, Scheduler, Tracker
from store.types import Frozen, Recipe, Sampling, Setting


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
        check_greedy("sampling", self.sampling, self.samples)
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
