"""The engine that needs no server and no GPU: transformers models, with a decoding loop of our own.

Why not ``model.generate``: there every row of a batch draws from one random stream, so that a row's sample depends on
its neighbours; here each row has its own. The loop also computes a prompt shared by several rows once, drops finished
rows from the batch and lets others take their place, writes new keys and values in place, and attends without repeating
them for each query head.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from models.engines.base import Completion, EngineOptions, ModelRef, Request, check_request
from models.engines.batch import Batch
from models.engines.decoding import register_attention
from models.engines.families import arranged
from models.engines.loading import choose_dtype, end_of_turn_ids, load_model, load_tokenizer
from store.types import InputError, RunError, Sampling

log = logging.getLogger(__name__)

DEFAULT_ROWS = {"cpu": 64, "cuda": 128}

MEMORY_SHARE = 0.5
"""Of the free memory, what keys and values may take. The rest is for logits, attention and what else runs here."""


class TransformersEngine:
    """A transformers model, decoded in batches of ``rows`` at most (``batch_size``)."""

    name = "transformers"

    def __init__(self, model: ModelRef, options: EngineOptions) -> None:
        if options.tensor_parallel > 1:
            raise InputError("tensor_parallel: the transformers engine runs on one device; use engine: vllm")
        torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        precision = choose_dtype(options.dtype, self.device)
        self.dtype = str(precision).removeprefix("torch.")
        self.tokenizer = load_tokenizer(model)
        self.eos_token_ids = end_of_turn_ids(model, self.tokenizer)
        register_attention()
        self._model = load_model(model, precision, "factscale").to(self.device)
        self._config = self._model.config.get_text_config()
        self.context_length = int(self._config.max_position_embeddings)
        self.rows = options.batch_size or DEFAULT_ROWS[self.device]
        text = self._config
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._bytes_per_token = 2 * text.num_hidden_layers * heads * width * precision.itemsize

    def close(self) -> None:
        """Free the weights."""
        self._model = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def stream(self, sampling: Sampling, stop_ids: frozenset[int]) -> Waves:
        """A stream that takes its requests in waves; see ``Stream``."""
        return Waves(self, sampling, stop_ids)

    def empty_batch(self, sampling: Sampling, stop_ids: frozenset[int]) -> Batch:
        """A batch of this model, without rows yet."""
        return Batch(self._model, self._config, sampling, stop_ids, self.device)

    def rows_that_fit(self, longest: Request) -> int:
        """How many rows as long as ``longest`` the free memory holds; at least 1."""
        free = _free_gpu_memory() if self.device == "cuda" else _free_memory()
        each = self._bytes_per_token * (len(longest.token_ids) + longest.max_tokens)
        return max(1, int(free * MEMORY_SHARE / each))


class Waves:
    """A stream that computes wave after wave: all requests that are pending when nothing runs.

    A wave is sorted, so that rows of like length and equal prompts meet in the batch. Out of memory halves the batch; the
    rows that were in it begin anew.
    """

    def __init__(self, engine: TransformersEngine, sampling: Sampling, stop_ids: frozenset[int]) -> None:
        self._engine, self._sampling, self._stop_ids = engine, sampling, stop_ids
        self._rows = engine.rows
        self._pending: list[Request] = []
        self._wave: list[Request] = []  # not begun
        self._batch: Batch | None = None
        self._running: dict[str, Request] = {}
        self._size = 0  # rows of the batch at most

    @property
    def hungry(self) -> bool:
        """Whether the next wave would not fill the batch. While a wave is computed nothing joins it."""
        return self._batch is None and not self._wave and len(self._pending) < self._rows

    def add(self, requests: Sequence[Request]) -> None:
        """Take more rows, for the next wave."""
        for request in requests:
            check_request(request, self._engine.context_length)
        self._pending.extend(requests)

    def wait(self) -> list[Completion]:
        """The rows that the next decoding step ends; as many steps as it takes.

        Raises:
            RunError: not even one row fits into memory.
        """
        while self._running or self._wave or self._pending:
            try:
                done = self._advance()
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
                continue
            for completion in done:
                del self._running[completion.id]
            if not self._running:
                self._batch = None
            if done:
                return done
        return []

    def close(self) -> None:
        """Drop all rows and what is held for them."""
        self._pending, self._wave, self._running, self._batch = [], [], {}, None

    def _advance(self) -> list[Completion]:
        """One step: of the whole batch, or the first one of rows that join it."""
        if self._batch is None:
            if not self._wave:
                self._wave = arranged(self._pending)
                self._pending = []
            if self._rows < self._engine.rows:
                gc.collect()  # the batch that was too large
            self._size = min(self._rows, self._engine.rows_that_fit(self._wave[0]))
            self._batch = self._engine.empty_batch(self._sampling, self._stop_ids)
        free = self._size - len(self._running)
        if not self._wave or 4 * free < self._size or not self._batch.takes_more:
            return self._batch.step()
        joining, self._wave = self._wave[:free], self._wave[free:]
        self._running |= {request.id: request for request in joining}
        return self._batch.join(joining)

    def _halve(self, error: Exception) -> None:
        """Begin the rows of the batch anew, half as many at a time. Raises ``error`` if it is none of memory."""
        if not _is_out_of_memory(error):
            raise error
        rows = len(self._running)
        if rows == 1:
            (row,) = self._running.values()
            raise RunError(f"out of memory with one row of {len(row.token_ids)} prompt tokens") from error
        self._rows = max(1, rows // 2)
        log.warning("out of memory with %d rows: going on with %d", rows, self._rows)
        self._wave = [*self._running.values(), *self._wave]
        self._running, self._batch = {}, None


def _free_gpu_memory() -> int:
    """Bytes that torch can still use: those that are free, and those it holds for itself and does not use."""
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


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
