"""Paths as a picture: a self-contained SVG with the question entity on the left, the answer on the right, scores below.

Arrows point the way the statement does, so that an inverse step is seen to run from right to left. A table under the
picture shows what each path's score is the sum of.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import hypot
from types import MappingProxyType

from kg.layout import BOX_WIDTH, NOTE_HEIGHT, Arrow, Box, Tag, columns_of, laid_out
from kg.linearise import Details, object_text
from kg.score_table import ROW_HEIGHT, TABLE_WIDTH, score_table
from kg.svg_text import (
    BOLD,
    INK,
    LETTER_WIDTH,
    LINE_HEIGHT,
    MIDDLE,
    NUMBERS,
    QUIET,
    escaped,
    shortened,
    text_element,
    text_lines,
)
from kg.walks import Edge, ShownPath, described, label_or_id, numbered_paths, statement_edges
from store.types import Path

MOST_PATHS, MOST_DROPPED = 8, 5
WIDEST = 1280  # pixels
BOX_LETTERS, BOX_LINES = 20, 2
MARGIN, TOP = 24, 48  # pixels

_NO_DETAILS: Details = MappingProxyType({})
# Fill, border and text of a box; each text on its fill has a contrast above 7:1 (WCAG AAA).
_COLOURS = {
    "source": ("#dbe9fb", "#1f5fa8", "#0b2a4d"),
    "target": ("#fdecc8", "#a36400", "#402700"),
    "middle": ("#f3f4f6", "#6b7280", "#1f2937"),
    "dropped": ("#ffffff", "#7b828e", "#4b5563"),
}
_LINE, _FAINT = "#374151", "#7b828e"
_DASHES = ' stroke-dasharray="5 4"'


def path_svg(
    kept: Sequence[Path],
    labels: Mapping[str, str],
    title: str,
    *,
    dropped: Sequence[Path] = (),
    details: Details = _NO_DETAILS,
    answers: Collection[str] = (),
) -> str:
    """An SVG of the first :data:`MOST_PATHS` kept and :data:`MOST_DROPPED` dropped paths, fit for a file or an HTML page.

    An entity is one box, however many paths pass it; each literal statement has a box of its own. Parallel statements
    are drawn side by side; statements that only dropped paths hold are grey and dashed. ``details`` cuts dates to their
    precision, and adds units and qualifiers. ``answers`` (ids) are coloured as answers; without any, the ends of the
    paths are. Paths with ``parts`` are numbered, and listed in a table with their score and what it is the sum of.
    Long names are wrapped or shortened and whole in the tooltip. All text is escaped. At most 1280 pixels wide.
    """
    shown = numbered_paths(kept[:MOST_PATHS], dropped[:MOST_DROPPED])
    scored = [one for one in shown if one.path.parts is not None]
    edges = statement_edges(shown, labels, details, bool(scored))
    graph = laid_out(_boxes(shown, labels, details, frozenset(answers)), edges, WIDEST - 2 * MARGIN)
    wide = max(graph.right - graph.left + 2 * MARGIN, TABLE_WIDTH if scored else 480)
    graph = graph.moved((wide - graph.left - graph.right) / 2, TOP - graph.top)
    below = graph.bottom + ROW_HEIGHT + 6
    table, end = (
        score_table(scored, labels, details, below + ROW_HEIGHT + 4, MARGIN, wide - MARGIN) if scored else ([], below)
    )
    high = end + MARGIN / 2
    counts = [f"first {MOST_PATHS} of {len(kept)} kept"] if len(kept) > MOST_PATHS else []
    counts += [f"first {MOST_DROPPED} of {len(dropped)} dropped"] if len(dropped) > MOST_DROPPED else []
    left_out = f" ({', '.join(counts)})" if counts else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{high:.0f}" '
        f'viewBox="0 0 {wide:.0f} {high:.0f}" role="img" font-family="system-ui, sans-serif">',
        f"<title>{escaped(title)}</title>",
        f"<desc>{escaped('; '.join(described(one, labels, details) for one in shown))}</desc>",
        f'<rect width="{wide:.0f}" height="{high:.0f}" fill="#ffffff"/>',
        text_element(MARGIN, 28, shortened(title, (wide - 2 * MARGIN) / 8.5 - len(left_out)) + left_out, 15, INK, BOLD),
        *([] if shown else [text_element(MARGIN, TOP + 12, "no paths", 13, INK)]),
        *(_drawn(arrow, edge.kept) for arrow, edge in zip(graph.arrows, edges, strict=True)),
        *(_node(box) for box in graph.boxes.values()),
        # Last, so that no line or box covers a relation's name.
        *(_tagged(tag, edge) for tag, edge in zip(graph.tags, edges, strict=True)),
        *(_legend(shown, bool(answers), below) if shown else []),
        *table,
    ]
    return "\n".join([*parts, "</svg>\n"])


def _boxes(
    shown: Sequence[ShownPath], labels: Mapping[str, str], details: Details, answers: frozenset[str]
) -> dict[str, Box]:
    """The boxes without their places: text, role, height. ``x`` holds the column."""
    columns = columns_of([one.walk for one in shown])
    literals = {step.end: step.triple for one in shown for step in one.walk if step.triple.literal}
    sources = {one.path.source for one in shown} | {one.path.target for one in shown if one.path.kind == "between"}
    ends = {one.walk[-1].end for one in shown}
    on_kept = {name for one in shown if one.kept for step in one.walk for name in step[:2]}
    boxes: dict[str, Box] = {}
    for name, column in columns.items():
        triple = literals.get(name)
        text = object_text(triple, labels, details.get(triple, ())) if triple else label_or_id(name, labels)
        target = (triple.object if triple else name) in answers if answers else name in ends
        kind = "source" if name in sources else "target" if target else "middle" if name in on_kept else "dropped"
        boxes[name] = Box(text, kind, float(column), 0.0, 14.0 + LINE_HEIGHT * len(_wrapped(text)))
    return boxes


def _drawn(arrow: Arrow, kept: bool) -> str:
    # The head is drawn, not a <marker>: that is found by its id, and several pictures may share one HTML page.
    x1, y1, cx, cy, x2, y2 = arrow
    length = hypot(x2 - cx, y2 - cy) or 1.0
    ux, uy = (x2 - cx) / length, (y2 - cy) / length
    corners = (x2, y2), (x2 - 10 * ux + 5 * uy, y2 - 10 * uy - 5 * ux), (x2 - 10 * ux - 5 * uy, y2 - 10 * uy + 5 * ux)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    curve = f"M{x1:.1f} {y1:.1f}Q{cx:.1f} {cy:.1f} {x2:.1f} {y2:.1f}"
    colour = _LINE if kept else _FAINT
    return (
        f'<path d="{curve}" fill="none" stroke="{colour}" stroke-width="1.5"{"" if kept else _DASHES}/>'
        f'<polygon points="{points}" fill="{colour}"/>'
    )


def _tagged(tag: Tag, edge: Edge) -> str:
    """A statement's name, the numbers of its paths in bold, and its qualifiers under it."""
    x, y, width, height = tag.area
    first = y - height / 2 + 12
    numbers = f' <tspan {BOLD} fill="{NUMBERS}">{escaped(edge.numbers)}</tspan>' if edge.numbers else ""
    return (
        f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" '
        f'fill="#ffffff"/><text x="{x:.1f}" y="{first:.1f}" font-size="12" fill="{INK if edge.kept else QUIET}" '
        f"{MIDDLE}>{escaped(tag.name)}<title>{escaped(edge.tooltip)}</title>{numbers}</text>"
        + (text_element(x, first + NOTE_HEIGHT, tag.note, 10.5, QUIET, MIDDLE, edge.tooltip) if tag.note else "")
    )


def _node(box: Box) -> str:
    fill, border, ink = _COLOURS[box.kind]
    lines = _wrapped(box.text)
    first = box.y - (len(lines) - 1) * LINE_HEIGHT / 2 + 4.5
    weight = f" {BOLD}" if box.kind in ("source", "target") else ""
    texts = [
        text_element(box.x, first + place * LINE_HEIGHT, line, 13, ink, MIDDLE + weight)
        for place, line in enumerate(lines)
    ]
    return "\n".join(
        [
            f"<g><title>{escaped(box.text)}</title>",
            f'<rect x="{box.x - BOX_WIDTH / 2:.1f}" y="{box.y - box.height / 2:.1f}" width="{BOX_WIDTH}" '
            f'height="{box.height:.1f}" rx="8" fill="{fill}" stroke="{border}" stroke-width="1.5"'
            f"{_DASHES if box.kind == 'dropped' else ''}/>",
            *texts,
            "</g>",
        ]
    )


def _legend(shown: Sequence[ShownPath], answered: bool, y: float) -> list[str]:
    """What boxes and lines stand for, in one row."""
    entries = [
        ("source", "question entity"),
        ("target", "answer" if answered else "end of a path"),
        ("kept", "kept path"),
    ]
    entries += [("dropped", "dropped path")] if not all(one.kept for one in shown) else []
    parts, x = [], float(MARGIN)
    for kind, meaning in entries:
        if kind in ("source", "target"):
            fill, border, _ink = _COLOURS[kind]
            parts.append(
                f'<rect x="{x:.1f}" y="{y - 11:.1f}" width="24" height="14" rx="4" fill="{fill}" stroke="{border}"/>'
            )
        else:
            stroke = f'stroke="{_LINE}"' if kind == "kept" else f'stroke="{_FAINT}"{_DASHES}'
            parts.append(
                f'<line x1="{x:.1f}" y1="{y - 4:.1f}" x2="{x + 24:.1f}" y2="{y - 4:.1f}" {stroke} stroke-width="1.5"/>'
            )
        parts.append(text_element(x + 31, y, meaning, 12, QUIET))
        x += 31 + LETTER_WIDTH * len(meaning) + 22
    return parts


def _wrapped(text: str) -> list[str]:
    return text_lines(text, BOX_LETTERS, BOX_LINES)
