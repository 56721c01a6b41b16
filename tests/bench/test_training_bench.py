"""What `bench.training` measures and says: its examples, its speed, its bars. All of it runs with `make bench-training`."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from bench import training
from bench.training import VARYING, Measured, difference, examples, measured, report
from models.finetune import TrainLog

GOOD = {"ours/trl": 1.2, "loss in fp32, largest difference": 0.0001}
PACKED = {"packed/padded": 1.5, "loss in fp32, largest difference": 0.0001}


def test_examples_differ_in_length_and_are_the_same_each_time() -> None:
    made = examples(64, VARYING)
    assert made == examples(64, VARYING)
    words = [len(example.thinking.split()) for example in made]
    assert min(words) < 1.2 * VARYING[0]
    assert max(words) > VARYING[1] / 1.2
    # Evenly by ratio: as many below the geometric mean as above it.
    middle = (VARYING[0] * VARYING[1]) ** 0.5
    assert abs(sum(count < middle for count in words) - 32) <= 2
    assert len({example.trace_id for example in made}) == 64


def test_the_speed_leaves_out_the_first_steps() -> None:
    steps = [
        TrainLog(step=place, total_steps=4, loss=float(place), tokens=100 * place, seconds=50 + place)
        for place in range(1, 5)
    ]
    found = measured(steps, settling=2, whole=60.0, cpu=100.0)
    assert (found.speed, found.tokens, found.losses) == (100.0, 400, [1.0, 2.0, 3.0, 4.0])


def test_losses_of_other_tokens_do_not_agree() -> None:
    one = Measured(1.0, 100, 1.0, 1.0, [2.0, 1.0])
    assert difference(one, one._replace(losses=[2.0, 1.25])) == 0.25
    assert difference(one, one._replace(losses=[2.0])) == float("inf")
    assert difference(one, one._replace(tokens=101)) == float("inf")


@pytest.mark.parametrize(
    ("changed", "quick", "missed"),
    [
        ({}, False, []),
        ({"ours/trl": 0.97}, False, ["full: ours/trl is 0.97, the bar is >= 0.98"]),
        ({"ours/trl": 0.97}, True, []),
        ({"ours/trl": float("nan")}, False, ["full: ours/trl is nan, the bar is >= 0.98"]),
        (
            {"loss in fp32, largest difference": float("inf")},
            True,
            ["full: loss in fp32, largest difference is inf, the bar is <= 0.001"],
        ),
    ],
)
def test_a_missed_bar_is_named(
    changed: dict[str, Any], quick: bool, missed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report({"lora": GOOD, "full": GOOD | changed}, {"lora": PACKED}, quick=quick) == missed
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("missed: ")] == [f"missed: {one}" for one in missed]
    said = json.loads(lines[-1])
    assert (said["bench"], said["missed"], said["methods"]["lora"]["ours/trl"]) == ("training", missed, 1.2)


def test_packing_that_gains_nothing_is_a_missed_bar() -> None:
    assert report({"lora": GOOD}, {"lora": PACKED | {"packed/padded": 0.9}}, quick=False) == [
        "lora: packed/padded is 0.9, the bar is >= 1"
    ]


def test_without_trl_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert training.main(["--quick"]) == 1
    assert training.INSTALL in capsys.readouterr().err
