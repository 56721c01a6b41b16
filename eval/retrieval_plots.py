"""Plots of the retrieval report, in the look of ``eval.plots``, a panel a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.plots import INK, OTHER_COLOUR, SETTING_COLOURS, SMALL_N, Plot, dress, figure_of
from eval.retrieval_summary import Part
from eval.statistics import Estimate

ANSWER, WRONG = SETTING_COLOURS["rt"], SETTING_COLOURS["instruct"]
ANY, SPECIFIC = SETTING_COLOURS["rt"], OTHER_COLOUR
_HEADROOM = 1.22  # above 1, for the values on the bars and the legend
_WIDTH = 0.36
_TITLE_LETTERS = 30


def coverage_bars(parts: Sequence[Part]) -> Plot:
    """Share of questions whose right and whose wrong answer is connected, by any path and by a specific one.

    Both are of the questions with a control; a dataset without any shows the answers of all its questions alone.
    """
    figure, axes = figure_of(len(parts))
    for axis, part in zip(axes, parts, strict=True):
        control = part.control
        if control is None:
            answers = [part.connected, *([part.specific] if part.specific else [])]
            _bars(axis, answers, 0.0, ANSWER, "right answer")
            note = f"n = {part.questions:,}, no control"
        else:
            answers = [control.any.answer, control.specific.answer]
            _bars(axis, answers, -_WIDTH / 2, ANSWER, "right answer")
            _bars(axis, [control.any.wrong, control.specific.wrong], _WIDTH / 2, WRONG, "wrong answer (control)")
            note = f"n = {control.n:,} with a control{', small n' if control.n < SMALL_N else ''}"
        axis.set_xticks(range(len(answers)), ["any path", "path without a hub"][: len(answers)])
        dress(axis, _title(part), note, "", "share of questions connected", 1.0)
        _make_room(axis)
        axis.set_xlim(-0.6, 1.6)
    return Plot("retrieval-coverage", "Share of questions connected, right against wrong answers", figure)


def hop_bars(parts: Sequence[Part]) -> Plot:
    """Share of questions by the hops of their shortest path, of any kind and without a hub."""
    figure, axes = figure_of(len(parts))
    longest = max((hops for part in parts for hops in part.hops if hops is not None), default=1)
    longest = max([longest, *(h for part in parts for h in part.specific_hops or {} if h is not None)])
    places = [*range(1, longest + 1), None]
    for axis, part in zip(axes, parts, strict=True):
        shown = [(part.hops, ANY, "any path")]
        if part.specific_hops is not None:
            shown.append((part.specific_hops, SPECIFIC, "path without a hub"))
        for place, (counts, colour, label) in enumerate(shown):
            _histogram(axis, counts, places, part.questions, (place - (len(shown) - 1) / 2) * _WIDTH, colour, label)
        axis.set_xticks(range(len(places)), ["none" if hops is None else str(hops) for hops in places])
        dress(axis, _title(part), f"n = {part.questions:,}", "hops of the shortest path", "share of questions", 1.0)
        _make_room(axis)
    return Plot("retrieval-hops", "Questions by hops of their shortest path", figure)


def _bars(axis: Any, shares: Sequence[Estimate], aside: float, colour: str, label: str) -> None:
    x = [place + aside for place in range(len(shares))]
    axis.bar(x, [share.value for share in shares], _WIDTH * 0.92, color=colour, alpha=0.8, label=label)
    axis.vlines(x, [share.low for share in shares], [share.high for share in shares], color=INK, linewidth=1.0)
    for place, share in zip(x, shares, strict=True):
        axis.text(place, share.high + 0.02, f"{100 * share.value:.0f}%", ha="center", fontsize=8, color=INK)


def _histogram(
    axis: Any,
    counts: Mapping[int | None, int],
    places: Sequence[int | None],
    questions: int,
    aside: float,
    colour: str,
    label: str,
) -> None:
    shares = [counts.get(hops, 0) / questions for hops in places]
    x = [place + aside for place in range(len(places))]
    axis.bar(x, shares, _WIDTH * 0.92, color=colour, alpha=0.8, label=label)
    for place, share in zip(x, shares, strict=True):
        if share:
            axis.text(place, share + 0.02, f"{100 * share:.0f}%", ha="center", fontsize=7, color=INK)


def _title(part: Part) -> str:
    # A longer one would make all panels narrower.
    return part.name if len(part.name) <= _TITLE_LETTERS else f"{part.name[: _TITLE_LETTERS - 1]}…"


def _make_room(axis: Any) -> None:
    axis.set_ylim(0, _HEADROOM)
    axis.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axis.legend(loc="upper right", frameon=False, ncols=2, fontsize=8, labelcolor=INK, handlelength=1.0)
