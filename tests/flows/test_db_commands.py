"""`factscale db`: what is in a store, copies and snapshots, and a shared store's upkeep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import PASSWORD, Postgres, missing, postgres_server

from flows.cli import app
from store.connection import Store
from store.home import Home

LABELS = {"labels": [{"snapshot": "s", "id": f"Q{number}", "label": "x"} for number in range(250)]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a store of its own."""
    monkeypatch.setenv("FACTSCALE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FACTSCALE_STORE", raising=False)
    home = Home.current()
    home.store.land(LABELS)
    return home


def call(*arguments: str) -> None:
    app(["db", *arguments], standalone_mode=False)


def test_info_names_the_store_and_counts_its_rows(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    call("info", "--format", "json")
    rows = {row["table"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["labels"]["rows"] == 250
    assert rows["labels"]["store"] == str(home.folder / "factscale.duckdb")
    call("info")
    told = capsys.readouterr().out
    assert "file, schema version" in told
    assert "labels" in told
    assert "thoughts" not in told, "empty tables are left out"


def test_a_snapshot_is_a_new_file_with_all_rows(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "snapshot.duckdb"
    call("snapshot", str(file))
    assert "labels: 250 rows, 250 new" in capsys.readouterr().out
    assert Store(file).query("SELECT count(*) AS n FROM labels") == [{"n": 250}]
    with pytest.raises(ValueError, match=r"is there already: name a new file, or use `factscale db copy`"):
        call("snapshot", str(file))


def test_a_copy_adds_what_is_not_there(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = Store(tmp_path / "target.duckdb")
    target.land({"labels": LABELS["labels"][:100]})
    call("copy", str(home.store.path), str(target.path))
    assert capsys.readouterr().out.splitlines()[-1] == "250 rows, 150 new."
    assert target.query("SELECT count(*) AS n FROM labels") == [{"n": 250}]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as running:
        running.create("lake")
        yield running


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
class TestShared:
    def test_a_home_moves_into_a_shared_store_that_the_environment_names(
        self,
        server: Postgres,
        home: Home,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from urllib.parse import quote

        secret = quote(PASSWORD, safe="")
        url = server.url("lake", tmp_path / "data", password=secret)
        file = str(home.store.path)
        call("copy", file, url)
        monkeypatch.setenv("FACTSCALE_STORE", url)
        try:
            call("info")
            call("info", "--format", "csv")
            call("query", "SELECT count(*) AS labels_there FROM labels", "--format", "csv")
            call("compact")
            with pytest.raises(ValueError, match="are the same store"):
                call("copy", url, url)
            told = capsys.readouterr().out
        finally:
            home.store.close()
        assert "250 rows, 250 new" in told
        assert "lake, schema version" in told
        assert "labels_there\r\n250" in told or "labels_there\n250" in told
        assert "old files were removed" in told
        assert "factscale:***@127.0.0.1" in told
        assert secret not in told
        assert PASSWORD not in told
