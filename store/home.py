"""Where a study keeps its things: one folder, ``.factscale`` by default, or what FACTSCALE_HOME says.

factscale.duckdb   the results      students/   weights and their manifests
                   (unless FACTSCALE_STORE names another store: a file, or a lake that several machines write)
training_sets/     Parquet and cards
kg/                loaded graphs    reports/    one folder a study
prefect/           Prefect's own    logs/       what the children print, and the generation log
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from store.connection import Store
from store.lake_address import LakeAddress, is_lake
from store.types import InputError

HOME_VARIABLE = "FACTSCALE_HOME"
STORE_VARIABLE = "FACTSCALE_STORE"


class Home(NamedTuple):
    """The folder of a store and everything that belongs to it."""

    folder: Path

    @classmethod
    def current(cls) -> Home:
        """The home that the environment names, as an absolute path; nothing is created."""
        return cls(Path(os.environ.get(HOME_VARIABLE) or ".factscale").expanduser().resolve())

    def existing(self) -> Home:
        """This home, if it has a results database. Raises InputError if there is none yet."""
        store = self.store
        if not store.exists():
            raise InputError(f"no store at {store.name}: run a study first, or set FACTSCALE_HOME to the folder of one")
        return self

    @property
    def store(self) -> Store:
        """The results database, created with its schema at the first use. Raises InputError for a wrong FACTSCALE_STORE."""
        return self.open_store()

    def open_store(self, lock_timeout: float | None = None) -> Store:
        """The same, waiting so many seconds for another process."""
        return self.store_at(os.environ.get(STORE_VARIABLE) or str(self.folder / "factscale.duckdb"), lock_timeout)

    def store_at(self, address: str, lock_timeout: float | None = None) -> Store:
        """The store of this path or URL; a lake whose URL names no folder has its files in ``lake`` of this home."""
        if not is_lake(address):
            return Store(Path(address).expanduser().resolve(), lock_timeout=lock_timeout)
        store = Store(address, lock_timeout=lock_timeout, folder=self.folder / "lake")
        self._check_folder(store)
        return store

    def store_variable(self) -> str | None:
        """FACTSCALE_STORE without a password, for others who have one of their own; None where it is not set."""
        given = os.environ.get(STORE_VARIABLE)
        return LakeAddress.parse(given, self.folder / "lake").plain if given and is_lake(given) else given

    def _check_folder(self, store: Store) -> None:
        if store.lake is None:
            return
        data, home = store.lake.folder.resolve(), self.folder.resolve()
        if data == home or data in home.parents:
            raise InputError(
                f"the store {store.name}: data={store.lake.folder}: the home {self.folder} lies in that folder; "
                "a lake's files need a folder of their own, for example the home's `lake`"
            )

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
