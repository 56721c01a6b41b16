"""The words of the study as small frozen types, shared by every package.

``kg``, ``models`` and ``eval`` know one another only through the types here: a question with its gold answers and linked
entities, a directed triple, a path, the chat messages of a prompt, a sampling recipe. All are immutable and hash by value,
so that they can be part of a cache key.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

AnswerType = Literal["entity", "number", "date", "boolean", "text"]
Split = Literal["train", "dev", "test"]
LinkSource = Literal["gold_qid", "gold_mid", "mid_map", "label"]
LinkRole = Literal["question", "answer"]
PathKind = Literal["pair", "joint", "between", "literal"]
Grade = Literal["correct", "incorrect", "not_attempted"]
JudgeQuestion = Literal["contains", "grade"]


def budget_order(budget: int | None) -> tuple[bool, int]:
    """Sort key of budgets: no limit comes last."""
    return budget is None, budget or 0


class Setting(StrEnum):
    """How a model is asked or was trained: the four settings of the fs1 study, and students of a mix of recipes (``mix``)."""

    INSTRUCT = "instruct"
    COT = "cot"
    RT = "rt"
    FS1 = "fs1"
    MIX = "mix"

    @property
    def trained(self) -> bool:
        """Whether a student is asked, and not the model as it is."""
        return self not in (Setting.INSTRUCT, Setting.COT)


STUDY_SETTINGS = (Setting.INSTRUCT, Setting.COT, Setting.RT, Setting.FS1)
"""The settings of the fs1 study."""


class Recipe(StrEnum):
    """How a teacher's trace is made: from the question alone (``rt``), or conditioned on its paths (``fs1``)."""

    RT = "rt"
    FS1 = "fs1"


class Frozen(BaseModel):
    """Base of every value type: immutable, no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def digest(value: Any, length: int = 32) -> str:
    """First ``length`` hex digits of the sha256 over the canonical JSON of ``value`` (a model, or JSON-like data).

    Canonical means: sorted keys, no white space, UTF-8, no NaN. Equal values give equal digests on every host.
    """
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


class Link(Frozen):
    """An entity of a question or of its answer, and where the link comes from.

    ``entity`` is a QID, or, with the source ``gold_mid``, the Freebase id (``m.02mjmr``) that a dataset gives instead.
    """

    entity: str = Field(pattern=r"^(Q[1-9]\d{0,8}|[mg]\.[0-9a-z_]+)$")
    role: LinkRole
    source: LinkSource = "gold_qid"

    @model_validator(mode="after")
    def _only_gold_mids_are_foreign(self) -> Link:
        if (self.source == "gold_mid") == self.entity.startswith("Q"):
            raise ValueError(f"entity {self.entity} cannot have source {self.source}: gold_mid goes with m. and g. ids")
        return self


class Answer(Frozen):
    """One gold answer with its aliases. ``text`` is what a person would write; ``entity`` is its QID, where it has one."""

    text: str = Field(min_length=1)
    entity: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def forms(self) -> tuple[str, ...]:
        """The text and its aliases, without repeats, in order."""
        return tuple(dict.fromkeys((self.text, *self.aliases)))


class Question(Frozen):
    """One benchmark question. ``answers`` are alternatives: a prediction is right if it gives any one of them."""

    id: str = Field(min_length=1)
    dataset: str = Field(min_length=1)
    split: Split
    text: str = Field(min_length=1)
    answers: tuple[Answer, ...] = Field(min_length=1)
    answer_type: AnswerType = "entity"
    links: tuple[Link, ...] = ()
    hops: int | None = Field(default=None, ge=1)
    provenance: str = ""

    def entities(self, role: LinkRole) -> tuple[str, ...]:
        """The linked entities (QIDs) of one role, without repeats, in order."""
        found = (link.entity for link in self.links if link.role == role and link.source != "gold_mid")
        return tuple(dict.fromkeys(found))

    def freebase_ids(self, role: LinkRole) -> tuple[str, ...]:
        """The Freebase ids of one role that a linker has to map to QIDs, without repeats, in order."""
        found = (link.entity for link in self.links if link.role == role and link.source == "gold_mid")
        return tuple(dict.fromkeys(found))

    @property
    def gold(self) -> tuple[str, ...]:
        """Every accepted form of every answer, without repeats, in order."""
        return tuple(dict.fromkeys(form for answer in self.answers for form in answer.forms))


class Triple(NamedTuple):
    """A directed statement. ``object`` is a QID, or, if ``literal``, the text of a date (ISO) or number as it is printed."""

    subject: str
    predicate: str
    object: str
    literal: bool = False


class Detail(NamedTuple):
    """What Wikidata's full statement says beyond the direct triple. A triple may stand for several statements.

    ``qualifiers``: (property id, value, literal) each, the value a QID or the text of a date or number; ``precision`` of
    a date as Wikibase counts it (9 year, 10 month, 11 day; 8 decade, 7 century); ``unit``: the QID of a quantity's unit.
    """

    qualifiers: tuple[tuple[str, str, bool], ...] = ()
    precision: int | None = None
    unit: str | None = None


class ScoreParts(NamedTuple):
    """What a path's score is the sum of; ``similarity`` counts for it, the three penalties (0 or below) against it."""

    similarity: float
    degree: float
    length: float
    sibling: float


class Path(Frozen):
    """A walk of 1 or more triples from a question entity to a target, each triple in its true direction.

    ``target`` is an answer entity, another question entity, or the text of a literal. Neighbouring triples share a node;
    whether the walk follows a triple forward or backward is seen from which of its ends is that node. ``kind``: ``pair``
    to an answer, ``joint`` to an answer through another question entity, ``between`` two question entities, ``literal``.
    ``score`` is the sum of its ``parts``, once ranked.
    """

    source: str
    target: str
    triples: tuple[Triple, ...] = Field(min_length=1)
    score: float = 0.0
    parts: ScoreParts | None = None
    kind: PathKind = "pair"

    @property
    def hops(self) -> int:
        """Number of triples on the walk."""
        return len(self.triples)


class Message(Frozen):
    """One turn of a chat, before a chat template renders it."""

    role: Literal["system", "user", "assistant"]
    content: str


class Prompt(Frozen):
    """What a model is asked for one question: chat messages; ``key`` identifies their content."""

    question_id: str
    messages: tuple[Message, ...] = Field(min_length=1)

    @property
    def key(self) -> str:
        """Digest of the messages alone, so that the same prompt for two settings or models has one key."""
        return digest([m.model_dump() for m in self.messages])


class Sampling(Frozen):
    """How tokens are drawn. ``temperature`` 0 is greedy; ``top_k`` 0 means no limit."""

    temperature: float = Field(default=0.0, ge=0.0, le=5.0, description="0: greedy, the likeliest token each time")
    top_p: float = Field(
        default=1.0, gt=0.0, le=1.0, description="Of the likeliest tokens with this probability; 1: all"
    )
    top_k: int = Field(default=0, ge=0, description="Of so many likeliest tokens; 0: all")
    repetition_penalty: float = Field(
        default=1.0, gt=0.0, le=3.0, description="Above 1: tokens seen before are less likely"
    )

    @model_validator(mode="after")
    def _greedy_has_one_form(self) -> Sampling:
        # Greedy decoding ignores the truncation of the distribution; two spellings of it would be two cache keys.
        if self.temperature == 0.0 and (self.top_p != 1.0 or self.top_k != 0):
            raise ValueError("temperature 0 is greedy: leave top_p (1.0) and top_k (0) at their defaults")
        return self


class Verdict(Frozen):
    """What a judge says of one prediction against the gold answers: ``correct``, and the ``grade`` it comes from where the
    judge gives one. Both are None where it gave no valid answer."""

    correct: bool | None
    rule: str = ""
    grade: Grade | None = None


class InputError(ValueError):
    """Bad input from a person: a message that names the field or file, the value and the mend. Exit code 2."""


class RunError(RuntimeError):
    """A failure while running that is no fault of the input: a dead endpoint, a full disk. Exit code 1."""
