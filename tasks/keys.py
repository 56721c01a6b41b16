"""The one module that makes cache keys.

A key is the sha256 over the canonical JSON of a frozen spec. There are two kinds:

* a *row key* says which generation a row belongs to. A thought is identified by (ThoughtSpec, question, prompt, sample), a
  trace by (thought, AnswerSpec, budget). Question sets, the number of samples and the list of budgets are **not** in it:
  a study with more questions, more samples or one more budget generates only what is new.
* a *unit key* says what one task is to deliver: its row specs plus the exact question set, samples and budgets. It is the
  key of the ``units`` row and of Prefect's cache.

Left out of every key, and why: engine, server, batch size, chunk, tensor parallelism, worker count, host and number of threads,
because they change the speed and not the experiment (a sampled row does depend on its batch, so the landed row is the
truth and is never generated again); the study's name, because equal work is shared between studies; ``dtype`` of
inference, because the landed row records the engine, and the same weights are asked; file paths, because contents count.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from kg.candidates import Options
from kg.linearise import Form
from kg.search import Policy
from models.budgets import Extension
from models.finetune import Filled
from store.types import Frozen, Recipe, Sampling, digest

Accept = Literal["exact", "judge", "both"]
"""Whose word makes a teacher's trace right: the matcher's, the judge's, or that of both."""


class Spec(Frozen):
    """Base of all specs; ``key`` is the digest of everything in it and of its kind."""

    @property
    def key(self) -> str:
        """32 hex digits."""
        return digest({"kind": type(self).__name__, **self.model_dump(mode="json")})


class LinkingSpec(Spec):
    """How entities are found for a question. Row key of ``linkings`` and ``resolved_links`` with the question's key.

    ``mids``: where Freebase ids are mapped (``endpoint``, or the hash of a mapping file); ``labels``: how names are
    looked for (``off``, ``index`` of all names of the graph, ``lookup`` of a question's own words); ``linker``: the version
    of the code.
    """

    snapshot: str
    mids: str
    labels: str
    linker: str


class RetrievalSpec(Spec):
    """How paths are found for a question. Row key of ``retrievals`` and ``paths`` together with the question's key.

    ``snapshot`` identifies the content of the graph (and so the endpoint); ``linking`` is the key of the links that are
    searched from; ``similarity`` names the score of relations, ``tokenizer`` the model whose tokens are counted; ``search``,
    ``ranking``, ``wording`` and ``matcher`` (which literals answer a question) are versions of the code. Left out: pacing,
    threads and batch sizes, which change no result.
    """

    snapshot: str
    linking: str
    max_hops: int
    policy: Policy
    cap: int
    deep_cap: int
    max_degree: int
    joint: bool
    qualifiers: bool
    top_paths: int
    max_triples: int
    max_tokens: int | None
    tokenizer: str
    form: Form
    similarity: str
    search: str
    ranking: str
    wording: str
    matcher: str

    @property
    def options(self) -> Options:
        """What the search is given."""
        return Options(**{name: getattr(self, name) for name in Options.model_fields})


class ControlSpec(Spec):
    """The wrong-answer control of a retrieval over one set of questions: which wrong answers, and how they were drawn.

    ``draw`` is the version of the code that draws.
    """

    retrieval: str
    questions: str
    seed: int
    draw: str


class ThoughtSpec(Spec):
    """One kind of thought. ``model_key`` identifies weights (base and student), ``format`` the layout of the turn.

    ``extended_to`` is the budget up to which early ends are put off, 0 without an ``extension``. The prompt is not in it
    but stands beside it in every row key, by its content.
    """

    model_key: str
    format: str
    sampling: Sampling
    max_thinking_tokens: int
    seed: int
    extension: Extension | None = None
    extended_to: int = 0


class AnswerSpec(Spec):
    """How the answer after a thought is asked for: the forced opening of a cut thought, and the answer's room."""

    forced_answer: str
    max_answer_tokens: int


class TracesSpec(Spec):
    """A unit of generation: one model, prompt set, number of samples and ladder of budgets. Budget 0 means unlimited."""

    thought: ThoughtSpec
    answer: AnswerSpec
    prompt_set: str
    samples: int
    budgets: tuple[int, ...]


def asked_key(spec: TracesSpec) -> str:
    """Key of what a unit asks and how, whoever answers: units of equal ones can be compared.

    In it: the prompts with their questions, sampling, seed, the room of thought and answer, extension, samples and budgets.
    Left out: the model and the layout of its turn (``format``, ``forced_answer``), in which a student differs from its base.
    """
    asked = spec.model_dump(mode="json")
    for part, own in (("thought", ("model_key", "format")), ("answer", ("forced_answer",))):
        asked[part] = {name: value for name, value in asked[part].items() if name not in own}
    return digest({"kind": "asked", **asked})


class TrainingPart(Frozen):
    """Traces that may enter a training set: the units of predictions of one recipe's teachers, and how many enter at most."""

    recipe: Recipe
    predictions: tuple[str, ...]
    traces: int | None = None


class TrainingSetSpec(Spec):
    """Which traces enter a training set, and what is counted of them.

    ``parts``: what it is drawn from; ``accept``: whose word makes a trace right; ``judge``: the judge's name (with its weights,
    wording and question), also where only the statistics need it. ``reader`` identifies tokenizer, chat template and layout by
    which examples are counted, ``max_tokens`` of which is their limit. ``max_per_question`` holds for each part,
    ``max_per_question_over_all`` for all together. ``questions`` are all training questions of the study by content, since
    held-out ones are drawn from them; ``encoder`` is that of the semantic match, None without one. Parser, matcher, the
    student's prompt (``wording``) and the choosing (``selection``) stand in it by their versions.

    Left out: what the set is called and what the teachers are called, since their weights stand in the keys of their traces.
    """

    parts: tuple[TrainingPart, ...]
    parser: str
    matcher: str
    wording: str
    selection: str
    accept: Accept
    judge: str | None
    reader: str
    max_tokens: int | None
    max_per_question: int | None
    max_per_question_over_all: int | None
    held_out: float
    questions: str
    encoder: str | None
    seed: int


class StudentSpec(Spec):
    """A student: base weights, training set by content, hyperparameters (with seed and precision), format."""

    base_key: str
    training_set: str
    hyperparameters: Filled
    format: str


class PredictionsSpec(Spec):
    """Predictions and matcher verdicts of one traces unit. The question set by content, since it holds the gold answers."""

    traces: str
    questions: str
    parser: str
    matcher: str


class JudgeSpec(Spec):
    """Verdicts of one model judge over the predictions of some units."""

    judge: str
    predictions: tuple[str, ...]


class OverlapSpec(Spec):
    """How near the questions of a test set are to those that students were trained on, and what of them was in a prompt.

    ``train`` and ``test`` are the sets by content (:func:`set_key` of question keys), ``prompt_sets`` what teachers were
    given for the training questions. ``encoder`` names the encoder that runs, None without one; ``overlap`` and ``leaks``
    are versions of the code. Left out: whether an encoder was required, since what counts is whether one ran.
    """

    train: str
    test: str
    prompt_sets: tuple[str, ...]
    encoder: str | None
    ngram: int
    ngram_share: float
    cosine: float
    overlap: str
    leaks: str


class ReportSpec(Spec):
    """A report: everything it is drawn from, what it compares and shows, and the version of the code that draws it."""

    study: str
    units: tuple[str, ...]
    baseline: str
    baseline_model: str | None
    questions: int
    version: str


UnitKind = Literal["control", "traces", "training_set", "student", "predictions", "verdicts", "overlap", "report"]


_KIND = 8  # hex digits of a row key that say of which kind it is; DuckDB's statistics of texts hold as many characters


def thought_id(spec: ThoughtSpec, dataset: str, question_id: str, prompt_key: str, sample: int) -> str:
    """Row key of a thought; those of one kind begin alike.

    An index over random keys would be touched all over by each landing, and what is touched is written anew: in a store of
    millions of rows that took most of the time. Rows of one kind land together, and so their keys stand together.
    """
    return spec.key[:_KIND] + digest(["thought", spec.key, dataset, question_id, prompt_key, sample], 32 - _KIND)


def trace_id(thought: str, answer: AnswerSpec, budget: int | None) -> str:
    """Row key of a trace: a thought at a budget (None: unlimited), and how its answer was asked for. Begins as the thought's."""
    return thought[:_KIND] + digest(["trace", thought, answer.key, budget], 32 - _KIND)


def seed_of(thought: str) -> int:
    """The seed of a row, 31 bits, from its key (which holds the study's seed, the question and the sample)."""
    return int(thought[-8:], 16) & 0x7FFFFFFF


def score_key(unit: str, parser: str, matcher: str, judge: str | None) -> str:
    """Key of a run's scores: its unit of traces, and by what they are read. Migration 0004 computes it in SQL for older rows."""
    return hashlib.sha256("|".join((unit, parser, matcher, judge or "")).encode()).hexdigest()[:32]


def set_key(rows: list[Any]) -> str:
    """Key of a set whose order does not matter: a prompt set, a question set."""
    return digest(sorted(rows))


def cache_key(_context: Any, parameters: dict[str, Any]) -> str:
    """``cache_key_fn`` of every unit task: the key of its ``order`` argument, so that the UI and the store agree."""
    return str(parameters["order"].key)
