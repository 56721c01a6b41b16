"""The registry: aliases, keys that need no download, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.embedded import GGUF_SHA256
from models.registry import ModelEntry, fetch, load_registry, model_key, resolve
from store.types import InputError

SHIPPED = Path(__file__).resolve().parents[2] / "deployments" / "models.yaml"


def entry(**changes: object) -> ModelEntry:
    base: dict[str, object] = {"alias": "m", "source": "org/name", "context_length": 8, "parameters": 1}
    return ModelEntry.model_validate({**base, **changes})


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"abc")
    return folder


class TestShippedFile:
    def test_every_model_of_the_study_is_there(self) -> None:
        registry = load_registry(SHIPPED)
        sizes = {e.alias: e.parameters for e in registry.models}
        assert {"smollm2-135m", "qwen2.5-0.5b", "qwq-32b", "deepseek-r1", "llama-3.3-70b"} <= set(sizes)
        assert sizes["qwen2.5-32b"] > sizes["qwen2.5-14b"] > sizes["qwen2.5-0.5b"]

    def test_the_embedded_key_needs_no_download(self, tmp_path: Path) -> None:
        assert GGUF_SHA256[:16] in model_key(load_registry(SHIPPED).entry("smollm2-135m"), tmp_path)
        assert not any(tmp_path.iterdir())

    def test_an_unknown_alias_is_named_with_near_ones_and_the_file(self) -> None:
        with pytest.raises(InputError, match=r"'smollm-135m'.*models\.yaml.*smollm2-135m"):
            load_registry(SHIPPED).entry("smollm-135m")


class TestKeys:
    @pytest.mark.parametrize("revision", [None, "main", "abc123"])
    def test_a_hub_model_needs_a_commit(self, revision: str | None, tmp_path: Path) -> None:
        for function in (model_key, fetch):
            with pytest.raises(InputError, match=r"commit hash.*huggingface\.co/org/name"):
                function(entry(revision=revision), tmp_path)

    def test_a_hub_key_is_id_and_commit(self, tmp_path: Path) -> None:
        assert model_key(entry(revision="a" * 40), tmp_path) == "org/name@" + "a" * 40

    def test_a_folder_key_follows_its_content(self, local: Path, tmp_path: Path) -> None:
        first = model_key(entry(source=str(local)), tmp_path)
        assert model_key(entry(source=str(local), alias="other"), tmp_path) == first
        (local / "model.safetensors").write_bytes(b"abcd")
        assert model_key(entry(source=str(local)), tmp_path) != first

    def test_resolve_gives_a_ref(self, local: Path, tmp_path: Path) -> None:
        resolved = resolve(entry(source=str(local), format="blocks"), tmp_path)
        assert (resolved.ref.path, resolved.ref.format_name) == (local, "blocks")

    def test_a_folder_with_pickled_weights_only_is_refused(self, local: Path, tmp_path: Path) -> None:
        (local / "model.safetensors").rename(local / "pytorch_model.bin")
        with pytest.raises(InputError, match="only safetensors"):
            fetch(entry(source=str(local)), tmp_path)


class TestFile:
    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("models: 3", "list `models`"),
            ("models: [{alias: a, source: x, context_length: 8, parameters: 1}]", "neither 'embedded'"),
            ("models: [{alias: a, source: embedded, context_length: 8, parameters: 1, format: r1}]", "r1"),
            ("models: [{alias: a, source: embedded, context_length: 0, parameters: 1}]", "context_length"),
            ("models: [", "not YAML"),
        ],
    )
    def test_what_is_wrong_is_named(self, text: str, named: str, tmp_path: Path) -> None:
        path = tmp_path / "models.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match=named) as caught:
            load_registry(path)
        assert "models.yaml" in str(caught.value)

    def test_an_alias_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "models.yaml"
        one = "{alias: a, source: embedded, context_length: 8, parameters: 1}"
        path.write_text(f"models: [{one}, {one}]")
        with pytest.raises(InputError, match="'a' is there twice"):
            load_registry(path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            load_registry(tmp_path / "no.yaml")

    def test_folders_are_relative_to_the_file(self, local: Path, tmp_path: Path) -> None:
        path = tmp_path / "models.yaml"
        path.write_text("models: [{alias: a, source: ./weights, context_length: 8, parameters: 1}]")
        assert load_registry(path).entry("a").folder == local
