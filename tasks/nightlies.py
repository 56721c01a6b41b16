"""The verdicts of nightly re-evaluations: a study held against the one that was accepted last, landed in one transaction.

The rule of the comparison is in ``eval/regression.py``. What was decided is read back from the store, so that a failed night
that is started again tells the same; landed verdicts never change, and accepting one adds a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
from prefect import task
from prefect.tasks import exponential_backoff

from eval.regression import Cell, Change, Comparison, Scored, compare, drift
from store.connection import Store
from store.home import Home
from store.scores import score_study
from store.types import Frozen, InputError, digest
from tasks.landing import retryable

Accept = Literal["not worse", "improved", "by hand"]
Scorer = Literal["matcher", "judge"]
Row = dict[str, Any]

# Part of a verdict's key: another rule, another verdict.
_RULE = "sign flips a changed cell and pooled, Holm over them, bootstrap intervals"


class NightlyOrder(Frozen):
    """A work order: hold the study ``study_key`` (which has landed) of this ``name`` against ``against`` (None: nothing was
    accepted yet). ``anchor`` is what drift is measured from; ``flow_run_id`` who asks."""

    name: str
    study_key: str
    against: str | None
    anchor: str | None
    margin: float
    confidence: float
    scored_by: Scorer
    accept: Accept
    flow_run_id: str | None = None

    @property
    def key(self) -> str:
        """Key of the verdict: what is compared, and how. Left out: the anchor and the rule of acceptance, which change no
        verdict, and who asks."""
        compared = [self.name, self.study_key, self.against, self.margin, self.confidence, self.scored_by, _RULE]
        return digest(["nightly", *compared])


class Accepted(NamedTuple):
    """An accepted re-evaluation."""

    nightly_key: str
    study_key: str
    by_hand: bool


@task(
    name="nightly verdict",
    retries=2,
    retry_delay_seconds=exponential_backoff(4),
    retry_condition_fn=retryable,
)
def decide(order: NightlyOrder) -> str:
    """Land the verdict unless it is there. Returns its key."""
    return land_verdict(order, Home.current().store)


def land_verdict(order: NightlyOrder, store: Store) -> str:
    """The body of :func:`decide`. The verdict, its runs and, where the rule accepts it, its acceptance land together."""
    shared = {"nightly_key": order.key, "name": order.name, "study_key": order.study_key}
    if (known := verdict_of(store, order.key)) is not None:
        if accepts(order.accept, known["verdict"]):  # by a rule that is newer than the verdict
            store.land({"nightly_accepted": [_acceptance(shared, by_hand=False)]})
        return order.key
    after = cell_scores(store, order.study_key, order.scored_by)
    verdict: Row
    runs: list[Row] = []
    if order.against is None:
        verdict = _first(after)
    else:
        found = compare(
            cell_scores(store, order.against, order.scored_by), after, margin=order.margin, confidence=order.confidence
        )
        verdict = _verdict(found) | _drift(order, store, after)
        runs = [_run(order.key, change) for change in found.changes]
    asked = order.model_dump(include={"against", "margin", "confidence", "scored_by", "flow_run_id"})
    accepted = [_acceptance(shared, by_hand=False)] if accepts(order.accept, verdict["verdict"]) else []
    tables = {"nightly_runs": runs, "nightly_accepted": accepted, "nightly_verdicts": [shared | asked | verdict]}
    store.land(tables)
    return order.key


def accepts(rule: Accept, verdict: str) -> bool:
    """Whether a verdict becomes by itself what the next one is held against.

    The first does, since there is nothing else to hold on to, except where everything is accepted by hand.
    """
    accepted = {"not worse": ("first", "improved", "same"), "improved": ("first", "improved"), "by hand": ()}
    return verdict in accepted[rule]


def last_accepted(store: Store, name: str) -> Accepted | None:
    """What a study of this name is held against; None if nothing was accepted yet."""
    rows = _accepted(store, name)
    return rows[-1] if rows else None


def anchor(store: Store, name: str) -> Accepted | None:
    """What drift is measured from: the last one that a person accepted, else the first that was accepted at all."""
    rows = _accepted(store, name)
    by_hand = [row for row in rows if row.by_hand]
    return by_hand[-1] if by_hand else rows[0] if rows else None


def accept_by_hand(store: Store, name: str, key: str | None = None) -> Row:
    """Make a landed verdict what the next night is held against: the newest one, or the one whose key begins with ``key``.

    Returns the verdict's row. Raises InputError where there is none, or several.
    """
    rows = verdicts_of(store, name)
    found = [row for row in rows if row["nightly_key"].startswith(key)] if key else rows[:1]
    if not found:
        named = f"no verdict {key!r}" if rows else "no nightly verdict yet"
        raise InputError(f"study {name!r} has {named}: `factscale nightly ls` shows those that there are")
    if len(found) > 1:
        raise InputError(f"{key!r} begins {len(found)} verdicts of study {name!r}: give more of its digits")
    chosen = found[0]
    store.land({"nightly_accepted": [_acceptance(chosen, by_hand=True)]})
    return chosen


def verdict_of(store: Store, key: str) -> Row | None:
    """The row of one verdict, None if it has not landed."""
    rows = store.query("SELECT * FROM nightly_verdicts WHERE nightly_key = ?", [key])
    return rows[0] if rows else None


def verdict_told_by(store: Store, flow_run_id: str | None, study_key: str) -> Row | None:
    """What a flow run has decided of a study before it was started again; None if it has not."""
    rows = store.query(
        "SELECT * FROM nightly_verdicts WHERE flow_run_id = ? AND study_key = ? ORDER BY decided_at DESC LIMIT 1",
        [flow_run_id, study_key],
    )
    return rows[0] if rows else None


def verdicts_of(store: Store, name: str | None = None) -> list[Row]:
    """Verdicts of a study, or of all, the newest first, each with ``accepted``: no, by rule, by hand."""
    return store.query(
        "WITH a AS (SELECT nightly_key, bool_or(by_hand) AS by_hand FROM nightly_accepted GROUP BY ALL) "
        "SELECT v.*, CASE WHEN a.by_hand IS NULL THEN 'no' WHEN a.by_hand THEN 'by hand' ELSE 'by rule' END AS accepted "
        "FROM nightly_verdicts v LEFT JOIN a USING (nightly_key) WHERE $name IS NULL OR name = $name "
        "ORDER BY decided_at DESC, nightly_key",
        {"name": name},
    )


def runs_of(store: Store, key: str) -> list[Row]:
    """The runs of a verdict at each budget (0: none), the worst first, those in which nothing changed last."""
    return store.query(
        "SELECT * EXCLUDE (nightly_key) FROM nightly_runs WHERE nightly_key = ? "
        "ORDER BY changed = '', effect, model, setting, dataset, budget",
        [key],
    )


def cell_scores(store: Store, study_key: str, scored_by: Scorer = "matcher") -> dict[Cell, Scored]:
    """The scores of a study's questions by run and budget; its scores are made where they are missing.

    By the first judge a question's score is the share of its traces that it says are right (no answer: wrong). A question with
    answers of which it has no valid verdict is left out; one without any answer is wrong.
    """
    score_study(store, study_key)
    share = {
        "matcher": "s.correct / s.samples",
        "judge": "if(s.judged = 0 AND s.unparsed + s.refused < s.samples, NULL, "
        "s.judged_correct / nullif(s.judged + s.unparsed + s.refused, 0))",
    }
    runs = store.query(
        "SELECT r.*, u.spec FROM study_runs r LEFT JOIN units u USING (unit_key) WHERE study_key = ? AND role <> 'teacher' "
        "ORDER BY r.role = 'baseline', r.dataset, r.parameters, r.model, r.setting, r.run_key",
        [study_key],
    )
    cells: dict[Cell, Scored] = {}
    for run in runs:
        found = store.arrow(
            f"SELECT coalesce(s.budget, 0) AS budget, s.question_key, p.prompt_key, {share[scored_by]} AS share "  # noqa: S608
            "FROM question_scores s JOIN prompt_sets p ON p.question_key = s.question_key AND p.set_key = ? "
            "WHERE s.score_key = ? AND share IS NOT NULL ORDER BY question_key",
            [run["prompt_set"], run["score_key"]],
        )
        columns = {name: found.column(name).to_numpy() for name in found.column_names}
        made = _made(run, scored_by)
        for budget in run["budgets"]:
            mine = columns["budget"] == budget
            cell = Cell(run["role"], run["model"], run["setting"], run["dataset"], budget or None)
            keys, prompts = columns["question_key"][mine].astype(str), columns["prompt_key"][mine].astype(str)
            cells[cell] = Scored(keys, columns["share"][mine].astype(np.float64), prompts, made)
    return cells


def _made(run: Mapping[str, Any], scored_by: Scorer) -> dict[str, str]:
    """What the rows of a run depend on beside prompts and budget, in the words that people read."""
    spec = json.loads(run["spec"]) if run["spec"] else {}
    read = {"parser": run["parser"], "matcher": run["matcher"]}
    if scored_by == "judge":
        read = {"parser": run["parser"], "judge": run["judge"] or ""}
    if "thought" not in spec:  # an older or a foreign unit: its keys are known, not what is in them
        return {"model or sampling": run["thought_key"], "answers": run["answer_key"], **read}
    thought, answer = spec["thought"], spec["answer"]
    parts = {
        "model": [thought["model_key"], thought["format"], answer["forced_answer"]],
        "sampling": [thought["sampling"], thought["seed"]],
        "length": [thought.get(name) for name in ("max_thinking_tokens", "extension", "extended_to")],
        "answer length": answer["max_answer_tokens"],
        "samples": run["samples"],
    }
    return {name: json.dumps(value, sort_keys=True) for name, value in parts.items()} | read


def _acceptance(verdict: Row, *, by_hand: bool) -> Row:
    named = {field: verdict[field] for field in ("nightly_key", "name", "study_key")}
    # The time is part of the key: one that was accepted before can be accepted again.
    return {**named, "by_hand": by_hand, "accepted_at": datetime.now(UTC).replace(tzinfo=None)}


def _accepted(store: Store, name: str) -> list[Accepted]:
    rows = store.query(
        "SELECT nightly_key, study_key, by_hand FROM nightly_accepted WHERE name = ? ORDER BY accepted_at", [name]
    )
    return [Accepted(**row) for row in rows]


def _first(after: Mapping[Cell, Scored]) -> Row:
    questions = {key for scored in after.values() for key in scored.questions.tolist()}
    return {
        "verdict": "first",
        "regression": False,
        "questions": 0,
        "new_questions": len(questions),
        "gone_questions": 0,
        "new_runs": len(after),
        "gone_runs": 0,
    }


def _verdict(found: Comparison) -> Row:
    pooled = found.pooled
    effects = {name: getattr(pooled, name) if pooled else None for name in ("effect", "low", "high", "p", "p_holm")}
    return effects | {
        "verdict": found.verdict,
        "regression": found.regression,
        "questions": found.questions,
        "new_questions": found.new,
        "gone_questions": found.gone,
        "new_runs": len(found.new_cells),
        "gone_runs": len(found.gone_cells),
    }


def _drift(order: NightlyOrder, store: Store, after: Mapping[Cell, Scored]) -> Row:
    if order.anchor in (None, order.against):
        return {}
    found = drift(cell_scores(store, order.anchor, order.scored_by), after, order.confidence)
    return {"drift": found.diff, "drift_low": found.low, "drift_high": found.high} if found else {}


def _run(key: str, change: Change) -> Row:
    cell = change.cell._asdict() | {"budget": change.cell.budget or 0}
    told = change._asdict()
    shown = ("n", "before", "after", "effect", "low", "high", "p", "p_holm", "verdict")
    return {"nightly_key": key, **cell, **{name: told[name] for name in shown}, "changed": ", ".join(change.changed)}
