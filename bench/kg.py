"""Retrieval on real data, held against its bars: our pipeline, the design that most projects use, and exact search.

    python -m bench.kg [--quick] [--check] [--data FOLDER]

A real Wikidata extract is served by a local oxigraph; the pairs are entities and answers of Mintaka, WebQSP, CWQ and
TimeQuestions, in equal parts. All three search the same pairs in one run. Ranking is measured on the half of the gold
relations that no weight was tuned on. Prints a table, then one JSON object as its last line. ``--quick`` takes 250 pairs and
leaves out the bars that only a full run can be held to. With ``--check`` a missed bar is named and the exit status is 1.
Where the data is not here, the exit status is 2 and the reason is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import kg_measure
from bench.kg_exact import ExactGraph, read_facts
from bench.kg_gold import gold_cases
from bench.kg_measure import Exact, Naive, Ours
from bench.kg_questions import DATA, SETS, Linked, distinct_pairs, facts, linked, read_lines, sample, wrong_answers
from bench.kg_ranking import Candidates, candidates
from kg.loading import load
from kg.ranking import WEIGHTS, Weights
from kg.similarity import Similarity, best_similarity
from store.home import Home
from store.types import InputError, RunError, digest

PAIRS, QUICK_PAIRS = 1700, 250
QUICK_CASES = 200
HUB_CAPS = (None, 500, 200, 100)
NO_PENALTY = Weights(degree=0.0, length=0.0, sibling=0.0)


class Bar(NamedTuple):
    """A figure and what it has to reach; ``quick``: also on the few pairs of a quick run."""

    figure: str
    bound: float
    quick: bool = True
    most: bool = False  # the bound is the most it may be

    def met(self, figures: Mapping[str, float]) -> bool:
        """Whether the figure is within the bound; a figure that is no number is not."""
        value = figures.get(self.figure, math.nan)
        return value <= self.bound if self.most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.bound:g}"


BARS = (
    Bar("distinct pairs", 1500, quick=False),
    Bar("requests naive/ours", 15, quick=False),
    Bar("server CPU naive/ours", 10, quick=False),
    Bar("requests per pair", 0.15, quick=False, most=True),
    Bar("pairs with the exact distance", 1.0),
    Bar("path recall, 1 hop", 0.99),
    Bar("path recall, 2 hops", 0.85),
    Bar("path recall, 3 hops", 0.80),
    Bar("solve CPU ours/exact", 10, quick=False, most=True),
    Bar("requests of a second run", 0, most=True),
    Bar("hit@1, ours less the best simple way", 0, quick=False),
    Bar("labels missed", 0, most=True),
    Bar("duplicate lines printed", 0, most=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 1 for a missed bar or a failed run, 2 where the data is not here."""
    parser = argparse.ArgumentParser(prog="python -m bench.kg", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_PAIRS} pairs only")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a bar is missed")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the real data (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        figures, notes = run(given.data, quick=given.quick)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    missed = report(figures, notes, quick=given.quick)
    return 1 if given.check and missed else 0


def run(folder: Path, *, quick: bool) -> tuple[dict[str, float], dict[str, Any]]:
    """All figures, and notes on how they came about. Raises InputError where the data is not here, RunError as the server."""
    start = time.perf_counter()
    files = facts(folder)
    say("reading the extract and the questions")
    known = read_facts(files)
    graph = ExactGraph(known.statements)
    sets = [linked(name, graph, folder) for name in SETS]
    questions = sample(sets, QUICK_PAIRS if quick else PAIRS)
    pairs = distinct_pairs(questions)
    place = load(files, Home.current().kg)
    similarity = best_similarity("auto")
    truth = kg_measure.exact(graph, pairs)
    say(f"our pipeline on {len(pairs)} pairs of {len(questions)} questions")
    ours = kg_measure.ours(place, questions, pairs, graph, similarity)
    say(f"{ours.cost.requests} requests in {ours.cost.wall:.0f} s; now the naive design, a query for each pair and hop")
    naive = kg_measure.naive(place, pairs)
    say(f"{naive.cost.requests} requests in {naive.cost.wall:.0f} s; now ranking and the control")
    figures = compare(len(pairs), naive, ours, truth)
    figures |= quality(questions, ours, known.labels)
    figures |= control(questions, graph, {answer for some in sets for one in some for answer in one.targets})
    figures |= ranking(graph, known.labels, folder, similarity, QUICK_CASES if quick else None)
    notes = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "questions": Counter(one.dataset for one in questions),
        "link_coverage": {name: _coverage(folder, name) for name in SETS},
        "similarity": similarity.name,
        "weights": WEIGHTS._asdict(),
        "stages": ours.stages,
        "hops": Counter(f"{one.hops}" for one in truth.distances),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return figures, notes


def compare(pairs: int, naive: Naive, ours: Ours, truth: Exact) -> dict[str, float]:
    """Costs and correctness of the two designs."""
    exact = [one.hops for one in truth.distances]
    figures = {
        "distinct pairs": float(pairs),
        "requests naive": float(naive.cost.requests),
        "requests ours": float(ours.cost.requests),
        "requests naive/ours": naive.cost.requests / ours.cost.requests,
        "requests per pair": ours.cost.requests / pairs,
        "server CPU naive, s": naive.cost.server_cpu,
        "server CPU ours, s": ours.cost.server_cpu,
        "server CPU naive/ours": naive.cost.server_cpu / ours.cost.server_cpu,
        "wall naive, s": naive.cost.wall,
        "wall ours, s": ours.cost.wall,
        "pairs with the exact distance": _equal(ours.hops, exact),
        "pairs with the exact distance, naive": _equal(naive.hops, exact),
        "solve CPU exact, s": truth.cpu,
        "solve CPU ours, s": ours.solve_cpu,
        "solve CPU ours/exact": ours.solve_cpu / truth.cpu,
        "requests of a second run": float(ours.warm_requests),
        "truncated entities": float(ours.truncated),
    }
    for hops in (1, 2, 3):
        name = f"{hops} hop{'s' if hops > 1 else ''}"
        figures[f"path recall, {name}"] = ours.recall.get(hops, math.nan)
        figures[f"path recall, {name}, mean of pairs"] = ours.pair_recall.get(hops, math.nan)
    return figures


def quality(questions: Sequence[Linked], ours: Ours, labels: Mapping[str, str]) -> dict[str, float]:
    """What retrieval reports about the paths of the questions."""
    paths = [pair.paths for found in ours.found for pair in found.pairs if pair.hops]
    return {
        "requests per question": ours.cost.requests / len(questions),
        "answer coverage": float(np.mean([found.hops is not None for found in ours.found])),
        "paths per joined pair, p50": float(np.percentile(paths, 50)),
        "paths per joined pair, p95": float(np.percentile(paths, 95)),
        "lines printed per question": ours.lines / len(questions),
        "statements of kept paths per question": ours.triples / len(questions),
        "ids printed that have no label": float(len(ours.unlabelled - labels.keys())),
        "labels missed": float(len(ours.unlabelled & labels.keys())),
        "duplicate lines printed": float(ours.duplicates),
    }


def control(questions: Sequence[Linked], graph: ExactGraph, pool: set[str]) -> dict[str, float]:
    """How often right answers are joined to the question within 3 hops, against wrong ones of the same degree."""
    right, wrong = distinct_pairs(questions), wrong_answers(questions, graph, pool)
    figures: dict[str, float] = {}
    for cap in HUB_CAPS:
        name = "any middle node" if cap is None else f"middle nodes <= {cap}"
        real, chance = (float(np.mean([graph.connected(*pair, cap) for pair in some])) for some in (right, wrong))
        figures |= {f"joined, {name}": real, f"joined, {name}, control": chance, f"lift, {name}": real / chance}
    return figures


def ranking(
    graph: ExactGraph, labels: Mapping[str, str], folder: Path, similarity: Similarity, most: int | None
) -> dict[str, float]:
    """Hit@1 on the gold relations of the held-out half, for four ways to rank; ``most`` pairs at most."""
    cases = [case for case in gold_cases(graph, folder) if case.held_out]
    cases = sorted(cases, key=lambda case: digest(list(case[:2])))[:most]
    some = candidates(cases, graph, labels, [similarity])
    orders = {
        "random": np.zeros(len(some.gold)),
        "shortest first": some.penalties[:, 1],
        "similarity only": some.scores([1.0], NO_PENALTY),
        "ours": some.scores([1.0], WEIGHTS),
    }
    figures = {f"hit@1, {name}": float(some.hits(scores).mean()) for name, scores in orders.items()}
    simple = max(value for name, value in figures.items() if name != "hit@1, ours")
    return {
        "pairs with gold relations": float(len(some.cases)),
        **figures,
        "hit@1, ours less the best simple way": figures["hit@1, ours"] - simple,
        **_two_hops(some),
    }


def _two_hops(some: Candidates) -> dict[str, float]:
    """Hit@1 where the gold relations are 2 hops, which shortest first cannot know."""
    chosen = np.flatnonzero([min(map(len, case.gold)) > 1 for case in some.cases])
    if not len(chosen):
        return {}
    part = some.part(chosen.tolist())
    return {
        "pairs with gold relations of 2 hops": float(len(chosen)),
        "hit@1 of 2 hops, shortest first": float(part.hits(part.penalties[:, 1]).mean()),
        "hit@1 of 2 hops, ours": float(part.hits(part.scores([1.0], WEIGHTS)).mean()),
    }


def report(figures: Mapping[str, float], notes: Mapping[str, Any], *, quick: bool) -> list[str]:
    """Print the table and the JSON line. Returns the figures whose bars are missed; a quick run is held to fewer."""
    bars = {bar.figure: bar for bar in BARS if bar.quick or not quick}
    missed = [name for name, bar in bars.items() if not bar.met(figures)]
    width = max(map(len, figures))
    for name, value in figures.items():
        verdict = f"bar {bars[name]}: {'MISSED' if name in missed else 'met'}" if name in bars else ""
        print(f"{name:<{width}}  {value:>10,.4g}  {verdict}".rstrip())
    for name in missed:
        print(f"missed: {name} is {figures.get(name, math.nan):.4g}, the bar is {bars[name]}")
    shown = {name: None if math.isnan(value) else round(value, 6) for name, value in figures.items()}
    print(json.dumps({"quick": quick, "missed": missed, "figures": shown, "notes": notes}))
    return missed


def say(what: str) -> None:
    """Progress, on standard error: standard output is the result."""
    print(f"... {what}", file=sys.stderr, flush=True)


def _equal(found: Sequence[int], exact: Sequence[int]) -> float:
    return float(np.mean([a == b for a, b in zip(found, exact, strict=True)]))


def _coverage(folder: Path, name: str) -> float:
    """Share of all questions of a set that have a linked entity in the graph."""
    linked_to = [bool(one["linked_question_qids"]) for one in read_lines(folder / "linked" / f"{name}.jsonl.gz")]
    return round(sum(linked_to) / len(linked_to), 4)


if __name__ == "__main__":
    sys.exit(main())
