"""``factscale train-node FOLDER --rank N``: another machine takes part in the trainings of a study's first one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.launching import join


def train_node(
    folder: Annotated[
        Path, typer.Argument(help="A folder that all machines see: a student's, or the one that holds students")
    ],
    rank: Annotated[int, typer.Option(help="This machine's number: 1, 2, ...; the first machine (0) runs the study")],
    wait: Annotated[float, typer.Option(help="Seconds without a training after which it ends", min=1)] = 600.0,
) -> None:
    """Take part in trainings of several machines. The first machine runs the study; this runs on each of the others."""
    done = join(folder, rank, wait=wait, say=typer.echo)
    typer.echo(f"took part in {done} training{'' if done == 1 else 's'}")
