"""Questions of a study as files: a list that can be filtered, and one page a question with all its runs.

Each page holds its style and its script, reaches no network, and works from a folder without a server. What is shown is what
``eval.explorer`` shows; samples are folded away instead of being asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eval.explorer import inlined, short
from eval.explorer_views import QuestionView
from eval.pages import image, write


class _Entry(NamedTuple):
    """A question with the name of its file."""

    view: QuestionView
    file: str


def export_questions(views: Sequence[QuestionView], folder: Path, *, back: str | None = "../index.html") -> Path:
    """Write ``index.html`` and a page for each question into ``folder``; returns the index's path.

    ``back`` is where the link to the report leads from there (None: no such link). Each file is replaced as a whole, the
    index last, and pages of earlier exports that are no longer in it are removed. Raises RunError, with the file's name,
    where one cannot be written.
    """
    entries = [_Entry(view, file_name(view)) for view in views]
    for place, entry in enumerate(entries):
        before = entries[place - 1].file if place else None
        after = entries[place + 1].file if place + 1 < len(entries) else None
        page = inlined(
            "explorer_export.html.j2",
            view=entry.view,
            title=short(entry.view.question["text"]),
            drawing=image(entry.view.drawing),
            partial=any(mark.state != "missing" for run in entry.view.runs for mark in run.samples[len(run.shown) :]),
            place=place + 1,
            total=len(entries),
            before=before,
            after=after,
            back=back,
        )
        write(folder / entry.file, page)
    index = write(folder / "index.html", _index(entries, back))
    kept = {"index.html", *(entry.file for entry in entries)}
    for old in folder.glob("question-*.html"):
        if old.name not in kept:
            old.unlink(missing_ok=True)
    return index


def remove_questions(folder: Path) -> None:
    """Remove the pages of an earlier export; other files stay."""
    for old in (folder / "index.html", *folder.glob("question-*.html")):
        old.unlink(missing_ok=True)


def file_name(view: QuestionView) -> str:
    """``question-<dataset>-<id>-<digest>.html``: safe in every file system, and another one for every question."""
    question = view.question
    words = re.sub(r"[^a-z0-9]+", "-", f"{question['dataset']}-{question['question_id']}".lower()).strip("-")[:60]
    digest = hashlib.sha256(str(question["question_key"]).encode()).hexdigest()[:8]
    return "-".join(part for part in ("question", words.rstrip("-"), digest) if part) + ".html"


def _index(entries: Sequence[_Entry], back: str | None) -> str:
    questions = [entry.view.question for entry in entries]
    runs = list(dict.fromkeys(run.choice for entry in entries for run in entry.view.runs))
    return inlined(
        "explorer_export_index.html.j2",
        view=entries[0].view if entries else {"frame": {"study": "factscale", "report": False}},
        title="Questions",
        entries=entries,
        runs=runs,
        back=back,
        facets={
            name: sorted({row[name] for row in questions}, key=lambda value: (value is None, value))
            for name in ("dataset", "hops", "answer_type")
        },
    )
