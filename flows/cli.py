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
from flows.kg_commands import kg_app
from flows.kg_paths import kg_paths
from flows.model_commands import models_app
from flows.printing import Shape, console, print_rows
from flows.publish_commands import publish_app
from flows.server import prepare_environment
from flows.train_commands import train
from flows.train_node import train_node
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
db_app = typer.Typer(no_args_is_help=True, help="Look into the results database.")
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
kg_app.command("paths")(kg_paths)
app.command("train")(train)
app.command("train-node")(train_node)
app.command("chat")(chat)
errors = Console(stderr=True)
_INTERRUPTED = 130

StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY.yaml", help="The study's file, e.g. deployments/studies/demo.yaml")
]


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
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log as well.")] = False,
) -> None:
    """Run a study. What landed before is not made again: start it again after any interruption."""
    home = Home.current()
    prepare_environment(home)
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.parameters import load_study

    study = load_study(study_file)
    from flows.terminal import run_in_terminal

    run_in_terminal(study, home, only.value if only else None, console)


@study_app.command("plan")
def study_plan(
    study_file: StudyFile,
    shape: Annotated[Shape, typer.Option("--format", help="How to print the units.")] = Shape.TABLE,
) -> None:
    """Show a study's units: done or missing, and the tokens that are still to be generated. Nothing is run."""
    home = Home.current()
    prepare_environment(home)
    from flows.parameters import load_study
    from flows.plan import plan

    rows = plan(load_study(study_file), home)
    print_rows(rows, shape, title=f"Plan of {study_file}")
    if shape is Shape.TABLE:
        missing = sum(row["state"] != "done" for row in rows)
        tokens = sum(row["tokens"] or 0 for row in rows)
        cost = sum(row.get("cost") or 0.0 for row in rows)
        priced = f" (those of models with prices: ${cost:,.2f})" if cost else ""
        console.print(f"{len(rows)} units, {missing} to do, at most {tokens:,} tokens to generate{priced}.")


@app.command()
def status(
    shape: Annotated[Shape, typer.Option("--format", help="How to print the counts.")] = Shape.TABLE,
) -> None:
    """Show what is in the store: studies, units by kind, rows; also while a study runs."""
    home = Home.current().existing()
    from flows.plan import status_rows

    studies, units = status_rows(home.store)
    if shape is Shape.TABLE:
        console.print(f"Store: {home.store.path}")
        print_rows(studies, shape, title="Evaluated studies")
        print_rows(units, shape, title="Units that landed")
    else:
        print_rows([{"table": "study", **r} for r in studies] + [{"table": "units", **r} for r in units], shape)


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
) -> None:
    """Draw a study's report again from what is in the store, and print the path of its first page."""
    home = Home.current().existing()
    prepare_environment(home)
    from flows.parameters import load_study, reporting
    from flows.report import draw_report

    study = reporting(load_study(study_file), baseline, baseline_model, questions)
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
) -> None:
    """Show a study's report, and search its questions and traces in a browser; Ctrl-C ends it. Nothing is changed."""
    home = Home.current().existing()
    prepare_environment(home)
    from flows.explorer import serve_explorer
    from flows.parameters import load_study
    from flows.report import landed_key, report_folder
    from store.scores import score_study

    study = load_study(study_file)
    key = landed_key(study, home)
    score_study(home.store, key)

    def tell(url: str) -> None:
        console.print(f"Report and traces of {study.name}: [bold]{url}[/bold]   (Ctrl-C ends it)")

    serve_explorer(home, key, report_folder(study, home), host, port, name=study.name, on_start=tell)


@db_app.command("query")
def db_query(
    sql: Annotated[
        str,
        typer.Argument(help="One statement, for example: SELECT setting, avg(correct::INT) FROM results GROUP BY 1"),
    ],
    shape: Annotated[Shape, typer.Option("--format", help="How to print the rows.")] = Shape.TABLE,
) -> None:
    """Run a SQL query on the results database, read-only."""
    import duckdb

    home = Home.current().existing()
    try:
        rows = home.store.query_untrusted(sql)
    except duckdb.Error as error:
        raise InputError(f"the query failed: {error}") from None
    print_rows(rows, shape)


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
