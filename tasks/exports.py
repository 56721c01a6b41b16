"""Datasets for others to load: a study's training sets, its evaluated traces, or its results, as Parquet with a card.

The folder has the hub's layout: ``README.md``, and ``data/CONFIGURATION/SPLIT-00000-of-0000N.parquet``. Rows are streamed from
the store run by run, so that neither memory nor the store's lock is held by a study of millions of traces.
"""

from __future__ import annotations

import json
from contextlib import closing
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from eval.card_facts import (
    BenchmarkFacts,
    ConfigFacts,
    DatasetFacts,
    DatasetKind,
    ExampleFacts,
    JudgeFacts,
    SplitFacts,
    TrainingFacts,
)
from eval.cards import dataset_card
from store.connection import Store
from store.scores import score_study
from store.types import InputError, RunError
from tasks.export_rows import Rows, result_tables, trace_tables, training_tables
from tasks.shards import write_shards

RESULTS_SPLIT = "results"
TRAIN, HELD_OUT = "train", "held_out"
_SETTINGS = {
    "instruct": "models asked as they are",
    "cot": "models asked to think step by step",
    "rt": "students of teachers that saw the question alone",
    "fs1": "students of teachers that saw the question's knowledge-graph paths",
    "mix": "students of a mix of teachers' traces",
}
_RECIPES = {
    "rt": "traces of teachers that saw the question alone",
    "fs1": "traces of teachers that saw the question and its knowledge-graph paths",
}
_DETAILS = ("training_set", "weights")  # what stands among a unit's versions and is none


class FoundStudy(NamedTuple):
    """A study of the store; ``older`` are others of the same name (a study that changed has a new key)."""

    key: str
    name: str
    started_at: datetime
    older: int


def find_study(store: Store, named: str) -> FoundStudy:
    """The study of this name, the newest of several, or of this key or its beginning (6 digits or more).

    Raises:
        InputError: there is none, or several keys begin so.
    """
    rows = store.query(
        "SELECT study_key, name, started_at FROM studies WHERE name = ? ORDER BY started_at DESC", [named]
    )
    if rows:
        return FoundStudy(rows[0]["study_key"], named, rows[0]["started_at"], len(rows) - 1)
    known = store.query("SELECT study_key, name, started_at FROM studies ORDER BY started_at DESC")
    rows = [row for row in known if key_begins(row["study_key"], named)]
    if len(rows) > 1:
        raise InputError(f"study {named}: the keys of {len(rows)} studies begin so; give more of it")
    if not rows:
        names = ", ".join(dict.fromkeys(row["name"] for row in known)) or "none yet"
        raise InputError(f"study {named}: not in this store; evaluated studies: {names}")
    return FoundStudy(rows[0]["study_key"], rows[0]["name"], rows[0]["started_at"], 0)


def key_begins(key: str, named: str) -> bool:
    """Whether a person means this key: all of it, or its first 6 digits or more."""
    return key == named or (len(named) >= 6 and key.startswith(named))


def dataset_facts(
    store: Store, study: FoundStudy, kind: DatasetKind, training_set: str | None = None, license_: str | None = None
) -> DatasetFacts:
    """What an export of this kind will hold, counted in the store. ``training_set`` None: all (training only).

    Raises:
        InputError: the study has nothing of this kind.
    """
    if kind == "results":
        score_study(store, study.key)  # of a study that landed before there were scores; else nothing to do
    with store.connection(read_only=True):  # opened once for all that is counted
        return _facts(store, study, kind, training_set, license_)


def write_dataset(store: Store, facts: DatasetFacts, folder: Path) -> None:
    """Fill ``folder`` with the shards and the card. Raises RunError if the study changed since it was counted."""
    keys = {one.recipe: one.training_set for one in facts.training}
    for config in facts.configs:
        for split in config.splits:
            with closing(_tables(store, facts, config.name, split.name, keys)) as tables:
                rows = write_shards(folder / "data" / config.name, split.name, tables)
            if rows != split.rows:
                raise RunError(
                    f"study {facts.study}: {config.name} {split.name} has {rows:,} rows now and had {split.rows:,} when it was "
                    "counted: something landed in between; export it again"
                )
    (folder / "README.md").write_text(dataset_card(facts), encoding="utf-8")


def training_facts(
    store: Store, training_set: str, unit_key: str | None = None, name: str | None = None
) -> TrainingFacts:
    """A training set as a card tells it, with the numbers of the unit ``unit_key`` (None: of the newest that came to it),
    under the name that a study gives it (None: that of the unit)."""
    [header] = store.query("SELECT * FROM training_sets WHERE training_set = ?", [training_set])
    [counts] = store.query(
        "SELECT count(*) AS rows, count(DISTINCT r.question_key) AS questions, "
        "list(DISTINCT t.model ORDER BY t.model) AS teachers, "
        "count(DISTINCT r.question_key) FILTER (r.held_out) AS held_out FROM training_rows r JOIN traces t USING (trace_id) "
        "WHERE r.training_set = ?",
        [training_set],
    )
    recipes = store.query(
        "SELECT recipe, count(*) AS rows FROM training_rows WHERE training_set = ? GROUP BY ALL ORDER BY recipe DESC",
        [training_set],
    )
    units = store.query(_UNITS, {"set": training_set, "unit": unit_key})
    unit = units[0] if units else {"name": header["name"], "statistics": header["statistics"], "spec": "{}"}
    statistics, spec = json.loads(unit["statistics"]), json.loads(unit["spec"])
    return TrainingFacts(
        recipe=name or unit["name"],
        training_set=training_set,
        rows=counts["rows"],
        held_out=counts["held_out"],
        questions=counts["questions"],
        teachers=tuple(counts["teachers"]),
        teacher_keys=_teacher_keys(store, spec),
        candidates=statistics.get("candidates"),
        accuracy=statistics.get("accuracy"),
        mean_thinking_tokens=statistics.get("mean_thinking_tokens"),
        dropped=statistics.get("dropped", {}),
        accept=spec.get("accept"),
        judge=spec.get("judge"),
        max_tokens=spec.get("max_tokens"),
        statistics=statistics,
        recipes={row["recipe"]: row["rows"] for row in recipes},
    )


def training_benchmarks(store: Store, training_sets: list[str]) -> tuple[BenchmarkFacts, ...]:
    """The question sets that the questions of training sets come from."""
    asked = "SELECT DISTINCT question_key FROM training_rows WHERE list_contains($keys, training_set)"
    return _sources(store, asked, {"keys": training_sets})


def compared(store: Store, study_key: str) -> bool:
    """Whether the study's test questions were compared with its training questions."""
    return bool(store.query("SELECT 1 FROM study_overlaps WHERE study_key = ? LIMIT 1", [study_key]))


def _facts(
    store: Store, study: FoundStudy, kind: DatasetKind, training_set: str | None, license_: str | None
) -> DatasetFacts:
    sets: tuple[TrainingFacts, ...] = ()
    if kind == "training":
        sets = _training_sets(store, study, training_set)
        configs = tuple(training_config(store, one) for one in sets)
    else:
        configs = _trace_configs(store, study.key) if kind == "traces" else _result_configs(store, study.key)
    if not configs:
        raise InputError(f"study {study.name} ({study.key[:8]}): no {kind} in this store; run `evaluate` first")
    scorers = store.query(
        "SELECT DISTINCT unnest([parser, matcher]) AS name FROM study_runs WHERE study_key = ?", [study.key]
    )
    return DatasetFacts(
        kind=kind,
        study=study.name,
        study_key=study.key,
        configs=configs,
        benchmarks=_benchmarks(store, study.key, [one.training_set for one in sets]),
        training=sets,
        judges=tuple(JudgeFacts(**row) for row in store.query(_JUDGES, [study.key])),
        scorers=tuple(sorted(row["name"] for row in scorers)),
        compared=compared(store, study.key),
        example=example_of(store, sets[0]) if sets else None,
        versions=_versions(store, study.key),
        license=license_,
    )


def _tables(store: Store, facts: DatasetFacts, config: str, split: str, keys: dict[str, str]) -> Rows:
    study = facts.study_key or ""
    if facts.kind == "training":
        searched = store.query(
            "SELECT DISTINCT retrieval_key FROM study_runs WHERE study_key = ? AND retrieval_key IS NOT NULL", [study]
        )
        retrievals = [row["retrieval_key"] for row in searched]
        return training_tables(store, retrievals, keys[config], held_out=split == HELD_OUT)
    if facts.kind == "traces":
        return trace_tables(store, study, config, split)
    return result_tables(store, study, config)


def _training_sets(store: Store, study: FoundStudy, name: str | None) -> tuple[TrainingFacts, ...]:
    rows = store.query(
        "SELECT n.name, n.training_set, n.unit_key FROM study_training_sets n JOIN training_sets t USING (training_set) "
        "WHERE n.study_key = ? ORDER BY t.recipe = 'mix', n.name",
        [study.key],
    )
    if name is not None and rows and not any(row["name"] == name for row in rows):
        known = ", ".join(row["name"] for row in rows)
        raise InputError(f"--training-set {name}: study {study.name} has no training set of it; it has {known}")
    chosen = [row for row in rows if name in (None, row["name"])]
    return tuple(training_facts(store, row["training_set"], row["unit_key"], row["name"]) for row in chosen)


def training_config(store: Store, one: TrainingFacts) -> ConfigFacts:
    """A training set as a configuration: its splits ``train`` and, where something is held out, ``held_out``."""
    rows = store.query(
        "SELECT r.held_out, count(*) AS rows, count(DISTINCT r.question_key) AS questions, "
        "sum(t.thinking_tokens + t.answer_tokens)::BIGINT AS tokens FROM training_rows r JOIN traces t USING (trace_id) "
        "WHERE r.training_set = ? GROUP BY ALL ORDER BY r.held_out",
        [one.training_set],
    )
    splits = tuple(SplitFacts(name=HELD_OUT if row.pop("held_out") else TRAIN, **row) for row in rows)
    counts = " and ".join(f"{count:,} {recipe}" for recipe, count in one.recipes.items())
    note = _RECIPES.get(one.recipe, f"a mix of traces: {counts}")
    return ConfigFacts(name=one.recipe, note=note, splits=splits)


def _trace_configs(store: Store, study_key: str) -> tuple[ConfigFacts, ...]:
    rows = store.query(
        "SELECT setting, split AS name, count(*) AS rows, count(DISTINCT question_key) AS questions, "
        "sum(total_tokens)::BIGINT AS tokens FROM results WHERE study_key = ? GROUP BY ALL ORDER BY setting, name",
        [study_key],
    )
    settings = [name for name in _SETTINGS if any(row["setting"] == name for row in rows)]
    return tuple(
        ConfigFacts(
            name=setting,
            note=_SETTINGS[setting],
            splits=tuple(
                SplitFacts(**{name: row[name] for name in ("name", "rows", "questions", "tokens")})
                for row in rows
                if row["setting"] == setting
            ),
        )
        for setting in settings
    )


def _result_configs(store: Store, study_key: str) -> tuple[ConfigFacts, ...]:
    [counts] = store.query(
        "SELECT (SELECT count(*) FROM leaderboard WHERE study_key = $study) AS leaderboard, count(*) AS rows, "
        "count(DISTINCT question_key) AS questions FROM scores WHERE study_key = $study",
        {"study": study_key},
    )
    if not counts["rows"]:
        return ()
    asked = counts["questions"]
    split = SplitFacts(name=RESULTS_SPLIT, rows=counts["leaderboard"], questions=asked)
    scores = SplitFacts(name=RESULTS_SPLIT, rows=counts["rows"], questions=asked)
    return (
        ConfigFacts(name="leaderboard", note="one row a model, setting, dataset and budget", splits=(split,)),
        ConfigFacts(name="questions", note="the same, one row a question", splits=(scores,)),
    )


def _benchmarks(store: Store, study_key: str, training_sets: list[str]) -> tuple[BenchmarkFacts, ...]:
    if training_sets:
        return training_benchmarks(store, training_sets)
    asked = (
        "SELECT DISTINCT s.question_key FROM study_runs r JOIN prompt_sets s ON s.set_key = r.prompt_set "
        "WHERE r.study_key = $study"
    )
    return _sources(store, asked, {"study": study_key})


def _sources(store: Store, asked: str, parameters: dict[str, Any]) -> tuple[BenchmarkFacts, ...]:
    rows = store.query(
        f"WITH asked AS ({asked}) SELECT q.dataset, q.split, count(*) AS questions, "  # noqa: S608 - constants of this module
        "list(DISTINCT regexp_replace(q.provenance, ' (line|row|record) \\d+$', '')) AS files "
        "FROM questions q SEMI JOIN asked USING (question_key) GROUP BY ALL ORDER BY q.dataset, q.split",
        parameters,
    )
    return tuple(BenchmarkFacts(**{**row, "files": tuple(sorted(row["files"])[:_FILES])}) for row in rows)


def _versions(store: Store, study_key: str) -> dict[str, str]:
    """Packages by whose versions the study's traces were made, all that there were; and the factscale of this export."""
    units = store.query("SELECT DISTINCT unit_key FROM study_runs WHERE study_key = ?", [study_key])
    return unit_versions(store, [row["unit_key"] for row in units])


def unit_versions(store: Store, unit_keys: list[str]) -> dict[str, str]:
    """Packages by whose versions some units were made, all that there were; and the factscale of this export."""
    rows = store.query_for(unit_keys, "SELECT DISTINCT versions FROM units SEMI JOIN wanted_ids ON wanted = unit_key")
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, value in json.loads(row["versions"]).items():
            if name not in _DETAILS:
                found.setdefault(name, set()).add(str(value))
    made = {name: ", ".join(sorted(values)) for name, values in found.items()}
    return {**made, "factscale (this export)": version("factscale")}


def example_of(store: Store, one: TrainingFacts) -> ExampleFacts | None:
    """The first row of a training set."""
    rows = store.query(
        "SELECT q.text AS question, left(h.text, t.thinking_chars) AS thinking, r.prediction AS answer FROM training_rows r "
        "JOIN questions q USING (question_key) JOIN traces t USING (trace_id) "
        "JOIN thought_texts h ON h.thought_id = t.thought_id WHERE r.training_set = ? ORDER BY r.position LIMIT 1",
        [one.training_set],
    )
    return ExampleFacts(config=one.recipe, **rows[0]) if rows else None


def _teacher_keys(store: Store, spec: dict[str, Any]) -> tuple[str, ...]:
    """What identifies the weights of the teachers: their traces are named by the predictions that a set is drawn from."""
    named = [key for part in spec.get("parts", ()) for key in part["predictions"]]
    rows = store.query_for(
        [*named, *spec.get("traces", ())],  # the latter before there were mixes
        "WITH read AS (SELECT spec ->> '$.traces' AS key FROM units SEMI JOIN wanted_ids ON wanted = unit_key "
        "WHERE kind = 'predictions' UNION SELECT wanted FROM wanted_ids) "
        "SELECT DISTINCT t.spec ->> '$.thought.model_key' AS key FROM units t JOIN read ON read.key = t.unit_key "
        "WHERE t.kind = 'traces' ORDER BY key",
    )
    return tuple(row["key"] for row in rows if row["key"] is not None)


_FILES = 4  # of a benchmark that a card names
_JUDGES = "SELECT judge, model, question FROM study_judges WHERE study_key = ? ORDER BY position"
_UNITS = """
SELECT m.name, m.statistics, u.spec FROM training_set_units m LEFT JOIN units u USING (unit_key)
WHERE m.training_set = $set ORDER BY m.unit_key IS NOT DISTINCT FROM $unit DESC, u.landed_at DESC NULLS LAST LIMIT 1
"""
