"""Plots of what scaling buys: thinking budgets, samples, model size, and the length that a thought takes by itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from eval.findings import magnitude
from eval.plots import (
    Panel,
    Plot,
    aside,
    baseline_style,
    by_setting,
    colour_of,
    datasets_of,
    dress,
    figure_of,
    label_ends,
    legend,
    line,
    models_of,
    panels_of,
    scale_of,
    shown_with,
    stated_n,
)
from eval.statistics import wilson
from eval.summary import Cell, LengthBin, Summary, budget_name, setting_rank
from store.types import budget_order

_NAME_LETTERS = 13  # of a model, before it goes on in the next line
_KS = (1, 2, 4, 8, 16, 32, 64)


def accuracy_by_budget(summary: Summary, dataset: str) -> Plot | None:
    """Accuracy over thinking budgets: a line a setting with its 95% interval as a band, a panel a model.

    Models that ran once, in one setting at one budget, share the last panel. None where nothing was scored.
    """
    panels = panels_of(summary.cells, dataset)
    single = [panel for panel in panels if len(panel.cells) == 1] if len(panels) > 1 else []
    panels = [panel for panel in panels if panel not in single]
    figure, axes = figure_of(len(panels) + bool(single))
    top, label = scale_of(cell.accuracy.high for panel in (*panels, *single) for cell in panel.cells if cell.accuracy)
    for axis, panel in zip(axes, panels, strict=False):
        _budget_lines(axis, panel, top)
        dress(axis, panel.title, panel.note, "thinking budget (tokens)", label, top)
    if single:
        _single_runs(axes[-1], [panel.cells[0] for panel in single], label, top)
    return Plot(f"budgets-{dataset}", f"Accuracy by thinking budget on {dataset}", figure) if axes else None


def pass_and_majority(summary: Summary, dataset: str) -> Plot | None:
    """pass@k (solid) and majority@k (dashed) at each run's largest budget: a colour a setting, a panel a model.

    None where every question was answered once.
    """
    panels = panels_of((cell for cell in summary.largest if cell.samples > 1), dataset)
    if not panels:
        return None
    figure, axes = figure_of(len(panels))
    curves = [curve for panel in panels for cell in panel.cells for curve in (cell.pass_at_k, cell.majority_at_k)]
    top, label = scale_of((point.value for curve in curves for point in curve), "share right")
    for axis, panel in zip(axes, panels, strict=True):
        ends = []
        most = max((point.k for cell in panel.cells for point in cell.pass_at_k), default=1)
        settings = by_setting(panel.cells)
        for setting, (cell, *_) in settings.items():
            if not cell.pass_at_k:
                continue
            beside = aside(setting, list(settings), most)
            passes, majority = cell.pass_at_k, cell.majority_at_k
            line(axis, [one.k + beside for one in passes], [one.value for one in passes], setting)
            axis.plot(
                [one.k + beside for one in majority],
                [one.value for one in majority],
                color=colour_of(setting),
                linewidth=1.4,
                linestyle=(0, (3, 2)),
                clip_on=False,
            )
            ends.append((setting, passes[-1].k + beside, passes[-1].value))
        axis.set_xticks(sorted({k for k in _KS if k <= most} | {most}))
        dress(axis, panel.title, panel.note, "k (samples a question)", label, top)
        axis.set_xlim(1 - 0.08 * most, most + max(0.45, 0.26 * most))
        label_ends(axis, ends, top)
    return Plot(f"parallel-{dataset}", f"pass@k and majority at the largest budget on {dataset}", figure)


def accuracy_by_model_size(summary: Summary) -> Plot | None:
    """Accuracy at the largest budget over the model's parameters: a line a setting with its 95% band, a panel a dataset.

    Baselines stand beside the lines as single points. None where fewer than two sizes of students are known.
    """
    cells = [cell for cell in summary.largest if cell.run.parameters and cell.accuracy]
    sizes = {(cell.run.dataset, cell.run.parameters) for cell in cells if cell.run.role != "baseline"}
    datasets = [name for name in datasets_of(summary) if sum(dataset == name for dataset, _ in sizes) > 1]
    if not datasets:
        return None
    figure, axes = figure_of(len(datasets))
    shown = [cell for cell in cells if cell.run.dataset in datasets]
    baselines = list(dict.fromkeys(cell.run.model for cell in shown if cell.run.role == "baseline"))
    top, label = scale_of(cell.accuracy.high for cell in shown if cell.accuracy)
    for axis, dataset in zip(axes, datasets, strict=True):
        mine = [cell for cell in shown if cell.run.dataset == dataset]
        _size_lines(axis, mine, baselines)
        dress(axis, dataset, stated_n(mine), "parameters (logarithmic)", label, top)
    legend(figure, {cell.run.setting for cell in shown if cell.run.role != "baseline"}, baselines)
    return Plot("model-size", "Accuracy by model size", figure)


def accuracy_by_length(summary: Summary, dataset: str) -> Plot | None:
    """Share of right traces by the length of their thought, in half octaves, at each run's largest budget.

    A colour a setting, a panel a student; solid with its 95% band for thoughts that ended by themselves, dotted for those
    that the budget cut. None where nothing was scored.
    """
    largest = {cell.run.run_key: cell.budget for cell in summary.largest}
    bins = [
        one
        for one in summary.lengths
        if one.run.dataset == dataset and one.budget == largest.get(one.run.run_key) and one.high > 1
    ]
    models = models_of(one.run for one in bins)
    if not models:
        return None
    panels = [shown_with(model, bins) for model in models]
    shown = [one for panel in panels for one in panel]
    figure, axes = figure_of(len(models))
    top, label = scale_of((one.correct / one.traces for one in shown), "share of traces right")
    for axis, model, mine in zip(axes, models, panels, strict=True):
        for setting in sorted({one.run.setting for one in mine}, key=setting_rank):
            _length_lines(axis, [one for one in mine if one.run.setting == setting], setting)
        note = (
            f"{sum(one.traces for one in mine):,} traces, {sum(one.traces for one in mine if one.cut):,} cut (dotted)"
        )
        logarithmic(axis, _octaves(mine))
        dress(axis, model, note, "thinking tokens (logarithmic)", label, top)
    legend(figure, {one.run.setting for one in shown})
    return Plot(f"lengths-{dataset}", f"Share of right traces by length of the thought on {dataset}", figure)


def logarithmic(axis: Any, ticks: Mapping[float, str]) -> None:
    """A logarithmic x axis with these ticks and no others."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_xticks([], minor=True)


def _size_lines(axis: Any, cells: Sequence[Cell], baselines: Sequence[str]) -> None:
    students = [cell for cell in cells if cell.run.role != "baseline"]
    lines: dict[tuple[str, str], list[Cell]] = {}
    for setting, members in by_setting(students).items():
        for cell in members:  # a line a mix and variant: `alias/variant` goes on where the other size has it too
            lines.setdefault((setting, cell.run.model.removeprefix(cell.run.alias)), []).append(cell)
    for (setting, student), mine in lines.items():
        points = sorted((cell.run.parameters or 0, cell.accuracy) for cell in mine if cell.accuracy)
        x, y = [size for size, _ in points], [estimate.value for _, estimate in points]
        low, high = [estimate.low for _, estimate in points], [estimate.high for _, estimate in points]
        axis.fill_between(x, low, high, color=colour_of(setting), alpha=0.10, linewidth=0)
        line(axis, x, y, setting)
        if student:
            axis.annotate(
                student[1:], (x[-1], y[-1]), (4, 4), textcoords="offset points", fontsize=7, color=colour_of(setting)
            )
    for cell in cells:
        if cell.run.role == "baseline" and cell.accuracy:
            axis.plot([cell.run.parameters], [cell.accuracy.value], **baseline_style(baselines.index(cell.run.model)))
    logarithmic(axis, _apart({size: magnitude(size) for size in sorted({cell.run.parameters or 0 for cell in cells})}))


def _apart(ticks: Mapping[float, str]) -> dict[float, str]:
    """The ticks without those whose names would run into the one before."""
    found: dict[float, str] = {}
    far = math.log(max(ticks) / min(ticks)) / 6.5
    for place, name in ticks.items():
        if not found or math.log(place / list(found)[-1]) >= far:
            found[place] = name
    return found


def _octaves(bins: Sequence[LengthBin]) -> dict[float, str]:
    first, last = (round(math.log2(end)) for end in (min(one.low for one in bins), max(one.high for one in bins)))
    step = max(1, -(-(last - first) // 6))
    return {2.0**power: f"{2**power:,}" for power in range(first, last + 1, step)}


def _length_lines(axis: Any, bins: Sequence[LengthBin], setting: str) -> None:
    for cut in (False, True):
        mine = sorted((one for one in bins if one.cut == cut), key=lambda one: one.low)
        if not mine:
            continue
        x, y = [one.mean_tokens for one in mine], [one.correct / one.traces for one in mine]
        if cut:
            line(axis, x, y, setting, linestyle=":", markerfacecolor="none", markersize=4, linewidth=1.3)
        else:
            limits = [wilson(one.correct, one.traces) for one in mine]
            low, high = [one.low for one in limits], [one.high for one in limits]
            axis.fill_between(x, low, high, color=colour_of(setting), alpha=0.10, linewidth=0)
            line(axis, x, y, setting, markersize=3.5, linewidth=1.5, label=setting)


def _budget_lines(axis: Any, panel: Panel, top: float) -> None:
    budgets = sorted({cell.budget for cell in panel.cells}, key=budget_order)
    settings, ends = by_setting(panel.cells), []
    for setting, cells in settings.items():
        points = [(budgets.index(c.budget), c.accuracy) for c in cells if c.accuracy]
        if not points:
            continue
        x = [place + aside(setting, list(settings), len(budgets)) for place, _ in points]
        low, high, y = ([getattr(e, name) for _, e in points] for name in ("low", "high", "value"))
        if len(budgets) > 1:
            axis.fill_between(x, low, high, color=colour_of(setting), alpha=0.10, linewidth=0)
            ends.append((setting, x[-1], y[-1]))
        else:
            axis.vlines(x, low, high, color=colour_of(setting), linewidth=1.2)
            axis.text(x[0], high[0] + 0.03 * top, setting, color=colour_of(setting), ha="center", weight="bold")
        line(axis, x, y, setting)
    axis.set_xticks(range(len(budgets)), [budget_name(budget) for budget in budgets])
    axis.set_xlim(-0.25, len(budgets) - 1 + max(0.55, 0.28 * len(budgets)))
    label_ends(axis, ends, top)


def _single_runs(axis: Any, cells: Sequence[Cell], label: str, top: float) -> None:
    for place, cell in enumerate(cells):
        if cell.accuracy:
            axis.vlines(place, cell.accuracy.low, cell.accuracy.high, color=colour_of(cell.run.setting), linewidth=1.2)
            line(axis, [place], [cell.accuracy.value], cell.run.setting)
    axis.set_xticks(range(len(cells)), [_wrapped(cell.run.model) for cell in cells], fontsize=7.5)
    dress(axis, "At one budget only", stated_n(cells), "", label, top)
    axis.set_xlim(-0.6, len(cells) - 0.4)


def _wrapped(name: str) -> str:
    """A model's name in lines, broken after its dashes."""
    lines = [""]
    for part in re.split(r"(?<=[-/ ])", name):
        if lines[-1] and len(lines[-1]) + len(part) > _NAME_LETTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
