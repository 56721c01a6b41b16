"""What was measured on the way: how fast models generated, judged and were trained, and how long their thoughts came to be.

Read from what landed: a unit's row has its seconds and, in ``versions``, what it did in them (``generated_now``, ``calls_now``),
which is less than its rows where a part had landed before. Seconds count all of a unit, the loading of its model too, so
small units seem slow. Devices are ``cuda`` or ``cpu``; what one kind does says nothing of the other.
"""

from __future__ import annotations

from typing import NamedTuple

from store.connection import Store


class Rate(NamedTuple):
    """So many a second, over ``units`` units in the store."""

    value: float
    units: int


class Length(NamedTuple):
    """Means over ``n`` thoughts: generated tokens ``thinking``, ``answer`` of a trace (0 where it shares one), ``prompt``."""

    n: int
    thinking: float
    answer: float
    prompt: float


class Lengths(NamedTuple):
    """Known lengths: of each kind of thought (by ``thought_key``), and of all of a model (by its alias)."""

    by_thought: dict[str, Length]
    by_model: dict[str, Length]


class Training(NamedTuple):
    """What training sets came to: the share of traces that entered one, and the mean tokens of an example. None: unknown."""

    kept: float | None
    example_tokens: float | None


def generation_rates(store: Store) -> dict[tuple[str, str], Rate]:
    """Generated tokens a second by model key (a student's is its base's) and device."""
    rows = store.query(
        "WITH made AS (SELECT spec -> 'thought' ->> 'model_key' AS model, versions ->> 'device' AS device, seconds, "
        "coalesce((versions ->> 'generated_now')::BIGINT, generated_tokens) AS tokens FROM units WHERE kind = 'traces') "
        "SELECT coalesce(s.manifest ->> 'base_key', m.model) AS model, m.device, sum(m.tokens) / sum(m.seconds) AS rate, "
        "count(*) AS units FROM made m LEFT JOIN students s ON m.model = 'student:' || s.student_key "
        "WHERE m.tokens > 0 AND m.seconds > 0 AND m.device IS NOT NULL AND m.model IS NOT NULL GROUP BY ALL"
    )
    return {(row["model"], row["device"]): Rate(row["rate"], row["units"]) for row in rows}


def judging_rates(store: Store) -> dict[tuple[str, str], Rate]:
    """Calls a second by judge (its name with its weights and wording) and device."""
    rows = store.query(
        "WITH made AS (SELECT spec ->> 'judge' AS judge, versions ->> 'device' AS device, seconds, "
        "coalesce((versions ->> 'calls_now')::BIGINT, row_count) AS calls FROM units WHERE kind = 'verdicts') "
        "SELECT judge, device, sum(calls) / sum(seconds) AS rate, count(*) AS units FROM made "
        "WHERE calls > 0 AND seconds > 0 AND device IS NOT NULL GROUP BY ALL"
    )
    return {(row["judge"], row["device"]): Rate(row["rate"], row["units"]) for row in rows}


def training_rates(store: Store) -> dict[tuple[str, str, str], Rate]:
    """Trained tokens a second, over all devices of a run, by the base's key, method and device."""
    rows = store.query(
        "WITH made AS (SELECT manifest ->> 'base_key' AS base, hyperparameters ->> 'method' AS method, "
        "split_part(manifest -> 'result' ->> 'device', ':', 1) AS device, (manifest -> 'result' ->> 'tokens')::DOUBLE AS tokens, "
        "(manifest -> 'result' ->> 'seconds')::DOUBLE AS seconds FROM students) "
        "SELECT base, method, device, sum(tokens) / sum(seconds) AS rate, count(*) AS units FROM made "
        "WHERE tokens > 0 AND seconds > 0 AND base IS NOT NULL AND method IS NOT NULL GROUP BY ALL"
    )
    return {(row["base"], row["method"], row["device"]): Rate(row["rate"], row["units"]) for row in rows}


def known_lengths(store: Store) -> Lengths:
    """Mean lengths of what has landed, by kind of thought and by model."""
    rows = store.query(
        "WITH thought AS (SELECT thought_key, any_value(model) AS model, count(*) AS n, avg(generated_tokens) AS thinking, "
        "avg(prompt_tokens) AS prompt FROM thoughts GROUP BY thought_key), answered AS (SELECT thought_key, "
        "avg(if(shared, 0, answer_tokens)) AS answer FROM traces GROUP BY thought_key) "
        "SELECT t.thought_key, t.model, t.n, t.thinking, coalesce(a.answer, 0) AS answer, t.prompt "
        "FROM thought t LEFT JOIN answered a USING (thought_key)"
    )
    by_model: dict[str, Length] = {}
    for row in rows:
        one = Length(row["n"], row["thinking"] or 0.0, row["answer"], row["prompt"] or 0.0)
        by_model[row["model"]] = _joined(by_model.get(row["model"]), one)
    by_thought = {r["thought_key"]: Length(r["n"], r["thinking"] or 0.0, r["answer"], r["prompt"] or 0.0) for r in rows}
    return Lengths(by_thought, by_model)


def distinct_predictions(store: Store) -> float | None:
    """Which share of predictions differs in gold answers or words, so that a judge is asked once for each; None: none landed."""
    found = store.query(
        "SELECT count(*) / nullif((SELECT count(*) FROM predictions WHERE prediction_key IS NOT NULL), 0) AS share FROM verdicts "
        "WHERE attempts = 0"  # the matcher's
    )[0]["share"]
    return None if found is None else min(float(found), 1.0)


def training_means(store: Store) -> Training:
    """What training sets came to so far, over all of the store."""
    found = store.query(
        "SELECT sum(t.row_count) / nullif(sum((u.statistics ->> 'candidates')::BIGINT), 0) AS kept, "
        "avg((u.statistics ->> 'mean_example_tokens')::DOUBLE) AS tokens "
        "FROM training_set_units u JOIN training_sets t USING (training_set)"
    )[0]
    return Training(found["kept"], found["tokens"])


def _joined(one: Length | None, other: Length) -> Length:
    if one is None:
        return other
    n = one.n + other.n
    means = ((a * one.n + b * other.n) / n for a, b in zip(one[1:], other[1:], strict=True))
    return Length(n, *means)
