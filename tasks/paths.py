"""Retrieval as units: first the neighbourhoods of all missing questions in batches, then the paths of each question.

An entity's neighbourhood is fetched once per graph snapshot, whatever question, dataset or study asks for it. Paths are
then found, ranked and linearised locally. The ``retrievals`` row says that a question is done, also if it has no path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import task

from eval.matching import match
from kg.endpoint import Endpoint
from kg.linearise import linearise
from kg.neighbourhoods import Direction, Expansion, Graph, expand, labels
from kg.ranking import RANKING_VERSION, rank, top
from kg.search import SEARCH_VERSION, frontier, joint_paths, literal_paths, search
from kg.server import local_endpoint
from kg.starter import write_ntriples
from store.connection import Store
from store.home import Home
from store.types import Frozen, Question, RunError, Triple, digest
from store.types import Path as GraphPath
from tasks.keys import RetrievalSpec
from tasks.landing import UNIT_OPTIONS
from tasks.progress import progress
from tasks.questions import question_key


class Source(Frozen):
    """Where facts come from: ``url`` None is the starter slice, served on this machine."""

    url: str | None = None
    snapshot: str
    user_agent: str | None = None


class PathsOrder(Frozen):
    """A work order: the paths of some questions."""

    name: str
    spec: RetrievalSpec
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """The unit's key: what is searched, and for which questions by content."""
        return digest([self.spec.key, sorted(question_key(q) for q in self.questions)])


class NeighbourhoodsOrder(Frozen):
    """A work order: every neighbourhood that the questions' paths need."""

    name: str
    spec: RetrievalSpec
    source: Source
    questions: tuple[Question, ...]


def search_versions() -> dict[str, str]:
    """Versions of the code that decides which paths are found and how they rank; part of the retrieval key."""
    return {"search": SEARCH_VERSION, "ranking": RANKING_VERSION}


@contextmanager
def open_endpoint(source: Source, home: Home) -> Iterator[Endpoint]:
    """The SPARQL endpoint of a source; the starter slice is served by a server that ends with the block."""
    if source.url is not None:
        yield Endpoint(source.url, snapshot=source.snapshot, user_agent=source.user_agent)
        return
    home.kg.mkdir(parents=True, exist_ok=True)
    file = home.kg / f"starter-{source.snapshot[:12]}.nt"
    if not file.exists():
        write_ntriples(file)
    with local_endpoint([file], home.kg) as url:
        yield Endpoint(url, snapshot=source.snapshot)


def probe(source: Source) -> None:
    """Ask a remote endpoint one small question, so that a dead one is told at once. Raises RunError, or InputError."""
    if source.url is not None:
        endpoint = Endpoint(source.url, snapshot=source.snapshot, user_agent=source.user_agent, attempts=2)
        endpoint.select("SELECT (1 AS ?one) WHERE {}")


def missing_questions(store: Store, spec: RetrievalSpec, questions: Sequence[Question]) -> tuple[Question, ...]:
    """Questions whose paths were not searched yet under this spec: one anti-join."""
    keys = {question_key(q): q for q in questions}
    done = {
        row["question_key"]
        for row in store.query("SELECT question_key FROM retrievals WHERE retrieval_key = ?", [spec.key])
    }
    return tuple(q for key, q in keys.items() if key not in done)


def land_neighbourhoods(order: NeighbourhoodsOrder, home: Home) -> int:
    """Fetch every expansion that the questions still miss, stage by stage, landing each batch. Returns requests made."""
    store, spec = home.store, order.spec
    graph = load_graph(store, spec)
    with open_endpoint(order.source, home) as endpoint, progress(order.name, len(order.questions)) as meter:
        for _stage in range(spec.max_hops + 2):
            wanted = _wanted(graph, spec, order.questions)
            if not any(wanted.values()):
                break
            for direction, entities in wanted.items():
                for batch in expand(endpoint, sorted(entities), direction, cap=spec.cap):
                    store.land(_expansion_rows(spec, batch))
                    graph.add(batch)
        else:
            raise RunError("the search still asks for neighbourhoods after its last stage: please report this as a bug")
        _land_labels(store, spec, endpoint, graph)
        meter.advance(len(order.questions))
        return endpoint.requests


@task(name="neighbourhoods", retries=2, retry_delay_seconds=[5, 20], persist_result=False)
def neighbourhoods(order: NeighbourhoodsOrder) -> int:
    """See :func:`land_neighbourhoods`. Not cached as a unit: the store knows each expansion by itself."""
    return land_neighbourhoods(order, Home.current())


@task(name="paths", **UNIT_OPTIONS)
def paths(order: PathsOrder, graph: Any) -> int:
    """Paths of the questions of one order, from a graph that holds their neighbourhoods. Returns the number of paths."""
    home: Home = Home.current()
    return land_paths(order, home.store, graph)


def load_graph(store: Store, spec: RetrievalSpec) -> Graph:
    """Every neighbourhood of the snapshot that is known at this cap, with its edges."""
    known = store.query(
        "SELECT entity, direction, truncated FROM expansions WHERE snapshot = ? AND cap = ?", [spec.snapshot, spec.cap]
    )
    edges = store.query("SELECT subject, predicate, object, literal FROM edges WHERE snapshot = ?", [spec.snapshot])
    by_end: dict[tuple[Direction, str], list[Triple]] = {}
    for row in edges:
        triple = Triple(row["subject"], row["predicate"], row["object"], row["literal"])
        by_end.setdefault(("out", triple.subject), []).append(triple)
        if not triple.literal:
            by_end.setdefault(("in", triple.object), []).append(triple)
    graph = Graph()
    graph.add(
        Expansion(r["entity"], r["direction"], tuple(by_end.get((r["direction"], r["entity"]), ())), r["truncated"])
        for r in known
    )
    return graph


def load_labels(store: Store, snapshot: str) -> dict[str, str]:
    """English labels of the snapshot's entities and properties."""
    return {r["id"]: r["label"] for r in store.query("SELECT id, label FROM labels WHERE snapshot = ?", [snapshot])}


def land_paths(order: PathsOrder, store: Store, graph: Graph) -> int:
    """Search, rank, linearise and land the paths of every question of an order in one transaction."""
    names = load_labels(store, order.spec.snapshot)
    tables: dict[str, list[dict[str, Any]]] = {"paths": [], "retrievals": []}
    for question in order.questions:
        found, pairs, connected = find(graph, order.spec, question)
        ranked = rank(found, question.text, names, graph.degree)
        kept = top(ranked, order.spec.top_paths)
        tables["paths"] += _path_rows(order.spec, question, ranked, kept)
        tables["retrievals"].append(
            {
                "retrieval_key": order.spec.key,
                "question_key": question_key(question),
                "snapshot": order.spec.snapshot,
                "pairs": pairs,
                "connected": connected,
                "paths": len(ranked),
                "min_hops": min((path.hops for path in ranked), default=None),
                "truncated": sum(graph.truncated(entity) for entity in question.entities("question")),
                "graph": linearise(kept, names, max_triples=order.spec.max_triples),
            }
        )
    store.land(tables)
    return len(tables["paths"])


def find(graph: Graph, spec: RetrievalSpec, question: Question) -> tuple[list[GraphPath], int, int]:
    """Paths of one question, the number of question-answer pairs, and of pairs that are connected.

    Gold answers are the targets: right for training questions, and never done for test questions. A date or number is the
    target as a literal; a yes/no question has no target of its own, so the paths between its entities are taken.
    """
    sources = question.entities("question")
    if question.answer_type == "boolean":
        found = joint_paths(graph, sources, max_hops=spec.max_hops)
        return found, 1, int(bool(found))
    targets = question.entities("answer")
    if targets:
        found = search(graph, sources, targets, max_hops=spec.max_hops)
        pairs = [(s, t) for s in sources for t in targets if s != t]
        return found, len(pairs), len({(p.source, p.target) for p in found})

    def matches(value: str, _gold: str) -> bool:
        return bool(match(value, question).correct)

    found = literal_paths(graph, sources, question.gold, max_hops=spec.max_hops, matches=matches)
    return found, len(sources), len({p.source for p in found})


def _wanted(graph: Graph, spec: RetrievalSpec, questions: Sequence[Question]) -> dict[Direction, set[str]]:
    wanted: dict[Direction, set[str]] = {"out": set(), "in": set()}
    for question in questions:
        sources, targets = question.entities("question"), question.entities("answer")
        if question.answer_type == "boolean":
            targets = sources
        for direction, entities in frontier(graph, sources, targets, spec.max_hops, spec.max_degree).items():
            wanted[direction] |= entities
    return wanted


def _land_labels(store: Store, spec: RetrievalSpec, endpoint: Endpoint, graph: Graph) -> None:
    ids = {t.subject for t in graph.triples} | {t.predicate for t in graph.triples}
    ids |= {t.object for t in graph.triples if not t.literal}
    unknown = sorted(ids - load_labels(store, spec.snapshot).keys())
    found = labels(endpoint, unknown)
    store.land({"labels": [{"snapshot": spec.snapshot, "id": key, "label": text} for key, text in found.items()]})


def _expansion_rows(spec: RetrievalSpec, batch: Sequence[Expansion]) -> dict[str, list[dict[str, Any]]]:
    edges = [{"snapshot": spec.snapshot, **triple._asdict()} for one in batch for triple in one.triples]
    known = [
        {
            "snapshot": spec.snapshot,
            "entity": one.entity,
            "direction": one.direction,
            "cap": spec.cap,
            "edges": len(one.triples),
            "truncated": one.truncated,
        }
        for one in batch
    ]
    return {"edges": edges, "expansions": known}


def _path_rows(
    spec: RetrievalSpec, question: Question, ranked: Sequence[GraphPath], kept: Sequence[GraphPath]
) -> list[dict[str, Any]]:
    chosen = set(kept)
    return [
        {
            "retrieval_key": spec.key,
            "question_key": question_key(question),
            "rank": position,
            "source": path.source,
            "target": path.target,
            "hops": path.hops,
            "score": path.score,
            "kept": path in chosen,
            "triples": json.dumps(path.triples),
        }
        for position, path in enumerate(ranked)
    ]
