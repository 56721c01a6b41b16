"""The design that most projects use, to measure ours against: a SPARQL query for each pair of entities and each length.

Plain SPARQLWrapper, one query after the other: paths of 1 hop; if there is none, of 2; else of 3. Each step may be walked
either way, so that a query is a UNION over the 2, 4 or 8 combinations of directions.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from SPARQLWrapper import JSON, SPARQLWrapper

from kg.endpoint import valid_id

MOST_HOPS = 3
PATH_LIMIT = 1000

_PREFIXES = "PREFIX wd: <http://www.wikidata.org/entity/>\n"
_ITEM = "http://www.wikidata.org/entity/Q"


class Answer(NamedTuple):
    """What was found for a pair: hops (0: no path within 3), rows (at most the limit), and the queries that this took."""

    hops: int
    paths: int
    requests: int


def ask(url: str, source: str, target: str) -> Answer:
    """The shortest paths of one pair. Raises InputError for ids that are none, and what SPARQLWrapper raises."""
    for hops in range(1, MOST_HOPS + 1):
        wrapper = SPARQLWrapper(url)
        wrapper.setReturnFormat(JSON)
        wrapper.setQuery(path_query(source, target, hops))
        result: Any = wrapper.query().convert()
        if rows := result["results"]["bindings"]:
            return Answer(hops, len(rows), hops)
    return Answer(0, 0, MOST_HOPS)


def path_query(source: str, target: str, hops: int, limit: int = PATH_LIMIT) -> str:
    """The query for the paths of exactly this many hops between two items that no shorter path joins, through items only."""
    nodes = [f"wd:{valid_id(source)}", *(f"?m{place}" for place in range(1, hops)), f"wd:{valid_id(target)}"]
    branches = []
    for ways in product((True, False), repeat=hops):
        steps = []
        for place, forward in enumerate(ways):
            here, there = nodes[place], nodes[place + 1]
            start, end = (here, there) if forward else (there, here)
            steps.append(f"{start} ?p{place + 1} {end} .")
        word = "".join("f" if forward else "b" for forward in ways)
        branches.append(f'{{ {" ".join(steps)} {_filters(nodes)} BIND("{word}" AS ?ways) }}')
    columns = " ".join([*(f"?p{place + 1}" for place in range(hops)), *nodes[1:-1], "?ways"])
    return f"{_PREFIXES}SELECT {columns} WHERE {{ {' UNION '.join(branches)} }} LIMIT {limit}"


def _filters(nodes: list[str]) -> str:
    """Middle nodes are items. No more is tested, to be fair to this design: tests cost the server most of its time.

    All statements between items are direct ones here, and a node can come twice only where a shorter path was found.
    """
    return " ".join(f'FILTER(STRSTARTS(STR({node}), "{_ITEM}"))' for node in nodes[1:-1])
