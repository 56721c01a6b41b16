"""The report on retrieval: a section of a study's page, a page of its own, and (``retrieval_markdown``) a short text.

What is shown is in :mod:`eval.retrieval_summary`; paths come as ready pictures. As every page of ours, it asks the network
for nothing and escapes every text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from eval import retrieval_plots as plots
from eval.pages import environment, image, plot, style, write
from eval.retrieval_findings import GOLD_RULE, interval, lift_text, retrieval_markdown, shown_parts, verdict, warnings
from eval.retrieval_summary import SOURCES, RetrievalSummary

__all__ = ["Example", "render_retrieval", "retrieval_markdown", "retrieval_page", "retrieval_section"]

_SOURCE_NAMES = {
    "gold_qid": "gold QID",
    "mid_map": "gold Freebase id, mapped",
    "label": "found by label",
    "literal": "date, number or yes/no",
    "none": "none",
}


class Example(NamedTuple):
    """A question with the picture of its paths (SVG, "" for none) and the linearised graph as a model reads it."""

    question: str
    answer: str
    svg: str
    graph_text: str
    dataset: str = ""


def retrieval_section(summary: RetrievalSummary, examples: Sequence[Example] = ()) -> str:
    """The element ``<section id="retrieval">`` of a page that has our style sheet."""
    return environment().get_template("retrieval.html.j2").render(**_context(summary, examples))


def retrieval_page(
    summary: RetrievalSummary,
    *,
    title: str,
    key: str,
    generated_at: datetime,
    spec: Mapping[str, Any] | None = None,
    examples: Sequence[Example] = (),
) -> str:
    """The section as a whole page, for a retrieval without a study. ``spec`` are its parameters, ``key`` its key."""
    page = environment().get_template("retrieval_page.html.j2")
    shown = {"title": title, "key": key, "generated_at": generated_at, "spec": spec, "style": style()}
    return page.render(**_context(summary, examples), **shown)


def render_retrieval(
    output: Path,
    summary: RetrievalSummary,
    *,
    title: str,
    key: str,
    generated_at: datetime,
    spec: Mapping[str, Any] | None = None,
    examples: Sequence[Example] = (),
) -> Path:
    """Write :func:`retrieval_page` as ``retrieval.html`` into the folder ``output``; the page's path is returned.

    Raises RunError where it cannot be written; an older page is then left as it was.
    """
    text = retrieval_page(summary, title=title, key=key, generated_at=generated_at, spec=spec, examples=examples)
    return write(output / "retrieval.html", text)


def _context(summary: RetrievalSummary, examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "summary": summary,
        "total": summary.total,
        "parts": shown_parts(summary),
        "verdict": verdict(summary),
        "warnings": warnings(summary),
        "gold_rule": GOLD_RULE,
        "interval": interval,
        "lift_text": lift_text,
        "coverage_plot": plot(plots.coverage_bars(summary.parts).inline) if summary.parts else None,
        "hop_plot": plot(plots.hop_bars(summary.parts).inline) if summary.parts else None,
        "sources": [(source, _SOURCE_NAMES[source]) for source in SOURCES],
        "examples": [one._replace(svg=image(one.svg) or "") for one in examples],
    }
