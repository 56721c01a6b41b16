"""Training sets, traces, results and students for others: ``factscale publish --help``."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.printing import Shape, console, print_rows, size_of
from flows.server import prepare_environment
from store.home import Home
from store.types import InputError

if TYPE_CHECKING:
    from eval.card_facts import DatasetFacts
    from tasks.exports import FoundStudy
    from tasks.targets import Target

publish_app = typer.Typer(
    no_args_is_help=True,
    help="Export datasets and models with their cards, to a folder or to the Hugging Face hub. Without --execute it is a dry "
    "run: everything is counted and checked, nothing is written.",
)

ToOption = Annotated[
    str,
    typer.Option("--to", metavar="TARGET", help="A folder (new, or an earlier export), or hub:owner/name."),
]
ExecuteOption = Annotated[bool, typer.Option("--execute", help="Do it: write the folder, or upload.")]
LicenseOption = Annotated[
    str | None,
    typer.Option(
        "--license", metavar="ID", help="The licence as the hub names it, e.g. cc-by-4.0; else the card names none."
    ),
]
PublicOption = Annotated[bool, typer.Option("--public", help="Make the repository public; else it is private.")]

_HEAD = 24  # lines of a card that a dry run shows
_BYTES_A_TOKEN = 4
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


class Kind(StrEnum):
    """What of a study is published."""

    TRAINING = "training"
    TRACES = "traces"
    RESULTS = "results"


@publish_app.command("dataset")
def publish_dataset(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's file, its name, or the beginning of its key.")
    ],
    to: ToOption,
    kind: Annotated[
        Kind, typer.Option(help="Training sets, every evaluated trace, or leaderboard and scores.")
    ] = Kind.TRAINING,
    training_set: Annotated[
        str | None,
        typer.Option(
            "--training-set",
            "--recipe",
            metavar="NAME",
            help="One training set: rt, fs1, or a mix by its name; else all.",
        ),
    ] = None,
    execute: ExecuteOption = False,
    license_: LicenseOption = None,
    public: PublicOption = False,
) -> None:
    """Publish a study's data as Parquet that `datasets.load_dataset` loads, with its card."""
    home = Home.current().existing()
    if training_set is not None and kind is not Kind.TRAINING:
        raise InputError(f"--training-set {training_set} is for --kind training: leave it out for {kind}")
    _check_license(license_)
    prepare_environment(home)
    from tasks.exports import dataset_facts, write_dataset
    from tasks.targets import deliver, target_named

    target = target_named(to, "dataset", public=public)
    found = _study(study, home)
    facts = dataset_facts(home.store, found, kind.value, training_set, license_)
    if not execute:
        from eval.cards import dataset_card

        _show(target, _dataset_rows(facts), dataset_card(facts))
        return
    place = deliver(target, partial(write_dataset, home.store, facts), home.folder / "exports")
    rows = sum(split.rows for config in facts.configs for split in config.splits)
    console.print(f"{rows:,} rows published: {place}", soft_wrap=True, markup=False)


@publish_app.command("model")
def publish_model(
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            help="BASE-TRAINING_SET[-VARIANT], e.g. smollm2-135m-fs1, or the beginning of its key.",
        ),
    ],
    to: ToOption,
    execute: ExecuteOption = False,
    license_: LicenseOption = None,
    public: PublicOption = False,
) -> None:
    """Publish a student: its safetensors, tokenizer and configuration, with its card."""
    home = Home.current().existing()
    _check_license(license_)
    prepare_environment(home)
    from tasks.student_exports import find_student, model_facts, model_files, write_model
    from tasks.targets import HubTarget, deliver, target_named

    target = target_named(to, "model", public=public)
    found = find_student(home.store, student)
    older = f"; {found.older} older of this name" if found.older else ""
    console.print(f"{found.name} ({found.key}{older})", markup=False, soft_wrap=True)
    facts = model_facts(home, found, license_)
    if not execute:
        files = model_files(home, facts)
        rows = [
            {"file": name, "size": size_of(len(what) if isinstance(what, bytes) else what.stat().st_size)}
            for name, what in files.items()
        ]
        card = files["README.md"]
        _show(target, rows, card.decode() if isinstance(card, bytes) else "")
        return
    make = partial(write_model, home, facts, link=isinstance(target, HubTarget))
    console.print(f"Published: {deliver(target, make, home.folder / 'exports')}", soft_wrap=True, markup=False)


def _check_license(name: str | None) -> None:
    if name is not None and not _LICENSE.fullmatch(name):
        raise InputError(
            f"--license {name!r}: give the hub's identifier in lower case, for example cc-by-4.0 or apache-2.0"
        )


def _study(named: str, home: Home) -> FoundStudy:
    """The study of a file (with exactly its parameters), or of a name or key; says which one was taken."""
    from tasks.exports import find_study

    if named.endswith((".yaml", ".yml")):
        from flows.parameters import load_study
        from flows.report import landed_key

        found = find_study(home.store, landed_key(load_study(Path(named)), home))
    else:
        found = find_study(home.store, named)
    older = f"; {found.older} older of this name" if found.older else ""
    console.print(
        f"Study {found.name} ({found.key}) of {found.started_at:%Y-%m-%d %H:%M}{older}", markup=False, soft_wrap=True
    )
    return found


def _dataset_rows(facts: DatasetFacts) -> list[dict[str, Any]]:
    return [
        {
            "files": f"data/{config.name}/{split.name}-*.parquet",
            "rows": split.rows,
            "questions": split.questions,
            "text, uncompressed": f"about {size_of(split.tokens * _BYTES_A_TOKEN)}" if split.tokens else None,
        }
        for config in facts.configs
        for split in config.splits
    ]


def _show(target: Target, rows: list[dict[str, Any]], card: str) -> None:
    from tasks.targets import TOKEN_VARIABLE, HubTarget, token

    print_rows(rows, Shape.TABLE, title="To be published")
    lines = card.splitlines()
    console.print(f"\nREADME.md ({len(lines)} lines) begins:")
    console.print("\n".join(f"  {line}" for line in lines[:_HEAD]), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nTarget: {target}", markup=False, soft_wrap=True)
    if isinstance(target, HubTarget) and token() is None:
        console.print(f"{TOKEN_VARIABLE} is not set: --execute will need it.")
    console.print("Dry run: nothing was written. Add --execute to do it.")
