"""Flat rows of the report's tables (``eval.tables``), made from the typed values of the summary."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.statistics import Estimate, wilson
from eval.summary import Cell, Comparison, Group, RunId, Summary

Row = Mapping[str, Any]
Flat = dict[str, Any]

WENT = ("traces", "cut", "forced", "unparsed", "refused", "missing")  # what became of a cell's traces


def result_row(cell: Cell) -> Flat:
    """A run at one budget."""
    last = cell.pass_at_k[-1] if cell.pass_at_k else None
    judge = cell.judge
    return (
        _run(cell.run, cell.budget)
        | {"questions": cell.questions, "samples": cell.samples, "n": cell.accuracy.n if cell.accuracy else 0}
        | _estimate(cell.accuracy)
        | _clean(cell)
        | _estimate(cell.majority, "majority", prefix="majority_")
        | {"pass_k": last.k if last else None, "pass_at_k": last.value if last else None}
        | {"pass_low": last.low if last else None, "pass_high": last.high if last else None}
        | _went(cell)
        | {
            "judge_accuracy": judge.accuracy if judge else None,
            "judge_kappa": judge.kappa if judge else None,
            "judge_n": judge.n if judge else None,
            "judge_invalid": judge.invalid if judge else None,
            "ece": cell.calibration.ece.value if cell.calibration else None,
            "thinking_tokens": cell.thinking_tokens,
            "generated_tokens": cell.generated_tokens,
        }
    )


def comparison_row(one: Comparison, cells: Mapping[tuple[str, int | None], Cell]) -> Flat:
    """A comparison, with the counts of its run's cell; ``cells`` are by run key and budget."""
    clean = one.clean
    return (
        _run(one.run, one.budget)
        | {
            "versus": one.versus,
            "n": one.difference.n,
            "difference": one.difference.diff,
            "low": one.difference.low,
            "high": one.difference.high,
            "n_clean": clean.n if clean else None,
            "difference_clean": clean.diff if clean else None,
            "low_clean": clean.low if clean else None,
            "high_clean": clean.high if clean else None,
            "gained": one.gained,
            "lost": one.lost,
            "p_bootstrap": one.difference.p,
            "p_mcnemar": one.mcnemar_p,
            "p_bootstrap_holm": one.holm_difference,
            "p_mcnemar_holm": one.holm_mcnemar,
            "outcome": one.outcome,
        }
        | _went(cells.get((one.run.run_key, one.budget)))
    )


def curve_rows(cell: Cell) -> list[Flat]:
    """pass@k and majority@k of a cell with their intervals, one row a k."""
    return [
        _run(cell.run, cell.budget)
        | {"k": one.k, "n": one.n, "pass_at_k": one.value, "pass_low": one.low, "pass_high": one.high}
        | {"majority_at_k": most.value, "majority_low": most.low, "majority_high": most.high}
        | _went(cell)
        for one, most in zip(cell.pass_at_k, cell.majority_at_k, strict=True)
    ]


def bin_rows(cell: Cell) -> list[Flat]:
    """The reliability bins of a cell."""
    whole = cell.calibration
    if whole is None:
        return []
    shared = _estimate(whole.ece, "ece", prefix="ece_") | {"ece_by_chance": whole.chance, "brier": whole.brier.value}
    return [
        _run(cell.run, cell.budget)
        | {"from_confidence": one.low, "to_confidence": one.high, "confidence": one.confidence, "n": one.n}
        | _estimate(one.accuracy)
        | shared
        | _went(cell)
        for one in whole.bins
    ]


def group_rows(groups: Sequence[Group], by: str) -> list[Flat]:
    """Accuracy on the questions of one hop count or answer type, as ``by`` says."""
    return [
        _run(group.run, group.budget)
        | {by: group.value, "n": group.accuracy.n}
        | _estimate(group.accuracy)
        | _clean(group)
        | {name: getattr(group, name) for name in ("traces", "cut", "unparsed", "refused", "missing")}
        for group in groups
        if group.by == by
    ]


def size_rows(cells: Sequence[Cell]) -> list[Flat]:
    """Models over the datasets that they answered in a setting, each at its largest budget; datasets weigh equally."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if cell.accuracy:
            found.setdefault((cell.run.role, cell.run.model, cell.run.setting), []).append(cell)
    rows = []
    for (role, model, setting), members in found.items():
        mean = mean_of([cell.accuracy for cell in members if cell.accuracy])
        about = {"model": model, "role": role, "parameters": members[0].run.parameters, "setting": setting}
        counts = {name: sum(getattr(cell, name) for cell in members) for name in WENT}
        rows.append(about | {"datasets": len(members), "n": mean.n} | _estimate(mean) | counts)
    return sorted(rows, key=lambda row: (row["role"] == "baseline", row["parameters"] or 0, row["model"]))


def length_rows(summary: Summary) -> list[Flat]:
    """Traces by the length of their thought; Wilson's interval counts traces, not questions."""
    found = []
    for one in summary.lengths:
        low, high, _ = wilson(one.correct, one.traces)
        found.append(
            _run(one.run, one.budget)
            | {"from_tokens": one.low, "to_tokens": one.high, "is_cut": one.cut, "mean_tokens": one.mean_tokens}
            | {
                "traces": one.traces,
                "correct": one.correct,
                "accuracy": one.correct / one.traces,
                "low": low,
                "high": high,
            }
        )
    return found


def quality_row(row: Row) -> Flat:
    """A training set, from the view ``training_quality``; Wilson's interval for the share of right traces."""
    known = row["candidates"] and row["accuracy"] is not None
    limits = wilson(min(row["accuracy"], 1.0) * row["candidates"], row["candidates"]) if known else None
    dropped = row["dropped"] if isinstance(row["dropped"], str | None) else json.dumps(row["dropped"], sort_keys=True)
    return {**row, "dropped": dropped, "low": limits.low if limits else None, "high": limits.high if limits else None}


def judged_rows(summary: Summary) -> list[Flat]:
    """Each judge on each run, beside the matcher."""
    found = []
    for cell in summary.largest:
        for judge in summary.judges:
            score = judge.runs.get(cell.run.run_key)
            if score is not None:
                found.append(
                    _run(cell.run, cell.budget)
                    | {"judge": judge.label, "judge_accuracy": score.accuracy, "n": score.matcher.n}
                    | _estimate(cell.accuracy)
                    | {"agreement": score.matcher.share, "kappa": score.matcher.kappa, "invalid": score.invalid}
                    | {"not_attempted": score.not_attempted if judge.question == "grade" else None}
                )
    return found


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, each of equal weight; ``n`` is their sum.

    Its interval is recovered from theirs by square-and-add (MOVER: Zou and Donner 2008, doi 10.1002/sim.3095), which keeps
    the asymmetry of intervals near 0 and 1.
    """
    size = len(estimates)
    value = sum(one.value for one in estimates) / size
    below = math.hypot(*(one.value - one.low for one in estimates)) / size
    above = math.hypot(*(one.high - one.value for one in estimates)) / size
    return Estimate(value, value - below, value + above, sum(one.n for one in estimates))


def _run(run: RunId, budget: int | None) -> Flat:
    return {
        "dataset": run.dataset,
        "model": run.model,
        "role": run.role,
        "parameters": run.parameters,
        "setting": run.setting,
        "budget": budget,
    }


def _estimate(estimate: Estimate | None, name: str = "accuracy", prefix: str = "", suffix: str = "") -> Flat:
    low, high = f"{prefix}low{suffix}", f"{prefix}high{suffix}"
    if estimate is None:
        return {f"{name}{suffix}": None, low: None, high: None}
    return {f"{name}{suffix}": estimate.value, low: estimate.low, high: estimate.high}


def _clean(one: Cell | Group) -> Flat:
    return {"flagged": one.flagged, "n_clean": one.clean.n if one.clean else None} | _estimate(
        one.clean, suffix="_clean"
    )


def _went(cell: Cell | None) -> Flat:
    return {name: getattr(cell, name) if cell else None for name in WENT}
