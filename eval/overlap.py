"""How near test questions are to the questions that students were trained on: exact, by word n-grams, by embeddings.

An overlap is a warning about a question, not a finding about a model: flagged questions stay in every result, and every
table gives the figures with and without them. What stands in the training *prompts* is for :mod:`eval.leaks` to find.

``exact``
    the same words (:func:`words`).
``ngram``
    the largest share of a test question's distinct word n-grams that a single training question holds. n is 5: GPT-3's
    analysis (arXiv 2005.14165, appendix C) takes the 5th percentile of the examples' lengths in words, which is 4 to 8 in
    the six benchmarks of the study (its floor of 8 suits web pages, and would leave half of WebQSP out), and as there, a
    shorter text is one gram, all of it. A share of .7 is flagged, as in PaLM's (arXiv 2204.02311, section 8). On real
    questions that finds as many same questions in other words as ones of the same form about something else ("the second
    longest river in Spain" and "... in the United States").
``cosine``
    of sentence embeddings; above .90 is flagged, as in the fs1 study (arXiv 2505.11140), with its encoder MiniLM.
"""

from __future__ import annotations

import inspect
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from store.types import Frozen, Question, digest

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Row = Mapping[str, Any]

EXAMPLES = 8  # pairs a dataset that a report shows
_BLOCK = 1024  # test questions that are compared with all training questions at a time: 4 KB each per 1,000 of these


class OverlapOptions(Frozen):
    """How overlap is measured, and from where on a question is flagged."""

    encoder: Literal["auto", "required", "off"] = Field(
        default="auto", description="Compare sentence embeddings: auto does where the encoder's package is installed."
    )
    ngram: int = Field(default=5, ge=1, le=13, description="Words of an n-gram; a shorter question is one gram.")
    ngram_share: float = Field(
        default=0.7, gt=0, le=1, description="Flag from this share of a question's n-grams in one training question on."
    )
    cosine: float = Field(default=0.9, gt=0, lt=1, description="Flag above this cosine to a training question.")


class Overlap(NamedTuple):
    """One test question against all training questions.

    ``nearest`` is the place of the training question to look at: an exact one, else that of the highest ``ngram`` where it
    is flagged for it, else that of the highest cosine (without an encoder, of the highest ``ngram``); None: nothing is
    shared. ``ngram`` and ``cosine`` are each the highest of any training question; ``cosine`` is None without an encoder.
    """

    nearest: int | None
    exact: bool
    ngram: float
    cosine: float | None
    flagged: bool


@lru_cache(maxsize=1 << 17)
def words(text: str) -> tuple[str, ...]:
    """The words of a text as they are compared: NFKC, lower case, Latin accents off, without punctuation.

    Apostrophes inside words go ("Obama's" is "obamas", as some benchmarks spell it), and so do commas inside numbers. How a
    word is read does not depend on its neighbours, so that the words of a part of a text are a part of its words. Scripts
    without spaces have few "words": for them only ``exact`` and ``cosine`` mean something.
    """
    folded = text.casefold()
    if not text.isascii():
        decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
        folded = unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", decomposed))
    return tuple(_WORD.findall(_INSIDE.sub("", folded)))


_INSIDE = re.compile(r"(?<=[^\W\d_])['’ʼ](?=[^\W\d_])|(?<=\d),(?=\d{3}(?!\d))")
_WORD = re.compile(r"[^\W_]+")


def overlaps(
    test: Sequence[Question], train: Sequence[Question], options: OverlapOptions, embed: Embed | None = None
) -> list[Overlap]:
    """Each test question against all training questions, in the order of ``test``.

    ``embed`` gives unit vectors, one row a text, of distinct texts; None: no cosine. n-grams go through an inverted
    index and embeddings through products of matrices: 22,600 questions against 27,600 take seconds, and the encoder's
    own time. Cosines are rounded to 4 digits, since vectors differ in the seventh with how texts were batched.
    """
    same: dict[str, int] = {}
    for place, question in enumerate(train):
        same.setdefault(_comparable(question.text), place)
    grams = _by_ngrams(test, train, options.ngram)
    cosines = _by_cosine(test, train, embed) if embed and test and train else None
    found = []
    for number, question in enumerate(test):
        exact, (share, sharing) = same.get(_comparable(question.text)), grams[number]
        near = cosines[number] if cosines else None
        copied = share >= options.ngram_share
        nearest = sharing if copied or near is None else near.place
        flagged = exact is not None or copied or (near is not None and near.score > options.cosine)
        found.append(
            Overlap(
                nearest=nearest if exact is None else exact,
                exact=exact is not None,
                ngram=share,
                cosine=near.score if near else None,
                flagged=flagged,
            )
        )
    return found


class _Near(NamedTuple):
    """A score, and the place of the training question that has it (None: no question has anything)."""

    score: float
    place: int | None


def _comparable(text: str) -> str:
    """What exact is exact in; a text without any word is compared as it is."""
    return " ".join(words(text)) or text.strip()


def _grams(tokens: tuple[str, ...], size: int) -> set[tuple[str, ...]]:
    """The distinct n-grams of a test question: all of it if it is shorter."""
    size = min(size, len(tokens))
    return {tokens[start : start + size] for start in range(len(tokens) - size + 1)} if tokens else set()


def _by_ngrams(test: Sequence[Question], train: Sequence[Question], size: int) -> list[_Near]:
    """The training question that holds most of each test question's n-grams; among equals the shortest, then the first."""
    asked = [_grams(words(question.text), size) for question in test]
    sizes = {len(gram) for grams in asked for gram in grams}
    wanted: dict[tuple[str, ...], list[int]] = {gram: [] for grams in asked for gram in grams}
    lengths = []
    for place, question in enumerate(train):
        tokens = words(question.text)
        lengths.append(len(tokens))
        held = {tokens[at : at + n] for n in sizes for at in range(len(tokens) - n + 1)}
        for gram in held & wanted.keys():
            wanted[gram].append(place)
    found = []
    for grams in asked:
        shared = Counter[int]()
        for gram in grams:
            shared.update(wanted[gram])
        most = max(shared.values(), default=0)
        places = [place for place, count in shared.items() if count == most]
        best = min(places, key=lambda place: (lengths[place], place), default=None)
        found.append(_Near(most / len(grams) if grams else 0.0, best))
    return found


def _by_cosine(test: Sequence[Question], train: Sequence[Question], embed: Embed) -> list[_Near]:
    """The training question of the highest cosine to each test question, the first among equals."""
    texts = {text: row for row, text in enumerate(dict.fromkeys(one.text for one in (*train, *test)))}
    vectors = embed(list(texts))
    against = vectors[[texts[one.text] for one in train]].T
    asked = vectors[[texts[one.text] for one in test]]
    found = []
    for start in range(0, len(asked), _BLOCK):
        scores = asked[start : start + _BLOCK] @ against
        best = scores.argmax(axis=1)
        top = np.clip(scores[np.arange(len(best)), best].astype(np.float64), -1.0, 1.0)
        found += [_Near(round(float(score), 4), int(place)) for score, place in zip(top, best, strict=True)]
    return found


# For the report ---------------------------------------------------------------------------------------------------------


class OverlapExample(NamedTuple):
    """A test question beside the training question nearest to it, and what was measured."""

    question: str
    nearest: str | None
    exact: bool
    ngram: float
    cosine: float | None
    leak: str | None
    leaked_in: str | None  # the training question whose prompt it is
    flagged: bool


class OverlapSummary(NamedTuple):
    """Counts of one dataset's test questions, by what they are flagged for (several may hold), and in all.

    ``cosine`` is None where no encoder ran. ``examples``: the nearest pairs, exact ones first.
    """

    dataset: str
    questions: int
    exact: int
    ngram: int
    cosine: int | None
    question_leaks: int
    fact_leaks: int
    flagged: int
    examples: tuple[OverlapExample, ...]


def summarise_overlaps(rows: Iterable[Row], examples: int = EXAMPLES) -> tuple[OverlapSummary, ...]:
    """A summary a dataset, by its name, of the rows of ``store.overlap.overlap_rows``."""
    by_dataset: dict[str, list[Row]] = {}
    for row in rows:
        by_dataset.setdefault(row["dataset"], []).append(row)
    return tuple(_summary(dataset, some, examples) for dataset, some in sorted(by_dataset.items()))


def _summary(dataset: str, rows: Sequence[Row], examples: int) -> OverlapSummary:
    leaks = Counter(row["leak"] for row in rows)
    return OverlapSummary(
        dataset=dataset,
        questions=len(rows),
        exact=sum(row["exact"] for row in rows),
        ngram=sum(row["by_ngram"] for row in rows),
        cosine=None if all(row["cosine"] is None for row in rows) else sum(bool(row["by_cosine"]) for row in rows),
        question_leaks=leaks["question"],
        fact_leaks=leaks["fact"],
        flagged=sum(row["flagged"] for row in rows),
        examples=tuple(_example(row) for row in sorted(rows, key=_nearest_first)[:examples]),
    )


def _nearest_first(row: Row) -> tuple[Any, ...]:
    return -row["exact"], -row["flagged"], -max(row["ngram"], row["cosine"] or 0.0), row["question_key"]


def _example(row: Row) -> OverlapExample:
    return OverlapExample(
        question=row["question"],
        nearest=row["nearest_question"],
        exact=row["exact"],
        ngram=row["ngram"],
        cosine=row["cosine"],
        leak=row["leak"],
        leaked_in=row["leaked_in_question"],
        flagged=row["flagged"],
    )


# A changed measure gives other overlaps: the version is part of their units' keys.
OVERLAP_VERSION = digest(inspect.getsource(sys.modules[__name__]))
