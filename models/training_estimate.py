"""What a training would take, without training: examples and lengths after the cut, optimiser steps, memory.

Everything but the memory is exact, since it comes from the same token-id builder as the training itself. Importing this
imports no torch; building the ids needs the tokenizer of the base.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Literal, NamedTuple

from models.finetune import Hyperparameters
from models.formats import Format
from models.training_text import IGNORED, Dropped, Example, build_dataset
from store.types import Frozen, InputError

_SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_STATE = 12
"""Bytes beside its fp32 weight that a learned parameter needs: its gradient and AdamW's two moments."""
_FOUR_BITS = 0.516
"""Bytes of a weight in nf4 with its scales, which are quantised too: 4.127 bits (QLoRA, Dettmers et al. 2023)."""
_MASK = 3
"""Bytes a pair of tokens of one row: the mask that SDPA is given where rows are joined or padded, and what it is made from."""
_LOGITS = {"fp32": 16, "bf16": 20}
"""Bytes a token and vocabulary entry: logits, their softmax in fp32, and the gradients of both."""
_PROCESS = 800_000_000
"""Bytes of a process with torch and transformers, which count where memory is the machine's own."""


class Estimate(Frozen):
    """Of one epoch: ``examples``, their ``tokens`` (``learned`` of them have a label), lengths. Over all epochs: ``steps`` of
    the optimiser and ``tokens_read``. ``memory_bytes`` is of one device and about right; None for a layout of model that
    is not known here."""

    examples: int
    held_out: int
    dropped: Dropped
    tokens: int
    learned: int
    shortest: int
    mean_length: float
    longest: int
    steps: int
    tokens_read: int
    memory_bytes: int | None


class Device(NamedTuple):
    """What it is trained on: so many devices of a kind, in a precision (never ``auto``), and the options that cost memory."""

    precision: Literal["fp32", "bf16"]
    kind: Literal["cpu", "cuda"] = "cpu"
    devices: int = 1
    packing: bool = False
    checkpointing: bool = False


def estimate(
    examples: Sequence[Example],
    held_out: Sequence[Example],
    tokenizer: Any,
    form: Format,
    hyper: Hyperparameters,
    base: Path,
    parameters: int | None,
    device: Device,
) -> Estimate:
    """What training on ``examples`` would take. ``parameters`` is the number of the base's weights; its folder ``base`` need
    hold no more than tokenizer and configuration.

    Raises:
        InputError: no example is left, or the tokenizer does not fit the format.
    """
    dataset, dropped = build_dataset(examples, tokenizer, form, hyper.max_length)
    lengths = [len(ids) for ids in dataset["input_ids"]]
    longest = sorted(lengths, reverse=True)[: hyper.batch_size]
    batch = sum(longest) if device.packing else longest[0] * len(longest)
    epoch = steps_an_epoch(len(lengths), hyper, device.devices)
    steps = hyper.max_steps or math.ceil(hyper.epochs * epoch)
    return Estimate(
        examples=len(lengths),
        held_out=_measured(held_out, tokenizer, form, hyper),
        dropped=dropped,
        tokens=sum(lengths),
        learned=sum(label != IGNORED for labels in dataset["labels"] for label in labels),
        shortest=min(lengths),
        mean_length=mean(lengths),
        longest=longest[0],
        steps=steps,
        tokens_read=round(sum(lengths) * steps / epoch),
        memory_bytes=None if parameters is None else memory_bytes(base, parameters, hyper, batch, device),
    )


def _measured(held_out: Sequence[Example], tokenizer: Any, form: Format, hyper: Hyperparameters) -> int:
    """How many of the held-out examples fit, and so would be measured; none of them has to."""
    try:
        return len(build_dataset(held_out, tokenizer, form, hyper.max_length)[0])
    except InputError:
        return 0


def steps_an_epoch(examples: int, hyper: Hyperparameters, devices: int) -> int:
    """Steps of the optimiser, counted as transformers' ``Trainer`` counts them; each is over all ``devices``."""
    batches = math.ceil(examples / (hyper.batch_size * devices))
    return math.ceil(batches / max(hyper.gradient_accumulation // devices, 1))


def memory_bytes(base: Path, parameters: int, hyper: Hyperparameters, batch_tokens: int, device: Device) -> int | None:
    """About how much memory a device needs: weights, what the optimiser keeps, and activations of one batch.

    Activations are counted as the tensors that the backward pass of a Llama-like layer reads; of attention's own only the
    mask grows with the square of a row's length. None where the base's config.json names other sizes.
    """
    whole: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config = whole.get("text_config", whole)
    if any(not isinstance(config.get(name), int) for name in _SHAPE):
        return None
    hidden, inner, layers, heads, vocabulary = (int(config[name]) for name in _SHAPE)
    head = int(config.get("head_dim") or hidden // heads)
    keys = head * int(config.get("num_key_value_heads") or heads)
    width = 2 if device.precision == "bf16" else 4
    matrices = 1 if config.get("tie_word_embeddings", whole.get("tie_word_embeddings", True)) else 2
    weights = _weights(parameters, matrices * vocabulary * hidden, hyper, device)
    learned = parameters
    if hyper.kind == "lora":
        # Each adapted layer has r rows and r columns: query, key, value, output, gate, up and down.
        sides = 2 * (hidden + head * heads) + 2 * (hidden + keys) + 3 * (hidden + inner)
        learned = hyper.lora_r * layers * sides
        weights += 4 * learned
    # Two norms, which compute in fp32; query, key and value for each head, attention's output twice; the gated layers.
    layer = 4 * 6 * hidden + width * (5 * hidden + 4 * inner)
    kept = layers * width * hidden + layer if device.checkpointing else layers * layer
    activations = batch_tokens * (kept + vocabulary * _LOGITS[device.precision])
    activations += _MASK * batch_tokens**2 // (1 if device.packing else hyper.batch_size)
    own = _PROCESS if device.kind == "cpu" else 0
    return round((weights + _STATE * learned) / device.devices + activations + own)


def _weights(parameters: int, embeddings: int, hyper: Hyperparameters, device: Device) -> float:
    """Bytes of the base's weights; ``embeddings`` of its ``parameters`` are embeddings and head."""
    if hyper.method == "qlora":
        # Those are not quantised, and peft holds them in fp32.
        return _FOUR_BITS * (parameters - embeddings) + 4 * embeddings
    bf16, full = device.precision == "bf16", hyper.method == "full"
    if bf16 and device.kind == "cuda" and not full:
        return 2.0 * parameters  # read in its own dtype
    # Autocast multiplies by bf16 copies of fp32 weights. Those of learned ones are in its cache; those of a frozen base are
    # kept for the backward pass, unless that makes them anew. Shards are put together in bf16, one layer at a time.
    copied = bf16 and device.devices == 1 and (full or not device.checkpointing)
    return (6.0 if copied else 4.0) * parameters
