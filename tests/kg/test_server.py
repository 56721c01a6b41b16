"""The local server with the real oxigraph program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kg import server
from kg.endpoint import Endpoint
from kg.loading import load
from kg.server import local_endpoint, serve, snapshot_of
from store.types import InputError, RunError

LINE = "<http://www.wikidata.org/entity/Q1> <http://www.wikidata.org/prop/direct/P1> <http://www.wikidata.org/entity/{}> .\n"
COUNT = "SELECT (COUNT(*) AS ?n) WHERE { ?s ?p ?o }"


def facts(directory: Path, *names: str) -> list[Path]:
    files = []
    for name in names:
        files.append(directory / f"{name}.nt")
        files[-1].write_text(LINE.format(name))
    return files


def count(url: str) -> int:
    return int(Endpoint(url, snapshot="s", sleep=lambda _s: None).select(COUNT)[0]["n"].value)


def running(place: Path) -> list[int]:
    """Processes whose command line names the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0] if entry.name.isdigit() else "Z"
            if state != "Z" and str(place) in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


class TestSnapshot:
    def test_is_of_the_content_alone(self, tmp_path: Path) -> None:
        a, b = facts(tmp_path, "Q2", "Q3")
        assert snapshot_of([a, b]) == snapshot_of([b, a])
        assert snapshot_of([a]) != snapshot_of([b])
        moved = a.rename(tmp_path / "moved.nt")
        assert snapshot_of([moved, b]) == snapshot_of([b, moved])

    def test_missing_file_and_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere\.nt"):
            snapshot_of([tmp_path / "nowhere.nt"])
        with pytest.raises(InputError, match="no facts file"):
            snapshot_of([])


@pytest.mark.real
class TestServer:
    def test_serves_the_files_and_ends_with_the_block(self, tmp_path: Path) -> None:
        with local_endpoint(facts(tmp_path, "Q2", "Q3"), tmp_path / "d") as url:
            assert url.startswith("http://127.0.0.1:")
            assert count(url) == 2
            assert running(tmp_path)
        assert not running(tmp_path)
        with pytest.raises(RunError, match="cannot reach"):
            count(url)
        assert not list((tmp_path / "d").glob("*/serve-*.log"))

    def test_ends_when_the_block_raises(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), local_endpoint(facts(tmp_path, "Q2"), tmp_path / "d"):
            raise KeyError
        assert not running(tmp_path)

    def test_loads_once_and_two_can_be_served_at_the_same_time(self, tmp_path: Path) -> None:
        files = facts(tmp_path, "Q2")
        with local_endpoint(files, tmp_path / "d") as first:
            [marker] = (tmp_path / "d").glob("*/loaded.json")
            before = marker.stat().st_mtime_ns
            with local_endpoint(files, tmp_path / "d") as second:
                assert first != second
                assert count(first) == count(second) == 1
            assert count(first) == 1
        assert marker.stat().st_mtime_ns == before

    def test_started_at_once_by_several_threads(self, tmp_path: Path) -> None:
        files, counts = facts(tmp_path, "Q2", "Q3"), list[int]()

        def study() -> None:
            with local_endpoint(files, tmp_path / "d") as url:
                counts.append(count(url))

        threads = [threading.Thread(target=study) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert counts == [2, 2, 2]

    def test_other_facts_have_another_store(self, tmp_path: Path) -> None:
        [file] = facts(tmp_path, "Q2")
        with local_endpoint([file], tmp_path / "d") as url:
            assert count(url) == 1
        file.write_text(LINE.format("Q2") + LINE.format("Q3"))
        with local_endpoint([file], tmp_path / "d") as url:
            assert count(url) == 2

    def test_a_killed_load_is_redone(self, tmp_path: Path) -> None:
        files = facts(tmp_path, "Q2")
        with local_endpoint(files, tmp_path / "d"):
            [marker] = (tmp_path / "d").glob("*/loaded.json")
        marker.unlink()
        for part in (marker.parent / "data").glob("*.sst"):
            part.write_bytes(b"half")
        with local_endpoint(files, tmp_path / "d") as url:
            assert count(url) == 1

    def test_a_malformed_file_is_named_with_what_is_wrong(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.nt"
        bad.write_text("this is no triple\n")
        with pytest.raises(InputError, match=r"bad\.nt.*N-Triples"), local_endpoint([bad], tmp_path / "d"):
            pass
        bad.write_text(LINE.format("Q2"))
        with local_endpoint([bad], tmp_path / "d") as url:
            assert count(url) == 1

    def test_a_lost_port_is_given_up_for_another(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files, free = facts(tmp_path, "Q2"), server._free_port
        with local_endpoint(facts(tmp_path, "Q3", "Q4"), tmp_path / "d") as other:
            taken = [int(other.split(":")[2].split("/")[0])]
            monkeypatch.setattr(server, "_free_port", lambda: taken.pop() if taken else free())
            with local_endpoint(files, tmp_path / "d") as url:
                assert url != other
                assert count(url) == 1

    def test_a_port_of_ones_own_and_one_in_use(self, tmp_path: Path) -> None:
        place, port = load(facts(tmp_path, "Q2"), tmp_path / "d"), server._free_port()
        with serve(place, port=port) as url:
            assert url == f"http://127.0.0.1:{port}/query"
            with pytest.raises(InputError, match=f"port {port} is in use"), serve(place, port=port):
                pass
            assert count(url) == 1

    def test_a_server_that_does_not_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = facts(tmp_path, "Q2")
        with local_endpoint(files, tmp_path / "d"):
            [data] = (tmp_path / "d").glob("*/data")
        (data / "CURRENT").write_text("MANIFEST-999999\n")
        with pytest.raises(RunError, match=r"did not start.*log"), local_endpoint(files, tmp_path / "d"):
            pass

    def test_no_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(RunError, match="pip install oxigraph"), local_endpoint(facts(tmp_path, "Q2"), tmp_path):
            pass

    def test_the_server_outlives_the_thread_that_asked_for_it(self, tmp_path: Path) -> None:
        manager = local_endpoint(facts(tmp_path, "Q2"), tmp_path / "d")
        urls: list[str] = []
        thread = threading.Thread(target=lambda: urls.append(manager.__enter__()))
        thread.start()
        thread.join()
        time.sleep(0.2)
        assert count(urls[0]) == 1
        manager.__exit__(None, None, None)
        assert not running(tmp_path)

    def test_kill_9_of_the_parent_leaves_nothing(self, tmp_path: Path) -> None:
        facts(tmp_path, "Q2")
        script = (
            "import sys, time, pathlib; from kg.server import local_endpoint\n"
            "d = pathlib.Path(sys.argv[1])\n"
            "with local_endpoint([d / 'Q2.nt'], d / 'd') as url: print(url, flush=True); time.sleep(60)\n"
        )
        command, root = [sys.executable, "-c", script, str(tmp_path)], Path(server.__file__).parent.parent
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
            assert parent.stdout is not None
            url = parent.stdout.readline().strip()
            assert count(url) == 1
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
            deadline = time.monotonic() + 5
            while running(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.02)
        assert not running(tmp_path)
