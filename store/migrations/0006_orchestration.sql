-- What flows promised to the UI, and the verdicts of nightly re-evaluations.

CREATE TABLE flow_runs (        -- one row a flow run that came to its end: what `factscale status` holds against the Prefect API
    flow_run_id VARCHAR PRIMARY KEY, flow VARCHAR NOT NULL, study VARCHAR NOT NULL,
    task_runs INTEGER NOT NULL, -- task runs that it made, each of which the UI has to show
    landed_at TIMESTAMP NOT NULL DEFAULT current_timestamp
);

CREATE TABLE nightly_verdicts ( -- one row a nightly re-evaluation of a study, held against the last accepted one
    nightly_key VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, -- the study's
    study_key VARCHAR NOT NULL, -- what was evaluated
    against VARCHAR,            -- study_key of the accepted one; NULL: there was none
    verdict VARCHAR NOT NULL,   -- first, improved, same, worse
    regression BOOLEAN NOT NULL, -- worse beyond the margin
    margin DOUBLE NOT NULL, confidence DOUBLE NOT NULL,
    effect DOUBLE, low DOUBLE, high DOUBLE, p DOUBLE, -- of all runs together: accuracy now less before, on the same questions
    questions INTEGER NOT NULL, -- that both were asked
    new_questions INTEGER NOT NULL, gone_questions INTEGER NOT NULL,
    flow_run_id VARCHAR, decided_at TIMESTAMP NOT NULL DEFAULT current_timestamp
);
CREATE TABLE nightly_runs (     -- its runs, each at each budget
    nightly_key VARCHAR, role VARCHAR, model VARCHAR, setting VARCHAR, dataset VARCHAR, budget INTEGER, -- 0: no budget
    n INTEGER NOT NULL,         -- questions that both were asked
    before DOUBLE NOT NULL, after DOUBLE NOT NULL, -- accuracies on them
    effect DOUBLE NOT NULL, low DOUBLE NOT NULL, high DOUBLE NOT NULL, -- after less before, with its interval
    p DOUBLE NOT NULL, p_holm DOUBLE NOT NULL, verdict VARCHAR NOT NULL,
    PRIMARY KEY (nightly_key, role, model, setting, dataset, budget)
);
CREATE TABLE nightly_accepted ( -- which re-evaluations count as accepted, and by whom; the last one is what is compared with
    nightly_key VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, study_key VARCHAR NOT NULL,
    by_hand BOOLEAN NOT NULL, accepted_at TIMESTAMP NOT NULL DEFAULT current_timestamp
);
