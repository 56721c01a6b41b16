"""What a training would take, against what trainings took."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models.engines.base import ModelRef
from models.engines.loading import load_tokenizer
from models.finetune import Hyperparameters
from models.formats import FORMATS
from models.training_estimate import Device, estimate, memory_bytes, steps_an_epoch
from models.training_text import Example, encode
from store.types import Message

SMOLLM2 = 134_515_008


def example(words: int) -> Example:
    return Example(
        question_id=str(words), trace_id="t", messages=(Message(role="user", content="Where?"),),
        thinking=" ".join(["Paris"] * words), answer="Paris",
    )  # fmt: skip


def hyper(**changes: Any) -> Hyperparameters:
    return Hyperparameters(**{"batch_size": 2, "gradient_accumulation": 2, "epochs": 3, "max_length": 96, **changes})


@pytest.mark.parametrize(
    ("examples", "devices", "steps"),
    [(1, 1, 1), (4, 1, 1), (5, 1, 2), (8, 1, 2), (9, 1, 3), (8, 2, 2), (9, 2, 3), (9, 4, 2), (100, 8, 7)],
)
def test_steps_are_those_of_the_trainer(examples: int, devices: int, steps: int) -> None:
    assert steps_an_epoch(examples, hyper(), devices) == steps


def test_counts_are_exact(embedded: Path) -> None:
    tokenizer = load_tokenizer(ModelRef("base", embedded))
    examples = [example(words) for words in (1, 5, 9, 20, 200)]
    kept = [encode(one, tokenizer, FORMATS["blocks"]) for one in examples[:4]]
    lengths = [len(one.input_ids) for one in kept]
    found = estimate(
        examples, examples[:1], tokenizer, FORMATS["blocks"], hyper(), embedded, SMOLLM2, Device("fp32")
    )  # fmt: skip
    assert (found.examples, found.held_out, found.dropped.too_long) == (4, 1, 1)
    assert (found.tokens, found.shortest, found.longest) == (sum(lengths), min(lengths), max(lengths))
    assert found.learned == sum(label != -100 for one in kept for label in one.labels)
    assert (found.steps, found.tokens_read) == (3, 3 * sum(lengths))
    few = estimate(
        examples, examples[4:], tokenizer, FORMATS["blocks"], hyper(max_steps=2), embedded, None, Device("fp32", packing=True)
    )  # fmt: skip
    assert few.held_out == 0  # it is too long
    assert (few.steps, few.tokens_read, few.memory_bytes) == (2, 2 * sum(lengths), None)


@pytest.mark.parametrize(
    ("method", "precision", "measured"),
    [("full", "bf16", 6.05e9), ("lora", "bf16", 5.24e9), ("lora", "fp32", 7.03e9)],
)
def test_memory_is_about_what_a_process_took(embedded: Path, method: Any, precision: Any, measured: float) -> None:
    # Peaks of real trainings of the embedded model on a CPU, with batches of 4 examples of up to 470 tokens.
    found = memory_bytes(embedded, SMOLLM2, hyper(method=method, batch_size=4), 4 * 470, Device(precision))
    assert found == pytest.approx(measured, rel=0.2)


def memory_in_bf16(base: Path, tokens: int = 4096, method: Any = "full", kind: Any = "cuda", **device: Any) -> int:
    found = memory_bytes(base, SMOLLM2, hyper(method=method), tokens, Device("bf16", kind, **device))
    assert found is not None
    return found


def test_the_weights_of_a_frozen_base(embedded: Path) -> None:
    of = partial(memory_in_bf16, embedded, method="lora")
    process, matrix = 800_000_000, 49_152 * 576
    # On a GPU in the base's own bf16; on a CPU in fp32, with the bf16 copies that the backward pass multiplies by.
    assert of(kind="cpu") - of() == pytest.approx(process + 4 * SMOLLM2)
    assert of(kind="cpu", checkpointing=True) - of(checkpointing=True) == pytest.approx(process + 2 * SMOLLM2)
    # In 4 bits but for the embedding, which is the head as well.
    four_bits = 0.516 * (SMOLLM2 - matrix) + 4 * matrix
    assert of() - of(method="qlora") == pytest.approx(2 * SMOLLM2 - four_bits, abs=2)


def test_what_spares_memory_is_seen(embedded: Path, tmp_path: Path) -> None:
    of = partial(memory_in_bf16, embedded)
    assert of(checkpointing=True) < of()
    assert of(2048) < of()
    # Of 18 bytes a weight two are of autocast's copies, which several devices do not make.
    assert of(devices=2) == pytest.approx(of() - 10 * SMOLLM2)
    assert of(method="qlora") < of(method="lora") < of()
    # Row by row, two of 2048 tokens in the batch, or one of 4096.
    assert of(packing=True) == of() + 3 * 4096**2 // 2
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 768}')
    assert memory_bytes(tmp_path, SMOLLM2, hyper(), 100, Device("fp32")) is None
