"""A model's tokenizer and chat template without transformers' model code: nothing here imports torch.

It reads the same ``tokenizer.json`` with the same library, and has of a transformers tokenizer what ``models.formats`` and
``models.training_text`` ask of one. A process that only counts is spared seconds, and hundreds of megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.registry import ModelEntry, fetch_tokenizer, template_of

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class PlainTokenizer:
    """The tokenizer of a folder. ``chat_template`` is that of the folder, or the text that is given instead."""

    def __init__(self, folder: Path, chat_template: str | None = None) -> None:
        from tokenizers import Tokenizer

        self.name_or_path = str(folder)
        self._quick = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._quick.no_truncation()
        self._quick.no_padding()
        known = _read(folder / "special_tokens_map.json") | _read(folder / "tokenizer_config.json")
        self._named = {name: text for name in _NAMED if (text := _content(known.get(name))) is not None}
        self.chat_template = chat_template or _template(folder, known)
        end = self._named.get("eos_token")
        self.eos_token_id: int | None = None if end is None else self._quick.token_to_id(end)
        named = {self._quick.token_to_id(text) for text in self._named.values()}
        self.added_tokens_decoder = self._quick.get_added_tokens_decoder()
        for number, token in self.added_tokens_decoder.items():
            token.special = token.special or number in named

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        """The ids of a text under ``input_ids``."""
        return {"input_ids": self._quick.encode(text, add_special_tokens=add_special_tokens).ids}

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts as they stand, on all CPUs."""
        return [one.ids for one in self._quick.encode_batch_fast(list(texts), add_special_tokens=False)]

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        vocabulary: dict[str, int] = self._quick.get_vocab()
        return vocabulary

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Tokens of ``ids``."""
        return [str(self._quick.id_to_token(number)) for number in ids]

    def apply_chat_template(
        self, chat: Sequence[dict[str, str]], *, tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        """The chat as text, by the same sandbox as transformers has."""
        from transformers.utils.chat_template_utils import render_jinja_template

        if tokenize:
            raise ValueError("a plain tokenizer renders text alone")
        rendered, _ = render_jinja_template(
            conversations=[list(chat)],
            chat_template=self.chat_template,
            add_generation_prompt=add_generation_prompt,
            **self._named,
        )
        return str(rendered[0])


def tokenizer_of(entry: ModelEntry, cache: Path) -> Any:
    """A model's tokenizer: a :class:`PlainTokenizer`, or transformers' own (with torch) for a folder without tokenizer.json.

    Raises:
        InputError: the model cannot be had (see :func:`models.registry.fetch_tokenizer`), or its template cannot be read.
        RunError: the download failed.
    """
    folder = fetch_tokenizer(entry, cache)
    if (folder / "tokenizer.json").is_file():
        return PlainTokenizer(folder, template_of(entry))
    from models.engines.base import ModelRef
    from models.engines.loading import load_tokenizer

    return load_tokenizer(
        ModelRef(entry.alias, folder, trust_remote_code=entry.trust_remote_code, chat_template=entry.chat_template)
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _content(token: Any) -> str | None:
    """A special token's text: it stands there as it is, or in a record."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _template(folder: Path, known: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = known.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    return found if isinstance(found, str) else None
