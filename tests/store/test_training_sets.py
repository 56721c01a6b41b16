"""Training sets of a store from before there were mixes: their names, units and numbers."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb

from store import queries
from store.connection import Store
from store.migrations import migrations


def older(path: Path) -> Store:
    """A store of version 4 with a study of two students of ``fs1`` (two sets of it) and one of ``rt``."""
    with duckdb.connect(str(path)) as db:
        for step in migrations()[:4]:
            db.execute(step.sql)
        db.execute("CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name VARCHAR, applied_at TIMESTAMP)")
        db.execute("INSERT INTO schema_migrations SELECT unnest([1, 2, 3, 4]), 'old', now()")
        for place, (recipe, key) in enumerate((("rt", "aaaaaaaaaa"), ("fs1", "bbbbbbbbbb"), ("fs1", "cccccccccc"))):
            numbers = json.dumps(
                {"candidates": 12, "kept": place + 1, "accuracy": 0.25 * place, "dropped": {"wrong": 3}}
            )
            db.execute("INSERT INTO training_sets VALUES (?, ?, ?, ?)", [key, recipe, place + 1, numbers])
            db.execute("INSERT INTO training_rows VALUES (?, 0, ?, 'q', 'Paris', false)", [key, f"trace-{place}"])
            db.execute(
                "INSERT INTO units (unit_key, kind, name, spec, row_count, seconds, prompt_tokens, cached_tokens, "
                "generated_tokens, versions, host) VALUES (?, 'training_set', ?, '{}', 1, 1, 0, 0, 0, ?, 'h')",
                [f"unit-{place}", f"training set {recipe}", json.dumps({"training_set": key})],
            )
            db.execute(
                "INSERT INTO students VALUES (?, 'student', 'm', ?, ?, '{}', 'f', 'w', 3.0, 2.0, 1.0, '{}')",
                [f"student-{place}", recipe, key],
            )
            db.execute(
                "INSERT INTO study_runs (study_key, run_key, unit_key, role, model, setting, dataset, prompt_set, thought_key, "
                "answer_key, samples, budgets, parser, matcher, student_key) VALUES ('s', ?, 'u', 'student', 'm', ?, 'd', 'p', "
                "'t', 'a', 1, [1], 'x', 'y', ?)",
                [f"run-{place}", recipe, f"student-{place}"],
            )
    return Store(path)


def test_they_get_names_and_keep_their_numbers(tmp_path: Path) -> None:
    store = older(tmp_path / "old.duckdb")
    rows = queries.training_quality_rows(store, "s")
    assert [(row["name"], row["recipe"], row["kept"], row["accuracy"], row["students"]) for row in rows] == [
        ("rt", "rt", 1, 0.0, 1),
        ("fs1-bbbbbbbb", "fs1", 2, 0.25, 1),
        ("fs1-cccccccc", "fs1", 3, 0.5, 1),
    ]
    assert {row["held_out_before"] for row in rows} == {3.0}
    assert [row["dropped"] for row in rows] == [{"wrong": 3}] * 3
    assert {row["semantic_match"] for row in rows} == {None}
    units = store.query("SELECT name, unit_key FROM study_training_sets ORDER BY name")
    assert [row["unit_key"] for row in units] == ["unit-1", "unit-2", "unit-0"]
    recipes = store.query("SELECT recipe FROM training_rows ORDER BY training_set")
    assert [row["recipe"] for row in recipes] == ["rt", "fs1", "fs1"]
    assert len(queries.training_rows(store, "s")["training_sets"]) == 3
