"""What the reader of a study asks of the store, as plain rows.

Every function takes a :class:`store.connection.Store` and returns a list of dicts, JSON columns decoded. Budget
``None`` means unlimited everywhere here, also where ``study_runs.budgets`` has 0 for it. Columns that hold long text
are read only by ``training_examples``, and only for the questions asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from store.connection import Store

Rows = list[dict[str, Any]]


def study(store: Store, study_key: str) -> dict[str, Any] | None:
    """The study with this key (study_key, name, spec, started_at); None if there is none."""
    rows = store.query("SELECT * FROM studies WHERE study_key = ?", [study_key])
    return _decoded(rows, "spec")[0] if rows else None


def run_rows(store: Store, study_key: str) -> Rows:
    """The study's runs, each with ``questions`` asked, traces ``expected``, ``landed`` and ``missing``.

    Expected are questions x samples x budgets: a trace that never landed is counted here, since no view can show it.
    ``asked`` counts the questions of each kind: a list of dicts with hops, answer_type, questions.
    """
    rows = store.query(
        """
        WITH kinds AS (
            SELECT s.set_key, q.hops, q.answer_type, count(*) AS questions
            FROM prompt_sets s JOIN questions q USING (question_key)
            WHERE s.set_key IN (SELECT prompt_set FROM study_runs WHERE study_key = $study) GROUP BY ALL
        ), asked AS (
            SELECT set_key, sum(questions)::BIGINT AS questions,
                   list({'hops': hops, 'answer_type': answer_type, 'questions': questions}) AS asked
            FROM kinds GROUP BY set_key
        ), landed AS (SELECT run_key, count(*) AS landed FROM results WHERE study_key = $study GROUP BY run_key)
        SELECT r.*, coalesce(a.questions, 0) AS questions, coalesce(a.asked, []) AS asked, coalesce(l.landed, 0) AS landed
        FROM study_runs r LEFT JOIN asked a ON a.set_key = r.prompt_set LEFT JOIN landed l USING (run_key)
        WHERE r.study_key = $study ORDER BY r.role, r.model, r.dataset, r.setting, r.run_key
        """,
        {"study": study_key},
    )
    for row in rows:
        row["budgets"] = [budget or None for budget in row["budgets"]]
        row["expected"] = row["questions"] * row["samples"] * len(row["budgets"])
        row["missing"] = row["expected"] - row["landed"]
    return rows


def score_columns(store: Store, study_key: str) -> Iterator[tuple[str, int | None, dict[str, list[Any]]]]:
    """The scored questions of each run and budget: (run_key, budget, columns by name), questions in the order of their keys.

    Columns are those of the view ``scores``; the study's scores must have been made (``store.scores.score_study``).
    """
    columns = (
        "question_key, hops, answer_type, flagged, samples, correct, majority, votes, cut, forced, unparsed, refused, judged, "
        "judged_correct, judged_matched, judged_both, thinking_tokens, answer_tokens"
    )
    runs = store.query("SELECT run_key FROM study_runs WHERE study_key = ? ORDER BY run_key", [study_key])
    for run in runs:
        found = store.arrow(
            f"SELECT budget, {columns} FROM scores WHERE study_key = ? AND run_key = ? "  # noqa: S608 - constant columns
            "ORDER BY budget NULLS LAST, question_key",
            [study_key, run["run_key"]],
        )
        budgets = found.column("budget").to_pylist()
        start = 0
        for end in range(1, len(budgets) + 1):
            if end == len(budgets) or budgets[end] != budgets[start]:
                part = found.slice(start, end - start)
                yield (
                    run["run_key"],
                    budgets[start],
                    {name: part.column(name).to_pylist() for name in columns.split(", ")},
                )
                start = end


def length_rows(store: Store, study_key: str) -> Rows:
    """Traces by the length of their thought: one row a run, budget, bin and cut or not (run_key, budget, bin, cut, traces,
    correct, tokens)."""
    return store.query(
        "SELECT r.run_key, l.budget, l.bin, l.cut, l.traces, l.correct, l.tokens FROM study_runs r "
        "JOIN length_scores l USING (score_key) WHERE r.study_key = ? ORDER BY ALL",
        [study_key],
    )


def ballot_rows(store: Store, study_key: str) -> Rows:
    """What the study's judges said of its traces, counted: one row a run, budget and combination of verdicts.

    ``n`` traces are right or not by the matcher (``matched``), ``answered`` (False: no prediction to judge) or ``refused``;
    ``said`` maps the position of each judge that has a verdict on them to its grade, None for an invalid one. Counted
    before it is joined, since samples of a question often predict the same; traces that are not scored are left out.
    """
    rows = store.query(
        """
        WITH answers AS (
            SELECT run_key, budget, gold_key, prediction_key, how = 'refused' AS refused, correct AS matched, count(*) AS n
            FROM results WHERE study_key = $study AND how IS NOT NULL GROUP BY ALL
        ), said AS (
            SELECT v.gold_key, v.prediction_key, list({'position': j.position, 'grade': v.grade} ORDER BY j.position) AS said
            FROM study_judges j JOIN verdicts v USING (judge) WHERE j.study_key = $study GROUP BY ALL
        )
        SELECT a.run_key, a.budget, a.prediction_key IS NOT NULL AS answered, a.refused, a.matched, s.said, sum(a.n)::BIGINT AS n
        FROM answers a LEFT JOIN said s USING (gold_key, prediction_key)
        GROUP BY ALL ORDER BY a.run_key, a.budget NULLS LAST
        """,
        {"study": study_key},
    )
    for row in rows:
        row["said"] = {one["position"]: one["grade"] for one in row["said"] or ()}
    return rows


def judge_rows(store: Store, study_key: str) -> Rows:
    """The study's judges in their order, and what they were asked: one row a judge, counted over distinct verdicts.

    ``pairs`` of gold answers and a prediction are there to be judged; of the ``verdicts`` on them some were ``invalid``, some
    ``retried`` (asked for more than once), some graded ``not_attempted``. ``calls`` and ``cost`` (US dollars; None without
    prices) are what these verdicts took, whichever study paid for them.
    """
    return store.query(
        """
        WITH pairs AS (SELECT DISTINCT gold_key, prediction_key FROM results
                       WHERE study_key = $study AND prediction_key IS NOT NULL)
        SELECT j.position, j.judge, j.model, j.question, count(p.gold_key) AS pairs, count(v.judge) AS verdicts,
               coalesce(sum(v.attempts), 0)::BIGINT AS calls, count(*) FILTER (v.attempts > 1) AS retried,
               count(*) FILTER (v.judge IS NOT NULL AND v.grade IS NULL) AS invalid,
               count(*) FILTER (v.grade = 'not_attempted') AS not_attempted, sum(v.cost) AS cost
        FROM study_judges j LEFT JOIN pairs p ON true
        LEFT JOIN verdicts v ON v.judge = j.judge AND v.gold_key = p.gold_key AND v.prediction_key = p.prediction_key
        WHERE j.study_key = $study GROUP BY ALL ORDER BY j.position
        """,
        {"study": study_key},
    )


def units_of_study(store: Store, study_key: str) -> Rows:
    """Manifest rows of every unit the study stands on, in the order they landed; ``reused``: an earlier study has it too.

    Found from the runs (their traces units and students), then along the keys that the units' specs name: a student
    names its training set, a training set its teachers' traces, predictions name traces, verdicts name predictions.
    """
    rows = _decoded(store.query("SELECT * FROM units ORDER BY landed_at, unit_key"), "spec", "versions")
    mine = _units_below(rows, _roots(store, "study_key = ?", study_key))
    earlier = "study_key IN (SELECT s.study_key FROM studies s, studies t WHERE t.study_key = ? AND "
    older = _units_below(rows, _roots(store, earlier + "s.started_at < t.started_at)", study_key))
    return [{**row, "reused": row["unit_key"] in older} for row in rows if row["unit_key"] in mine]


def training_rows(store: Store, study_key: str) -> dict[str, Rows]:
    """What the study's students were made of: rows of ``students``, ``training_sets`` and ``training_logs`` by name.

    Training sets have the name and the statistics that they have in this study.
    """
    named = store.query(
        "SELECT student_key, trained_on, variant FROM study_students WHERE study_key = $study UNION "
        "SELECT student_key, trained_on, variant FROM study_runs WHERE study_key = $study AND student_key IS NOT NULL "
        "ORDER BY ALL",
        {"study": study_key},
    )
    found = student_rows(store, sorted({row["student_key"] for row in named}))
    # A study that found a student trained has names of its own for it.
    found["students"] = [
        student | {name: row[name] for name in ("trained_on", "variant") if row[name] is not None}
        for student in found["students"]
        for row in named
        if row["student_key"] == student["student_key"]
    ]
    sets = store.query(
        "SELECT t.* REPLACE (n.name AS name, coalesce(u.statistics, t.statistics) AS statistics) FROM study_training_sets n "
        "JOIN training_sets t USING (training_set) LEFT JOIN training_set_units u USING (unit_key) WHERE n.study_key = ? "
        "ORDER BY t.recipe = 'mix', t.recipe DESC, n.name",
        [study_key],
    )
    return {**found, "training_sets": _decoded(sets, "statistics")}


def student_rows(store: Store, student_keys: Sequence[str]) -> dict[str, Rows]:
    """Rows of ``students`` and ``training_logs`` of these students, by the table's name."""
    students = store.query_for(
        student_keys,
        "SELECT * REPLACE (coalesce(trained_on, recipe) AS trained_on, coalesce(variant, '') AS variant) FROM students "
        "SEMI JOIN wanted_ids ON wanted = student_key ORDER BY name, student_key",
    )
    logs = store.query_for(
        student_keys,
        "SELECT * FROM training_logs SEMI JOIN wanted_ids ON wanted = student_key ORDER BY student_key, step",
    )
    return {"students": _decoded(students, "hyperparameters", "manifest"), "training_logs": logs}


def dev_rows(store: Store, study_key: str) -> Rows:
    """The study's students on dev questions, and their bases as they are on the same: rows of the view ``student_quality``.

    ``chosen``: the student was evaluated (None for a base, whose ``student_key`` is None and which stands under each
    training set of its students). Names of sets and variants are the study's.
    """
    return store.query(
        """
        WITH asked AS (
            SELECT v.* REPLACE (s.trained_on AS trained_on, s.variant AS variant), s.chosen FROM study_students s
            JOIN student_quality v ON v.check_key = s.check_key WHERE s.study_key = $study
            UNION
            SELECT v.* REPLACE (s.trained_on AS trained_on), NULL FROM study_students s
            JOIN student_quality v ON v.check_key = s.base_check_key WHERE s.study_key = $study
        )
        FROM asked ORDER BY base, trained_on, student_key IS NOT NULL, accuracy DESC, variant
        """,
        {"study": study_key},
    )


def training_quality_rows(store: Store, study_key: str) -> Rows:
    """What the teachers' traces were worth, a row a training set of the study (the view ``training_quality``)."""
    rows = store.query(
        "SELECT * EXCLUDE (study_key) FROM training_quality WHERE study_key = ? "
        "ORDER BY recipe = 'mix', recipe DESC, name, training_set",
        [study_key],
    )
    return _decoded(rows, "dropped", "sources")


def graphs_of(store: Store, retrieval_key: str, question_keys: Sequence[str]) -> dict[str, str]:
    """The linearised paths of these questions, as a teacher saw them, by question key; those not searched are left out."""
    rows = store.query_for(
        question_keys,
        "SELECT retrieval_key, question_key, graph FROM retrievals SEMI JOIN wanted_ids ON wanted = question_key",
    )
    return {row["question_key"]: row["graph"] for row in rows if row["retrieval_key"] == retrieval_key}


def paths_of(store: Store, retrieval_key: str, question_key: str) -> Rows:
    """The ranked paths of one question, best first; ``triples`` is a list of [subject, predicate, object, literal]."""
    rows = store.query(
        "SELECT * FROM paths WHERE retrieval_key = ? AND question_key = ? ORDER BY rank", [retrieval_key, question_key]
    )
    return _decoded(rows, "triples")


def training_examples(store: Store, study_key: str, questions: int = 4) -> Rows:
    """Teacher traces that the study's students were trained on, one a recipe and question, with prompt and texts.

    They are spread over the numbers of hops; among equals, questions in the training sets of most recipes come first.
    """
    rows = store.query(
        """
        WITH mine AS (
            SELECT tr.recipe, tr.question_key, tr.trace_id, tr.position FROM training_rows tr
            WHERE training_set IN (SELECT s.training_set FROM students s JOIN study_runs r USING (student_key)
                                   WHERE r.study_key = $study)
        ), first AS (SELECT * FROM mine QUALIFY
                     row_number() OVER (PARTITION BY recipe, question_key ORDER BY position, trace_id) = 1
        ), grouped AS (SELECT question_key, count(*) AS recipes, min(position) AS position FROM first GROUP BY ALL
        ), chosen AS (SELECT question_key, recipes, position FROM grouped JOIN questions q USING (question_key)
                      ORDER BY row_number() OVER (PARTITION BY q.hops ORDER BY recipes DESC, position, question_key),
                               recipes DESC, position, question_key LIMIT $questions)
        SELECT f.recipe, f.question_key, q.dataset, q.question_id, q.text AS question, q.answers, q.answer_type, q.hops,
               t.model AS teacher, t.sample, p.messages, left(h.text, t.thinking_chars) AS thinking, a.answer_text,
               t.thinking_tokens, t.answer_tokens, t.cut, t.forced, t.self_contained
        FROM first f JOIN chosen c USING (question_key) JOIN questions q USING (question_key)
        JOIN traces t USING (trace_id) JOIN trace_texts a USING (trace_id)
        JOIN thought_texts h ON h.thought_id = t.thought_id
        JOIN prompts p USING (prompt_key)
        ORDER BY c.recipes DESC, c.position, f.question_key, f.recipe DESC
        """,
        {"study": study_key, "questions": questions},
    )
    return _decoded(rows, "answers", "messages")


class _Roots(NamedTuple):
    """Keys a study's runs name themselves, and which parsers, matchers and judges they were scored by."""

    keys: set[str]
    scorers: set[str]


def _roots(store: Store, which: str, study_key: str) -> _Roots:
    columns = "unit_key, student_key, training_set, parser, matcher"
    rows = store.query(
        f"SELECT {columns} FROM study_runs LEFT JOIN students USING (student_key) WHERE {which}",  # noqa: S608 - our own
        [study_key],
    )
    judges = store.query(f"SELECT judge FROM study_judges WHERE {which}", [study_key])  # noqa: S608 - our own
    near = store.query(f"SELECT overlap_key FROM study_overlaps WHERE {which}", [study_key])  # noqa: S608 - our own
    asked = ("student_key", "training_set", "check_key", "base_check_key")
    trained = store.query(
        f"SELECT {', '.join(asked)} FROM study_students LEFT JOIN students USING (student_key) WHERE {which}",  # noqa: S608
        [study_key],
    )
    drawn = store.query(f"SELECT unit_key FROM study_training_sets WHERE {which}", [study_key])  # noqa: S608 - our own
    keys, scorers = ("unit_key", "student_key", "training_set"), ("parser", "matcher")
    return _Roots(
        {row[name] for row in rows for name in keys if row[name]}
        | {row[name] for row in trained for name in asked if row[name]}
        | {row["unit_key"] for row in drawn if row["unit_key"]}
        | {row["overlap_key"] for row in near},
        {row[name] for row in rows for name in scorers if row[name]} | {row["judge"] for row in judges},
    )


def _units_below(units: Rows, roots: _Roots) -> set[str]:
    wanted, size, scorers = set(roots.keys), -1, set(roots.scorers)
    while size != len(wanted):
        size = len(wanted)
        for unit in units:
            spec, below = unit["spec"], _named_keys(unit["spec"])
            # A training set is known by its content, which only the finished unit can tell.
            if {unit["unit_key"], unit["versions"].get("training_set")} & wanted:
                wanted |= below | {unit["unit_key"]}
                if unit["kind"] == "training_set" and spec.get("judge"):
                    scorers.add(spec["judge"])  # the one who judged the teachers
            elif unit["kind"] in ("predictions", "verdicts") and below & wanted:
                scored_by = {spec[name] for name in ("parser", "matcher", "judge") if name in spec}
                wanted |= {unit["unit_key"]} if scored_by <= scorers else set()
    return wanted


def _named_keys(spec: dict[str, Any]) -> set[str]:
    named: set[str] = set()
    for field in ("traces", "training_set", "predictions"):
        value = spec.get(field)
        if isinstance(value, str):
            named.add(value)
        elif isinstance(value, list):
            named.update(str(key) for key in value)
    for part in spec.get("parts", ()):  # of a training set
        named.update(part["predictions"])
    return named


def _decoded(rows: Rows, *columns: str) -> Rows:
    # DuckDB hands JSON columns over as text.
    for row in rows:
        for column in columns:
            if isinstance(row[column], str):
                row[column] = json.loads(row[column])
    return rows
