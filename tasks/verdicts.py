"""Verdicts: what a trace answers, and whether that is right, by the matcher and by model judges.

Nothing here generates a trace. A new parser or matcher reads the landed texts again; a judge is asked once for each
distinct (judge, gold answers, prediction), whatever run it came from. Verdicts land as they come, so that a unit that was
cut asks only for those that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from prefect import task

from eval.answers import PARSER_VERSION, extract
from eval.judge import VERDICT_VERSION, parse_verdict, prediction_key
from eval.matching import MATCHER_VERSION, Matcher, answer_class
from models.asking import Ask, Reply
from models.prompts import judge_again, judge_prompt
from models.session import ModelSession
from store.connection import Store
from store.home import Home
from store.types import Frozen, JudgeQuestion, Message, Question, Sampling, Verdict, digest
from tasks.keys import JudgeSpec, PredictionsSpec, seed_of
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.progress import progress
from tasks.questions import gold_key, question_key
from tasks.traces import Run, with_model
from tasks.weights import ModelChoice

_TAIL_RULE = "the last words count where thought and answer both ended"
# Another rule reads other predictions out of the same texts, so it is part of the parser's name.
PARSER = f"boxed@{digest([PARSER_VERSION, _TAIL_RULE], 12)}"
MATCHER = f"match@{MATCHER_VERSION[:12]}"
REPLY_TOKENS = 8  # a mark, and a little room to see that it stands alone
_FIRST = Sampling()
_AGAIN = Sampling(temperature=0.6)  # the same tokens once more would be the same reply
_BLOCK = 2048  # pairs whose invalid replies wait together to be asked again: what a kill can lose of paid replies


class PredictionsOrder(Frozen):
    """A work order: read the predictions of one traces unit and match them with the gold answers."""

    name: str
    spec: PredictionsSpec
    prompt_set: str
    thought_key: str
    answer_key: str
    samples: int
    budgets: tuple[int, ...]
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """The unit's key."""
        return self.spec.key


class JudgeOrder(Frozen):
    """A work order: the verdicts of one judge over the predictions of some units.

    An invalid reply is asked for again ``retries`` times.
    """

    name: str
    spec: JudgeSpec
    model: ModelChoice
    question: JudgeQuestion
    predictions: tuple[PredictionsOrder, ...]
    examples: bool
    retries: int
    run: Run

    @property
    def key(self) -> str:
        """The unit's key."""
        return self.spec.key


def judge_name(model: ModelChoice, model_key: str, question: JudgeQuestion, examples: bool) -> str:
    """The judge as verdicts are keyed by: alias, weights, question, the wording and sampling of both askings,
    and the version of what reads its replies.

    How often it may be asked again is not in it: a verdict is the same verdict whichever attempt gave it, and a study
    that allows more attempts shares all that were given. An invalid one stays what it is, too.
    """
    first = judge_prompt(("gold",), "prediction", question, examples=examples)
    wording = [message.model_dump() for message in judge_again(first, "reply", question)]
    drawn = [_FIRST.model_dump(), _AGAIN.model_dump(), REPLY_TOKENS]
    return f"{model.name}@{digest([model_key, model.format, question, wording, drawn, VERDICT_VERSION], 12)}"


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
            # What a limit cut has no last words of its own: only a finished answer may be read without a box.
            found = extract(row["answer_text"], allow_tail=not row["cut"] and row["finish"] == "stop")
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
    """The body of :func:`verdicts`: asks only for what this judge has not said yet, and lands what it says as it comes."""
    clock, store = Clock(), home.store
    if store.has_unit(order.key):
        return {"calls": 0}
    pairs = {pair.key: pair for one in order.predictions for pair in _pairs(store, one)}
    judging = _Judging(order, store)
    details: dict[str, Any] = {}
    missing = judging.missing(pairs)
    with progress(order.name, len(pairs), len(pairs) - len(missing)) as meter:

        def judge(session: ModelSession) -> None:
            details.update(session.info.details)
            still = judging.missing(pairs)
            for start in range(0, len(still), _BLOCK):
                for landed, tokens, cost in judging.land(session, still[start : start + _BLOCK]):
                    meter.advance(landed, tokens, cost)

        if missing:
            with_model(order.model, order.run, order.key, home, judge)
            details["calls_now"] = judging.calls
    store.land(
        {}, clock.unit("verdicts", order, order.spec, rows=len(pairs), details=details, **judging.spent(pairs.values()))
    )
    return {"calls": judging.calls}


class _Pair(NamedTuple):
    """Gold answers (every accepted form) and a prediction. Their keys are what a verdict is known by."""

    key: tuple[str, str]
    gold: tuple[str, ...]
    prediction: str


class _Case(NamedTuple):
    """A pair on its way: what its judge is asked next, and what was spent on it so far."""

    pair: _Pair
    first: tuple[Message, ...]
    messages: tuple[Message, ...]
    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    reply: str = ""

    @property
    def ask(self) -> Ask:
        """The next attempt; each has a seed of its own."""
        return Ask("/".join(self.pair.key), self.messages, seed_of(digest([*self.pair.key, self.attempts])))


class _Judging:
    """One judge at work: asks, asks again, lands; ``calls`` are those made by this process."""

    def __init__(self, order: JudgeOrder, store: Store) -> None:
        self._order, self._store, self._prices = order, store, order.model.prices
        self.calls = 0

    def missing(self, pairs: dict[tuple[str, str], _Pair]) -> list[_Pair]:
        """The pairs without a verdict, those of one gold answer together: their prompts begin alike."""
        said = self._store.query(
            "SELECT gold_key, prediction_key FROM verdicts WHERE judge = ?", [self._order.spec.judge]
        )
        known = {(row["gold_key"], row["prediction_key"]) for row in said}
        return [pair for key, pair in sorted(pairs.items()) if key not in known]

    def land(self, session: ModelSession, pairs: Sequence[_Pair]) -> Iterator[tuple[int, int, float]]:
        """Verdicts landed, tokens generated and US dollars spent since the last time, until all ``pairs`` have one."""
        order = self._order
        firsts = [judge_prompt(p.gold, p.prediction, order.question, examples=order.examples) for p in pairs]
        cases = [_Case(pair, first, first) for pair, first in zip(pairs, firsts, strict=True)]
        for attempt in range(1 + order.retries):
            asks = [case.ask for case in cases]
            asked = {ask.id: case for ask, case in zip(asks, cases, strict=True)}
            cases = []
            sampling = _AGAIN if attempt else _FIRST
            for replies in session.ask(asks, sampling, REPLY_TOKENS, order.run.chunk):
                rows = []
                for reply in replies:
                    case = self._heard(asked[reply.id], reply)
                    verdict = parse_verdict(reply.text, order.question, cut=reply.finish != "stop")
                    if verdict.correct is None and attempt < order.retries:
                        cases.append(case)
                    else:
                        rows.append(self._row(case, verdict))
                self._store.land({"verdicts": rows})
                spent = [self._cost(reply.prompt_tokens, reply.cached_tokens, reply.generated) for reply in replies]
                yield len(rows), sum(reply.generated for reply in replies), sum(cost or 0.0 for cost in spent)
            if not cases:
                break

    def spent(self, pairs: Iterable[_Pair]) -> dict[str, Any]:
        """Tokens and cost of the verdicts of ``pairs``, whenever they landed."""
        wanted = {pair.key for pair in pairs}
        rows = self._store.query(
            "SELECT gold_key, prediction_key, prompt_tokens, cached_tokens, generated_tokens, cost FROM verdicts "
            "WHERE judge = ?",
            [self._order.spec.judge],
        )
        mine = [row for row in rows if (row["gold_key"], row["prediction_key"]) in wanted]
        costs = [row["cost"] for row in mine if row["cost"] is not None]
        tokens = ("prompt_tokens", "cached_tokens", "generated_tokens")
        return {**{name: sum(row[name] for row in mine) for name in tokens}, "cost": sum(costs) if costs else None}

    def _cost(self, prompt: int, cached: int, generated: int) -> float | None:
        return None if self._prices is None else self._prices.cost(prompt, cached, generated)

    def _heard(self, case: _Case, reply: Reply) -> _Case:
        self.calls += 1
        return case._replace(
            messages=judge_again(case.first, reply.text, self._order.question),
            attempts=case.attempts + 1,
            prompt_tokens=case.prompt_tokens + reply.prompt_tokens,
            cached_tokens=case.cached_tokens + reply.cached_tokens,
            generated_tokens=case.generated_tokens + reply.generated,
            reply=reply.text,
        )

    def _row(self, case: _Case, verdict: Verdict) -> dict[str, Any]:
        return {
            "judge": self._order.spec.judge,
            "gold_key": case.pair.key[0],
            "prediction_key": case.pair.key[1],
            "correct": verdict.correct,
            "grade": verdict.grade,
            "rule": verdict.rule,
            "reply": case.reply,
            "attempts": case.attempts,
            "prompt_tokens": case.prompt_tokens,
            "cached_tokens": case.cached_tokens,
            "generated_tokens": case.generated_tokens,
            "cost": self._cost(case.prompt_tokens, case.cached_tokens, case.generated_tokens),
        }


def _matched(matcher: str, verdict: Verdict, gold: str, prediction: str) -> dict[str, Any]:
    return {
        "judge": matcher,
        "gold_key": gold,
        "prediction_key": prediction,
        "correct": bool(verdict.correct),
        "grade": "correct" if verdict.correct else "incorrect",
        "rule": verdict.rule,
        "reply": "",
        "attempts": 0,
    }


def _unit_traces(store: Store, order: PredictionsOrder) -> list[dict[str, Any]]:
    rows = store.query(
        "SELECT t.trace_id, t.dataset, t.question_id, t.cut, t.finish, x.answer_text, s.question_key FROM prompt_sets s "
        "JOIN traces t ON t.dataset = s.dataset AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key "
        "JOIN trace_texts x USING (trace_id) WHERE s.set_key = ? AND t.thought_key = ? AND t.answer_key = ? "
        "AND t.sample < ? AND list_contains(?::INTEGER[], coalesce(t.budget, 0))",
        [order.prompt_set, order.thought_key, order.answer_key, order.samples, list(order.budgets)],
    )
    wanted = {question_key(q) for q in order.questions}
    return [row for row in rows if row["question_key"] in wanted]


def _pairs(store: Store, order: PredictionsOrder) -> list[_Pair]:
    rows = store.query(
        "SELECT q.gold_key, min(q.answers::VARCHAR) AS answers, p.prediction_key, min(p.prediction) AS prediction "
        "FROM prompt_sets s JOIN questions q USING (question_key) "
        "JOIN traces t ON t.dataset = s.dataset AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key "
        "JOIN predictions p ON p.trace_id = t.trace_id AND p.parser = ? "
        "WHERE s.set_key = ? AND t.thought_key = ? AND t.answer_key = ? AND p.prediction_key IS NOT NULL "
        "AND t.sample < ? AND list_contains(?::INTEGER[], coalesce(t.budget, 0)) GROUP BY q.gold_key, p.prediction_key",
        [order.spec.parser, order.prompt_set, order.thought_key, order.answer_key, order.samples, list(order.budgets)],
    )
    return [_Pair((r["gold_key"], r["prediction_key"]), _gold_forms(r["answers"]), r["prediction"]) for r in rows]


def _gold_forms(answers: str) -> tuple[str, ...]:
    forms = [form for answer in json.loads(answers) for form in (answer["text"], *answer["aliases"])]
    return tuple(dict.fromkeys(forms))
