"""The whole study as Prefect flows on a real server: it lands, it is Cached the second time, and the store is the truth."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import mini_study
import pytest

from flows.orders import Orders, Waiting
from flows.parameters import Study
from store.home import Home
from tasks.verdicts import MATCHER

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


def again(home: Home, stage: str = "study", parameters: Study = STUDY, units: int = UNITS) -> dict[str, str]:
    """Run the study (or one stage of it) again; the last states of its tasks, once the server has them all."""
    from prefect.events.worker import EventsWorker

    from flows.finetune import finetune
    from flows.study import study

    now = datetime.now(UTC)
    {"study": study, "finetune": finetune}[stage](parameters)
    EventsWorker.drain_all(timeout=20)
    # The server writes task runs down from a queue, behind the run that has ended, and late on a busy machine.
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        states = task_states(now)
        if len(states) == units and set(states.values()) <= {"Cached", "Completed"}:
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


SWEEP = {
    # The first is the student that the study has trained already.
    "sweep": [{"name": "two", "max_steps": 2}, {"name": "one", "max_steps": 1}],
    "dev": {
        "questions": {"split": "test", "limit": 2},
        "max_thinking_tokens": 4,
        "max_answer_tokens": mini_study.ANSWER,
    },
}


@pytest.fixture(scope="module")
def best(home: Home) -> Study:
    """A study that evaluates the best of two variants; it has run up to its answers."""
    from flows.evaluate import evaluate
    from flows.finetune import finetune

    parameters = Study.model_validate(mini_study.mini(finetune={**SWEEP, "select": "best"}))
    with pytest.raises(Waiting, match="run `finetune` first"):
        Orders(parameters, home).run(*Orders(parameters, home).run_names()[-1])
    assert len(finetune(parameters)) == 2
    evaluate(parameters)
    return parameters


class TestSweep:
    def test_each_variant_is_a_unit_and_what_was_trained_is_not_trained_again(self, home: Home, best: Study) -> None:
        rows = home.store.query("SELECT name, variant, (manifest -> '$.result.steps')::INTEGER AS steps FROM students")
        assert {(row["name"], row["variant"], row["steps"]) for row in rows} == {
            ("student smollm2-135m fs1", "", 2),
            ("student smollm2-135m fs1 one", "one", 1),
        }
        steps = home.store.query(
            "SELECT step, tokens, seconds FROM training_logs WHERE loss IS NOT NULL ORDER BY tokens"
        )
        assert sorted(row["step"] for row in steps) == [1, 1, 2]
        assert all(row["tokens"] > 0 and row["seconds"] > 0 for row in steps)

    def test_students_and_their_base_are_asked_the_dev_questions(self, home: Home, best: Study) -> None:
        checks = {row["check_key"]: row for row in home.store.query("SELECT * FROM student_checks")}
        orders = Orders(best, home)
        asked = orders.checks()
        assert {order.predictions.key for order in asked} == checks.keys()
        assert {order.student for order in asked} == {
            None,
            *(orders.student(*name).key for name in orders.student_names()),
        }
        for order in asked:
            row = checks[order.predictions.key]
            found = home.store.query(
                "SELECT p.how, t.forced, coalesce(v.correct, false) AS correct FROM traces t "
                "JOIN predictions p USING (trace_id) JOIN questions q USING (dataset, question_id) "
                "LEFT JOIN verdicts v ON v.prediction_key = p.prediction_key AND v.gold_key = q.gold_key AND v.judge = ? "
                "WHERE t.thought_key = ? AND t.budget = 4",
                [MATCHER, order.traces.spec.thought.key],
            )
            assert row["student_key"] == order.student
            assert row["n"] == len(found) == 2
            assert row["correct"] == sum(one["correct"] for one in found)
            assert row["boxed"] == sum(one["how"] == "boxed" and not one["forced"] for one in found)

    def test_the_best_is_evaluated_under_the_name_of_its_base(self, home: Home, best: Study) -> None:
        accuracy = {
            row["variant"]: row["accuracy"]
            for row in home.store.query(
                "SELECT s.variant, c.correct / c.n AS accuracy FROM study_students s JOIN student_checks c USING (check_key)"
            )
        }
        assert set(accuracy) == {"two", "one"}
        wanted = max(["two", "one"], key=lambda name: accuracy[name])  # the first of equal ones
        (run,) = home.store.query("SELECT * FROM study_runs WHERE variant <> ''")
        assert (run["variant"], run["model"], run["base"], run["setting"]) == (
            wanted,
            "smollm2-135m",
            "smollm2-135m",
            "fs1",
        )
        chosen = home.store.query("SELECT variant, chosen FROM study_students WHERE check_key IS NOT NULL")
        assert {row["variant"]: row["chosen"] for row in chosen} == {name: name == wanted for name in ("two", "one")}

    def test_all_is_cached_the_second_time(self, home: Home, best: Study) -> None:
        cards = {path: path.stat().st_mtime_ns for path in home.students.glob("*/README.md")}
        assert len(cards) == 2
        assert all("## On dev questions" in path.read_text(encoding="utf-8") for path in cards)
        states = again(home, "finetune", best, units=8)  # 2 students; answers and predictions of both and of their base
        assert len(states) == 8
        assert set(states.values()) == {"Cached"}
        assert {path: path.stat().st_mtime_ns for path in cards} == cards, "a card was written again"

    def test_all_variants_are_named_where_all_are_evaluated(self, home: Home, best: Study) -> None:
        from flows.evaluate import evaluate
        from flows.report import draw_report, result_table

        parameters = Study.model_validate(mini_study.mini(finetune={**SWEEP, "select": "all"}))
        key = evaluate(parameters)
        runs = home.store.query("SELECT model, base, trained_on, variant FROM study_runs WHERE study_key = ?", [key])
        assert {tuple(run.values()) for run in runs} == {
            ("smollm2-135m", "smollm2-135m", None, ""),
            ("smollm2-135m/two", "smollm2-135m", "fs1", "two"),
            ("smollm2-135m/one", "smollm2-135m", "fs1", "one"),
        }
        rows = result_table(parameters, home)
        assert (
            len({(row["model"], row["setting"], row["budget"]) for row in rows})
            == len(rows)
            == 3 * len(mini_study.BUDGETS)
        )
        pages = draw_report(parameters, home).parent
        training = (pages / "training.html").read_text(encoding="utf-8")
        assert "as it is" in training
        assert training.count(">two<") == training.count(">one<") == 2
        assert "smollm2-135m/one" in (pages / "index.html").read_text(encoding="utf-8")

    def test_curves_and_the_table_are_artifacts(self, home: Home, best: Study) -> None:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            found = client.read_artifacts()
        curves = [one.data for one in found if one.key == "training-mini"]
        assert curves
        assert all("data:image/png;base64," in str(text) and len(str(text)) < 1_000_000 for text in curves)
        tables = [json.loads(str(one.data)) for one in found if one.key == "students-mini"]
        rows = next(rows for rows in tables if any("chosen" in row for row in rows))
        assert [row["variant"] for row in rows] == ["untrained", "two", "one"]
        assert sum(row["chosen"] == "yes" for row in rows) == 1
        assert {row["dev_questions"] for row in rows} == {2}

    def test_the_table_has_what_the_store_has(self, home: Home, best: Study) -> None:
        from flows.finetune import _rows

        orders = Orders(best, home)
        rows = _rows(orders, best, {("smollm2-135m", "fs1", "one")})
        assert [(row["variant"], row["steps"], row["chosen"]) for row in rows] == [
            ("untrained", None, ""),
            ("two", 2, ""),
            ("one", 1, "yes"),
        ]
        for row, variant in zip(rows, (None, "two", "one"), strict=True):
            key = orders.check("smollm2-135m", "fs1", variant).predictions.key
            (found,) = home.store.query("SELECT * FROM student_quality WHERE check_key = ?", [key])
            assert row["dev_accuracy"] == found["accuracy"]
            assert row["95% interval"] == f"{found['low']:.3f} to {found['high']:.3f}"
            assert row["held_out_after"] == found["held_out_after"]
