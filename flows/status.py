"""What is in a store: its studies, and its units by kind."""

from __future__ import annotations

from typing import Any

from store.connection import Store

Row = dict[str, Any]


def status_rows(store: Store) -> tuple[list[Row], list[Row]]:
    """The studies of a store, and its units by kind with their rows, seconds, tokens and cost in US dollars."""
    studies = store.query(
        "SELECT name, left(study_key, 8) AS key, started_at, (SELECT count(*) FROM study_runs r WHERE r.study_key = "
        "s.study_key) AS runs FROM studies s ORDER BY started_at DESC"
    )
    units = store.query(
        "SELECT kind, count(*) AS units, sum(row_count)::BIGINT AS rows, sum(seconds) AS seconds, "
        # Units share traces and verdicts: what these took is told by their rows.
        "CASE kind WHEN 'verdicts' THEN (SELECT sum(generated_tokens) FROM verdicts) WHEN 'traces' THEN NULL "
        "ELSE sum(generated_tokens) END::BIGINT AS tokens, "
        "CASE kind WHEN 'verdicts' THEN (SELECT sum(cost) FROM verdicts) END AS cost, max(landed_at) AS last "
        "FROM units GROUP BY kind ORDER BY max(landed_at)"
    )
    landed = store.query(
        "SELECT 'paths' AS kind, count(*) AS units, coalesce(sum(paths), 0)::BIGINT AS rows, NULL::DOUBLE AS seconds, "
        "0::BIGINT AS tokens, NULL::DOUBLE AS cost, max(landed_at) AS last FROM retrievals HAVING count(*) > 0"
    )
    traces = store.query(
        "WITH made AS (SELECT generated_tokens AS tokens, cost FROM thoughts UNION ALL "
        "SELECT answer_tokens, cost FROM traces WHERE NOT shared) "
        "SELECT 'traces landed, also of unfinished units' AS kind, NULL::BIGINT AS units, (SELECT count(*) FROM traces) AS "
        "rows, NULL::DOUBLE AS seconds, sum(tokens)::BIGINT AS tokens, sum(cost) AS cost, NULL::TIMESTAMP AS last FROM made"
    )
    return studies, [*landed, *units, *traces]
