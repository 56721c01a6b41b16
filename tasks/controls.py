"""The wrong-answer control as a unit: how often a question is joined to an answer that is wrong.

"A path exists" says little where nearly everything is joined to everything. So each question is searched a second time,
with the answer of another question of its dataset in place of its own, of the same degree as far as there is one: what
coverage of the right answers is worth is its lift over that.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from prefect import task

from kg.candidates import Want
from kg.fetching import Fetcher
from kg.graph import Graph
from kg.neighbourhoods import Direction
from kg.retrieval import Found, Retriever
from store.home import Home
from store.types import Frozen, Question, Triple
from tasks.graphs import Source, open_fetcher
from tasks.keys import ControlSpec, LinkingSpec, RetrievalSpec
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.links import linked_questions
from tasks.progress import progress
from tasks.questions import question_key

DRAW_VERSION = "1"
NEAREST = 20  # answers of the nearest degree, among which the wrong one is drawn


class ControlOrder(Frozen):
    """A work order: the control of the questions of one study."""

    name: str
    spec: ControlSpec
    retrieval: RetrievalSpec
    linking: LinkingSpec
    source: Source
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """The unit's key."""
        return self.spec.key


class Drawn(NamedTuple):
    """A question with one of its answers and a wrong one."""

    question: Question
    answer: str
    wrong: str


@task(name="control", **UNIT_OPTIONS)
def control(order: ControlOrder, graph: Any) -> int:
    """Search for the wrong answers. Returns the number of questions that have one."""
    return land_control(order, Home.current(), graph)


def land_control(order: ControlOrder, home: Home, graph: Graph) -> int:
    """Fetch, search and land the control of every question that has both an entity and an answer in the graph."""
    clock, store, spec = Clock(), home.store, order.retrieval
    questions = linked_questions(store, order.linking, order.questions)
    keys = {id(q): question_key(own) for q, own in zip(questions, order.questions, strict=True)}
    with (
        open_fetcher(order.source, home, graph, purpose="control") as fetcher,
        progress(order.name, len(questions)) as meter,
    ):
        answers = {entity for q in questions for entity in q.entities("answer")}
        fetcher.degrees(sorted(answers), spec.cap)
        drawn = draw(questions, graph.degrees, order.spec.seed)
        # Where both were searched alike: neither the question's words nor its other entities choose among paths.
        retriever = Retriever(graph, spec.options.model_copy(update={"joint": False}), _Blind())
        wants = [
            _want(keys[id(one.question)], one.question, target) for one in drawn for target in (one.answer, one.wrong)
        ]
        retriever.gather(wants, _PathsOnly(fetcher), lambda _stage, done: meter.advance(done // 2 - meter.done))
        found = retriever.find(wants)
    rows = [
        {
            "control_key": order.key,
            "question_key": right.key,
            "dataset": one.question.dataset,
            "answer": one.answer,
            "wrong": one.wrong,
            "hops": wrong.hops,
            "specific_hops": _specific(wrong),
            "answer_hops": right.hops,
            "answer_specific_hops": _specific(right),
        }
        for one, right, wrong in zip(drawn, found[::2], found[1::2], strict=True)
    ]
    store.land({"controls": rows}, clock.unit("control", order, order.spec, rows=len(rows)))
    return len(rows)


def draw(questions: Sequence[Question], degrees: Mapping[str, int], seed: int) -> list[Drawn]:
    """For each question one of its answers and another question's answer of like degree that is none of its own.

    Drawn by the seed and the question, from the :data:`NEAREST` of its dataset; a question without an entity, without an
    answer, or without any other answer in its dataset is left out.
    """
    pools: dict[str, list[tuple[int, str]]] = {}
    for dataset in sorted({q.dataset for q in questions}):
        entities = {entity for q in questions if q.dataset == dataset for entity in q.entities("answer")}
        pools[dataset] = sorted((degrees.get(entity, 0), entity) for entity in entities)
    drawn: list[Drawn] = []
    for question in questions:
        own = {*question.entities("answer"), *question.entities("question")}
        # An answer that the question names ("which is larger, A or B?") is joined to itself, and proves nothing.
        answers = sorted(set(question.entities("answer")) - set(question.entities("question")))
        if not question.entities("question") or not answers or question.answer_type == "boolean":
            continue
        dice = random.Random(f"{seed} {question.dataset} {question.id}")  # noqa: S311 - a sample, not a secret
        answer = dice.choice(answers)
        near = _nearest(pools[question.dataset], (degrees.get(answer, 0), answer), own)
        if near:
            drawn.append(Drawn(question, answer, dice.choice(near)))
    return drawn


def _nearest(pool: Sequence[tuple[int, str]], entry: tuple[int, str], own: Collection[str]) -> list[str]:
    """The :data:`NEAREST` entities of a sorted pool around an entry, without the question's own."""
    place = bisect.bisect_left(pool, entry)
    low, high = place - 1, place
    found: list[str] = []
    while len(found) < NEAREST and (low >= 0 or high < len(pool)):
        down = entry[0] - pool[low][0] if low >= 0 else None
        up = pool[high][0] - entry[0] if high < len(pool) else None
        if up is None or (down is not None and down <= up):
            candidate, low = pool[low][1], low - 1
        else:
            candidate, high = pool[high][1], high + 1
        if candidate not in own:
            found.append(candidate)
    return sorted(found)


def _want(key: str, question: Question, target: str) -> Want:
    return Want(key, "", question.entities("question"), (target,))


def _specific(found: Found) -> int | None:
    return min((pair.specific_hops for pair in found.pairs if pair.specific_hops is not None), default=None)


class _Blind:
    """A similarity that knows no question."""

    name = "none"

    def __call__(self, relations: Sequence[str], questions: Sequence[str]) -> npt.NDArray[np.float64]:
        return np.zeros(len(relations))


class _PathsOnly:
    """A source without names of items and without statements, which the control prints nowhere."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def expansions(self, wanted: Mapping[Direction, Collection[str]], cap: int) -> None:
        """As the fetcher."""
        self._fetcher.expansions(wanted, cap)

    def degrees(self, entities: Collection[str], cap: int) -> None:
        """As the fetcher."""
        self._fetcher.degrees(entities, cap)

    def labels(self, ids: Collection[str]) -> None:
        """Those of properties, which the next retrieval would ask for: it names every property of the graph."""
        self._fetcher.labels([one for one in ids if one.startswith("P")])

    def details(self, triples: Collection[Triple]) -> None:
        """Nothing."""
