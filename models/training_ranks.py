"""The processes that train one student together: which of them this is, and what they tell one another.

A training on one device has one rank, and nothing here then speaks to anybody. Imports torch.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others (one of them may be reading or writing all the weights)."""


class Ranks(NamedTuple):
    """``size`` processes, of which this one is number ``rank``. Every method is called by all of them or by none."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes, speaks and decides."""
        return self.rank == 0

    def sums(self, *values: float) -> list[float]:
        """Each value summed over the ranks (in double precision)."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, value: float) -> float:
        """The largest of the ranks' values."""
        return self._reduced((value,), dist.ReduceOp.MAX)[0]

    def _reduced(self, values: tuple[float, ...], how: Any) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=how)
        return [float(value) for value in tensor]

    def agreed(self, value: Any) -> Any:
        """Rank 0's value."""
        if self.size == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0, device=self.device)
        return told[0]

    def same(self, value: Any) -> bool:
        """Whether all ranks have the same value, which each of them hears."""
        return self.largest(float(self.agreed(value) != value)) == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            self.sums(0.0)


ALONE = Ranks()
"""The one rank of a training on one device."""


def meet(device: str, size: int) -> Ranks:
    """Join the ``size`` processes that the launcher started. On ``cuda`` they speak through NCCL, on ``cpu`` through gloo."""
    if size == 1:
        return ALONE
    if device == "cuda":
        state = PartialState(timeout=PATIENCE)
    else:
        state = PartialState(cpu=True, backend="gloo", timeout=PATIENCE)
        # accelerate shards weights only on what it takes for accelerators, and plainly copies them on CPUs. torch
        # shards on CPUs too, so here it is told that these are GPUs: what follows is then the same code for both.
        state.distributed_type = DistributedType.MULTI_GPU
    return Ranks(state.process_index, state.num_processes, state.device)


def part() -> None:
    """Leave the group, so that no rank ends while another still needs it."""
    if dist.is_initialized():
        dist.destroy_process_group()
