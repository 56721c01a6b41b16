"""The rows of published datasets, read from the store in pieces: Arrow tables in the columns of ``eval.card_columns``.

A piece is read in a transaction of its own (a run of a study, some thousand rows of a training set), so that a study which
is landing rows meanwhile waits for seconds at most.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pyarrow as pa

from eval.card_columns import COLUMNS
from store.connection import Store
from tasks.examples import example
from tasks.questions import stored_questions

Rows = Generator[pa.Table, None, None]
_CHUNK = 2048  # rows read at a time: some megabytes of text
_TRAINING_CHUNK = 4096  # rows of a training set a transaction
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def training_tables(store: Store, retrievals: Sequence[str], training_set: str, *, held_out: bool) -> Rows:
    """The rows of one split of a training set, in its order; ``retrievals`` are those whose paths its teachers saw."""
    found = store.query(
        "SELECT coalesce(max(position), -1) AS last FROM training_rows WHERE training_set = ?", [training_set]
    )
    for start in range(0, found[0]["last"] + 1, _TRAINING_CHUNK):
        parameters = {"retrievals": list(retrievals), "set": training_set, "held_out": held_out, "first": start}
        with store.connection(read_only=True):
            rows = _with_messages(store, store.arrow(_TRAINING, {**parameters, "end": start + _TRAINING_CHUNK}))
        yield rows.select([column.name for column in COLUMNS["training"]])


def trace_tables(store: Store, study_key: str, setting: str, split: str) -> Rows:
    """The traces of one setting, run after run; in a run by question, sample and budget."""
    runs = store.query(
        "SELECT run_key, thought_key FROM study_runs WHERE study_key = ? AND setting = ? ORDER BY dataset, model, run_key",
        [study_key, setting],
    )
    places = _places(store, study_key)
    for run in runs:
        if len(place := places.get(run["thought_key"], {})) == _PLACE_NAMES:  # else none of it has landed
            parameters = {"study": study_key, "run": run["run_key"], "split": split, **place}
            yield from _streamed(store, _TRACES, parameters, "traces")


def result_tables(store: Store, study_key: str, config: str) -> Rows:
    """The rows of ``leaderboard``, or of ``questions`` run after run."""
    if config == "leaderboard":
        yield from _streamed(store, _LEADERBOARD, {"study": study_key}, config)
        return
    runs = store.query(
        "SELECT run_key FROM study_runs WHERE study_key = ? ORDER BY dataset, model, setting, run_key", [study_key]
    )
    for run in runs:
        yield from _streamed(store, _QUESTIONS, {"study": study_key, "run": run["run_key"]}, config)


def _streamed(store: Store, sql: str, parameters: dict[str, Any], columns: str) -> Rows:
    names = [column.name for column in COLUMNS[columns]]
    with store.connection(read_only=True) as db:
        for batch in db.execute(sql, parameters).to_arrow_reader(_CHUNK):
            yield pa.table(batch).select(names)


def _with_messages(store: Store, rows: pa.Table) -> pa.Table:
    """``rows`` with what the student was trained on: the same examples that its training was given."""
    keys = rows.column("question_key").to_pylist()
    questions = stored_questions(store, sorted(set(keys)))
    texts = rows.select(["trace_id", "thinking", "prediction"]).to_pylist()
    examples = [example(text, questions[key]) for text, key in zip(texts, keys, strict=True)]
    messages = [[message.model_dump() for message in one.messages] for one in examples]
    answers = pa.array([one.answer for one in examples], pa.string())
    return rows.append_column("messages", pa.array(messages, _MESSAGES)).append_column("answer", answers)


def _places(store: Store, study_key: str) -> dict[str, dict[str, int]]:
    """By thought key, between which rows of ``traces`` and of the two tables of texts a run's rows lie: they land together,
    and the rest of these tables is then not read. (No row of them is ever deleted.)"""
    places: dict[str, dict[str, int]] = {}
    for row in store.query(_PLACES, {"study": study_key}):
        key = row.pop("thought_key")
        places.setdefault(key, {}).update({f"{row['place']}_low": row["low"], f"{row['place']}_high": row["high"]})
    return places


_GOLD = """from_json(q.answers, '[{"text": "VARCHAR", "entity": "VARCHAR", "aliases": ["VARCHAR"]}]')"""

_TRAINING = f"""
WITH searched AS (
    SELECT question_key, max(graph) AS graph FROM retrievals
    WHERE list_contains($retrievals::VARCHAR[], retrieval_key) GROUP BY question_key
)
SELECT r.position, r.trace_id, r.question_key, r.prediction, q.dataset, q.question_id, q.text AS question, q.answer_type, q.hops,
       {_GOLD} AS gold, r.recipe, t.model AS teacher,
       from_json(p.messages, '[{{"role": "VARCHAR", "content": "VARCHAR"}}]') AS teacher_messages,
       if(r.recipe = 'fs1', g.graph, NULL) AS graph,
       left(h.text, t.thinking_chars) AS thinking, a.answer_text AS teacher_answer, t.sample, t.prompt_tokens,
       t.thinking_tokens, t.answer_tokens
FROM training_rows r JOIN questions q USING (question_key)
JOIN traces t USING (trace_id) JOIN trace_texts a USING (trace_id) JOIN thought_texts h ON h.thought_id = t.thought_id
JOIN prompts p USING (prompt_key) LEFT JOIN searched g ON g.question_key = r.question_key
WHERE r.training_set = $set AND r.held_out = $held_out AND r.position >= $first AND r.position < $end ORDER BY r.position
"""  # noqa: S608 - constants of this module

_PLACE_NAMES = 6
_PLACES = """
WITH mine AS (SELECT DISTINCT thought_key FROM study_runs WHERE study_key = $study)
SELECT thought_key, 'trace' AS place, min(t.rowid) AS low, max(t.rowid) AS high
FROM traces t SEMI JOIN mine USING (thought_key) GROUP BY thought_key
UNION ALL
SELECT t.thought_key, 'answer', min(a.rowid), max(a.rowid)
FROM trace_texts a JOIN (FROM traces SEMI JOIN mine USING (thought_key)) t USING (trace_id) GROUP BY t.thought_key
UNION ALL
SELECT t.thought_key, 'thought', min(h.rowid), max(h.rowid)
FROM thought_texts h JOIN (FROM thoughts SEMI JOIN mine USING (thought_key)) t USING (thought_id) GROUP BY t.thought_key
"""

# Verdicts are looked up for the pairs of this run alone: of a whole study they are many, and the same for every run.
_TRACES = f"""
WITH mine AS MATERIALIZED (
    SELECT * FROM results WHERE study_key = $study AND run_key = $run AND split = $split
), pairs AS (SELECT DISTINCT gold_key, prediction_key FROM mine
), said AS (
    SELECT v.gold_key, v.prediction_key,
           list({{'judge': j.judge, 'question': j.question, 'grade': v.grade}} ORDER BY j.position) AS verdicts
    FROM pairs JOIN verdicts v USING (gold_key, prediction_key) JOIN study_judges j ON j.judge = v.judge AND j.study_key = $study
    GROUP BY ALL
)
SELECT r.model, n.base, n.trained_on, n.variant, r.role, r.setting, r.dataset, r.question_id, q.text AS question, r.answer_type,
       r.hops, {_GOLD} AS gold, o.flagged, r.sample, r.budget, left(h.text, t.thinking_chars) AS thinking, a.answer_text,
       r.prediction, r.how, r.correct, r.rule, coalesce(s.verdicts, []) AS verdicts, r.cut, r.forced, r.finish, r.extensions,
       r.prompt_tokens, r.thinking_tokens, r.answer_tokens, r.student_key, r.trace_id
FROM mine r JOIN study_runs n USING (study_key, run_key) JOIN questions q USING (question_key)
JOIN traces t ON t.trace_id = r.trace_id AND t.rowid BETWEEN $trace_low AND $trace_high
JOIN trace_texts a ON a.trace_id = r.trace_id AND a.rowid BETWEEN $answer_low AND $answer_high
JOIN thought_texts h ON h.thought_id = r.thought_id AND h.rowid BETWEEN $thought_low AND $thought_high
LEFT JOIN study_overlaps so ON so.study_key = r.study_key AND so.dataset = r.dataset
LEFT JOIN question_overlaps o ON o.overlap_key = so.overlap_key AND o.question_key = r.question_key
LEFT JOIN said s ON s.gold_key = r.gold_key AND s.prediction_key = r.prediction_key
ORDER BY r.question_id, r.sample, r.budget NULLS LAST
"""  # noqa: S608 - constants of this module

_LEADERBOARD = """
SELECT l.*, n.base, n.trained_on, n.variant FROM leaderboard l
JOIN study_runs n USING (study_key, run_key) WHERE l.study_key = $study
ORDER BY l.dataset, l.model, l.setting, l.run_key, l.budget NULLS LAST
"""

_QUESTIONS = f"""
SELECT s.*, n.base, n.trained_on, n.variant, q.text AS question, {_GOLD} AS gold
FROM scores s JOIN study_runs n USING (study_key, run_key) JOIN questions q USING (question_key)
WHERE s.study_key = $study AND s.run_key = $run ORDER BY s.budget NULLS LAST, s.question_id
"""  # noqa: S608 - constants of this module
