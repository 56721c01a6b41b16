"""Commands about a Prefect server: ``factscale deploy`` and ``factscale status``."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.printing import Shape, console, print_rows
from flows.server import prepare_environment
from store.home import Home


def deploy(
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE/NAME",
            help="The notification block that hears of a nightly regression, e.g. slack-webhook/team.",
        ),
    ] = None,
    nightly: Annotated[
        bool | None,
        typer.Option("--nightly/--no-nightly", help="Switch the nightly's schedule on or off; else it stays as it is."),
    ] = None,
    shape: Annotated[Shape, typer.Option("--format", help="How to print what was made.")] = Shape.TABLE,
) -> None:
    """Register work pools, queues, deployments and automations on the Prefect server of PREFECT_API_URL; again at any time."""
    prepare_environment(Home.current())
    from flows.deploying import deploy as register

    print_rows([made._asdict() for made in register(notify, nightly)], shape, title="On the Prefect server")


def status(
    shape: Annotated[Shape, typer.Option("--format", help="How to print the rows.")] = Shape.TABLE,
    ui: Annotated[
        bool, typer.Option("--ui", help="Where no Prefect server is configured, ask the home's own Prefect database.")
    ] = False,
    latest: Annotated[
        int, typer.Option("--latest", min=0, help="Compare so many flow runs, the latest ones; 0: all of them.")
    ] = 50,
    check: Annotated[bool, typer.Option("--check", help="End with code 1 where UI and store differ.")] = False,
) -> None:
    """Show what is in the store, and whether the Prefect UI shows the same; also while a study runs."""
    home = Home.current().existing()
    from flows.status import status_rows

    studies, units = status_rows(home.store)
    if shape is Shape.TABLE:
        console.print(f"Store: {home.store.name}")
        print_rows(studies, shape, title="Evaluated studies")
        print_rows(units, shape, title="Units that landed")
    prepare_environment(home)
    from flows.reconciling import compared

    found = compared(home, latest, own_server=ui)
    rows = [difference._asdict() for difference in found.differences]
    if shape is Shape.TABLE:
        if rows:
            print_rows(rows, shape, title="UI and store differ")
        console.print(found.summary, soft_wrap=True, highlight=False)
    else:
        told = [{"table": "study", **r} for r in studies] + [{"table": "units", **r} for r in units]
        print_rows(told + [{"table": "differences", **r} for r in rows], shape)
    if check and rows:
        raise typer.Exit(1)
