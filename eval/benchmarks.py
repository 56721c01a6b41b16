"""Load benchmark questions: the starter set that ships with the project, and custom JSONL files.

``load("starter", "dev")`` or ``load("jsonl", "test", path=Path("mine.jsonl"))``. A custom file has one JSON object a
line with the fields of ``store.types.Question``; ``dataset`` defaults to the file's name, and an answer may be a
plain string:

    {"id": "q1", "split": "test", "text": "Who wrote Hamlet?", "answers": ["Shakespeare"], "answer_type": "entity"}

A further benchmark is a function ``Path | None -> Iterator[Question]`` (all splits, in file order) in ``LOADERS``;
splits, limits, repeated ids and empty sets are dealt with in ``load``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from store.types import InputError, Question, Split

STARTER = Path(__file__).resolve().parent.parent / "kg" / "starter" / "questions.jsonl"

Loader = Callable[[Path | None], Iterator[Question]]


def load(name: str, split: Split, *, limit: int | None = None, path: Path | None = None) -> tuple[Question, ...]:
    """Questions of one split of a benchmark, in file order; ``limit`` takes the first ones.

    ``path`` names the file of a custom benchmark, or another copy of a known one. The whole file is checked, whatever
    the split and limit. Raises InputError for an unknown name, a bad limit, a missing or malformed file (with line
    and field), a repeated id, and a split with no question.
    """
    if name not in LOADERS:
        raise InputError(f"dataset {name!r}: unknown; {_suggest(name)}known ones: {', '.join(sorted(LOADERS))}")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: must be 1 or more; leave it out to take every question")
    questions = list(LOADERS[name](path))
    _check_ids(questions, name)
    chosen = tuple(question for question in questions if question.split == split)
    if not chosen:
        there = Counter(question.split for question in questions)
        found = ", ".join(f"{key} ({count})" for key, count in sorted(there.items())) or "no question at all"
        raise InputError(f"dataset {name!r}: no question in split {split!r}; the file has {found}")
    return chosen[:limit]


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), LOADERS, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _check_ids(questions: list[Question], name: str) -> None:
    first: dict[str, Question] = {}
    for question in questions:
        earlier = first.setdefault(question.id, question)
        if earlier is not question:
            raise InputError(
                f"dataset {name!r}: id {question.id!r} is used twice ({earlier.provenance} and {question.provenance}); "
                "give every question its own id"
            )


class Record(NamedTuple):
    """One JSON object of a file. ``where`` is for messages, ``provenance`` (file digest and line) for the question."""

    data: dict[str, Any]
    where: str
    provenance: str


def read_jsonl(path: Path) -> Iterator[Record]:
    """The objects of a JSONL file with their line numbers from 1; empty lines are passed over."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    checksum = hashlib.sha256(content).hexdigest()
    # Split the bytes: str.splitlines would also split at separators that JSON allows inside a string (U+2028).
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            data = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON ({error}); one object a line is expected") from error
        if not isinstance(data, dict):
            raise InputError(f"{where}: a JSON {type(data).__name__}; one object a line is expected")
        yield Record(data, where, f"sha256:{checksum} line {number}")


def build(record: Record, fields: dict[str, Any], names: dict[str, str] | None = None) -> Question:
    """A question of ``fields``. A bad value is an InputError that names file, line and field, ``names`` giving a
    field's name in the file where it differs from ours.
    """
    try:
        return Question.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        location = [str(part) for part in problem["loc"]]
        if location and names:
            location[0] = names.get(location[0], location[0])
        field = ".".join(location) or "record"
        # What is missing or of the wrong shape is often large: show the value only where it is short.
        value = "" if problem["type"] == "missing" else f" (is {str(problem['input'])[:60]!r})"
        raise InputError(f"{record.where}, field {field!r}: {problem['msg']}{value}") from error


def _starter(path: Path | None) -> Iterator[Question]:
    """The starter set: our own questions over the starter facts, with gold QIDs."""
    names = {"text": "question", "links": "question_entities or answers"}
    for record in read_jsonl(path or STARTER):
        data = record.data
        same = ("id", "split", "answers", "answer_type", "hops")
        fields: dict[str, Any] = {key: data[key] for key in same if key in data}
        if "question" in data:
            fields["text"] = data["question"]
        asked = _items(record, "question_entities", data.get("question_entities", []), str)
        given = _items(record, "answers", data.get("answers", []), dict)
        links = [{"entity": entity, "role": "question", "source": "gold_qid"} for entity in asked]
        links += [
            {"entity": answer["entity"], "role": "answer", "source": "gold_qid"}
            for answer in given
            if answer.get("entity")
        ]
        yield build(record, {**fields, "dataset": "starter", "links": links, "provenance": record.provenance}, names)


def _items(record: Record, field: str, value: Any, kind: type) -> list[Any]:
    """``value`` as a list of ``kind``, checked before the links are made of it."""
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        expected = "strings" if kind is str else "objects"
        raise InputError(f"{record.where}, field {field!r}: a list of {expected} is expected (is {str(value)[:60]!r})")
    return value


def _jsonl(path: Path | None) -> Iterator[Question]:
    """A custom file in the form of our own fields."""
    if path is None:
        raise InputError("dataset 'jsonl': needs the path of its file; give path")
    for record in read_jsonl(path):
        fields = {"dataset": path.stem, "provenance": record.provenance, **record.data}
        if isinstance(answers := fields.get("answers"), list):
            fields["answers"] = [{"text": answer} if isinstance(answer, str) else answer for answer in answers]
        yield build(record, fields)


LOADERS: dict[str, Loader] = {"jsonl": _jsonl, "starter": _starter}
