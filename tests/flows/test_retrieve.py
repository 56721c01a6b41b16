"""The flow `retrieve` on a real Prefect server and a real SPARQL server: what lands, and that it is searched for once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eval.retrieval_summary import RetrievalSummary
from flows.orders import Orders
from flows.parameters import Retrieve
from store.home import Home
from tasks.questions import question_key

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

TRAIN = 8
# Of the training questions, some have their links by name alone, and one has no entity in the graph at all.
OWN = (
    {"id": "1", "text": "Who wrote the play Hamlet?", "answers": ["William Shakespeare"]},
    {"id": "2", "text": "When was Albert Einstein born?", "answers": ["14 March 1879"], "answer_type": "date"},
    {"id": "3", "text": "Why is it so?", "answers": ["because"]},
    {
        "id": "4",
        "text": "What is the capital of France?",
        "answers": [{"text": "Paris", "entity": "Q90"}],
        "links": [{"entity": "Q142", "role": "question"}],
    },
)


class Study(NamedTuple):
    """A home in which the flow has run once, and its parameters."""

    home: Home
    parameters: Retrieve

    @property
    def orders(self) -> Orders:
        return Orders(self.parameters, self.home)

    @property
    def page(self) -> Path:
        return self.home.reports / self.parameters.name / "retrieval.html"

    def changed(self, **retrieve: Any) -> Study:
        """The same with other parameters of the search."""
        chosen = self.parameters.retrieve.model_copy(update=retrieve)
        return self._replace(parameters=self.parameters.model_copy(update={"retrieve": chosen}))

    def rows(self, sql: str, *values: str) -> list[dict[str, Any]]:
        return self.home.store.query(sql, list(values))

    def requests(self) -> int:
        return int(self.rows("SELECT count(*) AS n FROM endpoint_requests")[0]["n"])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study in which the flow has run once, and a Prefect server that lives as long as this module."""
    from flows.retrieve import retrieve
    from flows.server import prefect_api

    with pytest.MonkeyPatch.context() as patch:
        home = Home(tmp_path_factory.mktemp("home"))
        own = home.folder / "own.jsonl"
        own.write_text("".join(json.dumps({"split": "test", **record}) + "\n" for record in OWN), encoding="utf-8")
        patch.setenv("FACTSCALE_HOME", str(home.folder))
        parameters = Retrieve.model_validate(
            {
                "name": "searched",
                "train": {"split": "train", "limit": TRAIN},
                "retrieve": {"similarity": "lexical", "datasets": [{"dataset": "jsonl", "path": str(own)}]},
            }
        )
        with prefect_api(home):
            assert retrieve(parameters) == TRAIN + len(OWN)
            yield Study(home, parameters)


def summary(study: Study) -> RetrievalSummary:
    from flows.retrieval import retrieval_of

    return retrieval_of(study.orders)


class TestLanding:
    def test_every_question_of_every_set_has_its_rows(self, study: Study) -> None:
        orders = study.orders
        keys = {question_key(one) for one in orders.searched_questions}
        assert len(keys) == TRAIN + len(OWN)
        for table, column, key in (
            ("retrievals", "retrieval_key", orders.retrieval.key),
            ("linkings", "linking_key", orders.linking.key),
        ):
            rows = study.rows(f"SELECT question_key FROM {table} WHERE {column} = ?", key)  # noqa: S608
            assert {row["question_key"] for row in rows} == keys
            assert len(rows) == len(keys)
        assert {row["question_key"] for row in study.rows("SELECT question_key FROM questions")} == keys
        assert orders.missing_retrievals() == ()
        assert len(orders.graphs) == len(keys)

    def test_links_by_name_lead_to_paths_as_those_of_the_dataset(self, study: Study) -> None:
        rows = study.rows(
            "SELECT q.question_id AS id, v.question_source, v.answer_source, v.connected, r.graph "
            "FROM retrieval_questions v JOIN retrievals r USING (retrieval_key, question_key) "
            "JOIN questions q USING (question_key) WHERE q.dataset = 'own' ORDER BY 1"
        )
        found = {row["id"]: (row["question_source"], row["answer_source"], row["connected"]) for row in rows}
        assert found == {
            "1": ("label", "label", 1),
            "2": ("label", "literal", 1),
            "3": ("none", "none", 0),
            "4": ("gold_qid", "gold_qid", 1),
        }
        lines = {row["id"]: row["graph"].splitlines() for row in rows}
        assert "Hamlet, author, William Shakespeare" in lines["1"]
        assert "Albert Einstein, date of birth, 1879-03-14" in lines["2"]
        assert lines["3"] == []
        assert "France, capital, Paris" in lines["4"]

    def test_the_control_is_a_unit(self, study: Study) -> None:
        order = study.orders.control()
        assert order is not None
        [unit] = study.rows("SELECT unit_key, row_count FROM units WHERE kind = 'control'")
        assert unit["unit_key"] == order.key
        controls = study.rows("SELECT dataset FROM controls WHERE control_key = ?", order.key)
        assert len(controls) == unit["row_count"] == TRAIN + 2

    def test_nobody_is_asked_twice(self, study: Study) -> None:
        assert study.requests() > 0
        for table, key in (
            ("expansions", "snapshot, entity, direction, cap"),
            ("labels", "snapshot, id"),
            ("statements", "snapshot, subject, predicate, object, literal"),
        ):
            [row] = study.rows(f"SELECT count(*) AS n, count(DISTINCT ({key})) AS one FROM {table}")  # noqa: S608
            assert row["n"] == row["one"] > 0
        hashes = study.rows("SELECT query_hash, count(*) AS n FROM endpoint_requests GROUP BY 1 HAVING count(*) > 1")
        assert hashes == []

    def test_the_summary_is_of_both_sets(self, study: Study) -> None:
        found = summary(study)
        assert [(part.dataset, part.split, part.questions) for part in found.parts] == [
            ("own", "test", len(OWN)),
            ("starter", "train", TRAIN),
        ]
        assert found.total is not None
        assert found.total.control is not None
        assert found.total.control.n == TRAIN + 2
        assert (found.total.unlabelled, found.total.duplicates) == (0, 0)
        assert found.requests[-1].requests == study.requests()


class TestPage:
    def test_it_has_the_control_and_stands_alone(self, study: Study) -> None:
        text = study.page.read_text(encoding="utf-8")
        assert "Retrieval of searched" in text
        assert study.orders.retrieval.key in text
        assert "wrong answers" in text
        assert "No wrong-answer control has landed" not in text
        assert "What is the capital city of France?" in text
        assert 'src="http' not in text
        assert "<script" not in text

    def test_artifacts_say_the_same(self, study: Study) -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.sorting import ArtifactSort

        from eval.retrieval_report import retrieval_markdown

        with get_client(sync_client=True) as client:
            # The newest first: the server gives so many at most, and may hold those of earlier tests.
            artifacts = client.read_artifacts(sort=ArtifactSort.CREATED_DESC)
        # The server may know those of other homes as well.
        [shown] = [one for one in artifacts if one.key == "retrieval-searched" and str(study.page) in str(one.data)]
        assert shown.type == "markdown"
        assert retrieval_markdown(summary(study)).splitlines()[0] in str(shown.data)
        assert any(one.type == "progress" and one.data == 100.0 for one in artifacts)


class TestAgain:
    def test_nothing_is_searched_asked_or_drawn_again(self, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        from flows.retrieve import retrieve

        def forbidden(*_arguments: object, **_options: object) -> None:
            pytest.fail("a server was started, or the page drawn")

        counts = "SELECT table_name, estimated_size AS n FROM duckdb_tables() ORDER BY 1"
        before = study.requests(), study.rows(counts), study.page.stat().st_mtime_ns
        with monkeypatch.context() as patch:
            for name in ("kg.graphs.serve", "tasks.paths.search_questions", "flows.retrieval.render_retrieval"):
                patch.setattr(name, forbidden)
            assert retrieve(study.parameters) == 0
        assert (study.requests(), study.rows(counts), study.page.stat().st_mtime_ns) == before

    def test_other_ranks_are_found_in_what_is_known(self, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.sorting import TaskRunSort
        from prefect.events.worker import EventsWorker

        from flows.retrieve import retrieve

        other, now = study.changed(top_paths=1, max_triples=2), datetime.now(UTC)
        before, first = study.requests(), study.page.read_text(encoding="utf-8")
        monkeypatch.setattr("flows.retrieve.QUESTIONS_A_TASK_EACH", 3)
        monkeypatch.setattr("flows.orders.QUESTIONS_A_BATCH", 5)
        assert retrieve(other.parameters) == TRAIN + len(OWN)
        assert study.requests() == before

        EventsWorker.drain_all(timeout=20)
        expected = [
            "paths 3 to 4",
            "paths starter-train-0001 to starter-train-0005",
            "paths starter-train-0006 to 2",
        ]
        names: list[str] = []
        deadline = time.monotonic() + 60
        # The server writes down what it was told when it gets to it; the newest first, since it gives 200 at most.
        while names != expected and time.monotonic() < deadline:
            with get_client(sync_client=True) as client:
                runs = client.read_task_runs(sort=TaskRunSort.END_TIME_DESC)
            recent = [run.name for run in runs if run.start_time and run.start_time > now]
            names = sorted(name for name in recent if name.startswith("paths "))
            time.sleep(0.2)
        assert names == expected

        key, was = other.orders.retrieval.key, study.orders.retrieval.key
        assert key != was
        fewer = "SELECT count(*) AS n FROM paths WHERE kept AND retrieval_key = ?"
        assert 0 < study.rows(fewer, key)[0]["n"] < study.rows(fewer, was)[0]["n"]
        assert all(row["lines"] <= 2 for row in study.rows("SELECT lines FROM retrievals WHERE retrieval_key = ?", key))
        shown = study.page.read_text(encoding="utf-8")
        assert key in shown
        assert key not in first

    def test_the_page_is_of_the_study_as_it_is_now(self, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        from flows.retrieval import publish_retrieval

        monkeypatch.setattr("flows.retrieval.markdown", lambda *_: None)  # no flow is running
        fewer = study._replace(
            parameters=study.parameters.model_copy(
                update={"train": study.parameters.train.model_copy(update={"limit": 5})}
            )
        )
        for one, questions in ((fewer, 5 + len(OWN)), (study, TRAIN + len(OWN))):
            publish_retrieval(one.orders, draw=False)
            assert f"{questions} searched questions" in study.page.read_text(encoding="utf-8")
