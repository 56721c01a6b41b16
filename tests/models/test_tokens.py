"""Counting tokens: what the tokenizer itself says, from several threads, loaded once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from models import tokens
from models.registry import ModelEntry
from models.tokens import token_counter
from store.types import InputError

pytestmark = pytest.mark.real

THREADS = 4


def entry(source: str) -> ModelEntry:
    return ModelEntry.model_validate({"alias": "m", "source": source, "context_length": 512, "parameters": 1})


def test_threads_load_one_tokenizer_and_count_alike(
    embedded: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    fetch = tokens.fetch_tokenizer

    def noted(*arguments: Any) -> Path:
        loaded.append(fetch(*arguments))
        return loaded[-1]

    monkeypatch.setattr(tokens, "fetch_tokenizer", noted)
    texts = [f"France, capital, Paris ({number})\nHamlet, author, William Shakespeare" * number for number in range(60)]
    together = Barrier(THREADS)

    def counted(_thread: int) -> list[int]:
        together.wait(10)
        count = token_counter(entry(str(embedded)), tmp_path)
        return [count(text) for text in texts]

    with ThreadPoolExecutor(THREADS) as pool:
        counts = list(pool.map(counted, range(THREADS)))
    assert loaded == [embedded]
    expected = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert counts == [expected] * THREADS
    assert expected[0] == 0


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    for _attempt in range(2):  # a failure is not remembered, and holds nobody up
        with pytest.raises(InputError, match=str(tmp_path)):
            token_counter(entry(str(tmp_path)), tmp_path)
