"""Which weights a unit runs: a model of the registry as it is, or a student trained on it."""

from __future__ import annotations

from models.embedded import default_cache
from models.engines.base import ModelRef
from models.finetune import load_manifest
from models.registry import ModelEntry, fetch
from store.home import Home
from store.types import Frozen, InputError


class ModelChoice(Frozen):
    """A registry entry, and the key of the student if it is not asked as it is. ``format`` is how its turn is laid out."""

    entry: ModelEntry
    format: str
    student: str | None = None

    @property
    def name(self) -> str:
        """The alias of the base."""
        return self.entry.alias

    def reference(self, home: Home) -> ModelRef:
        """What a session loads; downloads the base if it is not there. Raises InputError if the student's folder is gone."""
        base = fetch(self.entry, default_cache())
        if self.student is None:
            return ModelRef(alias=self.name, path=base, adapter=self.entry.adapter, format_name=self.format)
        folder = home.students / self.student
        manifest = load_manifest(folder)
        if manifest is None:
            raise InputError(
                f"student {self.student}: no complete weights in {folder}; run `finetune` again to train it once more"
            )
        if manifest.kind == "lora":
            return ModelRef(alias=self.name, path=base, adapter=folder, format_name=self.format)
        return ModelRef(alias=self.name, path=folder, adapter=None, format_name=self.format)
