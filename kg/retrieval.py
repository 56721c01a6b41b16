"""Retrieval from end to end: what many questions need is fetched in stages, then each is searched and ranked locally.

Stages of :meth:`Retriever.gather`, each in de-duplicated batches: (1) both directions of all end points, in-edges up to a
cap; (2) for pairs that are more than 2 hops apart, the out-edges of both frontiers, and an end that was cut at the cap once
more with a larger one; (3) for 4 hops, the in-edges of the frontiers; (4) for literal answers that are not at the entity
itself, the out-edges of its neighbours; (5) names of relations and ends, degrees of the candidates' middle nodes, then names
and full statements of what is kept. :meth:`Retriever.find` asks nothing of anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from kg.candidates import LITERAL_HOPS, Candidates, Group, Options, Want, pairs_of
from kg.graph import Graph
from kg.neighbourhoods import Direction
from kg.ranking import middle_nodes, parts_of, preferred, ranked, score_parts, top
from kg.search import Pair, check_hops, distances, neighbours, search, triples_of
from kg.similarity import Similarity
from store.types import Detail, InputError, Path, PathKind, Triple

RUNNERS_UP = 5  # paths of a question that are shown as dropped
FRONTIER_LIMIT = 5000  # neighbours of a node that are expanded; beyond, it is a hub that was cut, and stays so
QUESTIONS_AT_ONCE = 1000
PRINTED = 200  # kept paths of a question that can be printed: one with thousands of answers keeps thousands


class PairFound(NamedTuple):
    """Whether a question entity and a target are joined: hops of the shortest path, of the shortest one ranked that
    passes no hub (None: there is none), and the number of paths of the searched lengths.
    """

    source: str
    target: str
    hops: int | None
    specific_hops: int | None
    paths: int


class Found(NamedTuple):
    """What was found for one question: ``kept`` paths and the best of the ``dropped`` ones, both best first."""

    key: str
    kept: tuple[Path, ...]
    dropped: tuple[Path, ...]
    pairs: tuple[PairFound, ...]
    paths: int

    @property
    def hops(self) -> int | None:
        """Hops of the shortest path of any pair."""
        return min((pair.hops for pair in self.pairs if pair.hops is not None), default=None)


class Source(Protocol):
    """Where :meth:`Retriever.gather` fetches from; each method adds what it learns to the graph before it returns."""

    def expansions(self, wanted: Mapping[Direction, Collection[str]], cap: int) -> None:
        """Fetch neighbourhoods that the graph does not know yet."""

    def labels(self, ids: Collection[str]) -> None:
        """Fetch English labels that were not asked for yet."""

    def degrees(self, entities: Collection[str], cap: int) -> None:
        """Fetch degrees that are not known yet."""

    def details(self, triples: Collection[Triple]) -> None:
        """Fetch full statements that were not asked for yet."""


class Retriever:
    """Searches over one graph. ``similarity`` fits relations to questions. Raises InputError for options that cannot be."""

    def __init__(self, graph: Graph, options: Options, similarity: Similarity) -> None:
        check_hops(options.max_hops)
        if options.max_degree > options.cap:
            raise InputError(
                f"max_degree {options.max_degree} is above cap {options.cap}: degrees are counted up to the cap; raise cap"
            )
        self.graph, self.options = graph, options
        self.candidates = Candidates(graph, options, similarity)

    def gather(self, wants: Sequence[Want], source: Source, report: Callable[[str, int], None] | None = None) -> None:
        """Fetch everything that :meth:`find` needs for these questions. ``report(stage, done)`` is told of finished stages
        and of questions done. Raises what ``source`` raises.
        """
        tell = report or (lambda _stage, _done: None)
        options = self.options
        ends = _distinct(end for want in wants for end in (*want.sources, *want.targets))
        source.expansions({"out": ends, "in": ends if options.max_hops > 1 else []}, options.cap)
        tell("ends", 0)
        pairs = list(dict.fromkeys(pair for want in wants for pair in pairs_of(want)))
        if options.max_hops > 1:
            self._fetch_frontiers(pairs, source)
        tell("frontiers", 0)
        self._fetch_literals(wants, source)
        source.labels([*self.graph.properties(), *ends])
        tell("literals", 0)
        for start in range(0, len(wants), QUESTIONS_AT_ONCE):
            some = wants[start : start + QUESTIONS_AT_ONCE]
            groups = self.candidates.of(some, self.candidates.texts(some))
            middles = {node for group in groups for node in group.walks.nodes.ravel().tolist()}
            source.degrees([f"Q{node}" for node in sorted(middles)], options.cap)
            found = self.find(some)
            paths = [path for one in found for path in (*one.kept[:PRINTED], *one.dropped)]
            kept = list(dict.fromkeys(t for one in found for path in one.kept[:PRINTED] for t in path.triples))
            source.labels(_distinct(name for path in paths for name in _names(path)))
            source.details(kept)
            source.labels(_distinct(name for t in kept for name in _names_in(self.graph.details.get(t, ()))))
            tell("paths", min(start + QUESTIONS_AT_ONCE, len(wants)))

    def find(self, wants: Sequence[Want]) -> list[Found]:
        """Paths of each question, searched and ranked in what the graph holds."""
        paths: list[list[Path]] = [[] for _ in wants]
        counts: list[Counter[tuple[str, str]]] = [Counter() for _ in wants]
        hops: list[dict[tuple[str, str], int]] = [{} for _ in wants]
        texts = self.candidates.texts(wants)
        for group in self.candidates.of(wants, texts):
            for pair in np.flatnonzero(group.walks.counts).tolist():
                position, source, target, literal = group.owners[pair]
                if literal and wants[position].boolean:
                    continue  # an entity's own values join nothing
                counts[position][source, target] += int(group.walks.counts[pair])
                hops[position].setdefault((source, target), group.walks.hops)
            for position, path in self._paths(group, wants, texts):
                paths[position].append(path)
        return [self._found(want, paths[i], counts[i], hops[i]) for i, want in enumerate(wants)]

    def _found(
        self, want: Want, paths: list[Path], counts: Counter[tuple[str, str]], hops: dict[tuple[str, str], int]
    ) -> Found:
        distinct = list({(path.source, path.target, path.triples): path for path in paths}.values())
        order = ranked(distinct)
        nodes = {node for path in order for node in middle_nodes(path)}
        hubs = {node for node in nodes if self.graph.degrees.get(node, 0) > self.options.max_degree}
        clear = preferred(order, lambda path: not hubs.intersection(middle_nodes(path)))
        # A relation without a name would be printed as its id.
        named = preferred(clear, lambda path: all(t.predicate in self.graph.labels for t in path.triples))
        kept = _kept(named, want, self.options.top_paths)
        chosen = set(map(id, kept))
        dropped = [path for path in order if id(path) not in chosen]
        specific: dict[tuple[str, str], int] = {}
        for path in order:
            if path.kind != "joint" and not hubs.intersection(middle_nodes(path)):
                ends = (path.source, path.target)
                specific[ends] = min(path.hops, specific.get(ends, path.hops))
        # A literal pair exists only where a value was found; a source without any is a pair without a path.
        ends_found = dict.fromkeys(hops)
        asked = [(p.source, p.target) for p in pairs_of(want)]
        if want.matches is not None:
            asked = [(source, "") for source in want.sources if not any(source == s for s, _ in ends_found)]
        pairs = tuple(
            PairFound(*ends, hops.get(ends), specific.get(ends), counts[ends])
            for ends in dict.fromkeys([*asked, *ends_found])
        )
        return Found(want.key, tuple(kept), tuple(dropped[:RUNNERS_UP]), pairs, sum(counts.values()))

    def _paths(self, group: Group, wants: Sequence[Want], texts: Sequence[str]) -> Iterator[tuple[int, Path]]:
        walks = group.walks
        known, where = np.unique(walks.nodes, return_inverse=True)
        degree = np.asarray([self.graph.degrees.get(f"Q{node}", 0) for node in known.tolist()], dtype=np.int32)
        degrees = degree[where.reshape(walks.nodes.shape)] if len(known) else np.zeros_like(walks.nodes)
        parts = score_parts(self.candidates.fits(group, texts), degrees, walks.steps)
        for row, pair in enumerate(walks.pair.tolist()):
            position, source, target, literal = group.owners[pair]
            triples = triples_of(walks, row, Pair(source, target))
            if literal:
                triples = (*triples[:-1], triples[-1]._replace(object=target, literal=True))
            split = parts_of(parts[row])
            path = Path(source=source, target=target, triples=triples, score=round(sum(split), 6), parts=split)
            yield position, path.model_copy(update={"kind": _kind(path, wants[position], literal)})

    def _fetch_frontiers(self, pairs: Sequence[Pair], source: Source) -> None:
        """What decides 3 hops (and 4) of the pairs that are further apart than 2.

        An edge between two frontiers is an out-edge of one of them. An end that was cut at the cap has a frontier that is
        not all known: it is fetched again with the larger cap, and met from the other end, whose frontier is expanded in
        both directions; of that frontier, hubs that were cut are fetched more deeply where the pair is still apart.
        """
        options, everything = self.options, self.options.policy == "all"
        apart = list(pairs) if everything else self._unresolved(pairs, 2)
        cut = self.graph.cut(_distinct(end for pair in apart for end in pair), options.cap)
        source.expansions({"in": sorted(cut)}, options.deep_cap)
        if options.max_hops < 3:
            return
        around = neighbours(self.graph, _distinct(end for pair in apart for end in pair))
        out: set[str] = set()
        both: set[str] = set()
        met_by: dict[Pair, str] = {}
        for pair in apart:
            whole = [end for end in pair if end not in cut]
            if len(whole) == len(pair):
                out.update(around[pair.source], around[pair.target])
            else:
                met = min(whole or pair, key=lambda end: (len(around[end]), end))
                if len(around[met]) <= FRONTIER_LIMIT:
                    both.update(around[met])
                    met_by[pair] = met
        source.expansions({"out": sorted(out | both), "in": sorted(both)}, options.cap)
        still = self._unresolved(list(met_by), 3)
        hubs = self.graph.cut(_distinct(node for pair in still for node in around[met_by[pair]]), options.cap)
        source.expansions({"in": sorted(hubs)}, options.deep_cap)
        if options.max_hops > 3:
            apart = apart if everything else self._unresolved(apart, 3)
            ends = {end for pair in apart for end in pair if len(around[end]) <= FRONTIER_LIMIT}
            nodes = sorted(set().union(*(around[end] for end in ends)))
            source.expansions({"out": nodes, "in": nodes}, options.cap)

    def _unresolved(self, pairs: Sequence[Pair], hops: int) -> list[Pair]:
        if not pairs:
            return []
        found = distances(search(self.graph, pairs, hops, limit=1))
        return [pair for pair, distance in zip(pairs, found.tolist(), strict=True) if not distance]

    def _fetch_literals(self, wants: Sequence[Want], source: Source) -> None:
        asked = [(i, entity) for i, want in enumerate(wants) if want.matches for entity in want.sources]
        if self.options.max_hops < LITERAL_HOPS or not asked:
            return
        near = {(position, entity) for position, entity, _p, _o in self.candidates.literals(asked, wants)}
        far = _distinct(entity for i, entity in asked if (i, entity) not in near)
        # What points at a hub that was cut is not all known; what it points at is.
        cut = self.graph.cut(far, self.options.cap)
        around = neighbours(self.graph, [one for one in far if one not in cut])
        around |= neighbours(self.graph, sorted(cut), outgoing=True)
        source.expansions({"out": sorted(set().union(*around.values()))}, self.options.cap)


def _kept(paths: Sequence[Path], want: Want, most: int) -> list[Path]:
    """The first paths of a ranking. Of a yes/no question first what joins its entities, then their own values."""
    if not want.boolean:
        return top(paths, most)
    joining = top([path for path in paths if path.kind != "literal"], 1)
    chosen = set(map(id, joining))
    return [*joining, *[path for path in paths if id(path) not in chosen][: max(0, most - len(joining))]]


def _kind(path: Path, want: Want, literal: bool) -> PathKind:
    if literal:
        return "literal"
    if want.boolean:
        return "between"
    return "joint" if set(middle_nodes(path)).intersection(want.sources) else "pair"


def _names(path: Path) -> Iterator[str]:
    for triple in path.triples:
        yield from (triple.subject, triple.predicate)
        if not triple.literal:
            yield triple.object


def _names_in(details: Iterable[Detail]) -> Iterator[str]:
    for detail in details:
        if detail.unit is not None:
            yield detail.unit
        for qualifier, value, literal in detail.qualifiers:
            yield qualifier
            if not literal:
                yield value


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
