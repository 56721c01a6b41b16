"""From rows to statistics: everything the report says in numbers, as typed values.

A *cell* is one run (model, setting, dataset) at one budget. A trace that did not land, or was not scored yet, is
missing: counted and left out. A refused or unparsed answer is an answer, and wrong. Comparisons are paired by question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any, Literal, NamedTuple

from eval.agreement import JudgeSummary
from eval.statistics import (
    Estimate,
    PairedDifference,
    accuracy,
    cohen_kappa,
    holm,
    maj_at_k,
    mcnemar_exact,
    paired_bootstrap,
    pass_at_k,
    wilson,
)
from store.types import Frozen

Row = Mapping[str, Any]
Outcome = Literal["gain", "loss", "unclear", "none"]

BASELINE = "instruct"
SETTING_ORDER = ("instruct", "cot", "rt", "fs1")
SIGNIFICANCE = 0.05


class RunId(NamedTuple):
    """Which run: ``role`` is student or baseline; ``model`` the alias of the base model."""

    run_key: str
    role: str
    model: str
    setting: str
    dataset: str


class PassAtK(NamedTuple):
    """Unbiased pass@k over the ``n`` questions that have at least k samples (Chen et al. 2021)."""

    k: int
    value: float
    n: int


class Judgement(NamedTuple):
    """What the first model judge says beside the matcher.

    ``accuracy`` counts answers without a prediction as wrong; ``kappa`` is Cohen's, over the ``n`` predictions that
    both judged (None: undefined or nothing to compare); ``invalid`` predictions have no valid verdict and are left
    out of both.
    """

    accuracy: float | None
    kappa: float | None
    agreement: float | None
    n: int
    invalid: int


class Cell(NamedTuple):
    """One run at one budget (thinking tokens; None: unlimited).

    Counts are of traces; ``questions`` were asked, ``accuracy.n`` of them have at least one scored trace. Token numbers
    are means a trace; ``generated_tokens`` adds the answer's.
    """

    run: RunId
    budget: int | None
    questions: int
    samples: int
    traces: int
    accuracy: Estimate | None
    majority: Estimate | None
    pass_at_k: tuple[PassAtK, ...]
    cut: int
    forced: int
    unparsed: int
    refused: int
    missing: int
    judge: Judgement | None
    thinking_tokens: float | None
    generated_tokens: float | None


class Comparison(NamedTuple):
    """Two conditions on the same questions: ``run`` (at ``budget``) minus ``versus``.

    ``difference`` is of mean accuracy, with a paired bootstrap interval; ``gained`` and ``lost`` count questions whose
    majority answer turned right and wrong, which McNemar's exact test compares. Both p-values are Holm-corrected across
    their table; an outcome counts as told only where both tests agree.
    """

    run: RunId
    versus: str
    budget: int | None
    difference: PairedDifference
    gained: int
    lost: int
    mcnemar_p: float
    holm_difference: float
    holm_mcnemar: float

    @property
    def outcome(self) -> Outcome:
        """``gain`` or ``loss`` where both tests tell one; ``unclear`` where one does; else ``none``."""
        told = (self.holm_difference <= SIGNIFICANCE) + (self.holm_mcnemar <= SIGNIFICANCE)
        if told < 2:
            return "unclear" if told else "none"
        return "gain" if self.difference.diff > 0 else "loss"


class Group(NamedTuple):
    """Accuracy of a run at its largest budget on the questions whose ``by`` (hops, answer_type) is ``value``."""

    run: RunId
    budget: int | None
    by: Literal["hops", "answer_type"]
    value: str
    accuracy: Estimate


class Summary(Frozen):
    """All statistics of a study. ``comparisons`` are against ``instruct`` of the same model, at the largest budget that
    both have; ``budget_gains`` compare each run's largest budget with its smallest; ``judges`` are all model judges."""

    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    budget_gains: tuple[Comparison, ...]
    groups: tuple[Group, ...]
    judges: tuple[JudgeSummary, ...] = ()

    @property
    def largest(self) -> tuple[Cell, ...]:
        """The cells at each run's largest budget, in the order of the table."""
        last = {cell.run.run_key: cell for cell in self.cells}
        return tuple(last.values())


class Answer(NamedTuple):
    """What comparisons need of a scored trace: is it right, and for which equivalence class does it vote."""

    correct: bool
    vote: str | None


Questions = dict[str, list[Answer]]  # the scored answers of each question, at one budget


class _Pending(NamedTuple):
    run: RunId
    versus: str
    budget: int | None
    difference: PairedDifference
    gained: int
    lost: int
    mcnemar_p: float


class _Run(NamedTuple):
    """What is kept of a run once its rows are read: a full study has millions, so the rows themselves are not."""

    id: RunId
    budgets: tuple[int | None, ...]
    cells: tuple[Cell, ...]
    groups: tuple[Group, ...]
    scored: dict[int | None, Questions]


def summarise(results: Iterable[Row], runs: Sequence[Row], judges: Sequence[JudgeSummary] = ()) -> Summary:
    """Statistics of a study from ``store.queries``: ``results`` (rows of a run must stand together) and ``run_rows``.

    ``judges`` come from :func:`eval.agreement.summarise_judges`. Runs whose role is ``teacher`` are left out. Raises
    ValueError if the rows of a run are scattered, or name no run.
    """
    known = {row["run_key"]: row for row in runs if row["role"] != "teacher"}
    teachers = {row["run_key"] for row in runs} - known.keys()
    read: dict[str, _Run] = {key: _read(row, ()) for key, row in known.items()}
    seen: set[str] = set()
    for key, rows in groupby(results, key=lambda row: str(row["run_key"])):
        if key in teachers:
            continue
        if key in seen or key not in known:
            raise ValueError(f"result rows of run {key} are scattered: sort them" if key in seen else f"no run {key}")
        seen.add(key)
        read[key] = _read(known[key], rows)
    order = sorted(read.values(), key=lambda run: (run.id.role == "baseline", *run_order(run.id)))
    return Summary(
        cells=tuple(cell for run in order for cell in run.cells),
        comparisons=_corrected(_against_baseline(order)),
        budget_gains=_corrected(_across_budgets(order)),
        groups=tuple(group for run in order for group in run.groups),
        judges=tuple(judges),
    )


def run_order(run: RunId) -> tuple[str, str, int, str]:
    """Sort key of runs: dataset, model, then the settings in the order of the study."""
    return run.dataset, run.model, setting_rank(run.setting), run.setting


def setting_rank(setting: str) -> int:
    """Place of a setting in tables and plots; unknown ones come last."""
    return SETTING_ORDER.index(setting) if setting in SETTING_ORDER else len(SETTING_ORDER)


def _read(run: Row, rows: Iterable[Row]) -> _Run:
    identity = RunId(run["run_key"], run["role"], run["model"], run["setting"], run["dataset"])
    budgets = tuple(sorted(run["budgets"], key=lambda b: (b is None, b or 0)))
    by_budget: dict[int | None, list[Row]] = {budget: [] for budget in budgets}
    for row in rows:
        if row["how"] is not None and row["budget"] in by_budget:
            by_budget[row["budget"]].append(row)
    scored = {budget: _by_question(group) for budget, group in by_budget.items()}
    cells = tuple(_cell(run, identity, budget, by_budget[budget], scored[budget]) for budget in budgets)
    groups = _groups(identity, budgets[-1], by_budget[budgets[-1]], scored[budgets[-1]])
    return _Run(identity, budgets, cells, groups, scored)


def _by_question(rows: Iterable[Row]) -> Questions:
    questions: Questions = {}
    for row in rows:
        questions.setdefault(row["question_key"], []).append(Answer(bool(row["correct"]), row["class"]))
    return questions


def _cell(run: Row, identity: RunId, budget: int | None, rows: Sequence[Row], questions: Questions) -> Cell:
    return Cell(
        run=identity,
        budget=budget,
        questions=run["questions"],
        samples=run["samples"],
        traces=len(rows),
        accuracy=accuracy(_correct(questions)) if rows else None,
        majority=_majority_accuracy(questions),
        pass_at_k=_pass_curve(questions, run["samples"]),
        cut=sum(row["cut"] for row in rows),
        forced=sum(row["forced"] for row in rows),
        unparsed=sum(row["how"] == "none" for row in rows),
        refused=sum(row["how"] == "refused" for row in rows),
        missing=run["questions"] * run["samples"] - len(rows),
        judge=_judgement(rows) if run["judge"] is not None else None,
        thinking_tokens=fmean(row["thinking_tokens"] for row in rows) if rows else None,
        generated_tokens=fmean(row["thinking_tokens"] + row["answer_tokens"] for row in rows) if rows else None,
    )


def _correct(questions: Questions) -> list[list[bool]]:
    return [[answer.correct for answer in answers] for answers in questions.values()]


def _pass_curve(questions: Questions, samples: int) -> tuple[PassAtK, ...]:
    # Questions with equally many samples and right ones have one value: a run of thousands has a few dozen such kinds.
    kinds = Counter((len(answers), sum(answer.correct for answer in answers)) for answers in questions.values())
    curve = []
    for k in range(1, samples + 1):
        enough = {kind: count for kind, count in kinds.items() if kind[0] >= k}
        if n := sum(enough.values()):
            total = sum(count * pass_at_k(size, right, k) for (size, right), count in enough.items())
            curve.append(PassAtK(k, total / n, n))
    return tuple(curve)


def _majority_correct(questions: Questions) -> dict[str, bool]:
    return {
        key: maj_at_k([a.vote for a in answers], [a.correct for a in answers], len(answers))
        for key, answers in questions.items()
    }


def _majority_accuracy(questions: Questions) -> Estimate | None:
    right = list(_majority_correct(questions).values())
    if not right:
        return None
    low, high, _ = wilson(sum(right), len(right))
    return Estimate(sum(right) / len(right), low, high, len(right))


def _judgement(rows: Sequence[Row]) -> Judgement:
    answered = [row for row in rows if row["how"] not in ("none", "refused")]
    both = [row for row in answered if row["judged"] is not None]
    pairs = [(bool(row["judged"]), bool(row["correct"])) for row in both]
    counted = len(pairs) + len(rows) - len(answered)
    return Judgement(
        accuracy=sum(judged for judged, _ in pairs) / counted if counted else None,
        kappa=cohen_kappa([j for j, _ in pairs], [m for _, m in pairs]) if pairs else None,
        agreement=fmean(judged == matched for judged, matched in pairs) if pairs else None,
        n=len(pairs),
        invalid=len(answered) - len(both),
    )


def _against_baseline(runs: Sequence[_Run]) -> list[_Pending]:
    baselines = {(run.id.model, run.id.dataset): run for run in reversed(runs) if run.id.setting == BASELINE}
    compared = []
    for run in runs:
        base = baselines.get((run.id.model, run.id.dataset))
        shared = [budget for budget in run.budgets if base and budget in base.budgets]
        if base is None or run.id.setting == BASELINE or not shared:
            continue
        compared.append(_compare(run, BASELINE, shared[-1], run.scored[shared[-1]], base.scored[shared[-1]]))
    return [one for one in compared if one]


def _across_budgets(runs: Sequence[_Run]) -> list[_Pending]:
    compared = []
    for run in runs:
        first, last = run.budgets[0], run.budgets[-1]
        if first != last:
            compared.append(_compare(run, budget_name(first), last, run.scored[last], run.scored[first]))
    return [one for one in compared if one]


def _compare(run: _Run, versus: str, budget: int | None, ours: Questions, theirs: Questions) -> _Pending | None:
    shared = [key for key in ours if key in theirs]
    if not shared:
        return None
    mine, other = {key: ours[key] for key in shared}, {key: theirs[key] for key in shared}
    difference = paired_bootstrap(_correct(mine), _correct(other))
    right, before = _majority_correct(mine), _majority_correct(other)
    gained = sum(right[key] and not before[key] for key in shared)
    lost = sum(before[key] and not right[key] for key in shared)
    return _Pending(run.id, versus, budget, difference, gained, lost, mcnemar_exact(gained, lost))


def _corrected(pending: Sequence[_Pending]) -> tuple[Comparison, ...]:
    by_difference = holm([one.difference.p for one in pending])
    by_majority = holm([one.mcnemar_p for one in pending])
    return tuple(Comparison(*one, d, m) for one, d, m in zip(pending, by_difference, by_majority, strict=True))


def _groups(run: RunId, budget: int | None, rows: Sequence[Row], questions: Questions) -> tuple[Group, ...]:
    values = {
        row["question_key"]: ("unknown" if row["hops"] is None else str(row["hops"]), row["answer_type"])
        for row in rows
    }
    found = []
    kinds: tuple[Literal["hops", "answer_type"], ...] = ("hops", "answer_type")
    for place, by in enumerate(kinds):
        for value in sorted({both[place] for both in values.values()}):
            members = {key: answers for key, answers in questions.items() if values[key][place] == value}
            found.append(Group(run, budget, by, value, accuracy(_correct(members))))
    return tuple(found)


def budget_name(budget: int | None) -> str:
    """A budget as people read it."""
    return "no limit" if budget is None else str(budget)
