"""Pages of the trace explorer, from rows: the list of questions, one question with two runs side by side, a student.

The pages are pure functions of what they are given: ``flows.explorer`` serves them from a store, ``eval.question_pages`` writes
a chosen few as files. Every text of a model, a benchmark or a graph is escaped; pictures of paths are embedded as images.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import Environment
from markupsafe import Markup

from eval.explorer_views import LIST, STATES, STUDENT, Filters, Frame, ListView, QuestionView, Row, Shown, State
from eval.pages import TEMPLATES, environment, image, style
from eval.summary import budget_name

STYLE_SHEET, SCRIPT = "/explore/explorer.css", "/explore/explorer.js"  # where they are served
RETRY_SECONDS = 3

_ENDED = {"marker": "closed its thinking", "eos": "ended its turn", "length": "reached the limit"}
_FINISH = {"length": "its answer was cut at the limit", "filter": "its answer was withheld by the provider"}


class Piece(NamedTuple):
    """A part of a thought, the traces that end after it, and whether the chosen budget ends before it (``beyond``)."""

    text: str
    ends: tuple[Row, ...]
    beyond: bool


def render_list(view: ListView) -> str:
    """The page with the list."""
    total = view.rows[0]["total"] if view.rows else 0
    first = view.rows[0]["place"] if view.rows else 0
    size = view.frame.page_size
    page = (first - 1) // size + 1 if first else 1
    return _page(
        "explorer_list.html.j2",
        view=view,
        filters=view.filters,
        title=f"Questions of {view.frame.study}",
        total=total,
        page=page,
        pages=-(-total // size),
        facets={
            name: sorted({row[name] for row in view.kinds}, key=lambda value: (value is None, value))
            for name in ("dataset", "hops", "answer_type")
        },
        questions=sum(row["questions"] for row in view.kinds),
        flags=sum(row["questions"] for row in view.kinds if row["flagged"]),
    )


def render_question(view: QuestionView) -> str:
    """The page of one question."""
    return _page(
        "explorer_question.html.j2",
        view=view,
        filters=view.filters,
        title=short(view.question["text"]),
        drawing=image(view.drawing),
    )


def render_student(frame: Frame, student: Row, filters: Filters) -> str:
    """The page of a student: what it was trained on, by which teachers."""
    return _page(
        "explorer_student.html.j2",
        view={"frame": frame},
        filters=filters,
        student=student,
        title=f"Student {student['name']}",
        numbers={
            name: value
            for name, value in student["statistics"].items()
            if value is not None and not isinstance(value, dict | list)
        },
        counts={name: value for name, value in student["statistics"].items() if isinstance(value, dict)},
    )


def render_message(frame: Frame, title: str, text: str, *, retry: bool = False) -> str:
    """A page that says one thing; with ``retry`` it loads itself again after :data:`RETRY_SECONDS`."""
    return _page(
        "explorer_message.html.j2",
        view={"frame": frame},
        filters=Filters(),
        title=title,
        text=text,
        retry=RETRY_SECONDS if retry else None,
    )


def state_of(trace: Row | None) -> State:
    """How a trace did, by the matcher."""
    if trace is None:
        return "missing"
    if trace["how"] is None:
        return "unscored"
    if trace["how"] == "refused":
        return "refused"
    if trace["how"] == "none":
        return "unparsed"
    return "right" if trace["correct"] else "wrong"


def pieces(shown: Shown, budget: int | None) -> tuple[Piece, ...]:
    """The whole thought, split where a budget ended before it did: cut, or by itself (a larger budget puts off an end)."""
    text = shown.thought
    ends: dict[int, list[Row]] = {}
    for trace in shown.ladder:
        end = min(int(trace["thinking_chars"]), len(text))
        if trace["cut"] or end < len(text):
            ends.setdefault(end, []).append(trace)
    seen = next((min(int(t["thinking_chars"]), len(text)) for t in shown.ladder if t["budget"] == budget), len(text))
    found, start = [], 0
    for end in sorted(ends):
        found.append(Piece(text[start:end], tuple(ends[end]), start >= seen and start > 0))
        start = end
    if start < len(text) or not found:
        found.append(Piece(text[start:], (), start >= seen and start > 0))
    return tuple(found)


def ending(trace: Row) -> str:
    """Why a trace ended, in words."""
    if trace["cut"]:
        said = "cut at the budget"
    else:
        stops = [one["ended"] for one in trace["stops"] or () if one["position"] == trace["thinking_tokens"]]
        said = _ENDED.get(stops[-1] if stops else trace["ended"], "ended by itself")
    if trace["forced"]:
        said += ", answer forced" if trace["cut"] else ", answer asked for"
    if trace["extensions"]:
        said += f", {trace['extensions']} earlier end{'s' if trace['extensions'] > 1 else ''} put off"
    return f"{said}; {_FINISH[trace['finish']]}" if trace["finish"] in _FINISH else said


def at_budget(budget: int | None) -> str:
    """A budget within a sentence."""
    return "without a budget" if budget is None else f"at budget {budget_name(budget)}"


def style_sheet() -> str:
    """The style of all explorer pages."""
    return f"{style()}\n{(TEMPLATES / 'explorer.css').read_text(encoding='utf-8')}"


def script() -> str:
    """The script of all explorer pages: keys, and the filter of exported lists. Every page works without it."""
    return (TEMPLATES / "explorer.js").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The environment with what the explorer's templates call."""
    made = environment()
    made.filters |= {
        "at_budget": at_budget,
        "ending": ending,
        "state": lambda trace: STATES[state_of(trace)],
        "slug": _slug,
    }
    made.globals |= {"pieces": pieces, "LIST": LIST, "STUDENT": STUDENT}
    return made


def _page(template: str, **context: Any) -> str:
    assets = {"style_sheet": STYLE_SHEET, "script_file": SCRIPT, "inline": None}
    return templates().get_template(template).render(**{"retry": None, **assets, **context})


def short(text: str) -> str:
    """A text as a page's title."""
    line = " ".join(text.split())
    return line if len(line) <= 90 else f"{line[:89]}…"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def inlined(template: str, **context: Any) -> str:
    """A page with style and script in it, for a file: it reaches no network and may run no other script."""
    style_text, script_text = style_sheet(), script()
    inline = {
        "style": Markup(style_text),  # noqa: S704 - our own file
        "script": Markup(script_text),  # noqa: S704 - our own file
        "style_hash": _hash(style_text),
        "script_hash": _hash(script_text),
    }
    return templates().get_template(template).render(**{"retry": None, "inline": inline, **context})


def _hash(text: str) -> str:
    """As a content security policy names what it allows."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
