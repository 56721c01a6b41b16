"""The report of a made-up study, read back as a browser would: what is in it, and that nothing in it is dangerous."""

from __future__ import annotations

import json
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import made_study
import pytest

from eval.pages import duration, environment, file_slug
from eval.report import ReportData, drawn_key, render_report
from eval.report_pages import board, context_of, pages_of
from eval.retrieval_report import Example
from eval.retrieval_summary import RetrievalRows, summarise_retrieval
from eval.summary import Baseline, Summary, summarise
from store import queries, retrieval
from store.connection import Store
from store.scores import score_study
from store.types import RunError
from tasks.reports import summary_of

DRAWING = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><text>France</text></svg>'
PAGES = ("index", "budgets", "parallel", "datasets", "training", "retrieval", "judges", "methods", "run")
TEMPLATES = environment()  # which keeps what it has compiled
OUTSIDE = ("https://arxiv.org/abs/", "https://doi.org/")


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
        self.text += " " if tag in ("td", "th", "dt", "dd", "div", "li", "br", "p", "h2") else ""

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data
        else:
            self.text += data

    @property
    def links(self) -> list[str]:
        return [str(attrs["href"]) for tag, attrs in self.tags if tag == "a"]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store") / "made.duckdb")
    made_study.make(store)
    score_study(store, made_study.STUDY)
    return store


@pytest.fixture(scope="module")
def data(store: Store) -> ReportData:
    key = made_study.STUDY
    study = queries.study(store, key)
    assert study
    searched = RetrievalRows(**retrieval.report_rows(store, "retrieval-1", ["t0", "t1", "t2"]))
    quality = [
        {"recipe": recipe, "training_set": f"set-{recipe}", "candidates": 12, "kept": 3, "accuracy": accuracy}
        | {"mean_thinking_tokens": 30.0, "dropped": '{"wrong": 7}', "students": 1, "held_out_before": 3.25}
        | {"held_out_after": 2.5, "study_key": key, "name": recipe, "questions": 3, "held_out_questions": 1}
        | {"semantic_match": 0.5, "judge_accuracy": None, "judge_agreement": None, "median_thinking_tokens": 28}
        | {"p95_thinking_tokens": 60, "mean_kept_thinking_tokens": 25.5, "mean_example_tokens": 80.0}
        | {"p95_example_tokens": 120, "max_example_tokens": 1300}
        for recipe, accuracy in (("rt", 0.25), ("fs1", 0.5))
    ]
    return ReportData(
        study=study,
        summary=summary_of(store, made_study.STUDY),
        runs=queries.run_rows(store, key),
        units=queries.units_of_study(store, key),
        training=queries.training_rows(store, key),
        graphs=queries.graphs_of(store, "retrieval-1", ["t0", "t1", "t2"]),
        training_examples=queries.training_examples(store, key),
        drawings={"t1": DRAWING},
        versions={"factscale": "0.1.0"},
        seeds={"study": 7},
        generated_at=datetime(2026, 1, 5, 12, tzinfo=UTC),
        retrieval_summary=summarise_retrieval(searched, 3),
        retrieval_examples=[Example(f"Which land? {made_study.HOSTILE}", "Paris", DRAWING, "France, capital, Paris")],
        training_quality=quality,
    )


@pytest.fixture(scope="module")
def folder(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    index = render_report(data, tmp_path_factory.mktemp("report") / "made")
    assert index.name == "index.html"
    return index.parent


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Page]:
    return {path.stem: Page(path.read_text(encoding="utf-8")) for path in folder.glob("*.html")}


@pytest.fixture(scope="module")
def bare(data: ReportData) -> ReportData:
    """The same study before anything landed: pages without plots, fast to draw."""
    nothing: dict[str, list[Any]] = {"students": [], "training_sets": [], "training_logs": []}
    return replace(
        data,
        summary=summarise([], []),
        runs=[],
        units=[],
        training=nothing,
        graphs={},
        training_examples=[],
        training_quality=[],
        retrieval_summary=None,
    )


def drawn(data: ReportData, file: str) -> Page:
    """One page of a report, without its plots."""
    page = next(page for page in pages_of(data) if page.file == file)
    return Page(TEMPLATES.get_template(page.template).render(**context_of(page, data, {})))


def test_every_page_leads_to_every_other(pages: dict[str, Page]) -> None:
    assert set(pages) == set(PAGES)
    for name, page in pages.items():
        assert page.links[: len(PAGES) + 1] == ["#main", *(f"{other}.html" for other in PAGES)]
        assert [attrs["href"] for _, attrs in page.tags if attrs.get("aria-current") == "page"] == [f"{name}.html"]
        assert [tag for tag, attrs in page.tags if attrs.get("id") == "main"] == ["main"]
        assert sum(tag == "h1" for tag, _ in page.tags) == 1


def test_training_sets_are_told_by_recipe_and_teacher(data: ReportData) -> None:
    numbers = {"candidates": 1200, "kept": 30, "accuracy": 0.5, "judge_accuracy": 0.25, "semantic_match": None}
    sources = [{**numbers, "recipe": "rt", "teacher": f"<b>{name}</b>", "dropped": {"too long": 4}} for name in "uv"]
    row = {"name": "both", "recipe": "mix", "statistics": {**numbers, "dropped": {"wrong": 9}, "sources": sources}}
    page = drawn(replace(data, training={**data.training, "training_sets": [row]}), "training.html")
    assert "both all all 1,200 50.0% – 25.0% – 30 – – – wrong 9" in page.words
    assert "both rt <b>u</b> 1,200 50.0% – 25.0% – 30 – – – too long 4 both rt <b>v</b> 1,200" in page.words


def test_every_link_has_its_end(pages: dict[str, Page], folder: Path) -> None:
    for page in pages.values():
        ids = [str(attrs["id"]) for _, attrs in page.tags if attrs.get("id")]
        assert [name for name, count in Counter(ids).items() if count > 1] == []
        for link in page.links:
            file, _, part = link.partition("#")
            if link.startswith(OUTSIDE):
                continue
            assert not file or (folder / file).is_file(), link
            if part:
                other = pages[Path(file).stem] if file else page
                assert part in [attrs.get("id") for _, attrs in other.tags], link


def test_no_page_asks_the_network_for_anything(pages: dict[str, Page]) -> None:
    for page in pages.values():
        for tag, attrs in page.tags:
            assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
            assert not [name for name in attrs if name.startswith("on")]
            if src := attrs.get("src"):
                assert src.startswith("data:image/svg+xml;base64,")
            assert (attrs.get("xlink:href") or "#").startswith("#")
        assert "url(http" not in page.style
        assert "@import" not in page.style
        policy = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
        assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_text_is_shown_as_text(pages: dict[str, Page]) -> None:
    for name, least in (("training", 5), ("retrieval", 1), ("datasets", 1)):
        assert pages[name].text.count(made_study.HOSTILE) >= least, name
    assert all(made_study.BIG in pages[name].text for name in ("index", "budgets", "parallel", "judges", "run"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("index", "Gold answers were used to find paths for the training questions only"),
        ("index", "2 of 10 test questions overlap with training; without them accuracies"),
        ("index", "starter: accuracy (95% interval) at each run's largest budget; best: highest of the row"),
        ("index", "Runs 5 a model in a setting on a dataset"),
        ("index", "7.6B baseline"),
        ("budgets", "16 → no limit"),
        ("parallel", "Expected calibration error"),
        ("parallel", "n = 9"),
        ("datasets", "starter 10 1 1 no encoder 0 1 2 20.0%"),
        ("datasets", "its fact in a prompt for: What is the capital of land 1?"),
        ("datasets", "without: "),
        ("training", "rt all all – – – – – – – – – wrong 7, too long 2"),
        ("training", "rt 12 25.0% 50.0% – 3 30 26 80 1,300 3 1 set-rt"),
        ("training", "Of this question only the fs1 trace entered a training set."),
        ("retrieval", "These paths were searched with the gold answers as their ends."),
        ("retrieval", "3 of 6"),
        ("judges", "judge-model-1 (contains)"),
        ("judges", "Judges over all runs and budgets"),
        ("methods", "unbiased for every k up to n"),
        ("methods", "with instruct and between budgets of a run"),
        ("run", "host-a"),
        ("run", "torch 2.13.0"),
        ("run", "study 7"),
    ],
)
def test_pages_say_what_came_out(pages: dict[str, Page], name: str, words: str) -> None:
    assert words in pages[name].words


def test_the_overview_shows_each_run_with_what_went_wrong(pages: dict[str, Page], data: ReportData) -> None:
    for cell in data.summary.largest:
        assert cell.accuracy
        assert cell.clean
        assert cell.majority
        counts = " ".join(str(getattr(cell, name)) for name in ("cut", "refused", "unparsed", "missing"))
        shown = f"{100 * cell.accuracy.value:.1f}% ({100 * cell.accuracy.low:.1f}–{100 * cell.accuracy.high:.1f})"
        clean = f"{100 * cell.clean.value:.1f}% n = {cell.clean.n}"
        rows = pages["index"].words.split(f"{cell.run.setting} no limit ")
        assert any(
            row.startswith(f"10 {shown} {clean}")
            and f"{100 * cell.majority.value:.1f}% {100 * cell.pass_at_k[-1].value:.1f}% @4 {counts}" in row
            for row in rows
        ), cell.run


def test_each_plot_names_itself_and_wears_the_colours_of_the_page(pages: dict[str, Page], folder: Path) -> None:
    labels = {name: [a["aria-label"] for tag, a in page.tags if tag == "svg"] for name, page in pages.items()}
    assert {name: found for name, found in labels.items() if found} == {
        "budgets": ["Accuracy by thinking budget on starter"],
        "parallel": [
            "pass@k and majority at the largest budget on starter",
            "Accuracy of the majority by its share of votes on starter",
        ],
        "datasets": [
            "Accuracy by hops on starter",
            "Accuracy by answer types on starter",
            "Share of right traces by length of the thought on starter",
        ],
        "training": [
            "Quality of the training sets",
            "Training and held-out loss by step",
            "Learning rate, speed and memory of training by step",
        ],
        "retrieval": [
            "Share of questions connected, right against wrong answers",
            "Questions by hops of their shortest path",
        ],
        "judges": ["Accuracy by matcher and by judge on starter"],
    }
    styles = " ".join(str(attrs.get("style")) for _, attrs in pages["budgets"].tags)
    assert all(f"var(--{name}, #" in styles for name in (*made_study.SETTINGS, "ink", "quiet", "rule"))
    names = {path.stem for path in (folder / "plots").glob("*.svg")}
    assert names == {path.stem for path in (folder / "plots").glob("*.png")}
    assert len(names) == 12


def test_the_manifest_names_every_file(folder: Path) -> None:
    listed = set(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"])
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == listed | {"manifest.json"}
    assert {
        "tables/results.csv",
        "tables/results.parquet",
        "tables/results-starter.tex",
        "plots/budgets-starter.png",
    } <= there


def test_a_later_report_removes_what_it_does_not_make_and_nothing_else(bare: ReportData, tmp_path: Path) -> None:
    report = tmp_path / "report"
    render_report(bare, report)
    ours = ["plots/old.svg", "dataset-old.html"]
    others = ["questions/index.html", "notes.txt"]
    for name in (*ours, *others, "../outside.txt"):
        (report / name).parent.mkdir(exist_ok=True)
        (report / name).write_text("x", encoding="utf-8")
    manifest = json.loads((report / "manifest.json").read_text(encoding="utf-8"))
    named = [
        *ours,
        "../outside.txt",
        str(tmp_path / "outside.txt"),
        "plots/../../outside.txt",
        "questions/index.html",
        7,
    ]
    (report / "manifest.json").write_text(json.dumps(manifest | {"files": manifest["files"] + named}), encoding="utf-8")
    before = (report / "index.html").read_bytes()
    assert render_report(bare, report).read_bytes() == before
    assert [name for name in ours if (report / name).exists()] == []
    assert [name for name in (*others, "../outside.txt") if not (report / name).exists()] == []
    assert json.loads((report / "manifest.json").read_text(encoding="utf-8")) == manifest


@pytest.mark.parametrize("text", ["", "[]", '{"files": "index.html"}', '{"files": null}', "\xff"])
def test_a_manifest_that_is_none_is_replaced(bare: ReportData, tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    render_report(bare, tmp_path)
    assert "index.html" in json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["files"]


def test_a_report_is_known_by_its_key_once_all_of_it_is_written(bare: ReportData, tmp_path: Path) -> None:
    assert drawn_key(tmp_path) is None
    render_report(replace(bare, key="first"), tmp_path)
    assert drawn_key(tmp_path) == "first"
    with files_of_at_most(5_000), pytest.raises(RunError, match="could not be written"):
        render_report(replace(bare, key="second"), tmp_path)
    assert drawn_key(tmp_path) is None
    render_report(replace(bare, key="second"), tmp_path)
    assert drawn_key(tmp_path) == "second"
    (tmp_path / "index.html").unlink()
    assert drawn_key(tmp_path) is None


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_report_that_cannot_be_written_leaves_the_old_first_page(bare: ReportData, tmp_path: Path) -> None:
    before = render_report(bare, tmp_path).read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir())
    later = replace(bare, generated_at=datetime(2026, 1, 6, tzinfo=UTC))
    with files_of_at_most(5_000), pytest.raises(RunError, match=r"budgets\.html could not be written"):
        render_report(later, tmp_path)
    assert (tmp_path / "index.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_the_first_page_is_written_last(bare: ReportData, tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    with pytest.raises(RunError, match=r"index\.html could not be written"):
        render_report(bare, tmp_path)
    assert (tmp_path / "run.html").is_file()
    assert (tmp_path / "tables" / "judges_by_run.parquet").is_file()
    assert (tmp_path / "manifest.json").is_file()


def test_a_folder_that_is_a_file_is_named(bare: ReportData, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="taken"):
        render_report(bare, tmp_path / "taken")


def test_a_study_of_which_nothing_landed_still_has_its_pages(data: ReportData, bare: ReportData) -> None:
    for file, words in (
        ("index.html", "No scored trace has landed yet"),
        ("budgets.html", "Nothing was run."),
        ("parallel.html", "Every question was answered once."),
        ("datasets.html", "Overlap with training was not looked for in this study."),
        ("training.html", "No student of this study was trained"),
        ("retrieval.html", "No paths were searched in this study."),
        ("judges.html", "No model judged this study"),
        ("run.html", "none given" if not bare.seeds else "study 7"),
    ):
        assert words in drawn(bare, file).words, file
    only_asked = replace(bare, summary=summarise([], data.runs), runs=data.runs)
    for page in pages_of(only_asked):
        assert drawn(only_asked, page.file).words
    assert "No scored trace has landed yet" in drawn(only_asked, "index.html").words


def test_pages_of_questions_are_linked_where_there_are_some(bare: ReportData) -> None:
    with_questions = drawn(replace(bare, questions_page=True), "index.html")
    assert with_questions.links[8:11] == ["questions/index.html", "methods.html", "run.html"]
    assert "questions/index.html" not in drawn(bare, "index.html").links


def with_second_dataset(summary: Summary, name: str) -> Summary:
    cells = tuple(c._replace(run=c.run._replace(run_key=f"{c.run.run_key}-o", dataset=name)) for c in summary.cells)
    groups = tuple(g._replace(run=g.run._replace(run_key=f"{g.run.run_key}-o", dataset=name)) for g in summary.groups)
    return summary.model_copy(update={"cells": summary.cells + cells, "groups": summary.groups + groups})


def test_several_datasets_have_a_page_each_and_a_mean(data: ReportData) -> None:
    several = replace(data, summary=with_second_dataset(data.summary, "Other <set>"))
    files = [page.file for page in pages_of(several)]
    other = f"dataset-{file_slug('Other <set>')}.html"
    assert {"dataset-starter.html", other} <= set(files)
    assert other in drawn(several, "datasets.html").links
    assert "Mean over all 2 datasets" in drawn(several, "datasets.html").words
    page = drawn(several, other)
    assert "Other <set>: accuracy by hops" in page.words
    assert "starter: accuracy by hops" not in page.words
    assert [a["href"] for _, a in page.tags if a.get("aria-current")] == ["datasets.html", other]


def test_long_tables_are_folded_up(data: ReportData) -> None:
    def folded(summary: Summary) -> set[bool]:
        page = drawn(replace(data, summary=summary), "index.html")
        return {"open" not in attrs for tag, attrs in page.tags if tag == "details"}

    many = data.summary
    for name in ("b", "c", "d", "e", "f"):
        many = with_second_dataset(many, name) if len(many.largest) <= 24 else many
    assert len(many.largest) > 24
    assert folded(data.summary) == {False}
    assert folded(many) == {True}


def test_the_board_marks_the_best_of_a_row_and_has_a_column_a_setting(data: ReportData) -> None:
    found = board(data.summary, "starter")
    assert found.settings == made_study.SETTINGS
    assert [(row.model, row.role) for row in found.rows] == [
        (made_study.SMALL, "student"),
        (made_study.BIG, "baseline"),
    ]
    values = [entry.cell.accuracy.value for entry in found.rows[0].entries if entry and entry.cell.accuracy]
    assert [bool(entry and entry.best) for entry in found.rows[0].entries] == [value == max(values) for value in values]
    assert [entry is None for entry in found.rows[1].entries] == [False, True, True, True]
    assert not any(entry.best for entry in found.rows[1].entries if entry)


def test_another_baseline_is_named(data: ReportData, store: Store) -> None:
    other = replace(
        data, summary=summary_of(store, made_study.STUDY, Baseline(setting="instruct", model=made_study.BIG))
    )
    text = drawn(other, "index.html").words
    assert f"starter: against {made_study.BIG}, instruct, at the largest budget that both have" in text
    assert "+" in text or "−" in text


def test_file_names_tell_names_apart() -> None:
    assert file_slug("budgets-cwq") == "budgets-cwq"
    names = ["CWQ", "cwq", "c w q", "c/w/q", "中文", "中", "../x", ""]
    slugs = {file_slug(name) for name in names}
    assert len(slugs) == len(names)
    assert all(set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for slug in slugs)


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.14, "3.1 s"), (75, "1 min 15 s"), (59.99, "1 min 0 s"), (7260, "2 h 1 min")]
)
def test_durations_are_read_by_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# In a browser ---------------------------------------------------------------------------------------------------------

WIDE = """(() => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const outside = [...document.querySelectorAll("main *, nav *")].filter(
    one => !one.closest("svg") && !one.closest(".scroll") && one.getBoundingClientRect().right > innerWidth + 0.5);
  return [document.documentElement.scrollWidth - document.documentElement.clientWidth, outside.length];
})()"""
# The least contrast of any text with what lies behind it, after WCAG 2.1; 4.5 is its level AA.
CONTRAST = """(() => {
  const rgb = colour => { const parts = colour.match(/[\\d.]+/g).map(Number); return parts.length > 3 ? parts : [...parts, 1] };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const line = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = colour => 0.2126 * line(colour[0]) + 0.7152 * line(colour[1]) + 0.0722 * line(colour[2]);
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, style = getComputedStyle(element);
    if (!walk.currentNode.textContent.trim() || element.tagName.toLowerCase() === "style") continue;
    const layers = [];
    let opacity = 1;
    for (let one = element; one; one = one.parentElement) {
      opacity *= getComputedStyle(one).opacity;
      layers.unshift(rgb(getComputedStyle(one).backgroundColor));
    }
    const back = layers.reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
    const ink = rgb(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(over([...ink.slice(0, 3), ink[3] * opacity], back)), light(back)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walk.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0])[0];
})()"""


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Page]:
    with browser.browser() as page:
        yield page


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium is installed")
class TestBrowser:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_pages_open_from_a_file_and_fit_and_can_be_read(self, tab: browser.Page, folder: Path, scheme: str) -> None:
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for name in PAGES:
            address = (folder / f"{name}.html").as_uri()
            tab.open(address)
            assert tab.complaints == []
            assert {one for one in tab.requests if not one.startswith("data:")} == {address}
            assert tab.run("innerWidth") == 1280
            assert tab.run(WIDE) == [0, 0], name
            contrast, text = tab.run(CONTRAST)
            assert contrast >= 4.5, (name, text)

    def test_the_keyboard_skips_the_navigation_and_opens_pages(self, tab: browser.Page, folder: Path) -> None:
        tab.open((folder / "index.html").as_uri())
        tab.press("Tab")
        assert tab.run("document.activeElement.textContent") == "Skip to the content"
        tab.press("Enter")
        assert tab.run("document.activeElement.id") == "main"
        tab.open((folder / "index.html").as_uri())
        for _ in range(3):
            tab.press("Tab")
        with tab.loading():
            tab.press("Enter")
        assert str(tab.run("location.pathname")).endswith("/budgets.html")
