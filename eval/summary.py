"""From scores of questions to statistics: everything the report says in numbers, as typed values.

A *cell* is one run (model, setting, dataset) at one budget. A trace that did not land, or was not scored yet, is
missing: counted and left out. A refused or unparsed answer is an answer, and wrong. Comparisons are paired by question.
*Clean* estimates leave out the questions that overlap with what students were trained on.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from eval.agreement import JudgeSummary
from eval.calibration import Calibration, calibrate
from eval.overlap import OverlapSummary
from eval.statistics import (
    Estimate,
    PairedDifference,
    accuracy_of_means,
    cohen_kappa_of_counts,
    holm,
    mcnemar_exact,
    paired_bootstrap_of_means,
    pass_curve,
    wilson,
)
from store.types import Frozen, budget_order

Row = Mapping[str, Any]
Outcome = Literal["gain", "loss", "unclear", "none"]

BASELINE = "instruct"
SETTING_ORDER = ("instruct", "cot", "rt", "fs1", "mix")
UNTRAINED = ("instruct", "cot")
SIGNIFICANCE = 0.05


class RunId(NamedTuple):
    """Which run: ``role`` is student or baseline; ``model`` names it in tables: the alias of the base model, with mix and
    variant where it has several students in one setting (``alias/variant``); ``parameters`` is their number.

    ``base`` is the alias alone (empty: ``model``), ``variant`` that of a sweep.
    """

    run_key: str
    role: str
    model: str
    setting: str
    dataset: str
    parameters: int | None = None
    base: str = ""
    variant: str = ""

    @property
    def alias(self) -> str:
        """The alias of the base model."""
        return self.base or self.model


class PassAtK(NamedTuple):
    """Unbiased pass@k over the ``n`` questions that have at least k samples (Chen et al. 2021), with its interval."""

    k: int
    value: float
    n: int
    low: float
    high: float


class MajorityAtK(NamedTuple):
    """Accuracy of the majority of the first k samples, over the ``n`` questions that have at least k of them."""

    k: int
    value: float
    n: int
    low: float
    high: float


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

    Counts are of traces; ``questions`` were asked, ``accuracy.n`` of them have at least one scored trace. ``flagged`` of
    these overlap with training, and ``clean`` is the accuracy without them (None: nothing is left, or nothing was
    flagged). ``calibration`` holds the agreement among samples against the majority's being right, at the largest budget
    (None elsewhere, and for one sample).
    Token numbers are means a trace; ``generated_tokens`` adds the answer's.
    """

    run: RunId
    budget: int | None
    questions: int
    samples: int
    traces: int
    accuracy: Estimate | None
    majority: Estimate | None
    pass_at_k: tuple[PassAtK, ...]
    majority_at_k: tuple[MajorityAtK, ...]
    flagged: int
    clean: Estimate | None
    calibration: Calibration | None
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

    ``difference`` is of mean accuracy, with a paired bootstrap interval; ``clean`` the same without the questions that
    overlap with training (None: nothing flagged, or nothing left). ``gained`` and ``lost`` count questions whose majority
    answer turned right and wrong, which McNemar's exact test compares. Both p-values are Holm-corrected across their
    table; an outcome counts as told only where both tests agree.
    """

    run: RunId
    versus: str
    budget: int | None
    difference: PairedDifference
    clean: PairedDifference | None
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
    """Accuracy of a run at its largest budget on the questions whose ``by`` (hops, answer_type) is ``value``.

    ``clean`` is that without the ``flagged`` questions; counts are of ``traces``.
    """

    run: RunId
    budget: int | None
    by: Literal["hops", "answer_type"]
    value: str
    accuracy: Estimate
    flagged: int
    clean: Estimate | None
    traces: int
    cut: int
    unparsed: int
    refused: int
    missing: int


class LengthBin(NamedTuple):
    """Traces of a run at one budget whose thought has ``low`` to ``high`` tokens (half an octave), cut or ended by itself."""

    run: RunId
    budget: int | None
    low: float
    high: float
    cut: bool
    traces: int
    correct: int
    mean_tokens: float


class Baseline(Frozen):
    """What runs are compared with: a setting of the same base model, or, where ``model`` is named, that model's run.

    Where several students of the base have that setting, it is that of the same variant, else the first.
    """

    setting: str = BASELINE
    model: str | None = None

    @property
    def label(self) -> str:
        """The baseline as tables name it."""
        return self.setting if self.model is None else f"{self.model}, {self.setting}"


OWN_INSTRUCT = Baseline()


class Summary(Frozen):
    """All statistics of a study. ``comparisons`` are against the ``baseline``, at the largest budget that both have (with a
    named model that shares none: each at its own largest);
    ``budget_gains`` compare each run's largest budget with its smallest; ``judges`` are all model judges; ``overlaps`` say,
    a dataset each, how many questions overlap with training (empty: not looked for)."""

    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    budget_gains: tuple[Comparison, ...]
    groups: tuple[Group, ...]
    lengths: tuple[LengthBin, ...] = ()
    judges: tuple[JudgeSummary, ...] = ()
    overlaps: tuple[OverlapSummary, ...] = ()
    baseline: Baseline = OWN_INSTRUCT

    @property
    def largest(self) -> tuple[Cell, ...]:
        """The cells at each run's largest budget, in the order of the table."""
        last = {cell.run.run_key: cell for cell in self.cells}
        return tuple(last.values())


class Scores(NamedTuple):
    """The scored questions of one run at one budget, a column each of shape (questions,); see ``question_scores``.

    ``majority`` has shape (questions, most samples): right or not at each k, and -1 beyond a question's own samples.
    """

    question_key: npt.NDArray[np.object_]
    hops: npt.NDArray[np.object_]
    answer_type: npt.NDArray[np.object_]
    flagged: npt.NDArray[np.bool_]
    samples: npt.NDArray[np.int64]
    correct: npt.NDArray[np.int64]
    majority: npt.NDArray[np.int8]
    votes: npt.NDArray[np.int64]
    counts: Mapping[str, npt.NDArray[np.int64]]

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """The share of right samples of each question."""
        return np.asarray(self.correct / self.samples, dtype=np.float64)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the majority of all samples of each question is right."""
        return np.asarray(self.majority[np.arange(len(self.samples)), self.samples - 1] == 1)

    def total(self, name: str) -> int:
        """The sum of a count over the questions."""
        return int(self.counts[name].sum())

    def of(self, chosen: npt.NDArray[Any]) -> Scores:
        """The questions of a mask or of indices."""
        columns = {name: getattr(self, name)[chosen] for name in self._fields if name != "counts"}
        return Scores(**columns, counts={name: values[chosen] for name, values in self.counts.items()})


COUNTS = (
    *("cut", "forced", "unparsed", "refused", "judged", "judged_correct", "judged_matched", "judged_both"),
    *("thinking_tokens", "answer_tokens"),
)


class _Pending(NamedTuple):
    run: RunId
    versus: str
    budget: int | None
    difference: PairedDifference
    clean: PairedDifference | None
    gained: int
    lost: int
    mcnemar_p: float


class _Run(NamedTuple):
    id: RunId
    asked: Row
    scored: dict[int | None, Scores]

    @property
    def budgets(self) -> tuple[int | None, ...]:
        return tuple(sorted(self.asked["budgets"], key=budget_order))


def summarise(
    scores: Iterable[tuple[str, int | None, Mapping[str, Any]]],
    runs: Sequence[Row],
    judges: Sequence[JudgeSummary] = (),
    *,
    lengths: Iterable[Row] = (),
    overlaps: Sequence[OverlapSummary] = (),
    baseline: Baseline = OWN_INSTRUCT,
) -> Summary:
    """Statistics of a study from ``store.queries``: ``score_columns``, ``run_rows`` and ``length_rows``.

    ``judges`` come from :func:`eval.agreement.summarise_judges`, ``overlaps`` from :func:`eval.overlap.summarise_overlaps`.
    Runs whose role is ``teacher`` are left out. Raises ValueError if the scores name no run of the study.
    """
    known = {row["run_key"]: _Run(_identity(row), row, {}) for row in runs}
    for key, budget, columns in scores:
        if key not in known:
            raise ValueError(f"scores of run {key}, which is not one of the study")
        known[key].scored[budget] = _scores(columns)
    order = [run for run in known.values() if run.id.role != "teacher"]
    order.sort(key=lambda run: (run.id.role == "baseline", *run_order(run.id)))
    return Summary(
        cells=tuple(_cell(run, budget) for run in order for budget in run.budgets),
        comparisons=_corrected(_against(baseline, order)),
        budget_gains=_corrected(_across_budgets(order)),
        groups=tuple(group for run in order for group in _groups(run)),
        lengths=tuple(_length_bin(known[row["run_key"]].id, row) for row in lengths if row["run_key"] in known),
        judges=tuple(judges),
        overlaps=tuple(overlaps),
        baseline=baseline,
    )


def run_order(run: RunId) -> tuple[str, int, str, int, str]:
    """Sort key of runs: dataset, model from small to large, then the settings in the order of the study."""
    return run.dataset, run.parameters or 0, run.model, setting_rank(run.setting), run.setting


def setting_rank(setting: str) -> int:
    """Place of a setting in tables and plots; unknown ones come last."""
    return SETTING_ORDER.index(setting) if setting in SETTING_ORDER else len(SETTING_ORDER)


def budget_name(budget: int | None) -> str:
    """A budget as people read it."""
    return "no limit" if budget is None else str(budget)


def _identity(run: Row) -> RunId:
    return RunId(
        run["run_key"],
        run["role"],
        run["model"],
        run["setting"],
        run["dataset"],
        run["parameters"],
        run.get("base") or run["model"],
        run.get("variant") or "",
    )


def _scores(columns: Mapping[str, Any]) -> Scores:
    lists = [list(one) for one in columns["majority"]]
    majority = np.full((len(lists), max(map(len, lists), default=1)), -1, dtype=np.int8)
    for place, values in enumerate(lists):
        majority[place, : len(values)] = values
    return Scores(
        question_key=np.array(columns["question_key"], dtype=object),
        hops=np.array([_kind(hops) for hops in columns["hops"]], dtype=object),
        answer_type=np.array(columns["answer_type"], dtype=object),
        flagged=np.array(columns["flagged"], dtype=bool),
        samples=np.array(columns["samples"], dtype=np.int64),
        correct=np.array(columns["correct"], dtype=np.int64),
        majority=majority,
        votes=np.array(columns["votes"], dtype=np.int64),
        counts={name: np.array(columns[name], dtype=np.int64) for name in COUNTS},
    )


def _cell(run: _Run, budget: int | None) -> Cell:
    asked, scores = run.asked, run.scored.get(budget)
    wanted = asked["questions"] * asked["samples"]
    if scores is None:
        return Cell(run.id, budget, asked["questions"], asked["samples"], **_NOTHING, missing=wanted)
    traces = int(scores.samples.sum())
    thinking, answers = scores.total("thinking_tokens"), scores.total("answer_tokens")
    return Cell(
        run=run.id,
        budget=budget,
        questions=asked["questions"],
        samples=asked["samples"],
        traces=traces,
        accuracy=accuracy_of_means(scores.means),
        majority=_majority(scores),
        pass_at_k=_pass_curve(scores),
        majority_at_k=_majority_curve(scores),
        flagged=int(scores.flagged.sum()),
        clean=_clean(scores),
        calibration=_calibration(scores) if budget == run.budgets[-1] else None,
        cut=scores.total("cut"),
        forced=scores.total("forced"),
        unparsed=scores.total("unparsed"),
        refused=scores.total("refused"),
        missing=wanted - traces,
        judge=None if asked["judge"] is None else _judgement(scores),
        thinking_tokens=thinking / traces,
        generated_tokens=(thinking + answers) / traces,
    )


# A cell of which no trace is scored yet.
_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("traces", "flagged", "cut", "forced", "unparsed", "refused"), 0),
    **dict.fromkeys(("accuracy", "majority", "clean", "calibration", "judge", "thinking_tokens", "generated_tokens")),
    "pass_at_k": (),
    "majority_at_k": (),
}


def _clean(scores: Scores) -> Estimate | None:
    kept = ~scores.flagged
    return accuracy_of_means(scores.means[kept]) if kept.any() and not kept.all() else None


def _pass_curve(scores: Scores) -> tuple[PassAtK, ...]:
    curve = pass_curve(scores.samples.tolist(), scores.correct.tolist())
    return tuple(PassAtK(k, one.value, one.n, one.low, one.high) for k, one in enumerate(curve, start=1))


def _majority_curve(scores: Scores) -> tuple[MajorityAtK, ...]:
    there, right = (scores.majority >= 0).sum(axis=0), (scores.majority == 1).sum(axis=0)
    curve = []
    for k, n in enumerate(there.tolist(), start=1):
        low, high, _ = wilson(int(right[k - 1]), n)
        curve.append(MajorityAtK(k, int(right[k - 1]) / n, n, low, high))
    return tuple(curve)


def _majority(scores: Scores) -> Estimate:
    right, n = int(scores.right.sum()), len(scores.samples)
    low, high, _ = wilson(right, n)
    return Estimate(right / n, low, high, n)


def _calibration(scores: Scores) -> Calibration | None:
    several = scores.samples > 1
    if not several.any():
        return None
    chosen = scores.of(several)
    return calibrate((chosen.votes / chosen.samples).tolist(), chosen.right.tolist())


def _judgement(scores: Scores) -> Judgement:
    n, said, matched, both = (
        scores.total(name) for name in ("judged", "judged_correct", "judged_matched", "judged_both")
    )
    unanswered = scores.total("unparsed") + scores.total("refused")
    table: dict[tuple[Hashable, Hashable], int] = {
        (True, True): both,
        (True, False): said - both,
        (False, True): matched - both,
        (False, False): n - said - matched + both,
    }
    return Judgement(
        accuracy=said / (n + unanswered) if n + unanswered else None,
        kappa=cohen_kappa_of_counts(table) if n else None,
        agreement=(table[True, True] + table[False, False]) / n if n else None,
        n=n,
        invalid=int(scores.samples.sum()) - unanswered - n,
    )


def _against(baseline: Baseline, runs: Sequence[_Run]) -> list[_Pending]:
    compared = []
    for run in runs:
        base = _baseline_of(baseline, run, runs)
        if base is None or base is run or (baseline.model is None and run.id.setting == baseline.setting):
            continue
        shared = [budget for budget in run.budgets if budget in base.budgets]
        # A hosted baseline has one budget of its own: then each is taken as far as it thinks.
        if shared or baseline.model is not None:
            mine, theirs = (shared[-1], shared[-1]) if shared else (run.budgets[-1], base.budgets[-1])
            compared.append(_compare(run, baseline.label, mine, base.scored.get(theirs)))
    return [one for one in compared if one]


def _baseline_of(baseline: Baseline, run: _Run, runs: Sequence[_Run]) -> _Run | None:
    wanted = baseline.model or run.id.alias
    found = [
        one
        for one in runs
        if (one.id.setting, one.id.dataset) == (baseline.setting, run.id.dataset)
        and wanted in (one.id.model, one.id.alias)
    ]
    return min(found, key=lambda one: (one.id.model != wanted, one.id.variant != run.id.variant), default=None)


def _across_budgets(runs: Sequence[_Run]) -> list[_Pending]:
    compared = []
    for run in runs:
        first, last = run.budgets[0], run.budgets[-1]
        if first != last:
            compared.append(_compare(run, budget_name(first), last, run.scored.get(first)))
    return [one for one in compared if one]


def _compare(run: _Run, versus: str, budget: int | None, theirs: Scores | None) -> _Pending | None:
    ours = run.scored.get(budget)
    if ours is None or theirs is None:
        return None
    _, here, there = np.intersect1d(ours.question_key, theirs.question_key, assume_unique=True, return_indices=True)
    if len(here) == 0:
        return None
    mine, other = ours.of(here), theirs.of(there)
    kept = ~mine.flagged
    gained = int((mine.right & ~other.right).sum())
    lost = int((other.right & ~mine.right).sum())
    return _Pending(
        run=run.id,
        versus=versus,
        budget=budget,
        difference=paired_bootstrap_of_means(mine.means, other.means),
        clean=paired_bootstrap_of_means(mine.means[kept], other.means[kept]) if kept.any() and not kept.all() else None,
        gained=gained,
        lost=lost,
        mcnemar_p=mcnemar_exact(gained, lost),
    )


def _corrected(pending: Sequence[_Pending]) -> tuple[Comparison, ...]:
    by_difference = holm([one.difference.p for one in pending])
    by_majority = holm([one.mcnemar_p for one in pending])
    return tuple(Comparison(*one, d, m) for one, d, m in zip(pending, by_difference, by_majority, strict=True))


def _groups(run: _Run) -> list[Group]:
    budget = run.budgets[-1]
    scores = run.scored.get(budget)
    if scores is None:
        return []
    kinds: tuple[Literal["hops", "answer_type"], ...] = ("hops", "answer_type")
    found = []
    for by in kinds:
        values = getattr(scores, by)
        for value in sorted(set(values)):
            members = scores.of(values == value)
            found.append(
                Group(
                    run=run.id,
                    budget=budget,
                    by=by,
                    value=value,
                    accuracy=accuracy_of_means(members.means),
                    flagged=int(members.flagged.sum()),
                    clean=_clean(members),
                    traces=int(members.samples.sum()),
                    cut=members.total("cut"),
                    unparsed=members.total("unparsed"),
                    refused=members.total("refused"),
                    missing=_asked(run.asked, by, value) - int(members.samples.sum()),
                )
            )
    return found


def _asked(run: Row, by: str, value: str) -> int:
    """Traces that a run asked for at one budget, of the questions whose ``by`` is ``value``."""
    questions = sum(kind["questions"] for kind in run["asked"] if _kind(kind[by]) == value)
    return int(questions * run["samples"])


def _kind(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _length_bin(run: RunId, row: Row) -> LengthBin:
    low, high = (0.0, 1.0) if row["bin"] < 0 else (2 ** (row["bin"] / 2), 2 ** ((row["bin"] + 1) / 2))
    return LengthBin(
        run, row["budget"], low, high, row["cut"], row["traces"], row["correct"], row["tokens"] / row["traces"]
    )
