"""From traces to token ids and labels: what a student reads, and which of it it learns to write.

Ids are joined segment by segment exactly as an evaluation joins them (``models.formats``), never by tokenising one long
text, so that a student meets at evaluation the very ids it was trained on::

    segment  chat + generation prompt | think_open | thinking | think_close | forced_answer | answer + "}" | end of turn
    learned  no                       | no         | yes      | yes         | yes           | yes          | yes

``think_open`` is not learned because the evaluation writes it for the model; ``think_close`` and the words before the
box are learned because a thought that ends by itself must be followed by them. Importing this imports no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from models.formats import Format, FormatIds, bind, render_prompt
from models.formats import encode as ids_of
from store.types import Frozen, InputError, Message, digest

IGNORED = -100
"""The label of a token that is read and not learned (torch's ``CrossEntropyLoss.ignore_index``)."""

_QUESTION, _ANSWER = "What is asked", "What is answered"
_CONTROL = re.compile(r"<\|[^|<>\s]+\|>|<\uff5c[^\uff5c<>\s]+\uff5c>|<(?:start|end)_of_turn>")
"""How the control tokens of chat templates look: ChatML and Llama 3, DeepSeek, Gemma. ([INST] is plain text to Llama 2.)"""

Reason = Literal["too_long", "special_token", "empty"]


class Example(Frozen):
    """One accepted trace: the chat that was asked, the thinking, and the answer as it stands inside the box."""

    question_id: str
    trace_id: str
    messages: tuple[Message, ...]
    thinking: str
    answer: str


class Encoded(NamedTuple):
    """A training sequence. Both lists have its length in tokens; ``labels`` repeats the id where it is learned."""

    input_ids: list[int]
    labels: list[int]


class Dropped(Frozen):
    """Examples that were left out of a training set, by reason."""

    too_long: int = 0
    special_token: int = 0
    empty: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.too_long + self.special_token + self.empty

    def __str__(self) -> str:
        counts = {name.replace("_", " "): count for name, count in self.model_dump().items() if count}
        return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


class UnfitExampleError(InputError):
    """An example that no student can learn from, whatever the hyperparameters; ``reason`` is how it is counted."""

    def __init__(self, example: Example, reason: Reason, why: str) -> None:
        super().__init__(f"trace {example.trace_id!r} of question {example.question_id!r}: {why}")
        self.reason: Reason = reason


class Layout(NamedTuple):
    """A format bound to one tokenizer, once for a whole training set. ``special`` ids may not occur in a trace."""

    tokenizer: Any
    bound: FormatIds
    end: int
    special: frozenset[int]


def layout(tokenizer: Any, form: Format) -> Layout:
    """Bind ``form`` to ``tokenizer`` (a transformers tokenizer).

    Raises:
        InputError: the format's marker or an end-of-turn token is not in the vocabulary, or the chat template is not
            that of the model (see :func:`check_template`).
    """
    bound = bind(form, tokenizer)
    end = tokenizer.eos_token_id
    if end is None:
        raise InputError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token to end a turn with")
    check_template(tokenizer, bound)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return Layout(tokenizer, bound, end, frozenset(special | bound.stops))


def check_template(tokenizer: Any, bound: FormatIds) -> None:
    """Whether the chat template is one that this model knows: a wrong one trains without a word and answers badly.

    Each control token that the template writes has to be one token of the vocabulary, and one of the tokens that end a
    generation has to follow an assistant's turn.

    Raises:
        InputError: it is not; names the template's token.
    """
    if not tokenizer.chat_template:
        raise InputError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; instruct models have one")
    said = [("user", _QUESTION), ("assistant", _ANSWER)]
    text: str = tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in said], tokenize=False)
    if _QUESTION not in text or _ANSWER not in text:
        raise InputError(f"{tokenizer.name_or_path}: the chat template leaves out what a user or an assistant says")
    vocabulary = tokenizer.get_vocab()
    for token in _CONTROL.findall(text):
        if token not in vocabulary:
            raise InputError(
                f"{tokenizer.name_or_path}: the chat template writes {token!r}, which is not a token of this model: the template "
                "is another model's; mend chat_template in the registry, or the tokenizer's files"
            )
    after = text[text.index(_ANSWER) + len(_ANSWER) :]
    if not bound.stops.intersection(ids_of(tokenizer, after)):
        ends = ", ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(sorted(bound.stops)))
        raise InputError(
            f"{tokenizer.name_or_path}: after an assistant's turn the chat template writes {after[:40]!r}, and nothing of that "
            f"ends a generation of this model ({ends}): the template is another model's, or the tokenizer's end token is wrong"
        )


def encode(example: Example, tokenizer: Any, form: Format) -> Encoded:
    """Token ids and labels of one example in the layout ``form``.

    White space around the thinking and the answer is cut, since the markers bring their own.

    Raises:
        UnfitExampleError: thinking or answer is empty, or holds a token that the layout or the chat gives a meaning
            (such as ``<|im_end|>``): learning it would teach the student to end its turn at the wrong place.
        InputError: the tokenizer has no chat template, or does not fit the format (see ``layout``).
    """
    return _encode(example, layout(tokenizer, form))


def _encode(example: Example, place: Layout) -> Encoded:
    tokenizer, bound = place.tokenizer, place.bound
    thinking, answer = example.thinking.strip(), example.answer.strip()
    if not thinking or not answer:
        raise UnfitExampleError(example, "empty", "the thinking or the answer is empty")
    thinking_ids, answer_ids = ids_of(tokenizer, thinking), ids_of(tokenizer, answer + "}")
    if special := place.special.intersection(thinking_ids + answer_ids):
        found = ", ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(sorted(special)))
        raise UnfitExampleError(example, "special_token", f"the text holds special tokens of this model: {found}")
    prompt = render_prompt(tokenizer, example.messages, bound.format)
    learned = [*thinking_ids, *bound.close, *bound.forced, *answer_ids, place.end]
    return checked(Encoded([*prompt, *learned], [IGNORED] * len(prompt) + learned))


def checked(encoded: Encoded) -> Encoded:
    """``encoded`` itself, if something in it is learned: a loss over no token is 0/0, and its gradient is NaN.

    Raises:
        InputError: every label is masked, or ids and labels differ in length.
    """
    if len(encoded.input_ids) != len(encoded.labels):
        raise InputError(f"{len(encoded.input_ids)} token ids have {len(encoded.labels)} labels")
    # The first label is never predicted (there is nothing before it), so it does not count as learned.
    if all(label == IGNORED for label in encoded.labels[1:]):
        raise InputError(f"all {len(encoded.labels)} labels are masked: nothing would be learned from this example")
    return encoded


def in_order(examples: Iterable[Example]) -> list[Example]:
    """Sorted by question, trace and content, so that the order in which a store gives its rows changes no student."""
    return sorted(examples, key=lambda example: (example.question_id, example.trace_id, digest(example)))


def training_set_hash(examples: Iterable[Example]) -> str:
    """Content hash of a training set: 32 hex digits over every field of every example.

    Left out: the order (training sorts first). Kept: repeats, since a trace that occurs twice counts twice.
    """
    return digest([example.model_dump(mode="json") for example in in_order(examples)])


def build_dataset(examples: Sequence[Example], tokenizer: Any, form: Format, max_length: int) -> tuple[Any, Dropped]:
    """A ``datasets.Dataset`` with the columns ``input_ids`` and ``labels`` (lists of int), and what was left out of it.

    Too long (more than ``max_length`` tokens, prompt and end of turn included) is left out, not cut: a trace without
    its answer would teach never to answer.

    Raises:
        InputError: nothing is left; the message counts why. Or the tokenizer does not fit the format (see ``layout``).
    """
    from datasets import Dataset

    place = layout(tokenizer, form)
    rows: list[Encoded] = []
    dropped: Counter[str] = Counter()
    longest = 0
    for example in in_order(examples):
        try:
            encoded = _encode(example, place)
        except UnfitExampleError as unfit:
            dropped[unfit.reason] += 1
            continue
        if len(encoded.input_ids) > max_length:
            dropped["too_long"] += 1
            longest = max(longest, len(encoded.input_ids))
            continue
        rows.append(encoded)
    left_out = Dropped(**dropped)
    if not rows:
        hint = f"; the longest has {longest} tokens, max_length is {max_length}" if longest else ""
        raise InputError(f"no example is left to train on: of {len(examples)} were dropped: {left_out}{hint}")
    return Dataset.from_dict({"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]}), left_out
