"""Benchmarks whose entities are Wikidata's: TimeQuestions (ExaQT) and Mintaka."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from eval.benchmarks.records import SPLIT_WORDS, Fields, Item, Source, read_records, settle, split_of
from eval.benchmarks.values import answer_type, timestamp
from store.types import AnswerType

_QID = re.compile(r"Q[1-9]\d*")


def exaqt(source: Source) -> Iterator[Item]:
    """TimeQuestions, the benchmark of ExaQT (Jia et al. 2021, arXiv 2109.08935), a JSON array.

    Answers are entities and values; days become ISO dates and years, see ``values.timestamp``. An entity's Wikipedia
    title is its alias. The set names no question entities.
    """
    for record in read_records(source.file):
        fields = record.fields
        if (word := fields.text("Data set").lower()) not in SPLIT_WORDS:
            raise fields.bad("Data set", "train, development or test")
        given = fields.objects("Answer")
        entities = [_exaqt_entity(answer) for answer in given if _is_entity(answer)]
        values = [answer.identifier("AnswerArgument") for answer in given if not _is_entity(answer)]
        question = {
            "id": fields.identifier("Id"),
            "dataset": source.dataset,
            "split": split_of(source, record, (SPLIT_WORDS[word],)),
            "text": fields.text("Question"),
            "answers": _distinct([*entities, *(timestamp(value) or {"text": value} for value in values)]),
            "answer_type": answer_type(values, entities=bool(entities), years=False),
            "links": _answer_links(entities),
        }
        yield from settle(record, question)


def _is_entity(answer: Fields) -> bool:
    kind = answer.text("AnswerType")
    if kind not in ("Entity", "Value"):
        raise answer.bad("AnswerType", "Entity or Value")
    return kind == "Entity"


def _exaqt_entity(answer: Fields) -> dict[str, Any]:
    label = answer.text("WikidataLabel")
    title = unquote(answer.optional_text("WikipediaURL").rpartition("/wiki/")[2]).replace("_", " ")
    # "Snow White (1937 film)": what is in brackets tells pages apart and is no part of the name.
    title = re.sub(r"\s*\([^()]*\)$", "", title).strip()
    aliases = [title] if title and title.casefold() != label.casefold() else []
    return {"text": label, "entity": _qid(answer, "WikidataQid"), "aliases": aliases}


def _qid(fields: Fields, name: str) -> str:
    if not _QID.fullmatch(entity := fields.text(name)):
        raise fields.bad(name, "a QID such as Q42")
    return entity


def _distinct(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({(answer["text"], answer.get("entity")): answer for answer in reversed(answers)}.values())[::-1]


def _answer_links(answers: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    return [{"entity": entity, "role": "answer"} for entity in dict.fromkeys(answer["entity"] for answer in answers)]


# Mintaka --------------------------------------------------------------------------------------------------------------

_KINDS: dict[str, AnswerType] = {
    "entity": "entity",
    "boolean": "boolean",
    "numerical": "number",
    "number": "number",
    "date": "date",
    "string": "text",
}


def mintaka(source: Source) -> Iterator[Item]:
    """Mintaka (Sen et al. 2022, arXiv 2210.01613), a JSON array; the English text.

    The workers' own words (``mention``) are an alias of a single answer, and the answer where no entity was found. A
    count is answered by its number (``answerNum``), not by the entities that were counted; these stay as links.
    """
    for record in read_records(source.file):
        fields = record.fields
        answer = fields.object("answer")
        if answer.text("answerType") not in _KINDS:
            raise answer.bad("answerType", ", ".join(_KINDS))
        kind = _KINDS[answer.text("answerType")]
        entities = _mintaka_entities(answer) if kind == "entity" else []
        counted = fields.text("complexityType") == "count" and answer.data.get("answerNum") is not None
        if counted:
            answers, kind = [{"text": answer.identifier("answerNum")}], "number"
        elif kind == "entity":
            answers = _with_mention(entities, answer)
        else:
            answers = _mintaka_values(answer, kind)
        asked = [
            _qid(entity, "name")
            for entity in fields.objects("questionEntity")
            if entity.text("entityType") == "entity" and entity.data.get("name") is not None
        ]
        question = {
            "id": fields.text("id"),
            "dataset": source.dataset,
            "split": split_of(source, record),
            "text": fields.text("question"),
            "answers": _distinct(answers),
            "answer_type": kind,
            "links": [{"entity": e, "role": "question"} for e in dict.fromkeys(asked)] + _answer_links(entities),
        }
        yield from settle(record, question)


def _mintaka_entities(answer: Fields) -> list[dict[str, Any]]:
    return [
        {"text": _label(entity), "entity": _qid(entity, "name"), "aliases": []}
        for entity in answer.objects("answer", optional=True)
    ]


def _label(entity: Fields) -> str:
    """The English label; some files give labels in every language."""
    return (entity.object("label").text("en")) if isinstance(entity.data.get("label"), dict) else entity.text("label")


def _with_mention(answers: list[dict[str, Any]], answer: Fields) -> list[dict[str, Any]]:
    mention = answer.optional_text("mention")
    if not answers:
        return [{"text": mention}] if mention else []
    if len(answers) == 1 and mention and mention != answers[0]["text"]:
        return [{**answers[0], "aliases": [mention]}]
    return answers


def _mintaka_values(answer: Fields, kind: AnswerType) -> list[dict[str, Any]]:
    given = answer.data.get("answer")
    expected = "a list of true or false" if kind == "boolean" else "a list of texts or numbers"
    if not isinstance(given, list) or any(isinstance(v, bool) != (kind == "boolean") for v in given):
        raise answer.bad("answer", expected)
    if not all(isinstance(value, str | int | float) for value in given):
        raise answer.bad("answer", expected)
    if kind == "boolean":
        return [{"text": "yes" if value else "no"} for value in given]
    return _with_mention([{"text": text} for value in given if (text := str(value).strip())], answer)
