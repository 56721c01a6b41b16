"""One student's weights, gradients and optimiser states in shards, one a device (FSDP2 through accelerate). Imports torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from models.training_ranks import Ranks

SHARDS = "pytorch_model_fsdp_0"
"""The folder of a checkpoint in which accelerate writes each rank's weights."""


def keep_sums_exact(plugin: Any, bf16: bool) -> None:
    """Let bf16 be the precision of products alone: gradients are summed in fp32, and the loss is not rounded.

    accelerate's own policy rounds both, and then a loss has three digits.
    """
    if bf16:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def whole(model: Any, kind: str, ranks: Ranks) -> Any:
    """What can be saved as one model: ``model`` itself with its whole adapter, or a plain copy of it, on the CPU of rank 0.

    Every rank has to ask; the others get a model without weights.
    """
    if ranks.size == 1:
        return model
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=kind == "lora")
    state: Any = get_model_state_dict(model, options=options)
    if kind == "lora":
        return Adapter(model, state)
    unsharded: Any = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    with torch.device("meta"):
        plain = unsharded(model.config)
    if ranks.is_main:
        plain.load_state_dict(state, assign=True)
        plain.tie_weights()
        plain.generation_config = model.generation_config
    return plain


class Adapter(NamedTuple):
    """A sharded peft model, and its adapter in one piece."""

    model: Any
    state: dict[str, torch.Tensor]

    def save_pretrained(self, folder: str, **options: Any) -> None:
        """peft's own, with these weights."""
        self.model.save_pretrained(folder, state_dict=self.state, **options)
