"""What the numbers of a retrieval say, in plain words and as Markdown: nothing that the counts and intervals do not carry."""

from __future__ import annotations

from eval.findings import counted, inert, listed, percent, points
from eval.retrieval_summary import Contrast, Part, Quantiles, RetrievalSummary
from eval.statistics import Estimate

SMALL_N = 30
# At a lift of 1.25 four of five connected answers would be expected from wrong answers alone.
NEAR_ONE = 1.25
_HEADS = (
    "questions of",
    "n",
    "linked (95% interval)",
    "connected, any path",
    "connected without a hub",
    "n with control",
    "any path: right / wrong",
    "lift",
    "without a hub: right / wrong",
    "lift",
    "paths a pair p50 / p95",
    "tokens p50 / p95",
)
GOLD_RULE = (
    "These paths were searched with the gold answers as their ends. That is right for training questions and for analysis; "
    "no model is ever shown such a path at test time."
)


def verdict(summary: RetrievalSummary) -> tuple[str, ...]:
    """The outcome in a few sentences, coverage never without its control."""
    total = summary.total
    if total is None:
        return (f"None of {counted(summary.asked, 'question')} has been searched yet, so that nothing can be said.",)
    specific = "" if total.specific is None else f", {percent(total.specific.value)} by a path without a hub"
    sentences = [
        f"Of {counted(total.questions, 'searched question')}, {percent(total.linked.value)} have the links that a search "
        f"needs and {percent(total.connected.value)} are connected to an answer{specific}."
    ]
    if total.control is not None:
        sentences.append(_lifted("Any path", total.control.any))
        sentences.append(_lifted("A path without a hub", total.control.specific))
    return tuple(sentences)


def warnings(summary: RetrievalSummary) -> tuple[str, ...]:
    """What a reader must know before trusting the coverage; empty if there is nothing."""
    total = summary.total
    if total is None:
        return ()
    return (*_missing(summary, total), *_meaningless(summary, total), *_defects(total))


def retrieval_markdown(summary: RetrievalSummary) -> str:
    """The verdict, the warnings and a compact table as GitHub-flavoured Markdown, names escaped."""
    lines = [f"{inert(sentence)}\n" for sentence in verdict(summary)]
    lines += [f"> **{inert(sentence)}**\n" for sentence in warnings(summary)]
    if summary.total is None:
        return "\n".join(lines) + "\n"
    lines += ["| " + " | ".join(_HEADS) + " |", "|" + " --- |" * len(_HEADS)]
    for part in shown_parts(summary):
        lines.append("| " + " | ".join(inert(value) for value in _markdown_row(part)) + " |")
    lines += ["", _costs(summary, summary.total), "", GOLD_RULE]
    return "\n".join(lines) + "\n"


def shown_parts(summary: RetrievalSummary) -> tuple[Part, ...]:
    """The rows of a table: each dataset, and all of them together where there are several."""
    return (*summary.parts, *((summary.total,) if summary.total and len(summary.parts) > 1 else ()))


def interval(estimate: Estimate | None) -> str:
    """A share with its interval, as text."""
    if estimate is None:
        return "–"
    return f"{percent(estimate.value)} ({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"


def lift_text(lift: float | None) -> str:
    """A lift with two decimals; none where no wrong answer is connected."""
    return "–" if lift is None else f"{lift:.2f}"


def _lifted(kind: str, contrast: Contrast) -> str:
    difference = contrast.difference
    times = "" if contrast.lift is None else f", a lift of {contrast.lift:.2f}"
    return (
        f"{kind} connects {percent(contrast.answer.value)} of right and {percent(contrast.wrong.value)} of wrong answers of "
        f"like degree on the same {counted(difference.n, 'question')}{times} (difference {points(difference.diff)} points, "
        f"95% interval {points(difference.low)} to {points(difference.high)})."
    )


def _missing(summary: RetrievalSummary, total: Part) -> list[str]:
    found = []
    if total.questions < summary.asked:
        found.append(
            f"{counted(summary.asked - total.questions, 'question')} of {summary.asked:,} have not been searched yet and are "
            "in no number here."
        )
    if total.control is None:
        found.append("No wrong-answer control has landed: that paths exist says nothing yet of what they mean.")
    elif total.control.n < SMALL_N:
        found.append(
            f"With a control of {counted(total.control.n, 'question')} the intervals are wide; only a large lift could show."
        )
    return found


def _meaningless(summary: RetrievalSummary, total: Part) -> list[str]:
    """Warnings where wrong answers are connected nearly as often: over all questions, and the datasets where it is so."""
    if total.control is None:
        return []
    found = []
    for kind, name in (("any", "any path"), ("specific", "a path without a hub")):
        everywhere = _doubt(getattr(total.control, kind), name)
        doubted = [part for part in summary.parts if part.control and _doubt(getattr(part.control, kind), name)]
        told = [f"{part.name} with {lift_text(getattr(part.control, kind).lift)}" for part in doubted]
        if told and len(summary.parts) > 1:
            where = f"For {name}, the lift over wrong answers is near or below 1, or cannot be told, on {listed(told)}."
            found.append(f"{everywhere} {where}".strip())
        elif everywhere:
            found.append(everywhere)
    return found


def _doubt(contrast: Contrast, name: str) -> str:
    difference, lift = contrast.difference, lift_text(contrast.lift)
    shares = (
        f"{percent(contrast.wrong.value)} of wrong and {percent(contrast.answer.value)} of right answers (lift {lift})"
    )
    if difference.high < 0:
        return f"By {name}, wrong answers are connected more often than right ones: {shares}."
    if difference.low <= 0:
        return f"By {name}, right answers cannot be told from wrong ones: it connects {shares}."
    if contrast.lift is not None and contrast.lift < NEAR_ONE:
        return f"That {name} exists means little: it connects {shares}."
    return ""


def _defects(total: Part) -> list[str]:
    found = []
    if total.unlabelled:
        where = counted(total.unlabelled_questions, "question")
        found.append(f"Printed without a label: {counted(total.unlabelled, 'id')}, in the graphs of {where}.")
    if total.duplicates:
        found.append(f"Printed twice: {total.duplicates:,} of {counted(total.printed_lines, 'line')}.")
    return found


def _markdown_row(part: Part) -> tuple[str, ...]:
    control = part.control
    values = [part.name, f"{part.questions:,}", *map(interval, (part.linked, part.connected, part.specific))]
    values.append("0" if control is None else f"{control.n:,}")
    for contrast in (control.any, control.specific) if control else (None, None):
        if contrast is None:
            values += ["–", "–"]
        else:
            values += [
                f"{percent(contrast.answer.value)} / {percent(contrast.wrong.value)}",
                lift_text(contrast.lift),
            ]
    return (*values, _two(part.paths_of_a_pair), _two(part.tokens))


def _two(counts: Quantiles | None) -> str:
    return "–" if counts is None else f"{counts.p50:,} / {counts.p95:,}"


def _costs(summary: RetrievalSummary, total: Part) -> str:
    parts = []
    if summary.requests and summary.searched_questions:
        every = summary.requests[-1]
        control = sum(one.requests for one in summary.requests if one.purpose == "control")
        parts.append(
            f"{counted(every.requests, 'request')} for the {counted(summary.searched_questions, 'question')} of this graph "
            f"snapshot, {every.requests / summary.searched_questions:.2f} a question"
            + (f", {control:,} of them for the control" if control else "")
        )
    else:
        parts.append("No request to an endpoint is recorded")
    parts.append(f"questions with a truncated entity {total.truncated:,}")
    parts.append(f"unlabelled ids {total.unlabelled:,}")
    parts.append(f"duplicate lines {total.duplicates:,}")
    return "; ".join(parts) + "."
