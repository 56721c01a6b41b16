"""Named graphs over the real oxigraph program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kg import graphs as module
from kg.endpoint import Endpoint
from kg.graphs import LoadedGraph, graph_named, graphs, load_graph, serve_graph
from kg.loading import is_loaded, snapshot_of
from store.types import InputError

WD, WDT = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
FACTS = f"""<{WD}Q1> <{WDT}P1> <{WD}Q2> .
<{WD}Q1> <{WDT}P1> <{WD}Q3> .
<{WD}Q1> <{WDT}P2> "{WD}Q9" .
<{WD}Q1> <{LABEL}> "one"@en .
<{WD}Q1> <{LABEL}> "eins"@de .
<{WD}Q2> <{LABEL}> "two"@mul .
<{WD}Q2> <{LABEL}> "two"@en .
<{WD}Q3> <{LABEL}> "drei"@de .
<{WD}P1> <{LABEL}> "property"@en .
<{WD}Q1> <{WDT}P1> <{WD}Q2> .
"""
pytestmark = pytest.mark.real


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "kg"


def written(folder: Path, name: str = "facts.nt", text: str = FACTS) -> Path:
    (folder / name).write_text(text)
    return folder / name


def other(folder: Path, number: int = 7) -> Path:
    return written(folder, f"other{number}.nt", f"<{WD}Q1> <{WDT}P1> <{WD}Q{number}> .\n")


def places(home: Path) -> list[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir())


def test_what_is_known_of_a_graph(tmp_path: Path, home: Path) -> None:
    file = written(tmp_path)
    graph = load_graph([file], "small", home)
    assert (graph.statements, graph.entities, graph.skipped, graph.lenient) == (9, 3, 0, False)
    assert graph.labelled == pytest.approx(2 / 3)
    assert graph.snapshot == snapshot_of([file])
    assert graph.files == (str(file),)
    assert graphs(home) == [graph] == [graph_named("small", home)]
    with serve_graph("small", home) as url:
        assert Endpoint(url, snapshot="s").select("SELECT ?o WHERE { ?s ?p ?o }")[0]


def test_the_same_content_is_loaded_and_counted_once(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_graph([written(tmp_path)], "small", home)
    monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("loaded again"))
    assert load_graph([written(tmp_path, "renamed.nt")], "small", home) == first


def test_a_graph_by_two_names_is_kept_until_the_last_goes(tmp_path: Path, home: Path) -> None:
    file = written(tmp_path)
    folder = load_graph([file], "one", home).folder
    assert load_graph([file], "two", home).folder == folder
    assert [graph.name for graph in graphs(home)] == ["one", "two"]
    load_graph([other(tmp_path)], "one", home, replace=True)
    assert is_loaded(folder)
    load_graph([other(tmp_path)], "two", home, replace=True)
    assert not folder.exists()
    assert {graph.statements for graph in graphs(home)} == {1}


def test_other_content_wants_replace(tmp_path: Path, home: Path) -> None:
    before = load_graph([written(tmp_path)], "small", home)
    with pytest.raises(InputError, match=r"'small' holds other content .*facts\.nt.*--replace"):
        load_graph([other(tmp_path)], "small", home)
    assert graphs(home) == [before]
    assert places(home) == [before.folder]


def test_a_served_graph_survives_its_replacement(tmp_path: Path, home: Path) -> None:
    load_graph([written(tmp_path)], "small", home)
    with serve_graph("small", home) as url:
        after = load_graph([other(tmp_path)], "small", home, replace=True)
        count = "SELECT (COUNT(*) AS ?n) WHERE { ?s ?p ?o }"
        assert Endpoint(url, snapshot="s").select(count)[0]["n"].value == "9"
    assert graph_named("small", home) == after


@pytest.mark.parametrize("name", ["a/b", "../up", "", "Capital", "-dash", ".json", "x" * 65, "a\n", "starter"])
def test_names_that_no_graph_can_have(tmp_path: Path, home: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"name .* of a graph|comes with factscale"):
        load_graph([written(tmp_path)], name, home)
    assert not home.exists()


def test_an_unknown_name_is_told_with_the_known(tmp_path: Path, home: Path) -> None:
    load_graph([written(tmp_path)], "small", home)
    for name in ("smal", "../small", ""):
        with pytest.raises(InputError, match="choose from starter, small"):
            graph_named(name, home)


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_files_without_a_statement_leave_nothing(tmp_path: Path, home: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"no statement in .*empty\.ttl"):
        load_graph([written(tmp_path, "empty.ttl", text)], "none", home)
    assert graphs(home) == []
    assert places(home) == []


def test_what_lenient_loading_left_out_is_counted(tmp_path: Path, home: Path) -> None:
    file = written(tmp_path, text=FACTS + "not a triple\n")
    graph = load_graph([file], "small", home, lenient=True)
    assert (graph.statements, graph.skipped, graph.lenient) == (9, 1, True)


def test_a_home_can_be_moved_and_a_lost_folder_is_told(tmp_path: Path, home: Path) -> None:
    load_graph([written(tmp_path)], "small", home)
    home = home.rename(tmp_path / "moved")
    graph = graph_named("small", home)
    assert is_loaded(graph.folder)
    (graph.folder / "loaded.json").unlink()
    with pytest.raises(InputError, match=r"is gone: load .*facts\.nt again"):
        graph_named("small", home)
    assert is_loaded(load_graph([written(tmp_path)], "small", home).folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"folder": 1}', '{"folder": "x", "name": 3}'])
def test_a_damaged_manifest_is_named(home: Path, text: str) -> None:
    home.mkdir()
    (home / "small.json").write_text(text)
    for call in (lambda: graphs(home), lambda: graph_named("small", home)):
        with pytest.raises(InputError, match=r"small\.json is damaged"):
            call()


def test_a_home_that_is_not_there_has_no_graphs(home: Path) -> None:
    assert graphs(home) == []


def test_two_that_want_a_name_at_once(tmp_path: Path, home: Path) -> None:
    outcomes: list[LoadedGraph | InputError] = []

    def want(file: Path) -> None:
        try:
            outcomes.append(load_graph([file], "one", home))
        except InputError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=want, args=(other(tmp_path, number),)) for number in (7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    [won] = [one for one in outcomes if isinstance(one, LoadedGraph)]
    [lost] = [one for one in outcomes if isinstance(one, InputError)]
    assert "other content" in str(lost)
    assert graphs(home) == [won]
    assert places(home) == [won.folder]


def test_kill_9_while_loading_names_nothing(tmp_path: Path, home: Path) -> None:
    file = written(tmp_path, text="".join(f"<{WD}Q1> <{WDT}P1> <{WD}Q{number}> .\n" for number in range(1, 60_000)))
    script = (
        "import sys, pathlib; from kg.graphs import load_graph\n"
        "def tell(done, total): print(done, flush=True)\n"
        "load_graph([pathlib.Path(sys.argv[1])], 'killed', pathlib.Path(sys.argv[2]), on_progress=tell)\n"
    )
    command, root = [sys.executable, "-c", script, str(file), str(home)], Path(module.__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as loading:
        assert loading.stdout is not None
        assert loading.stdout.readline()
        os.kill(loading.pid, signal.SIGKILL)
    assert graphs(home) == []
    graph = load_graph([file], "killed", home)
    assert graph.statements == 59_999
    assert json.loads((home / "killed.json").read_text())["folder"] == graph.folder.name


def test_the_starter_slice_is_served_unloaded(home: Path) -> None:
    with serve_graph("starter", home) as url:
        rows = Endpoint(url, snapshot="s").select(f"SELECT ?o WHERE {{ <{WD}Q142> <{WDT}P36> ?o }}")
    assert [row["o"].value for row in rows] == [f"{WD}Q90"]
    assert graphs(home) == []
