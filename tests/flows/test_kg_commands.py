"""``factscale kg`` as a person meets it, with the real oxigraph program; what a signal ends is a real process."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

from flows.cli import main
from kg.endpoint import Endpoint
from kg.starter import entities, snapshot, write_ntriples

FACTSCALE = str(Path(sys.executable).with_name("factscale"))

pytestmark = pytest.mark.real


class Done(NamedTuple):
    """What a command has left behind."""

    returncode: int
    stdout: str
    stderr: str


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "FACTSCALE_HOME": str(home), "COLUMNS": "120"}


def call(home: Path, *arguments: str | Path) -> Done:
    """The command in this process, for speed."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["factscale", "kg", *map(str, arguments)]
    with patch.dict(os.environ, environment(home)), patch.object(sys, "argv", argv):
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def one_error(done: Done) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = tmp_path_factory.mktemp("facts") / "My.Facts.nt"
    write_ntriples(plain)
    packed = plain.with_name("My.Facts.nt.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    return packed


def statements(packed: Path) -> int:
    return gzip.decompress(packed.read_bytes()).count(b"\n")


@pytest.fixture(scope="module")
def home(facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one graph, which is named after its file."""
    folder = tmp_path_factory.mktemp("home")
    done = call(folder, "load", facts)
    assert done.returncode == 0, done.stderr
    assert f"my-facts: {statements(facts):,} statements, {len(entities()):,} entities, 100.0% of them" in done.stdout
    assert "retrieve: {endpoint: my-facts}" in done.stdout
    return folder


class TestLoad:
    def test_what_is_loaded_is_listed(self, home: Path, facts: Path) -> None:
        [row] = json.loads(call(home, "ls", "--format", "json").stdout)
        assert (row["name"], row["statements"], row["files"]) == ("my-facts", statements(facts), [str(facts)])
        table = call(home, "ls").stdout
        assert "my-facts" in table
        assert "`starter` comes with factscale" in table

    def test_a_dry_run_says_what_would_be_loaded(self, home: Path, facts: Path, tmp_path: Path) -> None:
        assert "my-facts: this content is loaded already" in call(home, "load", facts, "--dry-run").stdout
        other = tmp_path / "new-facts.nt"
        other.write_text("<http://a/b> <http://a/c> <http://a/d> .\n")
        assert "new-facts: 1 files, 41 B, would be loaded" in call(home, "load", other, "--dry-run").stdout
        assert "--replace" in one_error(call(home, "load", other, "--name", "my-facts", "--dry-run"))
        assert [row["name"] for row in json.loads(call(home, "ls", "--format", "json").stdout)] == ["my-facts"]

    def test_a_taken_name_wants_replace(self, home: Path, tmp_path: Path) -> None:
        other = tmp_path / "my-facts.nt"
        other.write_text("<http://a/b> <http://a/c> <http://a/d> .\nbad\n")
        done = call(home, "load", other)
        assert done.returncode == 2
        assert "--replace" in one_error(done)
        done = call(home, "load", other, "--name", "other", "--lenient")
        assert "1 lines did not parse" in done.stdout
        assert "no Wikidata item" in done.stdout
        assert [row["name"] for row in json.loads(call(home, "ls", "--format", "json").stdout)] == ["my-facts", "other"]

    def test_bad_input_is_one_error_and_leaves_nothing(self, facts: Path, tmp_path: Path) -> None:
        cut = tmp_path / "cut.nt.gz"
        cut.write_bytes(facts.read_bytes()[:-100])
        done = call(tmp_path / "home", "load", cut)
        assert done.returncode == 2
        assert "cut.nt.gz is no whole gzip file" in one_error(done)
        done = call(tmp_path / "home", "load", facts, "--name", "a/b")
        assert done.returncode == 2
        assert "'a/b'" in one_error(done)
        assert not list((tmp_path / "home" / "kg").rglob("*.json"))


class TestServe:
    @pytest.mark.parametrize(("name", "end"), [("starter", signal.SIGINT), ("my-facts", signal.SIGTERM)])
    def test_until_it_is_ended(self, home: Path, name: str, end: signal.Signals) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command = [FACTSCALE, "kg", "serve", name, "--port", port]
        with subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, text=True) as serving:
            assert serving.stdout is not None
            said = [serving.stdout.readline() for _ in range(3)]
            url = f"http://127.0.0.1:{port}/query"
            assert url in said[0]
            assert f"{{endpoint: {name}}}" in said[1]
            assert f"{{endpoint: '{url}', snapshot: {name}-" in said[2]
            assert (snapshot()[:12] in said[2]) == (name == "starter")
            assert Endpoint(url, snapshot="s").select("SELECT ?s WHERE { ?s ?p ?o } LIMIT 1")
            taken = call(home, "serve", name, "--port", port)
            assert taken.returncode == 2
            assert f"port {port} is in use" in one_error(taken)
            serving.send_signal(end)
            assert serving.wait(20) == 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0

    def test_an_unknown_graph(self, home: Path) -> None:
        done = call(home, "serve", "nothing")
        assert done.returncode == 2
        assert "choose from starter, my-facts" in one_error(done)


class TestDoctor:
    def test_of_a_graph_as_json(self, home: Path) -> None:
        done = call(home, "doctor", "my-facts", "--format", "json")
        assert done.returncode == 0
        rows = json.loads(done.stdout)
        assert [row["name"] for row in rows][:4] == ["user agent", "reachable", "SPARQL JSON", "direct edges"]
        assert all(list(row) == ["name", "verdict", "found", "mend"] for row in rows)

    def test_of_a_dead_endpoint(self, home: Path) -> None:
        done = call(home, "doctor", "http://127.0.0.1:9/sparql")
        assert done.returncode == 1
        assert "fail" in done.stdout
        assert done.stderr == ""

    def test_a_public_one_wants_a_contact(self, home: Path) -> None:
        done = call(home, "doctor", "https://query.wikidata.org/sparql", "--user-agent", "me")
        assert done.returncode == 2
        assert "query.wikidata.org requires" in one_error(done)
