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
    """Where a unit stands: ``done`` of ``total`` rows, of which ``started_at_done`` were there when it started.

    ``tokens`` were generated, and ``cost`` US dollars spent on them, in the ``seconds`` since then. ``note`` is what else
    there is to say, in words.
    """

    name: str
    done: int
    total: int
    tokens: int
    seconds: float
    finished: bool
    cost: float = 0.0
    started_at_done: int = 0
    note: str = ""


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


def seconds_left(event: Event) -> float | None:
    """Seconds until the last row, at the pace since the unit started; None where none has landed since, or all have."""
    landed = event.done - event.started_at_done
    if event.finished or landed <= 0 or event.done >= event.total:
        return None
    return event.seconds * (event.total - event.done) / landed


def account(event: Event) -> list[str]:
    """The note, tokens a second, time left and cost so far, in words; what is not known or nothing is left out."""
    left = seconds_left(event)
    return [
        *([event.note] if event.note else []),
        *([f"{event.tokens / event.seconds:,.0f} tokens/s"] if event.tokens and event.seconds else []),
        *([f"{_duration(left)} left"] if left is not None else []),
        *([dollars(event.cost)] if event.cost else []),
    ]


def dollars(cost: float) -> str:
    """An amount in words: cents, and for less than one, two digits that count."""
    return f"${cost:,.2f}" if cost >= 0.01 or not cost else f"${cost:.2g}"


class Meter:
    """Counts the rows of one unit. Use through :func:`progress`."""

    def __init__(self, name: str, total: int, done: int, rows: str = "rows") -> None:
        self.name, self.total, self.done, self.tokens, self.cost = name, total, done, 0, 0.0
        self._rows, self._note = rows, ""
        self._started_at_done = done
        self._started = time.monotonic()
        self._last_artifact = 0.0
        self._artifact: UUID | None = None
        self._broken = False

    def resume(self, done: int) -> None:
        """An earlier attempt got so far: what is told of the pace leaves it out."""
        self.done = self._started_at_done = done

    def advance(self, rows: int, tokens: int = 0, cost: float = 0.0, note: str = "") -> None:
        """So many more rows are landed, for which so many tokens were generated at that cost in US dollars."""
        self.done += rows
        self.tokens += tokens
        self.cost += cost
        self._note = note
        self._tell(finished=False)

    def _tell(self, *, finished: bool) -> None:
        now = time.monotonic()
        event = Event(
            name=self.name,
            done=self.done,
            total=self.total,
            tokens=self.tokens,
            seconds=now - self._started,
            finished=finished,
            cost=self.cost,
            started_at_done=self._started_at_done,
            note=self._note,
        )
        for listener in _listeners:
            listener(event)
        if finished or now - self._last_artifact > _ARTIFACT_SECONDS:
            self._last_artifact = now
            self._write_artifact(event)

    def _write_artifact(self, event: Event) -> None:
        if self._broken or (TaskRunContext.get() is None and FlowRunContext.get() is None):
            return
        percent = min(100.0, 100.0 * event.done / event.total) if event.total else 100.0
        description = ", ".join([f"{event.name}: {event.done:,} of {event.total:,} {self._rows}", *account(event)])
        try:
            if self._artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", event.name.lower()).strip("-")
                made = create_progress_artifact(progress=percent, key=f"progress-{key}", description=description)
                self._artifact = made if isinstance(made, UUID) else None  # it is one, outside coroutines
            else:
                update_progress_artifact(self._artifact, progress=percent, description=description)
        except Exception as error:
            self._broken = True
            logger.warning("the progress artifact of %s cannot be written: %s", event.name, error)


@contextmanager
def progress(name: str, total: int, done: int = 0, rows: str = "rows") -> Iterator[Meter]:
    """A meter for ``total`` ``rows`` of which ``done`` are there already; tells the end also after an error."""
    meter = Meter(name, total, done, rows)
    meter._tell(finished=False)
    try:
        yield meter
    finally:
        meter._tell(finished=True)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
