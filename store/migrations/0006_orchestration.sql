-- What flows promised to the UI, and the verdicts of nightly re-evaluations.

CREATE TABLE flow_runs (        -- one row an attempt of a flow run that came to its end: what `factscale status` holds against the Prefect API
    flow_run_id VARCHAR, attempt INTEGER, flow VARCHAR NOT NULL, study VARCHAR NOT NULL,
    task_runs INTEGER NOT NULL, -- task runs that it made, each of which the UI has to show
    landed_at TIMESTAMP NOT NULL DEFAULT current_timestamp,
    PRIMARY KEY (flow_run_id, attempt)
);

CREATE TABLE nightly_verdicts ( -- one row a nightly re-evaluation that found something new, held against the last accepted one
    nightly_key VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, -- the study's
    study_key VARCHAR NOT NULL, -- what was evaluated
    against VARCHAR,            -- study_key of the accepted one; NULL: there was none
    verdict VARCHAR NOT NULL,   -- first, improved, same, worse
    regression BOOLEAN NOT NULL, -- worse beyond the margin
    margin DOUBLE NOT NULL, confidence DOUBLE NOT NULL, scored_by VARCHAR NOT NULL, -- matcher, judge
    effect DOUBLE, low DOUBLE, high DOUBLE, -- of all changed runs together: accuracy now less before, on the same questions
    p DOUBLE, p_holm DOUBLE,    -- all NULL: no run changed
    drift DOUBLE, drift_low DOUBLE, drift_high DOUBLE, -- the same since the last one accepted by hand, else the first accepted
    questions INTEGER NOT NULL, -- that both were asked
    new_questions INTEGER NOT NULL, gone_questions INTEGER NOT NULL,
    new_runs INTEGER NOT NULL, gone_runs INTEGER NOT NULL, -- at each budget
    flow_run_id VARCHAR, decided_at TIMESTAMP NOT NULL DEFAULT current_timestamp
);
CREATE TABLE nightly_runs (     -- its runs, each at each budget, on the questions that both were asked
    nightly_key VARCHAR, role VARCHAR, model VARCHAR, setting VARCHAR, dataset VARCHAR, budget INTEGER, -- 0: no budget
    n INTEGER NOT NULL, before DOUBLE NOT NULL, after DOUBLE NOT NULL, -- questions, and accuracies on them
    effect DOUBLE NOT NULL, low DOUBLE NOT NULL, high DOUBLE NOT NULL, -- after less before, with its interval
    p DOUBLE NOT NULL, p_holm DOUBLE NOT NULL, verdict VARCHAR NOT NULL,
    changed VARCHAR NOT NULL,   -- what differs in how it was made; empty: its rows are the same
    PRIMARY KEY (nightly_key, role, model, setting, dataset, budget)
);
CREATE TABLE nightly_accepted ( -- which re-evaluations were accepted, and by whom; the last one is what the next is held against
    nightly_key VARCHAR, name VARCHAR NOT NULL, study_key VARCHAR NOT NULL,
    by_hand BOOLEAN NOT NULL, accepted_at TIMESTAMP NOT NULL DEFAULT current_timestamp,
    PRIMARY KEY (nightly_key, accepted_at)
);
