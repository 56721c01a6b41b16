"""The command line: ``factscale --help``.

Exit codes: 0 done, 1 failed while running, 2 bad input, 130 interrupted. Every error is one message that names the field or
file, the value and the mend; what Prefect logs goes to its API, and a traceback to ``logs/factscale.log`` in the home.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.chat_command import chat
from flows.data_commands import data_app
from flows.db_commands import db_app
from flows.kg_commands import kg_app
from flows.kg_paths import kg_paths
from flows.model_commands import models_app
from flows.nightly_commands import nightly_app
from flows.printing import Shape, console
from flows.publish_commands import publish_app
from flows.server import prepare_environment
from flows.server_commands import deploy, status
from flows.train_commands import train
from flows.train_node import train_node
from flows.worker_commands import workers
from store.home import Home
from store.types import InputError, RunError, Setting

app = typer.Typer(
    name="factscale",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From knowledge-graph facts to reasoning traces, fine-tuned students and honest statistics.",
    epilog="Everything is kept in the folder .factscale, or in what FACTSCALE_HOME names.",
)
study_app = typer.Typer(no_args_is_help=True, help="Run a study, or see what running it would take.")
ui_app = typer.Typer(
    help="Prefect's UI with the deployments and a worker, or, with `report`, a study's report and traces."
)
app.add_typer(study_app, name="study")
app.add_typer(db_app, name="db")
app.add_typer(kg_app, name="kg")
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(publish_app, name="publish")
app.add_typer(ui_app, name="ui")
app.add_typer(nightly_app, name="nightly")
kg_app.command("paths")(kg_paths)
app.command("train")(train)
app.command("train-node")(train_node)
app.command("chat")(chat)
app.command("status")(status)
app.command("deploy")(deploy)
app.command("workers")(workers)
errors = Console(stderr=True)
_INTERRUPTED = 130

StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY.yaml", help="The study's file, e.g. deployments/studies/demo.yaml")
]


LimitOption = Annotated[
    int | None, typer.Option(min=1, help="At most so many questions of each set, for a trial with a report of its own.")
]


class Table(StrEnum):
    """The tables of a plan."""

    UNIT = "unit"
    MODEL = "model"


class Stage(StrEnum):
    """The flows of a study that can be run alone."""

    RETRIEVE = "retrieve"
    DISTILL = "distill"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"
    REPORT = "report"


@study_app.command("run")
def study_run(
    study_file: StudyFile,
    only: Annotated[Stage | None, typer.Option(help="Run one stage; the ones before it must have landed.")] = None,
    limit: LimitOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and what it takes; nothing is done or spent.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log as well.")] = False,
) -> None:
    """Run a study. What landed before is not made again: start it again after any interruption."""
    home = Home.current()
    prepare_environment(home, quiet=not verbose)
    from flows.limits import limited
    from flows.parameters import load_study

    study = limited(load_study(study_file), limit)
    if dry_run:
        from flows.plan_text import print_plan

        print_plan(study, home, only.value if only else None)
        return
    from flows.terminal import run_in_terminal

    run_in_terminal(study, home, only.value if only else None, console)


@study_app.command("plan")
def study_plan(
    study_file: StudyFile,
    limit: LimitOption = None,
    gpu_price: Annotated[
        float | None, typer.Option(min=0, help="US dollars a GPU hour; without it GPUs are given in hours.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that work at a time, for the wall time.")] = 1,
    by: Annotated[Table, typer.Option(help="Which table --format json and csv print.")] = Table.UNIT,
    shape: Annotated[Shape, typer.Option("--format", help="How to print it.")] = Shape.TABLE,
) -> None:
    """Show what a study would take: units done and missing; tokens, GPU hours and money by model. Nothing is run or fetched."""
    home = Home.current()
    prepare_environment(home)
    from flows.limits import limited
    from flows.parameters import load_study
    from flows.plan_text import print_plan

    study = limited(load_study(study_file), limit)
    print_plan(study, home, shape=shape, by=by.value, gpu_price=gpu_price, gpus=gpus)


@app.command()
def report(
    study_file: StudyFile,
    baseline: Annotated[
        Setting | None, typer.Option(help="The setting that runs are compared with; else the study's.")
    ] = None,
    baseline_model: Annotated[
        str | None, typer.Option(help="Compare with this model's run; else with the same model's.")
    ] = None,
    questions: Annotated[
        int | None, typer.Option(min=0, max=2000, help="Test questions that get a page each; else the study's.")
    ] = None,
    limit: LimitOption = None,
) -> None:
    """Draw a study's report again from what is in the store, and print the path of its first page."""
    home = Home.current().existing()
    prepare_environment(home)
    from flows.limits import limited
    from flows.parameters import load_study, reporting
    from flows.report import draw_report

    study = reporting(limited(load_study(study_file), limit), baseline, baseline_model, questions)
    console.print(str(draw_report(study, home)), soft_wrap=True)


@ui_app.callback(invoke_without_command=True)
def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of the UI, on 127.0.0.1.")] = 4200,
) -> None:
    """Start a Prefect server with its UI, the deployments and a worker; Ctrl-C ends them.

    With `report`: a study's report and its traces.
    """
    if context.invoked_subcommand is not None:
        return
    home = Home.current()
    prepare_environment(home)
    from flows.ui import serve

    serve(home, port, console)


@ui_app.command("report")
def ui_report(
    study_file: StudyFile,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of the pages.")] = 8787,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; nothing asks for a password, so others than this machine's see all."
        ),
    ] = "127.0.0.1",
    limit: LimitOption = None,
) -> None:
    """Show a study's report, and search its questions and traces in a browser; Ctrl-C ends it. Nothing is changed."""
    home = Home.current().existing()
    prepare_environment(home)
    from flows.explorer import serve_explorer
    from flows.limits import limited
    from flows.parameters import load_study
    from flows.report import landed_key, report_folder
    from store.scores import score_study

    study = limited(load_study(study_file), limit)
    key = landed_key(study, home)
    score_study(home.store, key)

    def tell(url: str) -> None:
        console.print(f"Report and traces of {study.name}: [bold]{url}[/bold]   (Ctrl-C ends it)")

    serve_explorer(home, key, report_folder(study, home), host, port, name=study.name, on_start=tell)


def main() -> None:
    """Entry point of the command `factscale`."""
    _fill_descriptors()
    sys.exit(_run(app))


def _fill_descriptors() -> None:
    """Where standard input was closed (`<&-`), the first file opened would take its number, which children get as theirs."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _run(command: Callable[..., Any]) -> int:
    try:
        code = command(standalone_mode=False)
        if code == _INTERRUPTED:  # typer makes this of Ctrl-C, without a word
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted; what landed is kept, the same command goes on from it")
        return _INTERRUPTED
    except InputError as error:
        _say(str(error))
        return 2
    except RunError as error:
        _say(str(error))
        return 1
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT):
            _say(f"{error.filename or 'a file'} cannot be written ({error.strerror}): mend that, or set FACTSCALE_HOME")
            return 1
        return _unexpected(error)
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    show = getattr(error, "show", None)
    if show is not None and hasattr(error, "exit_code"):  # click's usage errors print themselves
        show()
        return int(error.exit_code)
    log = Home.current().logs / "factscale.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        where = f"; the traceback is in {log}"
    except OSError:
        where = ""
    _say(f"{type(error).__name__}: {error}{where}")
    return 1


def _say(message: str) -> None:
    errors.print("[bold red]error:[/bold red]", end=" ")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
