"""Rows on their way through a transformers model together: shared prompts computed once, ended rows dropped, new ones
joined. Used by ``transformers_engine``; which rows belong together is decided there.

Rows are padded on the left. Which positions are real is known by length, not by a pad id (pad is a real token in many
models).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch

from models.engines.base import Completion, Request
from models.engines.decoding import GrowingCache, draw
from models.engines.families import LEAST_SHARED, branches
from store.types import Sampling


class Batch:
    """Rows that take one step at a time; empty at first. ``sampling`` and ``stop_ids`` hold for all of them."""

    def __init__(self, model: Any, config: Any, sampling: Sampling, stop_ids: frozenset[int], device: str) -> None:
        self._model, self._config, self._sampling, self._device = model, config, sampling, device
        self._stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
        self._rows: list[_Row] = []  # of the tensors; ended rows stay until enough of them are dropped together
        self._cache: Any = None
        self._mask: torch.Tensor  # (rows, columns): 1 where the cache holds a token
        self._position: torch.Tensor  # (rows,): of the token that is computed next
        self._tokens: torch.Tensor  # (rows,): drawn and not yet computed
        self._seen: torch.Tensor | None = None  # (rows, vocabulary): what the repetition penalty is for

    def __len__(self) -> int:
        """Rows that have not ended."""
        return sum(not row.ended for row in self._rows)

    @property
    def takes_more(self) -> bool:
        """Whether rows can join those that are on their way: sliding and linear layers keep no columns to align."""
        return not len(self) or isinstance(self._cache, GrowingCache)

    @torch.inference_mode()
    def join(self, requests: Sequence[Request]) -> list[Completion]:
        """Compute the prompts of more rows and draw their first tokens; returns the rows that end with them."""
        prompts = _Prompts(self._model, self._config, requests, self._device)
        rows = [_Row(r, cached, self._sampling) for r, cached in zip(requests, prompts.cached, strict=True)]
        seen = None
        if self._sampling.repetition_penalty != 1.0:
            seen = torch.zeros(prompts.logits.shape, dtype=torch.bool, device=self._device)
            for i, request in enumerate(requests):
                seen[i, list(request.token_ids)] = True
        tokens, done = self._draw(prompts.logits, rows, seen)
        position = prompts.mask.sum(1)
        if len(self):
            keep = self._alive()
            begin = self._first_column(keep)
            self._cache.merge(keep, begin, prompts.cache)
            self._mask = _below(self._mask[keep, begin:], prompts.mask)
            self._position = torch.cat([self._position[keep], position])
            self._tokens = torch.cat([self._tokens[keep], tokens])
            if self._seen is not None and seen is not None:
                self._seen = torch.cat([self._seen[keep], seen])
            self._rows = [row for row in self._rows if not row.ended] + rows
        else:
            self._cache, self._mask, self._position, self._tokens = prompts.cache, prompts.mask, position, tokens
            self._seen, self._rows = seen, rows
        return done

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Compute the tokens drawn last and draw the next; returns the rows that end with them."""
        self._drop_ended()
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(self._rows), 1))], dim=1)
        # A row that ended at the very end of the context is carried along and has no next position.
        position = self._position.clamp(max=self._config.max_position_embeddings - 1)
        logits = _forward(self._model, self._cache, self._tokens[:, None], self._mask, position[:, None])
        self._position = self._position + 1
        self._tokens, done = self._draw(logits, self._rows, self._seen)
        return done

    def _draw(
        self, logits: torch.Tensor, rows: Sequence[_Row], seen: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[Completion]]:
        """The next token of every row, and the rows that end with it."""
        if seen is not None:
            penalty = self._sampling.repetition_penalty
            logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
        if self._sampling.temperature == 0.0:
            tokens = logits.argmax(-1)
        else:
            numbers = [row.number() for row in rows]
            tokens = draw(logits, self._sampling, torch.tensor(numbers, device=self._device))
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        stopped = torch.isin(tokens, self._stops).tolist()
        taken = zip(rows, tokens.tolist(), stopped, strict=True)
        return tokens, [done for row, token, stops in taken if (done := row.take(token, stops)) is not None]

    def _drop_ended(self) -> None:
        """Drop ended rows once they are a quarter of the batch: copying the cache costs about one step."""
        if 4 * len(self) > 3 * len(self._rows):
            return
        keep = self._alive()
        if isinstance(self._cache, GrowingCache):
            begin = self._first_column(keep)
            self._cache.merge(keep, begin, None)
        else:
            begin = 0
            self._cache.batch_select_indices(keep)
        self._mask, self._position, self._tokens = self._mask[keep, begin:], self._position[keep], self._tokens[keep]
        if self._seen is not None:
            self._seen = self._seen[keep]
        self._rows = [row for row in self._rows if not row.ended]

    def _alive(self) -> torch.Tensor:
        return torch.tensor([i for i, row in enumerate(self._rows) if not row.ended], device=self._device)

    def _first_column(self, rows: torch.Tensor) -> int:
        """The first column that is real in one of ``rows``."""
        return int(self._mask[rows].amax(0).argmax())


class _Row:
    """What a row has become so far."""

    def __init__(self, request: Request, cached: int, sampling: Sampling) -> None:
        self._request, self._cached = request, cached
        self._output: list[int] = []
        self.ended = False
        # numpy's stream does not depend on how many numbers are drawn at a time, nor on other rows.
        self._numbers = (
            np.random.default_rng(request.seed).random(request.max_tokens, dtype=np.float32)
            if sampling.temperature
            else None
        )

    def number(self) -> float:
        """This row's own random number for its next token. One that has ended and is carried along takes any."""
        return 0.0 if self.ended or self._numbers is None else float(self._numbers[len(self._output)])

    def take(self, token: int, stops: bool) -> Completion | None:
        """Take the next token; the completion if that is the row's end."""
        if self.ended:
            return None
        if not stops:
            self._output.append(token)
        self.ended = stops or len(self._output) == self._request.max_tokens
        if not self.ended:
            return None
        return Completion(
            id=self._request.id,
            token_ids=tuple(self._output),
            stop_token=token if stops else None,
            finish="stop" if stops else "length",
            prompt_tokens=len(self._request.token_ids),
            cached_tokens=self._cached,
        )


class _Prompts:
    """The prompts of some rows, computed: every distinct prefix once, then spread to its rows.

    In up to three stages: what all rows begin with, their stems, the rest. A stage continues the cache of the one
    before it, so that a few-shot prompt or a question asked at several budgets is read once. Of a family (see
    ``families``) only the longest row goes through them; the others branch off from it in a last stage. ``logits`` (rows,
    vocabulary) are those of the next token; ``cached`` tokens of a prompt another row had computed.
    """

    def __init__(self, model: Any, config: Any, requests: Sequence[Request], device: str) -> None:
        self._model, self._device = model, device
        lengths = [len(r.token_ids) for r in requests]
        self.cache = GrowingCache.of(config, max(lengths) + max(r.max_tokens for r in requests))
        self.mask = torch.zeros((1, 0), dtype=torch.long, device=device)
        # A branch masks columns: layers that keep no columns cannot do so.
        parted = branches(requests) if isinstance(self.cache, GrowingCache) else []
        if all(branch.leader == i for i, branch in enumerate(parted)):
            self.logits = self._compute(requests)
            self.cached = _shared_tokens(requests)
            return
        leaders = [i for i, branch in enumerate(parted) if branch.leader == i]
        self._compute([requests[i] for i in leaders])
        place = {i: row for row, i in enumerate(leaders)}
        self._select(torch.tensor([place[branch.leader] for branch in parted], device=device), len(leaders))
        # A leader's last token is computed again, since its logits are needed beside those of the others.
        cuts = [min(branch.tokens, length - 1) for branch, length in zip(parted, lengths, strict=True)]
        self.mask = self.mask * (self.mask.cumsum(1) <= torch.tensor(cuts, device=device)[:, None])
        tails = [request.token_ids[cut:] for request, cut in zip(requests, cuts, strict=True)]
        self.logits = self._extend(list(range(len(requests))), tails)
        shared = dict(zip(leaders, _shared_tokens([requests[i] for i in leaders]), strict=True))
        self.cached = [shared.get(i, branch.tokens) for i, branch in enumerate(parted)]

    def _compute(self, requests: Sequence[Request]) -> torch.Tensor:
        """Compute the prompts stage by stage; the logits of their ends."""
        prompts = [r.token_ids for r in requests]
        known: list[tuple[int, ...]] = [()]
        before: list[tuple[int, ...]] = [()] * len(prompts)
        for cuts in _stages(requests):
            ends = [ids[:cut] for ids, cut in zip(prompts, cuts, strict=True)]
            parent = dict(zip(ends, before, strict=True))
            place = {ids: i for i, ids in enumerate(known)}
            parents = [place[begun] for begun in parent.values()]
            logits = self._extend(parents, [ids[len(begun) :] for ids, begun in parent.items()])
            known, before = list(parent), ends
        place = {ids: i for i, ids in enumerate(known)}
        rows = torch.tensor([place[ids] for ids in prompts], device=self._device)
        self._select(rows, len(known))
        return logits[rows]

    def _extend(self, parents: list[int], tails: list[tuple[int, ...]]) -> torch.Tensor:
        """Go on from the cached rows ``parents`` with ``tails`` (none empty), padded on the left; logits of their ends."""
        if self.mask.shape[1]:
            self._select(torch.tensor(parents, device=self._device), self.mask.shape[0])
        else:
            self.mask = self.mask.expand(len(parents), 0)
        width = max(map(len, tails))
        tokens = torch.zeros((len(tails), width), dtype=torch.long)
        real = torch.zeros((len(tails), width), dtype=torch.long)
        for row, tail in enumerate(tails):
            tokens[row, width - len(tail) :] = torch.tensor(tail)
            real[row, width - len(tail) :] = 1
        tokens, real = tokens.to(self._device), real.to(self._device)
        before = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, real], dim=1)
        return _forward(self._model, self.cache, tokens, self.mask, (before + real.cumsum(1) - 1).clamp(min=0))

    def _select(self, rows: torch.Tensor, held: int) -> None:
        """Make the cache and mask hold ``rows`` of the ``held`` ones; nothing is copied where that changes nothing."""
        if len(rows) != held or not torch.equal(rows, torch.arange(held, device=self._device)):
            self.cache.batch_select_indices(rows)
            self.mask = self.mask[rows]


def _forward(model: Any, cache: Any, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits (rows, vocabulary) in float32 after the last of ``tokens`` (rows, new); the cache takes all of them."""
    done = model(
        input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
        logits_to_keep=1,
    )  # fmt: skip
    logits: torch.Tensor = done.logits[:, -1]
    return logits.float()


def _below(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """One mask of two, whose last columns are the same."""
    width = max(above.shape[1], below.shape[1])
    return torch.cat([torch.nn.functional.pad(mask, (width - mask.shape[1], 0)) for mask in (above, below)])


def _stages(requests: Sequence[Request]) -> list[list[int]]:
    """Where each prompt is cut: at what all share, at its stem, at its end. Stages that would save little are left out.

    Every later stage has at least one token of every row, since logits are taken where a prompt ends.
    """
    lengths = [len(r.token_ids) for r in requests]
    stages = [lengths]
    stems = [min(r.stem, len(r.token_ids) - 1) for r in requests]
    distinct = {r.token_ids[:stem] for r, stem in zip(requests, stems, strict=True)}
    if min(stems) >= LEAST_SHARED and 2 * len(distinct) <= len({r.token_ids for r in requests}):
        stages.insert(0, stems)
    first, last = min(r.token_ids for r in requests), max(r.token_ids for r in requests)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    shared = min(common, min(stages[0]) - 1)
    if shared >= LEAST_SHARED and first != last:
        stages.insert(0, [shared] * len(requests))
    return stages


def _shared_tokens(requests: Sequence[Request]) -> list[int]:
    """Prompt tokens of each row that an earlier row had computed, stage by stage."""
    cached = [0] * len(requests)
    before = [0] * len(requests)
    for cuts in _stages(requests):
        seen: set[tuple[int, ...]] = set()
        for row, (request, cut) in enumerate(zip(requests, cuts, strict=True)):
            ids = request.token_ids[:cut]
            cached[row] += cut - before[row] if ids in seen else 0
            seen.add(ids)
        before = cuts
    return cached
