-- Exact accounts of what was generated, extended thoughts, several judges.

ALTER TABLE units ADD COLUMN cost DOUBLE;               -- US dollars, by the registry's prices; NULL: the model has no price

ALTER TABLE thoughts ADD COLUMN stops STRUCT("position" INTEGER, ended VARCHAR)[]; -- where it tried to end, and how
ALTER TABLE thoughts ADD COLUMN generated_tokens INTEGER; -- by the model: stop tokens included, injected words left out
ALTER TABLE thoughts ADD COLUMN injected_tokens INTEGER;  -- of "Wait," and the like, put in place of an end
ALTER TABLE thoughts ADD COLUMN cost DOUBLE;
UPDATE thoughts SET generated_tokens = thinking_tokens + (ended <> 'length')::INTEGER, injected_tokens = 0,
    stops = CASE WHEN ended = 'length' THEN [] ELSE [{'position': thinking_tokens, 'ended': ended}] END;

ALTER TABLE traces ADD COLUMN extensions INTEGER DEFAULT 0; -- how many ends within this budget were put off
ALTER TABLE traces ADD COLUMN cost DOUBLE;

ALTER TABLE verdicts ADD COLUMN grade VARCHAR;          -- correct, incorrect, not_attempted; NULL: no valid reply
ALTER TABLE verdicts ADD COLUMN attempts INTEGER DEFAULT 1; -- replies asked for
ALTER TABLE verdicts ADD COLUMN prompt_tokens INTEGER DEFAULT 0;    -- of all its attempts
ALTER TABLE verdicts ADD COLUMN cached_tokens INTEGER DEFAULT 0;
ALTER TABLE verdicts ADD COLUMN generated_tokens INTEGER DEFAULT 0;
ALTER TABLE verdicts ADD COLUMN cost DOUBLE;
UPDATE verdicts SET grade = CASE correct WHEN true THEN 'correct' WHEN false THEN 'incorrect' END;

CREATE TABLE study_judges (     -- the judges of a study, in the order it names them
    study_key VARCHAR, position INTEGER, judge VARCHAR NOT NULL, model VARCHAR NOT NULL, question VARCHAR NOT NULL,
    PRIMARY KEY (study_key, position)
);
INSERT INTO study_judges SELECT DISTINCT study_key, 0, judge, split_part(judge, '@', 1), 'contains' FROM study_runs
    WHERE judge IS NOT NULL;

CREATE OR REPLACE VIEW results AS -- one row a trace of a study's run, with its prediction and verdicts; missing ones are NULL
SELECT r.study_key, r.run_key, r.role, r.model, r.setting, r.dataset, r.student_key, r.retrieval_key,
       q.question_key, q.question_id, q.split, q.answer_type, q.hops,
       t.trace_id, t.thought_id, t.sample, t.budget, t.thinking_tokens, t.answer_tokens,
       t.thinking_tokens + t.answer_tokens AS total_tokens, t.prompt_tokens, t.cached_tokens, t.extensions,
       t.cut, t.forced, t.finish, p.prediction, p.prediction_key, q.gold_key, p.how, p.class,
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

CREATE VIEW judgements AS       -- one row a trace of a study's run and judge; a trace that refused was not attempted
SELECT r.study_key, r.run_key, r.model, r.setting, r.dataset, r.question_key, r.trace_id, r.sample, r.budget,
       j.position, j.judge, j.model AS judge_model, j.question,
       CASE WHEN r.how IS NULL THEN NULL WHEN r.how = 'refused' THEN 'not_attempted' WHEN r.prediction_key IS NULL THEN 'incorrect' ELSE v.grade END AS grade,
       r.prediction_key IS NOT NULL AND v.judge IS NOT NULL AND v.grade IS NULL AS invalid,
       v.attempts, r.correct AS matched
FROM results r
JOIN study_judges j USING (study_key)
LEFT JOIN verdicts v ON v.judge = j.judge AND v.gold_key = r.gold_key AND v.prediction_key = r.prediction_key;
