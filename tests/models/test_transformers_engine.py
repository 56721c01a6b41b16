"""The engine of our own decoding loop against transformers' ``generate``, and what batching must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from models.engines.base import Engine, EngineOptions, ModelRef, Request, generate, load_engine
from models.engines.decoding import draw
from models.engines.loading import choose_dtype
from models.engines.transformers_engine import TransformersEngine
from models.formats import FORMATS, render_prompt
from store.types import InputError, Message, RunError, Sampling

FLOAT32 = EngineOptions(engine="transformers", dtype="float32", batch_size=16)
WARM = Sampling(temperature=0.8, top_p=0.9, top_k=30, repetition_penalty=1.05)
TEXTS = ("Hi.", "Name three rivers of Germany and say where they end.", "What is 2 + 2?", "Who wrote Faust? " * 6)


def requests(tokenizer: Any, tokens: int = 6) -> list[Request]:
    prompts = [render_prompt(tokenizer, [Message(role="user", content=text)], FORMATS["plain"]) for text in TEXTS]
    return [Request(f"r{i}", tuple(prompt), tokens + i, 100 + i) for i, prompt in enumerate(prompts)]


def outputs(engine: Engine, rows: list[Request], sampling: Sampling) -> dict[str, tuple[int, ...]]:
    return {c.id: c.token_ids for c in generate(engine, rows, sampling, engine.eos_token_ids)}


@pytest.mark.real
class TestRealModel:
    def test_greedy_equals_generate_of_transformers(self, engine: Engine, embedded: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(str(embedded), dtype=torch.float32).eval()
        ours = outputs(engine, requests(engine.tokenizer), Sampling())
        for request in requests(engine.tokenizer):
            ids = torch.tensor([request.token_ids])
            with torch.inference_mode():
                theirs = model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=request.max_tokens
                )
            expected = [t for t in theirs[0, ids.shape[1] :].tolist() if t != engine.tokenizer.eos_token_id]
            assert list(ours[request.id]) == expected

    @pytest.mark.parametrize("sampling", [Sampling(), WARM, Sampling(temperature=1.0, top_p=0.95)])
    def test_a_row_does_not_depend_on_its_batch(
        self, engine: Engine, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = requests(engine.tokenizer, 4)
        alone = {id_: ids for row in rows for id_, ids in outputs(engine, [row], sampling).items()}
        assert outputs(engine, rows, sampling) == alone
        monkeypatch.setattr(engine, "rows", 2)  # every other row joins one that is on its way
        assert outputs(engine, rows[::-1], sampling) == alone

    def test_rows_come_as_they_end_and_others_take_their_place(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "rows", 2)
        base = requests(engine.tokenizer)[2]
        rows = [base._replace(id=str(n), max_tokens=n) for n in (6, 5, 2, 1)]
        stream = engine.stream(Sampling(), frozenset())
        assert stream.hungry
        stream.add(rows[::-1])
        assert not stream.hungry
        ended = [stream.wait()]
        stream.add([base._replace(id="1 later", max_tokens=1)])
        while done := stream.wait():
            ended.append(done)
        # 6 and 5 begin; 2 takes the place of 5, then 1 that of both; what came meanwhile is the next wave.
        assert [[c.id for c in done] for done in ended] == [["5"], ["6", "2"], ["1"], ["1 later"]]
        assert all(len(c.token_ids) == int(c.id[0]) for done in ended for c in done)
        assert stream.hungry

    def test_a_closed_stream_has_dropped_its_rows(self, engine: Engine) -> None:
        stream = engine.stream(Sampling(), frozenset())
        stream.add(requests(engine.tokenizer, 3)[:1])
        stream.close()
        assert stream.wait() == []

    @pytest.mark.parametrize("sampling", [Sampling(), WARM])
    def test_a_shared_beginning_is_computed_once_and_changes_nothing(self, engine: Engine, sampling: Sampling) -> None:
        rows = requests(engine.tokenizer, 8)
        stem = rows[1].token_ids
        ladder = [Request(f"b{n}", (*stem, *range(300, 300 + n)), 6, n, stem=len(stem)) for n in (1, 3, 9, 20)]
        ladder += [Request("other", rows[3].token_ids, 6, 50, stem=len(rows[3].token_ids) - 2)]
        together = list(generate(engine, ladder, sampling, engine.eos_token_ids))
        alone = {id_: ids for row in ladder for id_, ids in outputs(engine, [row._replace(stem=0)], sampling).items()}
        assert {c.id: c.token_ids for c in together} == alone
        computed = sum(c.prompt_tokens - c.cached_tokens for c in together)
        common = next(i for i, (a, b) in enumerate(zip(stem, rows[3].token_ids, strict=False)) if a != b)
        assert computed == len(stem) + len(rows[3].token_ids) - common + 1 + 3 + 9 + 20

    def test_samples_of_one_prompt_differ_and_share_its_computation(self, engine: Engine) -> None:
        prompt = requests(engine.tokenizer)[1].token_ids
        done = list(generate(engine, [Request(str(i), prompt, 8, i) for i in range(4)], WARM, frozenset()))
        assert len({c.token_ids for c in done}) > 1
        assert sorted(c.cached_tokens for c in done) == [0, *[len(prompt)] * 3]

    def test_the_stop_token_is_named_and_left_out(self, engine: Engine) -> None:
        row = requests(engine.tokenizer)[0]
        first = outputs(engine, [row], Sampling())["r0"]
        stop = first[3]
        (done,) = generate(engine, [row], Sampling(), frozenset({stop}))
        before = first.index(stop)
        assert (done.token_ids, done.stop_token, done.finish) == (first[:before], stop, "stop")
        assert done.generated == before + 1
        (cut,) = generate(engine, [row._replace(max_tokens=2)], Sampling(), frozenset({stop}))
        assert (cut.token_ids, cut.stop_token, cut.finish) == (first[:2], None, "length")

    def test_too_long_a_request_is_refused(self, engine: Engine) -> None:
        with pytest.raises(InputError, match="8192"):
            list(generate(engine, [Request("long", (1,) * 8000, 500, 0)], Sampling(), frozenset()))

    def test_out_of_memory_halves_the_batch(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(engine, TransformersEngine)
        rows = requests(engine.tokenizer, 2)
        expected = outputs(engine, rows, WARM)
        forward, sizes = engine._model.forward, []

        def narrow(*args: Any, **kwargs: Any) -> Any:
            height, width = kwargs["input_ids"].shape
            sizes.append(height)
            if (height > 2 and width == 1) or (height > 1 and len(sizes) > 6):
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return forward(*args, **kwargs)

        monkeypatch.setattr(engine._model, "forward", narrow)
        assert outputs(engine, rows, WARM) == expected
        assert sizes[:3] == [1, 4, 4]  # what all share, the prompts, a step that fails; some steps by two
        assert 2 in sizes[3:6]
        assert sizes[-1] == 1

    def test_one_row_that_does_not_fit_is_an_error(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: Any, **kwargs: Any) -> Any:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        assert isinstance(engine, TransformersEngine)
        monkeypatch.setattr(engine._model, "forward", full)
        with pytest.raises(RunError, match="out of memory with one row"):
            outputs(engine, requests(engine.tokenizer), Sampling())

    def test_an_adapter_is_merged(self, embedded: Path, tmp_path: Path, engine: Engine) -> None:
        from peft import LoraConfig, get_peft_model

        base = AutoModelForCausalLM.from_pretrained(str(embedded), dtype=torch.float32)
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
        adapted.save_pretrained(str(tmp_path))
        loaded = load_engine(ModelRef("adapted", embedded, tmp_path), FLOAT32)
        rows = requests(engine.tokenizer, 6)[:1]
        assert outputs(loaded, rows, Sampling()) != outputs(engine, rows, Sampling())


class TestDraw:
    def test_frequencies_follow_the_truncated_distribution(self) -> None:
        logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -9.0]]).repeat(20_000, 1)
        uniform = torch.from_numpy(np.random.default_rng(0).random(20_000, dtype=np.float32))
        for sampling, kept in (
            (Sampling(temperature=1.0), 5),
            (Sampling(temperature=2.0, top_k=3), 3),
            (Sampling(temperature=1.0, top_p=0.8), 2),
            (Sampling(temperature=1.0, top_k=3, top_p=0.8), 2),
        ):
            tokens = draw(logits, sampling, uniform)
            expected = (logits[0] / sampling.temperature)[:kept].softmax(-1)
            found = torch.bincount(tokens, minlength=5).float() / len(tokens)
            assert torch.allclose(found[:kept], expected, atol=0.01)
            assert found[kept:].sum() < 0.001

    def test_a_flat_nucleus_wider_than_the_first_look_is_whole(self) -> None:
        uniform = torch.linspace(0, 0.999, 1000)
        tokens = draw(torch.zeros(1000, 1000), Sampling(temperature=1.0, top_p=0.9), uniform)
        assert len(tokens.unique()) == pytest.approx(900, abs=2)

    def test_the_largest_number_still_gives_a_possible_token(self) -> None:
        logits = torch.tensor([[5.0, 4.0, -1e9, -1e9]])
        assert draw(logits, Sampling(temperature=1.0), torch.tensor([1.0 - 2**-24])).item() == 1


def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    assert choose_dtype("auto", "cpu") is torch.float32
    assert choose_dtype("bfloat16", "cpu") is torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_dtype("auto", "cpu") is torch.bfloat16
