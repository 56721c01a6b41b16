"""`factscale nightly ls` and `accept`, in this process, on verdicts of a real store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_nights import land
from mini_study import mini, write

from flows.cli import _run, app
from store.home import Home
from tasks.nightlies import NightlyOrder, land_verdict, last_accepted


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a first night and one that is a regression."""
    home = Home(tmp_path / "home")
    home.folder.mkdir()
    monkeypatch.setenv("FACTSCALE_HOME", str(home.folder))
    for key, right, against in (("a", 2, None), ("b", 0, "a")):
        land(home.store, key, [right] * 30, model=key)
        order = NightlyOrder(
            name="mini",
            study_key=key,
            against=against,
            anchor=against,
            margin=0.02,
            confidence=0.95,
            scored_by="matcher",
            accept="not worse",
        )
        land_verdict(order, home.store)
    return home


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["factscale", "nightly", *arguments])
    return _run(app)


def test_verdicts_are_listed_the_newest_first(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "ls") == 0
    table = [line for line in capsys.readouterr().out.splitlines() if "mini" in line]
    assert "REGRESSION" in table[0]
    assert "-100.0" in table[0]
    assert "by rule" in table[1]
    assert call(monkeypatch, "ls", "mini", "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["verdict"], row["effect"], row["accepted"]) for row in rows] == [
        ("worse", -1.0, "no"),
        ("first", None, "by rule"),
    ]
    assert call(monkeypatch, "ls", "other") == 0
    assert "nothing yet" in capsys.readouterr().out


def test_one_is_accepted_by_name_or_file(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "accept", str(write(tmp_path, mini()))) == 0
    assert "accepted" in capsys.readouterr().out
    assert last_accepted(home.store, "mini")[1:] == ("b", True)  # type: ignore[index]
    assert call(monkeypatch, "accept", "mini", "zz") == 2
    assert "no verdict 'zz'" in " ".join(capsys.readouterr().err.split())
    assert call(monkeypatch, "accept", "nowhere.yaml") == 2
    assert "no study file nowhere.yaml" in " ".join(capsys.readouterr().err.split())
