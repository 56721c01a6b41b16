"""Paths between the entities of a question and its answers, by joins in DuckDB over neighbourhoods already fetched.

The policy is the one of the fs1 study (arXiv 2505.11140): for each question entity and each target apart, paths of 1 hop;
if there is none, of 2; else of 3 (or 4, where asked for). A walk may follow a statement backwards, but the statement keeps
its true direction. All pairs of many questions are searched in one go: DuckDB joins their frontiers set by set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Literal, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kg.graph import Graph
from store.types import InputError, Triple

SEARCH_VERSION = "2"
MOST_HOPS = 4
PATH_LIMIT = 5000  # paths of one pair and length: two hubs can have more than memory should hold
PAIRS_AT_ONCE = {1: 20_000, 2: 4_000, 3: 500, 4: 25}  # so that the joins of one go fit into memory, hubs included

Policy = Literal["minimal", "all"]
Integers = npt.NDArray[np.int32]


class Pair(NamedTuple):
    """A question entity and a target that paths are searched between."""

    source: str
    target: str


class Walks(NamedTuple):
    """Paths of one length, a row each. ``pair`` is the position of the pair; ``nodes`` the middle nodes as integers of
    their ids, shape (n, hops - 1); ``steps`` twice the property's integer, plus 1 where the statement is walked forward,
    shape (n, hops). ``counts``: paths of each pair of this length, also those beyond the limit, shape (pairs,).
    """

    pair: Integers
    nodes: Integers
    steps: Integers
    counts: Integers

    @property
    def hops(self) -> int:
        """Statements of each path."""
        return int(self.steps.shape[1])


def search(
    graph: Graph,
    pairs: Sequence[Pair],
    max_hops: int = 3,
    policy: Policy = "minimal",
    limit: int = PATH_LIMIT,
) -> list[Walks]:
    """Simple paths of each pair, one :class:`Walks` for each length from 1 to ``max_hops`` (1 to 4).

    ``minimal``: all paths of the least number of hops of a pair; ``all``: of every length. Each parallel statement makes
    a path of its own, so do the two directions of a mutual relation. Of a pair with more than ``limit`` paths of one
    length those through the items with the highest numbers are kept, which are rarely hubs. A pair of an entity with
    itself has no path. Rows are in an order that depends on the graph alone. Raises InputError for other ``max_hops``.
    """
    check_hops(max_hops)
    found: list[Walks] = []
    left = np.asarray([i for i, pair in enumerate(pairs) if pair.source != pair.target], dtype=np.int32)
    ends = np.asarray([(number(p.source), number(p.target)) for p in pairs], dtype=np.int32).reshape(-1, 2)
    with closing(graph.cursor()) as db:
        for hops in range(1, max_hops + 1):
            size = PAIRS_AT_ONCE[hops]
            parts = [_walks(db, left[i : i + size], ends, hops, limit) for i in range(0, len(left), size)]
            walks = _joined(parts, hops, len(pairs))
            found.append(walks)
            if policy == "minimal":
                left = left[walks.counts[left] == 0]
    return found


def distances(walks: Sequence[Walks]) -> Integers:
    """Hops of the shortest path of each pair, 0 for none, from what :func:`search` gave. Shape (pairs,)."""
    found = np.zeros_like(walks[0].counts)
    for some in reversed(walks):
        found[some.counts > 0] = some.hops
    return found


def triples_of(walks: Walks, row: int, pair: Pair) -> tuple[Triple, ...]:
    """The statements of one path from the pair's source to its target, each in its true direction."""
    nodes = [pair.source, *(f"Q{node}" for node in walks.nodes[row].tolist()), pair.target]
    found = []
    for position, step in enumerate(walks.steps[row].tolist()):
        here, there = nodes[position], nodes[position + 1]
        start, end = (here, there) if step & 1 else (there, here)
        found.append(Triple(start, f"P{step >> 1}", end))
    return tuple(found)


def neighbours(graph: Graph, entities: Sequence[str], *, outgoing: bool = False) -> dict[str, set[str]]:
    """Known neighbours of each entity, in either direction, or only those that its own statements name (``outgoing``)."""
    found: dict[str, set[str]] = {entity: set() for entity in entities}
    asked = pa.table({"node": np.asarray([number(one) for one in found], dtype=np.int32)})
    with closing(graph.cursor()) as db:
        db.register("asked", asked)
        rows = db.execute(
            "SELECT DISTINCT node, next FROM asked JOIN adjacent USING (node) WHERE NOT $outgoing OR step % 2 = 1",
            {"outgoing": outgoing},
        ).fetchall()
        for node, following in rows:
            found[f"Q{node}"].add(f"Q{following}")
    return found


def number(entity: str) -> int:
    """The integer of an item's id."""
    return int(entity[1:])


def check_hops(max_hops: int) -> None:
    """Raises InputError for a number of hops that is not searched."""
    if not 1 <= max_hops <= MOST_HOPS:
        raise InputError(f"max_hops {max_hops} is not supported: set it to 1, 2, 3 or 4")


def _walks(db: duckdb.DuckDBPyConnection, pairs: Integers, ends: Integers, hops: int, limit: int) -> Walks:
    """Paths of exactly this length of the pairs at these positions."""
    db.register("wanted", pa.table({"pair": pairs, "s": ends[pairs, 0], "t": ends[pairs, 1]}))
    for statement in _JOINS[hops]:
        db.execute(statement)
    middle, steps = [f"m{i}" for i in range(1, hops)], [f"r{i}" for i in range(1, hops + 1)]
    columns = ", ".join(["pair", *middle, *steps])
    most = db.execute("SELECT max(n) FROM (SELECT count(*) AS n FROM walks GROUP BY pair)").fetchone()
    cut = ""
    if most and most[0] is not None and most[0] > limit:
        # What is known of a node's degree grows with the store; that an item with a high number is rarely a hub does not.
        order = ", ".join([*(f"{name} DESC" for name in middle), *steps])
        cut = f"QUALIFY row_number() OVER (PARTITION BY pair ORDER BY {order}) <= {int(limit)}"
    table = db.execute(f"SELECT {columns} FROM walks {cut} ORDER BY {columns}").to_arrow_table()  # noqa: S608
    counted = db.execute("SELECT pair, count(*) FROM walks GROUP BY pair").fetchnumpy()
    counts = np.zeros(len(ends), dtype=np.int32)
    keys = list(counted)
    counts[counted[keys[0]]] = counted[keys[1]]

    def matrix(names: list[str]) -> Integers:
        parts = [table.column(name).to_numpy() for name in names]
        return np.stack(parts, axis=1).astype(np.int32) if parts else np.zeros((table.num_rows, 0), dtype=np.int32)

    return Walks(table.column("pair").to_numpy().astype(np.int32), matrix(middle), matrix(steps), counts)


def _joined(parts: Sequence[Walks], hops: int, pairs: int) -> Walks:
    if not parts:
        none = np.zeros(0, dtype=np.int32)
        return Walks(none, none.reshape(0, hops - 1), none.reshape(0, hops), np.zeros(pairs, dtype=np.int32))
    return Walks(
        np.concatenate([part.pair for part in parts]),
        np.concatenate([part.nodes for part in parts]),
        np.concatenate([part.steps for part in parts]),
        np.sum([part.counts for part in parts], axis=0, dtype=np.int32),
    )


# The step of a walk from the target is turned by flipping its last bit. Relations of the joins below:
#   near, far   the two frontiers (pair, node, step), walked from the source and from the target
#   walks       the result: pair, middle nodes m1.. and steps r1.. from source to target
_FRONTIERS = (
    "CREATE OR REPLACE TEMP TABLE near AS SELECT pair, s, t, next AS node, step FROM wanted JOIN adjacent ON node = s",
    "CREATE OR REPLACE TEMP TABLE far AS SELECT pair, next AS node, xor(step, 1) AS step FROM wanted JOIN adjacent ON node = t",
)

_ONE = (
    "CREATE OR REPLACE TEMP TABLE walks AS SELECT pair, step AS r1 FROM wanted JOIN adjacent ON node = s AND next = t",
)

_TWO = (
    *_FRONTIERS,
    "CREATE OR REPLACE TEMP TABLE walks AS SELECT pair, node AS m1, near.step AS r1, far.step AS r2 "
    "FROM near JOIN far USING (pair, node)",
)

# The middle statements are found from the end whose frontier has the fewer statements around it, since the other may be
# a hub, and only those that meet the other frontier; the parallel statements at both ends are joined to them last.
_THREE = (
    *_FRONTIERS,
    "CREATE OR REPLACE TEMP TABLE sides AS WITH degree AS (SELECT node, count(*) AS n FROM adjacent GROUP BY node), "
    "a AS (SELECT pair, sum(n) AS n FROM near JOIN degree USING (node) GROUP BY pair), "
    "b AS (SELECT pair, sum(n) AS n FROM far JOIN degree USING (node) GROUP BY pair) "
    "SELECT pair, a.n <= b.n AS forward FROM a JOIN b USING (pair)",
    "CREATE OR REPLACE TEMP TABLE middles AS "
    "SELECT DISTINCT n.pair, n.node AS m1, next AS m2, adjacent.step AS r2 "
    "FROM (SELECT DISTINCT pair, node FROM near JOIN sides USING (pair) WHERE forward) n JOIN adjacent USING (node) "
    "SEMI JOIN far ON far.pair = n.pair AND far.node = next "
    "UNION ALL SELECT DISTINCT f.pair, next, f.node, xor(adjacent.step, 1) "
    "FROM (SELECT DISTINCT pair, node FROM far JOIN sides USING (pair) WHERE NOT forward) f JOIN adjacent USING (node) "
    "SEMI JOIN near ON near.pair = f.pair AND near.node = next",
    "CREATE OR REPLACE TEMP TABLE walks AS SELECT near.pair, m1, m2, near.step AS r1, r2, far.step AS r3 "
    "FROM middles JOIN near ON near.pair = middles.pair AND near.node = m1 "
    "JOIN far ON far.pair = middles.pair AND far.node = m2 WHERE m1 <> t AND m2 <> s",
)

_FOUR = (
    *_FRONTIERS,
    "CREATE OR REPLACE TEMP TABLE near2 AS SELECT n.pair, n.node AS m1, next AS m2, adjacent.step AS r2 "
    "FROM (SELECT DISTINCT pair, s, t, node FROM near) n JOIN adjacent USING (node) WHERE next <> s AND next <> t AND node <> t",
    "CREATE OR REPLACE TEMP TABLE far2 AS SELECT f.pair, next AS m2, f.node AS m3, xor(adjacent.step, 1) AS r3 "
    "FROM (SELECT DISTINCT pair, far.node FROM far JOIN wanted USING (pair) WHERE far.node <> s) f JOIN adjacent USING (node) "
    "SEMI JOIN near2 ON near2.pair = f.pair AND near2.m2 = next",
    "CREATE OR REPLACE TEMP TABLE walks AS SELECT near2.pair, m1, near2.m2, m3, near.step AS r1, r2, r3, far.step AS r4 "
    "FROM near2 JOIN far2 ON near2.pair = far2.pair AND near2.m2 = far2.m2 AND m1 <> m3 "
    "JOIN near ON near.pair = near2.pair AND near.node = m1 JOIN far ON far.pair = near2.pair AND far.node = m3",
)

_JOINS = {1: _ONE, 2: _TWO, 3: _THREE, 4: _FOUR}


def rows_by_pair(walks: Walks) -> Iterator[tuple[int, slice]]:
    """Positions of the pairs that have paths, each with its rows, which stand together."""
    bounds = [*np.flatnonzero(np.diff(walks.pair, prepend=-1)).tolist(), len(walks.pair)]
    for start, end in pairwise(bounds):
        yield int(walks.pair[start]), slice(start, end)
