"""Plots of where students gain: datasets, hops, types of answers; how far confidence and judges can be trusted; teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from eval.plots import (
    INK,
    QUIET,
    RULE,
    Plot,
    baseline_style,
    by_setting,
    colour_of,
    datasets_of,
    dress,
    figure_of,
    legend,
    line,
    marker_of,
    models_of,
    panel_names,
    panels_of,
    scale_of,
    shown_with,
)
from eval.statistics import wilson
from eval.summary import Cell, Group, Summary, setting_rank

Row = Mapping[str, Any]

_GROUP_AXES = {"hops": "hops between question and answer", "answer_type": "type of the gold answer"}
_ROW_INCHES = 0.17  # of a dot plot


def accuracy_by_dataset(summary: Summary) -> Plot | None:
    """Accuracy at the largest budget with its 95% interval: a row a dataset, a mark a setting, a panel a model.

    None where the study has one dataset only.
    """
    datasets = datasets_of(summary)
    cells = [cell for cell in summary.largest if cell.accuracy]
    own = [cell for cell in cells if cell.run.role != "baseline"]
    students = panel_names(cell.run for cell in own)
    baselines = list(dict.fromkeys(cell.run.model for cell in cells if cell.run.role == "baseline"))
    if len(datasets) < 2 or not cells:
        return None
    settings = list(by_setting(cells))
    height = 0.75 + len(datasets) * (0.16 + 0.08 * max(len(settings), len(baselines)))
    figure, axes = figure_of(len(students) + bool(baselines), height)
    top, label = scale_of(cell.accuracy.high for cell in cells if cell.accuracy)
    for axis, model in zip(axes, students, strict=False):
        for cell in shown_with(model, own):
            place = datasets.index(cell.run.dataset) + _beside(settings.index(cell.run.setting), len(settings))
            style = {"color": colour_of(cell.run.setting), "marker": marker_of(cell.run.setting), "markersize": 4}
            _dot(axis, place, cell, style)
        dress(axis, model, "", label, "", top)
    if baselines:
        for cell in (cell for cell in cells if cell.run.role == "baseline"):
            place = baselines.index(cell.run.model)
            _dot(
                axes[-1], datasets.index(cell.run.dataset) + _beside(place, len(baselines)), cell, baseline_style(place)
            )
        dress(axes[-1], "Baselines", "", label, "", top)
    for axis in axes:
        _rows(axis, datasets, top)
    legend(figure, settings if students else (), baselines)
    return Plot("datasets", "Accuracy by dataset", figure)


def accuracy_by_group(summary: Summary, dataset: str, by: Literal["hops", "answer_type"]) -> Plot | None:
    """Accuracy by hops or answer type at the largest budget: a bar a setting with its interval, a panel a student.

    None without annotated questions.
    """
    groups = [g for g in summary.groups if g.run.dataset == dataset and g.by == by and g.value != "unknown"]
    models = models_of(group.run for group in groups)
    if not models:
        return None
    panels = [shown_with(model, groups) for model in models]
    shown = [group for panel in panels for group in panel]
    figure, axes = figure_of(len(models))
    top, label = scale_of(group.accuracy.high for group in shown)
    for axis, model, mine in zip(axes, models, panels, strict=True):
        _bars(axis, mine)
        dress(axis, model, "", f"{_GROUP_AXES[by]} (n questions)", label, top)
    legend(figure, {group.run.setting for group in shown}, bars=True)
    name = {"hops": "hops", "answer_type": "answer-types"}[by]
    return Plot(f"{name}-{dataset}", f"Accuracy by {name.replace('-', ' ')} on {dataset}", figure)


def reliability(summary: Summary, dataset: str) -> Plot | None:
    """Accuracy of the majority over its share of the votes: a line a setting, a panel a model; on the diagonal they agree.

    None where no question was answered more than once.
    """
    panels = panels_of((cell for cell in summary.largest if cell.calibration), dataset)
    if not panels:
        return None
    figure, axes = figure_of(len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        axis.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (2, 2)))
        for setting, (cell, *_) in by_setting(panel.cells).items():
            bins = cell.calibration.bins if cell.calibration else ()
            x, y = [one.confidence for one in bins], [one.accuracy.value for one in bins]
            low, high = [one.accuracy.low for one in bins], [one.accuracy.high for one in bins]
            axis.vlines(x, low, high, color=colour_of(setting), alpha=0.4, linewidth=1)
            line(axis, x, y, setting, linewidth=1.4, label=setting)
        dress(axis, panel.title, panel.note, "confidence (share of votes)", "accuracy of the majority", 1.0)
        axis.set_xlim(0, 1.02)
    legend(figure, {cell.run.setting for panel in panels for cell in panel.cells})
    return Plot(f"reliability-{dataset}", f"Accuracy of the majority by its share of votes on {dataset}", figure)


def judge_against_matcher(summary: Summary, dataset: str) -> Plot | None:
    """Accuracy of each run at its largest budget by the matcher (filled) and by the first judge (hollow), joined by a line.

    None where no run was judged.
    """
    judged = [
        (cell, cell.accuracy.value, cell.judge.accuracy)
        for cell in summary.largest
        if cell.run.dataset == dataset and cell.accuracy and cell.judge and cell.judge.accuracy is not None
    ]
    if not judged:
        return None
    cells = [cell for cell, *_ in judged]
    figure, (axis,) = figure_of(1, 1.1 + _ROW_INCHES * len(cells) + 0.12 * len({cell.run.model for cell in cells}))
    places = _places(cells)
    top, label = scale_of(max(matched, said) for _, matched, said in judged)
    for (cell, matched, said), place in zip(judged, places, strict=True):
        axis.plot([matched, said], [place, place], color=colour_of(cell.run.setting), linewidth=1.6, alpha=0.5)
        line(axis, [matched], [place], cell.run.setting)
        line(axis, [said], [place], cell.run.setting, markerfacecolor="none", markersize=6)
    dress(axis, dataset, "", label, "", top)
    _rows(axis, [], top)
    axis.set_yticks(places, [f"{cell.run.model}, {cell.run.setting}" for cell in cells], fontsize=7.5)
    axis.set_ylim(places[-1] + 0.8, places[0] - 0.8)
    return Plot(f"judges-{dataset}", f"Accuracy by matcher and by judge on {dataset}", figure)


def training_quality(rows: Sequence[Row]) -> Plot | None:
    """What the teachers' traces were worth, a bar a training set: share right (points: by the judge, near in meaning), traces
    kept for training, mean length of a thought.

    ``rows`` are those of the view ``training_quality``. None without a training set whose quality is known.
    """
    sets = sorted(
        (row for row in rows if row["candidates"]), key=lambda row: (setting_rank(row["recipe"]), row["name"])
    )
    if not sets:
        return None
    figure, axes = figure_of(3)
    places = range(len(sets))
    colours = [colour_of(row["recipe"]) for row in sets]
    accuracy = [row["accuracy"] or 0.0 for row in sets]
    limits = [wilson(share * row["candidates"], row["candidates"]) for share, row in zip(accuracy, sets, strict=True)]
    kept = [row["kept"] / row["candidates"] for row in sets]
    tokens = [row["mean_thinking_tokens"] or 0.0 for row in sets]
    shown = (
        ("Right traces", "share of the teachers' traces", accuracy, 1.0, "{:.0%}"),
        ("Kept for training", "share of the teachers' traces", kept, 1.0, "{:.0%}"),
        ("Length", "thinking tokens a trace", tokens, max(tokens) * 1.15 or 1.0, "{:,.0f}"),
    )
    for axis, (title, label, values, top, form) in zip(axes, shown, strict=True):
        axis.bar(places, values, 0.6, color=colours, alpha=0.8)
        if values is accuracy:
            axis.vlines(places, [one.low for one in limits], [one.high for one in limits], color=INK, linewidth=1.0)
        ends = [one.high for one in limits] if values is accuracy else values
        for place, (value, end) in enumerate(zip(values, ends, strict=True)):
            axis.annotate(form.format(value), (place, end), (0, 3), textcoords="offset points", ha="center", color=INK)
        axis.set_xticks(places, [f"{row['name']}\nn={row['candidates']:,}" for row in sets])
        dress(axis, title, label, "", "", top)
    _others(axes[0], sets)
    return Plot("training-quality", "Quality of the training sets", figure)


def _others(axis: Any, sets: Sequence[Row]) -> None:
    """Beside each bar of the matcher what a judge and the sentence encoder say, where they were asked."""
    for column, marker, name in (("judge_accuracy", "v", "by judge"), ("semantic_match", "^", "near in meaning")):
        points = [(place + 0.2, row[column]) for place, row in enumerate(sets) if row[column] is not None]
        if points:
            axis.plot(*zip(*points, strict=True), marker, color=INK, markersize=5, label=name)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(loc="upper right", frameon=False, fontsize=7.5, labelcolor=INK)


def _bars(axis: Any, groups: Sequence[Group]) -> None:
    values = sorted(
        {group.value for group in groups},
        key=lambda value: (not value.isdigit(), int(value) if value.isdigit() else 0, value),
    )
    settings = sorted({group.run.setting for group in groups}, key=lambda s: (setting_rank(s), s))
    width = 0.8 / len(settings)
    for place, setting in enumerate(settings):
        mine = [group for group in groups if group.run.setting == setting]
        x = [values.index(group.value) + (place - (len(settings) - 1) / 2) * width for group in mine]
        axis.bar(x, [g.accuracy.value for g in mine], width * 0.88, color=colour_of(setting), alpha=0.8, label=setting)
        axis.vlines(x, [g.accuracy.low for g in mine], [g.accuracy.high for g in mine], color=INK, linewidth=1.0)
    counts = {value: max(group.accuracy.n for group in groups if group.value == value) for value in values}
    axis.set_xticks(range(len(values)), [f"{value}\nn={counts[value]:,}" for value in values])


def _beside(place: int, places: int) -> float:
    """How far from the middle of a row the mark stands that is at ``place`` of ``places``."""
    return (place - (places - 1) / 2) * 0.7 / places


def _dot(axis: Any, place: float, cell: Cell, style: Mapping[str, Any]) -> None:
    if cell.accuracy:
        axis.hlines(place, cell.accuracy.low, cell.accuracy.high, color=style["color"], linewidth=1.2)
        axis.plot([cell.accuracy.value], [place], **style, clip_on=False)


def _rows(axis: Any, names: Sequence[str], top: float) -> None:
    """Turns a dressed axis on its side: values from left to right, names from top to bottom."""
    axis.set_xlim(0, top * 1.02)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.grid(visible=True, axis="x", color=RULE, linewidth=0.7)
    axis.grid(visible=False, axis="y")


def _places(cells: Sequence[Cell]) -> list[float]:
    """Where each run stands: one row each, and room between models."""
    places, place = [], 0.0
    for before, cell in zip([None, *cells], cells, strict=False):
        place += 0.0 if before is None else 1.0 if before.run.alias == cell.run.alias else 1.7
        places.append(place)
    return places
