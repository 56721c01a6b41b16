-- Students of mixes and sweeps, what training took step by step, and how students compare on dev questions.

ALTER TABLE training_logs ADD COLUMN tokens BIGINT;         -- read since the start, padding not counted
ALTER TABLE training_logs ADD COLUMN seconds DOUBLE;        -- since the start, over all attempts
ALTER TABLE training_logs ADD COLUMN memory_bytes BIGINT;   -- peak so far: of a GPU's allocator (the largest), else of the process

ALTER TABLE students ADD COLUMN trained_on VARCHAR;         -- the training set's name: that of a recipe or a mix
ALTER TABLE students ADD COLUMN variant VARCHAR DEFAULT ''; -- of a sweep; empty without one
UPDATE students SET trained_on = recipe;

ALTER TABLE study_runs ADD COLUMN base VARCHAR;             -- the model's alias; `model` names mix and variant too, where needed
ALTER TABLE study_runs ADD COLUMN trained_on VARCHAR;       -- NULL: the model as it is
ALTER TABLE study_runs ADD COLUMN variant VARCHAR DEFAULT '';
UPDATE study_runs SET base = model, trained_on = if(student_key IS NULL, NULL, setting);

CREATE TABLE student_checks (   -- a student, or a model as it is, on dev questions, asked once each; counted from its predictions
    check_key VARCHAR PRIMARY KEY, -- of its unit of predictions
    traces_key VARCHAR NOT NULL, base VARCHAR NOT NULL, student_key VARCHAR, -- NULL: the model as it is, in setting instruct
    base_key VARCHAR NOT NULL,  -- of the base's weights, which an alias can change
    dataset VARCHAR NOT NULL,   -- or "held out": the questions held out of a training set
    questions VARCHAR NOT NULL, -- key of the set of questions
    asked VARCHAR NOT NULL,     -- key of what was asked and how (prompts, budget, room of the answer, sampling, seed): checks can
                                -- be compared where it is equal
    n INTEGER NOT NULL, correct INTEGER NOT NULL, -- by the matcher
    boxed INTEGER NOT NULL,     -- answers that stand in a box which the model opened and closed itself
    cut INTEGER NOT NULL, unparsed INTEGER NOT NULL, refused INTEGER NOT NULL, thinking_tokens DOUBLE NOT NULL -- mean a question
);
CREATE TABLE study_students (   -- the students of a study by its own names, also those that were not chosen to be evaluated
    study_key VARCHAR, student_key VARCHAR, base VARCHAR, trained_on VARCHAR, variant VARCHAR,
    check_key VARCHAR, base_check_key VARCHAR, -- on dev questions, the model as it is on the same; NULL: not asked
    chosen BOOLEAN NOT NULL,    -- whether it was evaluated
    PRIMARY KEY (study_key, student_key, trained_on, variant)
);
INSERT INTO study_students SELECT DISTINCT study_key, student_key, model, setting, '', NULL, NULL, true FROM study_runs
    WHERE student_key IS NOT NULL;

CREATE MACRO wilson_low(k, n) AS -- limits of the 95% interval of Wilson (1927) for k of n
    if(k = 0, 0, (k / n + 1.920729 / n - 1.959964 * sqrt(k / n * (1 - k / n) / n + 0.960365 / n / n)) / (1 + 3.841459 / n));
CREATE MACRO wilson_high(k, n) AS
    if(k = n, 1, (k / n + 1.920729 / n + 1.959964 * sqrt(k / n * (1 - k / n) / n + 0.960365 / n / n)) / (1 + 3.841459 / n));

CREATE VIEW student_quality AS  -- one row a student and check, and one a check of a model as it is (no training set)
WITH course AS (                -- speed of a usual step; the first and those beside a checkpoint are slower
    SELECT student_key, max(step) AS steps, median(tokens_per_second) FILTER (loss IS NOT NULL) AS tokens_per_second,
           max(memory_bytes) AS peak_memory_bytes
    FROM training_logs GROUP BY student_key
)
SELECT s.student_key, c.check_key, coalesce(s.base, c.base) AS base, s.trained_on, coalesce(s.variant, '') AS variant,
       s.hyperparameters ->> 'method' AS method, s.held_out_before, s.held_out_after, c.dataset AS dev_dataset,
       c.questions AS dev_questions, c.asked AS dev_asked, c.base_key, c.n, c.correct / c.n AS accuracy,
       wilson_low(c.correct, c.n) AS low, wilson_high(c.correct, c.n) AS high, c.boxed / c.n AS boxed, c.cut / c.n AS cut,
       (c.unparsed + c.refused) / c.n AS unanswered, c.thinking_tokens, l.steps, s.seconds, l.tokens_per_second,
       l.peak_memory_bytes
FROM students s LEFT JOIN course l USING (student_key) FULL JOIN student_checks c ON c.student_key = s.student_key;

ALTER TABLE training_sets ADD COLUMN name VARCHAR;          -- as the study called it that made it first
UPDATE training_sets SET name = recipe;
ALTER TABLE training_rows ADD COLUMN recipe VARCHAR;        -- of the trace: a mix (training_sets.recipe: mix) has several
UPDATE training_rows r SET recipe = t.recipe FROM training_sets t WHERE t.training_set = r.training_set;

CREATE TABLE training_set_units ( -- what each unit that came to a training set counted: other rules can choose the same traces
    unit_key VARCHAR PRIMARY KEY, training_set VARCHAR NOT NULL, name VARCHAR NOT NULL, statistics JSON NOT NULL
);
INSERT INTO training_set_units SELECT u.unit_key, t.training_set, t.recipe, t.statistics FROM units u
    JOIN training_sets t ON t.training_set = (u.versions ->> 'training_set') WHERE u.kind = 'training_set';
CREATE TABLE study_training_sets ( -- the training sets of a study by its own names: recipes and mixes
    study_key VARCHAR, name VARCHAR, training_set VARCHAR NOT NULL, unit_key VARCHAR, PRIMARY KEY (study_key, name)
);
INSERT INTO study_training_sets
WITH mine AS (
    SELECT DISTINCT r.study_key, t.recipe, t.training_set FROM study_runs r
    JOIN students s USING (student_key) JOIN training_sets t USING (training_set)
), newest AS (
    SELECT m.training_set, arg_max(m.unit_key, u.landed_at) AS unit_key FROM training_set_units m JOIN units u USING (unit_key)
    GROUP BY ALL
)
SELECT m.study_key, if(count(*) OVER (PARTITION BY m.study_key, m.recipe) = 1, m.recipe, m.recipe || '-' || left(m.training_set, 8)),
       m.training_set, n.unit_key
FROM mine m LEFT JOIN newest n USING (training_set);

CREATE OR REPLACE VIEW training_quality AS -- what teachers' traces were worth, one row a study's training set: rt against fs1
WITH counted AS (
    SELECT n.study_key, n.name, t.training_set, t.recipe, t.row_count AS kept, coalesce(u.statistics, t.statistics) AS s
    FROM study_training_sets n JOIN training_sets t USING (training_set) LEFT JOIN training_set_units u USING (unit_key)
), taught AS (
    SELECT DISTINCT r.study_key, s.training_set, s.student_key, s.held_out_before, s.held_out_after
    FROM (SELECT study_key, student_key FROM study_runs UNION SELECT study_key, student_key FROM study_students) r
    JOIN students s USING (student_key)
)
SELECT c.study_key, c.training_set, c.recipe, c.kept, (s ->> 'candidates')::BIGINT AS candidates,
       (s ->> 'accuracy')::DOUBLE AS accuracy, (s ->> 'mean_thinking_tokens')::DOUBLE AS mean_thinking_tokens,
       s -> 'dropped' AS dropped, count(t.student_key) AS students,
       avg(t.held_out_before) AS held_out_before, avg(t.held_out_after) AS held_out_after,
       c.name, (s ->> 'questions')::BIGINT AS questions, (s ->> 'held_out_questions')::BIGINT AS held_out_questions,
       (s ->> 'semantic_match')::DOUBLE AS semantic_match, (s ->> 'judge_accuracy')::DOUBLE AS judge_accuracy,
       (s ->> 'judge_agreement')::DOUBLE AS judge_agreement,
       (s ->> 'median_thinking_tokens')::BIGINT AS median_thinking_tokens, (s ->> 'p95_thinking_tokens')::BIGINT AS p95_thinking_tokens,
       (s ->> 'mean_kept_thinking_tokens')::DOUBLE AS mean_kept_thinking_tokens,
       (s ->> 'mean_example_tokens')::DOUBLE AS mean_example_tokens, (s ->> 'p95_example_tokens')::BIGINT AS p95_example_tokens,
       (s ->> 'max_example_tokens')::BIGINT AS max_example_tokens, s -> 'sources' AS sources -- the same for each recipe and teacher
FROM counted c LEFT JOIN taught t ON t.study_key = c.study_key AND t.training_set = c.training_set GROUP BY ALL;

CREATE OR REPLACE VIEW lineage AS -- path -> trace -> training set -> student -> answer -> verdict; name an answer_trace or a training_trace
SELECT r.study_key, p.rank AS path_rank, p.source AS path_from, p.target AS path_to, p.triples AS path,
       tq.dataset AS training_dataset, tq.question_id AS training_question, tt.model AS teacher, tr.recipe,
       tr.trace_id AS training_trace, tr.training_set, tr.position, tr.held_out, st.student_key, st.name AS student,
       r.run_key, r.setting, r.dataset, q.question_id, t.trace_id AS answer_trace, t.sample, t.budget, a.prediction,
       coalesce(m.correct, false) AS correct, j.correct AS judged
FROM study_runs r
JOIN students st USING (student_key) JOIN training_rows tr USING (training_set)
JOIN questions tq ON tq.question_key = tr.question_key JOIN traces tt ON tt.trace_id = tr.trace_id
LEFT JOIN paths p ON tr.recipe = 'fs1' AND p.retrieval_key = r.retrieval_key AND p.question_key = tr.question_key AND p.kept
JOIN prompt_sets s ON s.set_key = r.prompt_set
JOIN questions q ON q.question_key = s.question_key
JOIN traces t ON t.thought_key = r.thought_key AND t.answer_key = r.answer_key AND t.dataset = s.dataset
    AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key AND t.sample < r.samples
    AND list_contains(r.budgets, coalesce(t.budget, 0))
LEFT JOIN predictions a ON a.trace_id = t.trace_id AND a.parser = r.parser
LEFT JOIN verdicts m ON m.judge = r.matcher AND m.gold_key = q.gold_key AND m.prediction_key = a.prediction_key
LEFT JOIN verdicts j ON j.judge = r.judge AND j.gold_key = q.gold_key AND j.prediction_key = a.prediction_key;
