"""Rows that begin alike far beyond their prompts: the answers to one thought at several budgets, above all.

Each of them is a prefix of the thought and a few words of its own. Such rows are kept together, the longest first, so that
its keys and values serve the others: they are taken up to where the rows part, and the rest is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from models.engines.base import Request

LEAST_SHARED = 16
"""Tokens that rows must share for it to be used: below, it costs more than it spares."""


class Branch(NamedTuple):
    """Where a row parts from its leader (an index among the same rows): after so many tokens. A leader leads itself."""

    leader: int
    tokens: int


def arranged(requests: Sequence[Request]) -> list[Request]:
    """The requests in an order to be computed in: families together, the longest row of each first; the family with the
    longest row first, since a lack of memory then shows at once."""
    families: list[list[Request]] = []
    ordered = sorted(requests, key=lambda r: r.token_ids)
    for before, request in pairwise([None, *ordered]):
        assert request is not None  # noqa: S101 - only the first of the list is
        if before is not None and _shared(before, request) >= _least(before, request):
            families[-1].append(request)
        else:
            families.append([request])
    for family in families:
        family.sort(key=_longest_first)
    families.sort(key=lambda family: _longest_first(family[0]))
    return [request for family in families for request in family]


def branches(requests: Sequence[Request]) -> list[Branch]:
    """For each row the row whose keys and values it takes over, and up to where; expects them :func:`arranged`."""
    found: list[Branch] = []
    leader = 0
    for i, request in enumerate(requests):
        shared = min(_shared(requests[leader], request), len(request.token_ids) - 1)
        if i and shared >= _least(requests[leader], request):
            found.append(Branch(leader, shared))
        else:
            leader = i
            found.append(Branch(i, len(request.token_ids)))
    return found


def _longest_first(request: Request) -> tuple[int, tuple[int, ...]]:
    return -len(request.token_ids) - request.max_tokens, request.token_ids


def _least(one: Request, other: Request) -> int:
    """Rows of one question share their stem anyway; a family shares more. Rows without a stem are in none."""
    if not one.stem or one.stem != other.stem:
        return len(one.token_ids) + len(other.token_ids)
    return one.stem + LEAST_SHARED


def _shared(one: Request, other: Request) -> int:
    """Tokens with which both begin."""
    low, high = 0, min(len(one.token_ids), len(other.token_ids))
    while low < high:  # by halves, since comparing slices is fast and a loop over tokens is not
        middle = (low + high + 1) // 2
        if one.token_ids[low:middle] == other.token_ids[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
