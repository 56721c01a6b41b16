"""What model judges say, held against the matcher and against one another, in numbers.

Agreement is counted over traces, each prediction as often as it was given, and over the predictions alone: an answer
without one was not shown to any judge. A grade counts as right or not here ("not attempted" is not right), so that judges
of both questions compare. Kappa is Cohen's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from eval.statistics import cohen_kappa_of_counts
from store.types import JudgeQuestion, budget_order

Row = Mapping[str, Any]


class Agreement(NamedTuple):
    """How often two agree on the ``n`` predictions that both judged, and kappa beyond chance (None: undefined)."""

    share: float | None
    kappa: float | None
    n: int


class JudgeScore(NamedTuple):
    """What one judge says of some traces.

    ``accuracy`` counts answers without a prediction as wrong and leaves out ``invalid`` verdicts. ``not_attempted`` traces
    were graded so, or refused to answer; ``matcher`` is the agreement with it.
    """

    traces: int
    accuracy: float | None
    matcher: Agreement
    invalid: int
    not_attempted: int


class JudgeSummary(NamedTuple):
    """One judge of a study.

    Counted over distinct verdicts (gold answers and a prediction): ``verdicts``, of them ``retried`` (asked for more than
    once), ``invalid`` and ``not_attempted``; ``calls`` and ``cost`` (US dollars, None without prices) are what they took.
    Counted over traces: ``total``, and ``runs`` by run key, each at its largest budget. ``others``: the agreement with
    every judge of the study in their order, None with itself.
    """

    judge: str
    model: str
    question: JudgeQuestion
    verdicts: int
    retried: int
    invalid: int
    not_attempted: int
    calls: int
    cost: float | None
    total: JudgeScore
    runs: Mapping[str, JudgeScore]
    others: tuple[Agreement | None, ...]

    @property
    def label(self) -> str:
        """The judge as people tell it from the others."""
        return f"{self.model} ({self.question})"

    @property
    def calls_a_trace(self) -> float | None:
        """Calls for one trace of the study: below 1 where traces share their gold answers and prediction."""
        return self.calls / self.total.traces if self.total.traces else None


def summarise_judges(judges: Sequence[Row], ballots: Sequence[Row]) -> tuple[JudgeSummary, ...]:
    """The judges of a study, from ``store.queries``: ``judge_rows`` and ``ballot_rows``."""
    largest = {row["run_key"]: row["budget"] for row in sorted(ballots, key=lambda row: budget_order(row["budget"]))}
    at_largest: dict[str, list[Row]] = {}
    for row in ballots:
        if row["budget"] == largest[row["run_key"]]:
            at_largest.setdefault(row["run_key"], []).append(row)
    return tuple(
        JudgeSummary(
            judge=row["judge"],
            model=row["model"],
            question=row["question"],
            verdicts=row["verdicts"],
            retried=row["retried"],
            invalid=row["invalid"],
            not_attempted=row["not_attempted"],
            calls=row["calls"],
            cost=row["cost"],
            total=_score(ballots, row["position"]),
            runs={run: _score(members, row["position"]) for run, members in at_largest.items()},
            others=tuple(
                None if other is row else _agreement(ballots, _said_by(row["position"]), _said_by(other["position"]))
                for other in judges
            ),
        )
        for row in judges
    )


Opinion = Callable[[Row], bool | None]


def _score(ballots: Sequence[Row], position: int) -> JudgeScore:
    said, counts = _said_by(position), Counter[bool | None]()
    invalid = not_attempted = 0
    for row in ballots:
        # Without a prediction an answer is wrong, whatever a judge would say.
        counts[said(row) if row["answered"] else False] += row["n"]
        invalid += row["n"] * (row["answered"] and row["said"].get(position, "") is None)
        not_attempted += row["n"] * (row["refused"] or row["said"].get(position) == "not_attempted")
    counted = counts[True] + counts[False]
    return JudgeScore(
        traces=sum(row["n"] for row in ballots),
        accuracy=counts[True] / counted if counted else None,
        matcher=_agreement(ballots, said, lambda row: bool(row["matched"])),
        invalid=invalid,
        not_attempted=not_attempted,
    )


def _said_by(position: int) -> Opinion:
    """Whether this judge calls the prediction right; None where it gave no valid verdict."""

    def opinion(row: Row) -> bool | None:
        grade = row["said"].get(position)
        return None if grade is None else grade == "correct"

    return opinion


def _agreement(ballots: Sequence[Row], one: Opinion, other: Opinion) -> Agreement:
    counts: Counter[tuple[Any, Any]] = Counter()
    for row in ballots:
        both = one(row), other(row)
        if row["answered"] and None not in both:
            counts[both] += row["n"]
    n = sum(counts.values())
    share = (counts[True, True] + counts[False, False]) / n if n else None
    return Agreement(share, cohen_kappa_of_counts(counts), n)
