"""The arithmetic of decoding on torch tensors: a cache written in place, attention without repeated heads, and a draw.

Used by ``transformers_engine``; nothing here knows of requests.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from store.types import Sampling

NUCLEUS = 256
"""How many of the most probable tokens are looked at first for top-p: nearly always they hold the whole nucleus, and
the full sort of a 50,000 or 150,000 token vocabulary, which is slow on a CPU, is not needed."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer in buffers with room for more: a step writes one column.

    transformers' own dynamic layer copies all it holds at every step. ``room`` is how many columns will be needed at
    most, as far as is known.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self._room = room
        self._length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._allocate(key_states, value_states, len(key_states), key_states.shape[2])
        self.is_initialized = True

    def _allocate(self, keys: torch.Tensor, values: torch.Tensor, rows: int, columns: int) -> None:
        """New buffers for ``rows`` and at least ``columns``, shaped like ``keys`` and ``values`` otherwise."""
        # By half: memory for what is generated, not for the limit, which most rows never reach.
        room = max(columns + 64, columns * 3 // 2)
        room = max(columns, min(room, self._room)) if columns <= self._room else room
        self._key_buffer = keys.new_empty((rows, keys.shape[1], room, keys.shape[3]))
        self._value_buffer = values.new_empty((rows, values.shape[1], room, values.shape[3]))

    def _hold(self, length: int) -> None:
        self._length = length
        self.keys, self.values = self._key_buffer[:, :, :length], self._value_buffer[:, :, :length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._length + key_states.shape[2]
        if end > self._key_buffer.shape[2]:
            old_keys, old_values = self.keys, self.values
            self._allocate(old_keys, old_values, len(old_keys), end)
            self._key_buffer[:, :, : self._length] = old_keys
            self._value_buffer[:, :, : self._length] = old_values
        self._key_buffer[:, :, self._length : end] = key_states
        self._value_buffer[:, :, self._length : end] = value_states
        self._hold(end)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._length

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._key_buffer, self._value_buffer = self._key_buffer[indices], self._value_buffer[indices]
        self._hold(self._length)

    def merge(self, rows: torch.Tensor, begin: int, other: GrowingLayer | None) -> None:
        """Keep ``rows`` from the column ``begin`` on, and put the rows of ``other`` below; both end in the same column.

        Columns before a row's own are left as zeros: they are masked, but what is not a number would spread.
        """
        keys, values, kept = self.keys, self.values, self._length - begin
        added = 0 if other is None else len(other.keys)
        length = max(kept, 0 if other is None else other._length)
        self._room = max(self._room, 0 if other is None else other._room)
        self._allocate(keys, values, len(rows) + added, length)
        for buffer, old, new in (
            (self._key_buffer, keys, None if other is None else other.keys),
            (self._value_buffer, values, None if other is None else other.values),
        ):
            buffer[: len(rows), :, : length - kept] = 0
            buffer[: len(rows), :, length - kept : length] = old[rows, :, begin:]
            if new is not None:
                buffer[len(rows) :, :, : length - new.shape[2]] = 0
                buffer[len(rows) :, :, length - new.shape[2] : length] = new
        self._hold(length)


class GrowingCache(Cache):  # type: ignore[misc]
    """A cache of growing layers."""

    @staticmethod
    def of(config: Any, room: int) -> Any:
        """A cache with ``room`` columns for a model of this config.

        A model with sliding or linear layers gets transformers' own dynamic cache.
        """
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            return DynamicCache(config=config)
        return GrowingCache(layers=[GrowingLayer(room) for _ in range(config.num_hidden_layers)])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows ``indices`` of the batch, in that order; a row may be named more than once."""
        for layer in self.layers:
            layer.batch_select_indices(indices)

    def merge(self, rows: torch.Tensor, begin: int, other: GrowingCache | None) -> None:
        """Keep ``rows`` from the column ``begin`` on, and put the rows of ``other``, which is used up, below them."""
        for i, layer in enumerate(self.layers):
            layer.merge(rows, begin, None if other is None else other.layers[i])
            if other is not None:
                other.layers[i] = GrowingLayer(0)  # so that at most one layer is held twice


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA that, for one new token a row, takes the query heads of a key head as if they were positions.

    Exact: one new token sees every column, so the order of "positions" is immaterial. It saves the copy of all keys and
    values for every query head, which on a CPU is most of a step. Longer queries go to transformers' own function.
    Shapes: query (rows, heads, 1, width), key and value (rows, key heads, columns, width); result (rows, 1,
    heads, width).
    """
    groups = getattr(module, "num_key_value_groups", 1)
    per_head = attention_mask is not None and attention_mask.shape[1] != 1
    if query.shape[2] != 1 or groups == 1 or per_head or kwargs.get("position_bias") is not None:
        usual: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return usual
    rows, heads, _, width = query.shape
    mask = None if attention_mask is None else attention_mask[..., : key.shape[2]]
    result = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, heads // groups, groups, width), key, value, attn_mask=mask, scale=kwargs.get("scaling")
    )
    return result.reshape(rows, 1, heads, value.shape[3]), None


def register_attention() -> None:
    """Make ``grouped_attention`` known to transformers as ``attn_implementation="factscale"``."""
    AttentionInterface.register("factscale", grouped_attention)
    AttentionMaskInterface.register("factscale", sdpa_mask)


def draw(logits: torch.Tensor, sampling: Sampling, uniform: torch.Tensor) -> torch.Tensor:
    """One token a row by inverting the cumulative distribution at ``uniform`` (rows,), after temperature, top-k, top-p.

    ``logits`` is (rows, vocabulary) float32. The order of truncations is that of transformers and vLLM: top-k first,
    then top-p over what is left; the token that crosses ``top_p`` is kept.
    """
    logits = logits / sampling.temperature
    if sampling.top_k:
        values, ids = logits.topk(min(sampling.top_k, logits.shape[1]), dim=-1)
        probabilities = values.softmax(-1)
    elif sampling.top_p < 1.0:
        probabilities, ids = _nucleus(logits.softmax(-1), sampling.top_p)
    else:
        probabilities, ids = logits.softmax(-1), None
    cumulative = probabilities.cumsum(-1)
    if sampling.top_p < 1.0:
        inside = cumulative - probabilities < sampling.top_p
        probabilities = probabilities * inside
        cumulative = probabilities.cumsum(-1)
    target = (uniform * cumulative[:, -1]).unsqueeze(1)
    chosen = torch.searchsorted(cumulative, target, right=True).clamp(max=cumulative.shape[1] - 1)
    # Rounding may point behind the last token that has any probability: step back onto it.
    last = (probabilities > 0).to(torch.int64).mul(torch.arange(probabilities.shape[1], device=logits.device))
    chosen = torch.minimum(chosen, last.amax(1, keepdim=True))
    return (chosen if ids is None else ids.gather(1, chosen)).squeeze(1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable tokens in falling order, at least as many as make up ``top_p``."""
    values, ids = probabilities.topk(min(NUCLEUS, probabilities.shape[1]), dim=-1)
    if bool((values.sum(-1) < top_p).any()):
        values, ids = probabilities.sort(dim=-1, descending=True)
    return values, ids
