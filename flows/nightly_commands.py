"""The commands `factscale nightly`: run a night, see the verdicts, accept one by hand."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.printing import Shape, console, print_rows
from flows.server import prepare_environment
from store.home import Home
from store.types import InputError

nightly_app = typer.Typer(
    no_args_is_help=True, help="Evaluate a study again, and hold it against what was accepted last."
)


class Rule(StrEnum):
    """What becomes by itself the one that the next night is held against."""

    NOT_WORSE = "not worse"
    IMPROVED = "improved"
    BY_HAND = "by hand"


class ScoredBy(StrEnum):
    """Whose word makes an answer right."""

    MATCHER = "matcher"
    JUDGE = "judge"


@nightly_app.command("run")
def nightly_run(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.yaml]", help="Default: the shipped nightly study.")
    ] = None,
    student: Annotated[
        list[str] | None, typer.Option(help="Only this student, by alias; more than once for several.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="The accuracy that may be lost before the night fails.")
    ] = 0.02,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="How sure a verdict is.")] = 0.95,
    scored_by: Annotated[
        ScoredBy, typer.Option(help="Whose word counts; judge: the study's first.")
    ] = ScoredBy.MATCHER,
    accept: Annotated[Rule, typer.Option(help="What the next night is held against.")] = Rule.NOT_WORSE,
    train: Annotated[
        bool, typer.Option("--train", help="Make missing paths, training sets and students first.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Draw the report where something is new.")
    ] = True,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many questions of each set, for a trial.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be evaluated and what it takes; do nothing.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log as well.")] = False,
) -> None:
    """Evaluate what is new or changed, and compare. Exit code 1 where a run got worse beyond the margin."""
    home = Home.current()
    prepare_environment(home, quiet=not verbose)
    from flows.limits import limited
    from flows.nightly import DEFAULT_STUDY, Nightly, study_of

    parameters = Nightly(
        study=str(study_file.resolve()) if study_file else DEFAULT_STUDY,
        students=tuple(student or ()),
        margin=margin,
        confidence=confidence,
        scored_by=scored_by.value,
        accept=accept.value,
        train=train,
        report=report,
    )
    study = limited(study_of(parameters), limit)
    if dry_run:
        from flows.plan_text import print_plan

        print_plan(study, home, None if train else "evaluate")
        return
    _run(parameters, home, limit)


def _run(parameters: Any, home: Home, limit: int | None) -> None:
    from flows.nightly import nightly
    from flows.terminal import running_here

    with running_here(home, console):
        told = nightly(parameters, limit=limit)
    console.print(told, soft_wrap=True)


@nightly_app.command("ls")
def nightly_ls(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study's name or file; empty: all.")] = None,
    shape: Annotated[Shape, typer.Option("--format", help="How to print the verdicts.")] = Shape.TABLE,
) -> None:
    """Show the verdicts, the newest first: effect, interval, and whether they were accepted."""
    home = Home.current().existing()
    prepare_environment(home)
    from flows.nightly_text import interval, points
    from tasks.nightlies import verdicts_of

    rows = verdicts_of(home.store, _name(study) if study else None)
    if shape is not Shape.TABLE:
        print_rows(rows, shape)
        return
    shown = [
        {
            "verdict key": row["nightly_key"][:8],
            "study": row["name"],
            "when (UTC)": f"{row['decided_at']:%Y-%m-%d %H:%M}",
            "verdict": "REGRESSION" if row["regression"] else row["verdict"],
            "effect": "-" if row["effect"] is None else f"{points(row['effect'])} {interval(row)}",
            "drift": "-" if row["drift"] is None else points(row["drift"]),
            "questions": row["questions"],
            "new": row["new_questions"],
            "gone": row["gone_questions"],
            "accepted": row["accepted"],
        }
        for row in rows
    ]
    print_rows(shown, shape, title="Nightly verdicts (effects in points of accuracy)")


@nightly_app.command("accept")
def nightly_accept(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or file.")],
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="How the verdict's key begins; empty: the newest.")
    ] = None,
) -> None:
    """Hold the next nights against this one, for example after a change that was meant. Nothing is evaluated."""
    home = Home.current().existing()
    prepare_environment(home)
    from flows.nightly_text import headline
    from tasks.nightlies import accept_by_hand

    row = accept_by_hand(home.store, _name(study), key)
    console.print(f"accepted {row['nightly_key'][:8]}: {headline(row)}", soft_wrap=True)


def _name(study: str) -> str:
    """The name of a study that is given by name or by file."""
    if not study.endswith((".yaml", ".yml")):
        return study
    from flows.parameters import load_study

    if not Path(study).is_file():
        raise InputError(f"no study file {study}; give a file that is there, or the study's name alone")
    return load_study(Path(study)).name
