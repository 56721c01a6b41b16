"""A study in a terminal: its stages with bars, rates and time left, and the result table at the end.

Where the output is no terminal (a log file, CI), a line is printed now and then instead of moving bars.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from flows.parameters import Study
from flows.server import prefect_api
from store.home import Home
from tasks.progress import Event, account, listening

_LINE_SECONDS = 10.0


def run_in_terminal(study: Study, home: Home, only: str | None, console: Console) -> None:
    """Check the study, run it (or one stage) against a Prefect API, and print what came out."""
    from flows.fan_out import check_place
    from flows.plan import check, check_keys
    from flows.retrieval import retrieval_page

    started = time.monotonic()
    check(study, home, only)
    if only not in ("retrieve", "report"):
        check_place(study)
    console.print(f"Study [bold]{study.name}[/bold] in {home.folder}", soft_wrap=True)
    with running_here(home, console):
        check_keys(study, home, only)
        result = _stages()[only or "study"](study)
    if only in (None, "report"):
        _print_results(study, home, console)
        console.print(f"Report: [bold]{result}[/bold]", soft_wrap=True)
    if only == "retrieve":
        console.print(f"Retrieval: [bold]{retrieval_page(study.name, home)}[/bold]", soft_wrap=True)
    console.print(f"Done in {time.monotonic() - started:.0f} s.")


@contextmanager
def running_here(home: Home, console: Console) -> Iterator[None]:
    """A Prefect API for a flow that is called inside, whose progress is shown; Ctrl-C leaves at once."""
    before = signal.signal(signal.SIGINT, _interrupted)
    try:
        with prefect_api(home) as url, showing(console) as listener, listening(listener):
            yield
            console.print(f"Prefect API: {url}", style="dim", soft_wrap=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _interrupted(_signal: int, _frame: object) -> None:
    """Ctrl-C: leave at once. Waiting for the units would take as long as they do, and nothing is lost by not waiting.

    The children are bound to this process and end with it; what landed is kept, as after a kill -9.
    """
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h")  # the bars had hidden the cursor
    sys.stdout.write("\ninterrupted; what landed is kept, and the same command goes on from it\n")
    sys.stdout.flush()
    os._exit(130)


def _stages() -> dict[str, Any]:
    # Imported here, since Prefect reads its settings when it is imported.
    from flows.distill import distill
    from flows.evaluate import evaluate
    from flows.finetune import finetune
    from flows.report import report
    from flows.retrieve import retrieve
    from flows.study import study

    return {f.name: f for f in (retrieve, distill, finetune, evaluate, report, study)}


def _print_results(study: Study, home: Home, console: Console) -> None:
    from flows.report import result_table

    rows = result_table(study, home)
    title = f"Results of {study.name} (accuracy: mean over questions of the share of right samples)"
    table = Table(title=title, title_justify="left", header_style="bold", box=None, padding=(0, 1, 0, 0))
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if name in ("model", "setting", "dataset") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(value.replace("[", "\\[") for value in row.values()))
    console.print(table)


@contextmanager
def showing(console: Console) -> Iterator[Any]:
    """A listener to progress that shows it: as bars, or line by line where the output is no terminal."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[account]}"),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            known = self._tasks.get(event.name)
            if known is None:
                known = self._tasks[event.name] = self._bars.add_task(event.name, account="")
            text = ", ".join(account(event))
            self._bars.update(known, completed=event.done, total=event.total, account=text)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            now = time.monotonic()
            if not event.finished and now - self._last.setdefault(event.name, now) < _LINE_SECONDS:
                return
            self._last[event.name] = now
            so_far = f"{event.name}: {event.done}/{event.total} in {event.seconds:.0f} s"
            self._console.print(", ".join([so_far, *account(event)]), highlight=False)
