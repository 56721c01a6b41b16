"""The whole study as Prefect flows on a real server: it lands, it is Cached the second time, and the store is the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import mini_study
import pytest

from flows.parameters import Study
from store.home import Home

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


STUDY = Study.model_validate(mini_study.mini())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with the study run in it once, and a Prefect server that lives as long as this module."""
    from flows.server import prefect_api
    from flows.study import study

    with pytest.MonkeyPatch.context() as patch:
        home = Home(tmp_path_factory.mktemp("home"))
        patch.setenv("FACTSCALE_HOME", str(home.folder))
        with prefect_api(home):
            page = study(STUDY)
            assert Path(page).is_file()
            yield home


UNITS = 10
"""Task runs of the study: 2 of traces, 1 training set, 1 student, 2 x 2 of answers, 1 overlap, 1 report."""


def task_states(started_after: datetime) -> dict[str, str]:
    """The last state that the server has written down of every task run of the newest study run, by name."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import TaskRunSort

    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(sort=TaskRunSort.END_TIME_DESC)
    # A stage inside the study has a task run too (`distill-0`), which stands for the flow and not for a unit.
    stages = {f"{stage}-0" for stage in ("retrieve", "distill", "finetune", "evaluate", "report")}
    return {
        run.name: run.state.name
        for run in runs
        if run.state and run.start_time and run.start_time > started_after and run.name not in stages
    }


def again(home: Home) -> dict[str, str]:
    """Run the study again; the last states of its tasks, once the server has them all."""
    from prefect.events.worker import EventsWorker

    from flows.study import study

    now = datetime.now(UTC)
    study(STUDY)
    EventsWorker.drain_all(timeout=20)
    # The server writes task runs down from a queue, behind the run that has ended, and late on a busy machine.
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        states = task_states(now)
        if len(states) == UNITS and set(states.values()) <= {"Cached", "Completed"}:
            break
        time.sleep(0.2)
    return states


class TestLanding:
    def test_every_promised_row_is_there(self, home: Home) -> None:
        counts = {
            table: home.store.query(f"SELECT count(*) AS n FROM {table}")[0]["n"]  # noqa: S608
            for table in ("thoughts", "traces", "predictions", "retrievals", "students", "study_runs")
        }
        runs, budgets = 2, len(mini_study.BUDGETS)
        assert counts == {
            "thoughts": mini_study.TRAIN + runs * mini_study.TEST,
            "traces": mini_study.TRAIN + runs * mini_study.TEST * budgets,
            "predictions": mini_study.TRAIN + runs * mini_study.TEST * budgets,
            "retrievals": mini_study.TRAIN,
            "students": 1,
            "study_runs": runs,
        }

    def test_results_have_a_verdict_each(self, home: Home) -> None:
        rows = home.store.query("SELECT prediction, rule FROM results")
        assert len(rows) == 2 * mini_study.TEST * len(mini_study.BUDGETS)
        assert all(row["rule"] is not None for row in rows if row["prediction"] is not None)

    def test_training_traces_are_right_and_their_lineage_is_known(self, home: Home) -> None:
        rows = home.store.query(
            "SELECT l.teacher, l.recipe, q.text, r.prediction, q.answers FROM lineage l "
            "JOIN training_rows r USING (training_set, position) JOIN questions q USING (question_key)"
        )
        assert rows
        assert all(row["prediction"].lower() in row["answers"].lower() for row in rows)

    def test_no_test_prompt_holds_a_path(self, home: Home) -> None:
        rows = home.store.query(
            "SELECT p.messages FROM study_runs r JOIN prompt_sets s ON s.set_key = r.prompt_set JOIN prompts p USING (prompt_key)"
        )
        graphs = [row["graph"] for row in home.store.query("SELECT graph FROM retrievals WHERE graph <> ''")]
        assert graphs
        assert not any(line in row["messages"] for row in rows for graph in graphs for line in graph.splitlines())

    def test_the_store_names_what_made_each_unit(self, home: Home) -> None:
        rows = home.store.query(
            "SELECT versions ->> 'engine' AS engine, host, generated_tokens AS n FROM units WHERE kind = 'traces'"
        )
        assert {row["engine"] for row in rows} == {"transformers"}
        assert all(row["n"] > 0 and row["host"] for row in rows)


class TestArtifacts:
    def test_tables_a_summary_and_progress_are_in_the_ui(self, home: Home) -> None:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            artifacts = client.read_artifacts()
        keys = {artifact.key: artifact.type for artifact in artifacts}
        assert keys["training-sets-mini"] == keys["students-mini"] == keys["leaderboard-mini"] == "table"
        assert keys["summary-mini"] == "markdown"
        progress = {artifact.data for artifact in artifacts if artifact.type == "progress"}
        assert 100.0 in progress


class TestAgain:
    def test_every_unit_is_cached(self, home: Home) -> None:
        before = home.store.query("SELECT unit_key, landed_at FROM units ORDER BY 1")
        states = again(home)
        assert len(states) == UNITS
        assert set(states.values()) == {"Cached"}
        assert home.store.query("SELECT unit_key, landed_at FROM units ORDER BY 1") == before

    def test_a_cached_state_without_its_unit_is_run_again(self, home: Home) -> None:
        with home.store.connection() as db:
            db.execute("DELETE FROM units WHERE kind = 'predictions' AND name LIKE '%instruct%'")
        states = again(home)
        (rerun,) = [name for name, state in states.items() if state != "Cached"]
        assert rerun.startswith("predictions of answers")
        assert states[rerun] == "Completed"

    def test_a_wider_study_makes_only_what_is_new(self, home: Home) -> None:
        from flows.evaluate import evaluate
        from flows.parameters import Evaluate

        key = "SELECT trace_id FROM traces ORDER BY 1"
        before = {row["trace_id"] for row in home.store.query(key)}
        log = home.generation_log
        lines = len(log.read_text().splitlines())
        budgets = {"budgets": [4, 8, 12], "settings": ["instruct"]}
        evaluate(Evaluate.model_validate(mini_study.mini(evaluate=budgets)))
        after = {row["trace_id"] for row in home.store.query(key)}
        assert before < after
        assert len(after - before) == mini_study.TEST
        new = log.read_text().splitlines()[lines:]
        assert not any('"think"' in line for line in new), "a thought was generated again"


class TestReport:
    def test_the_page_stands_alone(self, home: Home) -> None:
        folder = home.reports / "mini"
        pages = {file.name: file.read_text(encoding="utf-8") for file in folder.rglob("*.html")}
        assert "smollm2-135m" in pages["index.html"]
        assert {"budgets.html", "training.html", "retrieval.html"} < pages.keys()
        for name, page in pages.items():
            assert 'src="http' not in page, name
            assert "<script src" not in page, name
        assert "capital" in pages["training.html"]
        assert sum(name.startswith("question-") for name in pages) == mini_study.TEST
        assert (folder / "tables" / "results.tex").exists() or list((folder / "tables").glob("results-*.tex"))

    def test_questions_near_training_are_told_apart(self, home: Home) -> None:
        rows = home.store.query(
            "SELECT o.flagged, q.split FROM question_overlaps o JOIN questions q USING (question_key)"
        )
        assert len(rows) >= mini_study.TEST
        assert {row["split"] for row in rows} == {"test"}

    def test_it_is_drawn_again_if_it_was_removed(self, home: Home) -> None:
        from flows.report import report

        page = home.reports / "mini" / "index.html"
        page.unlink()
        assert report(STUDY) == str(page)
        assert page.is_file()
