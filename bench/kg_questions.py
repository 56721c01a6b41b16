"""The questions that retrieval is measured on: public benchmarks whose entities and answers are linked to the extract.

A linked question with 3 entities and 3 answers makes 9 pairs at most. Samples are drawn by a hash of the question's id,
so that they are the same on every machine and stay the same when sets are added.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from itertools import product, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from bench.kg_exact import ExactGraph
from store.types import InputError, digest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FACTS = ("kg/wikidata_extract.nt.gz", "kg/wikidata_literals.nt.gz")
SETS = ("mintaka_test", "webqsp_test", "cwq_test", "exaqt_test")
MOST_ENDS = 3  # entities, and answers, of one question


class Linked(NamedTuple):
    """A question with its linked entities and answers, all of them in the graph."""

    id: str
    dataset: str
    text: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each entity of the question with each answer, but none with itself."""
        return [(source, target) for source, target in product(self.sources, self.targets) if source != target]


def facts(folder: Path = DATA) -> list[Path]:
    """The extract's N-Triples files. Raises InputError, which says where they were looked for, if one is missing."""
    files = [folder / name for name in FACTS]
    for file in files:
        if not file.is_file():
            raise InputError(f"the real data is not here: no file {file}; give the folder that holds it by --data")
    return files


def read_json(file: Path) -> Any:
    """The content of a gzip JSON file. Raises InputError if it is missing."""
    return json.loads(read_text(file))


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a gzip file with a JSON object a line. Raises InputError if it is missing."""
    return (json.loads(line) for line in read_text(file).splitlines())


def read_text(file: Path) -> str:
    """The text of a gzip file. Raises InputError if it is missing."""
    if not file.is_file():
        raise InputError(f"the real data is not here: no file {file}; give the folder that holds it by --data")
    return gzip.decompress(file.read_bytes()).decode()


def linked(name: str, graph: ExactGraph, folder: Path = DATA) -> list[Linked]:
    """The questions of one set that have at least one pair in the graph, by id. Raises InputError if it is missing."""
    found = []
    for record in read_lines(folder / "linked" / f"{name}.jsonl.gz"):
        ends = [
            tuple([one for one in dict.fromkeys(record[field]) if one in graph][:MOST_ENDS])
            for field in ("linked_question_qids", "linked_answer_qids")
        ]
        one = Linked(record["id"], record["dataset"], record["question"], *ends)
        if one.pairs:
            found.append(one)
    return sorted(found, key=lambda one: one.id)


def sample(sets: Sequence[Sequence[Linked]], pairs: int) -> list[Linked]:
    """Questions of all sets in turn until they make this many distinct pairs (or all are taken), in the order of a hash."""
    drawn = [sorted(some, key=lambda one: digest([one.dataset, one.id])) for some in sets]
    chosen: list[Linked] = []
    distinct: set[tuple[str, str]] = set()
    for turn in zip_longest(*drawn):
        for one in turn:
            if len(distinct) >= pairs:
                return chosen
            if one is not None:
                chosen.append(one)
                distinct.update(one.pairs)
    return chosen


def distinct_pairs(questions: Sequence[Linked]) -> list[tuple[str, str]]:
    """The pairs of all questions, each once, in their order."""
    return list(dict.fromkeys(pair for one in questions for pair in one.pairs))


def wrong_answers(questions: Sequence[Linked], graph: ExactGraph, pool: Collection[str]) -> list[tuple[str, str]]:
    """For each pair of each question the same entity with a wrong answer: the one of ``pool`` nearest to the right one in degree.

    Neither an answer nor an entity of the question is taken. The pairs are distinct, in the order of the questions.
    """
    ordered = sorted(pool, key=lambda one: (graph.degree(one), digest(one)))
    degrees = [graph.degree(one) for one in ordered]
    found: dict[tuple[str, str], None] = {}
    for question in questions:
        taken = {*question.sources, *question.targets}
        for source, target in question.pairs:
            # The place within a run of equal degrees is drawn by the question, or all would get the same wrong answer.
            degree = graph.degree(target)
            first, last = bisect_left(degrees, degree), bisect_left(degrees, degree + 1)
            start = first + int(digest([question.id, target], 8), 16) % max(1, last - first)
            near = sorted(
                range(max(0, start - 20), min(len(ordered), start + 20)), key=lambda i: abs(degrees[i] - degree)
            )
            wrong = next((ordered[i] for i in near if ordered[i] not in taken), None)
            if wrong is not None:
                found[source, wrong] = None
    return list(found)
