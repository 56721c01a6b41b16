"""What is known of one graph snapshot: its fetched edges in an in-memory DuckDB, and names, degrees and details beside.

Items and properties stand in the database as the integers of their ids (Q42 is 42), so that joins are joins of integers.
Parallel statements stay apart, literals are never nodes, and no statement is there twice.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing

import duckdb
import numpy as np
import pyarrow as pa

from kg.neighbourhoods import Direction, Expansion
from store.types import Detail, Triple

_SCHEMA = """
CREATE TABLE edges (s INTEGER, p INTEGER, o INTEGER);
CREATE TABLE literals (s INTEGER, p INTEGER, o VARCHAR);
CREATE TABLE known (node INTEGER, incoming BOOLEAN, cap INTEGER, truncated BOOLEAN);
CREATE TABLE adjacent (node INTEGER, next INTEGER, step INTEGER);
"""

# A step is a statement as a walk takes it: its property and, in the last bit, whether it is walked forward. Repeats are
# removed here and not at each insertion, which would read the whole table each time.
_REFRESH = """
CREATE OR REPLACE TABLE edges AS SELECT DISTINCT * FROM edges;
CREATE OR REPLACE TABLE literals AS SELECT DISTINCT * FROM literals;
CREATE OR REPLACE TABLE adjacent AS
SELECT s AS node, o AS next, 2 * p + 1 AS step FROM edges WHERE s <> o
UNION ALL SELECT o, s, 2 * p FROM edges WHERE s <> o
"""


class Graph:
    """Edges and what is known about nodes; may be read by several threads, each on a :meth:`cursor` of its own.

    ``labels`` holds English labels of items and properties, ``degrees`` the number of statements about an item (counted
    up to a cap), ``details`` what full statements say of triples; ``named`` and ``detailed`` what was asked for, found
    or not. ``threads`` bounds the threads of the database.
    """

    def __init__(self, expansions: Iterable[Expansion] = (), *, cap: int = 500, threads: int | None = None) -> None:
        self._db = duckdb.connect(":memory:", config={"threads": threads} if threads else {})
        self._db.execute(_SCHEMA)
        self._lock = threading.RLock()
        self._stale = False
        self.labels: dict[str, str] = {}
        self.degrees: dict[str, int] = {}
        self.details: dict[Triple, tuple[Detail, ...]] = {}
        self.named: set[str] = set()
        self.detailed: set[Triple] = set()
        self.add(expansions, cap)

    def add(self, expansions: Iterable[Expansion], cap: int) -> None:
        """Add neighbourhoods that were fetched with this cap; statements that are there already are not doubled."""
        some = list(expansions)
        triples = list(dict.fromkeys(triple for one in some for triple in one.triples))
        self.load(
            edges=pa.table(
                {
                    "subject": pa.array([t.subject for t in triples], pa.string()),
                    "predicate": pa.array([t.predicate for t in triples], pa.string()),
                    "object": pa.array([t.object for t in triples], pa.string()),
                    "literal": pa.array([t.literal for t in triples], pa.bool_()),
                }
            ),
            known=pa.table(
                {
                    "entity": pa.array([one.entity for one in some], pa.string()),
                    "direction": pa.array([one.direction for one in some], pa.string()),
                    "cap": pa.array([cap] * len(some), pa.int32()),
                    "truncated": pa.array([one.truncated for one in some], pa.bool_()),
                }
            ),
        )

    def load(self, *, edges: pa.Table, known: pa.Table) -> None:
        """Add edges (subject, predicate, object, literal) and their neighbourhoods (entity, direction, cap, truncated)."""
        if not edges.num_rows and not known.num_rows:
            return
        with self._lock, closing(self._db.cursor()) as db:
            db.register("new_edges", edges)
            db.register("new_known", known)
            db.execute(
                "INSERT INTO edges SELECT subject[2:]::INTEGER, predicate[2:]::INTEGER, object[2:]::INTEGER "
                "FROM new_edges WHERE NOT literal"
            )
            db.execute(
                "INSERT INTO literals SELECT subject[2:]::INTEGER, predicate[2:]::INTEGER, object FROM new_edges WHERE literal"
            )
            db.execute("INSERT INTO known SELECT entity[2:]::INTEGER, direction = 'in', cap, truncated FROM new_known")
            self._stale = True

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for one thread, to be closed by it: tables ``adjacent`` (node, next, step), ``literals``, ``known``."""
        with self._lock:
            if self._stale:
                self._db.execute(_REFRESH)
                self._stale = False
            return self._db.cursor()

    def known(self, direction: Direction, entities: Collection[str], cap: int) -> set[str]:
        """Those of the entities whose neighbourhood is here: whole, or cut at this cap or a larger one."""
        asked = pa.table({"node": np.asarray([int(one[1:]) for one in entities], dtype=np.int32)})
        with self._lock, closing(self._db.cursor()) as db:
            db.register("asked", asked)
            rows = db.execute(
                "SELECT node FROM asked SEMI JOIN (SELECT node FROM known WHERE incoming = $incoming "
                "AND (NOT $incoming OR NOT truncated OR cap >= $cap)) USING (node)",
                {"incoming": direction == "in", "cap": cap},
            ).fetchall()
        return {f"Q{row[0]}" for row in rows}

    def cut(self, entities: Collection[str], cap: int) -> set[str]:
        """Those of the entities with more in-edges than this cap, as far as a fetch with it or a larger one has told."""
        asked = pa.table({"node": np.asarray([int(one[1:]) for one in entities], dtype=np.int32)})
        with self._lock, closing(self._db.cursor()) as db:
            db.register("asked", asked)
            rows = db.execute(
                "SELECT node FROM asked SEMI JOIN "
                "(SELECT node FROM known WHERE incoming AND truncated AND cap >= $cap) USING (node)",
                {"cap": cap},
            ).fetchall()
        return {f"Q{row[0]}" for row in rows}

    def size(self) -> tuple[int, int]:
        """Number of statements between items, and of literal ones."""
        with closing(self.cursor()) as db:
            row = db.execute("SELECT (SELECT count(*) FROM edges), (SELECT count(*) FROM literals)").fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    def properties(self) -> list[str]:
        """Every property of a known statement."""
        with closing(self.cursor()) as db:
            rows = db.execute(
                "SELECT DISTINCT p FROM (SELECT p FROM edges UNION ALL SELECT p FROM literals)"
            ).fetchall()
        return sorted(f"P{row[0]}" for row in rows)

    def name(self, one: str) -> str:
        """The English label of an item or property, or its id."""
        return self.labels.get(one, one)

    def learn(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        named: Iterable[str] = (),
        degrees: Mapping[str, int] | None = None,
        details: Mapping[Triple, Sequence[Detail]] | None = None,
        detailed: Iterable[Triple] = (),
    ) -> None:
        """Add what was learnt about nodes and statements; ``named`` and ``detailed`` say what was asked for."""
        with self._lock:
            self.labels |= labels or {}
            self.named |= {*named, *(labels or {})}
            self.degrees |= degrees or {}
            self.details |= {triple: tuple(some) for triple, some in (details or {}).items()}
            self.detailed |= {*detailed, *(details or {})}
