-- Retrieval at the size of whole benchmarks: links that were found, what was asked of an endpoint, scores in their parts.

CREATE TABLE endpoint_requests ( -- one row a request to a SPARQL endpoint with all its attempts; the query by its hash
    request_id VARCHAR PRIMARY KEY, snapshot VARCHAR NOT NULL, purpose VARCHAR NOT NULL, query_hash VARCHAR NOT NULL,
    started_at TIMESTAMP NOT NULL, outcome VARCHAR NOT NULL, status INTEGER, attempts INTEGER NOT NULL, bytes BIGINT NOT NULL,
    seconds DOUBLE NOT NULL, waited DOUBLE NOT NULL, row_count INTEGER NOT NULL
);
CREATE TABLE degrees (          -- statements about an entity, counted up to cap + 1
    snapshot VARCHAR, entity VARCHAR, cap INTEGER, degree INTEGER NOT NULL, PRIMARY KEY (snapshot, entity, cap)
);
CREATE TABLE unlabelled (       -- ids that were asked for and have no English label, so that they are not asked again
    snapshot VARCHAR, id VARCHAR, PRIMARY KEY (snapshot, id)
);
CREATE TABLE statements (       -- qualifiers, precision and unit behind a direct triple; an empty list: asked, and none there
    snapshot VARCHAR, subject VARCHAR, predicate VARCHAR, object VARCHAR, literal BOOLEAN, details JSON NOT NULL,
    PRIMARY KEY (snapshot, subject, predicate, object, literal)
);
CREATE TABLE foreign_ids (      -- Freebase ids that an endpoint was asked for; entity NULL: it knows none
    snapshot VARCHAR, foreign_id VARCHAR, entity VARCHAR, PRIMARY KEY (snapshot, foreign_id)
);

CREATE TABLE linkings (         -- one row a question whose entities were looked for, also where none was found
    linking_key VARCHAR, question_key VARCHAR, dataset VARCHAR NOT NULL, PRIMARY KEY (linking_key, question_key)
);
CREATE TABLE resolved_links (   -- its links, best first; the span is in the question's text (role question) or the answer's
    linking_key VARCHAR, question_key VARCHAR, role VARCHAR, position INTEGER, entity VARCHAR NOT NULL, source VARCHAR NOT NULL,
    mention VARCHAR NOT NULL, span_start INTEGER, span_end INTEGER, score DOUBLE NOT NULL,
    PRIMARY KEY (linking_key, question_key, role, position)
);

ALTER TABLE retrievals ADD COLUMN linking_key VARCHAR;
ALTER TABLE retrievals ADD COLUMN landed_at TIMESTAMP DEFAULT current_timestamp;
ALTER TABLE retrievals ADD COLUMN specific INTEGER;      -- pairs that a path without a hub connects
ALTER TABLE retrievals ADD COLUMN lines INTEGER;         -- of the linearised graph
ALTER TABLE retrievals ADD COLUMN tokens INTEGER;        -- of the linearised graph, by the tokenizer in the retrieval's spec
ALTER TABLE retrievals ADD COLUMN unlabelled INTEGER;    -- ids printed for want of a label
ALTER TABLE retrievals ADD COLUMN duplicates INTEGER;    -- lines printed twice
CREATE TABLE retrieval_specs (retrieval_key VARCHAR PRIMARY KEY, spec JSON NOT NULL);
CREATE TABLE retrieval_pairs (  -- one row a question entity and target: whether and how far apart they are
    retrieval_key VARCHAR, question_key VARCHAR, source VARCHAR, target VARCHAR,
    hops INTEGER,               -- NULL: no path
    specific_hops INTEGER,      -- of the shortest path without a hub; NULL: none
    paths INTEGER NOT NULL,     -- all that were found, also those that are not kept in `paths`
    PRIMARY KEY (retrieval_key, question_key, source, target)
);
ALTER TABLE paths ADD COLUMN kind VARCHAR;               -- pair, joint (through another question entity), between, literal
ALTER TABLE paths ADD COLUMN similarity DOUBLE;          -- the score is the sum of these four
ALTER TABLE paths ADD COLUMN degree_penalty DOUBLE;
ALTER TABLE paths ADD COLUMN length_penalty DOUBLE;
ALTER TABLE paths ADD COLUMN sibling_penalty DOUBLE;
CREATE TABLE controls (         -- the same search between a question and another question's answer of like degree: a wrong one
    control_key VARCHAR, question_key VARCHAR, dataset VARCHAR NOT NULL, answer VARCHAR NOT NULL, wrong VARCHAR NOT NULL,
    hops INTEGER, specific_hops INTEGER,           -- to the wrong answer
    answer_hops INTEGER, answer_specific_hops INTEGER, -- to the right one
    PRIMARY KEY (control_key, question_key)
);

-- Views on retrieval, for people (`factscale db query`) and for the report. What is counted is questions, unless pairs are
-- named; "any" is any path, "specific" one without a hub. Shares have no intervals here: the report adds them.

CREATE VIEW retrieval_links AS  -- the entities a search started from: of its linking, or the dataset's own where it had none
SELECT r.retrieval_key, r.question_key, l.role, l.entity, l.source
FROM retrievals r JOIN resolved_links l ON l.linking_key = r.linking_key AND l.question_key = r.question_key
UNION ALL
SELECT r.retrieval_key, r.question_key, l.role, l.entity, l.source
FROM retrievals r JOIN links l USING (question_key) WHERE r.linking_key IS NULL AND l.source <> 'gold_mid';

CREATE VIEW retrieval_questions AS -- one row a searched question: the best source of its links, what was found and printed
WITH ranked AS (
    SELECT *, coalesce(list_position(['gold_qid', 'mid_map', 'label'], source), 9) AS place FROM retrieval_links
), best AS (
    SELECT retrieval_key, question_key, arg_min(source, place) FILTER (role = 'question') AS question_source,
           arg_min(source, place) FILTER (role = 'answer') AS answer_source
    FROM ranked GROUP BY ALL
), sourced AS (                 -- literal: a date, a number and yes or no are no entities and need no link
    SELECT r.*, q.dataset, q.question_id, q.split, q.answer_type, coalesce(b.question_source, 'none') AS question_source,
           coalesce(b.answer_source, if(q.answer_type IN ('number', 'date', 'boolean'), 'literal', 'none')) AS answer_source
    FROM retrievals r JOIN questions q USING (question_key) LEFT JOIN best b USING (retrieval_key, question_key)
)
SELECT retrieval_key, question_key, dataset, question_id, split, answer_type, snapshot, linking_key, question_source,
       answer_source, question_source <> 'none' AND answer_source <> 'none' AS linked, pairs, connected, specific, paths,
       min_hops, truncated, lines, tokens, unlabelled, duplicates
FROM sourced;

CREATE VIEW retrieval_controls AS -- every control of a retrieval: one a seed and set of questions that it was asked for
SELECT u.spec->>'$.retrieval' AS retrieval_key, c.*, u.landed_at
FROM controls c JOIN units u ON u.unit_key = c.control_key AND u.kind = 'control';

CREATE VIEW retrieval_coverage AS -- questions linked and connected; both shares and the lift are of questions with a control
WITH control AS (               -- the newest of each question
    SELECT retrieval_key, question_key, answer_hops IS NOT NULL AS answer_any, hops IS NOT NULL AS wrong_any,
           answer_specific_hops IS NOT NULL AS answer_specific, specific_hops IS NOT NULL AS wrong_specific
    FROM retrieval_controls
    QUALIFY row_number() OVER (PARTITION BY retrieval_key, question_key ORDER BY landed_at DESC, control_key) = 1
), counted AS (
    SELECT r.retrieval_key, r.dataset, r.split, count(*) AS questions,
           count(*) FILTER (r.question_source <> 'none') AS linked_question,
           count(*) FILTER (r.linked) AS linked, -- in both roles
           count(*) FILTER (r.connected > 0) AS connected,
           if(count(r.specific) = 0, NULL, count(*) FILTER (r.specific > 0)) AS connected_specific,
           sum(r.pairs)::BIGINT AS pairs, sum(r.connected)::BIGINT AS pairs_connected,
           sum(r.specific)::BIGINT AS pairs_connected_specific, count(c.question_key) AS controls,
           avg(c.answer_any::INT) AS answer_any, avg(c.wrong_any::INT) AS wrong_any,
           avg(c.answer_specific::INT) AS answer_specific, avg(c.wrong_specific::INT) AS wrong_specific
    FROM retrieval_questions r LEFT JOIN control c USING (retrieval_key, question_key) GROUP BY ALL
)
SELECT *, answer_any / nullif(wrong_any, 0) AS lift_any, answer_specific / nullif(wrong_specific, 0) AS lift_specific
FROM counted;

CREATE VIEW retrieval_hops AS   -- pairs by the hops of their shortest path and of their shortest specific one; NULL: none
SELECT p.retrieval_key, q.dataset, q.split, p.hops, p.specific_hops, count(*) AS pairs, sum(p.paths)::BIGINT AS paths
FROM retrieval_pairs p JOIN questions q USING (question_key) GROUP BY ALL;

CREATE VIEW retrieval_paths AS  -- one row a searched question: paths found; stored, also the best dropped; and kept (printed) by kind
WITH stored AS (
    SELECT retrieval_key, question_key, count(*) AS stored, count(*) FILTER (kept) AS kept,
           count(*) FILTER (kept AND kind = 'pair') AS kept_pair, count(*) FILTER (kept AND kind = 'joint') AS kept_joint,
           count(*) FILTER (kept AND kind = 'between') AS kept_between,
           count(*) FILTER (kept AND kind = 'literal') AS kept_literal, max(score) AS best_score
    FROM paths GROUP BY ALL
), paired AS (
    SELECT retrieval_key, question_key, sum(paths)::BIGINT AS found, min(specific_hops) AS min_specific_hops
    FROM retrieval_pairs GROUP BY ALL
)
SELECT r.retrieval_key, r.question_key, r.dataset, r.question_id, r.split, r.pairs, r.connected, r.specific, r.min_hops,
       p.min_specific_hops, coalesce(p.found, r.paths) AS found, coalesce(s.stored, 0) AS stored, coalesce(s.kept, 0) AS kept,
       coalesce(s.kept_pair, 0) AS kept_pair, coalesce(s.kept_joint, 0) AS kept_joint,
       coalesce(s.kept_between, 0) AS kept_between, coalesce(s.kept_literal, 0) AS kept_literal, s.best_score
FROM retrieval_questions r
LEFT JOIN stored s USING (retrieval_key, question_key) LEFT JOIN paired p USING (retrieval_key, question_key);

CREATE VIEW link_sources AS     -- looked-up questions by the best source of their links in a role; none and literal as above
WITH ranked AS (
    SELECT *, coalesce(list_position(['gold_qid', 'mid_map', 'label'], source), 9) AS place FROM resolved_links
), best AS (SELECT linking_key, question_key, role, arg_min(source, place) AS source FROM ranked GROUP BY ALL)
SELECT l.linking_key, l.dataset, q.split, roles.role,
       CASE WHEN b.source IS NOT NULL THEN b.source
            WHEN roles.role = 'answer' AND q.answer_type IN ('number', 'date', 'boolean') THEN 'literal'
            ELSE 'none' END AS source, count(*) AS questions
FROM linkings l JOIN questions q USING (question_key) CROSS JOIN (VALUES ('question'), ('answer')) roles(role)
LEFT JOIN best b ON b.linking_key = l.linking_key AND b.question_key = l.question_key AND b.role = roles.role
GROUP BY ALL;
