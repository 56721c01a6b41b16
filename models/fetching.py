"""Files of models: downloaded from the hub, found where they are already, and told apart by their content.

Safetensors only, never pickles (.bin, .pt); Python files only where a registry entry trusts them. The hub's own cache is
used, which other tools share.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from store.types import RunError, digest

WEIGHT_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model")
"""Weights that cannot run code, and texts."""

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")
"""What of them makes a tokenizer."""

PROMPT_FILES = (*TOKENIZER_FILES, "chat_template*", "config.json", "generation_config.json")
"""What of them says how a model is asked and what ends its turn; all that is needed of one that a server runs."""

CODE_FILES = ("*.py",)


def download(hub_id: str, commit: str, files: Iterable[str]) -> Path:
    """The folder of a hub model at a commit with the files that match ``files``, fetched if need be.

    Raises:
        RunError: the hub cannot be reached, refuses, or the disk is full.
    """
    from huggingface_hub import snapshot_download

    # Its retries warn twice each; what failed in the end is told below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return Path(snapshot_download(hub_id, revision=commit, allow_patterns=list(files)))
    except Exception as error:  # the hub raises many types: no network, no such repository, a gated one, a full disk
        raise RunError(f"{hub_id}@{commit[:12]} cannot be downloaded: {error}") from error


def downloaded(hub_id: str, commit: str) -> bool:
    """Whether all weights of a hub model at a commit are in the hub's cache. Asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    def here(name: str) -> str | None:
        found = try_to_load_from_cache(hub_id, name, revision=commit)
        return found if isinstance(found, str) else None

    if here("config.json") is None:
        return False
    index = here("model.safetensors.index.json")
    if index is None:
        return here("model.safetensors") is not None
    return all(here(name) for name in set(json.loads(Path(index).read_text())["weight_map"].values()))


def content(folder: Path, patterns: Iterable[str], memory: Path) -> str:
    """Digest of the files of ``folder`` that match. Each one's hash is remembered in ``memory`` by path, size and mtime."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return digest({path.name: _remembered_sha256(path, memory) for path in files})


def sha256_of(path: Path) -> str:
    """Hex digits of a file's sha256, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _remembered_sha256(path: Path, memory: Path) -> str:
    state = path.stat()
    note = memory / digest([str(path.resolve()), state.st_size, state.st_mtime_ns])
    if note.is_file() and (known := note.read_text().strip()):
        return known
    found = sha256_of(path)
    memory.mkdir(parents=True, exist_ok=True)
    note.write_text(found)
    return found
