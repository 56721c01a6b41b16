"""Read the reply of a judge model and name what it judged, so that no verdict is asked for twice.

The judge is asked whether a gold answer is contained in the prediction and answers 0 or 1 in at most 5 tokens (fs1
study, arXiv 2505.11140). Its verdict depends on the gold answers and the prediction alone; both are named by content
here, so that a verdict is shared by every run, setting and sample that gave the same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from store.types import Verdict, digest

# Standing alone: not part of a longer number (10, 0.5, 1/2, -1, 1,000) or word (Q1). "1." and "1, because" are fine.
_BIT = re.compile(r"(?<![\w.,/+\-])[01](?![\w%/]|[.,\-]\d)")


def parse_verdict(text: str) -> Verdict:
    """The judge's verdict: its first standalone 0 or 1. Anything else is invalid (``correct=None``), never a guess."""
    bit = _BIT.search(text)
    if bit is None:
        return Verdict(correct=None, rule="invalid")
    return Verdict(correct=bit.group() == "1", rule="judge")


def gold_key(gold: Sequence[str]) -> str:
    """Key of a set of gold answers: 32 hex digits, whatever their order and repeats.

    White space is normalised and nothing else: case or accents could change what a judge says.
    Raises ValueError where there is no gold answer.
    """
    texts = sorted({_spaced(text) for text in gold} - {""})
    if not texts:
        raise ValueError("gold answers: none given, or all of them empty")
    return digest({"gold": texts})


def prediction_key(prediction: str) -> str:
    """Key of a prediction: 32 hex digits, white space normalised and nothing else. A missing one is never judged."""
    return digest({"prediction": _spaced(prediction)})


def _spaced(text: str) -> str:
    return " ".join(text.split())
