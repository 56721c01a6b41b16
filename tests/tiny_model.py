"""A random model of two layers with the embedded model's tokenizer: it is trained and asked in milliseconds a step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

CONTEXT = 256


def make_tiny(folder: Path, *, tied: bool = True) -> Path:
    """Write it to ``folder``, which is made, and return that. ``tied``: input and output share their embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from models.embedded import default_cache, embedded_model

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=CONTEXT, tie_word_embeddings=tied, dtype="bfloat16",
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(str(folder))
    for pattern in ("tokenizer*", "chat_template*"):
        for path in embedded_model(default_cache()).glob(pattern):
            shutil.copy(path, folder)
    return folder


def registry_of(folder: Path, model: Path, **changes: Any) -> Path:
    """A registry in ``folder`` with the model under the alias ``tiny``."""
    entry = {"alias": "tiny", "source": str(model), "context_length": CONTEXT, "parameters": 1_600_000, **changes}
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": [entry]}), encoding="utf-8")
    return path
