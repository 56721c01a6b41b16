"""``factscale kg paths`` as a person meets it, over the starter facts behind a real SPARQL server."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

from flows.cli import main

pytestmark = pytest.mark.real

HAMLET = ("Who wrote the play Hamlet?", "--from", "Q41567", "--to", "Q692")
BORN = "In which country was the author of Ulysses born?"


class Done(NamedTuple):
    """What a command has left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def paths(home: Path, *arguments: str | Path) -> Done:
    """The command in this process, for speed."""
    out, err = io.StringIO(), io.StringIO()
    environment = {**os.environ, "FACTSCALE_HOME": str(home), "COLUMNS": "160"}
    argv = ["factscale", "kg", "paths", *map(str, arguments)]
    with patch.dict(os.environ, environment), patch.object(sys, "argv", argv):
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def one_error(done: Done) -> str:
    """The only line of what went wrong; bad input has exit code 2."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert done.returncode == 2
    assert done.stdout == ""
    return lines[0].removeprefix("error: ")


class TestShapes:
    def test_a_table_with_what_a_teacher_would_read(self, home: Path) -> None:
        done = paths(home, *HAMLET)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Who wrote the play Hamlet?\nfrom Hamlet (Q41567)\n")
        assert "Hamlet -[author]-> William Shakespeare" in done.stdout
        assert re.search(r"^2 paths; \d requests$", done.stdout, re.MULTILINE)
        assert "\n\nHamlet, author, William Shakespeare\n" in done.stdout

    def test_json_says_the_same_in_full(self, home: Path) -> None:
        done = paths(home, BORN, "--from", "Q6511", "--to", "Q27", "--format", "json")
        found = json.loads(done.stdout)
        assert found["question"] == BORN
        best = found["paths"][0]
        assert best["kept"]
        assert best["triples"] == [["Q6511", "P50", "Q6882"], ["Q6882", "P27", "Q27"]]
        assert all("-[" in one["path"] or "<-[" in one["path"] for one in found["paths"])
        for one in found["paths"]:
            parts = [one[part] for part in ("similarity", "degree", "length", "sibling")]
            assert one["score"] == pytest.approx(sum(parts), abs=1e-3)
        kept = [one["kept"] for one in found["paths"]]
        assert kept == sorted(kept, reverse=True)
        assert all(line.count(", ") >= 2 for line in found["text"].splitlines())

    def test_csv_has_a_row_a_path(self, home: Path) -> None:
        question = (BORN, "--from", "Q6511", "--to", "Q27", "--top", "1", "--all")
        rows = list(csv.DictReader(io.StringIO(paths(home, *question, "--format", "csv").stdout)))
        same = json.loads(paths(home, *question, "--format", "json").stdout)["paths"]
        assert [row["path"] for row in rows] == [one["path"] for one in same]
        assert [json.loads(row["triples"]) for row in rows] == [one["triples"] for one in same]
        assert [row["kept"] for row in rows] == ["True"] + ["False"] * (len(rows) - 1)
        assert len(rows) > 1

    def test_sentences(self, home: Path) -> None:
        done = paths(home, "What is the capital of France?", "--from", "Q142", "--to", "Q90", "--form", "verbalised")
        assert done.stdout.rstrip().splitlines()[-3:] == [
            "The capital of France is Paris.",
            "Paris is the capital of France.",
            "Paris is in the country France.",
        ]

    def test_nothing_is_landed(self, home: Path) -> None:
        paths(home, *HAMLET)
        assert not list(home.glob("*.duckdb"))


class TestQuestions:
    def test_without_from_the_entities_are_found_by_their_names(self, home: Path) -> None:
        done = paths(home, "Who wrote the play Hamlet?", "--to", "Q692")
        assert "from Hamlet (Q41567)" in done.stdout
        assert "Hamlet -[author]-> William Shakespeare" in done.stdout

    def test_several_entities(self, home: Path) -> None:
        done = paths(home, "Who?", "--from", "Q41567", "--from", "Q83186", "--to", "Q692", "--format", "json")
        ends = {one["path"].split(" ")[0] for one in json.loads(done.stdout)["paths"] if one["kept"]}
        assert {"Hamlet", "Romeo"} <= ends

    @pytest.mark.parametrize(
        ("question", "entity", "value", "line"),
        [
            ("When was Albert Einstein born?", "Q937", "1879-03-14", "Albert Einstein, date of birth, 1879-03-14"),
            ("In what year was he born?", "Q937", "1879", "Albert Einstein, date of birth, 1879-03-14"),
            ("What is the atomic number of hydrogen?", "Q556", "1", "hydrogen, atomic number, 1"),
        ],
    )
    def test_a_date_or_number_as_the_answer(
        self, home: Path, question: str, entity: str, value: str, line: str
    ) -> None:
        done = paths(home, question, "--from", entity, "--to", value)
        assert done.returncode == 0
        assert done.stdout.rstrip().splitlines()[-1] == line

    @pytest.mark.parametrize("target", ["Q999999999", "1066-10-14", 'x" } DROP ALL #'])
    def test_no_path_is_said_and_is_no_failure(self, home: Path, target: str) -> None:
        done = paths(home, "Who?", "--from", "Q41567", "--to", target, "--hops", "2")
        assert (done.returncode, done.stderr) == (0, "")
        assert "No path of at most 2 hops" in done.stdout
        same = paths(home, "Who?", "--from", "Q41567", "--to", target, "--hops", "2", "--format", "json")
        assert json.loads(same.stdout) == {"question": "Who?", "paths": [], "text": ""}


class TestPicture:
    def test_it_is_whole_and_shows_the_names(self, home: Path, tmp_path: Path) -> None:
        file = tmp_path / "hamlet.svg"
        done = paths(home, *HAMLET, "--svg", file)
        assert f"Picture: {file}" in done.stdout
        root = ET.fromstring(file.read_text(encoding="utf-8"))  # noqa: S314 - our own file
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        texts = [text for one in root.iter() if (text := (one.text or "").strip())]
        assert {"Hamlet", "author", "William Shakespeare"} <= set(texts)
        assert list(tmp_path.iterdir()) == [file]

    def test_a_question_that_would_like_to_be_markup(self, home: Path, tmp_path: Path) -> None:
        hostile = "</title><script>alert(1)</script> & who wrote [bold]Hamlet[/bold]?"
        done = paths(home, hostile, *HAMLET[1:], "--svg", tmp_path / "a.svg")
        assert hostile in done.stdout
        root = ET.fromstring((tmp_path / "a.svg").read_text(encoding="utf-8"))  # noqa: S314 - our own file
        assert not [one for one in root.iter() if "script" in one.tag]

    def test_without_a_path_it_says_so(self, home: Path, tmp_path: Path) -> None:
        done = paths(home, "Who?", "--from", "Q41567", "--to", "Q999999999", "--svg", tmp_path / "none.svg")
        assert done.returncode == 0
        assert "no paths" in (tmp_path / "none.svg").read_text(encoding="utf-8")

    @pytest.mark.parametrize("place", ["nowhere/a.svg", "folder", ".", "..", "folder/.."])
    def test_a_place_that_cannot_be_written_is_told_and_left_as_it_was(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        done = paths(home, *HAMLET, "--svg", place)
        assert f"--svg {place} cannot be written" in one_error(done)
        assert [one.name for one in tmp_path.rglob("*")] == ["folder"]

    def test_a_failed_write_leaves_the_older_picture(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "a.svg"
        file.write_text("old")

        def full(self: Path, *_arguments: object, **_options: object) -> int:
            with self.open("w") as half:
                half.write("<svg")
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as spoilt:
            spoilt.setattr(Path, "write_text", full)
            done = paths(home, *HAMLET, "--svg", file)
        assert "No space left on device" in one_error(done)
        assert file.read_text() == "old"
        assert list(tmp_path.iterdir()) == [file]


class TestBadInput:
    @pytest.mark.parametrize("entity", ["Paris", "Q1> } DROP ALL #", "Q0", "q42", "Q", "P31", ""])
    def test_an_entity_that_is_no_id(self, home: Path, entity: str) -> None:
        done = paths(home, "Who?", "--from", entity, "--to", "Q692")
        assert repr(entity) in one_error(done)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((*HAMLET, "--graph", "nothing"), r"no graph 'nothing' is loaded .* choose from starter"),
            (
                (*HAMLET, "--graph", "https://query.wikidata.org/sparql"),
                r"user_agent .*query\.wikidata\.org",
            ),
            ((*HAMLET, "--similarity", "nonsense"), r"similarity 'nonsense': known are lexical"),
            ((*HAMLET, "--form", "prose"), r"form 'prose': known are fs1 and verbalised"),
            (("Who?", "--from", "Q41567"), r"--to is missing"),
            (("Who?", "--from", "Q41567", "--to", "Q692", "--to", "1603"), r"'1603' is no entity while Q692 is one"),
            (
                ("zxcv asdf?", "--to", "Q692"),
                r"no entity of starter is named in 'zxcv asdf\?': give its id with --from",
            ),
        ],
    )
    def test_is_one_error_with_the_mend(self, home: Path, arguments: tuple[str, ...], message: str) -> None:
        assert re.search(message, one_error(paths(home, *arguments)))

    def test_an_encoder_that_is_not_installed(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kg.similarity.encoder_folder", lambda: None)
        assert "install" in one_error(paths(home, *HAMLET, "--similarity", "embedding"))

    @pytest.mark.parametrize("option", [("--hops", "5"), ("--hops", "0"), ("--top", "0"), ("--format", "xml")])
    def test_an_option_beyond_its_bounds_is_bad_usage(self, home: Path, option: tuple[str, str]) -> None:
        done = paths(home, *HAMLET, *option)
        assert done.returncode == 2
        assert option[0] in done.stderr

    def test_a_dead_endpoint_is_a_failure(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kg.endpoint.Endpoint._back_off", lambda *_: None)  # it would pause for seconds
        done = paths(home, *HAMLET, "--graph", "http://127.0.0.1:9/sparql")
        assert done.returncode == 1
        assert "cannot reach http://127.0.0.1:9/sparql" in done.stderr
