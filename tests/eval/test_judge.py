"""The judge's reply and the keys by which verdicts are shared."""

import pytest

from eval.judge import parse_verdict, prediction_key
from store.types import Verdict


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
        ("2010 was wrong: 0", None),
        ("12 February 1", None),
        ("O", None),
        ("one", None),
    ],
)
def test_parse_verdict(reply: str, correct: bool | None) -> None:
    assert parse_verdict(reply) == Verdict(correct=correct, rule="invalid" if correct is None else "judge")


def test_prediction_key_ignores_white_space_only() -> None:
    assert prediction_key("New  York\n") == prediction_key("New York")
    texts = ["New York", "new york", "New York.", "NewYork", "Nèw York", ""]
    assert len({prediction_key(text) for text in texts}) == len(texts)
