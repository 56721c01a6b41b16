"""Speeds and lengths as a store has measured them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_study
import pytest

from store.connection import Store
from store.rates import (
    Length,
    Rate,
    distinct_predictions,
    generation_rates,
    judging_rates,
    known_lengths,
    training_means,
    training_rates,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "factscale.duckdb")


def unit(key: str, kind: str, spec: dict[str, Any], seconds: float, tokens: int, **versions: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": 0, "cached_tokens": 0, "row_count": 10}
    return {
        "unit_key": key, "kind": kind, "name": key, "host": "h", "seconds": seconds, "generated_tokens": tokens,
        "spec": json.dumps(spec), "versions": json.dumps(versions), **counts,
    }  # fmt: skip


def traces(key: str, model: str, seconds: float, tokens: int, **versions: Any) -> dict[str, Any]:
    return unit(key, "traces", {"thought": {"model_key": model}}, seconds, tokens, **versions)


def student(key: str, base: str, tokens: int, seconds: float) -> dict[str, Any]:
    result = {"tokens": tokens, "seconds": seconds, "device": "cuda:0"}
    texts = dict.fromkeys(("name", "base", "recipe", "training_set", "folder", "weights_hash"), "x")
    return {
        "student_key": key, **texts, "seconds": seconds, "hyperparameters": json.dumps({"method": "lora"}),
        "manifest": json.dumps({"base_key": base, "result": result}),
    }  # fmt: skip


def test_an_empty_store_knows_nothing(store: Store) -> None:
    assert generation_rates(store) == judging_rates(store) == training_rates(store) == {}
    assert known_lengths(store) == ({}, {})
    assert distinct_predictions(store) is None
    assert training_means(store) == (None, None)


def test_generated_tokens_a_second_by_model_and_device(store: Store) -> None:
    units = [
        traces("a", "m", 10, 1000, device="cpu"),
        traces("b", "m", 30, 2000, device="cpu"),  # large units weigh more
        traces("c", "m", 1, 5000, device="cuda"),
        traces("d", "other", 10, 0, device="cpu"),  # all had landed before
        traces("e", "m", 10, 9000),  # by whom it was made is not known
        unit("f", "predictions", {}, 10, 0),
    ]
    store.land({"units": units})
    assert generation_rates(store) == {("m", "cpu"): Rate(75.0, 2), ("m", "cuda"): Rate(5000.0, 1)}


def test_what_landed_before_took_other_seconds(store: Store) -> None:
    store.land({"units": [traces("a", "m", 10, 1000, device="cpu", generated_now=200)]})
    assert generation_rates(store) == {("m", "cpu"): Rate(20.0, 1)}


def test_a_student_is_as_fast_as_its_base(store: Store) -> None:
    units = [traces("a", "student:s1", 10, 1000, device="cpu"), traces("b", "base", 10, 3000, device="cpu")]
    store.land({"units": units, "students": [student("s1", "base", 500, 5)]})
    assert generation_rates(store) == {("base", "cpu"): Rate(200.0, 2)}


def test_trained_tokens_a_second_by_base_method_and_device(store: Store) -> None:
    store.land({"students": [student("s1", "base", 500, 5), student("s2", "base", 500, 15)]})
    assert training_rates(store) == {("base", "lora", "cuda"): Rate(50.0, 2)}


def test_calls_a_second_by_judge(store: Store) -> None:
    units = [
        unit("a", "verdicts", {"judge": "j"}, 2, 0, device="cpu"),  # 10 rows
        unit("b", "verdicts", {"judge": "j"}, 3, 0, device="cpu", calls_now=5),
    ]
    store.land({"units": units})
    assert judging_rates(store) == {("j", "cpu"): Rate(3.0, 2)}


def test_lengths_of_a_made_study(store: Store) -> None:
    made = made_study.make(store)
    with store.connection() as db:
        db.execute("UPDATE thoughts SET generated_tokens = thinking_tokens + 1")
    lengths = known_lengths(store)
    stored = store.query("SELECT avg(thinking_tokens) + 1 AS mean FROM thoughts WHERE thought_key = 'thought-run-0'")
    own = lengths.by_thought["thought-run-0"]
    assert own == Length(made.questions * made.samples, pytest.approx(stored[0]["mean"]), 8.0, 20.0)
    assert lengths.by_model[made_study.SMALL].n == 4 * own.n
    assert lengths.by_model["teacher-1"] == (5, 31.0, 5.0, 20.0)


def test_what_repeats_is_judged_once(store: Store) -> None:
    made_study.make(store)
    with store.connection() as db:
        db.execute("UPDATE verdicts SET attempts = 0 WHERE judge = 'matcher-1'")
    counted = store.query(
        "SELECT (SELECT count(*) FROM verdicts WHERE judge = 'matcher-1') / count(*) AS share FROM predictions "
        "WHERE prediction_key IS NOT NULL"
    )
    assert distinct_predictions(store) == pytest.approx(counted[0]["share"])
    assert 0 < (distinct_predictions(store) or 0) < 1
