"""The engine that needs no server and no GPU: transformers models, with a decoding loop of our own.

Why not ``model.generate``: there every row of a batch draws from one random stream, so that a row's sample depends on
its neighbours; here each row has its own. The loop also computes a prompt shared by several rows once, drops finished
rows from the batch, writes new keys and values in place, and attends without repeating them for each query head.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from models.engines.base import Completion, ModelRef, Precision, Request
from models.engines.decoding import GrowingCache, draw, register_attention
from models.engines.loading import choose_dtype, end_of_turn_ids, load_model, load_tokenizer
from store.types import InputError, RunError, Sampling

log = logging.getLogger(__name__)

DEFAULT_ROWS = {"cpu": 32, "cuda": 128}
LEAST_SHARED = 16
"""Tokens that rows must share for a stage of its own: below, one more pass costs more than it spares."""

MEMORY_SHARE = 0.5
"""Of the free memory, what keys and values may take. The rest is for logits, attention and what else runs here."""


class TransformersEngine:
    """A transformers model, decoded in batches. ``batch_size`` is the most rows at once."""

    name = "transformers"

    def __init__(self, model: ModelRef, dtype: Precision, batch_size: int | None, threads: int | None) -> None:
        torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        precision = choose_dtype(dtype, self.device)
        self.dtype = str(precision).removeprefix("torch.")
        self.tokenizer = load_tokenizer(model.path)
        self.eos_token_ids = end_of_turn_ids(model.path, self.tokenizer)
        register_attention()
        self._model = load_model(model, precision, "factscale").to(self.device)
        text = self._model.config.get_text_config()
        self.context_length = int(text.max_position_embeddings)
        self._rows = batch_size or DEFAULT_ROWS[self.device]
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._bytes_per_token = 2 * text.num_hidden_layers * heads * width * precision.itemsize
        self._config = text

    def close(self) -> None:
        """Free the weights."""
        self._model = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, stop_ids: frozenset[int]
    ) -> Iterator[Completion]:
        """Continue every request; see ``Engine``. Rows of like length share a batch, the longest first.

        Raises:
            InputError: a request has no tokens, or is longer than the context.
            RunError: not even one row fits into memory.
        """
        for request in requests:
            self._check(request)
        # Longest first: if memory is too short it shows at once. Equal prompts become neighbours and are computed once.
        waiting = sorted(requests, key=lambda r: (-len(r.token_ids) - r.max_tokens, r.token_ids))
        rows = self._rows
        while waiting:
            size = min(rows, self._rows_that_fit(waiting[0]))
            batch, done = waiting[:size], set[str]()
            try:
                for completion in _Batch(self._model, self._config, batch, sampling, stop_ids, self.device).run():
                    done.add(completion.id)
                    yield completion
            except (torch.cuda.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise RunError(f"out of memory with one row of {len(batch[0].token_ids)} prompt tokens") from error
                rows = max(1, len(batch) // 2)
                log.warning("out of memory with %d rows: going on with %d", len(batch), rows)
                gc.collect()
            waiting = [r for r in batch if r.id not in done] + list(waiting[size:])

    def _check(self, request: Request) -> None:
        if not request.token_ids or request.max_tokens < 1:
            raise InputError(f"request {request.id}: an empty prompt, or max_tokens {request.max_tokens} below 1")
        if len(request.token_ids) + request.max_tokens > self.context_length:
            raise InputError(
                f"request {request.id}: {len(request.token_ids)} prompt tokens and {request.max_tokens} new ones "
                f"exceed the context of {self.context_length} tokens"
            )

    def _rows_that_fit(self, longest: Request) -> int:
        free = torch.cuda.mem_get_info()[0] if self.device == "cuda" else _free_memory()
        each = self._bytes_per_token * (len(longest.token_ids) + longest.max_tokens)
        return max(1, int(free * MEMORY_SHARE / each))


def _free_memory() -> int:
    """Bytes of main memory that can be had without swapping (Linux); a CPU process is killed, not told, beyond them."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 4 << 30


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


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


class _Batch:
    """One batch on its way. Rows are padded on the left; which positions are real is known by length, not by a pad id
    (pad is a real token in many models)."""

    def __init__(
        self, model: Any, config: Any, requests: Sequence[Request], sampling: Sampling, stop_ids: frozenset[int],
        device: str,
    ) -> None:  # fmt: skip
        self._model, self._config, self._sampling, self._device = model, config, sampling, device
        self._requests = list(requests)
        self._stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
        self._output: list[list[int]] = [[] for _ in requests]
        # numpy's stream does not depend on how many numbers are drawn at a time, nor on other rows.
        self._uniform = [
            np.random.default_rng(r.seed).random(r.max_tokens, dtype=np.float32) if sampling.temperature else None
            for r in requests
        ]

    @torch.inference_mode()
    def _prefill(self) -> torch.Tensor:
        """Compute every distinct prefix once and spread it to its rows; logits (rows, vocabulary) of the next token.

        Prompts are computed in up to three stages: what all rows begin with, their stems, the rest. A stage continues
        the cache of the one before it, so a few-shot prompt or a question asked at several budgets is read once.
        """
        prompts = [r.token_ids for r in self._requests]
        room = max(map(len, prompts)) + max(r.max_tokens for r in self._requests)
        self._cache = GrowingCache.of(self._config, room)
        self._mask = torch.zeros((1, 0), dtype=torch.long, device=self._device)
        known: list[tuple[int, ...]] = [()]
        before: list[tuple[int, ...]] = [()] * len(prompts)
        for cuts in _stages(self._requests):
            ends = [ids[:cut] for ids, cut in zip(prompts, cuts, strict=True)]
            parent = dict(zip(ends, before, strict=True))
            place = {ids: i for i, ids in enumerate(known)}
            parents = [place[begun] for begun in parent.values()]
            logits = self._extend(parents, [ids[len(begun) :] for ids, begun in parent.items()])
            known, before = list(parent), ends
        place = {ids: i for i, ids in enumerate(known)}
        rows = torch.tensor([place[ids] for ids in prompts], device=self._device)
        self._select(rows, len(known))
        self._position = self._mask.sum(1)
        self._cached = _shared_tokens(self._requests)
        if self._sampling.repetition_penalty != 1.0:
            self._seen = torch.zeros((len(rows), logits.shape[-1]), dtype=torch.bool, device=self._device)
            for row, ids in enumerate(prompts):
                self._seen[row, list(ids)] = True
        return logits[rows]

    def _extend(self, parents: list[int], tails: list[tuple[int, ...]]) -> torch.Tensor:
        """Go on from the cached rows ``parents`` with ``tails`` (none empty), padded on the left; logits of their ends."""
        if self._mask.shape[1]:
            self._select(torch.tensor(parents, device=self._device), self._mask.shape[0])
        else:
            self._mask = self._mask.expand(len(parents), 0)
        width = max(map(len, tails))
        tokens = torch.zeros((len(tails), width), dtype=torch.long)
        real = torch.zeros((len(tails), width), dtype=torch.long)
        for row, tail in enumerate(tails):
            tokens[row, width - len(tail) :] = torch.tensor(tail)
            real[row, width - len(tail) :] = 1
        tokens, real = tokens.to(self._device), real.to(self._device)
        before = self._mask.sum(1, keepdim=True)
        self._mask = torch.cat([self._mask, real], dim=1)
        return self._forward(tokens, self._mask, (before + real.cumsum(1) - 1).clamp(min=0))

    def _select(self, rows: torch.Tensor, held: int) -> None:
        """Make the cache and mask hold ``rows`` of the ``held`` ones; nothing is copied where that changes nothing."""
        if len(rows) != held or not torch.equal(rows, torch.arange(held, device=self._device)):
            self._cache.batch_select_indices(rows)
            self._mask = self._mask[rows]

    def _forward(self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        done = self._model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=self._cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        logits: torch.Tensor = done.logits[:, -1]
        return logits.float()

    def run(self) -> Iterator[Completion]:
        """Yield every row's completion as soon as it has ended."""
        logits = self._prefill()
        alive = list(range(len(self._requests)))  # the request of each row of the tensors; None-like rows are dropped
        ended: set[int] = set()
        step = 0
        while len(ended) < len(self._requests):
            tokens = self._next(logits, alive, step)
            stopped = torch.isin(tokens, self._stops).tolist()
            for row, (request, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
                if request in ended:
                    continue
                if not stopped[row]:
                    self._output[request].append(token)
                if stopped[row] or step + 1 == self._requests[request].max_tokens:
                    ended.add(request)
                    yield self._completion(request, token if stopped[row] else None)
            if len(ended) < len(self._requests):
                alive, tokens = self._compact(alive, ended, tokens)
                logits = self._step(tokens)
            step += 1

    @torch.inference_mode()
    def _next(self, logits: torch.Tensor, alive: list[int], step: int) -> torch.Tensor:
        """The next token of every row."""
        penalty = self._sampling.repetition_penalty
        if penalty != 1.0:
            logits = torch.where(self._seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
        if self._sampling.temperature == 0.0:
            tokens = logits.argmax(-1)
        else:
            # A row that has ended but is still carried along has no number left: it takes any.
            streams = [self._uniform[request] for request in alive]
            numbers = [float(u[step]) if u is not None and step < len(u) else 0.0 for u in streams]
            tokens = draw(logits, self._sampling, torch.tensor(numbers, device=self._device))
        if penalty != 1.0:
            self._seen.scatter_(1, tokens[:, None], True)
        return tokens

    @torch.inference_mode()
    def _step(self, tokens: torch.Tensor) -> torch.Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(tokens), 1))], dim=1)
        logits = self._forward(tokens[:, None], self._mask, self._position[:, None])
        self._position = self._position + 1
        return logits

    @torch.inference_mode()
    def _compact(self, alive: list[int], ended: set[int], tokens: torch.Tensor) -> tuple[list[int], torch.Tensor]:
        """Drop ended rows once they are a quarter of the batch: copying the cache costs about one step."""
        keep = [row for row, request in enumerate(alive) if request not in ended]
        if 4 * len(keep) > 3 * len(alive):
            return alive, tokens
        rows = torch.tensor(keep, device=self._device)
        self._cache.batch_select_indices(rows)
        self._mask, self._position = self._mask[rows], self._position[rows]
        if self._sampling.repetition_penalty != 1.0:
            self._seen = self._seen[rows]
        return [alive[row] for row in keep], tokens[rows]

    def _completion(self, row: int, stop_token: int | None) -> Completion:
        request = self._requests[row]
        return Completion(
            id=request.id,
            token_ids=tuple(self._output[row]),
            stop_token=stop_token,
            finish="length" if stop_token is None else "stop",
            prompt_tokens=len(request.token_ids),
            cached_tokens=self._cached[row],
        )
