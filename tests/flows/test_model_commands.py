"""``factscale models`` as a person meets it: the real embedded model, and a hosted one behind a socket; what studies cost."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest.mock import patch

import pytest
import yaml
from mini_study import mini, write

from flows.cli import main
from flows.model_commands import _human, _inspected
from models.embedded import default_cache, embedded_key
from models.registry import ModelEntry
from models.session import Inspection
from store.connection import Unit
from store.home import Home
from store.types import InputError

SECRET = "sk-do-not-tell"


class Done(NamedTuple):
    """What a command has left behind."""

    returncode: int
    stdout: str
    stderr: str

    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of a command that printed JSON, by their first column."""
        return {next(iter(row.values())): row for row in json.loads(self.stdout)}


def call(home: Path, *arguments: str | Path, **variables: str) -> Done:
    """The command in this process, for speed."""
    out, err = io.StringIO(), io.StringIO()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TEST_"))}
    environment = {**kept, "FACTSCALE_HOME": str(home), "COLUMNS": "160", **variables}
    argv = ["factscale", "models", *map(str, arguments)]
    with patch.dict(os.environ, environment, clear=True), patch.object(sys, "argv", argv):
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def one_error(done: Done) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def registry(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "models.yaml"
    base = {"alias": "m", "source": "embedded", "context_length": 8192, "parameters": 134515008}
    path.write_text(yaml.safe_dump({"models": [{**base, **changes} for changes in entries]}))
    return path


class TestLs:
    def test_the_shipped_models_with_their_states(self, tmp_path: Path) -> None:
        done = call(tmp_path, "ls", "--format", "json")
        assert done.returncode == 0, done.stderr
        rows = done.rows()
        assert rows["qwen2.5-7b"]["params"] == 7615616512
        assert rows["smollm2-135m"]["state"] in ("ready", "to download")
        assert rows["o3-mini"]["price_out"] > rows["o3-mini"]["price_in"] > 0
        assert rows["gpt-4o-mini"]["roles"] == "judge"

    def test_every_state(self, tmp_path: Path) -> None:
        hub = {"source": "no-such-org/no-such-model", "revision": "a" * 40}
        chat = {"url": "https://api.example.org/v1", "model": "big", "api": "chat", "key_variable": "TEST_KEY"}
        own = {"url": "http://127.0.0.1:8000/v1", "model": "own"}
        file = registry(
            tmp_path,
            {"alias": "embedded"},
            {"alias": "fetched", **hub},
            {"alias": "unpinned", **hub, "revision": None},
            {"alias": "gone", "source": "./nowhere"},
            {"alias": "served", **hub, "server": own},
            {"alias": "served-unpinned", **hub, "revision": None, "server": own},
            {"alias": "served-with-key", **hub, "server": {**own, "key_variable": "TEST_KEY"}},
            {"alias": "hosted", "source": "hosted", "server": chat},
        )
        rows = call(tmp_path, "ls", "--registry", file, "--format", "json").rows()
        embedded = (default_cache() / "smollm2-135m-instruct" / "manifest.json").is_file()
        states = {alias: row["state"] for alias, row in rows.items()}
        assert states == {
            "embedded": "ready" if embedded else "to download",
            "fetched": "to download",
            "unpinned": "no revision",
            "gone": "no weights",
            "served": "behind http://127.0.0.1:8000/v1",
            "served-unpinned": "no revision",
            "served-with-key": "key TEST_KEY missing",
            "hosted": "key TEST_KEY missing",
        }
        with_key = call(tmp_path, "ls", "--registry", file, "--format", "json", TEST_KEY=SECRET)
        assert with_key.rows()["hosted"]["state"] == "behind https://api.example.org/v1"
        assert SECRET not in with_key.stdout + with_key.stderr

    def test_the_table_is_for_people(self, tmp_path: Path) -> None:
        done = call(tmp_path, "ls", OPENAI_API_KEY="", OPENROUTER_API_KEY="")
        assert "135M" in done.stdout
        assert "7.6B" in done.stdout
        assert "key ... missing: set the environment variable" in done.stdout
        unpriced = call(tmp_path, "ls", "--registry", registry(tmp_path, {}))
        assert "price" not in unpriced.stdout

    def test_a_bad_registry_is_one_error(self, tmp_path: Path) -> None:
        done = call(tmp_path, "ls", "--registry", registry(tmp_path, {"format": "r1"}))
        assert done.returncode == 2
        assert "model 'm': format: " in one_error(done)

    @pytest.mark.parametrize(
        ("parameters", "expected"),
        [
            (None, None),
            (134515008, "135M"),
            (1543714304, "1.5B"),
            (32763876352, "33B"),
            (671026419200, "671B"),
            (7, "7"),
        ],
    )
    def test_sizes(self, parameters: int | None, expected: str | None) -> None:
        assert _human(parameters) == expected


@pytest.mark.real
class TestCheck:
    OPTIONS = ("--engine", "transformers", "--dtype", "float32", "--format", "json")

    def test_the_embedded_model(self, tmp_path: Path) -> None:
        file = registry(tmp_path, {"prices": {"input": 1000, "output": 1000}})
        done = call(tmp_path, "check", "m", "--registry", file, *self.OPTIONS)
        assert done.returncode == 0, done.stderr
        rows = done.rows()
        assert {row["verdict"] for row in rows.values()} == {"ok"}
        assert rows["key"]["found"] == embedded_key()
        assert "transformers" in rows["engine"]["found"]
        assert "float32 on cpu" in rows["engine"]["found"]
        assert rows["context"]["found"] == "8,192 tokens"
        [prompt] = [row["found"] for name, row in rows.items() if name.startswith("prompt of ")]
        assert prompt.endswith("capital of France? Answer in one word.<|im_end|>\n<|im_start|>assistant\n")
        assert rows["stop tokens"]["found"] == "<|im_end|> (2)"
        assert rows["end of thinking"]["found"] == "no marker: format plain"
        assert "Paris" in rows["reply"]["found"]
        assert rows["speed"]["found"].startswith("8 tokens in ")
        assert rows["cost"]["found"] == "$0.05 for 42 prompt and 8 generated tokens"

    def test_what_the_entry_says_wrong(self, tmp_path: Path) -> None:
        # The format's marker is not in the vocabulary, so that no budget could work; the context is shorter than told.
        file = registry(tmp_path, {"format": "tags", "context_length": 32768})
        done = call(tmp_path, "check", "m", "--registry", file, *self.OPTIONS)
        assert done.returncode == 1
        rows = done.rows()
        assert rows["context"]["verdict"] == "warn"
        assert rows["context"]["found"] == "8,192 tokens, and the registry says 32,768: what needs more is refused"
        assert rows["prompt"]["verdict"] == "fail"
        assert "'</think>' is not a token of this model's vocabulary" in rows["prompt"]["found"]


class TestFindings:
    ENTRY = ModelEntry(alias="m", source="embedded", context_length=8, parameters=1, format="tags")

    def found(self, prompt: str, stops: dict[str, int], marker: str | None) -> dict[str, tuple[str, str]]:
        inspection = Inspection(prompt, 7, stops, marker)
        return {one.name: (one.verdict, one.found) for one in _inspected(inspection, self.ENTRY)}

    def test_a_model_that_can_do_what_its_format_needs(self) -> None:
        lines = self.found("\n".join(map(str, range(20))), {"<end>": 2, "</think>": 9}, "</think>")
        assert lines["prompt of 7 tokens"] == ("ok", "...\n14\n15\n16\n17\n18\n19")
        assert lines["stop tokens"] == ("ok", "<end> (2), </think> (9)")
        assert lines["end of thinking"] == ("ok", "</think> (9)")

    def test_one_that_cannot(self) -> None:
        assert self.found("x\n", {}, None)["prompt of 7 tokens"] == ("ok", "x\n")
        assert self.found("x", {}, None)["stop tokens"][0] == "fail"
        assert self.found("x", {"<end>": 2}, "</think>")["end of thinking"][0] == "fail"


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nobody"], r"model 'nobody' is not in"),
            (["qwen2.5-7b", "--served-as", "x"], "--served-as goes with --server"),
            (["o3-mini", "--server", "http://127.0.0.1:1/v1"], "is behind an API of its own"),
            (["smollm2-135m", "--server", "127.0.0.1:1"], "is not an http(s) address"),
        ],
    )
    def test_it_is_told_before_anything_is_loaded(self, tmp_path: Path, arguments: list[str], message: str) -> None:
        done = call(tmp_path, "check", *arguments)
        assert done.returncode == 2
        assert message in one_error(done)


class Hosted(BaseHTTPRequestHandler):
    """A hosted model that gives one answer to everything, and notes what it was asked."""

    asked: list[tuple[str, Any]]

    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"data": []}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append((self.headers["Authorization"], body))
        usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        chunks: list[dict[str, Any]] = [
            {"choices": [{"delta": {"content": "Paris."}}]},
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        ]
        self._send("text/event-stream", "".join(f"data: {json.dumps(one)}\n\n" for one in chunks) + "data: [DONE]\n\n")

    def _send(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing: the command's own output is what is looked at."""


class TestHosted:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Iterator[Path]:
        Hosted.asked = []
        with ThreadingHTTPServer(("127.0.0.1", 0), Hosted) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/v1"
            chat = {"url": url, "model": "big", "api": "chat", "key_variable": "TEST_KEY", "reasoning_effort": "low"}
            prices = {"input": 100, "output": 1000}
            yield registry(tmp_path, {"source": "hosted", "parameters": None, "server": chat, "prices": prices})
            server.shutdown()

    def test_it_is_asked_for_one_reply(self, file: Path, tmp_path: Path) -> None:
        done = call(tmp_path / "home", "check", "m", "--registry", file, "--format", "json", TEST_KEY=SECRET)
        assert done.returncode == 0, done.stderr
        rows = done.rows()
        assert rows["key"]["found"].startswith("hosted:127.0.0.1:")
        assert rows["reply"]["found"] == "Paris."
        assert rows["cost"]["found"] == "$0.007 for 20 prompt and 5 generated tokens"
        [(key, body)] = Hosted.asked
        assert key == f"Bearer {SECRET}"
        assert (body["model"], body["reasoning_effort"]) == ("big", "low")
        written = [path.read_text(errors="ignore") for path in (tmp_path / "home").rglob("*") if path.is_file()]
        assert SECRET not in "".join([done.stdout, done.stderr, *written])


class TestCost:
    PRICES: ClassVar = {"input": 1, "output": 10}

    def plan(self, tmp_path: Path, *models: dict[str, Any], **sections: dict[str, Any]) -> list[dict[str, Any]]:
        from flows.parameters import load_study
        from flows.plan import plan

        fields = mini(**sections) | {"registry": str(registry(tmp_path, *models))}
        return plan(load_study(write(tmp_path, fields)), Home(tmp_path / "home"))

    def test_a_plan_has_the_upper_bound_of_priced_models(self, tmp_path: Path) -> None:
        free, priced = {"alias": "free"}, {"alias": "priced", "prices": self.PRICES}
        named: dict[str, Any] = {
            "distill": {"teachers": ["priced"]},
            "finetune": {"students": ["free"]},
            "evaluate": {"baselines": ["priced"]},
            "retrieve": {"tokenizer": "free"},
        }
        rows = self.plan(tmp_path, free, priced, **named)
        for row in rows:
            expected = (row["tokens"] * 10 + row["prompt_tokens"]) / 1e6 if "priced" in row["unit"] else None
            assert row["cost"] == (None if expected is None else pytest.approx(expected)), row
        assert sum(row["cost"] is not None for row in rows) == 2
        assert sum(row["cost"] or 0 for row in rows) > 0

    def test_students_of_a_priced_model_cost_nothing_by_the_token(self, tmp_path: Path) -> None:
        priced = {"alias": "priced", "prices": self.PRICES}
        named: dict[str, Any] = {
            "distill": {"teachers": ["priced"]},
            "finetune": {"students": ["priced"]},
            "retrieve": {"tokenizer": "priced"},
        }
        rows = {row["unit"]: row for row in self.plan(tmp_path, priced, **named)}
        assert rows["answers priced fs1 starter-test"]["cost"] is None
        assert rows["answers priced instruct starter-test"]["cost"] > 0

    def test_without_prices_there_is_no_such_column(self, tmp_path: Path) -> None:
        named: dict[str, Any] = {
            "distill": {"teachers": ["m"]},
            "finetune": {"students": ["m"]},
            "retrieve": {"tokenizer": "m"},
        }
        assert all("cost" not in row for row in self.plan(tmp_path, {}, **named))

    def test_a_hosted_model_cannot_be_a_student(self, tmp_path: Path) -> None:
        chat = {"url": "https://api.example.org/v1", "model": "big", "api": "chat"}
        hosted = {"alias": "big", "source": "hosted", "server": chat}
        named: dict[str, Any] = {
            "distill": {"teachers": ["m"]},
            "finetune": {"students": ["big"]},
            "retrieve": {"tokenizer": "m"},
        }
        with pytest.raises(InputError, match=r"finetune\.students: model 'big' is only behind an API"):
            self.plan(tmp_path, {}, hosted, **named)

    def test_an_encoder_that_is_required_and_not_there_is_told_before_anything_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from flows.parameters import load_study
        from flows.plan import check

        monkeypatch.setattr("tasks.overlaps.encoder_folder", lambda: None)
        home, wanted = Home(tmp_path / "home"), {"overlap": {"encoder": "required"}}
        with pytest.raises(InputError, match=r"evaluate\.overlap\.encoder is required"):
            check(load_study(write(tmp_path, mini(evaluate=wanted))), home)
        check(load_study(write(tmp_path, mini(evaluate=wanted | {"settings": ["instruct"]}))), home)

    def test_a_missing_key_is_told_for_the_stages_that_need_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from flows.parameters import load_study
        from flows.plan import check, check_keys

        monkeypatch.delenv("TEST_KEY", raising=False)
        chat = {"url": "https://api.example.org/v1", "model": "big", "api": "chat", "key_variable": "TEST_KEY"}
        file = registry(tmp_path, {}, {"alias": "big", "source": "hosted", "server": chat})
        fields = mini(
            distill={"teachers": ["m"]},
            finetune={"students": ["m"]},
            evaluate={"baselines": ["big"]},
            retrieve={"tokenizer": "m"},
        )
        study, home = load_study(write(tmp_path, fields | {"registry": str(file)})), Home(tmp_path / "home")
        check(study, home)
        for stage in ("retrieve", "distill", "finetune", "report"):
            check_keys(study, home, stage)
        for stage in (None, "study", "evaluate"):
            with pytest.raises(InputError, match=r"'big': api\.example\.org wants a key: .*TEST_KEY"):
                check_keys(study, home, stage)
        monkeypatch.setenv("TEST_KEY", SECRET)
        check_keys(study, home)

    def test_status_counts_what_was_spent_once_however_many_units_share_it(self, tmp_path: Path) -> None:
        from flows.status import status_rows

        store = Home(tmp_path).store
        for place, kind in enumerate(["traces", "traces", "verdicts", "verdicts", "student"]):
            unit = Unit(
                unit_key=str(place), kind=kind, name=kind, spec="{}", row_count=1, seconds=1.0, versions="{}", host="h",
                flow_run_id=None, prompt_tokens=1, cached_tokens=0, generated_tokens=7, cost=0.5,
            )  # fmt: skip
            store.land({}, unit)
        verdict = {"judge": "j", "gold_key": "g", "prediction_key": "p", "rule": "judge", "reply": "1"}
        store.land({"verdicts": [{**verdict, "generated_tokens": 7, "cost": 0.5}]})
        _, units = status_rows(store)
        shown = {row["kind"]: (row["tokens"], row["cost"]) for row in units if row["units"]}
        assert shown == {"traces": (None, None), "verdicts": (7, 0.5), "student": (7, None)}
