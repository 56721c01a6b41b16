"""How an assistant turn is laid out, as data: where thinking opens and closes, what ends it, what forces an answer.

- ``blocks``: ChatML blocks after s1 (arXiv 2501.19393), the layout our students are trained on.
- ``tags``: ``<think>`` tags of DeepSeek-R1 and QwQ.
- ``plain``: no marker; the response itself is reasoning and answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from store.types import InputError, Message


@dataclass(frozen=True)
class Format:
    """A layout. ``marker`` is the token by which the model itself ends its thinking; it occurs in ``think_close``.

    ``stop_tokens`` end a generation, in either phase, beside the model's own end-of-turn tokens. ``forced_answer`` is
    appended when thinking did not end by itself. ``self_contained``: a response that ended with its answer in a box needs no
    answer after it. ``before_extension`` stands between a thought and the words that put off its end.
    """

    name: str
    think_open: str
    think_close: str
    stop_tokens: tuple[str, ...]
    forced_answer: str
    self_contained: bool
    marker: str | None
    before_extension: str


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format(
            name="blocks",
            think_open="<|im_start|>think\n",
            think_close="<|im_start|>answer\n",
            stop_tokens=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
            forced_answer="Answer: \\boxed{",
            self_contained=False,
            marker="<|im_start|>",
            before_extension="\n",
        ),
        Format(
            name="tags",
            think_open="<think>\n",
            think_close="\n</think>\n\n",
            stop_tokens=("</think>",),
            forced_answer="Answer: \\boxed{",
            self_contained=False,
            marker="</think>",
            before_extension="",  # the models end their last line before they close
        ),
        Format(
            name="plain",
            think_open="",
            think_close="",
            stop_tokens=(),
            forced_answer="\n\nFinal answer: \\boxed{",
            self_contained=True,
            marker=None,
            before_extension="\n\n",
        ),
    )
}


@dataclass(frozen=True)
class FormatIds:
    """A format in the token ids of one tokenizer. ``close_after_marker`` is ``think_close`` from the marker on:
    what follows a thought that ended by its marker, since generated ids leave the marker out."""

    format: Format
    close: tuple[int, ...]
    close_after_marker: tuple[int, ...]
    forced: tuple[int, ...]
    stops: frozenset[int]
    marker: int | None


def format_named(name: str) -> Format:
    """The format called ``name``.

    Raises:
        InputError: there is none.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise InputError(f"format: {name!r} is not one of {', '.join(FORMATS)}") from None


def bind(form: Format, tokenizer: Any) -> FormatIds:
    """Look the format up in ``tokenizer`` (a transformers tokenizer), once.

    The end-of-sequence token of the tokenizer is a stop token too. Other stop tokens are left out where the vocabulary
    has none of that name; the marker is required.

    Raises:
        InputError: the marker is not one token of this vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    if form.marker is not None and form.marker not in vocabulary:
        raise InputError(
            f"format {form.name!r}: {form.marker!r} is not a token of this model's vocabulary "
            f"({len(vocabulary)} tokens); choose another format for it in the registry"
        )
    stops = {vocabulary[token] for token in form.stop_tokens if token in vocabulary}
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    after = form.think_close if form.marker is None else form.think_close[form.think_close.index(form.marker) :]
    return FormatIds(
        format=form,
        close=encode(tokenizer, form.think_close),
        close_after_marker=encode(tokenizer, after),
        forced=encode(tokenizer, form.forced_answer),
        stops=frozenset(stops),
        marker=None if form.marker is None else vocabulary[form.marker],
    )


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of ``text`` as it stands: nothing is put in front of or behind it."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of ``ids``, special tokens shown and white space untouched."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def render_prompt(tokenizer: Any, messages: Sequence[Message], form: Format) -> list[int]:
    """Token ids of the chat up to where the model goes on: generation prompt, then the opened thinking block.

    A template that opens the thinking block itself (QwQ, DeepSeek-R1) is not given a second one.

    Raises:
        InputError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise InputError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; instruct models have one")
    chat = [{"role": message.role, "content": message.content} for message in messages]
    text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = list(encode(tokenizer, text))
    if form.think_open and not text.rstrip().endswith(form.think_open.rstrip()):
        ids.extend(encode(tokenizer, form.think_open))
    return ids
