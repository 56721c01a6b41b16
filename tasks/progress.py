"""Progress of a unit: a Prefect progress artifact, and whoever listens in this process (the terminal).

Progress never fails a unit: if the artifact cannot be written, that is logged once and the work goes on.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext

logger = logging.getLogger(__name__)
_ARTIFACT_SECONDS = 3.0


class Event(NamedTuple):
    """Where a unit stands: ``done`` of ``total`` rows, ``tokens`` generated so far, after ``seconds``."""

    name: str
    done: int
    total: int
    tokens: int
    seconds: float
    finished: bool


Listener = Callable[[Event], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener`` with every event of this process while the block lasts. It may be called from any thread."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Meter:
    """Counts the rows of one unit. Use through :func:`progress`."""

    def __init__(self, name: str, total: int, done: int) -> None:
        self.name, self.total, self.done, self.tokens = name, total, done, 0
        self._started = time.monotonic()
        self._last_artifact = 0.0
        self._artifact: UUID | None = None
        self._broken = False

    def advance(self, rows: int, tokens: int = 0) -> None:
        """So many more rows are landed, for which so many tokens were generated."""
        self.done += rows
        self.tokens += tokens
        self._tell(finished=False)

    def _tell(self, *, finished: bool) -> None:
        seconds = time.monotonic() - self._started
        for listener in _listeners:
            listener(Event(self.name, self.done, self.total, self.tokens, seconds, finished))
        if finished or time.monotonic() - self._last_artifact > _ARTIFACT_SECONDS:
            self._last_artifact = time.monotonic()
            self._write_artifact()

    def _write_artifact(self) -> None:
        if self._broken or (TaskRunContext.get() is None and FlowRunContext.get() is None):
            return
        percent = 100.0 * self.done / self.total if self.total else 100.0
        try:
            if self._artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
                created = create_progress_artifact(progress=percent, key=f"progress-{key}", description=self.name)
                self._artifact = created if isinstance(created, UUID) else None
            else:
                update_progress_artifact(self._artifact, progress=percent)
        except Exception as error:
            self._broken = True
            logger.warning("the progress artifact of %s cannot be written: %s", self.name, error)


@contextmanager
def progress(name: str, total: int, done: int = 0) -> Iterator[Meter]:
    """A meter for ``total`` rows of which ``done`` are there already; tells the end also after an error."""
    meter = Meter(name, total, done)
    meter._tell(finished=False)
    try:
        yield meter
    finally:
        meter._tell(finished=True)
