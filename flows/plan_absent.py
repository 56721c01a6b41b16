"""A plan before a study's data is here: what stands in for the question sets, the graph and the table of ids that are missing.

A public benchmark that was not fetched counts with the published number of its questions; of a graph that is not loaded no path
has landed. A run of the study is refused until all of it is there; these orders are good for a plan alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from eval.benchmarks.registry import data_folder, local_file, shipped
from flows.orders import Orders
from flows.parameters import Retrieve
from flows.retrieval_parameters import STARTER, QuestionSet
from kg.graphs import is_named
from store.home import Home
from store.types import Answer, Question

_TABLE = "docs/retrieval.md says how it is made; or leave retrieve.mid_map out"
_TEXT = "about as long as the questions of the six benchmarks are on average"


class Absent(NamedTuple):
    """Something that a run needs and that is not here, with what is counted instead, and the mend."""

    what: str
    mend: str


class PlanningOrders(Orders):
    """Orders that stand in for missing data, and keep what they stood in for."""

    def __init__(self, parameters: Retrieve, home: Home) -> None:
        super().__init__(parameters, home)
        self._absent: dict[str, str] = {}

    @property
    def absent(self) -> tuple[Absent, ...]:
        """What was asked for and is not here, in that order."""
        return tuple(Absent(what, mend) for what, mend in self._absent.items())

    def questions(self, chosen: QuestionSet) -> tuple[Question, ...]:
        """The questions of a set, or as many made-up ones as are published."""
        number = _published(chosen)
        if number is None:
            return super().questions(chosen)
        asked = min(number, chosen.limit or number)
        part = "the" if asked == number else f"{asked:,} of the"
        self._absent[
            f"{chosen.dataset}-{chosen.split}, counted with {part} {number:,} questions that are published"
        ] = f"factscale data get {chosen.dataset} --split {chosen.split}"
        return self._once(("stand-ins", chosen.model_dump_json()), lambda: _stand_ins(chosen, asked))

    def _snapshot(self, graph: str) -> str:
        if graph == STARTER or is_named(graph, self.home.kg):
            return super()._snapshot(graph)
        self._absent[f"graph {graph!r}, so all paths count as missing"] = f"factscale kg load FILES --name {graph}"
        return "not loaded"

    def _mids(self, table: Path) -> str:
        if table.is_file():
            return super()._mids(table)
        self._absent[f"the table of Freebase ids {table}, so all paths count as missing"] = _TABLE
        return "not there"


def _published(chosen: QuestionSet) -> int | None:
    """How many questions are published of a set that was not fetched; None where it is here, or no such number is known."""
    if chosen.path is not None or chosen.custom is not None:
        return None
    entry = shipped().find(chosen.dataset)
    part = None if entry is None else next((one for one in entry.splits if one.split == chosen.split), None)
    if part is None or local_file(chosen.dataset, part, data_folder()) is not None:
        return None
    return part.published


def _stand_ins(chosen: QuestionSet, number: int) -> tuple[Question, ...]:
    return tuple(
        Question(
            id=f"stand-in-{place}",
            dataset=chosen.dataset,
            split=chosen.split,
            text=f"{_TEXT} {place}",
            answers=(Answer(text="an answer"),),
        )
        for place in range(number)
    )
