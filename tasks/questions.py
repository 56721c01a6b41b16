"""Questions and prompts as rows: what a study asks is in the store before anything is generated."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from eval.benchmarks import Custom, load, locate
from eval.benchmarks.freebase import names_table
from store.connection import Store
from store.types import Answer, Link, Prompt, Question, Split, digest
from tasks.keys import set_key


class Asked(NamedTuple):
    """A question with the prompt that a model is given for it."""

    question: Question
    prompt: Prompt


def load_questions(
    dataset: str, split: Split, limit: int | None, path: str | None, custom: Custom | None = None
) -> tuple[Question, ...]:
    """The questions of one set, read once a process as long as its file stays as it is; errors as of ``eval.benchmarks``."""
    file = locate(dataset, split, Path(path) if path else None, custom)
    return _loaded(dataset, split, limit, file, custom, _state(file))


def _state(file: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Size and time of everything that a set is read from: the file and the table of names beside it, or a folder's files."""
    if file is None:
        return ()
    files = sorted(file.rglob("*")) if file.is_dir() else [file, *([table] if (table := names_table(file)) else [])]
    state = []
    for one in files:
        with suppress(OSError):  # the loader says what is wrong with it
            found = one.stat()
            state.append((str(one), found.st_size, found.st_mtime_ns))
    return tuple(state)


@lru_cache(maxsize=32)
def _loaded(
    dataset: str, split: Split, limit: int | None, file: Path | None, custom: Custom | None, _state: object
) -> tuple[Question, ...]:
    return load(dataset, split, limit=limit, path=file, custom=custom)


# A benchmark's keys are asked for by every step of a flow. Known by the object, which cannot change, since comparing or
# hashing a question costs as much as its key.
_keys: dict[int, tuple[weakref.ref[Question], str]] = {}


def question_key(question: Question) -> str:
    """Content key of a question with its gold answers and links; where it was read from does not matter."""
    place = id(question)
    known = _keys.get(place)
    if known is not None and known[0]() is question:
        return known[1]
    key = digest(question.model_dump(mode="json", exclude={"provenance"}))
    _keys[place] = (weakref.ref(question, lambda _: _keys.pop(place, None)), key)
    return key


def gold_key(question: Question) -> str:
    """Key of the gold answers as a judge sees them: all accepted forms, in any order, and their type."""
    return digest([question.answer_type, sorted(question.gold)])


def register_questions(store: Store, questions: Sequence[Question]) -> None:
    """Land questions and their links; those that are there already stay untouched."""
    rows = [_question_row(question) for question in questions]
    links = [
        {"question_key": question_key(q), "entity": link.entity, "role": link.role, "source": link.source}
        for q in questions
        for link in q.links
    ]
    store.land({"questions": rows, "links": links})


def stored_questions(store: Store, keys: Sequence[str]) -> dict[str, Question]:
    """Questions of the store by their keys; unknown keys are left out."""
    rows = store.query_for(keys, "SELECT q.* FROM questions q SEMI JOIN wanted_ids ON wanted = question_key")
    links: dict[str, list[Link]] = {}
    for row in store.query_for(keys, "SELECT l.* FROM links l SEMI JOIN wanted_ids ON wanted = question_key"):
        link = Link(entity=row["entity"], role=row["role"], source=row["source"])
        links.setdefault(row["question_key"], []).append(link)
    return {
        row["question_key"]: Question(
            id=row["question_id"],
            dataset=row["dataset"],
            split=row["split"],
            text=row["text"],
            answers=tuple(Answer(**answer) for answer in json.loads(row["answers"])),
            answer_type=row["answer_type"],
            hops=row["hops"],
            provenance=row["provenance"],
            links=tuple(links.get(row["question_key"], ())),
        )
        for row in rows
    }


def prompt_set_key(asked: Sequence[Asked]) -> str:
    """Key of a set of questions with their prompts, in any order."""
    return set_key([[question_key(a.question), a.prompt.key] for a in asked])


def prompt_rows(asked: Sequence[Asked]) -> dict[str, list[dict[str, Any]]]:
    """Rows of ``prompts`` and ``prompt_sets``."""
    key = prompt_set_key(asked)
    prompts = {
        a.prompt.key: {"prompt_key": a.prompt.key, "messages": json.dumps([m.model_dump() for m in a.prompt.messages])}
        for a in asked
    }
    members = [
        {
            "set_key": key,
            "question_key": question_key(a.question),
            "dataset": a.question.dataset,
            "question_id": a.question.id,
            "prompt_key": a.prompt.key,
        }
        for a in asked
    ]
    return {"prompts": list(prompts.values()), "prompt_sets": members}


def _question_row(question: Question) -> dict[str, Any]:
    return {
        "question_key": question_key(question),
        "dataset": question.dataset,
        "question_id": question.id,
        "split": question.split,
        "text": question.text,
        "answer_type": question.answer_type,
        "hops": question.hops,
        "answers": json.dumps([a.model_dump() for a in question.answers], ensure_ascii=False),
        "gold_key": gold_key(question),
        "provenance": question.provenance,
    }
