"""How the report's plots look, and how they are written (what they show: ``eval.scaling_plots``, ``eval.analysis_plots``).

A :class:`Plot` is drawn inline in a page, as a picture of its own, and as pixels. Inline, colours are CSS variables with a
fallback, so that a page recolours them for its dark scheme. A setting has one colour and one marker everywhere (after
Paul Tol's high-contrast set: it holds for colour-blind readers and in grey). Accuracy axes start at 0 and end at 1, or,
where everything is low, at a lower value that the axis label states. Equal input gives equal bytes. Text is never read as
mathematics: names come from outside.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO, StringIO
from typing import Any, NamedTuple, TypeVar

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from eval.pages import file_slug
from eval.summary import UNTRAINED, Cell, Group, LengthBin, RunId, Summary, setting_rank

Item = TypeVar("Item", Cell, Group, LengthBin)

INK, QUIET, RULE = "#1f2328", "#59636e", "#d8dce1"
SETTING_COLOURS = {"instruct": "#6a737d", "cot": "#946800", "rt": "#1f5fa8", "fs1": "#c2405f", "mix": "#0f6b62"}
OTHER_COLOUR = "#7a4fa3"
MARKERS = {"instruct": "o", "cot": "^", "rt": "s", "fs1": "D", "mix": "P"}
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
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
_COLUMNS = 3
_UNIT_WIDTH, _UNIT_HEIGHT = 3.7, 2.9  # inches of a panel when several share a row
_PIXELS_PER_POINT = 4 / 3
_DPI = 200
_LEGEND_COLUMNS = 5
_BASELINE_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


class Panel(NamedTuple):
    """One model's part of a figure: its cells, and a note that states n."""

    title: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, eq=False)
class Plot:
    """A drawn figure. ``name`` is that of its files and keeps its ids apart in a page; ``title`` is read to the blind."""

    name: str
    title: str
    figure: Figure

    @property
    def file(self) -> str:
        """The name of its files, without an ending."""
        return file_slug(self.name)

    @cached_property
    def inline(self) -> str:
        """SVG text to stand in a page, in the page's colours and font."""
        return _inline(self._drawn, self.file, self.title)

    @cached_property
    def svg(self) -> str:
        """SVG text of a file of its own, on white, with colours that need no page."""
        ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
        titled = re.sub(
            r"<svg [^>]*>",
            lambda tag: f"{tag.group()}\n <title>{_escaped(self.title)}</title>{ground}",
            self._drawn,
            count=1,
        )
        return '<?xml version="1.0" encoding="utf-8"?>\n' + titled

    @cached_property
    def png(self) -> bytes:
        """Pixels on white, 200 to the inch."""
        pixels = BytesIO()
        with self._ready() as figure:
            figure.set_dpi(_DPI)
            figure.patch.set_facecolor("white")
            FigureCanvasAgg(figure).print_png(pixels, metadata={"Software": None})
            figure.patch.set_facecolor("none")
        return pixels.getvalue()

    @cached_property
    def _drawn(self) -> str:
        text = StringIO()
        with self._ready() as figure:
            FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
        svg = text.getvalue()
        body = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.S)
        # A hundredth of a point is finer than any screen, and half the bytes; texts are left as they are.
        return re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), body)

    @contextmanager
    def _ready(self) -> Iterator[Figure]:
        """The figure, laid out: once, and drawn once a form, which ``savefig`` would each do again."""
        with mpl.rc_context(_STYLE), warnings.catch_warnings():
            # A glyph that matplotlib's own font lacks is drawn by the reader's browser, which has it.
            warnings.filterwarnings("ignore", message="Glyph")
            engine = self.figure.get_layout_engine()
            if engine is not None:
                engine.execute(self.figure)
                self.figure.set_layout_engine("none")
            yield self.figure


def colour_of(setting: str) -> str:
    """The colour of a setting in every plot."""
    return SETTING_COLOURS.get(setting, OTHER_COLOUR)


def figure_of(panels: int, height: float | None = None) -> tuple[Figure, list[Any]]:
    """A figure in the style of the report, and its axes: as many as panels, three a row at most.

    ``height`` is that of a panel in inches, where the usual one does not fit.
    """
    columns = min(max(panels, 1), _COLUMNS)
    rows = -(-max(panels, 1) // columns)
    width = 4.9 if columns == 1 else _UNIT_WIDTH * columns
    high = (height or (3.3 if columns == 1 else _UNIT_HEIGHT)) * rows
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, high), layout=ConstrainedLayoutEngine(h_pad=0.07))
        FigureCanvasSVG(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
    axes = [axis for row in grid for axis in row]
    for spare in axes[panels:]:
        spare.set_visible(False)
    return figure, axes[:panels]


def panels_of(cells: Iterable[Cell], dataset: str) -> list[Panel]:
    """The cells of a dataset, a panel a model, in the order of the cells; see :func:`panel_names` and :func:`shown_with`."""
    mine = [cell for cell in cells if cell.run.dataset == dataset]
    panels = []
    for role in dict.fromkeys(cell.run.role for cell in mine):
        of_role = [cell for cell in mine if cell.run.role == role]
        for model in panel_names(cell.run for cell in of_role):
            shown = shown_with(model, of_role)
            panels.append(Panel(model, stated_n(shown), tuple(shown)))
    return panels


def panel_names(runs: Iterable[RunId]) -> list[str]:
    """The models that get a panel, in the order of the runs. A base that was only asked as it is has none of its own where
    students of it have one: it stands in theirs."""
    runs = list(runs)
    bases = {run.alias for run in runs if run.model != run.alias}
    untrained = {run.model for run in runs} - {run.model for run in runs if run.setting not in UNTRAINED}
    return [model for model in dict.fromkeys(run.model for run in runs) if model not in bases & untrained]


def shown_with(model: str, items: Iterable[Item]) -> list[Item]:
    """What the panel of a model shows: its own, and before it what its base did as it is."""
    items = list(items)
    base = next((item.run.alias for item in items if item.run.model == model), model)
    return [
        item for item in items if item.run.model == model or (item.run.model == base and item.run.setting in UNTRAINED)
    ]


def datasets_of(summary: Summary) -> list[str]:
    """The datasets of the study, in the order of its table."""
    return list(dict.fromkeys(cell.run.dataset for cell in summary.cells))


def models_of(runs: Iterable[RunId]) -> list[str]:
    """The models that have a panel where details are shown, from small to large: students, or baselines without any."""
    ordered = sorted(runs, key=lambda run: (run.parameters or 0, run.model, run.role))
    students = [run for run in ordered if run.role != "baseline"]
    return panel_names(students or ordered)


def by_setting(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """The cells of each setting, the settings in their order."""
    found: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (setting_rank(cell.run.setting), cell.run.setting)):
        found.setdefault(cell.run.setting, []).append(cell)
    return found


def scale_of(values: Iterable[float], name: str = "accuracy") -> tuple[float, str]:
    """The upper end of an axis from 0, and its label, which says so where it is not 1."""
    highest = max(values, default=1.0)
    for end in (0.1, 0.2, 0.4, 0.6):
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


def line(axis: Any, x: Sequence[float], y: Sequence[float], setting: str, **style: Any) -> None:
    """A setting's line with its marker."""
    drawn = {
        "color": colour_of(setting),
        "marker": marker_of(setting),
        "markersize": 4.5,
        "linewidth": 1.8,
        "clip_on": False,
    }
    axis.plot(x, y, **(drawn | style))


def label_ends(axis: Any, ends: Sequence[tuple[str, float, float]], top: float) -> None:
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


def legend(figure: Figure, settings: Iterable[str], baselines: Iterable[str] = (), *, bars: bool = False) -> None:
    """What colours and markers mean, once above all panels: settings, and baselines by their :func:`baseline_style`."""
    handles: list[Any] = []
    for setting in sorted(settings, key=lambda setting: (setting_rank(setting), setting)):
        colour = colour_of(setting)
        line_of = Line2D([], [], color=colour, marker=marker_of(setting), markersize=4.5, label=setting)
        handles.append(Patch(color=colour, alpha=0.8, label=setting) if bars else line_of)
    for place, model in enumerate(baselines):
        handles.append(Line2D([], [], **baseline_style(place), label=model))
    shown = {"frameon": False, "fontsize": 8.5, "labelcolor": INK, "handlelength": 1.4, "columnspacing": 1.4}
    with mpl.rc_context(_STYLE):
        figure.legend(handles=handles, loc="outside upper left", ncols=_LEGEND_COLUMNS, **shown)


def baseline_style(place: int) -> dict[str, Any]:
    """The marker of a baseline where several share an axis, by its place among them."""
    marker = _BASELINE_MARKERS[place % len(_BASELINE_MARKERS)]
    return {"color": OTHER_COLOUR, "marker": marker, "markersize": 5, "markerfacecolor": "none", "linestyle": "none"}


def marker_of(setting: str) -> str:
    """The marker of a setting in every plot."""
    return MARKERS.get(setting, "v")


def stated_n(cells: Sequence[Cell]) -> str:
    """How many questions and samples a panel shows."""
    n = max((cell.accuracy.n for cell in cells if cell.accuracy), default=0)
    samples = max(cell.samples for cell in cells)
    return f"n = {n:,} x {samples} sample{'s' if samples > 1 else ''}{', small n' if n < SMALL_N else ''}"


def aside(setting: str, settings: Sequence[str], places: int) -> float:
    """How far a setting's points stand beside their place, so that equal values do not hide one another."""
    step = 0.1 if places == 1 else min(0.06, 0.02 * (places - 1))
    return (settings.index(setting) - (len(settings) - 1) / 2) * step


def _inline(svg: str, prefix: str, title: str) -> str:
    """One plot among several in a page: ids of its own, the page's colours and font."""
    body = re.sub(r"\bid=\"([^\"]+)\"", rf'id="{prefix}-\1"', svg)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r"href=\"#([^\"]+)\"", rf'href="#{prefix}-\1"', body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable}, {colour})")
    body = re.sub(r"font: ([^;\"']*?)'[^\"]*?sans-serif", r"font: \1sans-serif", body)
    width = re.search(r"width=\"([\d.]+)pt\" height=\"[\d.]+pt\"", body)
    if width is None:
        raise ValueError("matplotlib wrote an SVG without a size in points")
    pixels = round(float(width.group(1)) * _PIXELS_PER_POINT)
    sized = f'role="img" aria-label="{_escaped(title)}" class="plot" style="width: {pixels}px"'
    return body.replace(width.group(0), sized, 1)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
