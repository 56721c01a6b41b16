"""The page of a made-up study, read back as a browser would: what is in it, and that nothing in it is dangerous."""

from __future__ import annotations

import csv
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_study
import pytest

from eval import plots
from eval.agreement import summarise_judges
from eval.report import Cut, Piece, ReportData, duration, pieces, render_report, table_rows
from eval.retrieval_report import Example
from eval.retrieval_summary import RetrievalRows, summarise_retrieval
from eval.summary import summarise
from store import queries, retrieval
from store.connection import Store
from store.types import RunError

DRAWING = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><text>France</text></svg>'


class Page(HTMLParser):
    """Tags with their attributes, the visible text, and the text inside ``style``."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    store = Store(tmp_path_factory.mktemp("store") / "made.duckdb")
    made_study.make(store)
    study = queries.study(store, made_study.STUDY)
    assert study
    key = study["study_key"]
    runs = queries.run_rows(store, key)
    searched = RetrievalRows(**retrieval.report_rows(store, "retrieval-1", ["t0", "t1", "t2"]))
    return ReportData(
        study=study,
        summary=summarise(
            queries.iter_result_rows(store, key),
            runs,
            summarise_judges(queries.judge_rows(store, key), queries.ballot_rows(store, key)),
        ),
        runs=runs,
        units=queries.units_of_study(store, key),
        training=queries.training_rows(store, key),
        graphs=queries.graphs_of(store, "retrieval-1", ["t0", "t1", "t2"]),
        training_examples=queries.training_examples(store, key),
        trace_samples=queries.trace_samples(store, key, ["q0", "q1", "q4"]),
        drawings={"t1": DRAWING},
        versions={"factscale": "0.1.0"},
        seeds={"study": 7},
        generated_at=datetime(2026, 1, 5, 12, tzinfo=UTC),
        retrieval_summary=summarise_retrieval(searched, 3),
        retrieval_examples=[Example(f"Which land? {made_study.HOSTILE}", "Paris", DRAWING, "France, capital, Paris")],
    )


@pytest.fixture(scope="module")
def path(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_report(data, tmp_path_factory.mktemp("report") / "made")


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bare(data: ReportData) -> ReportData:
    """The same study before anything landed: a page without plots, fast to draw."""
    nothing: dict[str, list[Any]] = {"students": [], "training_sets": [], "training_logs": []}
    summary = summarise([], [])
    return replace(
        data,
        summary=summary,
        runs=[],
        units=[],
        training=nothing,
        graphs={},
        training_examples=[],
        trace_samples=[],
        retrieval_summary=None,
    )


def test_every_section_can_be_linked_to(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a" and str(attrs.get("href")).startswith("#")}
    sections = "verdict run results judges comparisons plots breakdown training retrieval questions methods"
    assert {f"#{name}" for name in sections.split()} <= links
    assert {str(link)[1:] for link in links} <= set(ids)


def test_the_page_asks_the_network_for_nothing(page: Page) -> None:
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attrs if name.startswith("on")]
        if src := attrs.get("src"):
            assert src.startswith("data:image/svg+xml;base64,")
        for href in (attrs.get("href"), attrs.get("xlink:href")):
            assert href is None or href.startswith(("#", "https://arxiv.org/abs/")) or href == "results.csv"
    assert "url(http" not in page.style
    assert "@import" not in page.style
    policy = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_text_is_shown_as_text(page: Page) -> None:
    assert page.text.count(made_study.HOSTILE) > 10
    assert made_study.BIG in page.text
    assert [attrs for tag, attrs in page.tags if tag == "img" and "data:" not in str(attrs.get("src"))] == []


def test_the_page_says_what_was_run_and_what_came_out(page: Page, data: ReportData) -> None:
    text = " ".join(page.text.split())
    best = max(cell.accuracy.value for cell in data.summary.cells if cell.accuracy)
    for words in (
        "made",
        "n = 10",
        f"{100 * best:.1f}%",
        "Gold answers were used to find paths for the training questions only",
        "host-a",
        "torch 2.13.0",
        "study 7",
        "no limit",
        "dropped: wrong 7, too long 2",
        "3 of 6",
        "These paths were searched with the gold answers as their ends.",
        "✓ correct",
        "✗ refused",
        "✂ budget 16",
        "Judges over all runs and budgets",
        "judge-model-1 (contains)",
        "judge-model-2",
        "Of this question only the fs1 trace entered a training set.",
    ):
        assert words in text, words


def test_each_plot_names_itself_and_wears_the_colours_of_the_page(page: Page) -> None:
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert labels == [
        "Accuracy by thinking budget on starter",
        "pass@k at the largest budget on starter",
        "Accuracy by hops on starter",
        "Training and held-out loss by step",
        "Share of questions connected, right against wrong answers",
        "Questions by hops of their shortest path",
    ]
    styles = " ".join(str(attrs.get("style")) for _, attrs in page.tags)
    assert all(f"var(--{name}, #" in styles for name in (*made_study.SETTINGS, "ink", "quiet", "rule"))


def test_equal_data_gives_equal_bytes(data: ReportData, path: Path, tmp_path: Path) -> None:
    assert path.name == "index.html"
    assert render_report(data, tmp_path).read_bytes() == path.read_bytes()


def test_the_table_beside_the_page_is_the_result_table(data: ReportData, path: Path) -> None:
    with (path.parent / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in table_rows(data.summary)
    ]
    assert rows == expected


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_page_that_cannot_be_written_leaves_the_old_one(bare: ReportData, tmp_path: Path) -> None:
    before = render_report(bare, tmp_path).read_bytes()
    with files_of_at_most(5_000), pytest.raises(RunError, match=r"index\.html could not be written"):
        render_report(replace(bare, seeds={"study": 8}), tmp_path)
    assert (tmp_path / "index.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "results.csv"]


def test_a_folder_that_is_a_file_is_named(bare: ReportData, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="taken"):
        render_report(bare, tmp_path / "taken")


def test_a_study_of_which_nothing_landed_still_has_a_page(data: ReportData, bare: ReportData, tmp_path: Path) -> None:
    text = render_report(bare, tmp_path).read_text(encoding="utf-8")
    assert "No scored trace has landed yet" in text
    assert "No student of this study was trained" in text
    assert "No paths were searched in this study." in text
    assert 'href="#judges"' not in text
    only_asked = replace(bare, summary=summarise([], data.runs), runs=data.runs)
    assert "No scored trace has landed yet" in render_report(only_asked, tmp_path).read_text(encoding="utf-8")


def row(budget: int | None, chars: int, *, cut: bool) -> dict[str, Any]:
    values = {"budget": budget, "thinking": "0123456789"[:chars], "thinking_chars": chars, "cut": cut}
    return values | {"prediction": f"p{budget}", "correct": False}


def test_a_thought_is_split_where_its_budgets_cut_it() -> None:
    ladder = [row(2, 3, cut=True), row(4, 6, cut=True), row(None, 10, cut=False)]
    assert pieces(ladder) == (
        Piece("012", Cut("2", "p2", False)),
        Piece("345", Cut("4", "p4", False)),
        Piece("6789", None),
    )
    assert pieces([row(4, 6, cut=True)]) == (Piece("012345", Cut("4", "p4", False)),)
    assert pieces([row(4, 0, cut=False)]) == (Piece("", None),)


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.14, "3.1 s"), (75, "1 min 15 s"), (59.99, "1 min 0 s"), (7260, "2 h 1 min")]
)
def test_durations_are_read_by_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_low_accuracies_say_where_the_axis_ends(data: ReportData) -> None:
    cells = [cell for cell in data.summary.cells if cell.accuracy]
    low = [c._replace(accuracy=c.accuracy._replace(value=0.02, low=0.0, high=0.08)) for c in cells if c.accuracy]
    assert "accuracy (axis ends at 0.1)" in plots.accuracy_by_budget(
        data.summary.model_copy(update={"cells": tuple(low)}), "starter"
    )
    assert "axis ends" not in plots.accuracy_by_budget(data.summary, "starter")


def test_names_are_no_mathematics_and_no_markup_in_a_plot(data: ReportData) -> None:
    cells = tuple(c._replace(run=c.run._replace(model="a$_{b}$<b>中文")) for c in data.summary.cells)
    svg = plots.accuracy_by_budget(data.summary.model_copy(update={"cells": cells}), "starter")
    assert "a$_{b}$&lt;b&gt;中文" in svg


def test_without_hops_logs_or_samples_there_is_no_plot(data: ReportData) -> None:
    once = tuple(cell._replace(samples=1) for cell in data.summary.cells)
    assert plots.pass_at_k(data.summary.model_copy(update={"cells": once}), "starter") is None
    assert plots.accuracy_by_hops(data.summary.model_copy(update={"groups": ()}), "starter") is None
    assert plots.loss_curves(data.training["students"], []) is None
