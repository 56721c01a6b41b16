"""Linking as a unit: the entities of every question, from its dataset's own ids or found, each with where it comes from.

The ``linkings`` row says that a question was looked at, also where nothing was found. The question itself, and so its
key, stays as the dataset gives it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task

from kg.endpoint import Endpoint
from kg.linking import Linked, link, mids_of, read_mid_map
from kg.mentions import LabelIndex
from kg.names import Name, candidate_spans, graph_names, lookup, name_key
from store.connection import Store
from store.home import Home
from store.types import Frozen, Link, LinkRole, Question, digest
from tasks.graphs import RequestLog, Source, open_endpoint
from tasks.keys import LinkingSpec
from tasks.landing import UNIT_OPTIONS
from tasks.progress import progress
from tasks.questions import question_key

MIDS_LANDED_TOGETHER = 5000
_ROLES: tuple[LinkRole, ...] = ("question", "answer")
_LITERALS = ("number", "date", "boolean")  # answers that are no entities


class LinksOrder(Frozen):
    """A work order: the links of some questions. ``mid_map`` is the file that the spec names by its content."""

    name: str
    spec: LinkingSpec
    source: Source
    mid_map: Path | None
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """The unit's key: how is linked, and which questions by content."""
        return digest([self.spec.key, sorted(question_key(q) for q in self.questions)])


@task(name="links", **UNIT_OPTIONS)
def links(order: LinksOrder) -> int:
    """Link the questions of an order. Returns the number of links."""
    return land_links(order, Home.current())


def unlinked_questions(store: Store, spec: LinkingSpec, questions: Sequence[Question]) -> tuple[Question, ...]:
    """Questions that were not looked at under this spec yet: one anti-join."""
    keys = {question_key(q): q for q in questions}
    rows = store.query("SELECT question_key FROM linkings WHERE linking_key = ?", [spec.key])
    done = {row["question_key"] for row in rows}
    return tuple(q for key, q in keys.items() if key not in done)


def land_links(order: LinksOrder, home: Home) -> int:
    """Find and land the links of every question of an order in one transaction; Freebase ids land as they are mapped."""
    store, count = home.store, 0
    with progress(order.name, len(order.questions)) as meter:
        if any(_lacks(q, role) for q in order.questions for role in _ROLES) and not _offline(order):
            log = RequestLog(store, order.spec.snapshot, lambda: "linking")
            with open_endpoint(order.source, home, log) as endpoint:
                try:
                    mids = _mids(order, store, endpoint, log)
                    names = _names(order, endpoint, mids)
                finally:
                    log.flush()
        else:
            mids, names = read_mid_map(order.mid_map) if order.mid_map else {}, []
        linked = _linked(order, mids, names)
        store.land(_rows(order, linked))
        count = sum(map(len, linked))
        meter.advance(len(order.questions))
    return count


def linked_questions(store: Store, spec: LinkingSpec, questions: Sequence[Question]) -> list[Question]:
    """The questions with the links that were found for them in place of their dataset's."""
    keys = [question_key(q) for q in questions]
    rows = store.query_for(
        keys,
        "SELECT linking_key, question_key, role, entity, source FROM resolved_links "
        "SEMI JOIN wanted_ids ON wanted = question_key ORDER BY question_key, role, position",
    )
    found: dict[str, list[Link]] = {}
    for row in rows:
        if row["linking_key"] == spec.key:
            one = Link(entity=row["entity"], role=row["role"], source=row["source"])
            found.setdefault(row["question_key"], []).append(one)
    return [q.model_copy(update={"links": tuple(found.get(key, ()))}) for key, q in zip(keys, questions, strict=True)]


def _lacks(question: Question, role: LinkRole) -> bool:
    """Whether the dataset gives no item for this role where there is one to be had."""
    if role == "answer" and question.answer_type in _LITERALS:
        return False
    return not question.entities(role) or bool(question.freebase_ids(role))


def _offline(order: LinksOrder) -> bool:
    return order.spec.labels == "off" and (
        order.mid_map is not None or not any(q.freebase_ids(role) for q in order.questions for role in _ROLES)
    )


def _mids(order: LinksOrder, store: Store, endpoint: Endpoint, log: RequestLog) -> Mapping[str, str]:
    """QIDs of the questions' Freebase ids: from the mapping file, or from the endpoint, each asked for once."""
    if order.mid_map is not None:
        return read_mid_map(order.mid_map)
    wanted = {mid for question in order.questions for role in _ROLES for mid in question.freebase_ids(role)}
    rows = store.query("SELECT foreign_id, entity FROM foreign_ids WHERE snapshot = ?", [order.spec.snapshot])
    known = {row["foreign_id"]: row["entity"] for row in rows}
    missing = sorted(wanted - known.keys())
    for start in range(0, len(missing), MIDS_LANDED_TOGETHER):
        some = missing[start : start + MIDS_LANDED_TOGETHER]
        found = mids_of(endpoint, some)
        known |= {mid: found.get(mid) for mid in some}
        fresh = [{"snapshot": order.spec.snapshot, "foreign_id": mid, "entity": found.get(mid)} for mid in some]
        store.land({"foreign_ids": fresh, "endpoint_requests": log.taken()})
    return {mid: entity for mid, entity in known.items() if entity is not None}


def _names(order: LinksOrder, endpoint: Endpoint, mids: Mapping[str, str]) -> list[Name]:
    """The names to look for, where a question is left without a link by its ids: all of the graph, or its own words."""
    bare = [(q, {one.role for one in link(q, mids=mids, index=None)}) for q in order.questions]
    asked = [q for q, roles in bare if "question" not in roles]
    answered = [q for q, roles in bare if "answer" not in roles and q.answer_type not in _LITERALS]
    if order.spec.labels == "off" or not (asked or answered):
        return []
    if order.spec.labels == "index":
        return graph_names(endpoint)
    spans = [span for q in asked for span in candidate_spans(q.text)]
    return lookup(endpoint, dict.fromkeys([*spans, *(form for q in answered for form in q.gold)]))


def _linked(order: LinksOrder, mids: Mapping[str, str], names: Sequence[Name]) -> list[tuple[Linked, ...]]:
    """The links of each question. What was looked up is held against the words it was looked up for and no others: a
    question's links must not depend on who is asked with it, nor on its gold answers.
    """
    if order.spec.labels != "lookup":
        index = LabelIndex(names) if names else None
        return [link(question, mids=mids, index=index) for question in order.questions]
    by_key: dict[str, list[Name]] = {}
    for name in names:
        by_key.setdefault(name_key(name.text), []).append(name)

    def of(words: Sequence[str]) -> LabelIndex:
        return LabelIndex([name for key in dict.fromkeys(map(name_key, words)) for name in by_key.get(key, ())])

    return [link(q, mids=mids, index=of(candidate_spans(q.text)), answers=of(q.gold)) for q in order.questions]


def _rows(order: LinksOrder, linked: Sequence[Sequence[Linked]]) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {"resolved_links": [], "linkings": []}
    for question, found in zip(order.questions, linked, strict=True):
        key = {"linking_key": order.spec.key, "question_key": question_key(question)}
        tables["linkings"].append({**key, "dataset": question.dataset})
        for role in _ROLES:
            for position, one in enumerate(one for one in found if one.role == role):
                row = {**key, "role": role, "position": position, "entity": one.entity, "source": one.source}
                row |= {"mention": one.mention, "span_start": one.start, "span_end": one.end, "score": one.score}
                tables["resolved_links"].append(row)
    return tables


def mapping_hash(path: Path) -> str:
    """What names the content of a mapping file in a key. Raises InputError as :func:`kg.linking.read_mid_map` does."""
    return digest(json.dumps(dict(sorted(read_mid_map(path).items()))))
