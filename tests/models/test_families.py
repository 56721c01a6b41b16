"""Rows that part late: kept together, taken from one another, and the same as computed by themselves."""

from __future__ import annotations

import random
from typing import Any

import pytest

from models.engines.base import Completion, Engine, Request, generate
from models.engines.families import LEAST_SHARED, Branch, arranged, branches
from store.types import Sampling

STEM = 20


def row(name: str, thought: int, length: int, tail: tuple[int, ...] = (1, 2, 3)) -> Request:
    """An answer after ``length`` tokens of a thought that is known by its number."""
    dice = random.Random(thought)
    body = tuple(dice.randrange(10, 1000) for _ in range(length))
    return Request(name, (*range(2000, 2000 + STEM), *body, *tail), 8, 1, STEM)


def test_a_family_is_together_with_its_longest_first() -> None:
    rows = [row(f"{thought}/{length}", thought, length) for length in (64, 256, 128) for thought in (5, 6, 7)]
    rows.append(row("8/300", 8, 300))
    random.Random(1).shuffle(rows)
    names = [request.id for request in arranged(rows)]
    assert names[0] == "8/300"
    assert [name.split("/")[1] for name in names[1:]] == ["256", "128", "64"] * 3
    assert len({name.split("/")[0] for name in names[1:4]}) == 1


def test_rows_branch_where_they_part() -> None:
    rows = arranged([row("a/40", 1, 40), row("a/100", 1, 100), row("b/70", 2, 70)])
    assert [request.id for request in rows] == ["a/100", "a/40", "b/70"]
    assert branches(rows) == [Branch(0, 123), Branch(0, STEM + 40), Branch(2, 93)]


def test_a_shared_stem_alone_makes_no_family() -> None:
    rows = arranged([row("a", 1, 40), row("b", 2, 40), row("c", 1, LEAST_SHARED - 1)])
    assert [branch.leader for branch in branches(rows)] == [0, 1, 2]


def test_rows_without_a_stem_are_families_of_their_own() -> None:
    rows = [Request(str(i), tuple(range(50 + i)), 4, i) for i in range(3)]
    assert [request.id for request in arranged(rows)] == ["2", "1", "0"]
    assert [branch.leader for branch in branches(arranged(rows))] == [0, 1, 2]


def test_equal_rows_keep_a_token_to_compute() -> None:
    rows = arranged([row("a", 1, 40), row("b", 1, 40)])
    assert branches(rows) == [Branch(0, 63), Branch(0, 62)]


@pytest.mark.real
def test_a_family_gives_what_its_rows_give_alone(engine: Engine, tokenizer: Any) -> None:
    text = "The first person on the Moon was an astronaut of Apollo 11 in July 1969, and many people saw it on television. "
    prompt = tuple(tokenizer("Tell me all about it. " * 4)["input_ids"])
    thought = tuple(tokenizer(text * 2)["input_ids"])
    tail = tuple(tokenizer("\n\nFinal answer: ")["input_ids"])
    cuts = (18, 26, 41)
    rows = [Request(f"t/{cut}", (*prompt, *thought[:cut], *tail), 6, cut, len(prompt)) for cut in cuts]
    rows.append(Request("other", (*prompt, *tail, *tail), 6, 9, len(prompt)))
    together = {done.id: done for done in generate(engine, rows, Sampling(), engine.eos_token_ids)}
    for request in rows:
        alone: Completion = next(generate(engine, [request], Sampling(), engine.eos_token_ids))
        assert together[request.id].token_ids == alone.token_ids
    assert [together[f"t/{cut}"].cached_tokens for cut in cuts[:2]] == [len(prompt) + 18, len(prompt) + 26]
