"""Everything there is of one question of a study: what the trace explorer's pages ask of the store.

Traces are found by the keys of their thoughts and the question in one pass; long texts are read for the ids that are asked
for, by the index of their primary key. Rows are plain dicts, JSON columns decoded; budget ``None`` means unlimited.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from store.connection import Store
from store.exploring import decoded
from store.queries import Rows
from store.types import budget_order


def question(store: Store, study_key: str, question_key: str) -> dict[str, Any] | None:
    """A test question of the study (``asked``) or one that its students learned from (``trained``); None if it is neither.

    With its answers and, of a test question, how near the training questions are: columns of ``question_overlaps``, which
    are None where the overlap is not known, and the texts ``nearest_text`` and ``leaked_text``.
    """
    rows = store.query(
        """
        SELECT q.*, o.nearest, o.exact, o.ngram, o.cosine, o.leak, o.leaked_in, o.flagged,
               n.text AS nearest_text, l.text AS leaked_text,
               q.question_key IN (SELECT p.question_key FROM prompt_sets p JOIN study_runs r ON r.prompt_set = p.set_key
                                  WHERE r.study_key = $study AND p.question_key = $question) AS asked,
               q.question_key IN (SELECT t.question_key FROM training_rows t SEMI JOIN (
                   SELECT training_set FROM students JOIN study_runs USING (student_key) WHERE study_key = $study
               ) USING (training_set) WHERE t.question_key = $question) AS trained
        FROM questions q
        LEFT JOIN study_overlaps so ON so.study_key = $study AND so.dataset = q.dataset
        LEFT JOIN question_overlaps o ON o.overlap_key = so.overlap_key AND o.question_key = q.question_key
        LEFT JOIN questions n ON n.question_key = o.nearest LEFT JOIN questions l ON l.question_key = o.leaked_in
        WHERE q.question_key = $question
        """,
        {"study": study_key, "question": question_key},
    )
    found = [row for row in decoded(rows, "answers") if row["asked"] or row["trained"]]
    return found[0] if found else None


def links_of(store: Store, question_key: str) -> Rows:
    """Entities of the question and its answers: ``role``, ``entity``, ``source``, and the ``label`` where one is known."""
    return store.query(
        """
        WITH found AS (
            SELECT role, entity, source FROM links WHERE question_key = $question
            UNION SELECT role, entity, source FROM resolved_links WHERE question_key = $question
        ), named AS (
            SELECT id, min(label) AS label FROM labels SEMI JOIN found ON found.entity = labels.id GROUP BY id
        )
        SELECT role, entity, source, label FROM found LEFT JOIN named ON id = entity ORDER BY role DESC, entity, source
        """,
        {"question": question_key},
    )


def searched_paths(store: Store, study_key: str, question_key: str) -> dict[str, Any] | None:
    """What the study's retrieval found for the question; None if it was not searched.

    ``retrieval_key``, ``snapshot``, ``graph`` (linearised), ``paths`` (rows, best first, ``triples`` decoded), ``labels`` by
    id and ``statements`` (rows, ``details`` decoded, where the retrieval tells qualifiers) of what the paths hold.
    """
    rows = store.query(
        "SELECT r.retrieval_key, r.snapshot, r.graph, coalesce((s.spec ->> 'qualifiers')::BOOLEAN, false) AS told "
        "FROM retrievals r LEFT JOIN retrieval_specs s USING (retrieval_key) WHERE r.question_key = ? "
        "AND r.retrieval_key IN (SELECT retrieval_key FROM study_runs WHERE study_key = ?) ORDER BY r.retrieval_key",
        [question_key, study_key],
    )
    if not rows:
        return None
    found = rows[0]
    keys = [found["retrieval_key"], question_key]
    paths = store.query("SELECT * FROM paths WHERE retrieval_key = ? AND question_key = ? ORDER BY rank", keys)
    triples = [triple for path in decoded(paths, "triples") for triple in path["triples"]]
    statements: Rows = []
    if found["told"] and triples:
        sql = f"SELECT * EXCLUDE (snapshot) FROM statements WHERE snapshot = ? AND subject IN ({_marks(triples)})"  # noqa: S608
        statements = decoded(store.query(sql, [found["snapshot"], *(triple[0] for triple in triples)]), "details")
    ids = {str(one) for triple in triples for one in triple[:3]}
    ids |= {str(one) for row in statements for detail in row["details"] for one in _ids_of(detail)}
    labels = store.query(
        f"SELECT id, label FROM labels WHERE snapshot = ? AND id IN ({_marks(ids)})",  # noqa: S608 - question marks
        [found["snapshot"], *sorted(ids)],
    )
    return {
        **found,
        "paths": paths,
        "labels": {row["id"]: row["label"] for row in labels},
        "statements": statements,
    }


def traces_of(store: Store, runs: Sequence[dict[str, Any]], asked: dict[str, Any]) -> Rows:
    """Every trace of the question ``asked`` in these runs (rows of :func:`study_runs`), without its text.

    One row a run, sample and budget in this order, with how the thought ``ended`` and where it tried to (``stops``), the
    ``prediction``, ``how`` it was found, ``correct`` and ``rule`` of the matcher (None: not scored). Samples and budgets
    beyond those of the study are left out.
    """
    if not runs:
        return []
    thoughts = sorted({run["thought_key"] for run in runs})
    rows = store.query(
        f"""
        SELECT t.trace_id, t.thought_id, t.thought_key, t.answer_key, t.prompt_key, t.sample, t.budget, t.thinking_tokens,
               t.thinking_chars, t.cut, t.forced, t.finish, t.answer_tokens, t.prompt_tokens, t.shared, t.self_contained,
               t.extensions
        FROM traces t WHERE t.thought_key IN ({_marks(thoughts)}) AND t.dataset = ? AND t.question_id = ?
        """,  # noqa: S608 - question marks
        [*thoughts, asked["dataset"], asked["question_id"]],
    )
    prompts = _prompts_of(store, runs, asked["question_key"])
    mine = [
        {**row, "run_key": run["run_key"], "parser": run["parser"], "matcher": run["matcher"]}
        for run in runs
        for row in rows
        if (row["thought_key"], row["answer_key"]) == (run["thought_key"], run["answer_key"])
        and row["prompt_key"] == prompts.get(run["prompt_set"])
        and row["sample"] < run["samples"]
        and row["budget"] in run["budgets"]
    ]
    _add_scores(store, mine, asked["gold_key"])
    ended = _by_id(store, "thoughts", "thought_id", "ended, stops", {row["thought_id"] for row in mine})
    for row in mine:
        row |= {name: ended.get(row["thought_id"], {}).get(name) for name in ("ended", "stops")}
    place = {run["run_key"]: at for at, run in enumerate(runs)}
    return sorted(mine, key=lambda r: (place[r["run_key"]], r["sample"], budget_order(r["budget"])))


def grades_of(
    store: Store, study_key: str, gold_key: str, predictions: Iterable[str]
) -> dict[tuple[int, str], str | None]:
    """The study's judges on these prediction keys: the grade by (position of the judge, prediction key); None: no valid reply."""
    wanted = sorted(set(predictions))
    if not wanted:
        return {}
    rows = store.query(
        "SELECT j.position, v.prediction_key, v.grade FROM study_judges j JOIN verdicts v USING (judge) "  # noqa: S608
        f"WHERE j.study_key = ? AND v.gold_key = ? AND v.prediction_key IN ({_marks(wanted)})",
        [study_key, gold_key, *wanted],
    )
    return {(row["position"], row["prediction_key"]): row["grade"] for row in rows}


def judges_of(store: Store, study_key: str) -> Rows:
    """The study's judges in their order: ``position``, ``model``, ``question`` (contains, grade)."""
    return store.query(
        "SELECT position, model, question FROM study_judges WHERE study_key = ? ORDER BY position", [study_key]
    )


def thought_texts(store: Store, thought_ids: Iterable[str]) -> dict[str, str]:
    """The whole thoughts by their id."""
    found = _by_id(store, "thought_texts", "thought_id", "text", set(thought_ids))
    return {key: str(row["text"]) for key, row in found.items()}


def answer_texts(store: Store, trace_ids: Iterable[str]) -> dict[str, str]:
    """What came after the thought, by the trace's id."""
    found = _by_id(store, "trace_texts", "trace_id", "answer_text", set(trace_ids))
    return {key: str(row["answer_text"]) for key, row in found.items()}


def prompt_messages(store: Store, prompt_keys: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """Chat messages by the prompt's key."""
    found = _by_id(store, "prompts", "prompt_key", "messages", set(prompt_keys))
    return {key: json.loads(row["messages"]) for key, row in found.items()}


def training_traces(store: Store, study_key: str, question_key: str) -> Rows:
    """Teachers' traces of the question that the study's students were trained on, without text, one row a training set."""
    return store.query(
        """
        SELECT ts.training_set, tr.recipe, tr.position, tr.held_out, tr.prediction, tr.trace_id, t.thought_id, t.model,
               t.prompt_key, t.sample, t.thinking_tokens, t.thinking_chars, t.answer_tokens, t.cut, t.forced, t.self_contained
        FROM training_rows tr JOIN training_sets ts USING (training_set) JOIN traces t USING (trace_id)
        WHERE tr.question_key = $question AND tr.training_set IN (
            SELECT training_set FROM students JOIN study_runs USING (student_key) WHERE study_key = $study)
        ORDER BY tr.recipe DESC, ts.training_set, tr.position
        """,
        {"question": question_key, "study": study_key},
    )


def student_of(store: Store, student_key: str) -> dict[str, Any] | None:
    """A student in brief: ``student_key``, ``name``, ``training_set``, ``made_by`` (its recipe) and its ``row_count``."""
    rows = store.query(
        "SELECT s.student_key, s.name, s.training_set, t.recipe AS made_by, t.row_count "
        "FROM students s JOIN training_sets t USING (training_set) WHERE s.student_key = ?",
        [student_key],
    )
    return rows[0] if rows else None


def student(store: Store, study_key: str, student_key: str) -> dict[str, Any] | None:
    """A student of the study with its training set: ``teachers`` (model, traces), counts, and the questions it learned from.

    ``examples`` are its first 100 rows in the training set's order, one a question. None if the study has no such student.
    """
    rows = store.query(
        """
        SELECT s.*, t.recipe AS made_by, t.row_count, coalesce(u.statistics, t.statistics) AS statistics
        FROM students s JOIN training_sets t USING (training_set)
        LEFT JOIN study_training_sets n ON n.study_key = $study AND n.training_set = s.training_set
        LEFT JOIN training_set_units u ON u.unit_key = n.unit_key
        WHERE s.student_key = $student
        AND s.student_key IN (SELECT student_key FROM study_runs WHERE study_key = $study AND student_key = $student)
        """,
        {"student": student_key, "study": study_key},
    )
    if not rows:
        return None
    found = decoded(rows, "hyperparameters", "manifest", "statistics")[0]
    training = {"set": found["training_set"]}
    teachers = store.query(
        "SELECT t.model, count(*) AS traces, count(DISTINCT r.question_key) AS questions, count_if(r.held_out) AS held_out "
        "FROM training_rows r JOIN traces t USING (trace_id) WHERE r.training_set = $set GROUP BY ALL ORDER BY ALL",
        training,
    )
    examples = store.query(
        "SELECT r.question_key, min(r.position) AS position, count(*) AS traces, bool_or(r.held_out) AS held_out, q.text, "
        "q.dataset, q.question_id, q.answers FROM training_rows r JOIN questions q USING (question_key) "
        "WHERE r.training_set = $set GROUP BY ALL ORDER BY position LIMIT 100",
        training,
    )
    return {**found, "teachers": teachers, "examples": decoded(examples, "answers")}


def _prompts_of(store: Store, runs: Sequence[dict[str, Any]], question_key: str) -> dict[str, str]:
    sets = sorted({run["prompt_set"] for run in runs})
    rows = store.query(
        f"SELECT set_key, prompt_key FROM prompt_sets WHERE question_key = ? AND set_key IN ({_marks(sets)})",  # noqa: S608
        [question_key, *sets],
    )
    return {row["set_key"]: row["prompt_key"] for row in rows}


def _add_scores(store: Store, rows: Rows, gold_key: str) -> None:
    """Add to each trace what its run's parser and matcher make of it."""
    ids, parsers = sorted({row["trace_id"] for row in rows}), sorted({row["parser"] for row in rows})
    if not ids:
        return
    read = store.query(
        "SELECT trace_id, parser, prediction, prediction_key, how FROM predictions "  # noqa: S608 - question marks
        f"WHERE trace_id IN ({_marks(ids)}) AND parser IN ({_marks(parsers)})",
        [*ids, *parsers],
    )
    found = {(row["trace_id"], row["parser"]): row for row in read}
    keys = sorted({row["prediction_key"] for row in read if row["prediction_key"] is not None})
    matchers = sorted({row["matcher"] for row in rows})
    told = (
        store.query(
            "SELECT judge, prediction_key, correct, rule FROM verdicts "  # noqa: S608 - question marks
            f"WHERE judge IN ({_marks(matchers)}) AND gold_key = ? AND prediction_key IN ({_marks(keys)})",
            [*matchers, gold_key, *keys],
        )
        if keys
        else []
    )
    verdicts = {(row["judge"], row["prediction_key"]): row for row in told}
    for row in rows:
        one = found.get((row["trace_id"], row["parser"]), {})
        verdict = verdicts.get((row["matcher"], one.get("prediction_key")), {})
        row |= {name: one.get(name) for name in ("prediction", "prediction_key", "how")}
        row |= {"correct": bool(verdict.get("correct")), "rule": verdict.get("rule")}


def _by_id(store: Store, table: str, key: str, columns: str, ids: set[str]) -> dict[str, dict[str, Any]]:
    # Constants in IN, and not a join, let DuckDB use an index, or pass over what cannot hold them where there is none.
    if not ids:
        return {}
    sql = f"SELECT {key}, {columns} FROM {table} WHERE {key} IN ({_marks(ids)})"  # noqa: S608 - our own names
    return {row[key]: row for row in store.query(sql, sorted(ids))}


def _ids_of(detail: Sequence[Any]) -> list[Any]:
    qualifiers, _, unit = detail
    return [one for name, value, literal in qualifiers for one in ((name,) if literal else (name, value))] + (
        [unit] if unit else []
    )


def _marks(values: Iterable[Any]) -> str:
    return ", ".join("?" for _ in values) or "NULL"
