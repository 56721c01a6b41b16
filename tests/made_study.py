"""A whole study as rows in a store, made up and fully known: what the tests of queries, summary and report read.

Every value is drawn from one seeded generator, and each trace is kept beside the store as a plain ``Fact``, so that a test
computes what it expects without any of the code under test.
"""

from __future__ import annotations

import json
import random
from datetime import datetime
from typing import Any, NamedTuple

from store.connection import Store
from tasks.keys import score_key

STUDY = "study-1"
SETTINGS = ("instruct", "cot", "rt", "fs1")
HOSTILE = "<script>alert('x')</script></style><img src=http://evil.example/a.png onerror=alert(1)>"
SMALL, BIG = "tiny-135m", "big<i>7b & co"
FLAGGED = (2, 5)  # questions that overlap with training: one in its words, one in a training prompt
CITIES = ("Paris", "Lima", "Oslo", "Quito", "Cairo", "Tunis", "Dakar", "Hanoi")


class Fact(NamedTuple):
    """One landed trace. ``how`` none or refused: no prediction; ``judged`` (by the first judge, of question contains) and
    ``graded`` (by the second, of question grade) None: no valid verdict."""

    run: str
    question: int
    sample: int
    budget: int | None
    correct: bool
    vote: str | None
    how: str
    cut: bool
    forced: bool
    judged: bool | None
    graded: str | None
    thinking: int
    answer: int


class Made(NamedTuple):
    """The study's traces, and its shape."""

    facts: tuple[Fact, ...]
    questions: int
    samples: int
    budgets: tuple[int | None, ...]
    runs: tuple[str, ...]


def make(store: Store, *, questions: int = 10, samples: int = 4, seed: int = 5) -> Made:
    """Land a study of two models (four settings of the small one, a baseline), and return what is in it."""
    budgets: tuple[int | None, ...] = (16, 48, None)
    rng = random.Random(seed)
    tables: dict[str, list[dict[str, Any]]] = {}
    _questions(tables, questions)
    _training(tables)
    _overlaps(tables, questions)
    facts: list[Fact] = []
    runs = [(SMALL, setting) for setting in SETTINGS] + [(BIG, "instruct")]
    for place, (model, setting) in enumerate(runs):
        _run(tables, f"run-{place}", model, setting, samples, budgets)
        skill = 0.15 + 0.12 * place
        for question in range(questions):
            for sample in range(samples):
                facts += _thought(tables, rng, f"run-{place}", model, question, sample, budgets, skill)
    tables["studies"] = [
        {"study_key": STUDY, "name": "made", "spec": json.dumps({"seed": 7}), "started_at": datetime(2026, 1, 2, 12)},
        {"study_key": "older", "name": "made", "spec": "{}", "started_at": datetime(2025, 1, 1)},
    ]
    for place, question in enumerate(("contains", "grade")):
        _add(
            tables,
            "study_judges",
            study_key=STUDY,
            position=place,
            judge=f"judge-{place + 1}",
            model=f"judge-model-{place + 1}",
            question=question,
        )
    store.land(tables)
    return Made(tuple(facts), questions, samples, budgets, tuple(f"run-{place}" for place in range(len(runs))))


def _add(tables: dict[str, list[dict[str, Any]]], table: str, **row: Any) -> None:
    tables.setdefault(table, []).append(row)


def _questions(tables: dict[str, list[dict[str, Any]]], count: int) -> None:
    kinds = ("entity", "number", "date")
    for place in range(count):
        city = CITIES[place % len(CITIES)]
        text = f"Which city is number {place}? {HOSTILE if place == 0 else ''}"
        aliases = [f"City of {city}", HOSTILE] if place == 0 else []
        answers = json.dumps([{"text": city, "entity": None, "aliases": aliases}])
        _question(tables, f"q{place}", "test", text, kinds[place % 3], None if place == 9 else place % 3 + 1, answers)
        _add(tables, "prompts", prompt_key=f"p{place}", messages=json.dumps([{"role": "user", "content": text}]))
        _add(
            tables,
            "prompt_sets",
            set_key="set-1",
            question_key=f"q{place}",
            dataset="starter",
            question_id=f"q{place}",
            prompt_key=f"p{place}",
        )


def _question(
    tables: dict[str, list[dict[str, Any]]], key: str, split: str, text: str, kind: str, hops: int | None, answers: str
) -> None:
    _add(
        tables,
        "questions",
        question_key=key,
        dataset="starter",
        question_id=key,
        split=split,
        text=text,
        answer_type=kind,
        hops=hops,
        answers=answers,
        gold_key=f"gold-{key}",
        provenance="made",
    )


def _overlaps(tables: dict[str, list[dict[str, Any]]], questions: int) -> None:
    _add(tables, "study_overlaps", study_key=STUDY, dataset="starter", overlap_key="overlap-1")
    _unit(tables, "overlap-1", "overlap", 3, {"ngram": 5, "ngram_share": 0.7, "cosine": 0.9})
    for place in range(questions):
        exact, leaked = place == FLAGGED[0], place == FLAGGED[1]
        _add(
            tables,
            "question_overlaps",
            overlap_key="overlap-1",
            question_key=f"q{place}",
            dataset="starter",
            nearest=f"t{place % 3}",
            exact=exact,
            ngram=1.0 if exact else 0.05 * place,
            cosine=None,
            leak="fact" if leaked else None,
            leaked_in="t1" if leaked else None,
            flagged=place in FLAGGED,
        )


def _unit(tables: dict[str, list[dict[str, Any]]], key: str, kind: str, day: int, spec: dict[str, Any]) -> None:
    _add(
        tables,
        "units",
        unit_key=key,
        kind=kind,
        name=f"{kind} {key}",
        spec=json.dumps(spec),
        row_count=10,
        seconds=12.5,
        prompt_tokens=1000,
        cached_tokens=400,
        generated_tokens=2000,
        versions=json.dumps({"python": "3.11", "torch": "2.13.0"}),
        host="host-a",
        landed_at=datetime(2026, 1, day, 13),
    )


def _run(
    tables: dict[str, list[dict[str, Any]]],
    key: str,
    model: str,
    setting: str,
    samples: int,
    budgets: tuple[int | None, ...],
) -> None:
    trained = setting in ("rt", "fs1")
    _add(
        tables,
        "study_runs",
        study_key=STUDY,
        run_key=key,
        unit_key=f"traces-{key}",
        role="baseline" if model == BIG else "student",
        model=model,
        base=model,
        trained_on=setting if trained else None,
        variant="",
        setting=setting,
        dataset="starter",
        prompt_set="set-1",
        thought_key=f"thought-{key}",
        answer_key="answer-1",
        samples=samples,
        budgets=[budget or 0 for budget in budgets],
        parser="parser-1",
        matcher="matcher-1",
        judge="judge-1",
        score_key=score_key(f"traces-{key}", "parser-1", "matcher-1", "judge-1"),
        parameters=7_600_000_000 if model == BIG else 135_000_000,
        student_key=f"student-{setting}" if trained else None,
        retrieval_key="retrieval-1" if setting == "fs1" else None,
    )
    _unit(tables, f"traces-{key}", "traces", 1 if key == "run-0" else 3, {"prompt_set": "set-1"})
    _unit(
        tables,
        f"predictions-{key}",
        "predictions",
        3,
        {"traces": f"traces-{key}", "parser": "parser-1", "matcher": "matcher-1"},
    )


def _thought(
    tables: dict[str, list[dict[str, Any]]],
    rng: random.Random,
    run: str,
    model: str,
    question: int,
    sample: int,
    budgets: tuple[int | None, ...],
    skill: float,
) -> list[Fact]:
    key, length = f"{run}-{question}-{sample}", rng.randint(5, 90)
    shared = {
        "thought_id": key,
        "thought_key": f"thought-{run}",
        "model": model,
        "dataset": "starter",
        "question_id": f"q{question}",
        "prompt_key": f"p{question}",
        "sample": sample,
        "prompt_tokens": 20,
        "cached_tokens": 10,
    }
    words = " ".join([HOSTILE if question == 0 else "Let me think:", *rng.choices(CITIES, k=length)])
    _add(tables, "thoughts", **shared, seed=1, ended="stop", thinking_tokens=length)
    _add(tables, "thought_texts", thought_id=key, token_ids=list(range(length)), text=words)
    facts = []
    for budget in budgets:
        if rng.random() < 0.04:
            continue  # never landed
        facts.append(_trace(tables, rng, shared, run, question, sample, budget, length, skill))
    return facts


def _trace(
    tables: dict[str, list[dict[str, Any]]],
    rng: random.Random,
    shared: dict[str, Any],
    run: str,
    question: int,
    sample: int,
    budget: int | None,
    length: int,
    skill: float,
) -> Fact:
    trace = f"{shared['thought_id']}-{budget}"
    cut = budget is not None and length > budget
    thinking = min(length, budget) if budget else length
    text = tables["thought_texts"][-1]["text"]
    _add(
        tables,
        "traces",
        **shared,
        trace_id=trace,
        answer_key="answer-1",
        budget=budget,
        thinking_tokens=thinking,
        thinking_chars=len(text) * thinking // length,
        cut=cut,
        forced=cut,
        finish="stop",
        answer_tokens=8,
        self_contained=False,
        shared=False,
    )
    how = rng.choices(("boxed", "block", "refused", "none"), (6, 2, 1, 1))[0]
    city = CITIES[question % len(CITIES)]
    correct = how in ("boxed", "block") and rng.random() < skill
    vote = None if how in ("refused", "none") else city if correct else rng.choice(("wrong a", "wrong b"))
    answer = f"Answer: \\boxed{{{vote}}}" if vote else HOSTILE
    _add(tables, "trace_texts", trace_id=trace, answer_ids=[1, 2], answer_text=answer)
    prediction_key = None if vote is None else f"{vote}-{question}"
    _add(
        tables,
        "predictions",
        trace_id=trace,
        parser="parser-1",
        prediction=vote,
        prediction_key=prediction_key,
        how=how,
        **{"class": vote},
    )
    judged = _judged(vote, question, correct)
    graded = _graded(vote, question, correct)
    if vote is not None:
        _verdict(tables, "matcher-1", question, vote, "correct" if correct else "incorrect", None)
        _verdict(
            tables, "judge-1", question, vote, None if judged is None else "correct" if judged else "incorrect", None
        )
        _verdict(tables, "judge-2", question, vote, graded, 0.25)
    return Fact(run, question, sample, budget, correct, vote, how, cut, cut, judged, graded, thinking, 8)


def _verdict(
    tables: dict[str, list[dict[str, Any]]], judge: str, question: int, vote: str, grade: str | None, cost: float | None
) -> None:
    _add(
        tables,
        "verdicts",
        judge=judge,
        gold_key=f"gold-q{question}",
        prediction_key=f"{vote}-{question}",
        correct=None if grade is None else grade == "correct",
        grade=grade,
        rule="invalid" if grade is None else "made",
        reply="1",
        attempts=attempts(judge, question, grade),
        cost=cost,
    )


def attempts(judge: str, question: int, grade: str | None) -> int:
    """Replies asked for: three for an invalid verdict, two from the second judge on every fourth question, else one."""
    return 3 if grade is None else 2 if judge == "judge-2" and question % 4 == 2 else 1


def _graded(vote: str | None, question: int, correct: bool) -> str | None:
    """The second judge's: it sees no attempt in "wrong b" of every third question, is lenient on some "wrong a", mute on q5."""
    if vote is None or question == 5:
        return None
    if vote == "wrong b" and question % 3 == 0:
        return "not_attempted"
    return "correct" if correct or (vote == "wrong a" and question % 4 == 1) else "incorrect"


def _judged(vote: str | None, question: int, correct: bool) -> bool | None:
    """The judge's verdict, a function of gold and prediction only: lenient on "wrong b" of even questions, mute on q3."""
    if vote is None or question == 3:
        return None
    return correct or (vote == "wrong b" and question % 2 == 0)


def _training(tables: dict[str, list[dict[str, Any]]]) -> None:
    for place in range(3):
        key = f"t{place}"
        answers = json.dumps([{"text": "Paris", "entity": "Q90", "aliases": []}])
        _question(tables, key, "train", f"What is the capital of land {place}? {HOSTILE}", "entity", 1, answers)
        _add(
            tables,
            "retrievals",
            retrieval_key="retrieval-1",
            question_key=key,
            snapshot="s",
            pairs=2,
            connected=place,
            paths=place,
            min_hops=place or None,
            truncated=place // 2,
            graph=f"France, capital, Paris\n{HOSTILE}" if place else "",
        )
        for rank in range(place):
            _add(
                tables,
                "paths",
                retrieval_key="retrieval-1",
                question_key=key,
                rank=rank,
                source="Q142",
                target="Q90",
                hops=1,
                score=1.0 - rank,
                kept=rank == 0,
                triples=json.dumps([["Q142", "P36", "Q90", False], ["Q142", "P571", "1789", True]]),
            )
    for judge in ("judge-1", "judge-2", "judge-of-another-study"):
        _unit(tables, f"verdicts-{judge}", "verdicts", 3, {"judge": judge, "predictions": ["predictions-run-0"]})
    _add(tables, "labels", snapshot="s", id="Q142", label="France")
    for recipe in ("rt", "fs1"):
        _recipe(tables, recipe)


def _recipe(tables: dict[str, list[dict[str, Any]]], recipe: str) -> None:
    shared = {"model": "teacher-1", "dataset": "starter", "sample": 0, "prompt_tokens": 20, "cached_tokens": 0}
    for place in range(3 if recipe == "fs1" else 2):
        key = f"{recipe}-t{place}"
        row = {**shared, "thought_id": key, "question_id": f"t{place}", "prompt_key": f"prompt-{key}"}
        row["thought_key"] = f"thought-{recipe}"
        _add(
            tables,
            "prompts",
            prompt_key=f"prompt-{key}",
            messages=json.dumps([{"role": "user", "content": f"{recipe} prompt"}]),
        )
        _add(tables, "thoughts", **row, seed=1, ended="stop", thinking_tokens=30)
        _add(tables, "thought_texts", thought_id=key, token_ids=[1], text=f"teacher thinks, {recipe} {place} {HOSTILE}")
        _add(
            tables,
            "traces",
            **row,
            trace_id=key,
            answer_key="answer-1",
            budget=None,
            thinking_tokens=30,
            thinking_chars=200,
            cut=False,
            forced=False,
            finish="stop",
            answer_tokens=5,
            self_contained=False,
            shared=False,
        )
        _add(tables, "trace_texts", trace_id=key, answer_ids=[1], answer_text="\\boxed{Paris}")
        _add(
            tables,
            "training_rows",
            training_set=f"set-{recipe}",
            position=place,
            trace_id=key,
            question_key=f"t{place}",
            prediction="Paris",
            held_out=place == 0,
            recipe=recipe,
        )
    statistics = {"traces": 12, "dropped": {"wrong": 7, "too_long": 2}}
    _add(
        tables,
        "training_sets",
        training_set=f"set-{recipe}",
        recipe=recipe,
        name=recipe,
        row_count=3,
        statistics=json.dumps(statistics),
    )
    _add(
        tables,
        "training_set_units",
        unit_key=f"unit-{recipe}",
        training_set=f"set-{recipe}",
        name=recipe,
        statistics=json.dumps(statistics),
    )
    _add(
        tables,
        "study_training_sets",
        study_key=STUDY,
        name=recipe,
        training_set=f"set-{recipe}",
        unit_key=f"unit-{recipe}",
    )
    _unit(tables, f"unit-{recipe}", "training_set", 3, {"recipe": recipe, "traces": [f"traces-{recipe}"]})
    tables["units"][-1]["versions"] = json.dumps({"python": "3.11", "training_set": f"set-{recipe}"})
    _unit(tables, f"student-{recipe}", "student", 3, {"training_set": f"set-{recipe}"})
    _unit(tables, f"traces-{recipe}", "traces", 1, {"prompt_set": "train"})
    _add(
        tables,
        "students",
        student_key=f"student-{recipe}",
        name=f"{SMALL}-{recipe}",
        base=SMALL,
        recipe=recipe,
        training_set=f"set-{recipe}",
        hyperparameters="{}",
        folder="students",
        weights_hash="0123456789abcdef",
        held_out_before=3.25,
        held_out_after=2.5,
        seconds=75.0,
        manifest=json.dumps(
            {"result": {"examples": 2, "held_out_examples": 1, "dropped": {"too_long": 1}, "steps": 8}}
        ),
    )
    for step in range(1, 9):
        _add(
            tables,
            "training_logs",
            student_key=f"student-{recipe}",
            step=step,
            loss=3.2 - 0.1 * step - (0.2 if recipe == "rt" else 0.0),
            held_out_loss=3.1 - 0.1 * step if step % 4 == 0 else None,
            learning_rate=1e-4,
            tokens_per_second=100.0,
        )
