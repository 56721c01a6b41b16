"""What flows share: waiting for their units, and the artifacts that people read in the UI."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from store.types import InputError, RunError

logger = logging.getLogger(__name__)
_LARGEST = 900_000  # bytes of pictures in one artifact: the UI is slow beyond a megabyte


def threads(count: int) -> Any:
    """A task runner of this process. Typed loosely, since Prefect's own types do not accept its own runner."""
    return ThreadPoolTaskRunner(max_workers=count)


def gather(futures: Sequence[PrefectFuture[Any]], done: Callable[[], None] | None = None) -> list[Any]:
    """Wait for every unit, then give their results, or raise for the first that failed. ``done`` hears of each.

    All units run to their end first: what one unit lands is not lost because another failed.
    """
    for future in futures:
        future.wait()
        if done is not None:
            done()
    failed = [future.state for future in futures if not future.state.is_completed()]
    if failed:
        raise _error(failed)
    return [future.result() for future in futures]


def table(key: str, rows: Sequence[dict[str, Any]], description: str) -> None:
    """A table artifact; an empty one says so instead of being left out."""
    create_table_artifact(table=list(rows) or [{"": "nothing here"}], key=slug(key), description=description)


def markdown(key: str, text: str, description: str) -> None:
    """A markdown artifact."""
    create_markdown_artifact(markdown=text, key=slug(key), description=description)


def pictures(named: Iterable[tuple[str, bytes]], more: str) -> str:
    """PNG pictures by name as Markdown that holds them, since the UI shows no file of this machine: as many as an artifact
    holds, then the words ``more`` for the rest."""
    lines: list[str] = []
    room = _LARGEST
    for name, png in named:
        data = base64.b64encode(png).decode()
        room -= len(data)
        if room < 0:
            lines.append(more)
            break
        lines.append(f"### {name}\n\n![{name}](data:image/png;base64,{data})")
    return "\n\n".join(lines)


def slug(text: str) -> str:
    """An artifact key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _error(states: Sequence[State[Any]]) -> Exception:
    # The first failure is raised as it is, so that bad input stays bad input; the number of others goes with it.
    others = f" ({len(states) - 1} more units failed)" if len(states) > 1 else ""
    try:
        states[0].result()
    except (InputError, RunError) as error:
        return type(error)(f"{error}{others}") if others else error
    except Exception as error:
        return RunError(f"{type(error).__name__}: {error}{others}")
    return RunError(f"a unit ended as {states[0].name}{others}")
