"""The models by alias: where their weights come from, which revision, how their turns are laid out.

The registry is a YAML file (shipped: ``deployments/models.yaml``). A model's key, which identifies its weights in every
cache key, is known without the weights where they are named by content: a plan can be made before anything is fetched.

Run alone: ``python -m models.registry deployments/models.yaml`` prints every entry and its key.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from models.embedded import default_cache, embedded_key, embedded_model
from models.engines.base import ModelRef, Precision, check_folder
from models.formats import format_named
from store.types import Frozen, InputError, RunError, Sampling, digest

Role = Literal["teacher", "student", "baseline", "judge"]

EMBEDDED = "embedded"
HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model")
"""What is fetched from a hub: weights that cannot run code, and texts. Never pickles (.bin, .pt), never code (.py)."""

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")
"""What of them makes a tokenizer."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class ModelEntry(Frozen):
    """One model. ``source`` is ``embedded``, a hub id (``org/name``), or a folder (begins with ``/``, ``.`` or ``~``).

    ``revision`` is the commit hash of a hub model. ``context_length`` is in tokens, ``parameters`` their number (for
    plots over model size), ``sampling`` what the model's makers recommend. ``adapter`` is a peft LoRA folder to merge.
    """

    alias: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    source: str
    revision: str | None = None
    adapter: Path | None = None
    format: str = "plain"
    roles: tuple[Role, ...] = ()
    context_length: int = Field(ge=1)
    parameters: int = Field(ge=1)
    sampling: Sampling = Sampling()
    dtype: Precision = "auto"

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        return format_named(name).name

    @model_validator(mode="after")
    def _source_is_one_of_three(self) -> Self:
        if self.source != EMBEDDED and self.folder is None and not _HUB_ID.fullmatch(self.source):
            raise ValueError(
                f"source {self.source!r} is neither 'embedded', nor a hub id org/name, nor a folder (./name)"
            )
        return self

    @property
    def folder(self) -> Path | None:
        """The local folder, where the source is one."""
        return Path(self.source).expanduser() if self.source.startswith(("/", ".", "~")) else None


class ResolvedModel(NamedTuple):
    """A model whose weights are here. ``key`` identifies them; ``format`` is the name of one of ``models.formats``."""

    alias: str
    path: Path
    key: str
    adapter: Path | None
    format: str

    @property
    def ref(self) -> ModelRef:
        """What a session is opened with."""
        return ModelRef(self.alias, self.path, self.adapter, self.format)


class Registry(Frozen):
    """All entries of one file."""

    path: Path
    models: tuple[ModelEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _aliases_differ(self) -> Self:
        aliases = [entry.alias for entry in self.models]
        if twice := sorted({alias for alias in aliases if aliases.count(alias) > 1}):
            raise ValueError(f"alias {twice[0]!r} is there twice")
        return self

    def entry(self, alias: str) -> ModelEntry:
        """The entry called ``alias``.

        Raises:
            InputError: there is none; names the nearest ones and the file.
        """
        for entry in self.models:
            if entry.alias == alias:
                return entry
        known = [entry.alias for entry in self.models]
        close = difflib.get_close_matches(alias, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
        raise InputError(f"model {alias!r} is not in {self.path}: {hint}")


def load_registry(path: Path) -> Registry:
    """Read and check the registry file. Folders in it are relative to the file.

    Raises:
        InputError: the file is missing or not valid; names the file, the field and the mend.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the model registry {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InputError(f"the model registry {path} is not YAML: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("models"), list):
        raise InputError(f"the model registry {path} needs a list `models`")
    try:
        return Registry(path=path, models=tuple(_entry(item, path.parent) for item in data["models"]))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "models"
        alias = first["input"].get("alias", "") if isinstance(first["input"], dict) else first["input"]
        raise InputError(f"{path}: {field}: {first['msg']} (got {alias!r})") from error


def _entry(item: Any, base: Path) -> ModelEntry:
    entry = ModelEntry.model_validate(item)
    changes: dict[str, Any] = {}
    if entry.folder is not None and not entry.folder.is_absolute():
        changes["source"] = str((base / entry.folder).resolve())
    if entry.adapter is not None and not entry.adapter.is_absolute():
        changes["adapter"] = (base / entry.adapter).resolve()
    return entry.model_copy(update=changes)


def model_key(entry: ModelEntry, cache: Path) -> str:
    """What identifies the weights; downloads nothing.

    In it: the embedded model's file hash and converter version; a hub model's id and commit; of a folder the content of
    all weights, configuration and tokenizer files; the adapter's content. Left out: alias, format, sampling (keys of
    their own name them where they matter), dtype and engine (how it is computed, not what).

    Raises:
        InputError: a hub model without a commit hash, or a folder that holds no model.
    """
    if entry.source == EMBEDDED:
        key = embedded_key()
    elif entry.folder is not None:
        check_folder(ModelRef(entry.alias, entry.folder, entry.adapter, entry.format))
        key = f"content:{_content(entry.folder, cache)}"
    else:
        key = f"{entry.source}@{_commit(entry)}"
    return key if entry.adapter is None else f"{key}+{_content(entry.adapter, cache)}"


def tokenizer_key(entry: ModelEntry) -> str:
    """What names a model's tokenizer in a key: the embedded model's key, a hub model's id and commit, a folder's tokenizer.

    Raises:
        InputError: a hub model without a commit hash, or a folder without a tokenizer.
    """
    if entry.source == EMBEDDED:
        return embedded_key()
    if entry.folder is None:
        return f"{entry.source}@{_commit(entry)}"
    files = sorted(file for pattern in TOKENIZER_FILES for file in entry.folder.glob(pattern))
    if not files:
        raise InputError(f"model {entry.alias!r}: the folder {entry.folder} has no tokenizer.json beside the weights")
    return digest({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})


def fetch(entry: ModelEntry, cache: Path) -> Path:
    """The folder with the weights, downloaded if need be (a hub model to the hub's own cache, which other tools share).

    Raises:
        InputError: a hub model without a commit hash, or a folder that holds no safetensors model.
        RunError: the download failed.
    """
    if entry.source == EMBEDDED:
        path = embedded_model(cache)
    elif entry.folder is not None:
        path = entry.folder
    else:
        path = _download(entry.source, _commit(entry))
    check_folder(ModelRef(entry.alias, path, entry.adapter, entry.format))
    return path


def fetch_tokenizer(entry: ModelEntry, cache: Path) -> Path:
    """The folder with the tokenizer alone: of a hub model the weights are not downloaded. Raises as :func:`fetch` does."""
    if entry.source == EMBEDDED or entry.folder is not None:
        return fetch(entry, cache)
    return _download(entry.source, _commit(entry), TOKENIZER_FILES)


def resolve(entry: ModelEntry, cache: Path) -> ResolvedModel:
    """Key and fetched weights together; raises what ``model_key`` and ``fetch`` raise."""
    key = model_key(entry, cache)
    return ResolvedModel(entry.alias, fetch(entry, cache), key, entry.adapter, entry.format)


def _commit(entry: ModelEntry) -> str:
    if entry.revision is None or not _COMMIT.fullmatch(entry.revision):
        raise InputError(
            f"model {entry.alias!r}: revision {entry.revision!r} does not pin the weights of {entry.source}; set the commit "
            f"hash (40 hex digits) that https://huggingface.co/{entry.source}/commits/main shows"
        )
    return entry.revision


def _download(hub_id: str, commit: str, files: tuple[str, ...] = HUB_FILES) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=commit, allow_patterns=list(files)))
    except Exception as error:  # the hub raises many types: no network, no such repository, a gated one, a full disk
        raise RunError(f"{hub_id}@{commit[:12]} cannot be downloaded: {error}") from error


def _content(folder: Path, cache: Path) -> str:
    """Digest of the files that decide what a model computes; each file's hash is remembered by path, size and mtime."""
    names = ("*.safetensors", "config.json", "adapter_config.json", "tokenizer.json", "chat_template.jinja")
    files = sorted({path for name in names for path in folder.glob(name)})
    return digest({path.name: _remembered_sha256(path, cache / "hashes") for path in files})


def _remembered_sha256(path: Path, memory: Path) -> str:
    state = path.stat()
    note = memory / digest([str(path.resolve()), state.st_size, state.st_mtime_ns])
    if note.is_file() and (known := note.read_text().strip()):
        return known
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    memory.mkdir(parents=True, exist_ok=True)
    note.write_text(found)
    return found


def _print(path: Path) -> None:
    for entry in load_registry(path).models:
        try:
            key = model_key(entry, default_cache())
        except InputError as error:
            key = f"({error})"
        print(f"{entry.alias:24} {entry.parameters:>14,} {key}")


if __name__ == "__main__":
    _print(Path(sys.argv[1]))
