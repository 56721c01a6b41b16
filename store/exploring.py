"""Questions of a study, found and put in order: what the trace explorer's list asks of the store.

It reads the scores of questions (view ``scores``), never a trace, so that it is quick whatever the number of traces. Rows are
plain dicts, JSON columns decoded; budget ``None`` means unlimited. A caller that asks several things for one page wraps them
in ``store.connection(read_only=True)``, so that the file is opened once. One question is ``store.single_question``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from store.connection import Store
from store.queries import Rows

Outcome = Literal["all", "a_only", "b_only", "both", "neither", "disagree"]
Order = Literal["id", "difference", "tokens"]
PAGE = 50  # questions


class RunAt(NamedTuple):
    """A run of the study, read at one of its budgets."""

    run_key: str
    budget: int | None


class Search(NamedTuple):
    """Which questions are wanted, and in which order; None leaves a filter out.

    ``words`` must all stand in the text or the id, whatever their case. ``a`` and ``b`` are the runs to compare, one a
    dataset; by ``outcome`` a question is right where the majority of a run's samples is. ``hops`` 0: unknown.
    """

    a: tuple[RunAt, ...] = ()
    b: tuple[RunAt, ...] = ()
    words: tuple[str, ...] = ()
    dataset: str | None = None
    hops: int | None = None
    answer_type: str | None = None
    flagged: bool | None = None
    outcome: Outcome = "all"
    order: Order = "id"


class Neighbours(NamedTuple):
    """Where a question stands in a list: ``place`` from 1 of ``total``, and the keys before and after it."""

    place: int
    total: int
    previous: str | None
    next: str | None


def study_runs(store: Store, study_key: str) -> Rows:
    """The study's runs with the keys their traces are found by; ``budgets`` ascending, None (unlimited) last."""
    rows = store.query(
        "SELECT * FROM study_runs WHERE study_key = ? AND role <> 'teacher' "
        "ORDER BY role DESC, parameters, model, setting, dataset, run_key",
        [study_key],
    )
    for row in rows:
        row["budgets"] = [*sorted(b for b in row["budgets"] if b), *([None] if 0 in row["budgets"] else [])]
    return rows


def kinds_of_questions(store: Store, study_key: str) -> Rows:
    """The study's test questions counted by ``dataset``, ``hops``, ``answer_type`` and ``flagged``: what can be filtered by."""
    return store.query(
        f"WITH {_LISTED} SELECT dataset, hops, answer_type, flagged, count(*) AS questions FROM listed "  # noqa: S608
        "GROUP BY ALL ORDER BY ALL",
        {"study": study_key},
    )


def find_questions(store: Store, study_key: str, search: Search, page: int = 1) -> Rows:
    """One page (from 1) of the questions that are wanted, :data:`PAGE` at most; of a page after the last, the last.

    Beside the question each row has ``place`` (from 1), ``total``, and for sides ``a`` and ``b`` ``a_correct`` of
    ``a_samples`` right, ``a_majority`` and ``a_tokens`` (mean a sample); these are None where nothing of it has landed.
    """
    sql, parameters = _placed(study_key, search)
    rows = store.query(
        f"{sql} SELECT p.*, q.text, q.answers FROM placed p JOIN questions q USING (question_key) "  # noqa: S608 - constant
        "WHERE (place - 1) // $size = least($page - 1, (total - 1) // $size) ORDER BY place",
        {**parameters, "page": page, "size": PAGE},
    )
    return decoded(rows, "answers")


def neighbours(store: Store, study_key: str, search: Search, question_key: str) -> Neighbours | None:
    """The place of a question in the list; None if it is not in it."""
    sql, parameters = _placed(study_key, search)
    rows = store.query(
        f"{sql}, beside AS (SELECT question_key, place, total, lag(question_key) OVER (ORDER BY place) AS previous, "  # noqa: S608
        "lead(question_key) OVER (ORDER BY place) AS next FROM placed) "
        "SELECT place, total, previous, next FROM beside WHERE question_key = $question",
        {**parameters, "question": question_key},
    )
    return Neighbours(**rows[0]) if rows else None


# The study's test questions with the flag of their overlap.
_LISTED = """
flags AS (
    SELECT so.dataset, o.question_key FROM study_overlaps so JOIN question_overlaps o USING (overlap_key)
    WHERE so.study_key = $study AND o.flagged
), asked AS (
    SELECT DISTINCT question_key FROM prompt_sets SEMI JOIN (SELECT prompt_set FROM study_runs WHERE study_key = $study)
    ON prompt_set = set_key
), listed AS (
    SELECT q.question_key, q.question_id, q.dataset, q.text, q.answer_type, q.hops,
           f.question_key IS NOT NULL AS flagged
    FROM questions q SEMI JOIN asked USING (question_key)
    LEFT JOIN flags f ON f.question_key = q.question_key AND f.dataset = q.dataset
)"""

_OUTCOMES: dict[Outcome, str] = {
    "all": "true",
    "a_only": "a_majority AND NOT b_majority",
    "b_only": "b_majority AND NOT a_majority",
    "both": "a_majority AND b_majority",
    "neither": "NOT a_majority AND NOT b_majority",
    "disagree": "a_majority <> b_majority",
}
# Ids are ordered as people count: q2 before q10.
_BY_ID = (
    "dataset, regexp_replace(question_id, '[0-9].*', ''), try_cast(regexp_extract(question_id, '[0-9]+') AS HUGEINT), "
    "question_id, question_key"
)
_ORDERS: dict[Order, str] = {
    "id": _BY_ID,
    "difference": f"abs(a_correct / a_samples - b_correct / b_samples) DESC NULLS LAST, {_BY_ID}",
    "tokens": f"greatest(a_tokens, b_tokens) DESC NULLS LAST, {_BY_ID}",
}


def _placed(study_key: str, search: Search) -> tuple[str, dict[str, Any]]:
    """``WITH ... placed``: the wanted questions with place and total; and the statement's parameters."""
    parameters: dict[str, Any] = {
        "study": study_key,
        "words": [word.lower() for word in search.words],
        "dataset": search.dataset,
        "hops": search.hops,
        "answer_type": search.answer_type,
        "flagged": search.flagged,
    }
    a, b = (_side(name, runs, parameters) for name, runs in (("a", search.a), ("b", search.b)))
    sql = f"""
    WITH {_LISTED}, {a}, {b}, wanted AS (
        SELECT * EXCLUDE (text) FROM listed LEFT JOIN a USING (question_key) LEFT JOIN b USING (question_key)
        WHERE len(list_filter($words::VARCHAR[], lambda w: NOT contains(lower(text || ' ' || question_id), w))) = 0
        AND ($dataset::VARCHAR IS NULL OR dataset = $dataset) AND ($hops::INTEGER IS NULL OR coalesce(hops, 0) = $hops)
        AND ($answer_type::VARCHAR IS NULL OR answer_type = $answer_type)
        AND ($flagged::BOOLEAN IS NULL OR flagged = $flagged) AND {_OUTCOMES[search.outcome]}
    ), placed AS (
        SELECT *, row_number() OVER (ORDER BY {_ORDERS[search.order]}) AS place, count(*) OVER () AS total FROM wanted
    )"""  # noqa: S608 - constant text
    return sql, parameters


def _side(name: str, runs: Sequence[RunAt], parameters: dict[str, Any]) -> str:
    """``a AS (...)``: the scores of one side's runs, for which ``parameters`` are added.

    Runs and budgets are constants of the statement, since DuckDB then skips the rows of all others; a join reads them.
    """
    parts = []
    for number, budget in enumerate(dict.fromkeys(run.budget for run in runs)):
        keys = {f"{name}{number}_{place}": run.run_key for place, run in enumerate(runs) if run.budget == budget}
        parameters |= keys | ({} if budget is None else {f"{name}{number}": budget})
        parts.append(
            f"SELECT question_key, correct AS {name}_correct, samples AS {name}_samples, "  # noqa: S608 - our own names
            f"list_last(majority) AS {name}_majority, (thinking_tokens + answer_tokens) / samples AS {name}_tokens FROM scores "
            f"WHERE study_key = $study AND run_key IN ({', '.join(f'${key}' for key in keys)}) "
            f"AND budget {'IS NULL' if budget is None else f'= ${name}{number}'}"
        )
    nothing = (
        f"SELECT '' AS question_key, 0 AS {name}_correct, 0 AS {name}_samples, false AS {name}_majority, 0.0 AS {name}_tokens "
        "WHERE false"
    )
    return f"{name} AS ({' UNION ALL '.join(parts) or nothing})"


def decoded(rows: Rows, *columns: str) -> Rows:
    """The rows, with JSON columns decoded in place: DuckDB hands them over as text."""
    for row in rows:
        for column in columns:
            if isinstance(row[column], str):
                row[column] = json.loads(row[column])
    return rows
