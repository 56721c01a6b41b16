"""How fast a model is asked or trained where nobody has measured it yet: rules of thumb, so that a study can be planned first.

They say what to expect of a GPU that is kept busy with hundreds of rows, within a factor of about two; a store that holds
units of a model has its real speed (``store/rates.py``), and a plan says which of the two it stands on.

- A token costs 2 FLOPs a parameter to read or generate, a trained token 6 (forward 2, backward 4: Kaplan et al. 2020, arXiv
  2001.08361, section 2.1), 4 where only adapters learn, 2 more where activations are computed again.
- Of the peak of an A100 (312 TFLOPS in bf16, by NVIDIA's data sheet) generation reaches about 15 %, since it waits for memory;
  reading prompts and training about 40 % (the model FLOPs utilisation of Chowdhery et al. 2022, arXiv 2204.02311, is 46 %).
- Small models are held up by everything but their size: no more than 20,000 generated tokens a second and GPU.
- A CPU core gives about 15 GFLOPS to generation and 50 to prompts and training (SmolLM2-135M in docs/decisions.md: 110 and
  370 tokens a second on two cores).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

Device = Literal["cuda", "cpu"]

GPU_FLOPS = 312e12
_DECODE, _PREFILL = 0.15, 0.40
_MOST_TOKENS, _MOST_READ = 20_000.0, 200_000.0
_CORE_DECODE, _CORE_PREFILL = 15e9, 50e9
_ADAPTER, _FULL, _AGAIN = 4, 6, 2


class Speed(NamedTuple):
    """Tokens a second of one unit on all its devices: ``generated``, and ``read`` of prompts (0: the time of reading them is in
    the generated ones, as it is where the speed was measured)."""

    generated: float
    read: float


def devices_here() -> Device:
    """What models run on here, without importing torch: GPUs where there is a driver of one."""
    return "cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu"


def asking_speed(parameters: int, gpus: float, device: Device) -> Speed:
    """The rule for a model of so many (active) ``parameters`` on ``gpus`` GPUs, or on the cores of this machine."""
    if device == "cpu":
        cores = os.cpu_count() or 1
        return Speed(_CORE_DECODE * cores / (2 * parameters), _CORE_PREFILL * cores / (2 * parameters))
    flops = GPU_FLOPS / (2 * parameters)
    return Speed(gpus * min(_DECODE * flops, _MOST_TOKENS), gpus * min(_PREFILL * flops, _MOST_READ))


def training_speed(parameters: int, gpus: int, device: Device, *, adapters: bool, checkpointing: bool) -> float:
    """The rule for training: tokens a second over all ``gpus``, or on the cores of this machine."""
    flops = ((_ADAPTER if adapters else _FULL) + (_AGAIN if checkpointing else 0)) * parameters
    if device == "cpu":
        return _CORE_PREFILL * (os.cpu_count() or 1) / flops
    return gpus * _PREFILL * GPU_FLOPS / flops
