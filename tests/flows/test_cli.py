"""The command line as a person meets it: help, bad input, exit codes. Each call is a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import yaml

DEMO = Path(__file__).resolve().parents[2] / "deployments" / "studies" / "demo.yaml"
FACTSCALE = str(Path(sys.executable).with_name("factscale"))


def call(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "FACTSCALE_HOME": str(home), "COLUMNS": "120", **variables}
    return subprocess.run(
        [FACTSCALE, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def demo(folder: Path, **changes: object) -> Path:
    fields = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    for name, value in changes.items():
        fields[name] = {**fields.get(name, {}), **value} if isinstance(value, dict) else value
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


class TestHelp:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ([], ["study", "status", "report", "db", "ui"]),
            (["study"], ["run", "plan"]),
            (["study", "run", "--help"], ["STUDY.yaml", "--only", "Run a study"]),
            (["db", "query", "--help"], ["read-only", "--format"]),
            (["report", "--help"], ["--baseline", "--baseline-model", "--questions"]),
            (["ui", "--help"], ["report", "--port", "Prefect"]),
            (["ui", "report", "--help"], ["--host", "--port", "STUDY.yaml"]),
            (["data"], ["ls", "get", "check", "show"]),
            (["publish"], ["dataset", "model", "--execute"]),
        ],
    )
    def test_it_tells_what_there_is(self, tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
        done = call(tmp_path, *arguments)
        assert all(word in done.stdout + done.stderr for word in expected)

    def test_an_unknown_option_is_bad_usage(self, tmp_path: Path) -> None:
        done = call(tmp_path, "study", "run", "--colour")
        assert done.returncode == 2
        assert "--colour" in done.stderr


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"evaluate": {"budgets": [0]}}, "budget 0 gives no room to think"),
            ({"evaluate": {"settings": ["magic"]}}, "evaluate.settings.0"),
            ({"evaluate": {"datasets": [{"dataset": "squad"}]}}, "dataset 'squad': unknown"),
            ({"evaluate": {"datasets": [{"dataset": "starter", "split": "dev"}]}}, "no question in split 'dev'"),
            ({"distill": {"teachers": ["smollm2-136m"]}}, "did you mean smollm2-360m or smollm2-135m"),
            ({"evaluate": {"judges": ["nobody"]}}, "model 'nobody' is not in"),
            ({"generation": {"servers": [{"model": "nobody", "url": "http://h/v1"}]}}, "asks no model 'nobody'"),
            ({"report": {"baseline_model": "qwq-32b"}}, "report.baseline_model 'qwq-32b' is not run in this study"),
            ({"registry": "/nowhere/models.yaml"}, "registry /nowhere/models.yaml cannot be read"),
        ],
    )
    def test_it_is_told_before_anything_runs(self, tmp_path: Path, changes: dict[str, object], message: str) -> None:
        done = call(tmp_path / "home", "study", "run", str(demo(tmp_path, **changes)))
        assert done.returncode == 2
        assert message in one_error(done)

    @pytest.mark.parametrize(
        ("source", "message"),
        [("./weights", "{tmp_path}/weights"), ("org/name", "set the commit hash (40 hex digits)")],
        ids=["a missing folder", "no commit"],
    )
    def test_a_model_that_cannot_be_had(self, tmp_path: Path, source: str, message: str) -> None:
        registry = tmp_path / "models.yaml"
        entry = {"alias": "mine", "source": source, "context_length": 512, "parameters": 1}
        registry.write_text(yaml.safe_dump({"models": [entry]}), encoding="utf-8")
        study = demo(
            tmp_path,
            registry=str(registry),
            distill={"teachers": ["mine"]},
            finetune={"students": ["mine"]},
            evaluate={"judges": []},
        )
        done = call(tmp_path / "home", "study", "run", str(study))
        assert done.returncode == 2
        assert "'mine'" in one_error(done)
        assert message.format(tmp_path=tmp_path) in " ".join(done.stderr.split())

    def test_an_empty_dataset(self, tmp_path: Path) -> None:
        (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
        chosen = {"dataset": "jsonl", "path": str(tmp_path / "empty.jsonl")}
        done = call(tmp_path / "home", "study", "plan", str(demo(tmp_path, evaluate={"datasets": [chosen]})))
        assert done.returncode == 2
        assert "no question" in one_error(done)

    def test_a_home_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        done = call(tmp_path / "file" / "home", "study", "plan", str(DEMO))
        assert done.returncode == 2
        assert "FACTSCALE_HOME" in one_error(done)

    def test_a_damaged_store_is_named_and_left_alone(self, tmp_path: Path) -> None:
        store = tmp_path / "factscale.duckdb"
        store.write_bytes(b"not a database " * 500)
        for arguments in (["study", "run", str(DEMO)], ["status"], ["db", "query", "SELECT 1"]):
            done = call(tmp_path, *arguments)
            assert done.returncode == 2
            assert "is not a readable DuckDB database" in one_error(done)
        assert store.read_bytes() == b"not a database " * 500

    def test_a_locked_store_is_a_failure_that_names_the_holder(self, tmp_path: Path) -> None:
        assert call(tmp_path, "study", "plan", str(DEMO)).returncode == 0
        with duckdb.connect(str(tmp_path / "factscale.duckdb")):
            done = call(tmp_path, "status", FACTSCALE_LOCK_TIMEOUT="0.3")
        assert done.returncode == 1
        assert f"PID {os.getpid()}" in one_error(done)

    def test_no_store_yet(self, tmp_path: Path) -> None:
        done = call(tmp_path, "status")
        assert done.returncode == 2
        assert "run a study first" in one_error(done)

    def test_queries_only_read(self, tmp_path: Path) -> None:
        assert call(tmp_path, "study", "plan", str(DEMO)).returncode == 0
        for sql in ("DROP TABLE units", "SELEKT 1", "SELECT * FROM read_csv('/etc/passwd')"):
            done = call(tmp_path, "db", "query", sql)
            assert done.returncode == 2
            assert "the query failed" in done.stderr
        done = call(tmp_path, "db", "query", "SELECT count(*) AS n FROM units", "--format", "csv")
        assert done.stdout.split() == ["n", "0"]
        done = call(tmp_path, "db", "query", "SELECT '\\[bold]y [/z]' AS \"[red]x\"")
        assert "[red]x" in done.stdout
        assert "\\[bold]y [/z]" in done.stdout


@pytest.mark.real
class TestFailures:
    def test_a_dead_endpoint_is_one_clear_failure(self, tmp_path: Path) -> None:
        dead = {"endpoint": "http://127.0.0.1:9/sparql", "snapshot": "none"}
        done = call(tmp_path / "home", "study", "run", str(demo(tmp_path, retrieve=dead)))
        assert done.returncode == 1
        assert "http://127.0.0.1:9/sparql" in one_error(done)

    def test_a_full_disk_is_told_and_nothing_half_written_stays(self, tmp_path: Path) -> None:
        home = tmp_path / "small"
        home.mkdir()
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(home)], capture_output=True, check=False
        )
        if mount.returncode != 0:
            pytest.skip("a small file system cannot be mounted here (needs root)")
        try:
            done = call(home, "study", "run", str(DEMO))
        finally:
            subprocess.run(["umount", "-l", str(home)], check=True)
        assert done.returncode == 2
        assert "free some space" in one_error(done)


def test_a_plan_of_an_empty_store_counts_everything(tmp_path: Path) -> None:
    done = call(tmp_path, "study", "plan", str(DEMO), "--format", "csv")
    assert done.returncode == 0
    states = [line.split(",")[1] for line in done.stdout.splitlines()[1:]]
    assert set(states) == {"missing", "waits"}
    assert len(states) == 1 + 2 + 2 + 2 + 4 + 1 + 2
