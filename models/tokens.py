"""Counting tokens as a model does, without its weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock

from models.registry import ModelEntry, fetch_tokenizer

_loading = Lock()  # several threads ask first at the same time, and a cached function does not keep them apart


def token_counter(entry: ModelEntry, cache: Path) -> Callable[[str], int]:
    """How many tokens a text has, special ones left out. Loaded once a process; safe to share between threads.

    Raises:
        InputError: the model cannot be had (see :func:`models.registry.fetch_tokenizer`) or has no tokenizer.
        RunError: the download failed.
    """
    with _loading:
        return _counter(entry, cache)


@lru_cache(maxsize=4)
def _counter(entry: ModelEntry, cache: Path) -> Callable[[str], int]:
    folder = fetch_tokenizer(entry, cache)
    if (folder / "tokenizer.json").is_file():
        # transformers reads the same file, but takes seconds to be imported.
        from tokenizers import Tokenizer

        quick = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda text: len(quick.encode(text, add_special_tokens=False).ids)
    from models.engines.base import ModelRef
    from models.engines.loading import load_tokenizer

    tokenizer = load_tokenizer(ModelRef(entry.alias, folder, trust_remote_code=entry.trust_remote_code))
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
