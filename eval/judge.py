"""Read the reply of a judge model and name what it judged, so that no verdict is asked for twice.

The judge is asked whether a gold answer is contained in the prediction and answers 0 or 1 in at most 5 tokens (fs1
study, arXiv 2505.11140). Its verdict depends on the gold answers and the prediction alone; both are named by content
here, so that a verdict is shared by every run, setting and sample that gave the same text.
"""

from __future__ import annotations

import re

from store.types import Verdict, digest

# Standing alone: not part of a longer number (10, 0.5, 1/2, -1, 1,000) or word (Q1). "1." and "1, because" are fine.
_BIT = re.compile(r"(?<![\w.,/+\-])[01](?![\w%/]|[.,\-]\d)")

_DIGIT = re.compile(r"\d")


def parse_verdict(text: str) -> Verdict:
    """The judge's verdict: its first standalone 0 or 1, if no other digit stands before it.

    Anything else is invalid (``correct=None``), never a guess: the 1 of "12 March 1" is part of an answer.
    """
    bit = _BIT.search(text)
    if bit is None or _DIGIT.search(text, 0, bit.start()):
        return Verdict(correct=None, rule="invalid")
    return Verdict(correct=bit.group() == "1", rule="judge")


def prediction_key(prediction: str) -> str:
    """Key of a prediction: 32 hex digits, white space normalised and nothing else. A missing one is never judged."""
    return digest({"prediction": _spaced(prediction)})


def _spaced(text: str) -> str:
    return " ".join(text.split())
