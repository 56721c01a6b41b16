"""Retrieval as units over the starter facts, behind a real SPARQL server: rows that agree, and failures that stay alone."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Before torch is loaded: threads that spin while they wait starve the other processes of a small machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from flows.orders import Orders
from flows.parameters import Retrieve
from kg.graph import Graph
from kg.linearise import Linearised, linearise
from models.embedded import default_cache
from models.tokens import token_counter
from store.connection import Store
from store.home import Home
from store.types import Answer, InputError, Link, Question, RunError
from tasks.graphs import load_graph
from tasks.links import land_links
from tasks.paths import ATTEMPTS, PathsOrder, land_neighbourhoods, land_paths, missing_questions, want_of
from tasks.questions import question_key, register_questions

pytestmark = pytest.mark.real

QUESTIONS = 60  # of the starter set's training split: entities, dates, numbers, yes or no


def parameters(**retrieve: Any) -> Retrieve:
    chosen = {"similarity": "lexical", **retrieve}
    return Retrieve.model_validate(
        {"name": "paths", "train": {"split": "train", "limit": QUESTIONS}, "retrieve": chosen}
    )


class Fetched(NamedTuple):
    """A home in which everything is fetched and nothing is searched yet, and the questions of its orders."""

    home: Home
    questions: tuple[Question, ...]

    @property
    def store(self) -> Store:
        return self.home.store

    def order(self, *, questions: tuple[Question, ...] = (), **retrieve: Any) -> PathsOrder:
        """The order of all questions, or of some, under other parameters if they are given."""
        orders = Orders(parameters(**retrieve), self.home)
        [first, *_] = orders.paths(self.questions, each=False)
        return first.model_copy(update={"questions": questions or self.questions})

    def graph(self) -> Graph:
        order = self.order()
        return load_graph(self.store, order.spec.snapshot, order.spec.cap)

    def rows(self, table: str, key: str) -> list[dict[str, Any]]:
        return self.store.query(f"SELECT * FROM {table} WHERE retrieval_key = ? ORDER BY ALL", [key])  # noqa: S608


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    home = Home(tmp_path_factory.mktemp("filled"))
    orders = Orders(parameters(), home)
    questions = orders.searched_questions
    register_questions(home.store, questions)
    linking = orders.links(questions)
    assert linking is not None
    land_links(linking, home)
    graph = load_graph(home.store, orders.retrieval.snapshot, orders.retrieval.cap)
    requests = land_neighbourhoods(orders.neighbourhoods(questions), home, graph)
    assert requests == home.store.query("SELECT sum(attempts) AS n FROM endpoint_requests")[0]["n"]
    assert land_neighbourhoods(orders.neighbourhoods(questions), home, graph) == 0
    return Fetched(home, questions)


@pytest.fixture
def fetched(filled: Fetched, tmp_path: Path) -> Fetched:
    """A copy of the filled home, to land in."""
    shutil.copy(filled.store.path, tmp_path / "factscale.duckdb")
    return Fetched(Home(tmp_path), filled.questions)


def made(
    text: str = "Who?", kind: str = "entity", answer: str = "x", question: str = "Q1", targets: str = ""
) -> Question:
    links = [Link(entity=question, role="question")] + [Link(entity=one, role="answer") for one in targets.split()]
    return Question(
        id="m",
        dataset="d",
        split="test",
        text=text,
        answers=(Answer(text=answer),),
        answer_type=kind,
        links=tuple(links),
    )


class TestWants:
    def test_an_entity_is_its_own_target(self) -> None:
        want = want_of("key", made(targets="Q2 Q3"))
        assert (want.sources, want.targets, want.boolean, want.matches) == (("Q1",), ("Q2", "Q3"), False, None)

    @pytest.mark.parametrize(
        ("kind", "answer", "right", "wrong"),
        [
            ("date", "14 March 1879", "1879-03-14", "1879-03-15"),
            ("date", "1616", "1616-01-01", "1615-12-31"),
            ("number", "8,848.86", "8848.86", "8000"),
            ("number", "6", "6", "60"),
        ],
    )
    def test_a_date_or_number_is_recognised_among_literals(
        self, kind: str, answer: str, right: str, wrong: str
    ) -> None:
        want = want_of("key", made(kind=kind, answer=answer))
        assert want.targets == ()
        assert want.matches is not None
        assert want.matches(right)
        assert not want.matches(wrong)

    def test_a_literal_that_its_dataset_links_is_searched_as_an_entity(self) -> None:
        want = want_of("key", made(kind="number", answer="7", targets="Q23350"))
        assert (want.targets, want.matches) == (("Q23350",), None)

    def test_yes_or_no_has_no_target_whatever_is_linked(self) -> None:
        want = want_of("key", made(kind="boolean", answer="yes", targets="Q2"))
        assert (want.targets, want.boolean, want.matches) == ((), True, None)

    def test_a_text_has_the_targets_that_were_linked(self) -> None:
        assert want_of("key", made(kind="text", targets="Q2")).targets == ("Q2",)
        bare = want_of("key", made(kind="text"))
        assert (bare.targets, bare.matches, bare.boolean) == ((), None, False)


def checked(row: dict[str, Any], pairs: list[dict[str, Any]], paths: list[dict[str, Any]], order: PathsOrder) -> None:
    """That the rows of one question agree."""
    hops = [pair["hops"] for pair in pairs if pair["hops"] is not None]
    assert (row["pairs"], row["connected"]) == (len(pairs), len(hops))
    assert row["specific"] == sum(pair["specific_hops"] is not None for pair in pairs) <= row["connected"]
    assert row["paths"] == sum(pair["paths"] for pair in pairs)
    assert row["min_hops"] == min(hops, default=None)
    assert row["lines"] == len(row["graph"].splitlines()) <= order.spec.max_triples
    assert row["duplicates"] == len(row["graph"].splitlines()) - len(set(row["graph"].splitlines())) == 0
    assert row["unlabelled"] == row["truncated"] == 0
    assert [path["rank"] for path in paths] == list(range(len(paths)))
    scores = [path["score"] for path in paths]
    assert scores == sorted(scores, reverse=True)
    kept = [path for path in paths if path["kept"]]
    assert bool(kept) == bool(row["graph"]) >= bool(row["connected"])  # a yes/no question has its entities' own values
    assert len(kept) <= max(order.spec.top_paths, len({(path["source"], path["target"]) for path in kept}))
    for path in paths:
        parts = ("similarity", "degree_penalty", "length_penalty", "sibling_penalty")
        assert path["score"] == pytest.approx(sum(path[part] for part in parts), abs=1e-5)
        assert 0 <= path["similarity"] <= 1
        assert all(path[part] <= 0 for part in parts[1:])
        triples = json.loads(path["triples"])
        assert path["hops"] == len(triples) <= order.spec.max_hops
        assert path["source"] in triples[0]
        assert path["target"] in triples[-1]


class TestLanding:
    def test_the_rows_of_every_question_agree(self, fetched: Fetched) -> None:
        order = fetched.order()
        total = land_paths(order, fetched.store, fetched.graph())
        found = fetched.rows("retrievals", order.spec.key)
        assert total == sum(row["paths"] for row in found) > 0
        assert [row["question_key"] for row in found] == sorted(map(question_key, fetched.questions))
        pairs, paths = (fetched.rows(table, order.spec.key) for table in ("retrieval_pairs", "paths"))
        count = token_counter(order.tokenizer, default_cache())
        for row in found:
            mine = [[one for one in some if one["question_key"] == row["question_key"]] for some in (pairs, paths)]
            checked(row, *mine, order)
            assert row["tokens"] == (count(row["graph"]) if row["graph"] else 0)
            assert (row["snapshot"], row["linking_key"]) == (order.spec.snapshot, order.spec.linking)
        [spec] = fetched.rows("retrieval_specs", order.spec.key)
        assert json.loads(spec["spec"]) == order.spec.model_dump(mode="json")

    def test_each_type_of_answer_has_its_kind_of_path(self, fetched: Fetched) -> None:
        order = fetched.order()
        land_paths(order, fetched.store, fetched.graph())
        types = {question_key(one): one.answer_type for one in fetched.questions}
        rows = [row for row in fetched.rows("paths", order.spec.key) if row["kept"]]
        kinds = Counter((types[row["question_key"]], row["kind"]) for row in rows)
        assert {kind for kind, _ in kinds} == {"entity", "date", "number", "boolean"}
        for answer_type, allowed in (
            ("entity", {"pair", "joint"}),
            ("date", {"literal"}),
            ("number", {"literal"}),
            ("boolean", {"between", "literal"}),
        ):
            assert {kind for one, kind in kinds if one == answer_type} <= allowed

    def test_gold_answers_stand_in_the_text_that_a_teacher_reads(self, fetched: Fetched) -> None:
        order = fetched.order()
        land_paths(order, fetched.store, fetched.graph())
        graphs = {row["question_key"]: row["graph"] for row in fetched.rows("retrievals", order.spec.key)}
        for question in fetched.questions:
            graph = graphs[question_key(question)]
            assert graph, question.text
            if question.answer_type == "entity":
                assert any(form in graph for form in question.gold), question.text

    def test_a_second_landing_changes_nothing(self, fetched: Fetched) -> None:
        order, graph = fetched.order(), fetched.graph()
        tables = ("retrievals", "retrieval_pairs", "paths", "retrieval_specs")
        land_paths(order, fetched.store, graph)
        before = [fetched.rows(table, order.spec.key) for table in tables]
        land_paths(order, fetched.store, fetched.graph())
        assert [fetched.rows(table, order.spec.key) for table in tables] == before
        assert missing_questions(fetched.store, order.spec, fetched.questions) == ()

    def test_a_question_alone_lands_what_it_lands_in_a_batch(self, fetched: Fetched, tmp_path: Path) -> None:
        shutil.copy(fetched.store.path, tmp_path / "alone.duckdb")
        alone, order, graph = Store(tmp_path / "alone.duckdb"), fetched.order(), fetched.graph()
        land_paths(order, fetched.store, graph)
        for question in fetched.questions[:6]:
            land_paths(fetched.order(questions=(question,)), alone, graph)
        keys = {question_key(question) for question in fetched.questions[:6]}
        for table in ("retrievals", "retrieval_pairs", "paths"):
            mine = alone.query(f"SELECT * FROM {table} ORDER BY ALL")  # noqa: S608
            rows = [row for row in fetched.rows(table, order.spec.key) if row["question_key"] in keys]
            assert [row | {"landed_at": None} for row in mine] == [row | {"landed_at": None} for row in rows]

    def test_two_questions_may_share_an_id(self, fetched: Fetched) -> None:
        first, second = fetched.questions[0], fetched.questions[3]
        twins = (first, second.model_copy(update={"id": first.id, "dataset": "another"}))
        order = fetched.order(questions=twins)
        own = fetched.order(questions=(second,))
        register_questions(fetched.store, twins)
        land_links(Orders(parameters(), fetched.home).links(twins), fetched.home)  # type: ignore[arg-type]
        land_paths(order, fetched.store, fetched.graph())
        land_paths(own, fetched.store, fetched.graph())
        assert missing_questions(fetched.store, order.spec, twins) == ()
        graphs = {row["question_key"]: row["graph"] for row in fetched.rows("retrievals", order.spec.key)}
        assert graphs[question_key(twins[1])] == graphs[question_key(second)] != graphs[question_key(first)]


class TestText:
    def test_tokens_stay_within_the_limit(self, fetched: Fetched) -> None:
        limit, graph = 40, fetched.graph()
        free, order = fetched.order(), fetched.order(max_tokens=limit)
        land_paths(free, fetched.store, graph)
        land_paths(order, fetched.store, graph)
        whole, cut = (
            {row["question_key"]: row for row in fetched.rows("retrievals", o.spec.key)} for o in (free, order)
        )
        assert any(row["tokens"] > limit for row in whole.values())
        for key, row in cut.items():
            assert row["tokens"] <= limit or row["lines"] == 1
            assert row["tokens"] <= whole[key]["tokens"]
            assert set(row["graph"].splitlines()) <= set(whole[key]["graph"].splitlines())
            assert bool(row["graph"]) == bool(whole[key]["graph"])

    def test_verbalised_paths_are_sentences(self, fetched: Fetched) -> None:
        order = fetched.order(form="verbalised", questions=fetched.questions[:12])
        land_paths(order, fetched.store, fetched.graph())
        graphs = {row["question_key"]: row["graph"] for row in fetched.rows("retrievals", order.spec.key)}
        assert "The capital of France is Paris." in graphs[question_key(fetched.questions[0])].splitlines()
        assert all(line.endswith(".") for graph in graphs.values() for line in graph.splitlines())


Fails = Callable[[Question, int], bool]


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Callable[[Question, Fails], list[int]]:
    """Makes the text of one question's paths fail by the number of the try; the list counts the tries."""

    def arranged(bad: Question, fails: Fails) -> list[int]:
        made: list[int] = []

        def spoilt(paths: Any, *arguments: Any, **options: Any) -> Linearised:
            if any(path.source in bad.entities("question") for path in paths):
                made.append(len(made))
                if fails(bad, len(made)):
                    raise ValueError("a label of another world")
            return linearise(paths, *arguments, **options)

        monkeypatch.setattr("tasks.paths.linearise", spoilt)
        return made

    return arranged


class TestFailures:
    @pytest.fixture
    def bad(self, fetched: Fetched) -> Question:
        """A question whose entity is in no other."""
        counts = Counter(entity for one in fetched.questions for entity in one.entities("question"))
        return next(
            one for one in fetched.questions if one.id.endswith("0005") and counts[one.entities("question")[0]] == 1
        )

    def test_one_question_does_not_take_its_batch_with_it(
        self, fetched: Fetched, bad: Question, tries: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order, graph = fetched.order(), fetched.graph()
        made = tries(bad, lambda _bad, _number: True)
        with pytest.raises(RunError, match=rf"1 of {QUESTIONS} questions failed; .*{bad.id}.*a label of another world"):
            land_paths(order, fetched.store, graph)
        assert len(made) == 1 + ATTEMPTS
        assert missing_questions(fetched.store, order.spec, fetched.questions) == (bad,)
        assert not [row for row in fetched.rows("paths", order.spec.key) if row["question_key"] == question_key(bad)]

        monkeypatch.undo()
        before = fetched.rows("retrievals", order.spec.key)
        land_paths(fetched.order(questions=(bad,)), fetched.store, graph)
        after = fetched.rows("retrievals", order.spec.key)
        [new] = [row for row in after if row not in before]
        assert new["question_key"] == question_key(bad)
        assert len(after) == len(before) + 1
        assert missing_questions(fetched.store, order.spec, fetched.questions) == ()

    def test_what_passes_at_a_later_try_is_no_failure(self, fetched: Fetched, bad: Question, tries: Any) -> None:
        order = fetched.order()
        made = tries(bad, lambda _bad, number: number <= ATTEMPTS)
        land_paths(order, fetched.store, fetched.graph())
        assert len(made) == 1 + ATTEMPTS
        assert missing_questions(fetched.store, order.spec, fetched.questions) == ()

    def test_a_failure_of_all_is_told_as_it_is_and_lands_nothing(
        self, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_tokenizer(*_arguments: object) -> None:
            raise InputError("no tokenizer here")

        monkeypatch.setattr("tasks.paths.token_counter", no_tokenizer)
        order = fetched.order(questions=fetched.questions[:3])
        with pytest.raises(InputError, match=r"^no tokenizer here$"):
            land_paths(order, fetched.store, fetched.graph())
        assert fetched.rows("retrievals", order.spec.key) == fetched.rows("retrieval_specs", order.spec.key) == []
