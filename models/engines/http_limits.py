"""How patient a client of a model server is, and how many requests it keeps open."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple


class Limits(NamedTuple):
    """How patient a client is; all times in seconds.

    ``attempts`` at each request, with pauses that begin at ``pause`` and double up to ``longest_pause``. A stream may be
    silent for ``first`` before its first token (requests queue in the server, hidden thoughts are not streamed), and for
    ``silence`` after it. A Retry-After beyond ``longest_hold`` ends the run.
    """

    attempts: int = 8
    connect: float = 20.0
    first: float = 600.0
    silence: float = 120.0
    pause: float = 0.5
    longest_pause: float = 30.0
    longest_hold: float = 600.0


class Gate:
    """How many requests may be open, and from when on. Used in the event loop alone.

    A 429 halves the number, once for all requests that were open at the time; n answers in a row add one again, where n
    are allowed.
    """

    def __init__(self, most: int) -> None:
        self._most, self._allowed, self._open = most, float(most), 0
        self._not_before = self._slowed = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> float:
        """Wait for a place, and return the time at which it was had."""
        while True:
            while self._open >= int(self._allowed):
                turn = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                await turn
            now = time.monotonic()
            if now >= self._not_before:
                self._open += 1
                return now
            await asyncio.sleep(self._not_before - now)

    def leave(self) -> None:
        """Give the place back."""
        self._open -= 1
        self._wake()

    def answered(self) -> None:
        """A request went well: a little more is allowed, up to the most."""
        self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
        self._wake()

    def slow_down(self, since: float) -> None:
        """A request that was sent at ``since`` was one too many."""
        if since >= self._slowed:
            self._slowed, self._allowed = time.monotonic(), max(1.0, self._allowed // 2)

    def hold(self, seconds: float) -> None:
        """Let nobody in for so long."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled ones are passed over
                turn.set_result(None)
                return
