"""What retrieval came to: coverage beside its wrong-answer control, distances, and what was printed and asked for.

A question is connected if a path joins one of its entities to one of its answers; a specific path is one without a hub. That
a path exists means little by itself, since within a few hops most things are connected: the control is the same search to
another question's answer of like degree, on the same questions. Questions are counted, and intervals are over questions;
the pairs of one question are alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eval.statistics import Estimate, PairedDifference, paired_bootstrap, wilson

Row = Mapping[str, Any]
Rows = Sequence[Row]

SOURCES = ("gold_qid", "mid_map", "label", "literal", "none")
_SUCCEEDED = "ok"
_THROTTLED = 429


@dataclass(frozen=True)
class RetrievalRows:
    """The rows of ``store.retrieval.report_rows``, each field by the function of its name there."""

    questions: Rows
    controls: Rows
    pairs: Rows
    hops: Rows
    requests: Rows
    expansions: Rows
    searched: Rows


class Quantiles(NamedTuple):
    """Median, 95th percentile and largest of ``n`` counts; each is the least count that this share stays within."""

    p50: int
    p95: int
    most: int
    n: int


class Contrast(NamedTuple):
    """Shares of the same questions whose right and whose wrong answer is connected. ``lift`` is None if no wrong one is."""

    answer: Estimate
    wrong: Estimate
    difference: PairedDifference
    lift: float | None


class Within(NamedTuple):
    """Shares connected within ``hops`` or fewer: answer and wrong answer, by any path and by a specific one."""

    hops: int
    answer: float
    wrong: float
    answer_specific: float
    wrong_specific: float

    @property
    def lift(self) -> float | None:
        """Of any path; None if no wrong answer is connected."""
        return self.answer / self.wrong if self.wrong else None

    @property
    def lift_specific(self) -> float | None:
        """Of a specific path; None if no wrong answer is connected."""
        return self.answer_specific / self.wrong_specific if self.wrong_specific else None


class Control(NamedTuple):
    """The wrong-answer control over ``n`` questions."""

    n: int
    any: Contrast
    specific: Contrast
    within: tuple[Within, ...]


class Part(NamedTuple):
    """The searched questions of one dataset and split, or (dataset None) all of them.

    ``hops`` and ``specific_hops`` count questions by their shortest path (None: no path), ``pair_hops`` pairs likewise.
    ``specific`` and what depends on it, ``lines`` and ``tokens`` are None where the retrieval did not record them.
    """

    dataset: str | None
    split: str | None
    questions: int
    linked_question: Estimate
    linked: Estimate
    connected: Estimate
    specific: Estimate | None
    sources: Mapping[str, Mapping[str, int]]  # role, source: questions
    hops: Mapping[int | None, int]
    specific_hops: Mapping[int | None, int] | None
    pair_hops: Mapping[int | None, int]
    pairs: int
    pairs_connected: int
    paths_of_a_pair: Quantiles | None
    kept: Quantiles
    lines: Quantiles | None
    tokens: Quantiles | None
    printed_lines: int
    truncated: int  # questions with an entity whose neighbourhood was cut at the cap
    unlabelled: int  # ids printed for want of a label
    unlabelled_questions: int
    duplicates: int  # lines printed twice
    control: Control | None

    @property
    def name(self) -> str:
        """The dataset with its split."""
        return "all" if self.dataset is None else f"{self.dataset} ({self.split})"


class Purpose(NamedTuple):
    """Requests for one purpose; times are sums in seconds. A request that passed in the end has not failed.

    ``failures`` counts those that gave nothing by how their last attempt ended, ``throttled`` those with a 429 there.
    """

    purpose: str
    requests: int
    attempts: int
    failures: Mapping[str, int]
    throttled: int
    bytes: int
    seconds: float
    waited: float

    @property
    def failed(self) -> int:
        """Requests that gave nothing."""
        return sum(self.failures.values())


class RetrievalSummary(NamedTuple):
    """All that is reported of one retrieval. ``asked`` questions were meant; ``total`` is None if none was searched.

    ``requests`` and ``expansions`` are those of the whole graph snapshot, which has served ``searched_questions`` and
    ``searched_pairs`` so far; the last of ``requests`` is their sum.
    """

    asked: int
    parts: tuple[Part, ...]
    total: Part | None
    requests: tuple[Purpose, ...]
    expansions: Rows
    searched_questions: int
    searched_pairs: int


def summarise_retrieval(rows: RetrievalRows, asked: int) -> RetrievalSummary:
    """The summary of a retrieval over the ``asked`` questions."""
    groups = sorted({(row["dataset"], row["split"]) for row in rows.questions})
    searched = rows.searched[0] if rows.searched else {"questions": 0, "pairs": 0}
    return RetrievalSummary(
        asked=asked,
        parts=tuple(_part(rows, *group) for group in groups),
        total=_part(rows, None, None) if rows.questions else None,
        requests=_purposes(rows.requests),
        expansions=rows.expansions,
        searched_questions=searched["questions"],
        searched_pairs=searched["pairs"],
    )


def quantiles(counts: Sequence[int]) -> Quantiles | None:
    """The quantiles of counts; None without any."""
    if not counts:
        return None
    p50, p95 = np.quantile(np.asarray(counts), [0.5, 0.95], method="inverted_cdf")
    return Quantiles(int(p50), int(p95), max(counts), len(counts))


def _part(rows: RetrievalRows, dataset: str | None, split: str | None) -> Part:
    def mine(some: Rows) -> list[Row]:
        return [row for row in some if dataset is None or (row["dataset"], row["split"]) == (dataset, split)]

    questions = mine(rows.questions)
    pairs = next((row for row in rows.pairs if (row["dataset"], row["split"]) == (dataset, split)), None)
    recorded = any(row["specific"] is not None for row in questions)
    return Part(
        dataset=dataset,
        split=split,
        questions=len(questions),
        linked_question=_share(questions, lambda row: row["question_source"] != "none"),
        linked=_share(questions, lambda row: row["linked"]),
        connected=_share(questions, lambda row: row["connected"]),
        specific=_share(questions, lambda row: row["specific"]) if recorded else None,
        sources={role: _counted(row[f"{role}_source"] for row in questions) for role in ("question", "answer")},
        hops=_counted(row["min_hops"] for row in questions),
        specific_hops=_counted(row["min_specific_hops"] for row in questions) if recorded else None,
        pair_hops=_pair_hops(mine(rows.hops)),
        pairs=sum(row["pairs"] for row in questions),
        pairs_connected=sum(row["connected"] for row in questions),
        paths_of_a_pair=_paths_of_a_pair(pairs),
        kept=quantiles([row["kept"] for row in questions]) or Quantiles(0, 0, 0, 0),
        lines=quantiles([row["lines"] for row in questions if row["lines"] is not None]),
        tokens=quantiles([row["tokens"] for row in questions if row["tokens"] is not None]),
        printed_lines=sum(row["lines"] or 0 for row in questions),
        truncated=sum(row["truncated"] > 0 for row in questions),
        unlabelled=sum(row["unlabelled"] or 0 for row in questions),
        unlabelled_questions=sum(bool(row["unlabelled"]) for row in questions),
        duplicates=sum(row["duplicates"] or 0 for row in questions),
        control=_control(mine(rows.controls)),
    )


def _control(rows: Rows) -> Control | None:
    if not rows:
        return None
    lengths = [row[name] for row in rows for name in ("answer_hops", "wrong_hops") if row[name] is not None]
    return Control(
        n=len(rows),
        any=_contrast(rows, "answer_hops", "wrong_hops"),
        specific=_contrast(rows, "answer_specific_hops", "wrong_specific_hops"),
        within=tuple(_within(rows, hops) for hops in range(1, max(lengths, default=0) + 1)),
    )


def _contrast(rows: Rows, answer: str, wrong: str) -> Contrast:
    right, others = ([[row[name] is not None] for row in rows] for name in (answer, wrong))
    shares = _share(rows, lambda row: row[answer] is not None), _share(rows, lambda row: row[wrong] is not None)
    lift = shares[0].value / shares[1].value if shares[1].value else None
    return Contrast(*shares, paired_bootstrap(right, others), lift)


def _within(rows: Rows, hops: int) -> Within:
    names = ("answer_hops", "wrong_hops", "answer_specific_hops", "wrong_specific_hops")
    counts = [sum(row[name] is not None and row[name] <= hops for row in rows) for name in names]
    return Within(hops, *(count / len(rows) for count in counts))


def _share(rows: Rows, holds: Callable[[Row], Any]) -> Estimate:
    """The share of questions for which ``holds``, with Wilson's interval."""
    count, n = sum(bool(holds(row)) for row in rows), len(rows)
    interval = wilson(count, n)
    return Estimate(count / n, interval.low, interval.high, n)


def _counted(values: Iterable[Any]) -> dict[Any, int]:
    """How often each value comes, in order, None last."""
    return dict(sorted(Counter(values).items(), key=lambda item: (item[0] is None, item[0])))


def _pair_hops(rows: Rows) -> dict[int | None, int]:
    return _counted(row["hops"] for row in rows for _ in range(row["pairs"]))


def _paths_of_a_pair(row: Row | None) -> Quantiles | None:
    if row is None or row["p50"] is None:
        return None
    return Quantiles(row["p50"], row["p95"], row["most"], row["connected"])


def _purposes(rows: Rows) -> tuple[Purpose, ...]:
    """Requests by purpose, most first, and their sum last."""
    names = list(dict.fromkeys(row["purpose"] for row in rows))
    found = [_purpose(name, [row for row in rows if row["purpose"] == name]) for name in names]
    found.sort(key=lambda one: (-one.requests, one.purpose))
    return (*found, *([_purpose("all", rows)] if rows else []))


def _purpose(name: str, rows: Rows) -> Purpose:
    failures: Counter[str] = Counter()
    for row in rows:
        if row["outcome"] != _SUCCEEDED:
            failures[row["outcome"]] += row["requests"]
    return Purpose(
        purpose=name,
        requests=sum(row["requests"] for row in rows),
        attempts=sum(row["attempts"] for row in rows),
        failures=dict(sorted(failures.items(), key=lambda item: (-item[1], item[0]))),
        throttled=sum(row["requests"] for row in rows if row["status"] == _THROTTLED),
        bytes=sum(row["bytes"] for row in rows),
        seconds=sum(row["seconds"] for row in rows),
        waited=sum(row["waited"] for row in rows),
    )
