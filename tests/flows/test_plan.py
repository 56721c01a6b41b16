"""What is told before the first unit runs: about students, their dev questions, and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from mini_study import mini

from flows.parameters import Study
from flows.plan import check, check_keys
from store.home import Home
from store.types import InputError

SWEEP = [{"name": "slow", "learning_rate": 1e-5}, {"name": "large", "gradient_accumulation": 3, "batch_size": 8}]


def study(*entries: dict[str, Any], folder: Path | None = None, **sections: Any) -> Study:
    """The smallest study with some fields changed; ``entries``: with a registry of its own, in ``folder``."""
    fields = mini(**sections)
    if entries and folder is not None:
        base = {"source": "embedded", "context_length": 8192, "parameters": 134515008}
        file = folder / "models.yaml"
        file.write_text(yaml.safe_dump({"models": [base | entry for entry in entries]}), encoding="utf-8")
        fields["registry"] = str(file)
    return Study.model_validate(fields)


@pytest.fixture
def dev(tmp_path: Path) -> dict[str, Any]:
    """Dev questions of one's own."""
    file = tmp_path / "mine_dev.csv"
    file.write_text("question,answers\nWho composed Fidelio?,Beethoven\n", encoding="utf-8")
    columns = {"question": "question", "answers": "answers"}
    return {"questions": {"dataset": "mine", "split": "dev", "path": str(file), "columns": columns}}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "TEST_KEY", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # whose .netrc may hold one


class TestDevQuestions:
    def test_those_of_a_set_of_their_own_are_taken(self, home: Home, dev: dict[str, Any]) -> None:
        check(study(finetune={"dev": dev}), home)
        check(study(finetune={"dev": {}}, distill={"held_out": 0.5}), home)

    @pytest.mark.parametrize(
        ("questions", "told"),
        [
            ({"split": "train", "limit": 7}, r"6 of its 7 questions are in train \(starter-train\) as well"),
            ({"split": "test", "limit": 2}, r"2 of its 2 questions are in evaluate\.datasets \(starter-test\) as well"),
        ],
    )
    def test_those_that_are_learned_or_evaluated_are_refused(
        self, home: Home, questions: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(InputError, match=rf"finetune\.dev\.questions: {told}; name another split or set"):
            check(study(finetune={"dev": {"questions": questions}}), home)


class TestTraining:
    @pytest.mark.parametrize(
        ("finetune", "told"),
        [
            ({"run": {"gpus": 3}}, r"finetune: gradient_accumulation: the 4 batches of a step cannot be shared out"),
            (
                {"run": {"gpus": 2}, "sweep": SWEEP},
                r"finetune\.sweep 'large': gradient_accumulation: the 3 batches of a step cannot be shared out",
            ),
            (
                {"hyperparameters": {"method": "qlora"}, "run": {"gpus": 2}},
                r"finetune: method: 'qlora' trains on one GPU",
            ),
        ],
    )
    def test_what_cannot_be_shared_out_among_devices(self, home: Home, finetune: dict[str, Any], told: str) -> None:
        with pytest.raises(InputError, match=told):
            check(study(finetune=finetune), home)

    @pytest.mark.parametrize("finetune", [{"hyperparameters": {"method": "qlora"}}, {"run": {"report_to": ["wandb"]}}])
    def test_packages_that_are_missing_where_it_trains(
        self, home: Home, finetune: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("models.finetune.find_spec", lambda _: None)
        asked = study(finetune=finetune)
        for only in (None, "study", "finetune"):
            with pytest.raises(InputError, match=r"finetune: .* needs the package (bitsandbytes|wandb)"):
                check(asked, home, only)
        for only in ("retrieve", "distill", "evaluate", "report"):
            check(asked, home, only)
        check(study(finetune=finetune, evaluate={"settings": ["instruct"]}), home)

    def test_packages_are_not_needed_where_all_are_trained(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("models.finetune.find_spec", lambda _: None)
        monkeypatch.setattr("flows.plan._untrained", lambda _: False)
        check(study(finetune={"hyperparameters": {"method": "qlora"}}), home)

    @pytest.mark.parametrize("finetune", [{"hyperparameters": {}}, {"sweep": [{"name": "long", "max_length": 600}]}])
    def test_examples_longer_than_a_context(self, home: Home, tmp_path: Path, finetune: dict[str, Any]) -> None:
        small = {"alias": "small", "context_length": 512}
        sections = {"finetune": {**finetune, "students": ["m", "small"]}, "distill": {"teachers": ["m"]}}
        asked = study({"alias": "m"}, small, folder=tmp_path, retrieve={"tokenizer": "m"}, **sections)
        longest = asked.finetune.variants.popitem()[1].max_length
        with pytest.raises(
            InputError,
            match=rf"max_length: {longest} is more than the context of model 'small', 512 tokens by .*models",
        ):
            check(asked, home)

    def test_the_whole_context_of_the_embedded_model_is_taken(self, home: Home) -> None:
        asked = study(finetune={"hyperparameters": {}})
        assert asked.finetune.hyperparameters.max_length == 8192
        check(asked, home)


class TestKeys:
    def test_a_tracker_wants_its_key_where_it_trains(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = study(finetune={"run": {"report_to": ["wandb"]}})
        for only in (None, "study", "finetune"):
            with pytest.raises(InputError, match=r"api\.wandb\.ai wants a key: .*WANDB_API_KEY"):
                check_keys(asked, home, only)
        check_keys(asked, home, "evaluate")
        check_keys(study(finetune={"run": {"report_to": ["tensorboard"]}}), home)
        monkeypatch.setenv("WANDB_API_KEY", "key")
        check_keys(asked, home)

    def test_the_server_of_a_base_that_answers_dev_questions(self, home: Home, dev: dict[str, Any]) -> None:
        served = {"servers": [{"model": "smollm2-135m", "url": "http://127.0.0.1:9/v1", "key_variable": "TEST_KEY"}]}
        with pytest.raises(InputError, match=r"'smollm2-135m': .* wants a key: .*TEST_KEY"):
            check_keys(study(generation=served, finetune={"dev": dev}), home, "finetune")
        check_keys(study(generation=served, finetune={"dev": {**dev, "base": False}}), home, "finetune")
        check_keys(study(generation=served), home, "finetune")
