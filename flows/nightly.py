"""The flow `nightly`: a study evaluated again on what is new or changed, and held against the last accepted evaluation.

What has landed is not generated again, so a night on which nothing changed ends in seconds. The verdict (first, improved, same,
worse) goes by the rule of ``eval/regression.py``; it lands in ``nightly_verdicts``, is an artifact and a Prefect event, and a
regression beyond the margin fails the run after everything has landed.

*Accepted* is what the next night is held against. By the rule "not worse" every night that is not worse is; many small losses,
each too small to be told from chance, can then add up, which the verdict shows as *drift* since the anchor (the last one
that a person accepted, else the first). By "improved" the measure stays where it is until it is beaten, and new questions
count only from then on; "by hand" it stays until a person accepts another.

Run alone: ``factscale nightly run deployments/studies/nightly.yaml``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import AfterValidator, Field

from flows.artifacts import markdown, table
from flows.cancelling import cancel_children
from flows.distill import distill
from flows.evaluate import evaluate
from flows.finetune import finetune
from flows.limits import DryRun, Limit, limited
from flows.nightly_events import emit_verdict
from flows.nightly_text import failure, headline, page_text, run_table, unchanged
from flows.orders import Waiting
from flows.parameter_types import Alias, unique
from flows.parameters import REPOSITORY, Study, load_study
from flows.plan import publish_plan
from flows.recorded import flow
from flows.report import landed_key, report, report_order
from flows.retrieve import retrieve
from store.home import Home
from store.types import Frozen, InputError, RunError
from tasks.landing import run
from tasks.nightlies import (
    Accept,
    NightlyOrder,
    Scorer,
    accepts,
    anchor,
    decide,
    last_accepted,
    runs_of,
    verdict_of,
    verdict_told_by,
)
from tasks.reports import is_drawn, report_page

DEFAULT_STUDY = "deployments/studies/nightly.yaml"


class Nightly(Frozen):
    """Parameters of `nightly`: which study is evaluated again, and what counts as a regression."""

    study: str = Field(
        default=DEFAULT_STUDY,
        min_length=1,
        description="The study's YAML file; a relative path is looked for in the repository",
    )
    students: Annotated[tuple[Alias, ...], AfterValidator(unique)] = Field(
        default=(),
        description="Only these students of the study, by alias; empty: all. Verdicts of a part have a name of their own",
    )
    margin: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="The accuracy that a run may lose before a sure loss fails the night; .02 is 2 points",
    )
    confidence: float = Field(
        default=0.95,
        ge=0.5,
        le=0.999,
        description="How sure a verdict is: .95 calls one night in 20 at most changed where nothing has",
    )
    scored_by: Scorer = Field(
        default="matcher", description="Whose word makes an answer right: the matcher's, or the study's first judge's"
    )
    train: bool = Field(
        default=False,
        description="Make missing paths, training sets and students first; else only what is trained is evaluated",
    )
    accept: Accept = Field(
        default="not worse",
        description="What the next night is held against. not worse: this one unless it is worse; improved: this one if it is "
        "better; by hand: the one that `factscale nightly accept` names",
    )
    report: bool = Field(default=True, description="Draw the study's report as well, where something is new")


@flow(name="nightly", on_cancellation=[cancel_children])
def nightly(parameters: Nightly, limit: Limit = None, dry_run: DryRun = False) -> str:
    """One night of a study. Returns what it told in a line: the study, its verdict and the effect.

    Raises RunError for a regression beyond the margin, InputError for a study or student that is not there.
    """
    study, home = limited(study_of(parameters), limit), Home.current()
    if dry_run:
        return publish_plan(study, None if parameters.train else "evaluate")
    key = _landed(study, home) or _evaluate(study, parameters.train)
    store, asker = home.store, flow_run.id
    accepted = last_accepted(store, study.name)
    told = verdict_told_by(store, asker, key)  # a night that failed and is started again
    if accepted is not None and accepted.study_key == key and (told is None or told["regression"]):
        return _nothing_new(study.name, verdict_of(store, accepted.nightly_key))
    repeated = told is not None
    if told is None:
        first = anchor(store, study.name)
        asked = parameters.model_dump(include={"margin", "confidence", "scored_by", "accept"})
        order = NightlyOrder(
            name=study.name,
            study_key=key,
            against=accepted.study_key if accepted else None,
            anchor=first.study_key if first else None,
            flow_run_id=asker,
            **asked,
        )
        repeated = verdict_of(store, order.key) is not None  # by an earlier night, and it was not accepted
        told = verdict_of(store, run(decide, order))
    assert told is not None  # noqa: S101 - it has landed
    page = _page(study, home)
    if parameters.report and not (repeated and page):
        page = report(study)
    return _tell(told, runs_of(store, told["nightly_key"]), parameters.accept, page)


def study_of(parameters: Nightly) -> Study:
    """The study that a night evaluates. Raises InputError if there is no such file, if it trains no such student, or if it has
    no judge that could score."""
    path = Path(parameters.study).expanduser()
    study = load_study(path if path.is_absolute() else REPOSITORY / path)
    if parameters.scored_by == "judge" and not study.evaluate.judges:
        raise InputError(
            f"scored_by: study {study.name} has no judge; name one in its evaluate.judges, or let the matcher score (`matcher`)"
        )
    if not parameters.students:
        return study
    known = study.finetune.students
    if strangers := [alias for alias in parameters.students if alias not in known]:
        raise InputError(f"students: {', '.join(strangers)} not in study {study.name}; it has {', '.join(known)}")
    part = "-".join(re.sub(r"[^a-z0-9-]+", "_", alias.lower()) for alias in parameters.students)
    tuning = study.finetune.model_copy(update={"students": parameters.students})
    return study.model_copy(update={"finetune": tuning, "name": f"{study.name}-only-{part}"})


def _landed(study: Study, home: Home) -> str | None:
    """The key of the study if all of it is in the store, so that not even its flow has to run."""
    try:
        return landed_key(study, home)
    except Waiting:
        return None


def _evaluate(study: Study, train: bool) -> str:
    if train and study.evaluate.asks_students:
        retrieve(study)
        distill(study)
        finetune(study)
    try:
        return evaluate(study)
    except Waiting as error:
        raise InputError(
            f"{error}; or let the night train what is missing (`train`, --train). A nightly evaluates students that are there"
        ) from None


def _nothing_new(name: str, since: dict[str, Any] | None) -> str:
    line = unchanged(name, since)
    get_run_logger().info(line)
    markdown(f"nightly-{name}", f"## Same\n\n{line}.", "Verdict of the night")
    emit_verdict(name, "same", {}, None)
    return line


def _page(study: Study, home: Home) -> str | None:
    """The report of what was evaluated, if it is drawn already."""
    order = report_order(study, home)
    return str(report_page(order, home)) if is_drawn(order, home) else None


def _tell(told: dict[str, Any], runs: list[dict[str, Any]], rule: Accept, page: str | None) -> str:
    """Artifacts and event of a verdict; returns it in a line. Raises RunError, last, where it is a regression."""
    name = str(told["name"])
    by_rule = "by the rule" if accepts(rule, told["verdict"]) else "not by itself"
    markdown(f"nightly-{name}", page_text(told, f"{by_rule} ({rule})", page), "Verdict of the night")
    table(f"nightly-runs-{name}", run_table(runs), "Runs held against the last accepted ones, the worst first")
    emit_verdict(name, str(told["verdict"]), told, page)
    line = headline(told)
    get_run_logger().info(line)
    if told["regression"]:
        raise RunError(failure(told, runs))
    return line
