"""Question sets of your own: a hub dataset at a commit, a local dataset folder, or a Parquet, JSON, JSONL or CSV file, with
a map from its columns to the fields of a question.

``load("mine", "test", custom=Custom(hub="owner/name", revision="<40 hex digits>", columns=Columns(answers="answer.text")))``

A column's name may be a path into nested values (``answers.text``). Without a column of ids a question's id is the number
of its row, from 0.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import Field

from eval.benchmarks.hub import folder_rows, hub_rows
from eval.benchmarks.records import (
    Item,
    Record,
    Source,
    content,
    is_records,
    read_records,
    read_table,
    settle,
    split_of,
)
from eval.benchmarks.tables import cell
from eval.benchmarks.values import answer_type, with_aliases
from store.types import AnswerType, Frozen, InputError

_ENTITY = re.compile(r"Q[1-9]\d{0,8}|[mg]\.[0-9a-z_]+")
_PREFIX = re.compile(r"https?://www\.wikidata\.org/(entity|wiki)/|wd:|https?://rdf\.freebase\.com/ns/|ns:")
_NEEDED = ("question", "answers")


class Columns(Frozen):
    """The columns of a question set; each a name, or a path into nested values such as `answers.text`."""

    id: str | None = Field(default=None, min_length=1, description="Ids; empty: the number of the row, from 0")
    question: str = Field(default="question", min_length=1, description="The text of the question")
    answers: str = Field(default="answers", min_length=1, description="The answer, or a list: any of them is right")
    aliases: str | None = Field(
        default=None, min_length=1, description="Other forms: a list, or a list for each of the answers"
    )
    answer_type: str | None = Field(
        default=None, min_length=1, description="entity, number, date, boolean or text; empty: by the answers' form"
    )
    question_entities: str | None = Field(default=None, min_length=1, description="QIDs or Freebase ids")
    answer_entities: str | None = Field(default=None, min_length=1, description="QIDs or Freebase ids")
    hops: str | None = Field(default=None, min_length=1, description="The number of hops, 1 or more")

    @property
    def named(self) -> dict[str, str]:
        """The column of each field that has one."""
        return {field: column for field, column in self.model_dump().items() if column is not None}


class Custom(NamedTuple):
    """A set that has no loader of its own: a hub dataset with its ``revision``, or, where ``hub`` is None, a local file or
    folder. ``config`` and ``hub_split`` are names that the dataset or folder gives its parts.
    """

    hub: str | None = None
    revision: str | None = None
    config: str | None = None
    hub_split: str | None = None
    columns: Columns = Columns()


class _Row(NamedTuple):
    """A row under a map of columns; ``reached`` gathers the fields that any row has."""

    record: Record
    columns: Columns
    reached: set[str]

    def value(self, field: str) -> Any:
        """The value of a field of ours, None where this row has none. Raises InputError where it needs one."""
        column: str | None = getattr(self.columns, field)
        if column is None:
            return None
        try:
            found = _reach(self.record.data, [column] if column in self.record.data else column.split("."))
        except KeyError as error:
            if field in _NEEDED:
                raise self.bad(field, f"({error.args[0]!r} is not there)", _there(field, self.record.data)) from None
            return None
        self.reached.add(field)
        return found

    def texts(self, field: str) -> list[str]:
        """The texts of a value or of a list of values."""
        value = self.value(field)
        values = _flat(value) if isinstance(value, list) else [value]
        return [text for one in values if (text := self._text(field, one))]

    def _text(self, field: str, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return str(int(value)) if value.is_integer() else repr(value)
        if isinstance(value, datetime.datetime) and value.time() == datetime.time():
            value = value.date()
        if isinstance(value, datetime.date):
            return value.isoformat()
        if isinstance(value, str | int):
            return str(value).strip()
        inner = f": {getattr(self.columns, field)}.{next(iter(value))}, for example" if isinstance(value, dict) else ""
        raise self.bad(field, f"holds a {type(value).__name__} ({str(value)[:40]!r})", f"name a field inside it{inner}")

    def text(self, field: str) -> str:
        """One text that is not empty."""
        found = self.texts(field)
        if len(found) != 1:
            raise self.bad(field, f"has {len(found)} texts", "one is expected; mend the row, or name another column")
        return found[0]

    def entities(self, field: str) -> list[str]:
        """Wikidata's or Freebase's ids, without their prefixes."""
        found = [_PREFIX.sub("", text) for text in self.texts(field)]
        found = [text[1:].replace("/", ".", 1) if text.startswith("/m/") else text for text in found]
        for text in found:
            if not _ENTITY.fullmatch(text):
                raise self.bad(
                    field, f"holds {text[:40]!r}", "a QID such as Q42 or a Freebase id such as m.02mjmr is expected"
                )
        return found

    def kind(self, answers: list[str], *, entities: bool) -> AnswerType:
        """The answer type that the row says, else that of the answers' form."""
        known = get_args(AnswerType)
        for said in self.texts("answer_type"):
            if said not in known:
                raise self.bad(
                    "answer_type",
                    f"holds {said[:40]!r}",
                    f"{', '.join(known)} are known; leave the column out to tell by form",
                )
            return said  # type: ignore[return-value]
        return answer_type(answers, entities=entities)

    def hops(self) -> int | None:
        """The number of hops, where the row gives it."""
        for said in self.texts("hops"):
            if not said.isdecimal() or int(said) < 1:
                raise self.bad("hops", f"holds {said[:40]!r}", "a whole number from 1 is expected, or nothing")
            return int(said)
        return None

    def bad(self, field: str, found: str, mend: str) -> InputError:
        """The error for a column: what is wrong with it, and the mend."""
        return InputError(f"{self.record.where}, column {getattr(self.columns, field)!r} {found}: {mend}")


def read_custom(source: Source, chosen: Custom, cache: Path) -> Iterator[Item]:
    """The questions of a set of your own. ``cache`` is where hub datasets are kept.

    Raises InputError that names the file or hub id, the row and the column, and RunError where the hub cannot be reached.
    """
    columns, reached, last = chosen.columns, set[str](), None
    for number, record in enumerate(_records(source, chosen, cache)):
        yield from _settled(source, _Row(record, columns, reached), number)
        last = record
    # A single record of JSON may lack what is optional; where all do, the name is a slip.
    for field, column in columns.named.items():
        if last is not None and field not in reached:
            raise InputError(
                f"{source.path or chosen.hub}: no row has the column {column!r}: {_there(field, last.data)}"
            )


def _settled(source: Source, row: _Row, number: int) -> Iterator[Item]:
    answers, ids = row.texts("answers"), row.entities("answer_entities")
    given = with_aliases(answers, _aliases(row, len(answers)))
    if len(ids) == len(given):
        given = [
            {**answer, "entity": entity if entity.startswith("Q") else None}
            for answer, entity in zip(given, ids, strict=True)
        ]
    asked = row.entities("question_entities")
    links = [(entity, "question") for entity in asked] + [(entity, "answer") for entity in ids]
    question = {
        "id": row.text("id") if row.columns.id else str(number),
        "dataset": source.dataset,
        "split": split_of(source, row.record) if _is_file(source.path) else source.split,
        "text": row.text("question"),
        "answers": given,
        "answer_type": row.kind(answers, entities=bool(ids)),
        "links": [
            {"entity": entity, "role": role, "source": "gold_qid" if entity.startswith("Q") else "gold_mid"}
            for entity, role in dict.fromkeys(links)
        ],
        "hops": row.hops(),
    }
    yield from settle(row.record, question)


def _aliases(row: _Row, answers: int) -> list[list[str]]:
    """Aliases for each answer: lists of them as they are, a plain list with the first answer."""
    value = row.value("aliases")
    if isinstance(value, list) and len(value) == answers and any(isinstance(one, list) for one in value):
        return [[text for one in _flat([each]) if (text := row._text("aliases", one))] for each in value]
    return [row.texts("aliases")]


def _records(source: Source, chosen: Custom, cache: Path) -> Iterator[Record]:
    """The rows of a hub dataset, folder or file."""
    if chosen.hub is None and _is_file(source.path):
        if chosen.config or chosen.hub_split:
            raise InputError(
                f"{source.path}: config and hub_split are for hub datasets and folders; leave them out for a file"
            )
        yield from _file_records(source.file, chosen.columns)
        return
    wanted = list(
        dict.fromkeys(name for column in chosen.columns.named.values() for name in (column, column.split(".")[0]))
    )
    parts = {"config": chosen.config, "hub_split": chosen.hub_split}
    if chosen.hub is not None:
        found = hub_rows(chosen.hub, chosen.revision, source.split, wanted, cache=cache, **parts)
    else:
        found = folder_rows(source.file, source.split, wanted, **parts)
    for field, column in chosen.columns.named.items():
        if column not in found.columns and column.split(".")[0] not in found.columns:
            raise InputError(f"{found.where}: no column {column!r}: {_there(field, found.columns)}")
    for number, row in enumerate(found.rows):
        yield Record(row, f"{found.where}, row {number}", f"{found.provenance} row {number}")


def _file_records(path: Path, columns: Columns) -> Iterator[Record]:
    if is_records(content(path)[0]):
        yield from read_records(path)
        return
    names = {name for column in columns.named.values() for name in (column, column.split(".")[0])}
    for record in read_table(path):
        nested = {name for name in names & record.data.keys() if _is_nested(record.data[name])}
        yield record._replace(data={**record.data, **{name: cell(record.fields, name) for name in nested}})


def _is_nested(text: str) -> bool:
    return (text.strip()[:1], text.strip()[-1:]) in (("[", "]"), ("{", "}"))


def _is_file(path: Path | None) -> bool:
    return path is not None and not path.is_dir()


def _reach(data: Any, parts: list[str]) -> Any:
    """The value at the end of a path, through lists; KeyError with the part that is missing."""
    if not parts or data is None:
        return data
    if isinstance(data, list):
        return [_reach(item, parts) for item in data]
    if isinstance(data, dict) and parts[0] in data:
        return _reach(data[parts[0]], parts[1:])
    raise KeyError(parts[0])


def _flat(values: list[Any]) -> list[Any]:
    return [one for value in values for one in (_flat(value) if isinstance(value, list) else [value])]


def _there(field: str, columns: Any) -> str:
    return f"name another in columns.{field}{'' if field in _NEEDED else ', or leave it out'}; there are {', '.join(columns)}"
