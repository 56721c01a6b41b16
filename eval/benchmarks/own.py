"""The starter set that ships with the project, and custom JSONL files in the form of our own fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmarks.records import Record, Source, build, read_jsonl
from store.types import InputError, Question

STARTER = Path(__file__).resolve().parents[2] / "kg" / "starter" / "questions.jsonl"


def starter(source: Source) -> Iterator[Question]:
    """The starter set: our own questions over the starter facts, with gold QIDs."""
    names = {"text": "question", "links": "question_entities or answers"}
    for record in read_jsonl(source.path or STARTER):
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


def jsonl(source: Source) -> Iterator[Question]:
    """A custom file: one object a line with the fields of ``Question``; an answer may be a plain string."""
    name = Path(source.file.name.removesuffix(".gz")).stem
    for record in read_jsonl(source.file):
        fields = {"dataset": name, "provenance": record.provenance, **record.data}
        if isinstance(answers := fields.get("answers"), list):
            fields["answers"] = [{"text": answer} if isinstance(answer, str) else answer for answer in answers]
        yield build(record, fields)
