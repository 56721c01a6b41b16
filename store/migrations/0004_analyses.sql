-- Scores a question, so that tables and plots over millions of traces are read in milliseconds; overlap of test questions with
-- what students were trained on; views for the analyses of the study. Shares in views carry a standard error over questions
-- (questions, not samples, are what varies); intervals and tests are the report's.

-- The long texts have no index: a row stands beside its thought or trace, whose key is unique, and lands with it.
CREATE TABLE plain_thought_texts (thought_id VARCHAR NOT NULL, token_ids INTEGER[] NOT NULL, text VARCHAR NOT NULL);
INSERT INTO plain_thought_texts FROM thought_texts;
DROP TABLE thought_texts;
ALTER TABLE plain_thought_texts RENAME TO thought_texts;
CREATE TABLE plain_trace_texts (trace_id VARCHAR NOT NULL, answer_ids INTEGER[] NOT NULL, answer_text VARCHAR NOT NULL);
INSERT INTO plain_trace_texts FROM trace_texts;
DROP TABLE trace_texts;
ALTER TABLE plain_trace_texts RENAME TO trace_texts;

ALTER TABLE study_runs ADD COLUMN parameters BIGINT;    -- of the base model; NULL: unknown
ALTER TABLE study_runs ADD COLUMN score_key VARCHAR;    -- the run's traces as read by its parser, matcher and first judge
UPDATE study_runs SET score_key = left(sha256(concat_ws('|', unit_key, parser, matcher, coalesce(judge, ''))), 32);

CREATE TABLE scored (           -- whose scores are there; derived from traces, predictions and verdicts, and made again if it is gone
    score_key VARCHAR PRIMARY KEY, traces BIGINT NOT NULL, scored_at TIMESTAMP NOT NULL DEFAULT current_timestamp
);
CREATE TABLE question_scores (  -- one row a score_key, budget and question, counted over its scored samples; NULL budget: none
    score_key VARCHAR NOT NULL, budget INTEGER, question_key VARCHAR NOT NULL,
    samples INTEGER NOT NULL, correct INTEGER NOT NULL, -- by the matcher
    majority BOOLEAN[] NOT NULL, -- at k: is the majority of the first k samples right
    votes INTEGER NOT NULL,      -- of the winning class among all samples
    classes INTEGER NOT NULL,    -- distinct answers
    cut INTEGER NOT NULL, forced INTEGER NOT NULL, unparsed INTEGER NOT NULL, refused INTEGER NOT NULL,
    judged INTEGER NOT NULL, judged_correct INTEGER NOT NULL, -- predictions with a valid verdict of the first judge
    judged_matched INTEGER NOT NULL, judged_both INTEGER NOT NULL, -- of the judged: right by the matcher, by both
    thinking_tokens BIGINT NOT NULL, answer_tokens BIGINT NOT NULL
);
CREATE TABLE length_scores (    -- traces by the length of their thought, in half octaves: bin b holds 2^(b/2) to 2^((b+1)/2); -1: none
    score_key VARCHAR NOT NULL, budget INTEGER, bin INTEGER NOT NULL, cut BOOLEAN NOT NULL,
    traces BIGINT NOT NULL, correct BIGINT NOT NULL, tokens BIGINT NOT NULL
);

CREATE TABLE question_overlaps (         -- one row a test question: how near the nearest training question is, and whether a prompt gave it away
    overlap_key VARCHAR, question_key VARCHAR, dataset VARCHAR NOT NULL,
    nearest VARCHAR,            -- question_key of the most similar training question
    exact BOOLEAN NOT NULL,     -- the same words, normalised
    ngram DOUBLE NOT NULL,      -- share of its word n-grams that one training question has
    cosine DOUBLE,              -- of sentence embeddings; NULL: no encoder
    leak VARCHAR,               -- question, fact: what of it stands in a training prompt; NULL: nothing
    leaked_in VARCHAR,          -- question_key of the training question with that prompt
    flagged BOOLEAN NOT NULL,
    PRIMARY KEY (overlap_key, question_key)
);
CREATE TABLE study_overlaps (study_key VARCHAR, dataset VARCHAR, overlap_key VARCHAR NOT NULL, PRIMARY KEY (study_key, dataset));

CREATE MACRO pass_at_k(n, c, k) AS -- Chen et al. 2021, the product form; list_product([]) is NULL, hence coalesce
    CASE WHEN k > n THEN NULL WHEN n - c < k THEN 1.0
         ELSE 1.0 - coalesce(list_product([1.0 - k / i for i in range(n - c + 1, n + 1)]), 1.0) END;

CREATE VIEW scores AS           -- one row a study's run, budget and question; without any trace's text, and fast
SELECT r.study_key, r.run_key, r.role, r.model, r.parameters, r.setting, r.dataset, r.student_key, s.budget, s.question_key,
       q.question_id, q.hops, q.answer_type, coalesce(o.flagged, false) AS flagged, s.* EXCLUDE (score_key, budget, question_key)
FROM study_runs r JOIN question_scores s USING (score_key) JOIN questions q USING (question_key)
LEFT JOIN study_overlaps so ON so.study_key = r.study_key AND so.dataset = r.dataset
LEFT JOIN question_overlaps o ON o.overlap_key = so.overlap_key AND o.question_key = s.question_key;

CREATE VIEW leaderboard AS      -- one row a study's run and budget; clean: without questions that overlap with training
WITH asked AS (SELECT set_key, count(*) AS questions FROM prompt_sets GROUP BY set_key
), kinds AS (
    SELECT r.study_key, r.run_key, s.budget, s.samples, s.correct, count(*) AS questions
    FROM study_runs r JOIN question_scores s USING (score_key) GROUP BY ALL
), passes AS (                  -- fractions are added in an order, so that two readings agree to the last digit
    SELECT study_key, run_key, budget, sum(questions * (correct / samples) ORDER BY samples, correct) AS share,
           sum(questions * pow(correct / samples, 2) ORDER BY samples, correct) AS squares,
           sum(questions * pass_at_k(samples, correct, 2) ORDER BY samples, correct) / sum(questions) FILTER (samples >= 2) AS pass_2,
           sum(questions * pass_at_k(samples, correct, 4) ORDER BY samples, correct) / sum(questions) FILTER (samples >= 4) AS pass_4,
           sum(questions * pass_at_k(samples, correct, 8) ORDER BY samples, correct) / sum(questions) FILTER (samples >= 8) AS pass_8,
           sum(questions * pass_at_k(samples, correct, 16) ORDER BY samples, correct) / sum(questions) FILTER (samples >= 16) AS pass_16
    FROM kinds GROUP BY ALL
), counted AS (
    SELECT r.study_key, r.run_key, s.budget, count(*) AS n, avg(s.majority[s.samples]::INT) AS majority,
           sum(s.samples)::BIGINT AS traces, sum(s.cut)::BIGINT AS cut, sum(s.forced)::BIGINT AS forced,
           sum(s.unparsed)::BIGINT AS unparsed, sum(s.refused)::BIGINT AS refused, sum(s.judged)::BIGINT AS judged,
           sum(s.judged_correct)::BIGINT AS judged_correct, sum(s.thinking_tokens) AS thinking, sum(s.answer_tokens) AS answers
    FROM study_runs r JOIN question_scores s USING (score_key) GROUP BY ALL
), flagged AS (                 -- few: their part is taken away again, so that the many need no second join
    SELECT r.study_key, r.run_key, s.budget, count(*) AS n, sum(s.correct / s.samples ORDER BY s.samples, s.correct) AS share
    FROM study_overlaps so JOIN question_overlaps o ON o.overlap_key = so.overlap_key AND o.flagged
    JOIN study_runs r ON r.study_key = so.study_key AND r.dataset = so.dataset
    JOIN question_scores s ON s.score_key = r.score_key AND s.question_key = o.question_key
    GROUP BY ALL
)
SELECT r.study_key, r.run_key, r.role, r.model, r.parameters, r.setting, r.dataset, c.budget, a.questions, c.n,
       p.share / c.n AS accuracy, sqrt(greatest(p.squares - p.share * p.share / c.n, 0) / nullif(c.n - 1, 0) / c.n) AS standard_error,
       c.majority, p.share / c.n AS pass_1, p.pass_2, p.pass_4, p.pass_8, p.pass_16,
       c.n - coalesce(f.n, 0) AS n_clean, (p.share - coalesce(f.share, 0)) / nullif(c.n - coalesce(f.n, 0), 0) AS accuracy_clean,
       c.traces, c.cut, c.forced, c.unparsed, c.refused, a.questions * r.samples - c.traces AS missing,
       if(c.judged > 0, c.judged_correct / (c.judged + c.unparsed + c.refused), NULL) AS judge_accuracy,
       c.thinking / c.traces AS thinking_tokens, c.answers / c.traces AS answer_tokens
FROM counted c JOIN study_runs r USING (study_key, run_key) JOIN asked a ON a.set_key = r.prompt_set
JOIN passes p ON p.study_key = c.study_key AND p.run_key = c.run_key AND p.budget IS NOT DISTINCT FROM c.budget
LEFT JOIN flagged f ON f.study_key = c.study_key AND f.run_key = c.run_key AND f.budget IS NOT DISTINCT FROM c.budget;

CREATE VIEW accuracy_by_hops AS
SELECT study_key, run_key, model, parameters, setting, dataset, budget, hops, count(*) AS n, avg(correct / samples) AS accuracy,
       stddev_samp(correct / samples) / sqrt(count(*)) AS standard_error, count(*) FILTER (flagged) AS flagged,
       sum(samples)::BIGINT AS traces, sum(cut)::BIGINT AS cut, sum(unparsed)::BIGINT AS unparsed, sum(refused)::BIGINT AS refused
FROM scores GROUP BY ALL;

CREATE VIEW accuracy_by_answer_type AS
SELECT study_key, run_key, model, parameters, setting, dataset, budget, answer_type, count(*) AS n,
       avg(correct / samples) AS accuracy, stddev_samp(correct / samples) / sqrt(count(*)) AS standard_error,
       count(*) FILTER (flagged) AS flagged, sum(samples)::BIGINT AS traces, sum(cut)::BIGINT AS cut,
       sum(unparsed)::BIGINT AS unparsed, sum(refused)::BIGINT AS refused
FROM scores GROUP BY ALL;

CREATE VIEW accuracy_by_model_size AS -- over all datasets of the study; datasets weigh equally, as do questions in a dataset
WITH by_dataset AS (
    SELECT study_key, role, model, parameters, setting, budget, dataset, count(*) AS n, avg(correct / samples) AS accuracy
    FROM scores GROUP BY ALL
)
SELECT study_key, role, model, parameters, setting, budget, count(*) AS datasets, sum(n)::BIGINT AS n, avg(accuracy) AS accuracy
FROM by_dataset GROUP BY ALL;

CREATE VIEW pass_curves AS      -- pass@k and the majority of the first k samples, for every k
WITH kinds AS (
    SELECT r.study_key, r.run_key, r.model, r.setting, r.dataset, s.budget, s.samples, s.correct, count(*) AS questions
    FROM study_runs r JOIN question_scores s USING (score_key) GROUP BY ALL
), passes AS (
    SELECT study_key, run_key, model, setting, dataset, budget, k, sum(questions)::BIGINT AS n,
           sum(questions * pass_at_k(samples, correct, k)) / sum(questions) AS pass_at_k
    FROM (SELECT *, unnest(range(1, samples + 1)) AS k FROM kinds) GROUP BY ALL
), majorities AS (
    SELECT study_key, run_key, budget, k, avg(is_right::INT) AS majority_at_k
    FROM (SELECT r.study_key, r.run_key, s.budget, unnest(s.majority) AS is_right, generate_subscripts(s.majority, 1) AS k
          FROM study_runs r JOIN question_scores s USING (score_key)) GROUP BY ALL
)
SELECT p.*, m.majority_at_k
FROM passes p JOIN majorities m ON m.study_key = p.study_key AND m.run_key = p.run_key AND m.k = p.k
    AND m.budget IS NOT DISTINCT FROM p.budget;

CREATE VIEW trace_lengths AS    -- accuracy of traces by the length of their thought (tokens), in half octaves
SELECT r.study_key, r.run_key, r.model, r.setting, r.dataset, l.budget, l.bin, l.cut,
       if(l.bin < 0, 0, pow(2, l.bin / 2)) AS from_tokens, l.traces, l.correct, l.correct / l.traces AS accuracy,
       l.tokens / l.traces AS mean_tokens
FROM study_runs r JOIN length_scores l USING (score_key);

CREATE VIEW judge_against_matcher AS -- the first judge on the predictions it gave a valid verdict on; kappa is Cohen's
WITH counted AS (
    SELECT study_key, run_key, model, setting, dataset, budget, sum(judged)::BIGINT AS n,
           sum(samples - unparsed - refused - judged)::BIGINT AS without_verdict, sum(judged_both)::BIGINT AS both_right,
           sum(judged_correct - judged_both)::BIGINT AS judge_only, sum(judged_matched - judged_both)::BIGINT AS matcher_only
    FROM scores GROUP BY ALL
), shared AS (
    SELECT *, n - both_right - judge_only - matcher_only AS both_wrong,
           (n - judge_only - matcher_only) / nullif(n, 0) AS agreement,
           ((both_right + judge_only) * (both_right + matcher_only)
            + (n - both_right - judge_only) * (n - both_right - matcher_only)) / nullif(n::DOUBLE * n, 0) AS by_chance
    FROM counted
)
SELECT *, (agreement - by_chance) / nullif(1 - by_chance, 0) AS kappa FROM shared WHERE n > 0;

CREATE VIEW training_quality AS -- what teachers' traces were worth, one row a study's training set: rt against fs1
SELECT r.study_key, t.training_set, t.recipe, t.row_count AS kept, (t.statistics ->> 'candidates')::BIGINT AS candidates,
       (t.statistics ->> 'accuracy')::DOUBLE AS accuracy, (t.statistics ->> 'mean_thinking_tokens')::DOUBLE AS mean_thinking_tokens,
       t.statistics -> 'dropped' AS dropped, count(DISTINCT s.student_key) AS students,
       avg(s.held_out_before) AS held_out_before, avg(s.held_out_after) AS held_out_after
FROM study_runs r JOIN students s USING (student_key) JOIN training_sets t USING (training_set) GROUP BY ALL;

CREATE OR REPLACE VIEW lineage AS -- path -> trace -> training set -> student -> answer -> verdict; name an answer_trace or a training_trace
SELECT r.study_key, p.rank AS path_rank, p.source AS path_from, p.target AS path_to, p.triples AS path,
       tq.dataset AS training_dataset, tq.question_id AS training_question, tt.model AS teacher, ts.recipe,
       tr.trace_id AS training_trace, tr.training_set, tr.position, tr.held_out, st.student_key, st.name AS student,
       r.run_key, r.setting, r.dataset, q.question_id, t.trace_id AS answer_trace, t.sample, t.budget, a.prediction,
       coalesce(m.correct, false) AS correct, j.correct AS judged
FROM study_runs r
JOIN students st USING (student_key) JOIN training_sets ts USING (training_set) JOIN training_rows tr USING (training_set)
JOIN questions tq ON tq.question_key = tr.question_key JOIN traces tt ON tt.trace_id = tr.trace_id
LEFT JOIN paths p ON ts.recipe = 'fs1' AND p.retrieval_key = r.retrieval_key AND p.question_key = tr.question_key AND p.kept
JOIN prompt_sets s ON s.set_key = r.prompt_set
JOIN questions q ON q.question_key = s.question_key
JOIN traces t ON t.thought_key = r.thought_key AND t.answer_key = r.answer_key AND t.dataset = s.dataset
    AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key AND t.sample < r.samples
    AND list_contains(r.budgets, coalesce(t.budget, 0))
LEFT JOIN predictions a ON a.trace_id = t.trace_id AND a.parser = r.parser
LEFT JOIN verdicts m ON m.judge = r.matcher AND m.gold_key = q.gold_key AND m.prediction_key = a.prediction_key
LEFT JOIN verdicts j ON j.judge = r.judge AND j.gold_key = q.gold_key AND j.prediction_key = a.prediction_key;
