"""Loading weights and tokenizers with transformers, the way every engine here does it.

Safetensors only, no network (a folder is fetched before, by ``models.registry.fetch``), and no code from a model's folder
unless its registry entry says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from models.engines.base import ModelRef, Precision
from store.types import InputError


def choose_dtype(dtype: Precision, device: str) -> torch.dtype:
    """The precision to compute in. ``auto``: bf16 where the hardware multiplies it natively, else float32.

    On a CPU without AMX or AVX512-BF16 bf16 is emulated: measured 1.4 (8 rows) to 2 times (32 rows)
    slower than float32.
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_tile", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


def load_model(model: ModelRef, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """The causal language model of ``model``, its adapter merged, in ``dtype``. Safetensors only."""
    loaded = AutoModelForCausalLM.from_pretrained(
        str(model.folder), dtype=dtype, use_safetensors=True, local_files_only=True, attn_implementation=attention,
        trust_remote_code=model.trust_remote_code,
    )  # fmt: skip
    if model.adapter is not None:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, str(model.adapter)).merge_and_unload()
    return loaded.eval()


def load_tokenizer(model: ModelRef) -> Any:
    """The tokenizer of ``model``, with the chat template that the registry gives it, if any.

    Raises:
        InputError: there is none, or its chat template cannot be read.
    """
    folder = model.folder
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            f"model {model.alias!r}: {folder} has no tokenizer.json: the tokenizer has to be saved beside the weights"
        )
    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=model.trust_remote_code, local_files_only=True
    )
    if model.chat_template is not None:
        try:
            tokenizer.chat_template = model.chat_template.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"model {model.alias!r}: chat_template {model.chat_template} cannot be read: {error.strerror}"
            ) from error
    return tokenizer


def load_config(model: ModelRef) -> Any:
    """The configuration in the model's folder."""
    return AutoConfig.from_pretrained(
        str(model.folder), local_files_only=True, trust_remote_code=model.trust_remote_code
    )


def end_of_turn_ids(model: ModelRef, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a turn: the tokenizer's, the registry's stop tokens, those of the model's two config files.

    A folder with a tokenizer alone (its model is on a server) has fewer of them.

    Raises:
        InputError: a stop token of the registry is not in the vocabulary.
    """
    found: set[int] = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    vocabulary = tokenizer.get_vocab() if model.stop_tokens else {}
    for token in model.stop_tokens:
        if token not in vocabulary:
            raise InputError(f"model {model.alias!r}: stop token {token!r} is not one token of its vocabulary")
        found.add(vocabulary[token])
    configs: list[Any] = [load_config(model)] if (model.folder / "config.json").is_file() else []
    if (model.folder / "generation_config.json").is_file():
        configs.append(GenerationConfig.from_pretrained(str(model.folder), local_files_only=True))
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)


def merge_adapter(model: ModelRef, target: Path, dtype: torch.dtype) -> None:
    """Write ``model``, its adapter merged, to the folder ``target`` as a whole model, rounded once, to ``dtype``."""
    load_model(model, dtype).save_pretrained(target)
    load_tokenizer(model).save_pretrained(target)
