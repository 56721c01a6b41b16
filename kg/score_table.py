"""The table under a picture of paths: one row a path, with what its score is the sum of, in numbers and as a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kg.linearise import Details
from kg.svg_text import BOLD, END, INK, LETTER_WIDTH, LINE_HEIGHT, NUMBERS, QUIET, signed_text, text_element, text_lines
from kg.walks import ShownPath, described, walk_line
from store.types import ScoreParts

TABLE_WIDTH, ROW_HEIGHT = 1272, 24  # pixels; the width with a margin on both sides

_NUMBER_WIDTH, _BAR_WIDTH = 70, 190
_PARTS = {"similarity": "#2563a8", "degree": "#b45309", "length": "#6d4aa8", "sibling": "#be185d"}
_RULE = "#d1d5db"


def score_table(
    scored: Sequence[ShownPath], labels: Mapping[str, str], details: Details, y: float, left: float, right: float
) -> tuple[list[str], float]:
    """The elements of a table, and the y where it ends. ``y``: of its heads; ``left``, ``right``: its sides, in pixels.

    One row a path, all of which have ``parts``: what it says, the parts of its score and their sum as numbers and as a bar.
    """
    bar = right - _BAR_WIDTH
    columns = dict(zip((*_PARTS, "score"), (bar - 20 - _NUMBER_WIDTH * n for n in (4, 3, 2, 1, 0)), strict=True))
    words = left + 92
    letters = (columns["similarity"] - _NUMBER_WIDTH - words) / LETTER_WIDTH
    sums = [one.path.parts for one in scored if one.path.parts is not None]
    most = max(max(part.similarity for part in sums), 0.05)
    scale = _BAR_WIDTH / (most - min(sum(part[1:]) for part in sums))
    zero = right - most * scale
    rows: list[str] = []
    base = y + ROW_HEIGHT
    for one, part in zip(scored, sums, strict=True):
        ink = INK if one.kept else QUIET
        said = text_lines(walk_line(one, labels, details), letters, 2)
        top = base - 16
        rows += [
            f'<line x1="{left:g}" y1="{top:.1f}" x2="{right:.1f}" y2="{top:.1f}" stroke="{_RULE}"/>',
            text_element(left + 16, base, str(one.number), 12, NUMBERS, f"{END} {BOLD}"),
            text_element(left + 28, base, "kept" if one.kept else "dropped", 12, ink),
            *(
                text_element(words, base + place * LINE_HEIGHT, line, 12, ink, "", described(one, labels, details))
                for place, line in enumerate(said)
            ),
            *(
                text_element(columns[name], base, signed_text(v), 12, INK, END)
                for name, v in zip(_PARTS, part, strict=True)
            ),
            text_element(columns["score"], base, signed_text(one.path.score), 12, INK, f"{END} {BOLD}"),
            *_bar(part, one.path.score, zero, base - 11, scale),
        ]
        base += ROW_HEIGHT + LINE_HEIGHT * (len(said) - 1)
    heads = [
        f'<text x="{columns[name]:.1f}" y="{y:.1f}" font-size="12" fill="{QUIET}" {END}>'
        f'<tspan fill="{colour}">■</tspan> {name}</text>'
        for name, colour in _PARTS.items()
    ]
    heads += [text_element(words, y, "path", 12, QUIET), text_element(columns["score"], y, "= score", 12, QUIET, END)]
    heads.append(text_element(right, y, "sum of the parts (tick: score)", 12, QUIET, END))
    end = base - 16
    axis = f'<line x1="{zero:.1f}" y1="{y + 8:.1f}" x2="{zero:.1f}" y2="{end:.1f}" stroke="{QUIET}"/>'
    return [*heads, *rows, axis], end


def _bar(part: ScoreParts, score: float, zero: float, y: float, scale: float) -> list[str]:
    """The similarity to the right of zero, the penalties side by side to its left, and a tick where the score is."""
    drawn, left = [], zero
    for (name, colour), value in zip(_PARTS.items(), part, strict=True):
        width = abs(value) * scale
        if value < 0:
            left -= width
        if width >= 0.5:
            x = left if value < 0 else zero
            drawn.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="13" fill="{colour}" stroke="#ffffff" '
                f'stroke-width="0.8"><title>{name} {signed_text(value)}</title></rect>'
            )
    x = zero + score * scale
    return [
        *drawn,
        f'<line x1="{x:.1f}" y1="{y - 3:.1f}" x2="{x:.1f}" y2="{y + 16:.1f}" stroke="#000000" stroke-width="2.5"/>',
    ]
