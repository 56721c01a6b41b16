"""A training set as a folder under the home: what `publish` gives to others, as soon as it is there.

``training_sets/KEY/`` holds ``train.parquet``, ``held_out.parquet`` (where something is held out), the card ``README.md``,
``statistics.json`` and the list of its files, ``factscale.json``. It appears whole or not at all. Rows in the store are the
truth: a folder that is gone is written again.
"""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path

from eval.card_facts import ConfigFacts, DatasetFacts
from eval.cards import dataset_card
from store.home import Home
from store.types import InputError
from tasks.export_rows import training_tables
from tasks.exports import HELD_OUT, example_of, training_benchmarks, training_config, training_facts, unit_versions
from tasks.shards import write_file
from tasks.targets import MARKER, FolderTarget, deliver

STATISTICS = "statistics.json"


def folder_of(home: Home, training_set: str) -> Path:
    """Where a training set lies."""
    return home.training_sets / training_set


def folder_missing(home: Home, training_set: str) -> bool:
    """Whether the folder, or a file of it, is not there.

    Units of other rules can come to the same content: the folder is that of the first, and its numbers are that unit's.
    """
    folder = folder_of(home, training_set)
    try:
        files = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return True
    return not all((folder / name).is_file() for name in files)


def write_folder(home: Home, unit_key: str, training_set: str, name: str, study: str, retrieval: str | None) -> Path:
    """Write the folder unless it is there. Returns it.

    Raises:
        InputError: there is a folder of this name that holds something else.
        RunError: another process writes it.
    """
    folder = folder_of(home, training_set)
    if folder_missing(home, training_set):
        make = partial(_write, home, unit_key, training_set, name, study, retrieval)
        try:
            deliver(FolderTarget(folder), make, home.folder / "exports")
        except InputError as error:
            raise InputError(
                f"the training set's folder {folder} is to be written again, and others have put something there: move that "
                f"to another place ({error})"
            ) from None
    return folder


def _write(
    home: Home, unit_key: str, training_set: str, name: str, study: str, retrieval: str | None, folder: Path
) -> None:
    store = home.store
    with store.connection(read_only=True):  # opened once for all that is read
        facts = training_facts(store, training_set, unit_key, name)
        config = training_config(store, facts)
        card = DatasetFacts(
            kind="training",
            study=study,
            study_key=None,
            configs=(_in_one_file(config),),
            benchmarks=training_benchmarks(store, [training_set]),
            training=(facts,),
            example=example_of(store, facts),
            versions=unit_versions(store, [unit_key]),
        )
    retrievals = [retrieval] if retrieval else []
    for split in config.splits:
        with closing(training_tables(store, retrievals, training_set, held_out=split.name == HELD_OUT)) as tables:
            write_file(folder / f"{split.name}.parquet", tables)
    counted = {"unit": unit_key, "training_set": training_set, "name": name, **facts.statistics}
    (folder / STATISTICS).write_text(json.dumps(counted, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(dataset_card(card), encoding="utf-8")


def _in_one_file(config: ConfigFacts) -> ConfigFacts:
    splits = tuple(split.model_copy(update={"file": f"{split.name}.parquet"}) for split in config.splits)
    return config.model_copy(update={"splits": splits})
