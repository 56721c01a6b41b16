"""The answer extractor against awkward outputs of small models, and properties that must hold for any text."""

import json
import random
import time
from pathlib import Path

import pytest

from eval.answers import PARSER_VERSION, Extraction, extract, trim

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "awkward_outputs.jsonl").read_text(encoding="utf-8").splitlines()
]


def test_there_are_many_cases_of_every_kind() -> None:
    assert len(CASES) >= 120
    kinds = {"boxed": 60, "boxed_open": 5, "block": 25, "tail": 10, "refused": 10, "none": 10}
    for how, least in kinds.items():
        assert sum(case["how"] == how for case in CASES) >= least, how
    inputs = [(case["input"], case["allow_tail"]) for case in CASES]
    assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["input"])[:60])
def test_awkward_outputs(case: dict[str, str]) -> None:
    found = extract(case["input"], allow_tail=bool(case["allow_tail"]))
    assert found == Extraction(case["prediction"], case["how"])  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["input"])[:60])
def test_without_the_tail_only_tails_change(case: dict[str, str]) -> None:
    """allow_tail=False takes away last words and touches nothing else."""
    with_tail = extract(case["input"], allow_tail=True)
    without = extract(case["input"], allow_tail=False)
    if with_tail.how == "tail":
        assert without == Extraction(None, "none")
    else:
        assert without == with_tail


def test_prediction_and_how_agree_on_random_text() -> None:
    """Any mix of markers gives a prediction exactly where ``how`` says so, trimmed and never empty."""
    pieces = [r"\boxed{", "{", "}", "\\", "<think>", "</think>", "<answer>", "</answer>", "Answer:", "\n", "\n\n", "$"]
    pieces += ["Paris", " ", ".", "**", "I don't know", "Question:", r"\text{", r"\frac{1}{2}", '"', "(", ")", "12,5"]
    dice = random.Random(7)
    seen = set()
    for _ in range(5000):
        text = "".join(dice.choices(pieces, k=dice.randint(0, 14)))
        found = extract(text, allow_tail=dice.random() < 0.5)
        seen.add(found.how)
        assert (found.prediction is None) == (found.how in ("refused", "none")), text
        if found.prediction is not None:
            assert found.prediction.strip() == found.prediction != "", text
            assert "\n" not in found.prediction, text
            assert trim(found.prediction) == found.prediction, text
    assert seen == {"boxed", "boxed_open", "block", "tail", "refused", "none"}


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 20_000,
        "{" * 100_000 + "}" * 100_000,
        "\\boxed{Paris} " * 10_000,
        "Answer: " * 10_000,
        "the answer to the " * 10_000,
        "$" * 50_000,
        "\\" * 50_000,
        "I " * 50_000,
        "<think>" * 20_000,
        "\n" * 100_000,
        "\\boxed{" + " \n" * 50_000 + "}",
        "a. " * 50_000,
    ],
    ids=lambda text: repr(text[:16]),
)
def test_long_repetitive_text_takes_linear_time(text: str) -> None:
    """Small models loop: 100,000 characters of one piece may not stall a study."""
    start = time.perf_counter()
    extract(text, allow_tail=True)
    assert time.perf_counter() - start < 10.0  # a second here; minutes where it is quadratic


def test_a_cut_thought_gives_no_answer_where_a_closed_one_does() -> None:
    thought = r"<think>I would say \boxed{Lyon}"
    assert extract(thought, allow_tail=True) == (None, "none")
    assert extract(thought + "</think>", allow_tail=True) == ("Lyon", "boxed")


def test_version_is_a_digest() -> None:
    assert len(PARSER_VERSION) == 32
    assert int(PARSER_VERSION, 16) >= 0
