"""What the two designs cost on one local server: requests, the server's CPU, wall time; and what each of them finds.

Each design gets a server process of its own over the same loaded facts, so that none profits from what the other has warmed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path as File
from typing import NamedTuple
from urllib.parse import urlsplit

from bench import kg_naive
from bench.kg_exact import Distance, ExactGraph
from bench.kg_questions import Linked
from kg.candidates import Options, Want
from kg.endpoint import Endpoint
from kg.fetching import Fetcher
from kg.graph import Graph
from kg.linearise import linearise
from kg.neighbourhoods import Expansion
from kg.retrieval import Found, Retriever
from kg.search import Pair, distances, rows_by_pair, search, triples_of
from kg.server import serve
from kg.similarity import Similarity
from store.types import Detail, RunError, Triple

Ends = tuple[str, str]
TICKS = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Requests sent, CPU seconds (user and system) of the server process, seconds on the clock."""

    requests: int
    server_cpu: float
    wall: float


class Naive(NamedTuple):
    """What the naive design cost, and the hops that it found for each pair (0: none)."""

    cost: Cost
    hops: list[int]


class Ours(NamedTuple):
    """What our pipeline cost and found for the same pairs, with their questions.

    ``stages``: requests of each stage; ``warm_requests``: those of a second run on what the first had landed; ``hops`` as
    in :class:`Naive`; ``recall``: for each number of hops, the paths found of those there are; ``pair_recall``: the same,
    as the mean over the pairs; ``solve_cpu``: CPU seconds to search all pairs in what was fetched;
    ``truncated``: ends whose in-edges were cut; ``unlabelled``: printed ids without a label; ``duplicates``: printed lines
    that stand twice in one question; ``lines`` that are printed, of that many ``triples`` of the kept paths.
    """

    cost: Cost
    stages: dict[str, int]
    warm_requests: int
    hops: list[int]
    recall: dict[int, float]
    pair_recall: dict[int, float]
    solve_cpu: float
    found: list[Found]
    truncated: int
    unlabelled: set[str]
    duplicates: int
    lines: int
    triples: int


class Exact(NamedTuple):
    """What exact search found for the pairs, and its CPU seconds (building the arrays not counted)."""

    distances: list[Distance]
    cpu: float


@contextmanager
def served(place: File) -> Iterator[tuple[str, int]]:
    """A server over loaded facts: its query URL and its process id. Linux only, since CPU times are read from /proc."""
    with serve(place) as url:
        yield url, _listener(urlsplit(url).netloc)


def _listener(address: str) -> int:
    """The child of this process that was told to listen there. Raises RunError if there is none."""
    for folder in File("/proc").iterdir():
        try:
            ours = folder.name.isdecimal() and int(_stat(int(folder.name))[1]) == os.getpid()
            if ours and address.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:  # it ended meanwhile
            continue
    raise RunError(f"the server at {address} is not among the children of this process in /proc: Linux is needed")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: state, parent, ... (the second may hold spaces)."""
    return File(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process so far."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def naive(place: File, pairs: Sequence[Ends]) -> Naive:
    """The naive design on all pairs, one after the other."""
    with served(place) as (url, pid):
        cpu, start = cpu_seconds(pid), time.perf_counter()
        answers = [kg_naive.ask(url, *pair) for pair in pairs]
        cost = Cost(sum(one.requests for one in answers), cpu_seconds(pid) - cpu, time.perf_counter() - start)
    return Naive(cost, [one.hops for one in answers])


def exact(graph: ExactGraph, pairs: Sequence[Ends]) -> Exact:
    """Exact search on all pairs, one after the other."""
    cpu = time.process_time()
    found = [graph.distance(*pair) for pair in pairs]
    return Exact(found, time.process_time() - cpu)


def ours(
    place: File, questions: Sequence[Linked], pairs: Sequence[Ends], truth: ExactGraph, similarity: Similarity
) -> Ours:
    """Our pipeline on the questions, from a cold start; then once more on what was landed, and searched for these pairs.

    All requests count: neighbourhoods, and also labels, degrees and full statements, which the naive design has not.
    """
    wants = [Want(f"{one.dataset}/{one.id}", one.text, one.sources, one.targets) for one in questions]
    options, kept = Options(), _Kept()
    stages: dict[str, int] = {}
    with served(place) as (url, pid):
        endpoint, graph = Endpoint(url, snapshot=place.name), Graph()
        cpu, start = cpu_seconds(pid), time.perf_counter()
        fetcher = Fetcher(endpoint, graph, kept)
        retriever = Retriever(graph, options, similarity)
        retriever.gather(wants, fetcher, lambda stage, _done: stages.update({stage: endpoint.requests}))
        found = retriever.find(wants)
        cost = Cost(endpoint.requests, cpu_seconds(pid) - cpu, time.perf_counter() - start)
        again = Endpoint(url, snapshot=place.name)
        warm = kept.graph()
        Retriever(warm, options, similarity).gather(wants, Fetcher(again, warm))
        if Retriever(warm, options, similarity).find(wants) != found:
            raise RunError("a second run on what the first one kept finds other paths")
    asked = [Pair(*pair) for pair in pairs]
    cpu = time.process_time()
    walks = search(graph, asked, options.max_hops)
    solve_cpu = time.process_time() - cpu
    hops = distances(walks).tolist()
    rows = {
        position: {triples_of(some, row, asked[position]) for row in range(part.start, part.stop)}
        for some in walks
        for position, part in rows_by_pair(some)
    }
    recall, pair_recall = _recall(truth, pairs, rows)
    printed = [linearise(one.kept, graph.labels, details=graph.details) for one in found]
    return Ours(
        cost,
        _differences(stages),
        again.requests,
        hops,
        recall,
        pair_recall,
        solve_cpu,
        found,
        len(graph.cut({end for pair in pairs for end in pair}, options.cap)),
        {one for text in printed for one in text.unlabelled},
        sum(len(text.lines) - len(set(text.lines)) for text in printed),
        sum(len(text.lines) for text in printed),
        sum(path.hops for one in found for path in one.kept),
    )


def _differences(reached: Mapping[str, int]) -> dict[str, int]:
    """Requests of each stage, from the number reached at its end."""
    before = [0, *reached.values()]
    return {stage: reached[stage] - before[place] for place, stage in enumerate(reached)}


def _recall(
    truth: ExactGraph, pairs: Sequence[Ends], rows: Mapping[int, set[tuple[Triple, ...]]]
) -> tuple[dict[int, float], dict[int, float]]:
    """Share of the shortest paths that were found, by hops: of all paths together, and as the mean over the pairs."""
    there: dict[int, list[int]] = {1: [], 2: [], 3: []}
    found: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for position, pair in enumerate(pairs):
        hops = truth.distance(*pair).hops
        if hops:
            paths = set(truth.paths(*pair, hops))
            there[hops].append(len(paths))
            found[hops].append(len(paths & rows.get(position, set())))
    joint = {hops: sum(found[hops]) / sum(there[hops]) for hops in there if there[hops]}
    shares = {hops: [f / t for f, t in zip(found[hops], there[hops], strict=True)] for hops in there if there[hops]}
    return joint, {hops: sum(some) / len(some) for hops, some in shares.items()}


class _Kept:
    """A :class:`kg.fetching.Landing` that keeps everything in memory, and makes a graph of it as a later run would."""

    def __init__(self) -> None:
        self._expansions: list[tuple[list[Expansion], int]] = []
        self._labels: list[tuple[set[str], dict[str, str]]] = []
        self._degrees: dict[str, int] = {}
        self._details: list[tuple[set[Triple], dict[Triple, tuple[Detail, ...]]]] = []

    def expansions(self, batch: Sequence[Expansion], cap: int) -> None:
        self._expansions.append((list(batch), cap))

    def labels(self, asked: Collection[str], found: Mapping[str, str]) -> None:
        self._labels.append((set(asked), dict(found)))

    def degrees(self, found: Mapping[str, int], cap: int) -> None:
        self._degrees |= found

    def details(self, asked: Collection[Triple], found: Mapping[Triple, Sequence[Detail]]) -> None:
        self._details.append((set(asked), {triple: tuple(some) for triple, some in found.items()}))

    def graph(self) -> Graph:
        graph = Graph()
        for batch, cap in self._expansions:
            graph.add(batch, cap)
        for named, labels in self._labels:
            graph.learn(labels=labels, named=named)
        for detailed, details in self._details:
            graph.learn(details=details, detailed=detailed)
        graph.learn(degrees=self._degrees)
        return graph
