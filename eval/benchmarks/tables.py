"""Benchmarks that are tables of texts without entities: SimpleQA, and the merged set of the fs1 study."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from eval.benchmarks.records import (
    SPLIT_WORDS,
    Fields,
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
from eval.benchmarks.values import answer_type, with_aliases
from store.types import AnswerType

_KINDS: dict[str, AnswerType] = {
    "Person": "entity",
    "Place": "entity",
    "Number": "number",
    "Date": "date",
    "Other": "text",
}


def simpleqa(source: Source) -> Iterator[Item]:
    """SimpleQA (Wei et al. 2024, arXiv 2411.04368), CSV with the columns metadata, problem, answer.

    The file has no ids: a question's is the number of its row, from 0.
    """
    for row, record in enumerate(read_table(source.file)):
        fields = record.fields
        fields.text("metadata")
        metadata = Fields({"metadata": cell(fields, "metadata")}, record.where).object("metadata")
        if metadata.text("answer_type") not in _KINDS:
            raise metadata.bad("answer_type", ", ".join(_KINDS))
        answer = fields.optional_text("answer")
        question = {
            "id": str(row),
            "dataset": source.dataset,
            "split": split_of(source, record),
            "text": fields.text("problem"),
            "answers": [{"text": answer}] if answer else [],
            "answer_type": _KINDS[metadata.text("answer_type")],
        }
        yield from settle(record, question)


def merged(source: Source) -> Iterator[Item]:
    """The fs1 study's merged set (arXiv 2505.11140): ID, question, source_of_data, main_answers, answer_aliases.

    JSONL, a JSON array, Parquet, or CSV with the lists as JSON or Python lists. ``source_of_data`` is the dataset of a question.
    The aliases are those of all answers together; they are kept with the first. Types are by the answers' form.
    """
    for record in _merged_rows(source):
        fields = record.fields
        given = with_aliases(fields.texts("main_answers"), [fields.texts("answer_aliases")])
        said = SPLIT_WORDS.get(fields.optional_text("split").lower())
        question = {
            "id": fields.identifier("ID"),
            "dataset": fields.text("source_of_data"),
            "split": split_of(source, record, (said,) if said else ()),
            "text": fields.text("question"),
            "answers": given,
            "answer_type": answer_type(fields.texts("main_answers"), entities=False),
        }
        yield from settle(record, question)


def _merged_rows(source: Source) -> Iterator[Record]:
    """Rows with their lists as lists."""
    if is_records(content(source.file)[0]):
        yield from read_records(source.file)
        return
    for record in read_table(source.file):
        present = [name for name in ("main_answers", "answer_aliases") if name in record.data]
        yield record._replace(data={**record.data, **{name: cell(record.fields, name) for name in present}})


def cell(fields: Fields, name: str) -> Any:
    """A list or object printed into a cell, as JSON or as Python prints it; None for an empty cell."""
    text = fields.optional_text(name)
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise fields.bad(name, "a JSON or Python list or object") from None
    # Numpy prints lists without commas, and Python would read ['a' 'b'] as the one string 'ab'.
    if isinstance(value, list) and re.search(r"['\"]\s+['\"]", text) and _strings(text) != len(value):
        raise fields.bad(name, "a list with commas")
    return value


def _strings(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.STRING for token in tokens)
