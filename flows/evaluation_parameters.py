"""The sections of a study about who answers what and how it is shown: ``evaluate``, ``report``."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from eval.overlap import OverlapOptions
from flows.generation_parameters import Judge
from flows.parameter_types import Alias, Budgets, check_greedy, unique
from flows.retrieval_parameters import QuestionSet
from models.budgets import Extension
from models.formats import format_named
from store.types import STUDY_SETTINGS, Frozen, Sampling, Setting


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
        check_greedy("sampling", self.sampling, self.samples)
        if self.reasoning_sampling is not None:
            check_greedy("reasoning_sampling", self.reasoning_sampling, self.samples)
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


class Reporting(Frozen):
    """What a report compares and shows; nothing here changes a result."""

    baseline: Setting = Field(default=Setting.INSTRUCT, description="The setting that runs are compared with")
    baseline_model: Alias | None = Field(
        default=None, description="Compare with this model's run in that setting; empty: with the same model's"
    )
    questions: int = Field(
        default=12, ge=0, le=2000, description="Test questions that get a page of their own in the report"
    )
