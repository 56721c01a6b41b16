"""What is reported of a retrieval: its summary, and pictures of a few questions' paths, from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.retrieval_report import Example
from eval.retrieval_summary import RetrievalRows, RetrievalSummary, summarise_retrieval
from kg.drawing import path_svg
from store import queries
from store.connection import Store
from store.retrieval import example_rows, report_rows
from store.types import Path, ScoreParts, Triple
from tasks.graphs import load_details, load_labels

EXAMPLES = 6


def retrieval_summary(
    store: Store, retrieval_key: str, question_keys: Sequence[str], control_key: str | None = None
) -> RetrievalSummary:
    """The summary of a retrieval over these questions."""
    rows = RetrievalRows(**report_rows(store, retrieval_key, question_keys, control_key))
    return summarise_retrieval(rows, asked=len(question_keys))


def retrieval_examples(
    store: Store, snapshot: str, retrieval_key: str, question_keys: Sequence[str], count: int = EXAMPLES
) -> list[Example]:
    """A few questions with the pictures of their paths."""
    rows = example_rows(store, retrieval_key, question_keys, count)
    drawings = path_drawings(store, snapshot, retrieval_key, {row["question_key"]: row["question"] for row in rows})
    return [
        Example(
            question=row["question"],
            answer=", ".join(answer["text"] for answer in row["answers"]),
            svg=drawings.get(row["question_key"], ""),
            graph_text=row["graph"],
            dataset=row["dataset"],
        )
        for row in rows
    ]


def path_drawings(store: Store, snapshot: str, retrieval_key: str, questions: dict[str, str]) -> dict[str, str]:
    """SVG pictures of the paths of questions (texts by key), for those that have any."""
    labels = load_labels(store, snapshot)
    spec = store.query(
        "SELECT (spec ->> 'qualifiers')::BOOLEAN AS told FROM retrieval_specs WHERE retrieval_key = ?", [retrieval_key]
    )
    details = load_details(store, snapshot) if spec and spec[0]["told"] else {}
    drawings = {}
    for key, text in questions.items():
        paths = [(path_of(row), row["kept"]) for row in queries.paths_of(store, retrieval_key, key)]
        kept = [path for path, is_kept in paths if is_kept]
        if kept:
            dropped = [path for path, is_kept in paths if not is_kept]
            drawings[key] = path_svg(kept, labels, f"Paths of: {text}", dropped=dropped, details=details)
    return drawings


def path_of(row: dict[str, Any]) -> Path:
    """A path from its row in ``paths``, with its triples decoded."""
    parts = (row["similarity"], row["degree_penalty"], row["length_penalty"], row["sibling_penalty"])
    return Path(
        source=row["source"],
        target=row["target"],
        triples=tuple(Triple(*triple) for triple in row["triples"]),
        score=row["score"],
        parts=None if parts[0] is None else ScoreParts(*parts),
        kind=row["kind"] or "pair",
    )
