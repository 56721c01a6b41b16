"""The report on a made-up retrieval: its numbers computed anew from the known questions, its page read back."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_retrieval as made
import pytest
from made_retrieval import Fact
from scipy import stats

from eval.retrieval_findings import GOLD_RULE, NEAR_ONE, retrieval_markdown, verdict, warnings
from eval.retrieval_report import Example, render_retrieval, retrieval_page, retrieval_section
from eval.retrieval_summary import Part, RetrievalRows, RetrievalSummary, quantiles, summarise_retrieval
from store import retrieval
from store.connection import Store
from store.types import RunError

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><text>France</text></svg>'
NOTHING = RetrievalRows([], [], [], [], [], [], [])
LINKED, MAPPED, LABELLED, BARE = made.DATASETS


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._in_style else data


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RetrievalRows, tuple[Fact, ...]]:
    store = Store(tmp_path_factory.mktemp("store") / "made.duckdb")
    facts = made.make(store)
    keys = [fact.key for fact in facts]
    return RetrievalRows(**retrieval.report_rows(store, made.RETRIEVAL, keys, made.CONTROL)), facts


@pytest.fixture(scope="module")
def rows(landed: tuple[RetrievalRows, tuple[Fact, ...]]) -> RetrievalRows:
    return landed[0]


@pytest.fixture(scope="module")
def facts(landed: tuple[RetrievalRows, tuple[Fact, ...]]) -> tuple[Fact, ...]:
    return landed[1]


@pytest.fixture(scope="module")
def summary(rows: RetrievalRows, facts: tuple[Fact, ...]) -> RetrievalSummary:
    return summarise_retrieval(rows, len(facts))


@pytest.fixture(scope="module")
def text(summary: RetrievalSummary) -> str:
    examples = [
        Example(f"Which city? {made.HOSTILE}", "Paris", DRAWING, f"France, capital, Paris\n{made.HOSTILE}", LINKED),
        Example("Which land?", "France", "", ""),
    ]
    spec = {"max_hops": 3, "name": made.HOSTILE}
    return retrieval_page(summary, title=made.HOSTILE, key="key-1", generated_at=NOW, spec=spec, examples=examples)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def part_of(summary: RetrievalSummary, dataset: str | None) -> Part:
    return next(part for part in (*summary.parts, summary.total) if part and part.dataset == dataset)


def of(facts: Sequence[Fact], dataset: str | None) -> list[Fact]:
    return [fact for fact in facts if dataset in (None, fact.dataset)]


def one_set(summary: RetrievalSummary, dataset: str) -> RetrievalSummary:
    part = part_of(summary, dataset)
    return summary._replace(parts=(part,), total=part, asked=part.questions)


@pytest.mark.parametrize("dataset", [None, *made.DATASETS], ids=["all", "linked", "mapped", "labelled", "bare"])
def test_shares_are_of_questions_with_wilsons_interval(
    summary: RetrievalSummary, facts: tuple[Fact, ...], dataset: str | None
) -> None:
    part, mine = part_of(summary, dataset), of(facts, dataset)
    assert part.questions == len(mine)
    literal = ("number", "date", "boolean")
    counts = {
        part.linked_question: sum(bool(fact.sources) for fact in mine),
        part.linked: sum(bool(f.sources and (f.answer_sources or f.answer_type in literal)) for f in mine),
        part.connected: sum(fact.any for fact in mine),
        part.specific: sum(fact.specific for fact in mine),
    }
    for share, count in counts.items():
        interval = stats.binomtest(count, len(mine)).proportion_ci(method="wilson")
        assert share
        assert share.n == len(mine)
        assert (share.value, share.low, share.high) == pytest.approx((count / len(mine), interval.low, interval.high))


@pytest.mark.parametrize("dataset", [None, LINKED, MAPPED, LABELLED])
def test_the_control_is_paired_question_by_question(
    summary: RetrievalSummary, facts: tuple[Fact, ...], dataset: str | None
) -> None:
    controls = [fact.control for fact in of(facts, dataset) if fact.control]
    control = part_of(summary, dataset).control
    assert control
    assert control.n == len(controls)
    for contrast, right, wrong in (
        (control.any, [c.answer for c in controls], [c.wrong for c in controls]),
        (control.specific, [c.answer_specific for c in controls], [c.wrong_specific for c in controls]),
    ):
        gaps = [(a is not None) - (b is not None) for a, b in zip(right, wrong, strict=True)]
        mean = sum(gaps) / len(gaps)
        error = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / math.sqrt(len(gaps))
        difference = contrast.difference
        assert difference.diff == pytest.approx(mean)
        # The bootstrap's interval is near the normal one; an unpaired one would be wider or narrower.
        assert (difference.low, difference.high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.03)
        shares = [sum(one is not None for one in some) / len(gaps) for some in (right, wrong)]
        assert (contrast.answer.value, contrast.wrong.value) == pytest.approx(tuple(shares))
        assert contrast.lift == pytest.approx(shares[0] / shares[1])
    for within in control.within:
        near = [[one is not None and one <= within.hops for one in column] for column in zip(*controls, strict=True)]
        expected = [sum(column) / len(column) for column in near]
        assert (within.answer, within.answer_specific, within.wrong, within.wrong_specific) == pytest.approx(expected)
    assert [within.hops for within in control.within] == [1, 2, 3]


def test_a_set_without_a_control_has_none(summary: RetrievalSummary) -> None:
    assert part_of(summary, BARE).control is None


def test_distances_and_link_sources_are_counted(summary: RetrievalSummary, facts: tuple[Fact, ...]) -> None:
    for dataset in (None, *made.DATASETS):
        part, mine = part_of(summary, dataset), of(facts, dataset)
        assert part.pair_hops == Counter(pair.hops for fact in mine for pair in fact.pairs)
        shortest = Counter(min((p.hops for p in fact.pairs if p.hops), default=None) for fact in mine)
        specific = Counter(min((p.specific for p in fact.pairs if p.specific), default=None) for fact in mine)
        assert (part.hops, part.specific_hops) == (shortest, specific)
        assert sum(part.sources["question"].values()) == sum(part.sources["answer"].values()) == len(mine)
    mapped = part_of(summary, MAPPED).sources["question"]
    assert mapped["none"] == sum(not fact.sources for fact in of(facts, MAPPED))
    assert mapped["mid_map"] == sum(bool(fact.sources) for fact in of(facts, MAPPED))


def test_what_is_printed_has_nearest_rank_percentiles(summary: RetrievalSummary, facts: tuple[Fact, ...]) -> None:
    part, mine = part_of(summary, MAPPED), of(facts, MAPPED)

    def rank(counts: Iterable[int], share: float) -> int:
        ordered = sorted(counts)
        return ordered[math.ceil(share * len(ordered)) - 1]

    assert part.tokens
    assert (part.tokens.p50, part.tokens.p95) == (
        rank((f.tokens for f in mine), 0.5),
        rank((f.tokens for f in mine), 0.95),
    )
    assert (part.kept.p50, part.kept.most) == (rank((f.kept for f in mine), 0.5), max(f.kept for f in mine))
    assert part.printed_lines == sum(fact.lines for fact in mine)
    assert part.truncated == sum(fact.truncated for fact in mine)
    assert (part.unlabelled, part.unlabelled_questions, part.duplicates) == (2, 1, 1)
    assert quantiles([]) is None


def test_requests_are_summed_by_purpose(summary: RetrievalSummary) -> None:
    found = {one.purpose: one for one in summary.requests}
    assert list(found) == ["neighbourhoods", "labels", "control", "degrees", "all"]
    near = found["neighbourhoods"]
    assert (near.requests, near.attempts, near.failed, near.failures) == (36, 30 + 12 + 4, 2, {"late": 2})
    every = found["all"]
    assert (every.requests, every.failed, every.throttled) == (45, 4, 1)
    assert every.seconds == pytest.approx(1.5 * 45)


def test_the_verdict_never_tells_coverage_without_its_control(summary: RetrievalSummary) -> None:
    told = verdict(one_set(summary, LINKED))
    assert len(told) == 3
    assert "a lift of 1.14" in told[1]
    assert "a lift of 2.00" in told[2]
    assert verdict(one_set(summary, BARE))[1:] == ()
    (warning,) = warnings(one_set(summary, BARE))
    assert warning.startswith("No wrong-answer control has landed")


def test_a_lift_near_one_is_warned_of(summary: RetrievalSummary) -> None:
    only = one_set(summary, LINKED)
    assert only.total
    control = only.total.control
    assert control
    sure = control.any._replace(difference=control.any.difference._replace(low=0.05))
    part = only.total._replace(control=control._replace(any=sure))
    (warning,) = warnings(only._replace(total=part, parts=(part,)))
    assert warning == (
        "That any path exists means little: it connects 83.7% of wrong and 95.3% of right answers (lift 1.14)."
    )
    far = part._replace(control=control._replace(any=sure._replace(lift=NEAR_ONE)))
    assert warnings(only._replace(total=far, parts=(far,))) == ()


def test_a_control_that_wins_or_ties_is_warned_of(summary: RetrievalSummary) -> None:
    some = " ".join(warnings(one_set(summary, LABELLED)))
    assert "By any path, wrong answers are connected more often than right ones" in some
    assert "By a path without a hub, wrong answers are connected more often than right ones" in some
    tied = " ".join(warnings(one_set(summary, MAPPED)))
    assert "By any path, right answers cannot be told from wrong ones" in tied
    assert "a path without a hub" not in tied
    assert "Printed without a label: 2 ids, in the graphs of 1 question." in tied
    assert "Printed twice: 1 of" in tied
    every = " ".join(warnings(summary))
    assert "For a path without a hub, the lift over wrong answers" in every
    assert "on timequestions (test) with 0.15." in every


def test_questions_that_are_not_searched_yet_are_told(rows: RetrievalRows, facts: tuple[Fact, ...]) -> None:
    more = summarise_retrieval(rows, len(facts) + 5)
    assert warnings(more)[0].startswith(f"5 questions of {len(facts) + 5} have not been searched yet")
    none = summarise_retrieval(NOTHING, 7)
    assert none.total is None
    assert verdict(none) == ("None of 7 questions has been searched yet, so that nothing can be said.",)
    assert "None of 7 questions" in retrieval_section(none)
    assert "None of 7 questions" in retrieval_markdown(none)


def test_a_retrieval_of_before_has_a_report_without_what_it_did_not_record(rows: RetrievalRows) -> None:
    older = {"specific": None, "lines": None, "tokens": None, "unlabelled": None, "duplicates": None}
    questions = [{**row, **older, "min_specific_hops": None} for row in rows.questions]
    bare = replace(rows, questions=questions, controls=[], pairs=[], hops=[], requests=[], expansions=[], searched=[])
    summary = summarise_retrieval(bare, len(questions))
    assert summary.total
    assert summary.total.specific is summary.total.specific_hops is summary.total.tokens is None
    shown = " ".join(Page(retrieval_section(summary)).text.split())
    assert "No request to an endpoint is recorded for this graph snapshot." in shown
    assert "No control has landed." in shown
    assert "No request to an endpoint is recorded" in retrieval_markdown(summary)


def test_the_page_shows_what_retrieval_must_report(page: Page, summary: RetrievalSummary) -> None:
    shown = " ".join(page.text.split())
    total = part_of(summary, None)
    assert total.control
    assert total.paths_of_a_pair
    assert total.tokens
    for words in (
        f"{100 * total.linked.value:.1f}% ({100 * total.linked.low:.1f}–{100 * total.linked.high:.1f})",
        f"{100 * total.connected.value:.1f}%",
        f"{100 * total.control.any.wrong.value:.1f}%",
        f"{total.control.any.lift:.2f}",
        f"{total.paths_of_a_pair.p50} / {total.paths_of_a_pair.p95}",
        f"{total.tokens.p50} / {total.tokens.p95}",
        f"{total.pairs_connected} of {total.pairs}",
        "late 2, passing 1, unreached 1",
        "in-edges of 20 entities, truncated at 500 for 3 of them (15.0%)",
        "no path",
        "key-1",
        '"max_hops": 3',
    ):
        assert words in shown, words
    # Once above all numbers, and once where the paths are.
    assert shown.count(GOLD_RULE) == 2
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert labels == [
        "Share of questions connected, right against wrong answers",
        "Questions by hops of their shortest path",
    ]


def test_the_page_is_one_safe_file(page: Page, text: str) -> None:
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attrs if name.startswith("on")]
        assert (attrs.get("src") or "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
        assert (attrs.get("href") or "#").startswith("#")
        assert (attrs.get("xlink:href") or "#").startswith("#")
    policy = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert page.text.count(made.HOSTILE) > 8
    assert base64.b64encode(DRAWING.encode()).decode() in text
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    links = {str(attrs["href"])[1:] for tag, attrs in page.tags if tag == "a"}
    assert links <= set(ids)


def test_the_page_is_replaced_as_a_whole(summary: RetrievalSummary, tmp_path: Path) -> None:
    given: dict[str, Any] = {"title": "made", "key": "key-1", "generated_at": NOW}
    only = one_set(summary, LINKED)
    path = render_retrieval(tmp_path / "made", only, **given)
    assert path == tmp_path / "made" / "retrieval.html"
    assert path.read_text(encoding="utf-8") == retrieval_page(only, **given)
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="taken"):
        render_retrieval(tmp_path / "taken", summarise_retrieval(NOTHING, 1), **given)


def test_the_markdown_is_a_table_that_nothing_breaks_out_of(summary: RetrievalSummary) -> None:
    named = summary.parts[0]._replace(dataset="a|b\nc<script>")
    told = retrieval_markdown(summary._replace(parts=(named, *summary.parts[1:])))
    table = [line for line in told.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(summary.parts) + 1
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<script" not in told
    assert (
        "45 requests for the 241 questions of this graph snapshot, 0.19 a question, 2 of them for the control" in told
    )
    assert told.rstrip().endswith(GOLD_RULE)
