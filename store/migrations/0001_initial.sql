-- The results database. Long text stands in tables of its own (prompts, thought_texts, trace_texts), so that a
-- leaderboard never reads it. Every key is content-addressed: equal work has an equal key in every study.

CREATE TABLE units (            -- one row a finished unit of work, written last in the transaction that completes it
    unit_key VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, name VARCHAR NOT NULL, spec JSON NOT NULL,
    row_count BIGINT NOT NULL, seconds DOUBLE NOT NULL,
    prompt_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL, generated_tokens BIGINT NOT NULL,
    versions JSON NOT NULL, host VARCHAR NOT NULL, flow_run_id VARCHAR, landed_at TIMESTAMP NOT NULL DEFAULT current_timestamp
);

CREATE TABLE studies (
    study_key VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, spec JSON NOT NULL,
    started_at TIMESTAMP NOT NULL DEFAULT current_timestamp
);

CREATE TABLE questions (
    question_key VARCHAR PRIMARY KEY, dataset VARCHAR NOT NULL, question_id VARCHAR NOT NULL, split VARCHAR NOT NULL,
    text VARCHAR NOT NULL, answer_type VARCHAR NOT NULL, hops INTEGER, answers JSON NOT NULL, gold_key VARCHAR NOT NULL,
    provenance VARCHAR NOT NULL
);
CREATE TABLE links (
    question_key VARCHAR, entity VARCHAR, role VARCHAR, source VARCHAR NOT NULL,
    PRIMARY KEY (question_key, entity, role)
);

CREATE TABLE labels (snapshot VARCHAR, id VARCHAR, label VARCHAR NOT NULL, PRIMARY KEY (snapshot, id));
CREATE TABLE expansions (       -- which neighbourhoods are known; an expanded entity without edges has a row here and none in edges
    snapshot VARCHAR, entity VARCHAR, direction VARCHAR, cap INTEGER, edges INTEGER NOT NULL, truncated BOOLEAN NOT NULL,
    PRIMARY KEY (snapshot, entity, direction, cap)
);
CREATE TABLE edges (
    snapshot VARCHAR, subject VARCHAR, predicate VARCHAR, object VARCHAR, literal BOOLEAN,
    PRIMARY KEY (snapshot, subject, predicate, object, literal)
);
CREATE TABLE retrievals (       -- one row a question whose paths were searched, also where none was found
    retrieval_key VARCHAR, question_key VARCHAR, snapshot VARCHAR NOT NULL, pairs INTEGER NOT NULL, connected INTEGER NOT NULL, paths INTEGER NOT NULL,
    min_hops INTEGER, truncated INTEGER NOT NULL, graph VARCHAR NOT NULL,
    PRIMARY KEY (retrieval_key, question_key)
);
CREATE TABLE paths (
    retrieval_key VARCHAR, question_key VARCHAR, rank INTEGER, source VARCHAR NOT NULL, target VARCHAR NOT NULL,
    hops INTEGER NOT NULL, score DOUBLE NOT NULL, kept BOOLEAN NOT NULL, triples JSON NOT NULL,
    PRIMARY KEY (retrieval_key, question_key, rank)
);

CREATE TABLE prompts (prompt_key VARCHAR PRIMARY KEY, messages JSON NOT NULL);
CREATE TABLE prompt_sets (      -- which prompt each question of a run was given
    set_key VARCHAR, question_key VARCHAR, dataset VARCHAR NOT NULL, question_id VARCHAR NOT NULL, prompt_key VARCHAR NOT NULL,
    PRIMARY KEY (set_key, question_key)
);
CREATE TABLE thoughts (         -- one row a generated thought, at its full length
    thought_id VARCHAR PRIMARY KEY, thought_key VARCHAR NOT NULL, model VARCHAR NOT NULL, dataset VARCHAR NOT NULL,
    question_id VARCHAR NOT NULL, prompt_key VARCHAR NOT NULL, sample INTEGER NOT NULL, seed BIGINT NOT NULL,
    ended VARCHAR NOT NULL, thinking_tokens INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL
);
CREATE TABLE thought_texts (thought_id VARCHAR PRIMARY KEY, token_ids INTEGER[] NOT NULL, text VARCHAR NOT NULL);
CREATE TABLE traces (           -- one row a thought and budget: the prefix of the thought, and the answer that follows it
    trace_id VARCHAR PRIMARY KEY, thought_id VARCHAR NOT NULL, thought_key VARCHAR NOT NULL, answer_key VARCHAR NOT NULL,
    model VARCHAR NOT NULL, dataset VARCHAR NOT NULL, question_id VARCHAR NOT NULL, prompt_key VARCHAR NOT NULL,
    sample INTEGER NOT NULL, budget INTEGER, -- NULL: no budget
    thinking_tokens INTEGER NOT NULL, thinking_chars INTEGER NOT NULL, cut BOOLEAN NOT NULL, forced BOOLEAN NOT NULL,
    finish VARCHAR NOT NULL, answer_tokens INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    shared BOOLEAN NOT NULL, -- the same prefix was answered for a smaller budget: these answer tokens were generated once
    self_contained BOOLEAN NOT NULL
);
CREATE TABLE trace_texts (trace_id VARCHAR PRIMARY KEY, answer_ids INTEGER[] NOT NULL, answer_text VARCHAR NOT NULL);

CREATE TABLE predictions (
    trace_id VARCHAR, parser VARCHAR, prediction VARCHAR, prediction_key VARCHAR, how VARCHAR NOT NULL, class VARCHAR,
    PRIMARY KEY (trace_id, parser)
);
CREATE TABLE verdicts (
    judge VARCHAR, gold_key VARCHAR, prediction_key VARCHAR, correct BOOLEAN, rule VARCHAR NOT NULL, reply VARCHAR NOT NULL,
    PRIMARY KEY (judge, gold_key, prediction_key)
);

CREATE TABLE training_sets (
    training_set VARCHAR PRIMARY KEY, recipe VARCHAR NOT NULL, row_count INTEGER NOT NULL, statistics JSON NOT NULL
);
CREATE TABLE training_rows (
    training_set VARCHAR, position INTEGER, trace_id VARCHAR NOT NULL, question_key VARCHAR NOT NULL,
    prediction VARCHAR NOT NULL, held_out BOOLEAN NOT NULL,
    PRIMARY KEY (training_set, position)
);
CREATE TABLE students (
    student_key VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, base VARCHAR NOT NULL, recipe VARCHAR NOT NULL,
    training_set VARCHAR NOT NULL, hyperparameters JSON NOT NULL, folder VARCHAR NOT NULL, weights_hash VARCHAR NOT NULL,
    held_out_before DOUBLE, held_out_after DOUBLE, seconds DOUBLE NOT NULL, manifest JSON NOT NULL
);
CREATE TABLE training_logs (
    student_key VARCHAR, step INTEGER, loss DOUBLE, held_out_loss DOUBLE, learning_rate DOUBLE, tokens_per_second DOUBLE,
    PRIMARY KEY (student_key, step)
);

CREATE TABLE study_runs (       -- one row a model, setting and dataset of a study: how to find its traces and verdicts
    study_key VARCHAR, run_key VARCHAR, unit_key VARCHAR NOT NULL, role VARCHAR NOT NULL, model VARCHAR NOT NULL,
    setting VARCHAR NOT NULL, dataset VARCHAR NOT NULL, prompt_set VARCHAR NOT NULL, thought_key VARCHAR NOT NULL,
    answer_key VARCHAR NOT NULL, samples INTEGER NOT NULL, budgets INTEGER[] NOT NULL, parser VARCHAR NOT NULL,
    matcher VARCHAR NOT NULL, judge VARCHAR, student_key VARCHAR, retrieval_key VARCHAR,
    PRIMARY KEY (study_key, run_key)
);

CREATE VIEW results AS          -- one row a trace of a study's run, with its prediction and verdicts; missing ones are NULL
SELECT r.study_key, r.run_key, r.role, r.model, r.setting, r.dataset, r.student_key, r.retrieval_key,
       q.question_key, q.question_id, q.split, q.answer_type, q.hops,
       t.trace_id, t.thought_id, t.sample, t.budget, t.thinking_tokens, t.answer_tokens, t.prompt_tokens, t.cached_tokens,
       t.cut, t.forced, t.finish, p.prediction, p.how, p.class,
       coalesce(m.correct, false) AS correct, m.rule, j.correct AS judged
FROM study_runs r
JOIN prompt_sets s ON s.set_key = r.prompt_set
JOIN questions q USING (question_key)
JOIN traces t ON t.thought_key = r.thought_key AND t.answer_key = r.answer_key AND t.dataset = s.dataset
    AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key AND t.sample < r.samples
    AND list_contains(r.budgets, coalesce(t.budget, 0))
LEFT JOIN predictions p ON p.trace_id = t.trace_id AND p.parser = r.parser
LEFT JOIN verdicts m ON m.judge = r.matcher AND m.gold_key = q.gold_key AND m.prediction_key = p.prediction_key
LEFT JOIN verdicts j ON j.judge = r.judge AND j.gold_key = q.gold_key AND j.prediction_key = p.prediction_key;

CREATE VIEW lineage AS          -- path -> trace -> training set -> student, one row a training trace
SELECT st.student_key, st.name AS student, tr.training_set, tr.position, tr.held_out, q.dataset, q.question_id, t.trace_id,
       t.model AS teacher, ts.recipe, t.prompt_key
FROM students st JOIN training_sets ts USING (training_set) JOIN training_rows tr USING (training_set)
JOIN questions q USING (question_key) JOIN traces t USING (trace_id);
