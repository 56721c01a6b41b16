"""How many tokens a student reads of each training example, for tens of thousands of them, and without torch.

The layout is that of :func:`models.training_text.encode`, which a test compares with; what differs is the speed: thoughts and
answers are tokenised many at a time, and the prompt of a question once for all its traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.formats import format_named, render_prompt
from models.plain_tokenizer import PlainTokenizer, tokenizer_of
from models.registry import ModelEntry, template_of, tokenizer_key
from models.training_text import Example, layout
from store.types import Message, digest

_BATCH = 1024  # examples that are tokenised together: some megabytes of text


def reader_key(entry: ModelEntry, form: str) -> str:
    """What examples are read by, for a key: the tokenizer, the chat template, the layout of the turn.

    Raises:
        InputError: as :func:`models.registry.tokenizer_key` does, or the template cannot be read.
    """
    template = template_of(entry)
    if template is None and entry.folder is not None:
        own = entry.folder / "chat_template.jinja"  # else it stands in one of the tokenizer's files
        template = own.read_text(encoding="utf-8") if own.is_file() else None
    return f"{tokenizer_key(entry)}+{digest([template, repr(format_named(form))], 12)}"


def example_lengths(
    examples: Sequence[Example],
    entry: ModelEntry,
    form: str,
    cache: Path,
    told: Callable[[int], None] = lambda count: None,
) -> list[int | None]:
    """Tokens of each example, prompt and end of turn included; None where thought or answer holds a special token.

    ``told`` hears how many were counted since the last time.

    Raises:
        InputError: the tokenizer cannot be had, or does not fit the format (see ``models.training_text.layout``).
    """
    if not examples:
        return []
    tokenizer = tokenizer_of(entry, cache)
    place = layout(tokenizer, format_named(form))
    markers = len(place.bound.close) + len(place.bound.forced) + 1
    prompts: dict[tuple[Message, ...], int] = {}
    found: list[int | None] = []
    for start in range(0, len(examples), _BATCH):
        batch = examples[start : start + _BATCH]
        texts = [text for one in batch for text in (one.thinking.strip(), one.answer.strip() + "}")]
        ids = _ids_of(tokenizer, texts)
        for one, thought, answer in zip(batch, ids[::2], ids[1::2], strict=True):
            if one.messages not in prompts:
                prompts[one.messages] = len(render_prompt(tokenizer, one.messages, place.bound.format))
            special = not place.special.isdisjoint(thought) or not place.special.isdisjoint(answer)
            found.append(None if special else prompts[one.messages] + len(thought) + len(answer) + markers)
        told(len(batch))
    return found


def _ids_of(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if isinstance(tokenizer, PlainTokenizer):
        return tokenizer.ids_of(texts)
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
