"""A graph snapshot in the store: what was fetched of it before, and where more comes from.

An entity's neighbourhood is fetched once per snapshot and cap, whatever question, dataset or study asks for it; so are
labels, degrees and full statements. What is fetched is landed before it is used.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kg.endpoint import Endpoint, RequestRecord, is_local
from kg.fetching import Fetcher, Purpose
from kg.graph import Graph
from kg.graphs import STARTER, graph_named, serve_graph
from kg.neighbourhoods import BATCHES, Direction, Expansion
from kg.pacing import LOCAL, PUBLIC, Limits
from kg.starter import snapshot as starter_snapshot
from store.connection import Store
from store.home import Home
from store.types import Detail, Frozen, Triple

LOCAL_IN_FLIGHT = 4
PUBLIC_BATCHES: Mapping[Direction, int] = {"out": 200, "in": 50}


class Source(Frozen):
    """Where facts come from: a ``url``, or, without one, the loaded ``graph`` of that name, served on this machine.

    ``snapshot`` names the content, for keys. ``in_flight`` and ``rate`` (requests a second) are for the host; None: the
    defaults of :mod:`kg.pacing`.
    """

    graph: str = STARTER
    url: str | None = None
    snapshot: str
    user_agent: str | None = None
    in_flight: int | None = None
    rate: float | None = None

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine."""
        return self.url is None or is_local(self.url)

    @property
    def limits(self) -> Limits | None:
        """What the host may be asked for, where a person has said so."""
        if self.in_flight is None and self.rate is None:
            return None
        base = LOCAL if self.is_local else PUBLIC
        return base.model_copy(update={"in_flight": self.in_flight or base.in_flight, "rate": self.rate or base.rate})

    def remote(self, **options: Any) -> Endpoint:
        """The endpoint of the ``url``; nothing is sent. Raises InputError for a URL or user agent that its host would refuse."""
        return Endpoint(
            self.url or "", snapshot=self.snapshot, user_agent=self.user_agent, limits=self.limits, **options
        )

    @property
    def batches(self) -> Mapping[Direction, int]:
        """Entities a request at most: somebody else's server has limits that only a failed request tells."""
        return PUBLIC_BATCHES if self.url else BATCHES

    @property
    def at_a_time(self) -> int:
        """Requests that are worth having under way together."""
        return self.in_flight or (LOCAL_IN_FLIGHT if self.is_local else PUBLIC.in_flight)


def snapshot_named(graph: str, home: Home) -> str:
    """The content hash of a loaded graph, or of the starter slice. Raises InputError if there is none of that name."""
    return starter_snapshot() if graph == STARTER else graph_named(graph, home.kg).snapshot


@contextmanager
def open_endpoint(
    source: Source, home: Home, on_request: Callable[[RequestRecord], None] | None = None
) -> Iterator[Endpoint]:
    """The SPARQL endpoint of a source; a loaded graph is served by a server that ends with the block."""
    if source.url is not None:
        yield source.remote(on_request=on_request)
        return
    with serve_graph(source.graph, home.kg) as url:
        yield Endpoint(url, snapshot=source.snapshot, limits=source.limits, on_request=on_request, timeout=300)


def probe(source: Source) -> None:
    """Ask a remote endpoint one small question, so that a dead one is told at once. Raises RunError, or InputError."""
    if source.url is not None:
        source.remote(attempts=2).select("SELECT (1 AS ?one) WHERE {}")


class RequestLog:
    """Requests of one purpose on their way into the store; landed together with what they brought."""

    def __init__(self, store: Store, snapshot: str, purpose: Callable[[], str]) -> None:
        self._store, self._snapshot, self._purpose = store, snapshot, purpose
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def __call__(self, record: RequestRecord) -> None:
        """Note one request; given to an endpoint as ``on_request``."""
        fields = record._asdict()
        fields["row_count"] = fields.pop("rows")
        row = {"request_id": uuid.uuid4().hex, "snapshot": self._snapshot, "purpose": self._purpose(), **fields}
        with self._lock:
            self._rows.append(row)

    def taken(self) -> list[dict[str, Any]]:
        """The rows not landed yet, for a landing that takes them along."""
        with self._lock:
            rows, self._rows = self._rows, []
        return rows

    def flush(self) -> None:
        """Land what is left: requests that brought nothing, or failed."""
        self._store.land({"endpoint_requests": self.taken()})


class StoreLanding:
    """A :class:`kg.fetching.Landing` in the store."""

    def __init__(self, store: Store, snapshot: str, log: RequestLog) -> None:
        self._store, self._snapshot, self._log = store, snapshot, log

    def expansions(self, batch: Sequence[Expansion], cap: int) -> None:
        """Land edges and the neighbourhoods that they are of, in one transaction."""
        edges = [{"snapshot": self._snapshot, **triple._asdict()} for one in batch for triple in one.triples]
        known = [
            {
                "snapshot": self._snapshot,
                "entity": one.entity,
                "direction": one.direction,
                "cap": cap,
                "edges": len(one.triples),
                "truncated": one.truncated,
            }
            for one in batch
        ]
        self._land({"edges": edges, "expansions": known})

    def labels(self, asked: Collection[str], found: Mapping[str, str]) -> None:
        """Land labels, and which ids have none."""
        without = [{"snapshot": self._snapshot, "id": one} for one in asked if one not in found]
        named = [{"snapshot": self._snapshot, "id": one, "label": label} for one, label in found.items()]
        self._land({"labels": named, "unlabelled": without})

    def degrees(self, found: Mapping[str, int], cap: int) -> None:
        """Land degrees."""
        rows = [{"snapshot": self._snapshot, "entity": e, "cap": cap, "degree": n} for e, n in found.items()]
        self._land({"degrees": rows})

    def details(self, asked: Collection[Triple], found: Mapping[Triple, Sequence[Detail]]) -> None:
        """Land full statements, and which triples have none."""
        rows = [
            {"snapshot": self._snapshot, **triple._asdict(), "details": json.dumps(found.get(triple, ()))}
            for triple in asked
        ]
        self._land({"statements": rows})

    def _land(self, tables: dict[str, list[dict[str, Any]]]) -> None:
        self._store.land({**tables, "endpoint_requests": self._log.taken()})


@contextmanager
def open_fetcher(
    source: Source, home: Home, graph: Graph, *, statements: bool = True, purpose: Purpose | None = None
) -> Iterator[Fetcher]:
    """A fetcher into a graph and the store, with its requests logged; its endpoint is served as long as the block lasts."""
    log = RequestLog(home.store, source.snapshot, lambda: fetcher.purpose)
    with open_endpoint(source, home, log) as endpoint:
        fetcher = Fetcher(
            endpoint,
            graph,
            StoreLanding(home.store, source.snapshot, log),
            in_flight=source.at_a_time,
            batches=source.batches,
            statements=statements,
            purpose=purpose,
        )
        try:
            yield fetcher
        finally:
            log.flush()


def load_graph(store: Store, snapshot: str, cap: int) -> Graph:
    """Everything that is known of a snapshot, with degrees counted up to this cap."""
    graph = Graph()
    graph.load(
        edges=store.arrow("SELECT subject, predicate, object, literal FROM edges WHERE snapshot = ?", [snapshot]),
        known=store.arrow("SELECT entity, direction, cap, truncated FROM expansions WHERE snapshot = ?", [snapshot]),
    )
    without = store.query("SELECT id FROM unlabelled WHERE snapshot = ?", [snapshot])
    graph.learn(labels=load_labels(store, snapshot), named=[row["id"] for row in without])
    rows = store.query("SELECT entity, degree FROM degrees WHERE snapshot = ? AND cap = ?", [snapshot, cap])
    graph.learn(degrees={row["entity"]: row["degree"] for row in rows})
    known = load_details(store, snapshot)
    graph.learn(details={triple: some for triple, some in known.items() if some}, detailed=known)
    return graph


def load_labels(store: Store, snapshot: str) -> dict[str, str]:
    """English labels of the snapshot's entities and properties."""
    return {r["id"]: r["label"] for r in store.query("SELECT id, label FROM labels WHERE snapshot = ?", [snapshot])}


def load_details(store: Store, snapshot: str) -> dict[Triple, tuple[Detail, ...]]:
    """Full statements by triple; empty for a triple that has none."""
    rows = store.query(
        "SELECT subject, predicate, object, literal, details FROM statements WHERE snapshot = ?", [snapshot]
    )
    return {
        Triple(row["subject"], row["predicate"], row["object"], row["literal"]): tuple(
            Detail(tuple((name, value, literal) for name, value, literal in qualifiers), precision, unit)
            for qualifiers, precision, unit in json.loads(row["details"])
        )
        for row in rows
    }
