"""Verdicts in a real store: which predictions are read, who judges them how often, and what a kill leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from models.asking import Ask, Reply
from models.engines.base import OutOfMemory
from models.registry import ModelEntry, Prices
from models.session import SessionInfo
from store.home import Home
from store.types import Answer, JudgeQuestion, Prompt, Question, RunError, Sampling
from tasks import traces as traces_module
from tasks.keys import AnswerSpec, JudgeSpec, PredictionsSpec, ThoughtSpec, set_key, thought_id, trace_id
from tasks.questions import Asked, gold_key, prompt_rows, prompt_set_key, question_key, register_questions
from tasks.traces import Run
from tasks.verdicts import (
    MATCHER,
    PARSER,
    JudgeOrder,
    PredictionsOrder,
    judge_name,
    land_predictions,
    land_verdicts,
)
from tasks.weights import ModelChoice

PARIS = Question(
    id="paris", dataset="d", split="test", text="What is the capital of France?", answers=(Answer(text="Paris"),)
)
LIMA = Question(
    id="lima", dataset="d", split="test", text="What is the capital of Peru?", answers=(Answer(text="Lima"),)
)
ENTRY = ModelEntry(alias="judge", source="embedded", context_length=8192, parameters=1)
JUDGE = ModelChoice(entry=ENTRY, format="plain")


class Text(NamedTuple):
    """What a trace says in answer to a question."""

    question: Question
    answer: str
    cut: bool = False
    finish: str = "stop"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def read(home: Home, texts: Sequence[Text], run: str = "run") -> PredictionsOrder:
    """Land one trace for each text, as the traces unit ``run`` does, and read their predictions."""
    thought = ThoughtSpec(model_key=run, format="plain", sampling=Sampling(), max_thinking_tokens=8, seed=0)
    answer = AnswerSpec(forced_answer="", max_answer_tokens=8)
    questions = tuple({text.question.id: text.question for text in texts}.values())
    asked = [
        Asked(q, Prompt(question_id=q.id, messages=({"role": "user", "content": q.text},)))  # type: ignore[arg-type]
        for q in questions
    ]
    prompts = {one.question.id: one.prompt.key for one in asked}
    register_questions(home.store, questions)
    tables: dict[str, list[dict[str, Any]]] = {"traces": [], "trace_texts": [], **prompt_rows(asked)}
    for sample, text in enumerate(texts):
        shared = {"dataset": "d", "question_id": text.question.id, "prompt_key": prompts[text.question.id]}
        key = thought_id(thought, "d", text.question.id, prompts[text.question.id], sample)
        row = {"trace_id": trace_id(key, answer, None), "thought_id": key, "thought_key": thought.key, **shared}
        tokens = dict.fromkeys(("thinking_tokens", "thinking_chars", "answer_tokens", "prompt_tokens"), 1)
        flags = {"cut": text.cut, "forced": text.cut, "finish": text.finish, "shared": False, "self_contained": True}
        row |= {"answer_key": answer.key, "model": "m", "sample": sample, "cached_tokens": 0, **tokens, **flags}
        tables["traces"].append(row)
        tables["trace_texts"].append({"trace_id": row["trace_id"], "answer_ids": [1], "answer_text": text.answer})
    home.store.land(tables)
    order = PredictionsOrder(
        name=f"predictions of {run}",
        spec=PredictionsSpec(
            traces=run, questions=set_key([question_key(q) for q in questions]), parser=PARSER, matcher=MATCHER
        ),
        prompt_set=prompt_set_key(asked),
        thought_key=thought.key,
        answer_key=answer.key,
        samples=len(texts),
        budgets=(0,),
        questions=questions,
    )
    assert land_predictions(order, home.store) == len(texts)
    return order


def boxes(*answers: str, question: Question = PARIS) -> list[Text]:
    return [Text(question, rf"\boxed{{{answer}}}") for answer in answers]


def judging(
    *readings: PredictionsOrder,
    question: JudgeQuestion = "contains",
    model: ModelChoice = JUDGE,
    retries: int = 2,
    chunk: int | None = None,
    examples: bool = False,
) -> JudgeOrder:
    name = judge_name(model, "weights", question, examples)
    return JudgeOrder(
        name="verdicts",
        spec=JudgeSpec(judge=name, predictions=tuple(one.key for one in readings)),
        model=model,
        question=question,
        predictions=readings,
        examples=examples,
        retries=retries,
        run=Run(engine="transformers", dtype="float32", batch_size=4, chunk=chunk),
    )


class Call(NamedTuple):
    """A call that reached the judge."""

    prediction: str
    ask: Ask
    sampling: Sampling


class Judge:
    """A judge that replies as it is told, in groups of two: to force what a real one cannot be made to do.

    ``say(prediction, attempt)`` gives the reply; an exception it returns is raised in place of the group.
    """

    info = SessionInfo("scripted", "1", "float32", "cpu", 8192, 2, 0)

    def __init__(self, say: Callable[[str, int], str | Exception]) -> None:
        self.say = say
        self.calls: list[Call] = []

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(
        self, asks: Iterable[Ask], sampling: Sampling, max_tokens: int, window: int | None = None
    ) -> Iterator[list[Reply]]:
        assert max_tokens >= 5
        waiting = list(asks)
        for start in range(0, len(waiting), 2):
            yield [self._reply(ask, sampling) for ask in waiting[start : start + 2]]

    def _reply(self, ask: Ask, sampling: Sampling) -> Reply:
        first = next(turn.content for turn in ask.messages if "Prediction: " in turn.content)
        prediction = first.split("Prediction: ")[1].split("\n")[0]
        attempt = sum(call.prediction == prediction for call in self.calls)
        self.calls.append(Call(prediction, ask, sampling))
        reply = self.say(prediction, attempt)
        if isinstance(reply, Exception):
            raise reply
        return Reply(ask.id, reply, "stop", 100, 40, 2)


@pytest.fixture
def hire(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, int], str | Exception]], Judge]:
    """Every session that is opened from now on is this judge."""

    def hired(say: Callable[[str, int], str | Exception]) -> Judge:
        judge = Judge(say)
        monkeypatch.setattr(traces_module, "open_session", lambda *_: judge)
        return judge

    return hired


Hire = Callable[[Callable[[str, int], str | Exception]], Judge]


def landed(home: Home, order: JudgeOrder) -> dict[str, dict[str, Any]]:
    """The judge's verdicts by prediction."""
    rows = home.store.query(
        "SELECT DISTINCT p.prediction, v.* FROM verdicts v JOIN predictions p USING (prediction_key) WHERE v.judge = ?",
        [order.spec.judge],
    )
    return {row["prediction"]: row for row in rows}


def unit(home: Home, order: JudgeOrder) -> dict[str, Any]:
    (row,) = home.store.query("SELECT * FROM units WHERE unit_key = ?", [order.key])
    return row


TEXTS = (
    (Text(PARIS, "That would be Paris"), "tail"),
    (Text(PARIS, "That would be Paris, a city which", finish="length"), "none"),
    (Text(PARIS, "Paris may be the one, or Lyon, since", cut=True), "none"),
    (Text(PARIS, "Paris may be the one, or Lyon, since", cut=True, finish="length"), "none"),
    (Text(PARIS, "That would be Paris", finish="filter"), "none"),
    (Text(PARIS, r"<think>I would say \boxed{Lyon}, but", cut=True), "none"),
    (Text(PARIS, r"\boxed{Paris} is what I", finish="length"), "boxed"),
    (Text(PARIS, r"Answer: \boxed{Paris}", cut=True), "boxed"),
)


class TestPredictions:
    def test_last_words_count_only_where_thought_and_answer_ended(self, home: Home) -> None:
        read(home, [text for text, _ in TEXTS])
        rows = home.store.query("SELECT how, prediction FROM predictions JOIN traces USING (trace_id) ORDER BY sample")
        assert [row["how"] for row in rows] == [how for _, how in TEXTS]
        assert all((row["prediction"] is None) == (row["how"] == "none") for row in rows)

    def test_the_matcher_grades_too_and_asks_nobody(self, home: Home) -> None:
        read(home, boxes("Paris", "Lyon"))
        rows = home.store.query(
            "SELECT correct, grade, attempts, cost FROM verdicts WHERE judge = ? ORDER BY 1", [MATCHER]
        )
        assert [tuple(row.values()) for row in rows] == [(False, "incorrect", 0, None), (True, "correct", 0, None)]

    def test_a_study_with_fewer_samples_reads_and_judges_its_own_alone(self, home: Home, hire: Hire) -> None:
        wide = read(home, boxes("Paris", "Lyon", "Nice"))
        one = wide.model_copy(update={"samples": 1, "spec": wide.spec.model_copy(update={"traces": "one"})})
        assert land_predictions(one, home.store) == 1
        none = one.model_copy(update={"budgets": (64,), "spec": wide.spec.model_copy(update={"traces": "none"})})
        assert land_predictions(none, home.store) == 0
        judge = hire(lambda *_: "1")
        assert land_verdicts(judging(one), home) == {"calls": 1}
        assert [call.prediction for call in judge.calls] == ["Paris"]


class TestAsking:
    def test_a_pair_is_asked_for_once_whatever_runs_and_samples_it_came_from(self, home: Home, hire: Hire) -> None:
        judge = hire(lambda prediction, _: "1" if prediction == "Paris" else "0")
        first = read(home, boxes("Paris", "Lyon", "Paris", " Paris "), "first")
        second = read(home, [*boxes("Paris", "Rome"), *boxes("Paris", question=LIMA)], "second")
        both = judging(first, second)
        assert land_verdicts(both, home) == {"calls": 4}
        assert sorted(call.prediction for call in judge.calls) == ["Lyon", "Paris", "Paris", "Rome"]
        assert land_verdicts(both, home) == {"calls": 0}, "the unit is there"
        assert land_verdicts(judging(second), home) == {"calls": 0}, "its verdicts are there"
        third = read(home, boxes("Paris", "Nice"), "third")
        assert land_verdicts(judging(first, second, third), home) == {"calls": 1}
        assert land_verdicts(judging(first, question="grade"), home)["calls"] > 0, "another question is another judge"

    def test_an_invalid_reply_is_asked_for_again_and_then_counted(self, home: Home, hire: Hire) -> None:
        replies = {"Paris": ["1"], "Lyon": ["Well,", "0"], "Nice": ["hm", "Paris or Nice", "no\nidea"]}
        judge = hire(lambda prediction, attempt: replies[prediction][attempt])
        order = judging(read(home, boxes("Paris", "Lyon", "Nice")), retries=2)
        assert land_verdicts(order, home) == {"calls": 6}
        rows = landed(home, order)
        kept = {
            name: (r["correct"], r["grade"], r["rule"], r["attempts"], r["reply"], r["cost"])
            for name, r in rows.items()
        }
        assert kept == {
            "Paris": (True, "correct", "judge", 1, "1", None),
            "Lyon": (False, "incorrect", "judge", 2, "0", None),
            "Nice": (None, None, "invalid", 3, "no\nidea", None),
        }
        asked = [call for call in judge.calls if call.prediction == "Nice"]
        assert [call.sampling.temperature for call in asked] == [0.0, 0.6, 0.6]
        assert len({call.ask.seed for call in asked}) == 3
        assert [len(call.ask.messages) for call in asked] == [1, 3, 3]
        assert [call.ask.messages[-2].content for call in asked[1:]] == ["hm", "Paris or Nice"]
        row = unit(home, order)
        assert (row["row_count"], row["prompt_tokens"], row["cached_tokens"], row["generated_tokens"]) == (
            3,
            600,
            240,
            12,
        )
        assert row["cost"] is None

    def test_grades_are_three(self, home: Home, hire: Hire) -> None:
        hire(lambda prediction, _: {"Paris": "A", "Lyon": "**B**", "a city": "Grade: C"}[prediction])
        order = judging(read(home, boxes("Paris", "Lyon", "a city")), question="grade")
        land_verdicts(order, home)
        grades = {name: (row["correct"], row["grade"]) for name, row in landed(home, order).items()}
        assert grades == {
            "Paris": (True, "correct"),
            "Lyon": (False, "incorrect"),
            "a city": (False, "not_attempted"),
        }

    def test_without_retries_an_invalid_reply_is_asked_for_once(self, home: Home, hire: Hire) -> None:
        hire(lambda *_: "maybe")
        order = judging(read(home, boxes("Paris")), retries=0)
        assert land_verdicts(order, home) == {"calls": 1}
        assert landed(home, order)["Paris"]["attempts"] == 1

    def test_what_landed_as_invalid_stays_so(self, home: Home, hire: Hire) -> None:
        hire(lambda *_: "maybe")
        reading = read(home, boxes("Paris"))
        land_verdicts(judging(reading, retries=0), home)
        more = judging(reading, read(home, boxes("Lyon"), "other"), retries=3)
        assert land_verdicts(more, home) == {"calls": 4}
        assert {row["attempts"] for row in landed(home, more).values()} == {1, 4}

    def test_every_attempt_is_paid_for(self, home: Home, hire: Hire) -> None:
        hire(lambda prediction, attempt: "1" if attempt or prediction == "Paris" else "?")
        prices = Prices(input=1.0, output=10.0, cached_input=0.5)
        paid = ModelChoice(entry=ENTRY.model_copy(update={"prices": prices}), format="plain")
        order = judging(read(home, boxes("Paris", "Lyon")), model=paid)
        assert land_verdicts(order, home) == {"calls": 3}
        call = (60 * 1.0 + 40 * 0.5 + 2 * 10.0) / 1e6
        rows = landed(home, order)
        assert rows["Paris"]["cost"] == pytest.approx(call)
        assert rows["Lyon"]["cost"] == pytest.approx(2 * call)
        assert unit(home, order)["cost"] == pytest.approx(3 * call)


class TestInterrupted:
    def test_a_killed_unit_asks_only_for_what_is_missing(self, home: Home, hire: Hire) -> None:
        names = ["Paris", "Lyon", "Nice", "Brest", "Lille"]
        order = judging(read(home, boxes(*names)))
        dying = hire(lambda *_: RunError("killed") if len(dying.calls) > 4 else "1")
        with pytest.raises(RunError, match="killed"):
            land_verdicts(order, home)
        before = landed(home, order)
        assert len(before) == 4
        assert not home.store.has_unit(order.key)
        healthy = hire(lambda *_: "0")
        assert land_verdicts(order, home) == {"calls": 1}
        assert {call.prediction for call in healthy.calls} == set(names) - set(before)
        after = landed(home, order)
        assert {name: after[name] for name in before} == before
        assert unit(home, order)["row_count"] == 5
        (spent,) = home.store.query(
            "SELECT sum(generated_tokens)::BIGINT AS tokens FROM verdicts WHERE judge = ?", [order.spec.judge]
        )
        assert unit(home, order)["generated_tokens"] == spent["tokens"] == 10, "what was spent before the kill counts"

    def test_when_memory_runs_out_it_goes_on_with_what_is_missing(self, home: Home, hire: Hire) -> None:
        names = ["Paris", "Lyon", "Nice", "Brest"]
        order = judging(read(home, boxes(*names)))
        judge = hire(lambda *_: OutOfMemory("too much", 4) if len(judge.calls) == 3 else "1")
        assert land_verdicts(order, home) == {"calls": 4}
        assert [call.prediction for call in judge.calls[:2]] != [call.prediction for call in judge.calls[3:5]]
        assert len(landed(home, order)) == 4


def test_a_judge_is_known_by_all_that_makes_its_verdicts_and_no_more() -> None:
    other = ModelChoice(entry=ENTRY.model_copy(update={"alias": "second"}), format="plain")
    names = [
        judge_name(JUDGE, "weights", "contains", False),
        judge_name(JUDGE, "weights", "contains", True),
        judge_name(JUDGE, "weights", "grade", False),
        judge_name(JUDGE, "new weights", "contains", False),
        judge_name(other, "weights", "contains", False),
    ]
    assert len(set(names)) == len(names)
    assert judge_name(JUDGE, "weights", "contains", False) == names[0]
    assert names[0].startswith("judge@")
    orders = [judging(retries=retries, chunk=chunk).key for retries, chunk in ((0, None), (5, 3))]
    assert orders[0] == orders[1]


@pytest.mark.real
@pytest.mark.parametrize(("question", "marks"), [("contains", "01"), ("grade", "ABC")])
def test_a_real_small_judge_replies_with_a_mark(home: Home, question: JudgeQuestion, marks: str) -> None:
    order = judging(
        read(home, [*boxes("Paris", "Lyon"), *boxes("Lima", "Quito", question=LIMA)]), question=question, examples=True
    )
    calls = land_verdicts(order, home)["calls"]
    rows = list(landed(home, order).values())
    assert len(rows) == 4
    assert calls == sum(row["attempts"] for row in rows) <= 4 * (1 + order.retries)
    for row in rows:
        assert (row["grade"] is None) == (row["correct"] is None) == (row["rule"] == "invalid")
        assert row["gold_key"] in (gold_key(PARIS), gold_key(LIMA))
        assert row["rule"] == "invalid" or any(mark in row["reply"] for mark in marks)
    assert sum(row["rule"] == "judge" for row in rows) >= 3
    row = unit(home, order)
    assert row["prompt_tokens"] > row["generated_tokens"] > 0
    assert '"engine": "transformers"' in row["versions"]
