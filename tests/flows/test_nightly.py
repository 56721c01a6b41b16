"""Nights of a small study on a real Prefect server: first, unchanged, new questions, a planted regression and its retry."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini_study
import pytest
import yaml
from pydantic import ValidationError

from store.home import Home
from store.types import InputError, RunError

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

ASKED = 10
NAME = "small"


class Nights:
    """A home, and the study file that its nights read anew each time."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home, self.file = home, folder / "small.yaml"
        self.study: dict[str, Any] = mini_study.mini(
            evaluate={"settings": ["instruct"], "datasets": [{"split": "test", "limit": ASKED}], "budgets": [4]}
        )
        self.study["name"] = NAME
        self.change()

    def change(self, **evaluate: Any) -> None:
        self.study["evaluate"] |= evaluate
        self.file.write_text(yaml.safe_dump(self.study), encoding="utf-8")

    def parameters(self, **fields: Any) -> Any:
        from flows.nightly import Nightly

        return Nightly.model_validate({"study": str(self.file), "report": False, **fields})

    def night(self, **fields: Any) -> str:
        from flows.nightly import nightly

        return nightly(self.parameters(**fields))

    def plant(self) -> str:
        """Accept a study of an older parser that was right throughout. Returns its key."""
        from tasks.nightlies import last_accepted

        accepted = last_accepted(self.home.store, NAME)
        assert accepted is not None
        with self.home.store.connection() as db:
            db.execute(
                "INSERT INTO question_scores SELECT * REPLACE ('planted' AS score_key, samples AS correct) "
                "FROM question_scores SEMI JOIN (FROM study_runs WHERE study_key = ?) USING (score_key)",
                [accepted.study_key],
            )
            db.execute(
                "INSERT INTO study_runs SELECT * REPLACE ('planted' AS study_key, 'planted' AS score_key, 'older' AS parser) "
                "FROM study_runs WHERE study_key = ?",
                [accepted.study_key],
            )
            db.execute("INSERT INTO scored BY NAME SELECT 'planted' AS score_key, 1 AS traces")
            db.execute(
                "INSERT INTO nightly_accepted BY NAME SELECT * REPLACE ('planted' AS study_key, accepted_at + INTERVAL 1 SECOND "
                "AS accepted_at) FROM nightly_accepted WHERE study_key = ?",
                [accepted.study_key],
            )
        return "planted"

    def generated(self) -> int:
        log = self.home.generation_log
        return len(log.read_text(encoding="utf-8").splitlines()) if log.is_file() else 0

    def verdicts(self) -> list[dict[str, Any]]:
        from tasks.nightlies import verdicts_of

        return verdicts_of(self.home.store, NAME)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    from flows.server import prefect_api

    with pytest.MonkeyPatch.context() as patch:
        home = Home(tmp_path_factory.mktemp("home"))
        patch.setenv("FACTSCALE_HOME", str(home.folder))
        with prefect_api(home):
            nights = Nights(home, tmp_path_factory.mktemp("study"))
            assert "the first re-evaluation" in nights.night()
            yield nights


def events(name: str, least: int = 1) -> list[Any]:
    """The events of this name that the server has written down, once there are ``least``."""
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventNameFilter
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=20)
    wanted = EventFilter(event=EventNameFilter(name=[name]))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with get_client(sync_client=True) as client:
            answer = client.request("POST", "/events/filter", json={"filter": wanted.model_dump(mode="json")})
        if len(found := answer.json()["events"]) >= least:
            return list(found)
        time.sleep(0.2)
    raise AssertionError(f"no event {name}")


def artifact(key: str) -> str:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.CREATED_DESC, limit=1
        )
    return str(found[0].data)


def test_nothing_new_is_told_in_seconds_and_generates_nothing(nights: Nights) -> None:
    before = nights.generated()
    assert nights.night().startswith(f"{NAME}: same; nothing has changed")
    assert nights.generated() == before
    assert [(row["verdict"], row["accepted"]) for row in nights.verdicts()] == [("first", "by rule")]
    assert "nothing has changed" in artifact(f"nightly-{NAME}")
    (first,) = events("factscale.nightly.first")
    assert first["resource"]["prefect.resource.id"] == f"factscale.study.{NAME}"
    assert any(related["prefect.resource.role"] == "flow-run" for related in first["related"])


def test_the_retry_of_a_night_that_was_accepted_tells_the_same(nights: Nights) -> None:
    from flows.nightly import verdict_told_by

    (first,) = nights.verdicts()
    assert first["flow_run_id"]
    assert verdict_told_by(nights.home.store, first["flow_run_id"], first["study_key"])["verdict"] == "first"  # type: ignore[index]


def test_new_questions_alone_are_generated_and_are_no_regression(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.nightly_commands import _run

    thoughts = "SELECT count(*) AS n FROM thoughts"
    before = nights.home.store.query(thoughts)[0]["n"]
    nights.change(datasets=[{"split": "test", "limit": ASKED + 2}])
    assert nights.night() == f"{NAME}: same; no run that both have has changed"
    assert nights.home.store.query(thoughts)[0]["n"] == before + 2
    newest = nights.verdicts()[0]
    assert (newest["questions"], newest["new_questions"], newest["effect"]) == (ASKED, 2, None)
    assert newest["accepted"] == "by rule"
    capsys.readouterr()
    before = signal.getsignal(signal.SIGINT)
    _run(nights.parameters(), nights.home, None)  # the command, on the night after
    assert signal.getsignal(signal.SIGINT) is before
    assert "small: same; nothing has changed since" in " ".join(capsys.readouterr().out.split())


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the studies whose reports are drawn from now on; none is, since that takes long."""
    drawings: list[str] = []

    def report(study: Any) -> str:
        drawings.append(study.name)
        return "index.html"

    monkeypatch.setattr("flows.nightly.report", report)
    monkeypatch.setattr("flows.nightly.is_drawn", lambda order, _home: order.study in drawings)
    return drawings


def test_a_planted_regression_fails_the_run_after_all_has_landed_and_again_when_retried(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import AwaitingRetry

    from flows.nightly import nightly

    drawings = drawn(monkeypatch)
    planted, generated = nights.plant(), nights.generated()
    parameters = {"parameters": nights.parameters(report=True), "limit": None, "dry_run": False}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(nightly, parameters=parameters)
        state: Any = run_flow(nightly, flow_run=run, parameters=parameters, return_type="state")
        assert state.is_failed()
        with pytest.raises(
            RunError, match=r"small: worse, -.* a regression beyond the margin of 2\.0.*nightly accept small"
        ):
            state.result()
        worse = nights.verdicts()[0]
        assert (worse["verdict"], worse["regression"], worse["accepted"]) == ("worse", True, "no")
        assert worse["against"] == planted
        assert worse["flow_run_id"] == str(run.id)
        client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
        again: Any = run_flow(
            nightly, flow_run=client.read_flow_run(run.id), parameters=parameters, return_type="state"
        )
    assert again.is_failed()
    assert str(again.result(raise_on_failure=False)) == str(state.result(raise_on_failure=False))
    assert nights.generated() == generated
    assert nights.verdicts()[0] == worse
    assert drawings == [NAME]
    shown = artifact(f"nightly-{NAME}")
    assert shown.startswith("## REGRESSION")
    rows = json.loads(artifact(f"nightly-runs-{NAME}"))
    assert [(row["verdict"], row["changed"]) for row in rows] == [("worse", "parser")]
    told = events("factscale.nightly.worse")[0]
    assert told["resource"]["factscale.regression"] == "true"
    assert told["payload"]["effect"] == worse["effect"] < -0.02
    assert told["payload"]["margin"] == 0.02


def test_a_loss_that_was_meant_is_accepted_by_hand(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.nightlies import accept_by_hand

    drawings = drawn(monkeypatch)
    drawings.append(NAME)  # the night before did
    with pytest.raises(RunError, match="regression"):
        nights.night(report=True)  # another night, the same verdict
    assert drawings == [NAME]
    assert len(events("factscale.nightly.worse", 3)) == 3  # of the first night, its retry, and this one
    accept_by_hand(nights.home.store, NAME)
    before = nights.generated()
    assert "same; nothing has changed" in nights.night()
    assert nights.generated() == before


def test_a_dry_run_says_what_is_missing_and_does_nothing(nights: Nights) -> None:
    from flows.nightly import nightly

    nights.change(max_answer_tokens=mini_study.ANSWER + 2)
    before = nights.generated(), len(nights.verdicts())
    said = nightly(nights.parameters(), dry_run=True)
    assert "1 to do" in said
    assert (nights.generated(), len(nights.verdicts())) == before
    assert "Plan of small" in artifact(f"plan-{NAME}")


def test_every_flow_tells_its_plan_and_does_nothing(nights: Nights) -> None:
    from flows.distill import distill
    from flows.evaluate import evaluate
    from flows.finetune import finetune
    from flows.parameters import Distill, Evaluate, Finetune, Retrieve, Study
    from flows.plan_flow import plan
    from flows.report import report
    from flows.retrieve import retrieve
    from flows.study import study

    store = nights.home.store
    counts = "SELECT (SELECT count(*) FROM units), (SELECT count(*) FROM retrievals), (SELECT count(*) FROM studies)"
    before, generated = store.query(counts), nights.generated()
    fields = mini_study.mini()
    for name in ("evaluate", "finetune", "distill"):
        parameters = {"evaluate": Evaluate, "finetune": Finetune, "distill": Distill}[name].model_validate(fields)
        {"evaluate": evaluate, "finetune": finetune, "distill": distill}[name](parameters, limit=2, dry_run=True)
        units = json.loads(artifact("plan-units-mini-first-2"))
        assert units
        assert all(row["state"] != "done" for row in units)
        del fields[name]
    retrieve(Retrieve.model_validate({"name": "mini", "train": fields["train"]}), dry_run=True)
    assert [row["unit"] for row in json.loads(artifact("plan-units-mini"))] == ["paths of 6 questions"]
    whole = Study.model_validate(mini_study.mini())
    report(whole, dry_run=True)
    assert "7 units, 7 to do" in study(whole, dry_run=True)
    assert "7 units, 7 to do" in plan(whole, gpu_price=2.0, gpus=4)
    assert artifact("plan-mini").startswith("## Plan of mini")
    assert {row["role"] for row in json.loads(artifact("plan-models-mini"))} == {"teaches", "is trained", "answers"}
    assert (store.query(counts), nights.generated()) == (before, generated)


class TestParameters:
    def test_a_part_of_the_students_has_a_name_of_its_own(self, tmp_path: Path) -> None:
        from flows.nightly import Nightly, study_of

        file = mini_study.write(tmp_path, mini_study.mini(finetune={"students": ["smollm2-135m", "qwen2.5-0.5b"]}))
        study = study_of(Nightly(study=str(file), students=("qwen2.5-0.5b",)))
        assert (study.name, study.finetune.students) == ("mini-only-qwen2_5-0_5b", ("qwen2.5-0.5b",))
        with pytest.raises(InputError, match="students: nobody not in study mini; it has smollm2-135m, qwen2"):
            study_of(Nightly(study=str(file), students=("nobody",)))

    def test_the_shipped_study_is_the_demo_on_more_questions(self) -> None:
        from flows.nightly import Nightly, study_of
        from flows.parameters import STUDIES, load_study

        study, demo = study_of(Nightly()), load_study(STUDIES / "demo.yaml")
        for section in ("seed", "train", "retrieve", "distill", "finetune"):
            assert getattr(study, section) == getattr(demo, section)
        (mine,), (theirs,) = study.evaluate.datasets, demo.evaluate.datasets
        assert (mine.dataset, mine.split) == (theirs.dataset, theirs.split)
        assert (mine.limit or 0) > (theirs.limit or 0)
        for field in ("settings", "budgets", "samples", "sampling", "max_answer_tokens"):
            assert getattr(study.evaluate, field) == getattr(demo.evaluate, field)

    def test_a_study_without_a_judge_cannot_be_scored_by_one(self, tmp_path: Path) -> None:
        from flows.nightly import Nightly, study_of

        file = str(mini_study.write(tmp_path, mini_study.mini()))
        with pytest.raises(InputError, match=r"scored_by: study mini has no judge; name one in its evaluate\.judges"):
            study_of(Nightly(study=file, scored_by="judge"))
        assert study_of(Nightly(scored_by="judge")).evaluate.judges

    @pytest.mark.parametrize("fields", [{"margin": -0.1}, {"confidence": 0.9995}, {"accept": "always"}, {"study": ""}])
    def test_what_makes_no_sense_is_refused(self, fields: dict[str, Any]) -> None:
        from flows.nightly import Nightly

        with pytest.raises(ValidationError):
            Nightly(**fields)

    def test_students_that_are_not_trained_are_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from flows.nightly import _evaluate
        from flows.orders import Waiting
        from flows.parameters import Study

        def waits(_study: Study) -> str:
            raise Waiting("a unit of `finetune` has not landed: run `finetune` first")

        monkeypatch.setattr("flows.nightly.evaluate", waits)
        with pytest.raises(
            InputError, match=r"run `finetune` first; or let the night train what is missing \(`train`, --train\)"
        ):
            _evaluate(Study.model_validate(mini_study.mini()), train=False)
