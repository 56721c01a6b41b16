"""Paths as a small picture: a self-contained SVG with the question entity on the left and the target on the right.

The layout is our own, since the picture is small and its columns are known: the number of hops from the source. Arrows
point the way the statement does, so that an inverse step is seen to run from right to left.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from math import hypot
from typing import NamedTuple

from store.types import Path, Triple

MOST_PATHS = 8

BOX_WIDTH, BOX_LETTERS, BOX_LINES, LINE_HEIGHT = 156, 20, 2, 17
EDGE_LETTERS, COLUMN_GAP, ROW_GAP = 26, 210, 30
PARALLEL_GAP = 24  # between statements that join the same two boxes
MARGIN, TOP = 24, 48

# Fill, border and text of a box; each text on its fill has a contrast above 7:1 (WCAG AAA).
_COLOURS = {
    "source": ("#dbe9fb", "#1f5fa8", "#0b2a4d"),
    "target": ("#fdecc8", "#a36400", "#402700"),
    "middle": ("#f3f4f6", "#6b7280", "#1f2937"),
}
_LINE, _INK = "#4b5563", "#1f2937"


class _Step(NamedTuple):
    """One statement as a walk takes it: from box, to box. A literal's box is named by its statement."""

    start: str
    end: str
    triple: Triple


class _Box(NamedTuple):
    """A drawn node: its text, its role and the middle of its box in pixels."""

    text: str
    kind: str
    x: float
    y: float
    height: float


class _Arrow(NamedTuple):
    """A statement as a quadratic curve from (x1, y1) past its control point (cx, cy) to (x2, y2), in pixels."""

    x1: float
    y1: float
    cx: float
    cy: float
    x2: float
    y2: float
    name: str

    def at(self, t: float) -> tuple[float, float]:
        """The point of the curve at a share ``t`` (0 to 1) of its way."""
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
        return a * self.x1 + b * self.cx + c * self.x2, a * self.y1 + b * self.cy + c * self.y2


def path_svg(paths: Sequence[Path], labels: Mapping[str, str], title: str) -> str:
    """An SVG of the first :data:`MOST_PATHS` paths, fit for a file or for an HTML page.

    An entity is one box, however many paths pass it; each literal statement has a box of its own. Parallel statements
    are drawn side by side. Long names are wrapped or shortened and whole in the tooltip. All text is escaped.
    """
    walks = [_walk(path) for path in paths[:MOST_PATHS]]
    boxes = _layout(walks, labels)
    width = max([box.x + BOX_WIDTH / 2 for box in boxes.values()] + [MARGIN + 8.5 * min(len(title), 90), 240]) + MARGIN
    height = max([box.y + box.height / 2 for box in boxes.values()] + [TOP + 24]) + MARGIN
    arrows = [
        _arrow(boxes, step, (position - (len(group) - 1) / 2) * PARALLEL_GAP, labels)
        for group in _parallel(walks).values()
        for position, step in enumerate(group)
    ]
    left_out = f" (first {MOST_PATHS} of {len(paths)} paths)" if len(paths) > MOST_PATHS else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="system-ui, sans-serif">',
        f"<title>{_safe(title)}</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        _text(MARGIN, 28, _short(title, 90 - len(left_out)) + left_out, 15, _INK, 'font-weight="600"'),
        *([] if walks else [_text(MARGIN, TOP + 12, "no paths", 13, _INK)]),
        *(_drawn(arrow) for arrow in arrows),
        *(_node(box) for box in boxes.values()),
        *_tags(arrows, boxes.values()),  # last, so that no line or box covers a relation's name
    ]
    return "\n".join([*parts, "</svg>\n"])


def _walk(path: Path) -> list[_Step]:
    node, steps = path.source, []
    for triple in path.triples:
        following = triple.object if triple.subject == node else triple.subject
        steps.append(_Step(node, "\t".join(triple[:3]) if triple.literal else following, triple))
        node = following
    return steps


def _parallel(walks: Sequence[Sequence[_Step]]) -> dict[frozenset[str], list[_Step]]:
    """The distinct statements of all walks, grouped by the two boxes that they join."""
    groups: dict[frozenset[str], dict[Triple, _Step]] = {}
    for step in (step for walk in walks for step in walk):
        groups.setdefault(frozenset(step[:2]), {}).setdefault(step.triple, step)
    return {ends: list(group.values()) for ends, group in groups.items()}


def _columns(walks: Sequence[Sequence[_Step]]) -> dict[str, int]:
    """The column of each box: its most hops from a source on any walk; the first source stays in the first."""
    columns: dict[str, int] = {walk[0].start: 0 for walk in walks}
    for walk in walks:
        for hop, step in enumerate(walk, start=1):
            columns[step.end] = max(columns.get(step.end, 0), hop)
    return columns | ({walks[0][0].start: 0} if walks else {})


def _layout(walks: Sequence[Sequence[_Step]], labels: Mapping[str, str]) -> dict[str, _Box]:
    """Boxes by name: columns from left to right, each in an order that crosses few lines and centred on the tallest."""
    columns, parallel = _columns(walks), _parallel(walks)
    texts = {step.end: step.triple.object for walk in walks for step in walk if step.triple.literal}
    texts = {name: texts.get(name) or _name(name, labels) for name in columns}
    heights = {name: 14.0 + LINE_HEIGHT * len(_wrapped(text)) for name, text in texts.items()}
    slots = {
        name: max(
            heights[name] + ROW_GAP,
            *(len(group) * PARALLEL_GAP + 24 for ends, group in parallel.items() if name in ends),
        )
        for name in columns
    }
    stacks = _stacks(columns, parallel)
    tall = max((sum(slots[name] for name in stack) for stack in stacks.values()), default=0.0)
    sources, targets = {walk[0].start for walk in walks}, {walk[-1].end for walk in walks}
    boxes: dict[str, _Box] = {}
    for column, stack in stacks.items():
        y = TOP + (tall - sum(slots[name] for name in stack)) / 2
        for name in stack:
            kind = "source" if name in sources else "target" if name in targets else "middle"
            x = MARGIN + BOX_WIDTH / 2 + column * (BOX_WIDTH + COLUMN_GAP)
            boxes[name] = _Box(texts[name], kind, x, y + slots[name] / 2, heights[name])
            y += slots[name]
    return boxes


def _stacks(columns: Mapping[str, int], joined: Mapping[frozenset[str], object]) -> dict[int, list[str]]:
    """Names by column, from top to bottom: each where the mean of its neighbours is (barycentre ordering)."""
    near: dict[str, list[str]] = {name: [] for name in columns}
    for ends in joined:
        for name in ends:
            near[name] += ends - {name}
    stacks: dict[int, list[str]] = {}
    for name, column in sorted(columns.items(), key=lambda item: item[1]):
        stacks.setdefault(column, []).append(name)
    for column in [*sorted(stacks), *sorted(stacks, reverse=True)] * 2:
        row = {name: place - (len(stack) - 1) / 2 for stack in stacks.values() for place, name in enumerate(stack)}
        stacks[column].sort(key=lambda name: sum(row[other] for other in near[name]) / max(len(near[name]), 1))
    return stacks


def _arrow(boxes: Mapping[str, _Box], step: _Step, offset: float, labels: Mapping[str, str]) -> _Arrow:
    """The arrow of a statement, in its true direction. ``offset`` (pixels) bends it away from parallel ones."""
    forward = step.triple.subject == step.start
    tail, head = (boxes[step.start], boxes[step.end]) if forward else (boxes[step.end], boxes[step.start])
    # Seen from the box further left, so that the two directions of a relation bend to different sides.
    left, right = sorted((tail, head), key=lambda box: (box.x, box.y))
    length = hypot(right.x - left.x, right.y - left.y) or 1.0
    if left.x == right.x:  # two boxes of one column: around the side, not through what may lie between
        offset += BOX_WIDTH * 0.75
    cx = (left.x + right.x) / 2 + 2 * offset * (right.y - left.y) / length
    cy = (left.y + right.y) / 2 + 2 * offset * (right.x - left.x) / length
    return _Arrow(*_border(tail, cx, cy), cx, cy, *_border(head, cx, cy), _name(step.triple.predicate, labels))


def _drawn(arrow: _Arrow) -> str:
    # The head is drawn, not a <marker>: that is found by its id, and several pictures may share one HTML page.
    x1, y1, cx, cy, x2, y2, _name = arrow
    length = hypot(x2 - cx, y2 - cy) or 1.0
    ux, uy = (x2 - cx) / length, (y2 - cy) / length
    corners = (x2, y2), (x2 - 10 * ux + 5 * uy, y2 - 10 * uy - 5 * ux), (x2 - 10 * ux - 5 * uy, y2 - 10 * uy + 5 * ux)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    curve = f"M{x1:.1f} {y1:.1f}Q{cx:.1f} {cy:.1f} {x2:.1f} {y2:.1f}"
    return f'<path d="{curve}" fill="none" stroke="{_LINE}" stroke-width="1.5"/><polygon points="{points}" fill="{_LINE}"/>'


def _tags(arrows: Sequence[_Arrow], boxes: Iterable[_Box]) -> list[str]:
    """The names of relations on their arrows: half-way, or a little beside it where a box or another name stands."""
    taken: list[tuple[float, float, float, float]] = [(box.x, box.y, BOX_WIDTH, box.height) for box in boxes]
    tags: list[str] = []
    for arrow in arrows:
        text = _short(arrow.name, EDGE_LETTERS)
        width, height = 6.6 * len(text) + 6, 15.0
        spots = [arrow.at(t) for t in (0.5, 0.4, 0.6, 0.3, 0.7)]
        spots += [(spots[0][0], spots[0][1] + shift) for shift in (-8, 8, -16, 16)]
        free = (
            (x, y)
            for x, y in spots
            if all(abs(x - a) >= (width + w) / 2 or abs(y - b) >= (height + h) / 2 for a, b, w, h in taken)
        )
        x, y = next(free, spots[0])
        taken.append((x, y, width, height))
        ground = (
            f'<rect x="{x - width / 2:.1f}" y="{y - 8:.1f}" width="{width:.1f}" height="16" rx="3" fill="#ffffff"/>'
        )
        tags.append(ground + _text(x, y + 4, text, 12, _INK, 'text-anchor="middle"', arrow.name))
    return tags


def _border(box: _Box, x: float, y: float) -> tuple[float, float]:
    """Where the line from the middle of a box to (x, y) leaves it."""
    dx, dy = x - box.x, y - box.y
    scale = min(
        (BOX_WIDTH / 2 + 2) / abs(dx) if dx else float("inf"), (box.height / 2 + 2) / abs(dy) if dy else float("inf")
    )
    return (box.x + dx * min(scale, 1.0), box.y + dy * min(scale, 1.0)) if dx or dy else (box.x, box.y)


def _node(box: _Box) -> str:
    fill, border, ink = _COLOURS[box.kind]
    lines = _wrapped(box.text)
    first = box.y - (len(lines) - 1) * LINE_HEIGHT / 2 + 4.5
    weight = "" if box.kind == "middle" else ' font-weight="600"'
    texts = [
        _text(box.x, first + place * LINE_HEIGHT, line, 13, ink, f'text-anchor="middle"{weight}')
        for place, line in enumerate(lines)
    ]
    return "\n".join(
        [
            f"<g><title>{_safe(box.text)}</title>",
            f'<rect x="{box.x - BOX_WIDTH / 2:.1f}" y="{box.y - box.height / 2:.1f}" width="{BOX_WIDTH}" '
            f'height="{box.height:.1f}" rx="8" fill="{fill}" stroke="{border}" stroke-width="1.5"/>',
            *texts,
            "</g>",
        ]
    )


def _text(x: float, y: float, text: str, size: int, colour: str, more: str = "", tooltip: str = "") -> str:
    tip = f"<title>{_safe(tooltip)}</title>" if tooltip and tooltip != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" {more}>{tip}{_safe(text)}</text>'


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, BOX_LETTERS, max_lines=BOX_LINES, placeholder=" …") or [text]


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def _name(one: str, labels: Mapping[str, str]) -> str:
    return " ".join(labels.get(one, "").split()) or one


def _safe(text: str) -> str:
    # XML has no control characters, not even escaped.
    return html.escape("".join(letter if letter.isprintable() else " " for letter in text))
