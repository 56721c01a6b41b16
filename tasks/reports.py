"""The report of a study as a unit: gathered from the store, drawn into a folder, and registered in the store last."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from prefect import task

from eval.agreement import summarise_judges
from eval.report import REPORT_VERSION, ReportData, render_report
from eval.summary import Summary, summarise
from store import queries
from store.connection import Store
from store.home import Home
from store.types import Frozen, RunError
from tasks.keys import ReportSpec
from tasks.landing import UNIT_OPTIONS, Clock, versions
from tasks.retrieval_reports import path_drawings, retrieval_examples, retrieval_summary

_TEST_QUESTIONS = 4
_TRAINING_QUESTIONS = 4


class ReportOrder(Frozen):
    """A work order: the report of one study, into the folder of its name.

    ``searched`` are the keys of the questions whose paths were searched, ``retrieval`` and ``control`` how.
    """

    name: str
    study: str
    study_key: str
    seed: int
    snapshot: str
    retrieval: str
    control: str | None
    searched: tuple[str, ...]
    spec: ReportSpec

    @property
    def key(self) -> str:
        """The unit's key: everything the report is drawn from."""
        return self.spec.key


def report_spec(study_key: str, units: list[str]) -> ReportSpec:
    """The spec of a report over these units."""
    return ReportSpec(study=study_key, units=tuple(sorted(units)), version=REPORT_VERSION)


def report_page(order: ReportOrder, home: Home) -> Path:
    """Where the page of a report lies."""
    return home.reports / order.study / "index.html"


@task(name="report", **UNIT_OPTIONS)
def draw(order: ReportOrder) -> str:
    """Draw the report and land its unit. Returns the page's path."""
    home = Home.current()
    clock = Clock()
    page = draw_page(order, home)
    home.store.land({}, clock.unit("report", order, order.spec, rows=1))
    return str(page)


def draw_page(order: ReportOrder, home: Home) -> Path:
    """Draw the report from what is in the store. Raises RunError if the study has not landed."""
    store = home.store
    study_key = order.study_key
    study = queries.study(store, study_key)
    if study is None:
        raise RunError(f"study {order.study} has not landed: run `evaluate` first")
    examples = queries.training_examples(store, study_key, _TRAINING_QUESTIONS)
    summary = summary_of(store, study_key)
    data = ReportData(
        study=study,
        summary=summary,
        runs=queries.run_rows(store, study_key),
        units=queries.units_of_study(store, study_key),
        training=queries.training_rows(store, study_key),
        graphs=queries.graphs_of(store, order.retrieval, [one["question_key"] for one in examples]),
        training_examples=examples,
        trace_samples=queries.trace_samples(store, study_key, _shown_questions(store, study_key)),
        drawings=path_drawings(
            store, order.snapshot, order.retrieval, {one["question_key"]: one["question"] for one in examples}
        ),
        retrieval_summary=retrieval_summary(store, order.retrieval, order.searched, order.control),
        retrieval_examples=retrieval_examples(store, order.snapshot, order.retrieval, order.searched),
        versions=json.loads(versions()),
        seeds={"study": order.seed},
        generated_at=datetime.now(UTC),
    )
    return render_report(data, report_page(order, home).parent)


def summary_of(store: Store, study_key: str) -> Summary:
    """The statistics of a study."""
    judges = summarise_judges(queries.judge_rows(store, study_key), queries.ballot_rows(store, study_key))
    return summarise(queries.iter_result_rows(store, study_key), queries.run_rows(store, study_key), judges)


def _shown_questions(store: Store, study_key: str) -> list[str]:
    """A few test questions, spread over the hops, those first on which the settings disagree."""
    rows = store.query(
        "WITH means AS (SELECT question_key, question_id, hops, setting, avg(correct::INT) AS right_share FROM results "
        "WHERE study_key = ? GROUP BY ALL), spread AS (SELECT question_key, question_id, hops, max(right_share) - "
        "min(right_share) AS spread FROM means GROUP BY ALL) SELECT question_key FROM spread "
        "ORDER BY row_number() OVER (PARTITION BY hops ORDER BY spread DESC, question_id), hops LIMIT ?",
        [study_key, _TEST_QUESTIONS],
    )
    return [row["question_key"] for row in rows]
