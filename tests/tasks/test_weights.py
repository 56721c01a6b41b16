"""Which weights a unit runs, and with whose key: real folders, a real Prefect API for the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models import registry
from models.engines.base import Server
from models.finetune import MANIFEST, Dropped, Hyperparameters, StudentManifest, TrainResult
from models.registry import ModelEntry
from store.home import Home
from store.types import InputError
from tasks.weights import ModelChoice, block_name, key_of, tracker_secrets

CHAT = Server(url="https://api.example.org/v1", model="big-1", api="chat", key_variable="FACTSCALE_TEST_KEY")
OPEN = Server(url="http://127.0.0.1:8000/v1", model="served")
SECRET = "sk-do-not-tell"


def entry(**changes: Any) -> ModelEntry:
    base: dict[str, Any] = {"alias": "m", "source": "hosted", "context_length": 8, "parameters": 1}
    return ModelEntry.model_validate({**base, **changes})


def choice(made: ModelEntry, **changes: Any) -> ModelChoice:
    return ModelChoice(entry=made, format=made.format, **changes)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"abc")
    return folder


def train(home: Home, key: str, kind: str) -> Path:
    """The manifest of a student that was never trained."""
    folder = home.students / key
    folder.mkdir(parents=True)
    result = TrainResult(
        steps=1, tokens=1, seconds=1.0, train_loss=1.0, base_loss=None, held_out_loss=None, examples=1,
        held_out_examples=0, dropped=Dropped(), precision="fp32", device="cpu", threads=1,
    )  # fmt: skip
    manifest = StudentManifest.model_validate(
        {
            "key": key,
            "kind": kind,
            "base_key": "b",
            "format": "blocks",
            "hyperparameters": Hyperparameters(),
            "training_set": "t",
            "held_out_set": None,
            "result": result,
            "versions": {},
            "weights": {},
        }
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


class TestReference:
    def test_what_the_entry_says_crosses_over(self, weights: Path, home: Home, tmp_path: Path) -> None:
        template = tmp_path / "chat.jinja"
        made = entry(source=str(weights), chat_template=template, stop_tokens=["<end>"], trust_remote_code=True)
        reference = choice(made).reference(home)
        assert (reference.alias, reference.path, reference.server) == ("m", weights, None)
        assert (reference.chat_template, reference.stop_tokens) == (template, ("<end>",))
        assert reference.trust_remote_code

    def test_a_hosted_model_has_no_folder(self, home: Home) -> None:
        made = choice(entry(server=CHAT))
        reference = made.reference(home)
        assert (reference.path, reference.server, made.hosted) == (None, CHAT, True)

    def test_of_a_served_model_the_tokenizer_alone_is_fetched(
        self, weights: Path, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted: list[tuple[str, ...]] = []

        def download(_hub_id: str, _commit: str, files: tuple[str, ...]) -> Path:
            wanted.append(files)
            return weights

        monkeypatch.setattr(registry, "download", download)
        made = entry(source="org/name", revision="a" * 40)
        of_the_study, of_the_entry = choice(made, server=OPEN), choice(made.model_copy(update={"server": OPEN}))
        for one in (of_the_study, of_the_entry, choice(made)):
            assert one.reference(home).path == weights
        assert [("*.safetensors" in files) for files in wanted] == [False, False, True]
        assert of_the_study.reference(home).server == of_the_entry.reference(home).server == OPEN

    @pytest.mark.parametrize("kind", ["lora", "full"])
    def test_a_student_is_loaded_here_and_asked_as_its_base_is(self, weights: Path, home: Home, kind: str) -> None:
        folder = train(home, "key", kind)
        made = entry(source=str(weights), server=OPEN, stop_tokens=["<end>"], prices={"input": 1, "output": 2})
        student = ModelChoice(entry=made, format="blocks", student="key", server=OPEN)
        reference = student.reference(home)
        expected = (weights, folder) if kind == "lora" else (folder, None)
        assert (reference.path, reference.adapter) == expected
        assert (reference.server, reference.format_name, reference.stop_tokens) == (None, "blocks", ("<end>",))
        assert (student.secrets(), student.prices) == ({}, None)
        assert choice(made).prices is not None

    def test_a_student_that_is_gone_is_told(self, weights: Path, home: Home) -> None:
        with pytest.raises(InputError, match=r"student key: no complete weights in .*run `finetune` again"):
            ModelChoice(entry=entry(source=str(weights)), format="blocks", student="key").reference(home)


class TestKeys:
    @pytest.fixture(autouse=True)
    def no_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FACTSCALE_TEST_KEY", raising=False)

    def test_a_block_is_named_as_its_variable(self) -> None:
        assert block_name("OPENAI_API_KEY") == "openai-api-key"

    def test_it_comes_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FACTSCALE_TEST_KEY", f" {SECRET}\n")
        assert choice(entry(server=CHAT)).secrets() == {"FACTSCALE_TEST_KEY": SECRET}

    def test_a_server_without_one_needs_none(self, weights: Path) -> None:
        assert key_of(OPEN, "m") == {}
        assert choice(entry(source=str(weights))).secrets() == {}

    def test_a_missing_one_is_told_with_both_places(self) -> None:
        with pytest.raises(
            InputError, match=r"'m': api\.example\.org wants a key: .*FACTSCALE_TEST_KEY.*'factscale-test-key'"
        ):
            choice(entry(server=CHAT)).secrets()

    def test_what_is_no_key_is_told_and_not_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for wrong in ("two words", "line\nbreak", "schlüssel"):
            monkeypatch.setenv("FACTSCALE_TEST_KEY", wrong)
            with pytest.raises(InputError, match=r"FACTSCALE_TEST_KEY .*no key") as caught:
                key_of(CHAT, "m")
            assert wrong not in str(caught.value)

    @pytest.mark.real
    def test_it_comes_from_a_block_of_the_api_in_flows_and_outside(
        self, home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        from prefect import flow, task
        from prefect.blocks.system import Secret

        from flows.server import prefect_api, prepare_environment

        monkeypatch.setenv("PREFECT_HOME", str(home.folder / "prefect"))
        prepare_environment(home)
        with prefect_api(home):
            with pytest.raises(InputError, match="factscale-test-key"):
                key_of(CHAT, "m")
            Secret(value=SECRET).save("factscale-test-key")
            expected = {"FACTSCALE_TEST_KEY": SECRET}
            assert key_of(CHAT, "m") == expected

            # What a task returns is kept by Prefect: the key itself is not returned.
            @task
            def in_a_task() -> bool:
                return key_of(CHAT, "m") == expected

            @flow
            def in_a_flow() -> bool:
                return key_of(CHAT, "m") == expected and in_a_task.submit().result()

            assert in_a_flow()
            monkeypatch.delenv("WANDB_API_KEY", raising=False)
            monkeypatch.delenv("WANDB_MODE", raising=False)
            assert tracker_secrets(["wandb"]) == {}
            Secret(value=SECRET).save("wandb-api-key")
            assert tracker_secrets(["tensorboard", "wandb"]) == {"WANDB_API_KEY": SECRET}
            assert tracker_secrets(["tensorboard"]) == {}
        assert SECRET not in "".join(capfd.readouterr())
        with pytest.raises(InputError, match="factscale-test-key"):  # without an API none is started to look for it
            key_of(CHAT, "m")
