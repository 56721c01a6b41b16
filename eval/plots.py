"""The report's plots, as SVG text to stand inline in a page.

Colours are written as CSS variables with a fallback, so that a page recolours them for its dark scheme. A setting has
one colour and one marker everywhere (after Paul Tol's high-contrast set: it holds for colour-blind readers and in grey).
Accuracy axes start at 0 and end at 1, or, where everything is low, at a lower value that the axis label states. Equal
input gives equal bytes. Text is never read as mathematics: names come from outside.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from eval.summary import Cell, Group, Summary, budget_name, setting_rank

INK, QUIET, RULE = "#1f2328", "#59636e", "#d8dce1"
SETTING_COLOURS = {"instruct": "#6a737d", "cot": "#b07d05", "rt": "#1f5fa8", "fs1": "#c2405f"}
OTHER_COLOUR = "#7a4fa3"
MARKERS = {"instruct": "o", "cot": "^", "rt": "s", "fs1": "D"}
SMALL_N = 30

_VARIABLES = {INK: "ink", QUIET: "quiet", RULE: "rule", OTHER_COLOUR: "other"} | {
    colour: setting for setting, colour in SETTING_COLOURS.items()
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "factscale",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": RULE,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}
_COLUMNS = 3
_UNIT_WIDTH, _UNIT_HEIGHT = 3.7, 2.9  # inches of a panel when several share a row
_PIXELS_PER_POINT = 4 / 3


class Panel(NamedTuple):
    """One model's part of a figure: its cells, and a note that states n."""

    title: str
    note: str
    cells: tuple[Cell, ...]


def accuracy_by_budget(summary: Summary, dataset: str) -> str:
    """Accuracy over thinking budgets: a line a setting with its 95% interval as a band, a panel a model."""
    panels = _panels(summary, dataset)
    figure, axes = figure_of(len(panels))
    top, label = _scale(cell.accuracy.high for panel in panels for cell in panel.cells if cell.accuracy)
    for axis, panel in zip(axes, panels, strict=True):
        budgets = sorted({cell.budget for cell in panel.cells}, key=_budget_order)
        ends = []
        settings = _by_setting(panel.cells)
        for setting, cells in settings.items():
            points = [(budgets.index(c.budget), c.accuracy) for c in cells if c.accuracy]
            if not points:
                continue
            x = [place + _aside(setting, list(settings), len(budgets)) for place, _ in points]
            low, high = [e.low for _, e in points], [e.high for _, e in points]
            y = [e.value for _, e in points]
            if len(budgets) > 1:
                axis.fill_between(x, low, high, color=colour_of(setting), alpha=0.10, linewidth=0)
                ends.append((setting, x[-1], y[-1]))
            else:
                axis.vlines(x, low, high, color=colour_of(setting), linewidth=1.2)
                axis.text(x[0], high[0] + 0.03 * top, setting, color=colour_of(setting), ha="center", weight="bold")
            _line(axis, x, y, setting)
        axis.set_xticks(range(len(budgets)), [budget_name(budget) for budget in budgets])
        dress(axis, panel.title, panel.note, "thinking budget (tokens)", label, top)
        axis.set_xlim(-0.25, len(budgets) - 1 + max(0.55, 0.28 * len(budgets)))
        _label_ends(axis, ends, top)
    return svg_of(figure, f"budget-{dataset}", f"Accuracy by thinking budget on {dataset}")


def pass_at_k(summary: Summary, dataset: str) -> str | None:
    """pass@k at each run's largest budget: a line a setting, a panel a model. None where there is one sample only."""
    panels = _panels(summary, dataset, largest=True)
    if all(cell.samples == 1 for panel in panels for cell in panel.cells):
        return None
    figure, axes = figure_of(len(panels))
    top, label = _scale((p.value for panel in panels for cell in panel.cells for p in cell.pass_at_k), "pass@k")
    for axis, panel in zip(axes, panels, strict=True):
        ends = []
        most = max((p.k for cell in panel.cells for p in cell.pass_at_k), default=1)
        settings = _by_setting(panel.cells)
        for setting, (cell, *_) in settings.items():
            if not cell.pass_at_k:
                continue
            x = [p.k + _aside(setting, list(settings), most) for p in cell.pass_at_k]
            y = [p.value for p in cell.pass_at_k]
            _line(axis, x, y, setting)
            ends.append((setting, x[-1], y[-1]))
        axis.set_xticks(sorted({k for k in (1, 2, 4, 8, 16, 32, 64) if k <= most} | {most}))
        dress(axis, panel.title, panel.note, "k (samples a question)", label, top)
        axis.set_xlim(1 - 0.08 * most, most + max(0.45, 0.26 * most))
        _label_ends(axis, ends, top)
    return svg_of(figure, f"pass-{dataset}", f"pass@k at the largest budget on {dataset}")


def accuracy_by_hops(summary: Summary, dataset: str) -> str | None:
    """Accuracy by hops at the largest budget: a bar a setting with its interval. None without annotated hops."""
    groups = [g for g in summary.groups if g.run.dataset == dataset and g.by == "hops" and g.value != "unknown"]
    models = list(dict.fromkeys(group.run.model for group in groups))
    if not models:
        return None
    figure, axes = figure_of(len(models))
    top, label = _scale(group.accuracy.high for group in groups)
    for axis, model in zip(axes, models, strict=True):
        _hop_bars(axis, [group for group in groups if group.run.model == model])
        dress(axis, model, "", "hops between question and answer (n questions)", label, top)
        axis.legend(loc="upper right", frameon=False, ncols=2, fontsize=8, labelcolor=INK, handlelength=1.0)
    return svg_of(figure, f"hops-{dataset}", f"Accuracy by hops on {dataset}")


def loss_curves(students: Sequence[Mapping[str, Any]], logs: Sequence[Mapping[str, Any]]) -> str | None:
    """Training loss (line) and held-out loss (markers) by step, a panel a base model. None without a logged step."""
    logged = {str(row["student_key"]) for row in logs}
    shown = [student for student in students if student["student_key"] in logged]
    bases = sorted({str(student["base"]) for student in shown})
    if not bases:
        return None
    figure, axes = figure_of(len(bases))
    for axis, base in zip(axes, bases, strict=True):
        highest = 0.0
        for student in (s for s in shown if s["base"] == base):
            rows = [row for row in logs if row["student_key"] == student["student_key"]]
            highest = max(highest, _loss_lines(axis, str(student["recipe"]), rows))
        dress(axis, base, "", "optimiser step", "loss (nats a token)", highest * 1.08 or 1.0)
        axis.legend(loc="lower left", frameon=False, fontsize=8, labelcolor=INK)
    return svg_of(figure, "loss", "Training and held-out loss by step")


def colour_of(setting: str) -> str:
    """The colour of a setting in every plot."""
    return SETTING_COLOURS.get(setting, OTHER_COLOUR)


def _panels(summary: Summary, dataset: str, *, largest: bool = False) -> list[Panel]:
    cells = [cell for cell in (summary.largest if largest else summary.cells) if cell.run.dataset == dataset]
    panels = []
    for model, role in dict.fromkeys((cell.run.model, cell.run.role) for cell in cells):
        mine = tuple(cell for cell in cells if (cell.run.model, cell.run.role) == (model, role))
        panels.append(Panel(model, _stated_n(mine), mine))
    return panels


def _stated_n(cells: Sequence[Cell]) -> str:
    n = max((cell.accuracy.n for cell in cells if cell.accuracy), default=0)
    samples = max(cell.samples for cell in cells)
    return f"n = {n:,} x {samples} sample{'s' if samples > 1 else ''}{', small n' if n < SMALL_N else ''}"


def _aside(setting: str, settings: Sequence[str], places: int) -> float:
    """How far a setting's points stand beside their place, so that equal values do not hide one another."""
    return (settings.index(setting) - (len(settings) - 1) / 2) * (0.1 if places == 1 else 0.02 * (places - 1))


def _budget_order(budget: int | None) -> tuple[bool, int]:
    return budget is None, budget or 0


def _by_setting(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    order = sorted({cell.run.setting for cell in cells}, key=lambda s: (setting_rank(s), s))
    return {setting: [cell for cell in cells if cell.run.setting == setting] for setting in order}


def figure_of(panels: int) -> tuple[Figure, list[Any]]:
    """A figure in the style of the report, and its axes: as many as panels, three a row at most."""
    columns = min(max(panels, 1), _COLUMNS)
    rows = -(-max(panels, 1) // columns)
    width = 4.9 if columns == 1 else _UNIT_WIDTH * columns
    height = (3.3 if columns == 1 else _UNIT_HEIGHT) * rows
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
    axes = [axis for row in grid for axis in row]
    for spare in axes[panels:]:
        spare.set_visible(False)
    return figure, axes[:panels]


def _scale(values: Any, name: str = "accuracy") -> tuple[float, str]:
    """The upper end of an axis from 0, and its label, which says so where it is not 1."""
    highest = max(values, default=1.0)
    for end in (0.1, 0.2, 0.4):
        if highest <= end * 0.95:
            return end, f"{name} (axis ends at {end})"
    return 1.0, name


def dress(axis: Any, title: str, note: str, x_label: str, y_label: str, top: float) -> None:
    """Gives an axis its title, the note under it, its labels and its scale from 0 to ``top``; the y label once a row."""
    axis.set_title(title, loc="left", color=INK, weight="bold", pad=18 if note else 8)
    axis.annotate(note, (0, 1), (0, 6), "axes fraction", textcoords="offset points", color=QUIET, fontsize=8.5)
    axis.set_xlabel(x_label)
    if axis.get_subplotspec().is_first_col():
        axis.set_ylabel(y_label)
    axis.set_ylim(0, top * 1.02)
    axis.tick_params(length=0)


def _line(axis: Any, x: Sequence[float], y: Sequence[float], setting: str) -> None:
    marker = MARKERS.get(setting, "v")
    axis.plot(x, y, color=colour_of(setting), marker=marker, markersize=4.5, linewidth=1.8, clip_on=False)


def _label_ends(axis: Any, ends: Sequence[tuple[str, float, float]], top: float) -> None:
    """The setting's name at the end of its line; names that would overlap are pushed apart."""
    gap, floor = top * 0.075, 0.0
    places = []
    for setting, x, y in sorted(ends, key=lambda end: (end[2], setting_rank(end[0]))):
        place = max(y, floor)
        floor = place + gap
        places.append((setting, x, place))
    excess = max(0.0, floor - gap - top)  # a stack that runs over the top moves down as one
    reach = axis.get_xlim()[1] - axis.get_xlim()[0]
    for setting, x, place in places:
        axis.text(x + 0.03 * reach, place - excess, setting, color=colour_of(setting), va="center", weight="bold")


def _hop_bars(axis: Any, groups: Sequence[Group]) -> None:
    hops = sorted({group.value for group in groups}, key=int)
    settings = sorted({group.run.setting for group in groups}, key=lambda s: (setting_rank(s), s))
    width = 0.8 / len(settings)
    for place, setting in enumerate(settings):
        mine = [group for group in groups if group.run.setting == setting]
        x = [hops.index(group.value) + (place - (len(settings) - 1) / 2) * width for group in mine]
        axis.bar(x, [g.accuracy.value for g in mine], width * 0.88, color=colour_of(setting), alpha=0.8, label=setting)
        axis.vlines(x, [g.accuracy.low for g in mine], [g.accuracy.high for g in mine], color=INK, linewidth=1.0)
    counts = {hop: max(group.accuracy.n for group in groups if group.value == hop) for hop in hops}
    axis.set_xticks(range(len(hops)), [f"{hop}\nn={counts[hop]}" for hop in hops])


def _loss_lines(axis: Any, recipe: str, rows: Sequence[Mapping[str, Any]]) -> float:
    training = [(row["step"], row["loss"]) for row in rows if row["loss"] is not None]
    held_out = [(row["step"], row["held_out_loss"]) for row in rows if row["held_out_loss"] is not None]
    colour = colour_of(recipe)
    if training:
        axis.plot(*zip(*training, strict=True), color=colour, linewidth=1.3, label=f"{recipe}, training")
    if held_out:
        style = {"linestyle": "--", "marker": MARKERS.get(recipe, "v"), "markersize": 5, "linewidth": 1.3}
        axis.plot(*zip(*held_out, strict=True), color=colour, label=f"{recipe}, held out", **style)
    return max((loss for _, loss in training + held_out), default=0.0)


def svg_of(figure: Figure, name: str, title: str) -> str:
    """The figure as SVG text to stand inline. ``name`` keeps its ids apart in a page; ``title`` is read to the blind."""
    text = StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A glyph that matplotlib's own font lacks is drawn by the reader's browser, which has it.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), re.sub(r"\W+", "-", name), title)


def _inline(svg: str, prefix: str, title: str) -> str:
    """One plot among several in a page: no prolog, no metadata, ids of its own, the page's colours and font."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.S)
    body = re.sub(r"\bid=\"([^\"]+)\"", rf'id="{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r"href=\"#([^\"]+)\"", rf'href="#{prefix}-\1"', body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable}, {colour})")
    body = re.sub(r"font: ([^;\"']*?)'[^\"]*?sans-serif", r"font: \1sans-serif", body)
    width = re.search(r"width=\"([\d.]+)pt\" height=\"[\d.]+pt\"", body)
    if width is None:
        raise ValueError("matplotlib wrote an SVG without a size in points")
    pixels = round(float(width.group(1)) * _PIXELS_PER_POINT)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    sized = f'role="img" aria-label="{label}" class="plot" style="width: {pixels}px"'
    return body.replace(width.group(0), sized, 1)
