"""The model of a training: where and how precisely it computes, how its base is read, how it is saved. Imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from models.finetune import ProcessOptions, TrainSpec
from models.training_ranks import Ranks
from store.types import InputError


def choose_device(options: ProcessOptions) -> str:
    asked, found = options.device, torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "cuda" and not found:
        raise InputError("device: 'cuda' is asked for and torch finds no CUDA device; use 'auto' or 'cpu'")
    if asked != "cpu" and options.devices > 1 and options.gpus > found:
        raise InputError(
            f"gpus: {options.gpus} are asked for and torch finds {found} on this machine; ask for no more than it has, or "
            "free those that CUDA_VISIBLE_DEVICES hides"
        )
    return "cuda" if asked != "cpu" and found else "cpu"


def choose_precision(asked: Literal["auto", "fp32", "bf16"], device: str) -> Literal["fp32", "bf16"]:
    """``auto`` is bf16 where the hardware multiplies it natively: elsewhere it is emulated and 3 times slower.

    Raises:
        InputError: bf16 is asked for on a GPU that has none.
    """
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))
    if asked == "bf16" and device == "cuda" and not native:
        raise InputError("precision: this GPU has no bf16; use 'fp32' or 'auto'")
    return ("bf16" if native else "fp32") if asked == "auto" else asked


def student_model(spec: TrainSpec, precision: str, device: str) -> tuple[Any, torch.dtype]:
    """The model to train (safetensors only, no network), and the dtype in which it is saved whole.

    What is learned is held in fp32. A base that is not learned stays in 4 bits for ``qlora``; on a GPU that multiplies bf16
    it is read in its own dtype, which halves its memory.
    """
    hyper, dtype = spec.hyperparameters, _dtype(spec.base)
    options: dict[str, Any] = {"dtype": torch.float32}
    if hyper.method == "qlora":
        options = _four_bits(precision, device)
    elif hyper.method == "lora" and (precision, device) == ("bf16", "cuda"):
        options = {"dtype": dtype}
    model = AutoModelForCausalLM.from_pretrained(
        str(spec.base), use_safetensors=True, local_files_only=True, trust_remote_code=spec.trust_remote_code, **options
    )
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and hyper.max_length > context:
        raise InputError(f"max_length: {hyper.max_length} is more than the base model's context of {context} tokens")
    if hyper.method == "full":
        return model, dtype
    if hyper.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=hyper.lora_r, lora_alpha=hyper.lora_alpha, lora_dropout=hyper.lora_dropout, bias="none",
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model, config), dtype


def _dtype(base: Path) -> torch.dtype:
    """The dtype in which the weights in ``base`` are stored, as its config says; fp32 where it says nothing."""
    config = json.loads((base / "config.json").read_text())
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    found = getattr(torch, str(name))
    if not isinstance(found, torch.dtype):
        raise InputError(f"base: {base / 'config.json'} names an unknown dtype {name!r}")
    return found


def _four_bits(precision: str, device: str) -> dict[str, Any]:
    """How a base is read in 4 bits: normal floats, quantised twice (QLoRA, Dettmers et al. 2023).

    Raises:
        InputError: there is no GPU.
    """
    if device != "cuda":
        raise InputError("method: 'qlora' needs a GPU, and torch finds no CUDA device; use 'lora'")
    compute = torch.bfloat16 if precision == "bf16" else torch.float32
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": quantisation, "dtype": compute, "device_map": {"": 0}}


def check_vocabulary(model: Any, dataset: Any) -> None:
    """Whether every id has a row in the embedding: an index error inside the model would not say what is wrong."""
    known = model.get_input_embeddings().weight.shape[0]
    largest = max(max(ids) for ids in dataset["input_ids"])
    if largest >= known:
        raise InputError(
            f"base: the tokenizer gives token id {largest}, the model has embeddings for {known}: they are not of one model"
        )


def save_student(model: Any, tokenizer: Any, kind: str, dtype: torch.dtype, folder: Path, ranks: Ranks) -> None:
    """Weights as safetensors, and the tokenizer with its chat template."""
    if not ranks.is_main:
        return
    if kind == "lora":
        # `save_embedding_layers` would look the base up on the hub to see whether its vocabulary was changed.
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    else:
        # The trainer says otherwise, and a student that keeps no cache generates many times slower.
        model.config.use_cache = True
        if model.generation_config is not None:
            model.generation_config.use_cache = True
        model.to(dtype).save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))
