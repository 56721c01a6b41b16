"""The report of a study as a unit: gathered from the store, drawn into a folder, and registered in the store last."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from prefect import task

from eval.agreement import summarise_judges
from eval.overlap import summarise_overlaps
from eval.question_pages import export_questions, remove_questions
from eval.report import REPORT_VERSION, ReportData, drawn_key, render_report
from eval.summary import OWN_INSTRUCT, Baseline, Summary, summarise
from store import queries
from store.connection import Store
from store.home import Home
from store.overlap import overlap_rows
from store.scores import score_study
from store.types import Frozen, RunError
from tasks.exploring import Explorer
from tasks.keys import ReportSpec
from tasks.landing import UNIT_OPTIONS, Clock, versions
from tasks.retrieval_reports import path_drawings, retrieval_examples, retrieval_summary

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

    @property
    def baseline(self) -> Baseline:
        """What runs are compared with."""
        return Baseline(setting=self.spec.baseline, model=self.spec.baseline_model)


def report_spec(study_key: str, units: list[str], baseline: Baseline, questions: int) -> ReportSpec:
    """The spec of a report over these units; ``questions`` get a page each."""
    return ReportSpec(
        study=study_key,
        units=tuple(sorted(units)),
        baseline=baseline.setting,
        baseline_model=baseline.model,
        questions=questions,
        version=REPORT_VERSION,
    )


def report_page(order: ReportOrder, home: Home) -> Path:
    """Where the first page of a report lies."""
    return home.reports / order.study / "index.html"


def is_drawn(order: ReportOrder, home: Home) -> bool:
    """Whether this report has landed and still stands in its folder: one of other parameters has the same folder."""
    return home.store.has_unit(order.key) and drawn_key(report_page(order, home).parent) == order.key


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
    summary = summary_of(store, study_key, order.baseline)
    folder = report_page(order, home).parent
    shown = shown_questions(store, study_key, order.spec.questions)
    examples = queries.training_examples(store, study_key, _TRAINING_QUESTIONS)
    data = ReportData(
        study=study,
        summary=summary,
        runs=queries.run_rows(store, study_key),
        units=queries.units_of_study(store, study_key),
        training=queries.training_rows(store, study_key),
        graphs=queries.graphs_of(store, order.retrieval, [one["question_key"] for one in examples]),
        training_examples=examples,
        drawings=path_drawings(
            store, order.snapshot, order.retrieval, {one["question_key"]: one["question"] for one in examples}
        ),
        retrieval_summary=retrieval_summary(store, order.retrieval, order.searched, order.control),
        retrieval_examples=retrieval_examples(store, order.snapshot, order.retrieval, order.searched),
        training_quality=queries.training_quality_rows(store, study_key),
        dev=queries.dev_rows(store, study_key),
        questions_page=bool(shown),
        versions=json.loads(versions()),
        seeds={"study": order.seed},
        generated_at=datetime.now(UTC),
        key=order.key,
    )
    if shown:
        explorer = Explorer(store, study_key, order.study, report=True)
        export_questions(explorer.exported_views(shown), folder / "questions")
    else:
        remove_questions(folder / "questions")
    return render_report(data, folder)


def summary_of(store: Store, study_key: str, baseline: Baseline = OWN_INSTRUCT) -> Summary:
    """The statistics of a study; its scores are made where they are missing."""
    score_study(store, study_key)
    scored = store.query(
        "SELECT max(scored_at) AS last FROM scored SEMI JOIN study_runs r ON r.score_key = scored.score_key AND r.study_key = ?",
        [study_key],
    )
    return _summary(store.address, study_key, baseline, scored[0]["last"])


# A study that has landed does not change until it is scored again, and its intervals are drawn from thousands of resamples: a
# flow that shows them in several places counts them once.
@lru_cache(maxsize=4)
def _summary(address: str, study_key: str, baseline: Baseline, _scored: datetime | None) -> Summary:
    store = Store(address)
    return summarise(
        queries.score_columns(store, study_key),
        queries.run_rows(store, study_key),
        summarise_judges(queries.judge_rows(store, study_key), queries.ballot_rows(store, study_key)),
        lengths=queries.length_rows(store, study_key),
        overlaps=summarise_overlaps(overlap_rows(store, study_key)),
        baseline=baseline,
    )


def shown_questions(store: Store, study_key: str, count: int) -> list[str]:
    """Keys of test questions to look at: spread over datasets and hops, those first on which the settings disagree."""
    rows = store.query(
        "WITH means AS (SELECT question_key, question_id, dataset, hops, setting, avg(correct / samples) AS share FROM scores "
        "WHERE study_key = ? GROUP BY ALL), spread AS (SELECT question_key, question_id, dataset, hops, "
        "max(share) - min(share) AS spread FROM means GROUP BY ALL) SELECT question_key FROM spread ORDER BY row_number() "
        "OVER (PARTITION BY dataset, hops ORDER BY spread DESC, question_id), dataset, hops LIMIT ?",
        [study_key, count],
    )
    return [row["question_key"] for row in rows]
