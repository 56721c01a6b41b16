"""The registry: aliases, keys that need no download, what is fetched, what tokens cost, and clear errors."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

from models.embedded import GGUF_SHA256
from models.engines.base import Server
from models.fetching import downloaded
from models.registry import HOSTED, ModelEntry, Prices, fetch, fetch_tokenizer, load_registry, model_key, tokenizer_key
from store.types import InputError, RunError

SHIPPED = Path(__file__).resolve().parents[2] / "deployments" / "models.yaml"
COMMIT = "a" * 40
CHAT: dict[str, Any] = {"url": "https://api.example.org/v1", "model": "big-1", "api": "chat", "key_variable": "BIG_KEY"}
OPEN: dict[str, Any] = {"url": "http://127.0.0.1:8000/v1", "model": "org/name"}


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


def write(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "models.yaml"
    base = {"alias": "a", "source": "embedded", "context_length": 8, "parameters": 1}
    path.write_text(yaml.safe_dump({"models": [{**base, **changes} for changes in entries]}))
    return path


class TestShippedFile:
    def test_every_model_of_the_study_is_there(self) -> None:
        registry = load_registry(SHIPPED)
        sizes = {e.alias: e.parameters for e in registry.models}
        qwen = [sizes[f"qwen2.5-{size}b"] for size in ("0.5", "1.5", "3", "7", "14", "32", "72")]
        assert qwen == sorted(qwen)  # type: ignore[type-var]
        roles = {
            role: {e.alias for e in registry.models if role in e.roles} for role in ("teacher", "baseline", "judge")
        }
        assert roles["teacher"] >= {"qwq-32b", "deepseek-r1", "deepseek-r1-hosted"}
        assert roles["baseline"] >= {"qwen2.5-72b", "qwq-32b", "r1-llama-70b", "o3-mini"}
        assert roles["judge"] >= {"llama-3.3-70b", "gpt-4o-mini"}
        students = {e.alias for e in registry.models if "student" in e.roles}
        assert students >= {f"qwen2.5-{size}b" for size in ("0.5", "1.5", "3", "7", "14", "32")}
        assert students >= {"smollm2-360m", "smollm2-1.7b"}

    def test_hosted_models_have_a_key_and_prices_and_no_secret(self) -> None:
        hosted = [e for e in load_registry(SHIPPED).models if e.source == HOSTED]
        assert len(hosted) == 3
        for model in hosted:
            assert model.server is not None
            assert model.server.key_variable is not None
            assert model.prices is not None
            assert model.prices.output > model.prices.input > 0
        [thinks] = [e for e in hosted if e.alias == "o3-mini"]
        assert thinks.server is not None
        assert (thinks.server.takes_sampling, thinks.server.reasoning_effort) == (False, "medium")

    def test_the_embedded_key_needs_no_download(self, tmp_path: Path) -> None:
        assert GGUF_SHA256[:16] in model_key(load_registry(SHIPPED).entry("smollm2-135m"), tmp_path)
        assert not any(tmp_path.iterdir())

    def test_an_unknown_alias_is_named_with_near_ones_and_the_file(self) -> None:
        with pytest.raises(InputError, match=r"'smollm-135m'.*models\.yaml.*smollm2-135m"):
            load_registry(SHIPPED).entry("smollm-135m")


class TestPrices:
    def test_cached_tokens_cost_their_own_price(self) -> None:
        prices = Prices(input=1.0, cached_input=0.25, output=4.0)
        assert prices.cost(1_000_000, 400_000, 500_000) == pytest.approx(0.6 + 0.1 + 2.0)

    def test_without_one_they_cost_what_others_do(self) -> None:
        assert Prices(input=2.0, output=8.0).cost(500_000, 500_000, 250_000) == pytest.approx(1.0 + 2.0)


class TestKeys:
    @pytest.mark.parametrize("revision", [None, "main", "abc123"])
    def test_a_hub_model_needs_a_commit(self, revision: str | None, tmp_path: Path) -> None:
        for function in (model_key, fetch, fetch_tokenizer):
            with pytest.raises(InputError, match=r"commit hash.*huggingface\.co/org/name"):
                function(entry(revision=revision), tmp_path)

    def test_a_hub_key_is_id_and_commit(self, tmp_path: Path) -> None:
        assert model_key(entry(revision=COMMIT), tmp_path) == f"org/name@{COMMIT}"

    def test_where_it_runs_and_what_it_costs_is_not_in_it(self, tmp_path: Path) -> None:
        served = entry(revision=COMMIT, server={**OPEN, "in_flight": 8}, prices={"input": 1, "output": 2})
        assert model_key(served, tmp_path) == model_key(entry(revision=COMMIT), tmp_path)

    def test_a_hosted_key_is_host_name_and_effort(self, tmp_path: Path) -> None:
        keys = [
            model_key(entry(source=HOSTED, parameters=None, server={**CHAT, **changes}), tmp_path)
            for changes in (
                {},
                {"in_flight": 2, "key_variable": "OTHER"},
                {"reasoning_effort": "low"},
                {"model": "big-2"},
            )
        ]
        assert keys[0] == keys[1] == "hosted:api.example.org/big-1"
        assert keys[2:] == ["hosted:api.example.org/big-1+effort:low", "hosted:api.example.org/big-2"]

    def test_what_changes_prompts_and_ends_is_in_it(self, tmp_path: Path) -> None:
        template = tmp_path / "chat.jinja"
        template.write_text("{{ messages }}")
        plain, templated, stopped = entry(revision=COMMIT), {"chat_template": template}, {"stop_tokens": ["<a>", "<b>"]}
        keys = [model_key(plain, tmp_path)]
        keys += [
            model_key(entry(revision=COMMIT, **one), tmp_path) for one in (templated, stopped, templated | stopped)
        ]
        assert model_key(entry(revision=COMMIT, stop_tokens=["<b>", "<a>"]), tmp_path) == keys[2]
        template.write_text("{{ messages }}\n")
        keys.append(model_key(entry(revision=COMMIT, chat_template=template), tmp_path))
        assert len(set(keys)) == 5
        assert all(key.startswith(keys[0]) for key in keys)
        template.unlink()
        with pytest.raises(InputError, match=r"'m': chat_template .*chat\.jinja cannot be read"):
            model_key(entry(revision=COMMIT, chat_template=template), tmp_path)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json", "generation_config.json"])
    def test_a_folder_key_follows_its_content(self, local: Path, tmp_path: Path, name: str) -> None:
        first = model_key(entry(source=str(local)), tmp_path)
        assert model_key(entry(source=str(local), alias="other"), tmp_path) == first
        (local / name).write_bytes(b"abcd")
        assert model_key(entry(source=str(local)), tmp_path) != first

    def test_code_counts_only_where_it_is_run(self, local: Path, tmp_path: Path) -> None:
        keys = {}
        for content in ("a = 1", "a = 2"):
            (local / "modeling.py").write_text(content)
            for trusted in (False, True):
                keys[content, trusted] = model_key(entry(source=str(local), trust_remote_code=trusted), tmp_path)
        assert keys["a = 1", False] == keys["a = 2", False]
        assert keys["a = 1", True] != keys["a = 2", True]

    def test_an_adapter_counts_by_its_content(self, local: Path, tmp_path: Path) -> None:
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
        (adapter / "adapter_model.safetensors").write_bytes(b"x")
        first = model_key(entry(source=str(local), adapter=adapter), tmp_path)
        (adapter / "adapter_model.safetensors").write_bytes(b"yy")
        assert model_key(entry(source=str(local), adapter=adapter), tmp_path) != first
        assert model_key(entry(source=str(local)), tmp_path) != first

    def test_a_folder_with_pickled_weights_only_is_refused(self, local: Path, tmp_path: Path) -> None:
        (local / "model.safetensors").rename(local / "pytorch_model.bin")
        with pytest.raises(InputError, match="only safetensors"):
            fetch(entry(source=str(local)), tmp_path)

    def test_a_hosted_model_has_nothing_to_fetch_or_to_count_with(self, tmp_path: Path) -> None:
        hosted = entry(source=HOSTED, server=CHAT)
        for function in (fetch, fetch_tokenizer, lambda one, _: tokenizer_key(one)):
            with pytest.raises(InputError, match=r"'m' is only behind an API"):
                function(hosted, tmp_path)


class TestDownloads:
    @pytest.fixture
    def wanted(self, local: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """What the hub is asked for; it answers with a folder that is there."""
        asked: list[dict[str, Any]] = []

        def snapshot_download(hub_id: str, **options: Any) -> str:
            asked.append({"id": hub_id, **options})
            return str(local)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    @pytest.mark.parametrize(("function", "weights"), [(fetch, True), (fetch_tokenizer, False)])
    @pytest.mark.parametrize("trusted", [False, True])
    def test_never_pickles_and_code_only_if_it_is_trusted(
        self, wanted: list[dict[str, Any]], local: Path, tmp_path: Path, function: Any, weights: bool, trusted: bool
    ) -> None:
        assert function(entry(revision=COMMIT, trust_remote_code=trusted), tmp_path) == local
        [asked] = wanted
        assert (asked["id"], asked["revision"]) == ("org/name", COMMIT)

        def comes(name: str) -> bool:
            return any(fnmatch(name, pattern) for pattern in asked["allow_patterns"])

        assert all(map(comes, ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json")))
        assert all(map(comes, ("config.json", "generation_config.json", "merges.txt")))
        assert not any(map(comes, ("pytorch_model.bin", "model.pt", "model.gguf")))
        assert comes("model-00001-of-00002.safetensors") == weights
        assert comes("modeling_new.py") == trusted

    def test_a_hub_that_cannot_be_reached_is_a_failure(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def refuse(*_: Any, **__: Any) -> str:
            raise OSError("no route to host")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        with pytest.raises(RunError, match=r"org/name@aaaaaaaaaaaa cannot be downloaded: no route"):
            fetch(entry(revision=COMMIT), tmp_path)

    def test_what_is_in_the_hubs_cache_is_known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        folder = tmp_path / "models--org--name" / "snapshots" / COMMIT
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        assert not downloaded("org/name", COMMIT)
        (folder / "model.safetensors").write_bytes(b"w")
        assert downloaded("org/name", COMMIT)
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
        )
        (folder / "one.safetensors").write_bytes(b"w")
        assert not downloaded("org/name", COMMIT)
        (folder / "two.safetensors").write_bytes(b"w")
        assert downloaded("org/name", COMMIT)
        assert not downloaded("org/name", "b" * 40)


class TestEntries:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"source": "x"}, r"source 'x' is neither 'embedded' nor 'hosted'"),
            ({"format": "r1"}, r"format: .*'r1' is not one of.*\(got 'r1'\)"),
            ({"context_length": 0}, r"context_length: .*\(got 0\)"),
            ({"parameters": None}, r"parameters: their number is missing"),
            ({"revision": COMMIT}, r"revision: only a hub model has one"),
            ({"stop_tokens": [""]}, r"stop_tokens: an empty stop token"),
            ({"trust_remote_code": True}, r"trust_remote_code: the embedded model has no code"),
            (
                {"source": "org/name", "trust_remote_code": True},
                r"trust_remote_code: .*set revision to its 40 hex digits",
            ),
            ({"colour": "red"}, r"colour: unknown field"),
            ({"prices": {"input": -1, "output": 2}}, r"prices\.input: .*greater than or equal to 0"),
            ({"prices": {"input": 1}}, r"prices\.output: Field required"),
            ({"server": {**OPEN, "api": "chat"}}, r"server\.api: 'chat' is for source 'hosted'"),
            ({"server": {**OPEN, "reasoning_effort": "low"}}, r"server: reasoning_effort and takes_sampling are for"),
            ({"server": {**OPEN, "takes_sampling": False}}, r"server: reasoning_effort and takes_sampling are for"),
            ({"server": OPEN, "adapter": "./lora"}, r"adapter: a server runs what it was started with"),
            ({"server": {**OPEN, "url": "localhost:8000"}}, r"server\.url: .*is not an http\(s\) address"),
            ({"server": {"model": "m"}}, r"server\.url: Field required"),
            ({"source": HOSTED}, r"server: a hosted model needs one"),
            ({"source": HOSTED, "server": OPEN}, r"server\.api: a hosted model has no tokenizer here: use 'chat'"),
            ({"source": HOSTED, "server": CHAT, "format": "blocks"}, r"format: a hosted model is 'plain' or 'tags'"),
            ({"source": HOSTED, "server": CHAT, "revision": COMMIT}, r"revision: a hosted model's provider decides"),
            ({"source": HOSTED, "server": CHAT, "stop_tokens": ["<x>"]}, r"stop_tokens: a hosted model's provider"),
            (
                {"source": HOSTED, "server": CHAT, "chat_template": "t.jinja"},
                r"chat_template: a hosted model's provider",
            ),
            ({"source": HOSTED, "server": CHAT, "adapter": "./lora"}, r"adapter: a hosted model's provider"),
            ({"source": HOSTED, "server": CHAT, "trust_remote_code": True}, r"trust_remote_code: a hosted model's"),
        ],
    )
    def test_what_is_wrong_is_named_with_the_alias(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        path = write(tmp_path, {"alias": "good"}, {"alias": "bad", **changes})
        with pytest.raises(InputError, match=message) as caught:
            load_registry(path)
        assert f"{path}: model 'bad': " in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("field", ["key", "key_variable", "api_key"])
    def test_a_key_that_is_put_into_the_file_is_not_repeated(self, field: str, tmp_path: Path) -> None:
        secret = "sk-do-not-tell"
        with pytest.raises(InputError, match=rf"'bad': server\.{field}: ") as caught:
            load_registry(write(tmp_path, {"alias": "bad", "source": HOSTED, "server": {**CHAT, field: secret}}))
        assert secret not in str(caught.value)

    def test_one_without_an_alias_is_named_by_its_place(self, tmp_path: Path) -> None:
        path = write(tmp_path, {}, {"alias": None})
        with pytest.raises(InputError, match="the model at place 2: alias"):
            load_registry(path)
        path.write_text("models: [3]")
        with pytest.raises(InputError, match="the model at place 1: "):
            load_registry(path)

    def test_a_hosted_model_may_have_unknown_size(self) -> None:
        model = entry(source=HOSTED, parameters=None, server=CHAT, prices={"input": 1, "output": 4})
        assert model.server == Server(**CHAT)
        assert (model.folder, model.hub_id) == (None, None)


class TestFile:
    @pytest.mark.parametrize(
        ("text", "named"),
        [("models: 3", "list `models`"), ("models: [", "not YAML"), ("models: []", "at least 1 item")],
    )
    def test_what_is_wrong_is_named(self, text: str, named: str, tmp_path: Path) -> None:
        path = tmp_path / "models.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match=named) as caught:
            load_registry(path)
        assert "models.yaml" in str(caught.value)

    def test_an_alias_twice(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="'a' is there twice"):
            load_registry(write(tmp_path, {}, {}))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            load_registry(tmp_path / "no.yaml")

    def test_folders_and_files_are_relative_to_the_file(self, local: Path, tmp_path: Path) -> None:
        changes = {"source": "./weights", "adapter": "lora", "chat_template": "templates/chat.jinja"}
        model = load_registry(write(tmp_path, changes)).entry("a")
        assert model.folder == local
        assert model.adapter == tmp_path / "lora"
        assert model.chat_template == tmp_path / "templates" / "chat.jinja"
        away = shutil.copy(tmp_path / "models.yaml", tmp_path.parent / f"{tmp_path.name}.yaml")
        assert load_registry(Path(away)).entry("a").folder == tmp_path.parent / "weights"
