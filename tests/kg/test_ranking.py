"""Ranking: what the score rewards, and what is never dropped."""

from __future__ import annotations

import math

import pytest

from kg.ranking import middle_nodes, rank, similarity, top
from store.types import Path, Triple

LABELS = {
    "Q1": "Nineteen Eighty-Four",
    "Q2": "George Orwell",
    "Q3": "Motihari",
    "Q4": "London",
    "P50": "author",
    "P19": "place of birth",
    "P20": "place of death",
    "P27": "country of citizenship",
    "P36": "capital",
    "P17": "country",
    "P31": "instance of",
    "P569": "date of birth",
    "P577": "publication date",
    "P1086": "atomic number",
    "P57": "director",
    "P26": "spouse",
}


def path(*triples: Triple, source: str = "Q1", target: str = "Q3") -> Path:
    return Path(source=source, target=target, triples=triples)


def no_degree(_node: str) -> int:
    return 0


@pytest.mark.parametrize(
    ("question", "best"),
    [
        ("Where was the author born?", "P19"),
        ("In what city did she die?", "P20"),
        ("When was he born?", "P569"),
        ("Who wrote it?", "P50"),
        ("What is the capital of France?", "P36"),
        ("Who directed the film?", "P57"),
        ("Who was her husband?", "P26"),
        ("In which year was it published?", "P577"),
        ("What is its atomic number?", "P1086"),
    ],
)
def test_the_relation_that_is_asked_for(question: str, best: str) -> None:
    relations = [key for key in LABELS if key.startswith("P")]
    if best == "P19":  # the question names both relations of a path
        relations.remove("P50")
    assert max(relations, key=lambda key: similarity(LABELS[key], question)) == best


def test_similarity_is_a_share() -> None:
    assert similarity("capital", "What is the capital?") == pytest.approx(1.0)
    assert similarity("", "What is the capital?") == 0.0
    assert similarity("capital", "") == 0.0
    for label in LABELS.values():
        assert 0.0 <= similarity(label, "When was the author of Hamlet born?") <= 1.0


def test_the_score_is_the_documented_formula() -> None:
    one = path(Triple("Q1", "P36", "Q2"), Triple("Q2", "P36", "Q3"))
    [ranked] = rank([one], "capital", LABELS, lambda node: {"Q2": 99}[node])
    assert ranked.score == pytest.approx(1.0 - 0.02 * math.log(100) - 0.15 * 2)
    assert ranked.triples == one.triples


def test_siblings_hubs_and_length_cost() -> None:
    sibling = path(Triple("Q1", "P31", "Q2"), Triple("Q3", "P31", "Q2"))
    chain = path(Triple("Q1", "P31", "Q2"), Triple("Q2", "P31", "Q3"))
    hub = path(Triple("Q1", "P31", "Q5"), Triple("Q5", "P31", "Q3"))
    long = path(Triple("Q1", "P31", "Q2"), Triple("Q2", "P31", "Q4"), Triple("Q4", "P31", "Q3"))
    ranked = rank([sibling, long, hub, chain], "What?", LABELS, lambda node: 10_000 if node == "Q5" else 1)
    assert [one.triples for one in ranked] == [one.triples for one in (chain, long, hub, sibling)]
    assert ranked[0].score - ranked[3].score == pytest.approx(0.2)


def test_the_name_of_the_question_entity_fits_no_relation() -> None:
    labels = {**LABELS, "Q1": "The Country Girl"}
    country, author = path(Triple("Q1", "P17", "Q2"), target="Q2"), path(Triple("Q1", "P50", "Q2"), target="Q2")
    ranked = rank([country, author], "Who wrote The Country Girl?", labels, no_degree)
    assert ranked[0].triples == author.triples


def test_equal_scores_keep_their_order() -> None:
    paths = [path(Triple("Q1", "P31", f"Q{n}"), Triple(f"Q{n}", "P31", "Q3")) for n in (9, 5, 7)]
    assert [one.triples for one in rank(paths, "x", LABELS, no_degree)] == [one.triples for one in paths]


def test_middle_nodes_follow_the_walk() -> None:
    one = path(Triple("Q2", "P1", "Q1"), Triple("Q2", "P1", "Q4"), Triple("Q3", "P1", "Q4"))
    assert middle_nodes(one) == ["Q2", "Q4"]


class TestTop:
    def many(self, target: str, count: int) -> list[Path]:
        return [path(Triple("Q1", f"P{n}", target), target=target) for n in range(1, count + 1)]

    def test_the_first_k_in_order(self) -> None:
        paths = self.many("Q2", 5)
        assert top(paths, 3) == paths[:3]
        assert top(paths, 9) == paths

    def test_a_pair_never_loses_its_last_path(self) -> None:
        paths = self.many("Q2", 5) + self.many("Q3", 2)
        assert top(paths, 3) == [paths[0], paths[1], paths[5]]
        assert top(paths, 1) == [paths[0], paths[5]]

    def test_nothing(self) -> None:
        assert top([], 3) == []
        assert rank([], "x", LABELS, no_degree) == []
