"""Loading facts files with the real oxigraph program."""

from __future__ import annotations

import fcntl
import gzip
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kg.endpoint import Endpoint
from kg.loading import is_loaded, load, locked, remove, skipped, snapshot_of
from kg.server import local_endpoint, serve
from store.types import InputError, RunError

LINE = "<http://www.wikidata.org/entity/Q1> <http://www.wikidata.org/prop/direct/P1> <http://www.wikidata.org/entity/{}> .\n"
LINES = "".join(LINE.format(f"Q{number}") for number in range(2, 5002))
TURTLE = """@prefix wd: <http://www.wikidata.org/entity/> .
@prefix wdt: <http://www.wikidata.org/prop/direct/> .
wd:Q1 wdt:P1 wd:Q2, wd:Q3 .
"""
COUNT = "SELECT (COUNT(*) AS ?n) WHERE { ?s ?p ?o }"


def written(path: Path, text: str = LINES) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def count(url: str) -> int:
    return int(Endpoint(url, snapshot="s").select(COUNT)[0]["n"].value)


class TestFiles:
    def test_another_suffix_is_refused_with_those_there_are(self, tmp_path: Path) -> None:
        for name in ("facts.csv", "facts.gz", "facts", "facts.nt.bz2"):
            with pytest.raises(InputError, match=r"none of \.nt, \.ttl, \.nt\.gz, \.ttl\.gz"):
                snapshot_of([written(tmp_path / name)])

    def test_a_folder_and_a_compressed_file_under_a_plain_name(self, tmp_path: Path) -> None:
        (tmp_path / "folder.nt").mkdir()
        with pytest.raises(InputError, match=r"folder\.nt cannot be read"):
            snapshot_of([tmp_path / "folder.nt"])
        written(tmp_path / "facts.nt.gz").rename(tmp_path / "facts.nt")
        with pytest.raises(InputError, match=r"compressed: name it facts\.nt\.gz"):
            snapshot_of([tmp_path / "facts.nt"])


@pytest.mark.real
class TestLoad:
    @pytest.mark.parametrize(
        ("name", "text", "statements"),
        [("a.nt.gz", LINES, 5000), ("a.ttl", TURTLE, 2), ("a.ttl.gz", TURTLE, 2), ("a.nt", LINES, 5000)],
    )
    def test_every_format(self, tmp_path: Path, name: str, text: str, statements: int) -> None:
        with local_endpoint([written(tmp_path / name, text)], tmp_path / "d") as url:
            assert count(url) == statements

    def test_several_files_and_members_are_one_graph(self, tmp_path: Path) -> None:
        members = tmp_path / "b.nt.gz"
        members.write_bytes(gzip.compress(LINES.encode()) + gzip.compress(LINE.format("Q9001").encode()))
        files = [written(tmp_path / "a.ttl", TURTLE), members, written(tmp_path / "c.nt", LINE.format("Q9002"))]
        with local_endpoint(files, tmp_path / "d") as url:
            assert count(url) == 5002

    def test_progress_counts_the_bytes_on_disk(self, tmp_path: Path) -> None:
        files = [written(tmp_path / "a.nt.gz"), written(tmp_path / "b.nt", LINE.format("Q1"))]
        total, seen = sum(file.stat().st_size for file in files), list[tuple[int, int]]()
        load(files, tmp_path / "d", on_progress=lambda done, of: seen.append((done, of)))
        assert seen[-1] == (total, total)
        assert sorted(seen) == seen
        load(files, tmp_path / "d", on_progress=lambda *_: pytest.fail("it was loaded before"))

    @pytest.mark.parametrize("damage", ["cut", "flipped", "trailing", "text"])
    def test_a_damaged_gzip_file_is_named_and_leaves_nothing(self, tmp_path: Path, damage: str) -> None:
        good, whole = written(tmp_path / "good.nt"), gzip.compress(LINES.encode())
        middle = len(whole) // 2
        (tmp_path / "bad.nt.gz").write_bytes(
            {
                "cut": whole[:-20],
                "flipped": whole[:middle] + bytes(byte ^ 255 for byte in whole[middle:]),
                "trailing": whole + b"more",
                "text": LINES.encode(),
            }[damage]
        )
        with pytest.raises(InputError, match=r"bad\.nt\.gz is no whole gzip file"):
            load([good, tmp_path / "bad.nt.gz"], tmp_path / "d", lenient=True)
        [place] = (tmp_path / "d").iterdir()
        assert not is_loaded(place)
        assert not (place / "data").exists()

    def test_strict_names_the_line_and_lenient_leaves_it_out(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a.nt.gz", LINE.format("Q2") + "no triple\n" + LINE.format("Q3") + "nor this\n")
        with pytest.raises(InputError, match=r"a\.nt\.gz.*line 2.*N-Triples.*leniently"):
            load([file], tmp_path / "d")
        place = load([file], tmp_path / "d", lenient=True)
        assert skipped(place) == 2
        with serve(place) as url:
            assert count(url) == 2
        with pytest.raises(InputError, match="line 2"):
            load([file], tmp_path / "d")

    def test_a_file_that_changes_meanwhile(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a.nt")

        def grow(done: int, total: int) -> None:
            if done == total:
                file.write_text(LINES + LINE.format("Q9001"))

        with pytest.raises(InputError, match=r"a\.nt changed while being loaded"):
            load([file], tmp_path / "d", on_progress=grow)
        with local_endpoint([file], tmp_path / "d") as url:
            assert count(url) == 5001

    def test_a_killed_loader_is_a_failure_that_names_its_log(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a.nt", LINES * 20)
        place = tmp_path / "d" / snapshot_of([file])[:16]

        def kill(_done: int, _total: int) -> None:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and str(place) in (entry / "cmdline").read_text():
                    os.kill(int(entry.name), signal.SIGKILL)

        with pytest.raises(RunError, match=r"failed while loading .*a\.nt.*load\.log"):
            load([file], tmp_path / "d", on_progress=kill)
        assert not list((tmp_path / "d").glob("*/loaded.json"))
        assert not list((tmp_path / "d").glob("*/data"))

    def test_what_a_killed_load_left_is_swept_by_the_next(self, tmp_path: Path) -> None:
        left, foreign = tmp_path / "d" / "0123456789abcdef-0.5.1", tmp_path / "d" / "mine"
        for folder in (left, foreign):
            (folder / "data").mkdir(parents=True)
        load([written(tmp_path / "a.nt")], tmp_path / "d")
        assert not left.exists()
        assert foreign.exists()

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "d").write_text("a file")
        with pytest.raises(RunError, match="cannot be written"):
            load([written(tmp_path / "a.nt")], tmp_path / "d")


@pytest.mark.real
class TestRemove:
    def test_not_from_under_a_server(self, tmp_path: Path) -> None:
        place = load([written(tmp_path / "a.nt")], tmp_path / "d")
        with serve(place) as url:
            assert not remove(place)
            assert count(url) == 5000
        assert remove(place)
        assert not place.exists()
        with pytest.raises(InputError, match="holds no loaded facts"), serve(place):
            pass

    def test_who_waited_for_a_place_that_went_gets_the_new_one(self, tmp_path: Path) -> None:
        place, held = tmp_path / "0123456789abcdef-0.5.1", threading.Event()

        def wait() -> None:
            with locked(place, fcntl.LOCK_EX):
                held.set()
                time.sleep(0.2)

        with locked(place, fcntl.LOCK_EX):
            waiting = threading.Thread(target=wait)
            waiting.start()
            time.sleep(0.1)
            (place / "lock").unlink()
        assert held.wait(5)
        with pytest.raises(BlockingIOError), locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB):
            pass
        waiting.join()
