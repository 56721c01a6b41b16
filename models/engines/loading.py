"""Loading weights and tokenizers with transformers, the way every engine here does it.

Safetensors only, no code from a model folder, no network: a folder is fetched before (``models.registry.fetch``).
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
    """The causal language model of ``model``, its adapter merged, in ``dtype``. Safetensors only, no remote code."""
    loaded = AutoModelForCausalLM.from_pretrained(
        str(model.path), dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
        attn_implementation=attention,
    )  # fmt: skip
    if model.adapter is not None:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, str(model.adapter)).merge_and_unload()
    return loaded.eval()


def load_tokenizer(path: Path) -> Any:
    """The tokenizer in ``path``.

    Raises:
        InputError: there is none.
    """
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"{path} has no tokenizer.json: the tokenizer has to be saved beside the weights")
    return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)


def end_of_turn_ids(path: Path, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a turn: the tokenizer's, and those of ``generation_config.json`` and ``config.json``."""
    found: set[int] = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    configs: list[Any] = [AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)]
    if (path / "generation_config.json").is_file():
        configs.append(GenerationConfig.from_pretrained(str(path), local_files_only=True))
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)


def merge_adapter(model: ModelRef, target: Path) -> None:
    """Write the model with its adapter merged to ``target``, in the precision its weights are stored in."""
    stored = AutoConfig.from_pretrained(str(model.path), local_files_only=True, trust_remote_code=False).dtype
    load_model(model, stored or torch.float32).save_pretrained(target)
    load_tokenizer(model.path).save_pretrained(target)
