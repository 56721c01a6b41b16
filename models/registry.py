"""The models by alias: where their weights come from, which revision, how they are asked, where they run, what they cost.

The registry is a YAML file (shipped: ``deployments/models.yaml``). A model's key, which identifies it in every cache key,
is known without the weights where they are named by content: a plan can be made before anything is fetched.

Run alone: ``python -m models.registry deployments/models.yaml`` prints every entry and its key.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from models.embedded import default_cache, embedded_key, embedded_model
from models.engines.base import ModelRef, Server, check_folder
from models.fetching import CODE_FILES, PROMPT_FILES, TOKENIZER_FILES, WEIGHT_FILES, content, download
from models.formats import format_named
from store.types import Frozen, InputError, Sampling, digest

Role = Literal["teacher", "student", "baseline", "judge"]

EMBEDDED = "embedded"
HOSTED = "hosted"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Prices(Frozen):
    """What a hosted model costs, in US dollars per million tokens. ``cached_input``: None where it costs what input costs."""

    input: float = Field(ge=0.0)
    output: float = Field(ge=0.0)
    cached_input: float | None = Field(default=None, ge=0.0)

    def cost(self, prompt_tokens: int, cached_tokens: int, generated: int) -> float:
        """US dollars. ``cached_tokens`` of the ``prompt_tokens`` were cached."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.input + cached_tokens * cached + generated * self.output) / 1_000_000


class ModelEntry(Frozen):
    """One model. ``source`` is ``embedded``, a hub id (``org/name``), a folder (begins with ``/``, ``.`` or ``~``), or
    ``hosted`` for one that is only behind an API.

    ``revision`` is the commit hash of a hub model, ``adapter`` a peft LoRA folder. ``chat_template`` (a Jinja file)
    takes the place of the tokenizer's own, ``stop_tokens`` end a turn beside the usual ones, ``trust_remote_code`` runs the
    Python files that come with the weights. ``server``: where it is asked in place of being loaded here. ``roles`` are
    hints; ``context_length`` is in tokens; ``parameters`` is their number, unknown of some hosted models; ``active_parameters``
    are those that one token uses, where that is a part of them (mixtures of experts): a plan counts with it; ``sampling``
    is what the model's makers recommend.
    """

    alias: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    source: str
    revision: str | None = None
    adapter: Path | None = None
    format: str = "plain"
    roles: tuple[Role, ...] = ()
    context_length: int = Field(ge=1)
    parameters: int | None = Field(default=None, ge=1)
    active_parameters: int | None = Field(default=None, ge=1)
    sampling: Sampling = Sampling()
    chat_template: Path | None = None
    stop_tokens: tuple[str, ...] = ()
    trust_remote_code: bool = False
    server: Server | None = None
    prices: Prices | None = None

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        return format_named(name).name

    @field_validator("stop_tokens")
    @classmethod
    def _no_empty_token(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        if "" in tokens:
            raise ValueError("an empty stop token; leave it out")
        return tokens

    @model_validator(mode="after")
    def _source_is_known(self) -> Self:
        if self.source not in (EMBEDDED, HOSTED) and self.folder is None and self.hub_id is None:
            raise ValueError(
                f"source {self.source!r} is neither 'embedded' nor 'hosted', nor a hub id org/name, nor a folder (./name)"
            )
        if self.revision is not None and self.source != HOSTED and self.hub_id is None:
            raise ValueError(f"revision: only a hub model has one, and source is {self.source!r}; leave it out")
        if self.trust_remote_code and self.source == EMBEDDED:
            raise ValueError("trust_remote_code: the embedded model has no code; leave it out")
        if self.trust_remote_code and self.hub_id is not None and not _COMMIT.fullmatch(self.revision or ""):
            raise ValueError(
                "trust_remote_code: code is run from a pinned commit only; set revision to its 40 hex digits"
            )
        return self

    @model_validator(mode="after")
    def _server_fits(self) -> Self:
        server = self.server
        if self.source == HOSTED:
            self._check_hosted()
        elif self.parameters is None:
            raise ValueError("parameters: their number is missing; only a hosted model can do without")
        elif server is not None and server.api != "completions":
            raise ValueError("server.api: 'chat' is for source 'hosted'; a budget needs token ids: use 'completions'")
        elif server is not None and self.adapter is not None:
            raise ValueError(
                "adapter: a server runs what it was started with; leave server out, or serve a merged folder"
            )
        elif server is not None and (server.reasoning_effort is not None or not server.takes_sampling):
            raise ValueError("server: reasoning_effort and takes_sampling are for source 'hosted'; leave them out")
        return self

    def _check_hosted(self) -> None:
        if self.server is None:
            raise ValueError("server: a hosted model needs one: {url, model, api: chat, key_variable}")
        if self.server.api != "chat":
            raise ValueError("server.api: a hosted model has no tokenizer here: use 'chat'")
        for field in ("revision", "adapter", "chat_template", "stop_tokens", "trust_remote_code"):
            if getattr(self, field):
                raise ValueError(f"{field}: a hosted model's provider decides on it; leave it out")
        if self.format not in ("plain", "tags"):
            raise ValueError(f"format: a hosted model is 'plain' or 'tags', not {self.format!r}")

    @property
    def folder(self) -> Path | None:
        """The local folder, where the source is one."""
        return Path(self.source).expanduser() if self.source.startswith(("/", ".", "~")) else None

    @property
    def hub_id(self) -> str | None:
        """The hub's name of it, where it comes from there."""
        return self.source if self.folder is None and _HUB_ID.fullmatch(self.source) else None


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
    """Read and check the registry file. Folders and files named in it are relative to it.

    Raises:
        InputError: the file is missing or not valid; names the file, the entry's alias, the field and the mend.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the model registry {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the model registry {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not isinstance(data.get("models"), list):
        raise InputError(f"the model registry {path} needs a list `models`")
    entries = tuple(_entry(item, place, path) for place, item in enumerate(data["models"], start=1))
    try:
        return Registry(path=path, models=entries)
    except ValidationError as error:
        raise InputError(f"{path}: {_wrong(error)}") from None


def _entry(item: Any, place: int, path: Path) -> ModelEntry:
    try:
        entry = ModelEntry.model_validate(item)
    except ValidationError as error:
        alias = item.get("alias") if isinstance(item, dict) else None
        name = f"model {alias!r}" if alias else f"the model at place {place}"
        raise InputError(f"{path}: {name}: {_wrong(error)}") from None
    changes: dict[str, Any] = {}
    if entry.folder is not None and not entry.folder.is_absolute():
        changes["source"] = str((path.parent / entry.folder).resolve())
    for field in ("adapter", "chat_template"):
        named: Path | None = getattr(entry, field)
        if named is not None:
            changes[field] = (path.parent / named.expanduser()).resolve()
    return entry.model_copy(update=changes)


def _wrong(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False):
        field = ".".join(str(part) for part in item["loc"])
        # People put keys where their names belong: what stands in a field of a server, or in an unknown one, is not shown.
        secret = item["type"] == "extra_forbidden" or field.startswith("server.")
        shown = "" if secret or isinstance(item["input"], dict | list | Frozen) else f" (got {item['input']!r})"
        mend = "unknown field: remove it or mend its spelling" if item["type"] == "extra_forbidden" else item["msg"]
        lines.append(f"{field + ': ' if field else ''}{mend.removeprefix('Value error, ')}{shown}")
    return "; ".join(lines)


def model_key(entry: ModelEntry, cache: Path) -> str:
    """What identifies the weights; downloads nothing.

    In it: the embedded model's file hash and converter version; a hub model's id and commit; of a folder the content of all
    weights, configuration and tokenizer files, and of code that is trusted; of a hosted model the host and path, its name
    there, its reasoning effort and whether it takes sampling; the adapter's content; chat template and stop tokens where
    the entry gives them. Left out: alias, format, sampling (keys of their own name them where they matter), engine,
    server, prices (where and how it is computed, not what).

    Raises:
        InputError: a hub model without a commit hash, a folder that holds no model, a chat template that cannot be read.
    """
    if entry.source == HOSTED and entry.server is not None:
        server = entry.server
        key = f"hosted:{server.host}{urlsplit(server.url).path.removesuffix('/v1')}/{server.model}"
        key += f"+effort:{server.reasoning_effort}" if server.reasoning_effort else ""
        return key if server.takes_sampling else f"{key}+unsampled"
    if entry.source == EMBEDDED:
        key = embedded_key()
    elif entry.folder is not None:
        check_folder(ModelRef(entry.alias, entry.folder, entry.adapter, entry.format))
        files = ("*.safetensors", *PROMPT_FILES, *(CODE_FILES if entry.trust_remote_code else ()))
        key = f"content:{content(entry.folder, files, cache / 'hashes')}"
    else:
        key = f"{entry.source}@{_commit(entry)}"
    if entry.adapter is not None:
        files = ("*.safetensors", "adapter_config.json")
        key += f"+{content(entry.adapter, files, cache / 'hashes')}"
    if entry.chat_template is not None or entry.stop_tokens:
        key += f"+turn:{digest([template_of(entry), sorted(entry.stop_tokens)], 16)}"
    return key


def tokenizer_key(entry: ModelEntry) -> str:
    """What names a model's tokenizer in a key: the embedded model's key, a hub model's id and commit, a folder's tokenizer.

    Raises:
        InputError: a hub model without a commit hash, a folder without a tokenizer, or a hosted model.
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
        InputError: a hub model without a commit hash, a folder that holds no safetensors model, or a hosted model.
        RunError: the download failed.
    """
    if entry.source == EMBEDDED:
        path = embedded_model(cache)
    elif entry.folder is not None:
        path = entry.folder
    else:
        path = download(entry.source, _commit(entry), (*WEIGHT_FILES, *(CODE_FILES if entry.trust_remote_code else ())))
    check_folder(ModelRef(entry.alias, path, entry.adapter, entry.format))
    return path


def fetch_tokenizer(entry: ModelEntry, cache: Path) -> Path:
    """The folder with the tokenizer and the small files beside it: of a hub model the weights are not downloaded.

    Raises as :func:`fetch` does.
    """
    if entry.source == EMBEDDED or entry.folder is not None:
        return fetch(entry, cache)
    return download(entry.source, _commit(entry), (*PROMPT_FILES, *(CODE_FILES if entry.trust_remote_code else ())))


def _commit(entry: ModelEntry) -> str:
    if entry.source == HOSTED:
        raise InputError(
            f"model {entry.alias!r} is only behind an API: it has no weights and no tokenizer to train, load or count with"
        )
    if entry.revision is None or not _COMMIT.fullmatch(entry.revision):
        raise InputError(
            f"model {entry.alias!r}: revision {entry.revision!r} does not pin the weights of {entry.source}; set the commit "
            f"hash (40 hex digits) that https://huggingface.co/{entry.source}/commits/main shows"
        )
    return entry.revision


def template_of(entry: ModelEntry) -> str | None:
    """The chat template that the registry gives a model in place of its own; None: it gives none.

    Raises:
        InputError: it cannot be read.
    """
    if entry.chat_template is None:
        return None
    try:
        return entry.chat_template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"model {entry.alias!r}: chat_template {entry.chat_template} cannot be read: {error}"
        ) from None


def _print(path: Path) -> None:
    for entry in load_registry(path).models:
        try:
            key = model_key(entry, default_cache())
        except InputError as error:
            key = f"({error})"
        print(f"{entry.alias:24} {entry.parameters or 0:>14,} {key}")


if __name__ == "__main__":
    _print(Path(sys.argv[1]))
