"""Shortest paths between the entities of a question and its answers, over neighbourhoods that are already fetched.

The policy is the one of the fs1 study (arXiv 2505.11140): for each question entity and each target apart, paths of 1 hop;
if there is none, of 2; else of 3. A walk may follow a statement backwards, but the statement keeps its true direction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import combinations, islice, pairwise, product
from typing import Literal

from kg.neighbourhoods import Direction, Graph
from store.types import InputError, Path, Triple

SEARCH_VERSION = "1"
MOST_HOPS = 3
PATH_LIMIT = 5000  # paths of one pair: two hubs can have more than memory should hold

Policy = Literal["minimal", "all"]
_ISO_DAY = re.compile(r"(-?\d{4,})-(\d\d)-(\d\d)")
_ISO_PREFIX = re.compile(r"-?\d{4,}(?:-\d\d(?:-\d\d)?)?")


def frontier(
    graph: Graph,
    question_entities: Sequence[str],
    targets: Sequence[str],
    max_hops: int = MOST_HOPS,
    max_degree: int | None = None,
) -> dict[Direction, set[str]]:
    """Neighbourhoods still missing before this question can be searched up to ``max_hops``; empty sets when none is.

    Asked again after each fetch. First both directions of all ends, which decide 1 and 2 hops; then, for pairs that are
    further apart only, the out-edges of both frontiers, which decide 3. No targets (or the only question entity as its
    own target) mean that the answer is a literal: the out-edges of all neighbours are wanted, which decide literals at
    2 hops. Nodes with more than ``max_degree`` known statements are not expanded through: that loses paths through hubs
    and only those. Search is then exact, but for ends whose in-edges were truncated.
    """
    _check_hops(max_hops)
    ends = dict.fromkeys((*question_entities, *targets))
    missing: dict[Direction, set[str]] = {
        "out": {end for end in ends if not graph.has(end, "out")},
        "in": {end for end in ends if max_hops > 1 and not graph.has(end, "in")},
    }
    if missing["out"] or missing["in"]:
        return missing
    through: set[str] = set()
    if len(ends) == 1 or not targets:
        through = set(question_entities) if max_hops > 1 else set()
    elif max_hops > 2:
        for source, target in product(question_entities, targets):
            if source != target and not any(_walks(graph, source, target, hops) for hops in (1, 2)):
                through |= {source, target}
    for end in through:
        missing["out"] |= {
            node
            for node in graph.neighbours(end)
            if not graph.has(node, "out") and (max_degree is None or graph.degree(node) <= max_degree)
        }
    return missing


def search(
    graph: Graph,
    sources: Sequence[str],
    targets: Sequence[str],
    max_hops: int = MOST_HOPS,
    policy: Policy = "minimal",
    limit: int = PATH_LIMIT,
) -> list[Path]:
    """Simple paths of each source to each target, pair by pair, shorter ones first, then by their statements.

    ``minimal``: all paths of the least number of hops; ``all``: of every number of hops up to ``max_hops`` (1 to 3).
    Each parallel statement makes a path of its own, so do the two directions of a mutual relation. ``limit`` bounds the
    paths of one pair. An entity that is source and target makes no pair. Raises InputError for other ``max_hops``.
    """
    _check_hops(max_hops)
    found: list[Path] = []
    for source, target in product(dict.fromkeys(sources), dict.fromkeys(targets)):
        if source != target:
            walks = _by_length(partial(_walks, graph, source, target), max_hops, policy)
            found += [Path(source=source, target=target, triples=walk) for walk in islice(walks, limit)]
    return found


def literal_paths(
    graph: Graph,
    sources: Sequence[str],
    values: Sequence[str],
    max_hops: int = 2,
    matches: Callable[[str, str], bool] | None = None,
    limit: int = PATH_LIMIT,
) -> list[Path]:
    """Paths of the least number of hops from each source to a literal that equals one of the gold ``values``.

    ``matches(literal, value)`` says what is equal; by default :func:`same_value`. The target of a path is the literal's
    text. ``frontier`` without targets fetches what makes this exact up to 2 hops. Raises InputError as ``search`` does.
    """
    _check_hops(max_hops)
    equal = matches or same_value
    judged: dict[str, bool] = {}

    def wanted(literal: str) -> bool:
        if literal not in judged:
            judged[literal] = any(equal(literal, value) for value in values)
        return judged[literal]

    found: list[Path] = []
    for source in dict.fromkeys(sources):
        walks = _by_length(partial(_literal_walks, graph, source, wanted), max_hops, "minimal")
        found += [Path(source=source, target=walk[-1].object, triples=walk) for walk in islice(walks, limit)]
    return found


def joint_paths(
    graph: Graph,
    entities: Sequence[str],
    max_hops: int = MOST_HOPS,
    limit: int = PATH_LIMIT,
    literal_limit: int = 20,
) -> list[Path]:
    """What a yes/no question can be judged by: paths of the least number of hops between its entities, in their order.

    A comparison (who is older, what is higher) needs no path but values: each entity's own dates and numbers follow as
    paths of 1 hop, at most ``literal_limit`` of each. Raises InputError as ``search`` does.
    """
    distinct = list(dict.fromkeys(entities))
    found = [path for a, b in combinations(distinct, 2) for path in search(graph, [a], [b], max_hops, limit=limit)]
    for entity in distinct:
        own = sorted(graph.literals(entity))[:literal_limit]
        found += [Path(source=entity, target=triple.object, triples=(triple,)) for triple in own]
    return found


def same_value(literal: str, value: str) -> bool:
    """Whether a literal of the graph says ``value``: the same text, the same number, or a date to value's precision."""
    if literal == value:
        return True
    day = _ISO_DAY.fullmatch(literal)
    if day is not None:
        return bool(_ISO_PREFIX.fullmatch(value)) and f"{literal}-".startswith(f"{value}-")
    try:
        return Decimal(literal) == Decimal(value.replace(",", "").strip())
    except InvalidOperation:
        return False


def _check_hops(max_hops: int) -> None:
    if not 1 <= max_hops <= MOST_HOPS:
        raise InputError(f"max_hops {max_hops} is not supported: set it to 1, 2 or 3")


def _by_length(
    walks: Callable[[int], Iterable[tuple[Triple, ...]]], max_hops: int, policy: Policy
) -> Iterator[tuple[Triple, ...]]:
    """Walks by number of hops; under the minimal policy those of the first number that has any."""
    for hops in range(1, max_hops + 1):
        some = False
        for walk in walks(hops):
            some = True
            yield walk
        if some and policy == "minimal":
            return


def _walks(graph: Graph, source: str, target: str, hops: int) -> list[tuple[Triple, ...]]:
    """All simple paths of exactly this many hops (0 to 3) from source to target, each as its statements, sorted."""
    found: list[tuple[Triple, ...]] = []
    for nodes in _node_walks(graph, source, target, hops):
        found += product(*(graph.neighbours(a)[b] for a, b in pairwise(nodes)))
    return sorted(found)


def _node_walks(graph: Graph, source: str, target: str, hops: int) -> Iterator[tuple[str, ...]]:
    near, far, ends = graph.neighbours(source), graph.neighbours(target), {source, target}
    if hops == 0 and source == target:
        yield (source,)
    elif hops == 1 and source != target and target in near:
        yield source, target
    elif hops == 2 and source != target:
        yield from ((source, middle, target) for middle in (near.keys() & far.keys()) - ends)
    elif hops == 3 and source != target:
        # From the end with fewer neighbours: the other may be a hub.
        turned = len(far) < len(near)
        first, last = (far, near) if turned else (near, far)
        for a in first.keys() - ends:
            for b in (graph.neighbours(a).keys() & last.keys()) - ends - {a}:
                yield (source, b, a, target) if turned else (source, a, b, target)


def _literal_walks(graph: Graph, source: str, wanted: Callable[[str], bool], hops: int) -> Iterator[tuple[Triple, ...]]:
    """Simple paths of this many hops from source that end in a wanted literal."""
    nodes = {source}
    for _step in range(hops - 1):
        nodes = {following for node in nodes for following in graph.neighbours(node)}
    for node in sorted(nodes):
        ends = sorted(triple for triple in graph.literals(node) if wanted(triple.object))
        if ends:
            yield from ((*walk, end) for walk in _walks(graph, source, node, hops - 1) for end in ends)
