"""The orchestration benchmark: which figures miss a bar, and that its units are a study's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import orchestration
from bench.orchestration import missed_bars
from bench.orchestration_gpus import works
from flows.orders import Orders
from flows.parameters import Study
from store.home import Home
from store.types import RunError

UNITS = {
    "run": "cold",
    "each, task runs promised": 22_600,
    "each/batches": 40.0,
    "batches, task runs promised": 91,
    "batches, task runs on the server": 91,
}
GPUS = {"GPUs": 8, "GPUs used": 8, "efficiency": 0.93}


def test_good_figures_miss_nothing() -> None:
    assert missed_bars([UNITS], [GPUS], quick=False) == []


@pytest.mark.parametrize(
    ("units", "gpus", "said"),
    [
        ({"each/batches": 3.0}, {}, "cold: 3.0 times as fast as a task each, 10 wanted"),
        ({"batches, task runs on the server": 90}, {}, "cold: 91 task runs promised, 90 on the server"),
        (
            {"each/batches": 3.0, "each, task runs promised": "did not finish: no room"},
            {},
            "cold: a task each did not finish: no room",
        ),
        ({}, {"GPUs used": 7}, "8 GPUs: 7 were used"),
        ({}, {"efficiency": 0.6}, "8 GPUs: efficiency 0.6, 0.9 wanted"),
    ],
)
def test_a_missed_bar_is_named(units: dict[str, Any], gpus: dict[str, Any], said: str) -> None:
    assert missed_bars([UNITS | units], [GPUS | gpus], quick=False) == [said]


def test_a_quick_run_is_held_to_what_it_can_show() -> None:
    slow = {"each/batches": 1.2, "batches, task runs on the server": 90}
    missed = missed_bars([UNITS | slow], [GPUS | {"efficiency": 0.3}], quick=True)
    assert missed == ["cold: 91 task runs promised, 90 on the server"]


def test_a_task_each_that_fails_is_a_figure_and_ours_ends_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RunError("bench.orchestration_designs each failed: Traceback\n  a line\nhttpx.ReadTimeout")

    monkeypatch.setattr(orchestration, "_run", fails)
    found = orchestration._measured("each", 10, {})
    assert found["each, task runs promised"] == "did not finish: httpx.ReadTimeout"
    assert found["each, seconds"] >= 0
    with pytest.raises(RunError):
        orchestration._measured("batches", 10, {})


def test_sleeping_units_differ_and_are_named_as_a_studys(tmp_path: Path) -> None:
    study = Study.model_validate({"evaluate": {"settings": ["instruct"], "datasets": [{"split": "test", "limit": 2}]}})
    made = works(Orders(study, Home(tmp_path)), 5)
    assert len({work.order.key for work in made}) == 5
    assert {work.name.kind for work in made} == {"run"}
