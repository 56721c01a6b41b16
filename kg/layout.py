"""Where the boxes, arrows and names of a picture stand: columns from left to right, arrows bent past what is between.

The layout is our own, since the picture is small and its columns are known: the number of hops from the source. All
places and sizes are in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import hypot
from typing import NamedTuple

from kg.svg_text import LETTER_WIDTH, shortened, text_size
from kg.walks import Edge, Step

BOX_WIDTH, NOTE_HEIGHT = 156, 13  # of a box; of a line of qualifiers

_EDGE_LETTERS, _COLUMN_GAP, _ROW_GAP = 29, 240, 30
_NOTE_SCALE = 0.87  # of a qualifier's letters, beside those of a name
_PARALLEL_GAP = 24  # between statements that join the same two boxes


class Box(NamedTuple):
    """A drawn node: its text, its role and the middle of its box in pixels."""

    text: str
    kind: str
    x: float
    y: float
    height: float


class Arrow(NamedTuple):
    """A statement as a quadratic curve from (x1, y1) past its control point (cx, cy) to (x2, y2), in pixels."""

    x1: float
    y1: float
    cx: float
    cy: float
    x2: float
    y2: float

    def at(self, t: float) -> tuple[float, float]:
        """The point of the curve at a share ``t`` (0 to 1) of its way."""
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
        return a * self.x1 + b * self.cx + c * self.x2, a * self.y1 + b * self.cy + c * self.y2

    @property
    def points(self) -> list[tuple[float, float]]:
        """Points along the curve, near enough to one another to see what it touches."""
        return [self.at(t / 48) for t in range(49)]


class Area(NamedTuple):
    """A rectangle by its middle, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: Area) -> float:
        """Square pixels that both cover."""
        wide = (self.width + other.width) / 2 - abs(self.x - other.x)
        high = (self.height + other.height) / 2 - abs(self.y - other.y)
        return max(wide, 0.0) * max(high, 0.0)


class Tag(NamedTuple):
    """The name of a statement as it fits, its qualifiers, and where the two stand."""

    name: str
    note: str
    area: Area


class Layout(NamedTuple):
    """The boxes, and the arrow and the name of each statement, with their outermost pixels."""

    boxes: dict[str, Box]
    arrows: list[Arrow]
    tags: list[Tag]

    def _areas(self) -> list[Area]:
        found = [Area(box.x, box.y, BOX_WIDTH, box.height) for box in self.boxes.values()]
        found += [Area(x, y, 2, 2) for arrow in self.arrows for x, y in arrow.points]
        return [*found, *(tag.area for tag in self.tags)] or [Area(0, 12, 0, 24)]

    @property
    def left(self) -> float:
        """The outermost x, in pixels."""
        return min(area.x - area.width / 2 for area in self._areas())

    @property
    def right(self) -> float:
        """The outermost x on the other side."""
        return max(area.x + area.width / 2 for area in self._areas())

    @property
    def top(self) -> float:
        """The outermost y, in pixels; y grows downwards."""
        return min(area.y - area.height / 2 for area in self._areas())

    @property
    def bottom(self) -> float:
        """The outermost y on the other side."""
        return max(area.y + area.height / 2 for area in self._areas())

    def moved(self, dx: float, dy: float) -> Layout:
        """The same picture elsewhere."""
        boxes = {name: box._replace(x=box.x + dx, y=box.y + dy) for name, box in self.boxes.items()}
        arrows = [Arrow(a.x1 + dx, a.y1 + dy, a.cx + dx, a.cy + dy, a.x2 + dx, a.y2 + dy) for a in self.arrows]
        tags = [tag._replace(area=tag.area._replace(x=tag.area.x + dx, y=tag.area.y + dy)) for tag in self.tags]
        return Layout(boxes, arrows, tags)


def columns_of(walks: Sequence[Sequence[Step]]) -> dict[str, int]:
    """The column of each box: its most hops from a source on any walk; the first source stays in the first."""
    columns: dict[str, int] = {walk[0].start: 0 for walk in walks}
    for walk in walks:
        for hop, step in enumerate(walk, start=1):
            columns[step.end] = max(columns.get(step.end, 0), hop)
    return columns | ({walks[0][0].start: 0} if walks else {})


def laid_out(boxes: Mapping[str, Box], edges: Sequence[Edge], widest: float) -> Layout:
    """The places of boxes, whose ``x`` holds their column, and of the statements between them.

    Columns move together until the picture is at most ``widest`` pixels wide, or after four attempts as near as it got.
    """
    last = max((box.x for box in boxes.values()), default=0.0)
    gap = float(_COLUMN_GAP)
    for _attempt in range(4):
        graph = _with_gap(boxes, edges, gap)
        too_wide = graph.right - graph.left - widest
        if too_wide <= 0 or not last:
            break
        gap -= too_wide / last + 1
    return graph


def _with_gap(boxes: Mapping[str, Box], edges: Sequence[Edge], gap: float) -> Layout:
    parallel: dict[frozenset[str], list[Edge]] = {}
    for edge in edges:
        parallel.setdefault(frozenset(edge.step[:2]), []).append(edge)
    placed = _stacked(boxes, parallel, gap)
    arrows = {edge.step.triple: arrow for group in parallel.values() for edge, arrow in _bundle(placed, group)}
    ordered = [arrows[edge.step.triple] for edge in edges]
    return Layout(placed, ordered, _tags(ordered, edges, placed.values(), gap))


def _pitch(group: Sequence[Edge]) -> float:
    """Pixels between two parallel statements: their names have to fit in between."""
    return _PARALLEL_GAP + NOTE_HEIGHT * any(edge.note for edge in group)


def _stacked(boxes: Mapping[str, Box], parallel: Mapping[frozenset[str], Sequence[Edge]], gap: float) -> dict[str, Box]:
    """Columns from left to right, each in an order that crosses few lines and centred on the tallest."""
    slots = {
        name: max([box.height + _ROW_GAP, *(len(g) * _pitch(g) + 24 for ends, g in parallel.items() if name in ends)])
        for name, box in boxes.items()
    }
    stacks = _stacks({name: int(box.x) for name, box in boxes.items()}, parallel)
    tall = max((sum(slots[name] for name in stack) for stack in stacks.values()), default=0.0)
    placed: dict[str, Box] = {}
    for column, stack in stacks.items():
        y = (tall - sum(slots[name] for name in stack)) / 2
        for name in stack:
            placed[name] = boxes[name]._replace(x=BOX_WIDTH / 2 + column * (BOX_WIDTH + gap), y=y + slots[name] / 2)
            y += slots[name]
    return placed


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


def _bundle(boxes: Mapping[str, Box], group: Sequence[Edge]) -> list[tuple[Edge, Arrow]]:
    """The arrows of the statements between two boxes, bent together so far that they pass the other boxes."""
    ends = frozenset(group[0].step[:2])
    others = [Area(box.x, box.y, BOX_WIDTH + 8, box.height + 8) for name, box in boxes.items() if name not in ends]
    spread = [(place - (len(group) - 1) / 2) * _pitch(group) for place in range(len(group))]

    def bent(by: float) -> list[Arrow]:
        return [_arrow(boxes, edge.step, offset + by) for edge, offset in zip(group, spread, strict=True)]

    def touched(arrows: Iterable[Arrow]) -> int:
        return sum(_inside(point, other) for arrow in arrows for point in arrow.points for other in others)

    choices = (bent(by) for by in (0, -30, 30, -60, 60, -90, 90, -130, 130, -180, 180, -240, 240, -300, 300))
    best = fewest = None
    for arrows in choices:
        hits = touched(arrows)
        if fewest is None or hits < fewest:
            best, fewest = arrows, hits
        if not hits:
            break
    return list(zip(group, best or bent(0), strict=True))


def _inside(point: tuple[float, float], area: Area) -> bool:
    return abs(point[0] - area.x) < area.width / 2 and abs(point[1] - area.y) < area.height / 2


def _arrow(boxes: Mapping[str, Box], step: Step, offset: float) -> Arrow:
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
    return Arrow(*_border(tail, cx, cy), cx, cy, *_border(head, cx, cy))


def _border(box: Box, x: float, y: float) -> tuple[float, float]:
    """Where the line from the middle of a box to (x, y) leaves it."""
    dx, dy = x - box.x, y - box.y
    scale = min(
        (BOX_WIDTH / 2 + 2) / abs(dx) if dx else float("inf"), (box.height / 2 + 2) / abs(dy) if dy else float("inf")
    )
    return (box.x + dx * min(scale, 1.0), box.y + dy * min(scale, 1.0)) if dx or dy else (box.x, box.y)


def _tags(arrows: Sequence[Arrow], edges: Sequence[Edge], boxes: Iterable[Box], gap: float) -> list[Tag]:
    """The names of statements, on their arrows, where no box, no other name and few other arrows are."""
    taken = [Area(box.x, box.y, BOX_WIDTH, box.height) for box in boxes]
    taken += [Area(arrow.at(0.98)[0], arrow.at(0.98)[1], 14, 14) for arrow in arrows]
    letters = min(_EDGE_LETTERS, (gap - 28) / LETTER_WIDTH)  # the head and a bit of the line stay to be seen
    tags: list[Tag] = []
    for arrow, edge in zip(arrows, edges, strict=True):
        numbers = text_size(edge.numbers) + 1.5 if edge.numbers else 0.0
        name, note = shortened(edge.name, letters - numbers), shortened(edge.note, letters / _NOTE_SCALE)
        width = LETTER_WIDTH * max(text_size(name) + numbers, _NOTE_SCALE * text_size(note)) + 8
        others = [point for other in arrows if other is not arrow for point in other.points]
        area = _free_spot(arrow, width, 16.0 + NOTE_HEIGHT * bool(note), taken, others)
        taken.append(area)
        tags.append(Tag(name, note, area))
    return tags


def _free_spot(
    arrow: Arrow, width: float, height: float, taken: Sequence[Area], others: Sequence[tuple[float, float]]
) -> Area:
    """The place on an arrow or a little beside it that covers the least of what is ``taken``, then of other arrows."""
    spots = [
        Area(x, y + shift, width, height)
        for shift in (0, -9, 9, -18, 18, -27, 27)
        for x, y in (arrow.at(t) for t in (0.5, 0.43, 0.57, 0.36, 0.64, 0.29, 0.71, 0.22, 0.78))
    ]
    covered = [sum(spot.overlap(other) for other in taken) for spot in spots]
    least = [spot for spot, area in zip(spots, covered, strict=True) if area == min(covered)]
    return min(least, key=lambda spot: sum(_inside(point, spot) for point in others))
