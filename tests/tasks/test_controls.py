"""The wrong-answer control: which answers are drawn, and what is found for them in the starter facts."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from flows.orders import Orders
from flows.parameters import Retrieve
from kg.graph import Graph
from kg.starter import facts
from store.home import Home
from store.types import Answer, Link, Question
from tasks.controls import NEAREST, ControlOrder, Drawn, draw, land_control
from tasks.graphs import load_graph
from tasks.links import land_links
from tasks.questions import question_key, register_questions

QUESTIONS = 40


def made(number: int, answers: str, entities: str = "Q1", dataset: str = "d", kind: str = "entity") -> Question:
    links = [Link(entity=one, role="question") for one in entities.split()]
    links += [Link(entity=one, role="answer") for one in answers.split()]
    fields: dict[str, Any] = {"id": f"q{number}", "dataset": dataset, "split": "test", "text": "Who?", "links": links}
    return Question.model_validate({**fields, "answers": [Answer(text="x")], "answer_type": kind})


def world(seed: int, size: int = 120) -> tuple[list[Question], dict[str, int]]:
    """Questions of two datasets with one to three answers each, which they share, and degrees with many ties."""
    dice = random.Random(seed)
    questions = [
        made(
            number,
            " ".join(f"Q{dice.randint(100, 180)}" for _ in range(dice.randint(1, 3))),
            " ".join(f"Q{dice.randint(90, 110)}" for _ in range(dice.randint(1, 2))),
            dice.choice(["d", "e"]),
        )
        for number in range(size)
    ]
    return questions, {f"Q{number}": dice.randint(0, 12) ** 2 for number in range(100, 170)}  # some are unknown: 0


def pool(questions: list[Question], dataset: str) -> set[str]:
    return set(chain(*(one.entities("answer") for one in questions if one.dataset == dataset)))


def distance(one: Drawn, other: str, degrees: Mapping[str, int]) -> int:
    return abs(degrees.get(other, 0) - degrees.get(one.answer, 0))


class TestDraw:
    @pytest.mark.parametrize("seed", range(6))
    def test_a_wrong_answer_is_another_questions_of_the_nearest_degree(self, seed: int) -> None:
        questions, degrees = world(seed)
        drawn = draw(questions, degrees, seed)
        told = [one for one in questions if set(one.entities("answer")) <= set(one.entities("question"))]
        assert [one.question for one in drawn] == [one for one in questions if one not in told]
        for one in drawn:
            own = {*one.question.entities("answer"), *one.question.entities("question")}
            others = pool(questions, one.question.dataset) - own
            assert one.answer in set(one.question.entities("answer")) - set(one.question.entities("question"))
            assert one.wrong in others
            nearest = sorted(distance(one, other, degrees) for other in others)[:NEAREST]
            assert distance(one, one.wrong, degrees) <= nearest[-1]

    def test_the_seed_and_the_question_decide(self) -> None:
        questions, degrees = world(1)
        drawn = draw(questions, degrees, 7)
        assert draw(questions, degrees, 7) == drawn
        assert draw(questions[::-1], degrees, 7) == drawn[::-1]
        other = draw(questions, degrees, 8)
        assert sum(a.wrong != b.wrong for a, b in zip(drawn, other, strict=True)) > len(drawn) / 2

    def test_all_of_the_nearest_are_drawn_from(self) -> None:
        answers = [made(number, f"Q{100 + number}") for number in range(60)]
        degrees = {f"Q{100 + number}": 10 * number for number in range(60)}
        asked = [made(1000 + number, "Q130", "Q2") for number in range(400)]
        wrong = {one.wrong for one in draw([*answers, *asked], degrees, 0) if one.question in asked}
        assert {f"Q{number}" for number in range(121, 140)} - {"Q130"} <= wrong
        assert len(wrong) == NEAREST

    @pytest.mark.parametrize(
        "left_out",
        [
            made(9, "Q5", entities=""),
            made(9, ""),
            made(9, "Q5", kind="boolean"),
            made(9, "Q5", dataset="lonely"),
            made(9, "Q5", entities="Q5 Q6"),  # "which is larger, A or B?"
            made(9, "Q5 Q6 Q7", entities="Q8"),  # every answer of its dataset is its own
            made(9, "Q5 Q6", entities="Q7"),  # or its entity
        ],
    )
    def test_who_is_left_out(self, left_out: Question) -> None:
        others = [made(1, "Q5"), made(2, "Q6"), made(3, "Q7")]
        drawn = draw([*others, left_out], {}, 0)
        assert [one.question for one in drawn] == others


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with linked questions and no path."""
    home = Home(tmp_path_factory.mktemp("home"))
    orders = Orders(parameters(), home)
    register_questions(home.store, orders.searched_questions)
    linking = orders.links(orders.searched_questions)
    assert linking is not None
    land_links(linking, home)
    return home


def parameters(**changes: Any) -> Retrieve:
    fields = {"name": "control", "train": {"split": "train", "limit": QUESTIONS}, "retrieve": {"similarity": "lexical"}}
    return Retrieve.model_validate({**fields, **changes})


def ordered(home: Home, **changes: Any) -> ControlOrder:
    order = Orders(parameters(**changes), home).control()
    assert order is not None
    return order


def known(home: Home, order: ControlOrder) -> Graph:
    return load_graph(home.store, order.retrieval.snapshot, order.retrieval.cap)


@pytest.fixture(scope="module")
def landed(home: Home) -> tuple[ControlOrder, list[dict[str, Any]]]:
    order = ordered(home)
    count = land_control(order, home, known(home, order))
    rows = home.store.query("SELECT * FROM controls WHERE control_key = ? ORDER BY question_key", [order.key])
    assert count == len(rows)
    return order, rows


def hops(source: str, target: str, most: int) -> int | None:
    """The distance of two entities over the facts, whichever way they point."""
    pairs = [(fact.subject, fact.object) for fact in facts() if fact.datatype == "item"]
    edges: dict[str, set[str]] = {}
    for a, b in pairs:
        edges.setdefault(a, set()).add(b)
        edges.setdefault(b, set()).add(a)
    reached = {source}
    for step in range(most + 1):
        if target in reached:
            return step
        reached |= set(chain(*(edges.get(one, ()) for one in reached)))
    return None


@pytest.mark.real
class TestLanding:
    def test_every_question_with_an_entity_as_answer_has_a_row(self, landed: Any) -> None:
        order, rows = landed
        entitled = {question_key(one): one for one in order.questions if one.answer_type == "entity"}
        assert {row["question_key"] for row in rows} == set(entitled)
        for row in rows:
            question = entitled[row["question_key"]]
            assert (row["control_key"], row["dataset"]) == (order.key, "starter")
            assert row["answer"] in question.entities("answer")
            assert row["wrong"] not in {*question.entities("answer"), *question.entities("question")}

    def test_the_distances_are_those_of_the_facts(self, landed: Any) -> None:
        order, rows = landed
        questions = {question_key(one): one for one in order.questions}
        for row in rows:
            for target, found in ((row["answer"], row["answer_hops"]), (row["wrong"], row["hops"])):
                sources = questions[row["question_key"]].entities("question")
                true = [hops(source, target, order.retrieval.max_hops) for source in sources]
                assert found == min((one for one in true if one is not None), default=None)
        assert all(row["answer_hops"] is not None for row in rows)
        assert {row["hops"] for row in rows} & {None, 3}
        for kind in ("", "answer_"):
            assert all(row[f"{kind}specific_hops"] == row[f"{kind}hops"] for row in rows)  # the slice has no hub

    def test_its_unit_and_its_requests_are_kept(self, home: Home, landed: Any) -> None:
        order, rows = landed
        [unit] = home.store.query("SELECT kind, name, row_count, spec ->> 'seed' AS seed FROM units")
        assert unit == {"kind": "control", "name": order.name, "row_count": len(rows), "seed": "0"}
        purposes = home.store.query("SELECT purpose, count(*) AS n FROM endpoint_requests GROUP BY 1")
        assert [row["purpose"] for row in purposes] == ["control"]
        assert not home.store.query("SELECT 1 FROM statements")  # it prints nothing

    def test_a_second_landing_asks_for_nothing_and_changes_nothing(self, home: Home, landed: Any) -> None:
        order, rows = landed
        requests = home.store.query("SELECT count(*) AS n FROM endpoint_requests")
        assert land_control(order, home, known(home, order)) == len(rows)
        again = home.store.query("SELECT * FROM controls ORDER BY question_key")
        assert again == rows
        assert home.store.query("SELECT count(*) AS n FROM endpoint_requests") == requests

    def test_another_seed_or_question_is_another_control(self, home: Home, landed: Any) -> None:
        order, rows = landed
        other = ordered(home, seed=1)
        fewer = ordered(home, train={"split": "train", "limit": QUESTIONS - 1})
        assert len({order.key, other.key, fewer.key}) == 3
        assert order.key == ordered(home, name="renamed").key
        land_control(other, home, known(home, other))
        drawn = home.store.query("SELECT * FROM controls WHERE control_key = ? ORDER BY question_key", [other.key])
        assert len(drawn) == len(rows)
        assert [row["wrong"] for row in drawn] != [row["wrong"] for row in rows]


def test_none_is_asked_for(tmp_path: Path) -> None:
    assert Orders(parameters(retrieve={"control": False}), Home(tmp_path)).control() is None
