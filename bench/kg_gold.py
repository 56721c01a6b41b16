"""Gold relations: what WebQSP, ComplexWebQuestions and GrailQA ask of Freebase, said in Wikidata's properties.

``freebase_relations.tsv`` is written by hand. A chain of Freebase relations that leads from an entity of a question to its
answer is put together of the file's rows, walked either way: most CWQ questions are two of WebQSP's in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bench.kg_exact import ExactGraph
from bench.kg_questions import DATA, MOST_ENDS, read_json, read_lines, read_text
from store.types import InputError, digest

RELATIONS = Path(__file__).with_name("freebase_relations.tsv")
MOST_HOPS = 2

Chain = tuple[str, ...]
"""Freebase relations from an entity to the answer, those that are walked backwards with a ``^`` before them."""
Walk = tuple[str, ...]
"""Wikidata properties in the same form."""

_TRIPLE = re.compile(r"(\?\w+|ns:[mg]\.\w+)\s+ns:([a-z]\w*(?:\.\w+)+)\s+(\?\w+|ns:[mg]\.\w+)")
_ASKED = re.compile(r"SELECT\s+(?:DISTINCT\s+)?(\?\w+)", re.IGNORECASE)
_TYPES = ("common.topic.notable_types", "type.", "freebase.", "kg.")
_MID_FILE = "kg/freebase_mid2qid.tsv.gz"


class Case(NamedTuple):
    """A question entity and an answer of a question, and the walks that its gold query amounts to. ``names``: ids of all its
    entities and answers.
    """

    question: str
    family: str
    text: str
    names: tuple[str, ...]
    source: str
    target: str
    gold: frozenset[Walk]

    @property
    def held_out(self) -> bool:
        """Whether the question is of the half that nothing is tuned on; CWQ's variants go where their question of WebQSP goes."""
        return int(digest(self.family, 8), 16) % 2 == 1


def read_relations(file: Path = RELATIONS) -> dict[Chain, frozenset[Walk]]:
    """The rows of the mapping, each in both directions. Raises InputError for a row of another form or a repeated one."""
    found: dict[Chain, frozenset[Walk]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#") or line == "freebase\twikidata":
            continue
        parts = line.split("\t")
        walks = [tuple(walk.split("/")) for walk in parts[-1].split("|")]
        if len(parts) != 2 or not all(re.fullmatch(r"\^?P[1-9]\d*", step) for walk in walks for step in walk):
            raise InputError(f"{file.name} line {number}: {line!r} is no chain, a tab and property paths: mend the row")
        chain = tuple(parts[0].split("/"))
        if chain in found:
            raise InputError(f"{file.name} line {number}: {parts[0]} stands there twice: join the rows")
        found[chain] = frozenset(walks)
    for chain, ways in list(found.items()):
        back = backwards(chain)
        found[back] = found.get(back, frozenset()) | {backwards(walk) for walk in ways}
    return found


def backwards(steps: tuple[str, ...]) -> tuple[str, ...]:
    """The same steps from the other end."""
    return tuple(step[1:] if step.startswith("^") else f"^{step}" for step in reversed(steps))


def walks_of(chain: Chain, relations: Mapping[Chain, frozenset[Walk]]) -> frozenset[Walk]:
    """All walks of at most 2 hops that the chain amounts to; none if a part of it is not in the mapping."""
    found = set(relations.get(chain, ()))
    for cut in range(1, len(chain)):
        head, tail = relations.get(chain[:cut], frozenset()), walks_of(chain[cut:], relations)
        found |= {(*first, *rest) for first in head for rest in tail}
    return frozenset(walk for walk in found if len(walk) <= MOST_HOPS)


def chains(triples: Iterable[tuple[str, str, str]], asked: str) -> dict[str, Chain]:
    """The shortest chain of relations from each constant of a query (a MID) to the node that is asked for."""
    around: dict[str, list[tuple[str, str]]] = {}
    for subject, relation, value in triples:
        around.setdefault(subject, []).append((relation, value))
        around.setdefault(value, []).append((f"^{relation}", subject))
    found: dict[str, Chain] = {}
    for start in around:
        if not start.startswith("?"):
            reached: dict[str, Chain] = {start: ()}
            queue = [start]
            for node in queue:
                for step, following in around[node]:
                    if following not in reached:
                        reached[following] = (*reached[node], step)
                        queue.append(following)
            if reached.get(asked):
                found[start] = reached[asked]
    return found


def sparql_chains(query: str) -> dict[str, Chain]:
    """:func:`chains` of a query of WebQSP or CWQ. Patterns about types say nothing and are left out."""
    asked = _ASKED.search(query)
    triples = [
        (subject.removeprefix("ns:"), relation, value.removeprefix("ns:"))
        for subject, relation, value in _TRIPLE.findall(query)
        if not relation.startswith(_TYPES)
    ]
    return chains(triples, asked[1]) if asked else {}


def _graph_chains(query: Mapping[str, Any]) -> dict[str, Chain]:
    """:func:`chains` of GrailQA's form of a query, a list of nodes and one of edges."""
    names = {one["nid"]: one["id"] if one["node_type"] == "entity" else f"?{one['nid']}" for one in query["nodes"]}
    asked = next((names[one["nid"]] for one in query["nodes"] if one["question_node"]), "")
    return chains(((names[e["start"]], e["relation"], names[e["end"]]) for e in query["edges"]), asked)


def gold_chains(folder: Path = DATA) -> Iterator[tuple[str, str, list[dict[str, Chain]]]]:
    """Dataset, question id and the chains of each gold query. Raises InputError if a file is missing."""
    benchmarks = folder / "benchmarks"
    for record in read_lines(benchmarks / "webqsp" / "WebQSP.test.jsonl.gz"):
        yield "webqsp", record["QuestionId"], [sparql_chains(parse["Sparql"]) for parse in record["Parses"]]
    for record in read_json(benchmarks / "cwq" / "ComplexWebQuestions_test.json.gz"):
        yield "cwq", record["ID"], [sparql_chains(record["sparql"])]
    for record in read_json(benchmarks / "grailqa" / "grailqa_dev_sample1000.json.gz"):
        yield "grailqa", str(record["qid"]), [_graph_chains(record["graph_query"])]


def gold_cases(graph: ExactGraph, folder: Path = DATA) -> list[Case]:
    """All pairs of an entity and an answer in the graph whose gold relations are known, joined or not. Raises as above."""
    relations = read_relations()
    known = cache(lambda chain: walks_of(chain, relations))
    entities = _mids(folder / _MID_FILE)
    questions = {
        (one["dataset"], one["id"]): one
        for name in ("webqsp_test", "cwq_test", "grailqa_dev")
        for one in read_lines(folder / "linked" / f"{name}.jsonl.gz")
    }
    found = []
    for dataset, identity, parses in gold_chains(folder):
        question = questions.get((dataset, identity))
        if question is None:
            continue
        gold: dict[str, set[Walk]] = {}
        for mid, chain in (item for parse in parses for item in parse.items()):
            if (entity := entities.get(mid)) and entity in graph:
                gold.setdefault(entity, set()).update(known(chain))
        targets = [one for one in dict.fromkeys(question["linked_answer_qids"]) if one in graph][:MOST_ENDS]
        names = tuple(dict.fromkeys([*question["linked_question_qids"], *gold, *targets]))
        family = identity.split("_")[0]
        for source, walks in gold.items():
            if walks:
                found += [
                    Case(identity, family, question["question"], names, source, target, frozenset(walks))
                    for target in targets
                    if target != source
                ]
    return found


def _mids(file: Path) -> dict[str, str]:
    rows = (line.split("\t") for line in read_text(file).splitlines())
    return {row[0]: row[1] for row in rows if re.fullmatch(r"[mg]\.\w+", row[0])}
