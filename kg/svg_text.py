"""Text of an SVG: escaped, as an element, and wrapped or shortened to a width.

No font is at hand to measure with, so widths are estimates in letters of an average width.
"""

from __future__ import annotations

import html
import textwrap
from unicodedata import east_asian_width

LETTER_WIDTH, LINE_HEIGHT = 6.8, 17  # pixels of an average letter at 12 pixels, and from line to line
INK, QUIET, NUMBERS = "#1f2937", "#4b5563", "#1f5fa8"  # colours of text: plain, less important, numbers of paths
BOLD, MIDDLE, END = 'font-weight="600"', 'text-anchor="middle"', 'text-anchor="end"'  # attributes of an element


def text_element(x: float, y: float, text: str, size: float, colour: str, more: str = "", tooltip: str = "") -> str:
    """A text with its baseline at (x, y) and ``size`` pixels high; ``more`` has further attributes. The text is escaped."""
    tip = f"<title>{escaped(tooltip)}</title>" if tooltip and tooltip != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" {more}>{escaped(text)}{tip}</text>'


def escaped(text: str) -> str:
    """The text as it may stand in XML, in content and in attributes."""
    # XML has no control characters, not even escaped.
    return html.escape("".join(letter if letter.isprintable() else " " for letter in text))


def text_size(text: str) -> float:
    """The width of a text in letters of an average width."""
    return sum(map(_letter_size, text))


def _letter_size(letter: str) -> float:
    if east_asian_width(letter) in "WF":
        return 1.8
    if letter in "WM@%—→←":
        return 1.6
    return 1.25 if letter.isupper() or letter in "mw" else 1.0


def text_lines(text: str, letters: float, most: int) -> list[str]:
    """The text in at most so many lines, each at most so many letters of an average width wide."""
    average = text_size(text) / max(len(text), 1)
    return textwrap.wrap(
        text, max(int(letters / max(average, 1.0)), 8), max_lines=most, placeholder=" …", break_on_hyphens=False
    ) or [text]


def shortened(text: str, letters: float) -> str:
    """The text, cut where it is wider than so many letters of an average width."""
    if text_size(text) <= letters:
        return text
    cut = len(text)
    while cut > 1 and text_size(text[:cut]) > letters - 1:
        cut -= 1
    return f"{text[:cut].rstrip()}…"


def signed_text(value: float) -> str:
    """A number with two decimals and a true minus sign; "0" for what rounds to it."""
    text = f"{value:.2f}"
    return "0" if float(text) == 0 else text.replace("-", "−")
