"""Verdicts: what a trace answers, and whether that is right, by the matcher and by a model judge.

Nothing here generates a trace. A new parser or matcher reads the landed texts again; a judge is called once for each
distinct (judge, gold answers, prediction), whatever run it came from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from prefect import task

from eval.answers import PARSER_VERSION, extract
from eval.judge import parse_verdict, prediction_key
from eval.matching import MATCHER_VERSION, Matcher, answer_class
from models.prompts import judge_prompt
from models.session import ModelSession
from store.connection import Store
from store.home import Home
from store.types import Frozen, Question, Sampling, Verdict, digest
from tasks.keys import JudgeSpec, PredictionsSpec
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.progress import progress
from tasks.questions import gold_key, question_key
from tasks.traces import Run, open_session
from tasks.weights import ModelChoice

PARSER = f"boxed@{PARSER_VERSION[:12]}"
MATCHER = f"match@{MATCHER_VERSION[:12]}"
_JUDGE_TOKENS = 5


class PredictionsOrder(Frozen):
    """A work order: read the predictions of one traces unit and match them with the gold answers."""

    name: str
    spec: PredictionsSpec
    prompt_set: str
    thought_key: str
    answer_key: str
    samples: int
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """The unit's key."""
        return self.spec.key


class JudgeOrder(Frozen):
    """A work order: the verdicts of one judge over the predictions of some units."""

    name: str
    spec: JudgeSpec
    model: ModelChoice
    predictions: tuple[PredictionsOrder, ...]
    examples: bool
    run: Run

    @property
    def key(self) -> str:
        """The unit's key."""
        return self.spec.key


def judge_name(model: ModelChoice, model_key: str, examples: bool) -> str:
    """The judge as verdicts are keyed by: alias, weights and the wording of its prompt."""
    wording = [m.model_dump() for m in judge_prompt(("gold",), "prediction", examples=examples)]
    return f"{model.name}@{digest([model_key, model.format, wording], 12)}"


@task(name="predictions", **UNIT_OPTIONS)
def predictions(order: PredictionsOrder) -> int:
    """Predictions and matcher verdicts of one traces unit. Returns the number of predictions."""
    return land_predictions(order, Home.current().store)


@task(name="verdicts", **UNIT_OPTIONS)
def verdicts(order: JudgeOrder) -> dict[str, int]:
    """Verdicts of a model judge over some units. Returns the number of judge calls made now."""
    return land_verdicts(order, Home.current())


def land_predictions(order: PredictionsOrder, store: Store) -> int:
    """The body of :func:`predictions`."""
    clock = Clock()
    questions = {(q.dataset, q.id): q for q in order.questions}
    tables: dict[str, list[dict[str, Any]]] = {"predictions": [], "verdicts": []}
    judged: set[tuple[str, str]] = set()
    matchers: dict[str, Matcher] = {}
    with progress(order.name, len(order.questions)) as meter:
        rows = _unit_traces(store, order)
        for row in rows:
            question = questions[row["dataset"], row["question_id"]]
            # A cut thought has no last words of its own: only a finished answer may be read without a box.
            found = extract(row["answer_text"], allow_tail=not row["cut"])
            key = None if found.prediction is None else prediction_key(found.prediction)
            tables["predictions"].append(
                {
                    "trace_id": row["trace_id"],
                    "parser": order.spec.parser,
                    "prediction": found.prediction,
                    "prediction_key": key,
                    "how": found.how,
                    "class": None if found.prediction is None else answer_class(found.prediction, question.answer_type),
                }
            )
            if key is not None and (gold_key(question), key) not in judged:
                judged.add((gold_key(question), key))
                matcher = matchers.setdefault(gold_key(question), Matcher(question))
                verdict = matcher(found.prediction)
                tables["verdicts"].append(_matched(order.spec.matcher, verdict, gold_key(question), key))
        store.land(tables, clock.unit("predictions", order, order.spec, rows=len(rows)))
        meter.advance(len(order.questions))
    return len(rows)


def land_verdicts(order: JudgeOrder, home: Home) -> dict[str, int]:
    """The body of :func:`verdicts`: asks only for what this judge has not said yet, chunk by chunk."""
    clock, store = Clock(), home.store
    if store.has_unit(order.key):
        return {"calls": 0}
    pairs = {(p["gold_key"], p["prediction_key"]): p for one in order.predictions for p in _pairs(store, one)}
    said = store.query("SELECT gold_key, prediction_key FROM verdicts WHERE judge = ?", [order.spec.judge])
    known = {(row["gold_key"], row["prediction_key"]) for row in said}
    missing = [pair for key, pair in sorted(pairs.items()) if key not in known]
    with progress(order.name, len(pairs), len(pairs) - len(missing)) as meter:
        if missing:
            with open_session(order.model, order.run, order.key, home) as session:
                for start in range(0, len(missing), order.run.chunk):
                    chunk = missing[start : start + order.run.chunk]
                    store.land({"verdicts": _ask(session, order, chunk)})
                    meter.advance(len(chunk))
    store.land({}, clock.unit("verdicts", order, order.spec, rows=len(pairs)))
    return {"calls": len(missing)}


def _ask(session: ModelSession, order: JudgeOrder, pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    prompts = [
        judge_prompt(_gold_forms(pair["answers"]), pair["prediction"], examples=order.examples) for pair in pairs
    ]
    replies = session.generate_text(prompts, Sampling(), max_tokens=_JUDGE_TOKENS, seeds=[0] * len(prompts))
    rows = []
    for pair, reply in zip(pairs, replies, strict=True):
        verdict = parse_verdict(reply)
        rows.append(
            {
                "judge": order.spec.judge,
                "gold_key": pair["gold_key"],
                "prediction_key": pair["prediction_key"],
                "correct": verdict.correct,
                "rule": verdict.rule or "judge",
                "reply": reply,
            }
        )
    return rows


def _matched(matcher: str, verdict: Verdict, gold: str, prediction: str) -> dict[str, Any]:
    return {
        "judge": matcher,
        "gold_key": gold,
        "prediction_key": prediction,
        "correct": bool(verdict.correct),
        "rule": verdict.rule,
        "reply": "",
    }


def _unit_traces(store: Store, order: PredictionsOrder) -> list[dict[str, Any]]:
    rows = store.query(
        "SELECT t.trace_id, t.dataset, t.question_id, t.cut, x.answer_text, s.question_key FROM prompt_sets s "
        "JOIN traces t ON t.dataset = s.dataset AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key "
        "JOIN trace_texts x USING (trace_id) WHERE s.set_key = ? AND t.thought_key = ? AND t.answer_key = ?",
        [order.prompt_set, order.thought_key, order.answer_key],
    )
    wanted = {question_key(q) for q in order.questions}
    return [row for row in rows if row["question_key"] in wanted]


def _pairs(store: Store, order: PredictionsOrder) -> list[dict[str, Any]]:
    return store.query(
        "SELECT DISTINCT q.gold_key, q.answers, p.prediction_key, first(p.prediction) AS prediction FROM prompt_sets s "
        "JOIN questions q USING (question_key) "
        "JOIN traces t ON t.dataset = s.dataset AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key "
        "JOIN predictions p ON p.trace_id = t.trace_id AND p.parser = ? "
        "WHERE s.set_key = ? AND t.thought_key = ? AND t.answer_key = ? AND p.prediction_key IS NOT NULL "
        "GROUP BY q.gold_key, q.answers, p.prediction_key",
        [order.spec.parser, order.prompt_set, order.thought_key, order.answer_key],
    )


def _gold_forms(answers: str) -> tuple[str, ...]:
    forms = [form for answer in json.loads(answers) for form in (answer["text"], *answer["aliases"])]
    return tuple(dict.fromkeys(forms))
