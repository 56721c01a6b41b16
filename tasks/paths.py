"""Retrieval as units: first all that the missing questions need is fetched, then the paths of each are found locally.

Paths are found, ranked and linearised in what is known of the graph snapshot (:mod:`tasks.graphs`). The ``retrievals``
row says that a question is done, also if it has no path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from prefect import task

from eval.matching import MATCHER_VERSION, Matcher
from kg.candidates import Want
from kg.graph import Graph
from kg.linearise import LINEARISE_VERSION, Linearised, linearise
from kg.ranking import RANKING_VERSION
from kg.retrieval import Found, Retriever
from kg.search import SEARCH_VERSION
from kg.similarity import best_similarity
from models.embedded import default_cache
from models.registry import ModelEntry
from models.tokens import token_counter
from store.connection import Store
from store.home import Home
from store.types import Frozen, InputError, Question, RunError, digest
from store.types import Path as GraphPath
from tasks.graphs import Source, open_fetcher
from tasks.keys import LinkingSpec, RetrievalSpec
from tasks.landing import UNIT_OPTIONS, retryable
from tasks.links import linked_questions
from tasks.progress import progress
from tasks.questions import question_key

ATTEMPTS = 3  # of one question of a batch
_VALUES = ("number", "date")


class PathsOrder(Frozen):
    """A work order: the paths of some questions. ``similarity`` and ``tokenizer`` are what the spec names."""

    name: str
    spec: RetrievalSpec
    linking: LinkingSpec
    similarity: Literal["lexical", "embedding", "mixed", "auto"]
    tokenizer: ModelEntry
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """The unit's key: what is searched, and for which questions by content."""
        return digest([self.spec.key, sorted(question_key(q) for q in self.questions)])


class NeighbourhoodsOrder(Frozen):
    """A work order: everything that the questions' paths need from the endpoint."""

    name: str
    spec: RetrievalSpec
    linking: LinkingSpec
    similarity: Literal["lexical", "embedding", "mixed", "auto"]
    source: Source
    questions: tuple[Question, ...]


class Searched(NamedTuple):
    """One question with what was found for it, and the text a teacher would see."""

    question: Question
    found: Found
    text: Linearised


def search_versions() -> dict[str, str]:
    """Versions of the code that decides which paths are found, how they rank and how they read; part of the key."""
    return {
        "search": SEARCH_VERSION,
        "ranking": RANKING_VERSION,
        "wording": LINEARISE_VERSION,
        "matcher": MATCHER_VERSION[:12],
    }


def missing_questions(store: Store, spec: RetrievalSpec, questions: Sequence[Question]) -> tuple[Question, ...]:
    """Questions whose paths were not searched yet under this spec: one anti-join."""
    keys = {question_key(q): q for q in questions}
    rows = store.query("SELECT question_key FROM retrievals WHERE retrieval_key = ?", [spec.key])
    done = {row["question_key"] for row in rows}
    return tuple(q for key, q in keys.items() if key not in done)


def want_of(key: str, question: Question) -> Want:
    """What is searched for a question with its links in place; ``key`` is that of the question as its dataset gives it.

    Gold answers are the targets: right for training data and for analysis, and never shown to a model in a test. A date or
    number is recognised among literals by the matcher; a yes/no question has no target of its own.
    """
    boolean = question.answer_type == "boolean"
    targets = () if boolean else question.entities("answer")
    matches: Callable[[str], bool] | None = None
    if question.answer_type in _VALUES and not targets:
        matcher = Matcher(question)

        def matches(value: str) -> bool:
            return matcher.rule(value) is not None

    return Want(key, question.text, question.entities("question"), targets, boolean, matches)


def land_neighbourhoods(order: NeighbourhoodsOrder, home: Home, graph: Graph) -> int:
    """Fetch what the questions still miss, landing each answer as it comes. Returns requests made."""
    store, spec = home.store, order.spec
    wants = [want_of(key, question) for key, question in _linked(store, order)]
    retriever = Retriever(graph, spec.options, best_similarity(order.similarity))
    with (
        open_fetcher(order.source, home, graph, statements=spec.qualifiers) as fetcher,
        progress(order.name, len(wants)) as meter,
    ):
        retriever.gather(wants, fetcher, lambda _stage, done: meter.advance(done - meter.done))
        return fetcher.endpoint.requests


@task(
    name="neighbourhoods",
    retries=2,
    retry_delay_seconds=[5, 20],
    retry_condition_fn=retryable,
    persist_result=False,
)
def neighbourhoods(order: NeighbourhoodsOrder, graph: Any) -> int:
    """See :func:`land_neighbourhoods`. Not cached as a unit: the store knows each neighbourhood by itself."""
    return land_neighbourhoods(order, Home.current(), graph)


@task(name="paths", **UNIT_OPTIONS)
def paths(order: PathsOrder, graph: Any) -> int:
    """Paths of the questions of one order, from a graph that holds their neighbourhoods. Returns the number of paths."""
    return land_paths(order, Home.current().store, graph)


def land_paths(order: PathsOrder, store: Store, graph: Graph) -> int:
    """Search, rank, linearise and land the paths of every question of an order in one transaction.

    If the batch fails, each of its questions is tried alone; those that succeed land. Raises RunError that names the
    questions that failed :data:`ATTEMPTS` times.
    """
    asked = _linked(store, order)
    retriever = Retriever(graph, order.spec.options, best_similarity(order.similarity))
    failures: list[tuple[Question, Exception]] = []
    searched: list[Searched] = []
    try:
        searched = search_questions(retriever, order, asked)
    except Exception as error:
        if len(asked) == 1:
            name = f"{asked[0][1].dataset} {asked[0][1].id}"
            if isinstance(error, InputError | RunError):
                raise type(error)(f"{name}: {error}") from error
            raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error  # a bug, so not tried again
        for key, question in asked:
            failure: Exception | None = None
            for _attempt in range(ATTEMPTS):
                try:
                    searched += search_questions(retriever, order, [(key, question)])
                    failure = None
                    break
                except Exception as alone:
                    failure = alone
            if failure is not None:
                failures.append((question, failure))
        if not searched:
            raise error
    store.land(_rows(order, searched, retriever.graph))
    if failures:
        one, first = failures[0]
        name = f"{one.dataset} {one.id}"
        raise RunError(f"{len(failures)} of {len(asked)} questions failed; {name}: {type(first).__name__}: {first}")
    return sum(one.found.paths for one in searched)


def search_questions(retriever: Retriever, order: PathsOrder, asked: Sequence[tuple[str, Question]]) -> list[Searched]:
    """Paths and their text, for questions (by their keys) with their links in place."""
    spec, graph = order.spec, retriever.graph
    count = token_counter(order.tokenizer, default_cache())
    found = retriever.find([want_of(key, question) for key, question in asked])
    return [
        Searched(
            question,
            one,
            linearise(
                one.kept,
                graph.labels,
                details=graph.details if spec.qualifiers else {},
                form=spec.form,
                max_triples=spec.max_triples,
                max_tokens=spec.max_tokens,
                count=count,
            ),
        )
        for (_key, question), one in zip(asked, found, strict=True)
    ]


def _linked(store: Store, order: PathsOrder | NeighbourhoodsOrder) -> list[tuple[str, Question]]:
    """The questions of an order with their links in place, each with the key of the question as its dataset gives it."""
    linked = linked_questions(store, order.linking, order.questions)
    return [(question_key(own), question) for own, question in zip(order.questions, linked, strict=True)]


def _rows(order: PathsOrder, searched: Sequence[Searched], graph: Graph) -> dict[str, list[dict[str, Any]]]:
    spec = order.spec
    tables: dict[str, list[dict[str, Any]]] = {
        "retrieval_specs": [{"retrieval_key": spec.key, "spec": spec.model_dump_json()}],
        "paths": [],
        "retrieval_pairs": [],
        "retrievals": [],
    }
    cut = graph.cut({e for one in searched for e in one.question.entities("question")}, spec.cap)
    for question, found, text in searched:
        key = {"retrieval_key": spec.key, "question_key": found.key}
        shown = [(path, True) for path in found.kept] + [(path, False) for path in found.dropped]
        shown.sort(key=lambda item: -item[0].score)
        tables["paths"] += [
            {**key, "rank": rank, "kept": kept, **_path_row(path)} for rank, (path, kept) in enumerate(shown)
        ]
        tables["retrieval_pairs"] += [{**key, **pair._asdict()} for pair in found.pairs]
        tables["retrievals"].append(
            {
                **key,
                "snapshot": spec.snapshot,
                "linking_key": spec.linking,
                "pairs": len(found.pairs),
                "connected": sum(pair.hops is not None for pair in found.pairs),
                "specific": sum(pair.specific_hops is not None for pair in found.pairs),
                "paths": found.paths,
                "min_hops": found.hops,
                "truncated": len(cut.intersection(question.entities("question"))),
                "graph": text.text,
                "lines": len(text.lines),
                "tokens": text.tokens,
                "unlabelled": len(text.unlabelled),
                "duplicates": len(text.lines) - len(set(text.lines)),
            }
        )
    return tables


def _path_row(path: GraphPath) -> dict[str, Any]:
    row: dict[str, Any] = {"source": path.source, "target": path.target, "hops": path.hops, "kind": path.kind}
    row |= {"score": path.score, "triples": json.dumps(path.triples)}
    if path.parts is not None:
        similarity, degree, length, sibling = path.parts
        row |= {"similarity": similarity, "degree_penalty": degree}
        row |= {"length_penalty": length, "sibling_penalty": sibling}
    return row
