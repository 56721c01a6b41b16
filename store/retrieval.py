"""What the report on retrieval asks of the store, as plain rows.

A store holds the retrievals of several studies, so that every function takes one retrieval's key and the keys of the
questions that are meant; keys of questions that were not searched give no row. Each is one set-based query, whatever the
number of questions. The views of ``migrations/0002_retrieval.sql`` give the same to people, over all questions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from store.connection import Store
from store.queries import Rows


def report_rows(
    store: Store, retrieval_key: str, question_keys: Sequence[str], control_key: str | None = None
) -> dict[str, Rows]:
    """Everything that ``eval.retrieval_summary.RetrievalRows`` holds, by the names of its fields."""
    return {
        "questions": question_rows(store, retrieval_key, question_keys),
        "controls": control_rows(store, retrieval_key, question_keys, control_key),
        "pairs": pair_rows(store, retrieval_key, question_keys),
        "hops": hop_rows(store, retrieval_key, question_keys),
        "requests": request_rows(store, retrieval_key),
        "expansions": expansion_rows(store, retrieval_key),
        "searched": searched_rows(store, retrieval_key),
    }


def question_rows(store: Store, retrieval_key: str, question_keys: Sequence[str]) -> Rows:
    """One row a searched question: its dataset, split, link sources, and counts of pairs, paths, lines and tokens."""
    return _rows_for(
        store,
        question_keys,
        """
        SELECT q.question_key, q.dataset, q.split, q.question_source, q.answer_source, q.linked, q.pairs, q.connected,
               q.specific, q.min_hops, p.min_specific_hops, p.found, p.kept, q.truncated, q.lines, q.tokens, q.unlabelled,
               q.duplicates
        FROM retrieval_questions q SEMI JOIN wanted_ids ON wanted = q.question_key
        JOIN retrieval_paths p ON p.retrieval_key = q.retrieval_key AND p.question_key = q.question_key
        WHERE q.retrieval_key = $retrieval ORDER BY q.dataset, q.split, q.question_id, q.question_key
        """,
        retrieval=retrieval_key,
    )


def control_rows(
    store: Store, retrieval_key: str, question_keys: Sequence[str], control_key: str | None = None
) -> Rows:
    """One row a question with a wrong-answer control: hops to a right and to a wrong answer, None without a path.

    A retrieval may have several controls, of other sets of questions or seeds: without a ``control_key`` it is each
    question's newest.
    """
    return _rows_for(
        store,
        question_keys,
        """
        SELECT c.question_key, q.dataset, q.split, c.answer_hops, c.answer_specific_hops, c.hops AS wrong_hops,
               c.specific_hops AS wrong_specific_hops
        FROM retrieval_controls c SEMI JOIN wanted_ids ON wanted = c.question_key
        JOIN questions q USING (question_key)
        WHERE c.retrieval_key = $retrieval AND c.control_key = coalesce($control, c.control_key)
        QUALIFY row_number() OVER (PARTITION BY c.question_key ORDER BY c.landed_at DESC, c.control_key) = 1
        ORDER BY q.dataset, q.split, q.question_id, c.question_key
        """,
        retrieval=retrieval_key,
        control=control_key,
    )


def pair_rows(store: Store, retrieval_key: str, question_keys: Sequence[str]) -> Rows:
    """Pairs of question entity and target by dataset and split, and one row of all (dataset None), if there is any pair.

    ``p50``, ``p95`` and ``most`` are paths of a connected pair: the least count that this share of the pairs stays within.
    """
    return _rows_for(
        store,
        question_keys,
        """
        SELECT q.dataset, q.split, count(*) AS pairs, count(p.hops) AS connected, count(p.specific_hops) AS specific,
               quantile_disc(p.paths, 0.5) FILTER (p.hops IS NOT NULL) AS p50,
               quantile_disc(p.paths, 0.95) FILTER (p.hops IS NOT NULL) AS p95,
               max(p.paths) FILTER (p.hops IS NOT NULL) AS most
        FROM retrieval_pairs p SEMI JOIN wanted_ids ON wanted = p.question_key JOIN questions q USING (question_key)
        WHERE p.retrieval_key = $retrieval
        GROUP BY GROUPING SETS ((q.dataset, q.split), ()) HAVING count(*) > 0 ORDER BY q.dataset, q.split
        """,
        retrieval=retrieval_key,
    )


def hop_rows(store: Store, retrieval_key: str, question_keys: Sequence[str]) -> Rows:
    """Pairs by dataset, split, hops of the shortest path and of the shortest specific one; None: there is none."""
    return _rows_for(
        store,
        question_keys,
        """
        SELECT q.dataset, q.split, p.hops, p.specific_hops, count(*) AS pairs
        FROM retrieval_pairs p SEMI JOIN wanted_ids ON wanted = p.question_key JOIN questions q USING (question_key)
        WHERE p.retrieval_key = $retrieval GROUP BY ALL ORDER BY ALL
        """,
        retrieval=retrieval_key,
    )


def request_rows(store: Store, retrieval_key: str) -> Rows:
    """Requests to the endpoint for the retrieval's snapshot, by purpose, outcome and status; whoever asked.

    ``attempts`` counts all tries of these requests, ``bytes`` what was read; ``seconds`` and ``waited`` are sums.
    """
    return store.query(
        """
        SELECT purpose, outcome, status, count(*) AS requests, sum(attempts)::BIGINT AS attempts,
               sum(bytes)::BIGINT AS bytes, sum(seconds) AS seconds, sum(waited) AS waited,
               sum(row_count)::BIGINT AS row_count
        FROM endpoint_requests SEMI JOIN retrievals r ON r.snapshot = endpoint_requests.snapshot AND r.retrieval_key = $retrieval
        GROUP BY ALL ORDER BY requests DESC, purpose, outcome, status
        """,
        {"retrieval": retrieval_key},
    )


def expansion_rows(store: Store, retrieval_key: str) -> Rows:
    """Neighbourhoods of the retrieval's snapshot that are in the store, by direction and cap: how many were cut there."""
    return store.query(
        """
        SELECT e.direction, e.cap, count(*) AS entities, count(*) FILTER (e.truncated) AS truncated,
               sum(e.edges)::BIGINT AS edges
        FROM expansions e SEMI JOIN retrievals r ON r.snapshot = e.snapshot AND r.retrieval_key = $retrieval
        GROUP BY ALL ORDER BY e.direction, e.cap
        """,
        {"retrieval": retrieval_key},
    )


def searched_rows(store: Store, retrieval_key: str) -> Rows:
    """One row: questions, and distinct pairs, that any retrieval searched in this snapshot; what requests are divided by."""
    return store.query(
        """
        WITH same AS (
            SELECT retrieval_key, question_key FROM retrievals
            WHERE snapshot IN (SELECT snapshot FROM retrievals WHERE retrieval_key = $retrieval)
        )
        SELECT count(DISTINCT question_key) AS questions,
               (SELECT count(*) FROM (SELECT DISTINCT source, target FROM retrieval_pairs
                                      SEMI JOIN same USING (retrieval_key, question_key))) AS pairs
        FROM same
        """,
        {"retrieval": retrieval_key},
    )


def example_rows(store: Store, retrieval_key: str, question_keys: Sequence[str], count: int = 6) -> Rows:
    """Up to ``count`` questions with kept paths, with text, answers and linearised ``graph``, to be shown with a picture.

    They are spread over hops, over having a specific path or not, and over datasets; among equals the key decides, which
    is a hash, so that nobody has picked them.
    """
    rows = _rows_for(
        store,
        question_keys,
        """
        WITH shown AS (
            SELECT p.*, p.min_specific_hops IS NOT NULL AS specific_path
            FROM retrieval_paths p SEMI JOIN wanted_ids ON wanted = p.question_key
            WHERE p.retrieval_key = $retrieval AND p.kept > 0
        ), placed AS (
            SELECT *, row_number() OVER (PARTITION BY dataset, min_hops, specific_path ORDER BY question_key) AS place FROM shown
        ), chosen AS (
            SELECT *, row_number() OVER (PARTITION BY min_hops, specific_path ORDER BY place, question_key) AS turn
            FROM placed ORDER BY turn, min_hops, specific_path DESC, question_key LIMIT $count
        )
        SELECT c.question_key, c.dataset, c.question_id, c.split, q.text AS question, q.answers, q.answer_type, r.graph,
               r.snapshot, c.min_hops, c.min_specific_hops, c.found, c.kept
        FROM chosen c JOIN questions q USING (question_key) JOIN retrievals r USING (retrieval_key, question_key)
        ORDER BY c.turn, c.min_hops, c.specific_path DESC, c.question_key
        """,
        retrieval=retrieval_key,
        count=count,
    )
    return [{**row, "answers": json.loads(row["answers"])} for row in rows]


def _rows_for(store: Store, question_keys: Sequence[str], sql: str, **parameters: str | int | None) -> Rows:
    """Rows of a statement that names ``wanted_ids``, as ``Store.query_for`` gives them, and parameters."""
    with store.connection(read_only=True) as db:
        db.register("wanted_ids", pa.table({"wanted": pa.array(question_keys, pa.string())}))
        try:
            return store.query(sql, parameters)
        finally:
            db.unregister("wanted_ids")
