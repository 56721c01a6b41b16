"""The quick form of ``bench.generation``, real: transformers against our pipeline; and what its bars say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import generation
from bench.generation import BARS, QUICK_PROMPTS, Work, report
from store.types import RunError


@pytest.mark.real
@pytest.mark.slow
def test_the_pipeline_generates_what_the_raw_engine_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert generation.main(["--quick", "--check", "--engine", "transformers"]) == 0
    shown = capsys.readouterr().out
    assert "pipeline, tokens/s" in shown
    said = json.loads(shown.splitlines()[-1])
    assert (said["quick"], said["missed"]) == (True, [])
    figures = said["engines"]["transformers"]
    assert figures["rows with the same tokens"] == 1.0
    assert figures["pipeline, tokens"] == figures["raw, tokens"]
    assert figures["requests"] == 2 * QUICK_PROMPTS  # a thought and an answer each
    assert all(figures[name] > 0 for name in figures)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"pipeline/raw": 0.97}, ["vllm: pipeline/raw is 0.97, the bar is >= 0.98"]),
        ({"prompts": 255.0}, ["vllm: prompts is 255, the bar is >= 256"]),
        ({"pipeline/raw": float("nan")}, ["vllm: pipeline/raw is nan, the bar is >= 0.98"]),
    ],
)
def test_a_missed_bar_is_named(changed: dict[str, Any], missed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    good = {"prompts": 256.0, "pipeline/raw": 0.99, "rows with the same tokens": 1.0}
    assert report({"transformers": good, "vllm": good | changed}, BARS, quick=False) == missed
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1 - len(missed) : -1] == [f"missed: {one}" for one in missed]
    assert json.loads(lines[-1])["missed"] == missed


def test_a_raw_engine_that_fails_is_said() -> None:
    order = generation._order("transformers", 2, 4)
    with pytest.raises(RunError, match=r"the raw engine auto failed:(.|\n)*KeyError"):
        generation._raw("auto", order, Work([], []))
