"""The stand-in of ``bench.fs1``: what it replays fits the rules of the ladder; and what the bars say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import fs1
from bench.replay import ReplaySession, recorded
from models.asking import Ask
from models.budgets import LadderJob, LadderPlan, prefix
from models.prompts import question_prompt
from models.registry import load_registry
from store.home import Home
from store.types import Answer, InputError, Message, Question, Sampling, Setting
from tasks.weights import ModelChoice

REGISTRY = Path(__file__).resolve().parents[2] / "deployments" / "models.yaml"
QUESTION = Question(
    id="1", dataset="made", split="test", text="Who wrote Hamlet?", answers=(Answer(text="Shakespeare"),)
)
PLAN = LadderPlan(budgets=(64, 512, 4096), max_thinking_tokens=4096)


def home_with_traces(folder: Path) -> Home:
    home = Home(folder)
    thoughts = [{"thought_id": f"t{n}", "token_ids": [n], "text": f"I think of play {n}. " * 40} for n in range(9)]
    answers = [{"trace_id": f"t{n}", "answer_ids": [n], "answer_text": f"Answer: \\boxed{{{n}}}"} for n in range(9)]
    home.store.land({"thought_texts": thoughts, "trace_texts": answers})
    return home


def session(home: Home, alias: str = "qwq-32b") -> ReplaySession:
    entry = load_registry(REGISTRY).entry(alias)
    return ReplaySession(recorded(home, [QUESTION]), ModelChoice(entry=entry, format=entry.format), Counter())


def jobs(count: int) -> list[LadderJob]:
    messages = question_prompt(QUESTION, Setting.COT).messages
    return [LadderJob(f"row {n}", messages, n, None, PLAN.budgets) for n in range(count)]


def test_replayed_traces_follow_the_rules_of_the_ladder(tmp_path: Path) -> None:
    outcomes = [o for group in session(home_with_traces(tmp_path)).run_ladder(jobs(200), PLAN, 64) for o in group]
    assert [outcome.thought_id for outcome in outcomes] == [f"row {n}" for n in range(200)]
    thoughts = [outcome.thought for outcome in outcomes]
    assert len({thought.token_ids for thought in thoughts if thought}) > 190  # hardly two alike
    for outcome in outcomes:
        assert outcome.thought is not None
        for budget, answer in zip(PLAN.budgets, outcome.answers, strict=True):
            used = prefix(outcome.thought, budget, PLAN)
            assert (answer.thinking_tokens, answer.cut) == (used.length, used.cut)
            assert answer.thinking_chars <= len(outcome.thought.text)
    right = sum("Shakespeare" in outcome.answers[0].answer_text for outcome in outcomes)
    assert 40 < right < 100  # about a third
    again = [o for group in session(home_with_traces(tmp_path)).run_ladder(jobs(200), PLAN, 32) for o in group]
    assert again == outcomes


def test_a_hosted_model_gives_no_token_ids(tmp_path: Path) -> None:
    plan = LadderPlan(max_thinking_tokens=4096)
    [job] = jobs(1)
    [[outcome]] = session(home_with_traces(tmp_path), "o3-mini").run_ladder([job._replace(budgets=(None,))], plan)
    assert outcome.thought is not None
    assert (outcome.thought.token_ids, outcome.thought.length > 7) == ((), True)


def test_a_judge_replies_with_digits(tmp_path: Path) -> None:
    asks = [Ask(str(n), (Message(role="user", content="?"),), n) for n in range(5)]
    replies = [r for group in session(home_with_traces(tmp_path)).ask(asks, Sampling(), 5, 2) for r in group]
    assert {reply.text for reply in replies} == {"0", "1"}


def test_a_home_without_traces_is_no_source(tmp_path: Path) -> None:
    Home(tmp_path).store.query("SELECT 1")
    with pytest.raises(InputError, match="has no traces to replay: run `make demo` first"):
        recorded(Home(tmp_path), [QUESTION])


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"runs": 167}, ["runs: 167, the study has 168"]),
        ({"traces": 9.0}, ["9 traces, 10 planned"]),
        ({"traces twice": 2}, ["2 traces are there twice"]),
        ({"asked by the second run": 1}, ["the second run asked for 1 units or rows"]),
        ({"task runs recorded": 4, "flow runs with others": 1}, ["4 of 5 task runs are recorded"]),
        ({"task runs recorded": 0, "task runs promised": 0}, ["0 of 0 task runs are recorded"]),
    ],
)
def test_a_missed_bar_is_named(changed: dict[str, Any], missed: list[str]) -> None:
    good = {
        "runs planned": 168, "runs": 168, "traces planned": 10, "traces": 10, "traces twice": 0,
        "asked by the second run": 0, "task runs promised": 5, "task runs recorded": 5, "flow runs with others": 0,
    }  # fmt: skip
    assert fs1.missed_bars(good | changed) == missed


def test_without_the_data_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fs1.main(["--recorded", str(tmp_path), "--data", str(tmp_path / "nowhere")]) == 2
    assert "the benchmark data is not here: no file" in capsys.readouterr().err
