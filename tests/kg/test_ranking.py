"""Ranking: what the score rewards, and what is never dropped."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kg.ranking import WEIGHTS, blanked, middle_nodes, parts_of, preferred, ranked, score_parts, siblings, top
from kg.search import Integers
from store.types import Path, Triple

WROTE, BORN = Triple("Q1", "P50", "Q2"), Triple("Q2", "P19", "Q3")


def path(*triples: Triple, source: str = "Q1", target: str = "Q3", score: float = 0.0) -> Path:
    return Path(source=source, target=target, triples=triples, score=score)


def whole(*rows: list[int]) -> Integers:
    return np.asarray(rows, dtype=np.int32)


def test_the_score_is_the_documented_formula() -> None:
    [row] = score_parts(np.asarray([[0.5, 0.9]]), whole([7]), whole([101, 39]))
    assert row.tolist() == pytest.approx([0.7, -0.02 * math.log(8), -0.8, 0.0], abs=1e-6)
    assert sum(parts_of(row)) == pytest.approx(0.7 - 0.02 * math.log(8) - 0.8, abs=1e-6)


def test_siblings_hubs_and_length_cost() -> None:
    up_and_down, down_and_up = [63, 62], [62, 63]  # P31 forward then back; back then forward
    assert siblings(whole(up_and_down, down_and_up, [63, 63])).tolist() == [True, False, False]
    fits = np.full((2, 2), 0.5)
    cheap, dear = score_parts(fits, whole([1], [400]), whole(down_and_up, up_and_down)).sum(axis=1)
    assert cheap - dear == pytest.approx(WEIGHTS.sibling + WEIGHTS.degree * math.log(401 / 2), abs=1e-5)
    short = score_parts(np.full((1, 1), 0.5), np.zeros((1, 0), dtype=np.int32), whole([63])).sum()
    assert short > cheap


def test_equal_scores_go_by_length_and_statements() -> None:
    long, short, other = path(WROTE, BORN), path(Triple("Q1", "P9", "Q3")), path(Triple("Q1", "P8", "Q3"))
    assert ranked([long, short, other]) == [other, short, long]
    best = path(WROTE, BORN, score=0.1)
    assert ranked([short, best])[0] == best


def test_middle_nodes_follow_the_walk() -> None:
    assert middle_nodes(path(WROTE, BORN)) == ["Q2"]
    assert middle_nodes(path(BORN, WROTE, source="Q3", target="Q1")) == ["Q2"]
    assert middle_nodes(path(WROTE)) == []


class TestTop:
    FIRST, SECOND = path(WROTE, BORN, score=0.9), path(Triple("Q1", "P1", "Q3"), score=0.8)
    OTHER = path(Triple("Q1", "P1", "Q4"), target="Q4", score=0.1)

    def test_the_first_k_in_order(self) -> None:
        assert top([self.FIRST, self.SECOND, self.OTHER], 3) == [self.FIRST, self.SECOND, self.OTHER]

    def test_a_pair_never_loses_its_last_path(self) -> None:
        assert top([self.FIRST, self.SECOND, self.OTHER], 1) == [self.FIRST, self.OTHER]

    def test_nothing(self) -> None:
        assert top([], 3) == []


def test_hubs_are_dropped_but_not_a_pairs_last_path() -> None:
    through, around = path(WROTE, BORN), path(Triple("Q1", "P1", "Q7"), Triple("Q7", "P1", "Q3"))
    alone = path(WROTE, Triple("Q2", "P1", "Q4"), target="Q4")
    assert preferred([through, around, alone], lambda one: "Q2" not in middle_nodes(one)) == [around, alone]
    assert preferred([through, around], lambda _: True) == [through, around]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["the Author"], "Where was   of Dune born?"),
        (["Dune", "Dune Messiah"], "Where was the author of   born?"),
        (["une", "", "born?"], "Where was the author of Dune  "),
    ],
)
def test_names_of_the_questions_entities_are_blanked(names: list[str], text: str) -> None:
    assert blanked("Where was the author of Dune born?", names) == text
