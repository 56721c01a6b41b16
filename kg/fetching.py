"""Fetching for retrieval: from an endpoint into a graph, each thing once, and landed where a caller keeps it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, TypeVar

from kg.collector import Neighbourhoods
from kg.endpoint import Endpoint
from kg.graph import Graph
from kg.neighbourhoods import BATCHES, Direction, Expansion, degrees, labels
from kg.properties import common_labels
from kg.statements import details
from store.types import Detail, Triple

Purpose = Literal["neighbourhoods", "labels", "degrees", "statements", "control", "linking"]
T = TypeVar("T")

DEFAULT_CAP = 500  # for which the batches of kg.neighbourhoods are meant: with a larger one fewer entities a request
LANDED_TOGETHER = 5000  # labels, degrees or statements between two landings


class Landing(Protocol):
    """Where what was fetched is kept. Each call comes before the graph knows it, so that nothing is known but not kept."""

    def expansions(self, batch: Sequence[Expansion], cap: int) -> None:
        """Keep neighbourhoods that were fetched with this cap."""

    def labels(self, asked: Collection[str], found: Mapping[str, str]) -> None:
        """Keep labels; ids that were asked for and are not in ``found`` have none."""

    def degrees(self, found: Mapping[str, int], cap: int) -> None:
        """Keep degrees, counted up to cap + 1."""

    def details(self, asked: Collection[Triple], found: Mapping[Triple, Sequence[Detail]]) -> None:
        """Keep full statements; triples that were asked for and are not in ``found`` have none."""


class NoLanding:
    """Keeps nothing."""

    def expansions(self, batch: Sequence[Expansion], cap: int) -> None:
        """Nothing."""

    def labels(self, asked: Collection[str], found: Mapping[str, str]) -> None:
        """Nothing."""

    def degrees(self, found: Mapping[str, int], cap: int) -> None:
        """Nothing."""

    def details(self, asked: Collection[Triple], found: Mapping[Triple, Sequence[Detail]]) -> None:
        """Nothing."""


class Fetcher:
    """A :class:`kg.retrieval.Source` over one endpoint. ``in_flight`` requests run at a time, as far as its host allows.

    ``statements`` False asks for no qualifiers; ``batches`` is the most entities a request. :attr:`purpose` says what is
    being asked for at the moment, or always ``purpose`` where that is given.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        graph: Graph,
        landing: Landing | None = None,
        *,
        in_flight: int = 2,
        statements: bool = True,
        batches: Mapping[Direction, int] = BATCHES,
        purpose: Purpose | None = None,
    ) -> None:
        self.endpoint, self.graph, self.landing = endpoint, graph, landing or NoLanding()
        self._fixed, self.purpose = purpose, purpose or "neighbourhoods"
        self._in_flight, self._statements, self._batches = in_flight, statements, batches
        self._neighbourhoods: dict[int, Neighbourhoods] = {}

    def expansions(self, wanted: Mapping[Direction, Collection[str]], cap: int) -> None:
        """See :class:`kg.retrieval.Source`."""
        with self._asking("neighbourhoods"):
            self._of(cap).fetch({direction: list(entities) for direction, entities in wanted.items()})

    def labels(self, ids: Collection[str]) -> None:
        """See :class:`kg.retrieval.Source`."""
        missing = sorted(set(ids) - self.graph.named)
        if missing:
            with self._asking("labels"):
                for some in _chunks(missing):
                    found = {one: label for one in some if (label := common_labels().get(one)) is not None}
                    found |= labels(self.endpoint, some)
                    self.landing.labels(some, found)
                    self.graph.learn(labels=found, named=some)

    def degrees(self, entities: Collection[str], cap: int) -> None:
        """See :class:`kg.retrieval.Source`."""
        missing = sorted(set(entities) - self.graph.degrees.keys())
        if missing:
            with self._asking("degrees"):
                for some in _chunks(missing):
                    found = degrees(self.endpoint, some, cap)
                    self.landing.degrees(found, cap)
                    self.graph.learn(degrees=found)

    def details(self, triples: Collection[Triple]) -> None:
        """See :class:`kg.retrieval.Source`."""
        missing = sorted(set(triples) - self.graph.detailed) if self._statements else []
        if missing:
            with self._asking("statements"):
                for some in _chunks(missing):
                    found = details(self.endpoint, some)
                    self.landing.details(some, found)
                    self.graph.learn(details=found, detailed=some)

    def _of(self, cap: int) -> Neighbourhoods:
        def land(batch: Sequence[Expansion]) -> None:
            self.landing.expansions(batch, cap)
            self.graph.add(batch, cap)

        if cap not in self._neighbourhoods:
            self._neighbourhoods[cap] = Neighbourhoods(
                self.endpoint,
                cap=cap,
                known=lambda direction, entities: self.graph.known(direction, entities, cap),
                land=land,
                in_flight=self._in_flight,
                batches={**self._batches, "in": max(1, self._batches["in"] * DEFAULT_CAP // max(cap, DEFAULT_CAP))},
            )
        return self._neighbourhoods[cap]

    @contextmanager
    def _asking(self, purpose: Purpose) -> Iterator[None]:
        self.purpose = self._fixed or purpose
        yield


def _chunks(asked: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(asked), LANDED_TOGETHER):
        yield asked[start : start + LANDED_TOGETHER]
