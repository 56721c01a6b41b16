"""Where a study keeps its things: one folder, ``.factscale`` by default, or what FACTSCALE_HOME says.

factscale.duckdb   the results      students/   weights and their manifests
training_sets/     Parquet and cards
kg/                loaded graphs    reports/    one folder a study
prefect/           Prefect's own    logs/       what the children print, and the generation log
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from store.connection import Store
from store.types import InputError

HOME_VARIABLE = "FACTSCALE_HOME"


class Home(NamedTuple):
    """The folder of a store and everything that belongs to it."""

    folder: Path

    @classmethod
    def current(cls) -> Home:
        """The home that the environment names, as an absolute path; nothing is created."""
        return cls(Path(os.environ.get(HOME_VARIABLE) or ".factscale").expanduser().resolve())

    def existing(self) -> Home:
        """This home, if it has a results database. Raises InputError if there is none yet."""
        if not self.store.path.is_file():
            raise InputError(
                f"no store at {self.store.path}: run a study first, or set FACTSCALE_HOME to the folder of one"
            )
        return self

    @property
    def store(self) -> Store:
        """The results database (created with its schema at the first use)."""
        return Store(self.folder / "factscale.duckdb")

    @property
    def students(self) -> Path:
        """One folder a student key."""
        return self.folder / "students"

    @property
    def training_sets(self) -> Path:
        """One folder a training set key."""
        return self.folder / "training_sets"

    @property
    def kg(self) -> Path:
        """Loaded graphs of the local SPARQL server."""
        return self.folder / "kg"

    @property
    def reports(self) -> Path:
        """One folder a study name."""
        return self.folder / "reports"

    @property
    def logs(self) -> Path:
        """Logs of child processes."""
        return self.folder / "logs"

    def log_file(self, name: str) -> Path:
        """The log of one child process; its folder is made."""
        self.logs.mkdir(parents=True, exist_ok=True)
        return self.logs / f"{name}.log"

    @property
    def generation_log(self) -> Path:
        """JSON lines, one when a batch of generation starts and one when it ends: tokens lost to a kill show here."""
        return self.logs / "generation.jsonl"
