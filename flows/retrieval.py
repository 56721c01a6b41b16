"""What the flow `retrieve` tells people: a page of its own, and artifacts in the UI."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from eval.retrieval_report import render_retrieval, retrieval_markdown
from eval.retrieval_summary import RetrievalSummary
from flows.artifacts import markdown
from flows.orders import Orders
from store.home import Home
from tasks.keys import set_key
from tasks.retrieval_reports import retrieval_examples, retrieval_summary


def retrieval_of(orders: Orders) -> RetrievalSummary:
    """The summary of a study's retrieval, over all questions that it searches."""
    control = orders.control()
    return retrieval_summary(orders.store, orders.retrieval.key, orders.searched_keys, control.key if control else None)


def retrieval_page(name: str, home: Home) -> Path:
    """Where the page of a study's retrieval lies."""
    return home.reports / name / "retrieval.html"


def publish_retrieval(orders: Orders, *, draw: bool) -> Path:
    """The artifact of a retrieval, and its page: drawn anew if ``draw``, or if there is none of it. Returns its path."""
    name, spec = orders.parameters.name, orders.retrieval
    page = retrieval_page(name, orders.home)
    summary = retrieval_of(orders)
    keys, control = list(orders.searched_keys), orders.control()
    # What the page is of: it may show what the study was before its parameters were changed back.
    shown = f"{spec.key}, questions {set_key(keys)}, control {control.key if control else 'none'}"
    if draw or not page.is_file() or shown not in page.read_text(encoding="utf-8"):
        examples = retrieval_examples(orders.store, spec.snapshot, spec.key, keys)
        page = render_retrieval(
            page.parent,
            summary,
            title=f"Retrieval of {name}",
            key=shown,
            generated_at=datetime.now(UTC),
            spec=spec.model_dump(mode="json"),
            examples=examples,
        )
    markdown(
        f"retrieval-{name}",
        f"{retrieval_markdown(summary)}\n\nPage: `{page}`",
        "What retrieval found, and what it is worth",
    )
    return page
