"""An honest proxy before a real SPARQL endpoint: it keeps what was asked, and can be slow."""

from __future__ import annotations

import re
import time

from fault_server import FaultProxy, Misbehaviour, Reply

from kg.neighbourhoods import Direction

_IN = re.compile(r'SELECT \("(Q\d+)" AS \?e\) \?r \?o .*? LIMIT (\d+)')
_OUT = re.compile(r"VALUES \?s \{ ([^}]*)\}\s+\?s \?r \?o ")

Asked = tuple[str, Direction, int]  # entity, direction, cap


class Relay(FaultProxy):
    """Gives the answers of the endpoint at ``target``, each ``delay`` seconds after it was asked for."""

    def __init__(self, target: str, delay: float = 0.0) -> None:
        self._delay = delay
        super().__init__(target, seed=0, slow=0)

    def answer(self, query: str) -> Reply | Misbehaviour:
        time.sleep(self._delay)
        return self._spoilt("", query)

    @property
    def queries(self) -> list[str]:
        """What was asked so far, in order."""
        return [query for _headers, query in self.requests]


def expansions_of(query: str, cap: int) -> list[Asked]:
    """The neighbourhoods that a query asks for; none if it asks for something else. Out-edges stand under ``cap``."""
    out: Direction = "out"
    found = [(entity.removeprefix("wd:"), out, cap) for some in _OUT.findall(query) for entity in some.split()]
    return [*found, *((entity, "in", int(limit) - 1) for entity, limit in _IN.findall(query))]
