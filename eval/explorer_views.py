"""What the pages of the trace explorer show, as typed values: what an address asks for, a list, a question with its runs.

``tasks.exploring`` fills them from a store, ``eval.explorer`` and ``eval.question_pages`` draw them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

from pydantic import Field, ValidationError, field_validator

from store.types import Frozen, InputError

Row = Mapping[str, Any]
Rows = Sequence[Row]
State = Literal["right", "wrong", "unparsed", "refused", "unscored", "missing"]

LIST, QUESTION, STUDENT = "/explore", "/question/", "/student/"  # where pages are served

STATES: Mapping[State, tuple[str, str]] = {
    "right": ("✓", "right"),
    "wrong": ("✗", "wrong"),
    "unparsed": ("∅", "no answer"),
    "refused": ("⊘", "refused"),
    "unscored": ("?", "not scored"),
    "missing": ("–", "not landed"),
}
"""A sign and its words; a sign never stands alone."""


class Filters(Frozen):
    """What the address of a page says: which questions are listed, in which order, and which two runs are compared.

    ``a`` and ``b`` are values of a :class:`Choice`. A budget is a number of thinking tokens, ``none`` (unlimited) or empty:
    the run's largest. Samples count from 1. ``hops`` 0: unknown.
    """

    q: str = Field(default="", max_length=200)
    dataset: str = Field(default="", max_length=200)
    hops: int | None = Field(default=None, ge=0, le=99)
    type: Literal["", "entity", "number", "date", "boolean", "text"] = ""
    flagged: Literal["", "yes", "no"] = ""
    show: Literal["all", "a_only", "b_only", "both", "neither", "disagree"] = "all"
    sort: Literal["id", "difference", "tokens"] = "id"
    page: int = Field(default=1, ge=1, le=1_000_000)
    a: str = Field(default="", max_length=300)
    b: str = Field(default="", max_length=300)
    a_budget: str = Field(default="", pattern=r"^(none|[1-9]\d{0,8})?$")
    b_budget: str = Field(default="", pattern=r"^(none|[1-9]\d{0,8})?$")
    a_sample: int = Field(default=1, ge=1, le=100_000)
    b_sample: int = Field(default=1, ge=1, le=100_000)

    @field_validator("q")
    @classmethod
    def _words(cls, text: str) -> str:
        return " ".join(text.split())

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """The filters of an address's query; empty values count as left out. Raises InputError, naming field and value."""
        given = {name: value for name, value in query.items() if value.strip()}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            value = str(first["input"])
            shown = value if len(value) <= 60 else f"{value[:60]}…"
            reason = "is no parameter of this page" if first["type"] == "extra_forbidden" else first["msg"]
            raise InputError(f"{name}={shown}: {reason}") from None

    def link(self, path: str, **changes: Any) -> str:
        """The address of ``path`` with these filters; what is at its default is left out."""
        values = self.model_copy(update=changes).model_dump(exclude_defaults=True)
        return quote(path) + (f"?{urlencode(values)}" if values else "")

    def question_link(self, key: str, **changes: Any) -> str:
        """The address of one question as a part of this list."""
        return self.link(QUESTION + key, page=1, a_sample=1, b_sample=1, **changes)

    @property
    def narrowed(self) -> bool:
        """Whether any filter leaves questions out."""
        kept = {"sort", "page", "a", "b", "a_budget", "b_budget", "a_sample", "b_sample"}
        return bool(set(self.model_dump(exclude_defaults=True)) - kept)


class Choice(NamedTuple):
    """A model in a setting, with the budgets that its runs have (None: unlimited, last); ``base``: of which it is a student."""

    model: str
    setting: str
    role: str
    budgets: tuple[int | None, ...]
    base: str = ""

    @property
    def value(self) -> str:
        """Its name in addresses."""
        return f"{self.setting}@{self.model}"


class SampleMark(NamedTuple):
    """A sample (from 0) and how it did at the chosen budget."""

    sample: int
    state: State

    @property
    def glyph(self) -> str:
        """A sign, which never stands alone."""
        return STATES[self.state][0]

    @property
    def words(self) -> str:
        """What the sign means."""
        return STATES[self.state][1]


class Shown(NamedTuple):
    """One sample with its texts: ``ladder`` are its traces by budget, ascending, each with ``answer_text`` and ``grades``
    (what each judge of the study says, in words)."""

    sample: int
    thought: str
    ladder: tuple[Row, ...]
    messages: Rows


@dataclass(frozen=True)
class RunView:
    """A run on one question: all its ``samples`` at ``budget``, and those of them that are ``shown`` with their texts.

    ``run`` is its row in ``study_runs``, or None where the question was not asked of this model and setting; ``student`` is
    the row of the student that answered, if it was trained.
    """

    choice: Choice
    run: Row | None
    budget: int | None
    samples: tuple[SampleMark, ...] = ()
    shown: tuple[Shown, ...] = ()
    student: Row | None = None


@dataclass(frozen=True)
class Frame:
    """What all pages of a study share: its name, the runs to choose from, and how many questions a page of the list has.

    ``report``: there is a drawn report to go back to.
    """

    study: str
    choices: tuple[Choice, ...] = ()
    page_size: int = 50
    report: bool = False


@dataclass(frozen=True)
class ListView:
    """The list: rows of ``store.exploring.find_questions`` and ``kinds_of_questions``, and the runs that are compared."""

    frame: Frame
    filters: Filters
    kinds: Rows
    rows: Rows
    a: Choice | None
    b: Choice | None


@dataclass(frozen=True)
class QuestionView:
    """One question. ``question``, ``links`` and ``training`` are rows of ``store.single_question``; ``drawing`` is an SVG.

    ``training`` traces carry ``thinking``, ``answer_text``, ``messages`` and ``teacher``. ``previous`` and ``next`` are keys
    of the list that the question was opened from, ``place`` (from 1) of ``total`` its place there, None outside of it.
    """

    frame: Frame
    question: Row
    links: Rows
    runs: tuple[RunView, ...]
    judges: Rows
    training: Rows = ()
    drawing: str | None = None
    graph: str | None = None
    filters: Filters = field(default_factory=Filters)
    place: int | None = None
    total: int | None = None
    previous: str | None = None
    next: str | None = None
