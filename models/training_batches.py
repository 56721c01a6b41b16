"""Rows of token ids become batches, and batches are dealt out to the processes that train together. Imports torch.

They are dealt out like cards, so that a step of several devices sees the very examples that a step of one device sees::

    one device    step 1: a b c d    step 2: e
    two devices   step 1: a   c      step 2: e        every rank makes as many passes as the others, since all of them
                          b   d              blank    take part in each; where batches run out a blank one is read

A blank row has one token and learns nothing. Losses are sums over learned tokens, so it changes no loss and no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler
from transformers import DataCollatorWithFlattening

from models.training_ranks import Ranks
from models.training_text import IGNORED
from store.types import InputError

Row = dict[str, list[int]]

BLANK: Row = {"input_ids": [0], "labels": [IGNORED]}


def is_blank(row: Row) -> bool:
    """Whether ``row`` fills a place only: a real one has a prompt and something learned, so two tokens or more."""
    return len(row["input_ids"]) == 1


def dealt(rows: Sequence[Row], batch_size: int, ranks: Ranks) -> list[list[Row]]:
    """This rank's batches of ``rows``: every ``ranks.size``-th one, and blank ones up to the number that others have."""
    batches = [list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
    while len(batches) % ranks.size:
        batches.append([BLANK])
    return batches[ranks.rank :: ranks.size]


def pad(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch of shape (rows, longest row), padded on the right; padding is masked by length, since its id may be real.

    Raises:
        InputError: nothing in the batch is learned.
    """
    longest = max(len(row["input_ids"]) for row in rows)

    def column(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    batch = {"input_ids": column("input_ids", 0), "attention_mask": mask, "labels": column("labels", IGNORED)}
    if bool((batch["labels"] == IGNORED).all()) and not all(map(is_blank, rows)):
        raise InputError(f"all labels of a batch of {len(rows)} are masked: nothing would be learned from it")
    return batch


def packed(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch of shape (1, all tokens) without padding. Positions restart with each row, and attention with them.

    Raises:
        InputError: nothing in the batch is learned.
    """
    batch: dict[str, torch.Tensor] = DataCollatorWithFlattening(return_tensors="pt")(rows)
    if bool((batch["labels"] == IGNORED).all()) and not all(map(is_blank, rows)):
        raise InputError(f"all labels of a batch of {len(rows)} are masked: nothing would be learned from it")
    return batch


def tokens_in(batch: dict[str, Any]) -> int:
    """Tokens of a padded or packed batch, those of blank rows not counted."""
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(dim=1)
    else:
        positions = batch["position_ids"].flatten()
        starts = (positions == 0).nonzero().flatten()
        lengths = torch.diff(starts, append=starts.new_tensor([len(positions)]))
    return int(lengths[lengths > 1].sum())


class Rows(Dataset[Row]):
    """The examples, followed by blank rows up to a number that ``count`` ranks can share out in whole batches."""

    def __init__(self, rows: Any, batch_size: int, count: int) -> None:
        self._rows = rows
        self.real = len(rows)
        whole = batch_size * count
        self._length = -(-self.real // whole) * whole

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Row:
        row: Row = self._rows[index] if index < self.real else BLANK
        return row


class Order(Sampler[int]):
    """The order of one device's training (accelerate's seeded shuffle of the examples), and then the blank rows."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self._rows = rows
        self._examples = SeedableRandomSampler(range(rows.real), data_seed=seed)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        yield from self._examples
        yield from range(self._rows.real, len(self._rows))

    def set_epoch(self, epoch: int) -> None:
        """Shuffle as for this epoch (counted from 0)."""
        self._examples.set_epoch(epoch)
