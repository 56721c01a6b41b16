"""The figures and bars of the judge benchmark, on a made-up study whose verdicts are known."""

from __future__ import annotations

import json
from pathlib import Path

import made_study
import pytest

from bench import judge
from store.home import Home


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, made_study.Made]:
    home = Home(tmp_path_factory.mktemp("home"))
    made = made_study.make(home.store)
    spec = json.dumps({"evaluate": {"judges": [{"retries": 2}, {"retries": 2}]}})
    with home.store.connection() as db:
        db.execute("UPDATE studies SET spec = ? WHERE study_key = ?", [spec, made_study.STUDY])
    return home, made


def test_figures_are_those_of_the_store(judged: tuple[Home, made_study.Made]) -> None:
    home, made = judged
    pairs = {(f.question, f.vote): f for f in made.facts if f.vote is not None}
    first = [None if f.judged is None else "some" for f in pairs.values()]
    calls = sum(made_study.attempts("judge-1", q, g) for (q, _), g in zip(pairs, first, strict=True))
    calls += sum(made_study.attempts("judge-2", q, f.graded) for (q, _), f in pairs.items())
    (figures,) = judge.stored(home).values()
    assert figures["traces"] == len(made.facts)
    assert figures["distinct pairs"] == len(pairs)
    assert figures["calls"] == calls
    assert figures["calls, naive"] == 2 * len(made.facts)
    assert figures["most calls"] == len(pairs) * 2 * 3
    assert judge.missed_bars(figures) == []


@pytest.mark.parametrize(
    ("changes", "bar"),
    [
        ({"most calls": 1}, "1 at most"),
        ({"verdicts": 3}, "3 verdicts of 2 judges"),
        ({"calls made now": 7, "calls accounted for now": 6}, "7 calls in the log, 6 in the verdicts"),
        ({"calls made now": 1, "calls accounted for now": 1, "most calls": 0}, "1 calls, 0 at most"),
    ],
)
def test_each_bar_can_be_missed(judged: tuple[Home, made_study.Made], changes: dict[str, float], bar: str) -> None:
    (figures,) = judge.stored(judged[0]).values()
    (missed,) = judge.missed_bars({**figures, **changes})
    assert bar in missed


def test_a_store_is_told_of_and_its_last_line_is_json(
    judged: tuple[Home, made_study.Made], capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge.main(["--home", str(judged[0].folder), "--check"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["missed"] == []
    assert [name.split()[0] for name in last["evaluations"]] == ["made"]


def test_a_home_without_a_store_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge.main(["--home", str(tmp_path)]) == 2
    assert "holds no store" in capsys.readouterr().err
