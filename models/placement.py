"""How many GPUs a model takes, by its size: what places units on a cluster, and what a plan counts GPU hours with."""

from __future__ import annotations

GIB = 1024**3
BYTES_A_WEIGHT = 2
"""bf16, in which the engines compute on a GPU. Weights that are stored in eight bits are counted twice as large as they are."""
ROOM = 1.2
"""Weights times this: a fifth more for the cache of keys and values, so that enough rows are computed together."""
FIXED_GIB = 2.0
"""What a process takes of its GPUs beside: the runtime, activations, captured graphs."""
USABLE = 0.9
"""The share of a GPU's memory that an engine fills (``generation.gpu_memory``'s default)."""
PARTS = (0.125, 0.25, 0.5)
"""The parts of a GPU that small models take where it may be shared."""
_MOST = 1024


def gpus_for(parameters: int | None, gpu_gib: float, tensor_parallel: int = 1, *, share: bool = False) -> float:
    """GPUs of ``gpu_gib`` GiB each that a model of so many ``parameters`` takes.

    A ``tensor_parallel`` above 1 has been chosen by a person: that many, whatever the size. Else the weights in bf16 times
    1.2 (room for the cache), and 2 GiB, have to fit into nine tenths of the GPUs' memory: of one, or of the least power of
    two, since attention heads are dealt out evenly over them. Where GPUs may be shared (``share``) a model that fits into
    1/8, 1/4 or 1/2 of one takes that part. Whole numbers are returned as such (2.0), and an unknown size is one GPU.

    Raises:
        ValueError: a size or memory that cannot be, or a model that 1,024 such GPUs do not hold.
    """
    if gpu_gib <= 0 or tensor_parallel < 1 or (parameters is not None and parameters < 1):
        raise ValueError(f"{parameters} parameters on {tensor_parallel} GPUs of {gpu_gib} GiB: give numbers above 0")
    if tensor_parallel > 1 or parameters is None:
        return float(tensor_parallel)
    needed = memory_gib(parameters)
    count = 1
    while needed > USABLE * gpu_gib * count:
        count *= 2
        if count > _MOST:
            raise ValueError(f"a model of {parameters:,} parameters does not fit into {_MOST} GPUs of {gpu_gib:g} GiB")
    if count == 1 and share:
        return next((part for part in PARTS if needed <= USABLE * gpu_gib * part), 1.0)
    return float(count)


def fits(parameters: int | None, gpu_gib: float, gpus: int) -> bool:
    """Whether a model of so many parameters can be asked at a good pace on so many GPUs; one of unknown size can."""
    return parameters is None or memory_gib(parameters) <= USABLE * gpu_gib * gpus


def memory_gib(parameters: int) -> float:
    """GiB of GPU memory that a model of so many parameters needs to be asked at a good pace; see :func:`gpus_for`."""
    return ROOM * BYTES_A_WEIGHT * parameters / GIB + FIXED_GIB
