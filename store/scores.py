"""Scores a question: what tables and plots of a study are made of, so that they never read its traces.

A trace has a row of its own, and a study has millions. What its statistics need of a question is how many samples are right,
what the majority says, how many were cut, refused, unparsed: one row a run, budget and question, counted once, when the
study's verdicts are complete. These rows are derived: they can be dropped and made again at any time.
"""

from __future__ import annotations

from store.connection import Store

_RUNS_A_TIME = 12  # of a study: bounds the memory of the window functions to some hundred thousand traces


def score_study(store: Store, study_key: str) -> int:
    """Make the scores that the study lacks, a few runs in one transaction. Returns the number of traces that were counted.

    Runs that an earlier study scored in the same way are not counted again.
    """
    counted = 0
    while keys := _missing(store, study_key):
        with store.transaction() as db:
            db.execute("CREATE OR REPLACE TEMP TABLE scoring (score_key VARCHAR)")
            db.executemany("INSERT INTO scoring VALUES (?)", [[key] for key in keys])
            for table in ("question_scores", "length_scores", "scored"):
                # What a killed transaction left cannot be here, but rows without their `scored` row are not to be doubled.
                db.execute(f"DELETE FROM {table} WHERE score_key IN (SELECT score_key FROM scoring)")  # noqa: S608
            db.execute(_TRACES, {"study": study_key})
            db.execute(_QUESTIONS)
            db.execute(_LENGTHS)
            db.execute(
                "INSERT INTO scored (score_key, traces) SELECT k.score_key, count(t.score_key) FROM scoring k "
                "LEFT JOIN scoring_traces t USING (score_key) GROUP BY k.score_key"
            )
            found = db.execute("SELECT count(*) FROM scoring_traces").fetchone()
            db.execute("DROP TABLE scoring_traces")
            db.execute("DROP TABLE scoring")
            counted += int(found[0]) if found else 0
    return counted


def _missing(store: Store, study_key: str) -> list[str]:
    rows = store.query(
        "SELECT DISTINCT score_key FROM study_runs ANTI JOIN scored USING (score_key) WHERE study_key = ? "
        "AND role <> 'teacher' ORDER BY score_key LIMIT ?",
        [study_key, _RUNS_A_TIME],
    )
    return [row["score_key"] for row in rows]


# A trace that is not scored yet (how is NULL) is missing. Two runs of a study may share a score_key: one is read.
_TRACES = """
CREATE OR REPLACE TEMP TABLE scoring_traces AS
WITH chosen AS (
    SELECT r.score_key, min(r.run_key) AS run_key FROM study_runs r SEMI JOIN scoring USING (score_key)
    WHERE r.study_key = $study GROUP BY r.score_key
)
SELECT c.score_key, t.budget, t.question_key, t.sample, t.class, t.correct, t.how, t.cut, t.forced, t.judged,
       t.thinking_tokens, t.answer_tokens
FROM results t JOIN chosen c USING (run_key) WHERE t.study_key = $study AND t.how IS NOT NULL
"""

# The majority of the first k samples: the class with the most votes, of several the one that had them first. A class that
# ends with m votes got its m-th at one sample, so the winner after k samples is that of the highest running count, the
# earliest of equals; its verdict is that of its first sample. NULL classes (no answer) have no vote.
_QUESTIONS = """
INSERT INTO question_scores
WITH voted AS (
    SELECT *, row_number() OVER q AS position,
           if(class IS NULL, NULL, row_number() OVER c) AS votes, first_value(correct) OVER c AS class_correct
    FROM scoring_traces WINDOW q AS (PARTITION BY score_key, budget, question_key ORDER BY sample),
         c AS (PARTITION BY score_key, budget, question_key, class ORDER BY sample)
), ranked AS (
    SELECT *, coalesce(arg_max(class_correct, votes * 1000000 - position) OVER (
                  PARTITION BY score_key, budget, question_key ORDER BY position), false) AS majority
    FROM voted
)
SELECT score_key, budget, question_key, count(*), count_if(correct), list(majority ORDER BY position), coalesce(max(votes), 0),
       count(DISTINCT class), count_if(cut), count_if(forced), count_if(how = 'none'), count_if(how = 'refused'),
       count_if(asked), count_if(asked AND judged), count_if(asked AND correct), count_if(asked AND judged AND correct),
       sum(thinking_tokens), sum(answer_tokens)
FROM (SELECT *, how NOT IN ('none', 'refused') AND judged IS NOT NULL AS asked FROM ranked)
GROUP BY score_key, budget, question_key ORDER BY score_key, budget, question_key
"""

_LENGTHS = """
INSERT INTO length_scores
SELECT score_key, budget, if(thinking_tokens > 0, floor(2 * log2(thinking_tokens))::INTEGER, -1) AS bin, cut, count(*),
       count_if(correct), sum(thinking_tokens)
FROM scoring_traces GROUP BY ALL ORDER BY ALL
"""
