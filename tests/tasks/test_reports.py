"""The summary of a study is counted once, and anew after its scores were."""

from __future__ import annotations

from pathlib import Path

import made_study

from store.connection import Store
from tasks.reports import summary_of


def test_a_summary_is_counted_once_and_again_after_its_scores(tmp_path: Path) -> None:
    store = Store(tmp_path / "made.duckdb")
    made_study.make(store, questions=3, samples=2)
    first = summary_of(store, made_study.STUDY)
    assert summary_of(store, made_study.STUDY) is first
    assert sum(cell.unparsed for cell in first.cells) < sum(cell.traces for cell in first.cells)
    with store.transaction() as db:
        db.execute("UPDATE predictions SET how = 'none', prediction = NULL, prediction_key = NULL, class = NULL")
        db.execute("DELETE FROM scored")
    again = summary_of(store, made_study.STUDY)
    assert all(cell.unparsed == cell.traces for cell in again.cells)
