"""The judge's reply and the keys by which verdicts are shared."""

import pytest

from eval.judge import gold_key, parse_verdict, prediction_key
from store.types import Verdict, digest


@pytest.mark.parametrize(
    ("reply", "correct"),
    [
        ("1", True),
        ("0", False),
        (" 1\n", True),
        ("1.", True),
        ("0, because the city is another one", False),
        ("**1**", True),
        ("Verdict: 0", False),
        ("[1]", True),
        ("Answer:1", True),
        ('{"label": 0}', False),
        ("0\n\n1", False),
        ("The prediction is 1 (correct)", True),
        ("", None),
        ("yes", None),
        ("correct", None),
        ("10", None),
        ("2", None),
        ("0.5", None),
        ("1.0", None),
        ("-1", None),
        ("1/2", None),
        ("100%", None),
        ("1%", None),
        ("1,000", None),
        ("Q1", None),
        ("1st", None),
        ("2010 was wrong: 0", False),
        ("O", None),
        ("one", None),
    ],
)
def test_parse_verdict(reply: str, correct: bool | None) -> None:
    assert parse_verdict(reply) == Verdict(correct=correct, rule="invalid" if correct is None else "judge")


def test_gold_key_ignores_order_repeats_and_white_space_only() -> None:
    key = gold_key(["New York", "NYC"])
    assert len(key) == 32
    assert gold_key("gfedcba") == digest({"gold": list("abcdefg")})  # the same in every process
    assert gold_key(("NYC", " New \n York ", "NYC")) == key
    others = [
        ["New York"],
        ["New York NYC"],
        ["new york", "NYC"],
        ["New York", "NYC", "Big Apple"],
        ["New York.", "NYC"],
    ]
    assert len({key, *map(gold_key, others)}) == 1 + len(others)


def test_prediction_key_ignores_white_space_only() -> None:
    assert prediction_key("New  York\n") == prediction_key("New York")
    texts = ["New York", "new york", "New York.", "NewYork", "Nèw York", ""]
    assert len({prediction_key(text) for text in texts}) == len(texts)
    assert prediction_key("Paris") != gold_key(["Paris"])


@pytest.mark.parametrize("gold", [[], [""], [" ", "\n"]])
def test_gold_of_nothing_is_refused(gold: list[str]) -> None:
    with pytest.raises(ValueError, match="gold answers: none given"):
        gold_key(gold)
