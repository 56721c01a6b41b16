"""Queries and views on retrieval, against a made-up retrieval whose every question is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import made_retrieval as made
import pytest
from made_retrieval import Fact

from store import retrieval
from store.connection import Store

LITERAL = ("number", "date", "boolean")
SOURCE_ORDER = ("gold_qid", "mid_map", "label")


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, tuple[Fact, ...]]:
    store = Store(tmp_path_factory.mktemp("store") / "made.duckdb")
    return store, made.make(store)


@pytest.fixture(scope="module")
def store(landed: tuple[Store, tuple[Fact, ...]]) -> Store:
    return landed[0]


@pytest.fixture(scope="module")
def facts(landed: tuple[Store, tuple[Fact, ...]]) -> tuple[Fact, ...]:
    return landed[1]


@pytest.fixture(scope="module")
def keys(facts: tuple[Fact, ...]) -> list[str]:
    return [fact.key for fact in facts]


def best(sources: Iterable[str]) -> str:
    return min(sources, key=SOURCE_ORDER.index, default="none")


def answer_source(fact: Fact) -> str:
    return "literal" if not fact.answer_sources and fact.answer_type in LITERAL else best(fact.answer_sources)


def shortest(lengths: Iterable[int | None]) -> int | None:
    return min((one for one in lengths if one is not None), default=None)


def by_rank(counts: Iterable[int], share: float) -> int:
    """The nearest-rank percentile: the least count that at least this share of the counts does not exceed."""
    ordered = sorted(counts)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def mean(values: Iterable[object]) -> float:
    holds = [bool(value) for value in values]
    return sum(holds) / len(holds)


def test_the_made_retrieval_has_every_awkward_question(facts: tuple[Fact, ...]) -> None:
    kinds: dict[str, Callable[[Fact], object]] = {
        "not linked": lambda fact: not fact.sources,
        "no path": lambda fact: fact.pairs and not fact.any,
        "a hub only": lambda fact: fact.any and not fact.specific,
        "only the wrong answer": lambda fact: fact.control and not fact.control.answer and fact.control.wrong,
        "no control": lambda fact: fact.specific and not fact.control,
        "a literal": lambda fact: fact.answer_type in LITERAL and fact.any,
    }
    assert [name for name, holds in kinds.items() if not any(holds(fact) for fact in facts)] == []


def test_a_searched_question_is_one_row(store: Store, facts: tuple[Fact, ...], keys: list[str]) -> None:
    rows = {row["question_key"]: row for row in retrieval.question_rows(store, made.RETRIEVAL, keys)}
    assert set(rows) == set(keys)
    for fact in facts:
        row = rows[fact.key]
        assert (row["dataset"], row["split"]) == (fact.dataset, fact.split)
        assert (row["question_source"], row["answer_source"]) == (best(fact.sources), answer_source(fact))
        assert row["linked"] == (bool(fact.sources) and answer_source(fact) != "none")
        assert row["pairs"] == len(fact.pairs)
        assert row["connected"] == sum(pair.hops is not None for pair in fact.pairs)
        assert row["specific"] == sum(pair.specific is not None for pair in fact.pairs)
        assert row["min_hops"] == shortest(pair.hops for pair in fact.pairs)
        assert row["min_specific_hops"] == shortest(pair.specific for pair in fact.pairs)
        assert (row["found"], row["kept"]) == (sum(pair.paths for pair in fact.pairs), fact.kept)
        assert (row["lines"], row["tokens"], row["truncated"]) == (fact.lines, fact.tokens, fact.truncated)
        assert (row["unlabelled"], row["duplicates"]) == (fact.unlabelled, fact.duplicates)


def test_only_the_questions_that_are_meant_are_told(store: Store, keys: list[str]) -> None:
    some = [keys[3], keys[100], "never searched"]
    assert {row["question_key"] for row in retrieval.question_rows(store, made.RETRIEVAL, some)} == set(some[:2])
    for rows in (retrieval.question_rows, retrieval.control_rows, retrieval.pair_rows, retrieval.hop_rows):
        assert rows(store, made.RETRIEVAL, []) == []
        assert rows(store, "no such retrieval", keys) == []
    assert retrieval.request_rows(store, "no such retrieval") == []
    assert retrieval.searched_rows(store, "no such retrieval") == [{"questions": 0, "pairs": 0}]


def test_a_retrieval_of_before_linkings_has_the_datasets_links(store: Store, keys: list[str]) -> None:
    (row,) = retrieval.question_rows(store, made.OTHER_RETRIEVAL, keys)
    # The answer is a Freebase id, which no search can start from.
    assert (row["question_key"], row["question_source"], row["answer_source"]) == (keys[0], "gold_qid", "none")
    assert (row["linked"], row["specific"], row["lines"]) == (False, None, None)
    assert row["min_specific_hops"] == 5


def test_the_control_is_the_retrievals_newest(store: Store, facts: tuple[Fact, ...], keys: list[str]) -> None:
    rows = {row["question_key"]: row for row in retrieval.control_rows(store, made.RETRIEVAL, keys)}
    names = ("answer_hops", "answer_specific_hops", "wrong_hops", "wrong_specific_hops")
    # The first question is in an older control of this retrieval, and in one of another retrieval.
    assert facts[0].control is None
    expected = {fact.key: tuple(fact.control) for fact in facts if fact.control} | {keys[0]: (9, 9, 9, 9)}
    assert {key: tuple(row[name] for name in names) for key, row in rows.items()} == expected


def test_one_of_several_controls_can_be_chosen(tmp_path: Path) -> None:
    store = Store(tmp_path / "made.duckdb")
    fact = next(fact for fact in made.make(store, questions=30) if fact.control and fact.control.answer)
    assert fact.control
    control = {"question_key": fact.key, "dataset": "d", "answer": "Q1", "wrong": "Q2", "hops": 7, "answer_hops": 8}
    store.land({"controls": [control | {"control_key": made.OLDER_CONTROL}]})
    chosen: dict[str | None, int | None] = {None: fact.control.wrong, made.CONTROL: fact.control.wrong}
    for key, hops in {**chosen, made.OLDER_CONTROL: 7}.items():
        (row,) = retrieval.control_rows(store, made.RETRIEVAL, [fact.key], key)
        assert row["wrong_hops"] == hops
    assert retrieval.control_rows(store, made.RETRIEVAL, [fact.key], made.OTHER_CONTROL) == []


def test_pairs_have_the_nearest_rank_percentiles(store: Store, facts: tuple[Fact, ...], keys: list[str]) -> None:
    rows = {row["dataset"]: row for row in retrieval.pair_rows(store, made.RETRIEVAL, keys)}
    assert set(rows) == {*made.DATASETS, None}
    for dataset, row in rows.items():
        pairs = [pair for fact in facts if dataset in (None, fact.dataset) for pair in fact.pairs]
        counts = [pair.paths for pair in pairs if pair.hops is not None]
        assert (row["pairs"], row["connected"]) == (len(pairs), len(counts))
        assert row["specific"] == sum(pair.specific is not None for pair in pairs)
        assert (row["p50"], row["p95"], row["most"]) == (by_rank(counts, 0.5), by_rank(counts, 0.95), max(counts))


def test_hops_are_a_histogram_of_pairs(store: Store, facts: tuple[Fact, ...], keys: list[str]) -> None:
    rows = retrieval.hop_rows(store, made.RETRIEVAL, keys)
    expected = Counter((fact.dataset, pair.hops, pair.specific) for fact in facts for pair in fact.pairs)
    assert {(row["dataset"], row["hops"], row["specific_hops"]): row["pairs"] for row in rows} == expected
    assert any(hops is None for _, hops, _ in expected)


def test_requests_are_those_of_the_snapshot(store: Store, facts: tuple[Fact, ...]) -> None:
    rows = retrieval.request_rows(store, made.RETRIEVAL)
    mine = [one for one in made.REQUESTS if one[0] == made.SNAPSHOT]
    assert sum(row["requests"] for row in rows) == sum(count for *_, count in mine)
    found = {(row["purpose"], row["outcome"], row["status"]): row for row in rows}
    assert found["neighbourhoods", "ok", 200]["requests"] == 34
    assert found["neighbourhoods", "ok", 200]["attempts"] == 30 + 3 * 4
    assert found["neighbourhoods", "ok", 200]["bytes"] == 30 * 50_000 + 4 * 40_000
    assert found["degrees", "unreached", None]["waited"] == 0.5
    assert retrieval.expansion_rows(store, made.RETRIEVAL) == [
        {"direction": "in", "cap": 500, "entities": 20, "truncated": 3, "edges": 3 * 500 + 17 * 20},
        {"direction": "out", "cap": 500, "entities": 40, "truncated": 0, "edges": 800},
    ]
    # The pairs of two questions may be the same; another study's question was searched in this snapshot too.
    pairs = {(int(fact.key[2:]) // 2, place) for fact in facts for place in range(len(fact.pairs))}
    searched = retrieval.searched_rows(store, made.RETRIEVAL)
    assert searched == [{"questions": len(facts) + 1, "pairs": len(pairs | {(99_999 // 2, 0)})}]


def test_examples_are_spread_over_hops_and_hubs(store: Store, facts: tuple[Fact, ...], keys: list[str]) -> None:
    rows = retrieval.example_rows(store, made.RETRIEVAL, keys, count=6)
    cells = {(row["min_hops"], row["min_specific_hops"] is None) for row in rows}
    assert cells == {(hops, hub) for hops in (1, 2, 3) for hub in (False, True)}
    known = {fact.key: fact for fact in facts}
    assert all(row["kept"] == known[row["question_key"]].kept > 0 for row in rows)
    assert rows[0]["answers"][0]["text"] == "Paris"
    assert rows[0]["graph"].startswith("France, capital, Paris")
    assert len({row["dataset"] for row in retrieval.example_rows(store, made.RETRIEVAL, keys, count=24)}) >= 3
    assert retrieval.example_rows(store, made.RETRIEVAL, keys, count=6) == rows


def coverage(store: Store, dataset: str) -> dict[str, Any]:
    """The view's row, without the question of another study."""
    rows = store.query_untrusted("SELECT * FROM retrieval_coverage WHERE retrieval_key = 'retrieval-a'")
    return next(row for row in rows if row["dataset"] == dataset)


@pytest.mark.parametrize("dataset", list(made.DATASETS)[1:], ids=["cwq", "worse than chance", "no control"])
def test_people_can_ask_for_the_coverage(store: Store, facts: tuple[Fact, ...], dataset: str) -> None:
    mine = [fact for fact in facts if fact.dataset == dataset]
    row = coverage(store, dataset)
    assert row["questions"] == len(mine)
    assert row["linked_question"] == sum(bool(fact.sources) for fact in mine)
    assert row["linked"] == sum(bool(fact.sources) and answer_source(fact) != "none" for fact in mine)
    assert (row["connected"], row["connected_specific"]) == (sum(f.any for f in mine), sum(f.specific for f in mine))
    assert row["pairs"] == sum(len(fact.pairs) for fact in mine)
    controls = [fact.control for fact in mine if fact.control]
    assert row["controls"] == len(controls)
    if not controls:
        assert row["answer_any"] is row["wrong_any"] is row["lift_any"] is row["lift_specific"] is None
        return
    right, wrong = mean(c.answer for c in controls), mean(c.wrong for c in controls)
    assert (row["answer_any"], row["wrong_any"]) == pytest.approx((right, wrong))
    assert row["lift_any"] == pytest.approx(right / wrong)
    specific = [mean(c.answer_specific for c in controls), mean(c.wrong_specific for c in controls)]
    assert row["lift_specific"] == pytest.approx(specific[0] / specific[1])


def test_a_lift_over_nothing_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "made.duckdb")
    made.make(store, questions=2)
    control = {"control_key": made.CONTROL, "question_key": "3-00000", "dataset": "d", "answer": "Q1", "wrong": "Q2"}
    store.land({"controls": [control | {"answer_hops": 1}]})
    row = coverage(store, list(made.DATASETS)[3])
    assert (row["controls"], row["answer_any"], row["wrong_any"], row["lift_any"]) == (1, 1.0, 0.0, None)


def test_people_can_ask_for_paths_and_link_sources(store: Store, facts: tuple[Fact, ...]) -> None:
    rows = store.query_untrusted("SELECT * FROM retrieval_paths WHERE retrieval_key = 'retrieval-a'")
    found = {row["question_key"]: row for row in rows}
    for fact in facts:
        row = found[fact.key]
        total = sum(pair.paths for pair in fact.pairs)
        assert (row["found"], row["stored"], row["kept"]) == (total, min(total, 6 + fact.kept), fact.kept)
        assert (row["kept_joint"], row["kept_pair"]) == (min(fact.kept, 1), max(fact.kept - 1, 0))
        assert row["best_score"] == (0.55 if fact.kept else None)
    sources = store.query_untrusted("SELECT * FROM link_sources WHERE linking_key = 'linking-a'")
    expected = Counter((fact.dataset, "question", best(fact.sources)) for fact in facts)
    expected += Counter((fact.dataset, "answer", answer_source(fact)) for fact in facts)
    assert {(row["dataset"], row["role"], row["source"]): row["questions"] for row in sources} == expected
    hops = store.query_untrusted("SELECT sum(pairs) AS n FROM retrieval_hops WHERE hops IS NULL")
    assert hops == [{"n": sum(pair.hops is None for fact in facts for pair in fact.pairs)}]
