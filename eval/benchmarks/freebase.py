"""Benchmarks over Freebase: ComplexWebQuestions, WebQuestionsSP and GrailQA.

Their entities are Freebase ids (``m.02mjmr``), given as links with the source ``gold_mid``: a linker has to map them.
``hops`` are edges of the gold query, in Freebase, between the answer and the constant that is furthest from it (in
WebQuestionsSP the length of the inferential chain); an event in the middle counts as a node, so that a fact with a date
is two hops where Wikidata has one statement. None where the query does not say it plainly.

Some files give ids without names as answers. Names are then taken from ``names.tsv`` (or ``names.tsv.gz``) beside the
file, a line an id: id, tab, name.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eval.benchmarks.records import Fields, Item, LeftOut, Source, content, read_records, settle, split_of
from eval.benchmarks.values import answer_type
from store.types import AnswerType, InputError, Split

_ID = re.compile(r"[mg]\.[0-9a-z_]+")
NO_PARSE = "no parse that its annotators call good and complete"


class Given(NamedTuple):
    """One gold answer as a file gives it: a Freebase id or a value, with a name where there is one."""

    argument: str
    name: str = ""
    aliases: tuple[str, ...] = ()


class Gold(NamedTuple):
    """The gold answers of a question: those with a name, the ids of all entities, the ids without a name."""

    answers: list[dict[str, Any]]
    ids: list[str]
    unnamed: list[str]
    kind: AnswerType


def _gold(given: Iterable[Given], names: Mapping[str, str]) -> Gold:
    """Answers of one name are one; a value is its own name."""
    answers: dict[str, dict[str, Any]] = {}
    ids, unnamed, values = [], [], []
    for one in given:
        if _ID.fullmatch(one.argument):
            ids.append(one.argument)
            name = one.name or names.get(one.argument, "")
            if not name:
                unnamed.append(one.argument)
                continue
        else:
            name = one.name or one.argument
            values.append(name)
        answer = answers.setdefault(name, {"text": name, "aliases": []})
        if one.aliases:
            answer["aliases"] = list(
                dict.fromkeys([*answer["aliases"], *(alias for alias in one.aliases if alias != name)])
            )
    kind = answer_type(values, entities=bool(ids))
    return Gold(list(answers.values()), ids, list(dict.fromkeys(unnamed)), kind)


def _links(asked: Iterable[str], answers: Iterable[str]) -> list[dict[str, str]]:
    pairs = dict.fromkeys([*((entity, "question") for entity in asked), *((entity, "answer") for entity in answers)])
    return [{"entity": entity, "role": role, "source": "gold_mid"} for entity, role in pairs]


def names_for(source: Source) -> Mapping[str, str]:
    """Names of Freebase ids: those given with the source, else those of the table beside the file, else none.

    Raises InputError for a table that cannot be read or has a line that is not id, tab, name.
    """
    if source.names is not None:
        return source.names
    table = names_table(source.file)
    return _read_names(table) if table else {}


def names_table(file: Path) -> Path | None:
    """The table of names beside a benchmark's file, if there is one."""
    paths = (file.parent / name for name in ("names.tsv", "names.tsv.gz"))
    return next((path for path in paths if path.is_file()), None)


def _read_names(path: Path) -> dict[str, str]:
    names = {}
    for number, line in enumerate(content(path)[0].split(b"\n"), start=1):
        if not line.strip():
            continue
        entity, _tab, name = line.decode("utf-8-sig", errors="replace").strip("\r").partition("\t")
        if not _ID.fullmatch(entity) or not name.strip():
            raise InputError(f"{path}, line {number}: id, tab, name is expected (is {line[:60]!r})")
        names[entity] = name.strip()
    return names


def _furthest(edges: Iterable[tuple[Hashable, Hashable]], start: Hashable, constants: Iterable[Hashable]) -> int | None:
    """Edges, in any direction, from ``start`` to the furthest of the constants; None if one cannot be reached."""
    neighbours: dict[Hashable, set[Hashable]] = {}
    for one, other in edges:
        neighbours.setdefault(one, set()).add(other)
        neighbours.setdefault(other, set()).add(one)
    distances, reached = {start: 0}, [start]
    for node in reached:
        for neighbour in neighbours.get(node, set()) - distances.keys():
            distances[neighbour] = distances[node] + 1
            reached.append(neighbour)
    found = [distances.get(constant, 0) for constant in constants]
    return max(found) if found and min(found) > 0 else None


# ComplexWebQuestions --------------------------------------------------------------------------------------------------

_CLASS = "ns:common.topic.notable_types"  # says what kind of thing an answer is, and is nothing that was asked about
_STATEMENT = re.compile(r'\s*(\?\w+|ns:[mg]\.\w+)\s+(ns:\S+)\s+(\?\w+|ns:[mg]\.\w+|"[^"]*"\S*)\s*\.\s*')
_PASSED_OVER = re.compile(r"\s*(PREFIX |SELECT DISTINCT \?x\s*$|WHERE|FILTER|EXISTS|ORDER |LIMIT |\}\s*$|$)")


def cwq(source: Source) -> Iterator[Item]:
    """ComplexWebQuestions (Talmor and Berant 2018, arXiv 1803.06643), a JSON array.

    Answers are ``answers`` (objects with ``answer``, ``answer_id``, ``aliases``), or, in copies, ``answer``: a text, or
    a list of Freebase ids and values, which need names. Question entities are the ids in ``sparql``.
    """
    names = names_for(source)
    for record in read_records(source.file):
        fields = record.fields
        gold = _gold(_cwq_answers(fields), names)
        query = fields.text("sparql")
        asked = re.findall(r"ns:([mg]\.[0-9a-z_]+)", re.sub(rf"{re.escape(_CLASS)}\s+ns:\S+", "", query))
        question = {
            "id": fields.text("ID"),
            "dataset": source.dataset,
            "split": split_of(source, record),
            "text": fields.text("question"),
            "answers": gold.answers,
            "answer_type": gold.kind,
            "links": _links(asked, gold.ids),
            "hops": cwq_hops(query),
        }
        yield from settle(record, question, gold.unnamed)


def _cwq_answers(fields: Fields) -> list[Given]:
    if "answers" in fields.data:
        return [
            Given(argument, name, tuple(answer.texts("aliases")))
            for answer in fields.objects("answers", optional=True)
            if (argument := answer.optional_text("answer_id") or answer.optional_text("answer"))
            for name in [answer.optional_text("answer")]
        ]
    if isinstance(fields.data.get("answer"), str):
        return [Given(name) for name in [fields.optional_text("answer")] if name]
    return [Given(argument) for argument in fields.texts("answer")]


def cwq_hops(query: str) -> int | None:
    """Hops of a query that is one graph pattern, a statement a line; None for unions and hand-written ones."""
    edges = []
    for line in query.splitlines():
        if statement := _STATEMENT.fullmatch(line):
            subject, predicate, value = statement.groups()
            if predicate != _CLASS:
                edges.append((subject, value))
        elif not _PASSED_OVER.match(line):
            return None
    constants = {end for edge in edges for end in edge if not end.startswith("?")}
    return _furthest(edges, "?x", constants)


# WebQuestionsSP -------------------------------------------------------------------------------------------------------


def webqsp(source: Source) -> Iterator[Item]:
    """WebQuestionsSP (Yih et al. 2016, aclanthology.org/P16-2033): ``{"Questions": [...]}``, or its records one a line.

    Parses are readings of the question; as in the official evaluation, only those count that are marked good and
    complete, and an answer of any of them is right. The text is ``RawQuestion``. Question entities are the topics.
    """
    names = names_for(source)
    for record in read_records(source.file, "Questions"):
        fields = record.fields
        identifier = fields.text("QuestionId")
        said: tuple[Split, ...] = ("test",) if identifier.startswith("WebQTest") else ("train", "dev")
        split = split_of(source, record, said if identifier.startswith("WebQT") else ())
        text = fields.text("RawQuestion")
        parses = [parse for parse in fields.objects("Parses") if _is_good(parse)]
        if not parses:
            yield LeftOut(split, record.where, NO_PARSE)
            continue
        gold = _gold([one for parse in parses for one in _webqsp_answers(parse)], names)
        topics = [topic for parse in parses if (topic := parse.optional_text("TopicEntityMid"))]
        chains = {len(parse.texts("InferentialChain")) for parse in parses}
        question = {
            "id": identifier,
            "dataset": source.dataset,
            "split": split,
            "text": text,
            "answers": gold.answers,
            "answer_type": gold.kind,
            "links": _links(topics, gold.ids),
            "hops": (chains.pop() or None) if len(chains) == 1 else None,
        }
        yield from settle(record, question, gold.unnamed, {"links": "Parses (TopicEntityMid)"})


def _is_good(parse: Fields) -> bool:
    if "AnnotatorComment" not in parse.data:
        return True
    comment = parse.object("AnnotatorComment")
    return comment.text("QuestionQuality") == "Good" and comment.text("ParseQuality") == "Complete"


def _webqsp_answers(parse: Fields) -> Iterator[Given]:
    for answer in parse.objects("Answers"):
        yield Given(answer.identifier("AnswerArgument"), answer.optional_text("EntityName"))


# GrailQA --------------------------------------------------------------------------------------------------------------


def grailqa(source: Source) -> Iterator[Item]:
    """GrailQA (Gu et al. 2021, arXiv 2011.07743): the JSON array, or its records one a line, with or without queries.

    Question entities are those of ``graph_query``. The public test file has no answers: all of it is left out.
    """
    names = names_for(source)
    for record in read_records(source.file):
        fields = record.fields
        gold = _gold([_grailqa_answer(answer) for answer in fields.objects("answer", optional=True)], names)
        graph = fields.object("graph_query") if "graph_query" in fields.data else None
        nodes = graph.objects("nodes") if graph else []
        counted = any(node.optional_text("function") == "count" for node in nodes)
        asked = [node.text("id") for node in nodes if node.text("node_type") == "entity"]
        question = {
            "id": fields.identifier("qid"),
            "dataset": source.dataset,
            "split": split_of(source, record),
            "text": fields.text("question"),
            "answers": gold.answers,
            "answer_type": "number" if counted and not gold.ids else gold.kind,
            "links": _links(asked, gold.ids),
            "hops": _grailqa_hops(nodes, graph.objects("edges")) if graph else None,
        }
        yield from settle(record, question, gold.unnamed, {"links": "graph_query.nodes (id)"})


def _grailqa_answer(answer: Fields) -> Given:
    argument = answer.identifier("answer_argument")
    if answer.text("answer_type") == "Entity" and not _ID.fullmatch(argument):
        raise answer.bad("answer_argument", "a Freebase id such as m.02mjmr")
    return Given(argument, answer.optional_text("entity_name"))


def _grailqa_hops(nodes: list[Fields], edges: list[Fields]) -> int | None:
    starts = [node.identifier("nid") for node in nodes if node.data.get("question_node") == 1]
    constants = [node.identifier("nid") for node in nodes if node.text("node_type") in ("entity", "literal")]
    pairs = [(edge.identifier("start"), edge.identifier("end")) for edge in edges]
    return _furthest(pairs, starts[0], constants) if len(starts) == 1 else None
