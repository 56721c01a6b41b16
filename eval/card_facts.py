"""What cards are made of, as typed facts: a dataset's configurations and origins, a student's training and results.

Filled from the store by ``tasks.exports`` and ``tasks.student_exports``, told by ``eval.cards``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from store.types import Frozen

DatasetKind = Literal["training", "traces", "results"]


class SplitFacts(Frozen):
    """A split of a configuration: its rows, the questions they are about, the tokens of their thoughts and answers.
    ``file``: where it lies, None for shards in ``data/CONFIGURATION/``."""

    name: str
    rows: int
    questions: int
    tokens: int = 0
    file: str | None = None


class ConfigFacts(Frozen):
    """A configuration, which lies in ``data/NAME/``; ``note`` is one sentence on what it holds."""

    name: str
    note: str
    splits: tuple[SplitFacts, ...]


class BenchmarkFacts(Frozen):
    """A question set; ``files`` are the hashes of the files that it was read from."""

    dataset: str
    split: str
    questions: int
    files: tuple[str, ...] = ()


class TrainingFacts(Frozen):
    """A training set; ``recipe`` is what its study calls it. ``teachers`` are aliases, ``teacher_keys`` identify their
    weights; of ``candidates`` traces a share of ``accuracy`` was right; ``dropped`` counts what was left out by reason;
    lengths are in tokens of the thought. ``accept`` says whose word made a trace right, ``judge`` is the id that verdicts of
    a judge are known by, ``max_tokens`` the longest that an example may be; ``statistics`` are all that were counted
    (``tasks.training_statistics``), ``recipes`` counts the traces of each recipe. ``files``: the sha256 by name of the files
    that examples were read from, empty where they come from the store."""

    recipe: str
    training_set: str
    rows: int
    held_out: int
    questions: int
    teachers: tuple[str, ...]
    teacher_keys: tuple[str, ...] = ()
    candidates: int | None = None
    accuracy: float | None = None
    mean_thinking_tokens: float | None = None
    dropped: dict[str, int] = Field(default_factory=dict)
    accept: Literal["exact", "judge", "both"] | None = None
    judge: str | None = None
    max_tokens: int | None = None
    statistics: dict[str, Any] = Field(default_factory=dict)
    recipes: dict[str, int] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)


class JudgeFacts(Frozen):
    """A model that judged predictions, and what it was asked (contains, grade)."""

    judge: str
    model: str
    question: str


class ExampleFacts(Frozen):
    """A row to show: the texts are printed as they stand, in a code block."""

    config: str
    question: str
    thinking: str
    answer: str


class DatasetFacts(Frozen):
    """What a dataset card tells. ``license`` is a hub identifier (``cc-by-4.0``), None where nobody gave one. ``study_key``
    is None for a training set whose study was not evaluated yet. ``compared``: whether test questions were compared with
    training questions."""

    kind: DatasetKind
    study: str
    study_key: str | None
    configs: tuple[ConfigFacts, ...]
    benchmarks: tuple[BenchmarkFacts, ...]
    training: tuple[TrainingFacts, ...] = ()
    judges: tuple[JudgeFacts, ...] = ()
    scorers: tuple[str, ...] = ()
    compared: bool = True
    example: ExampleFacts | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    license: str | None = None


class ResultFacts(Frozen):
    """A row of the leaderboard: a setting and budget (None: no limit) on a dataset. ``accuracy`` is a mean over ``n``
    questions with its standard error; ``clean`` leaves out questions that overlap with the training set."""

    setting: str
    dataset: str
    budget: int | None
    n: int
    accuracy: float
    standard_error: float | None
    n_clean: int
    accuracy_clean: float | None
    traces: int
    cut: int
    unparsed: int
    refused: int
    missing: int


class CheckFacts(Frozen):
    """A student on ``n`` dev questions, asked once each: ``accuracy`` with its 95% interval, the share of answers that it put
    in a box itself, and both of its base as it is (None: not asked)."""

    dataset: str
    n: int
    accuracy: float
    low: float
    high: float
    boxed: float
    base_accuracy: float | None
    base_boxed: float | None


class ChainFacts(Frozen):
    """One line of descent, as an example: the path (labels), the question, the trace, its place in the training set."""

    path: tuple[str, ...]
    dataset: str
    question_id: str
    trace: str
    position: int


class ModelFacts(Frozen):
    """What a model card tells of a student. Losses are nats a token on the held-out questions; ``base_id`` and
    ``base_revision`` name a hub model, both None for weights from elsewhere; ``base_license`` is None where nobody here knows
    it. ``checks`` are on dev questions. A turn is the prompt, ``think_open``, the thought,
    ``think_close``, ``answer_open``, the answer. ``compared``: whether the questions of ``results`` were compared with those of
    training, so that flags mean something. ``weights`` maps files to their sha256."""

    name: str
    key: str
    method: Literal["lora", "full"]
    base: str
    base_key: str
    base_id: str | None
    base_revision: str | None
    base_license: str | None = None
    think_open: str
    think_close: str
    answer_open: str
    hyperparameters: dict[str, Any]
    training: TrainingFacts
    benchmarks: tuple[BenchmarkFacts, ...]
    examples: int
    held_out_examples: int
    dropped: dict[str, int]
    steps: int
    tokens: int
    seconds: float
    device: str
    precision: str
    held_out_before: float | None
    held_out_after: float | None
    study: str | None
    study_key: str | None
    checks: tuple[CheckFacts, ...] = ()
    results: tuple[ResultFacts, ...]
    compared: bool
    chain: ChainFacts | None
    versions: dict[str, str]
    weights: dict[str, str]
    license: str | None = None
