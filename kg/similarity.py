"""How well relations fit questions: a score of 0 to 1 for each pair of a relation's label and a question's text.

``lexical`` compares words and needs nothing; ``embedding`` compares meanings by a small sentence encoder on the CPU, and
needs one more package; ``mixed`` is their weighted mean. All score many pairs at a time, and each distinct text is read
once: call them for all questions together. The names of linked entities should be taken out of the questions before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz, process

from kg.encoder import encode, encoder_folder, load_encoder, not_installed
from store.types import InputError

SimilarityName = Literal["lexical", "embedding", "mixed", "auto"]
Scores = npt.NDArray[np.float64]

TOKEN_SHARE = 0.7  # of the lexical score; the rest is rapidfuzz, which sees what the stemmer does not
EMBEDDING_SHARE = 0.65  # of the mixed score
REMEMBERED = 1 << 15  # texts

_PAIRS = 1 << 18  # compared at a time, so that memory does not grow with the number of pairs
_STOP_WORDS = """
    a an and are as at be been by did do does for from had has have he her his how in is it its made many much of on or
    she than that the their them they this to was were what which who whom whose with
    """
_STOP = frozenset(_STOP_WORDS.split())
# Words (on the right) that ask for a relation whose label holds other words (on the left).
_CUES = {
    "area population": "big larger",
    "author": "book novel write written wrote",
    "award": "prize win won",
    "basin body": "sea",
    "birth": "born",
    "border": "neighbour",
    "cast member": "actor star",
    "child": "daughter son",
    "citizenship country": "citizen",
    "composer performer": "song",
    "creator": "paint",
    "currency": "money",
    "date birth": "old older younger",
    "date inception": "year",
    "date time inception": "when",
    "death": "dead die",
    "discoverer": "invent",
    "educated": "school study university",
    "elevation": "high higher",
    "height": "tall taller",
    "inception founder": "found",
    "inventor": "discover",
    "language": "speak spoken",
    "mouth watercourse": "flow",
    "occupation": "job",
    "place location": "city where",
    "publication": "publish release",
    "spouse": "husband marry wife",
}
_ENDING_LIST = "ations ation ions ion ings ing ers ors er or ied ies ed es s e"
_ENDINGS = tuple(_ENDING_LIST.split())


class Similarity(Protocol):
    """A way to score relations against questions."""

    @property
    def name(self) -> str:
        """Names the scores in cache keys: whatever changes a score (rule, model, weight) changes the name."""
        ...

    def __call__(self, relations: Sequence[str], questions: Sequence[str]) -> Scores:
        """Scores from 0 to 1, one for each pair ``relations[i]`` (a label), ``questions[i]``; an empty text fits nothing.

        A pair's score does not depend on the other pairs. Raises ValueError if the two differ in length.
        """
        ...


class Lexical:
    """.7 * the share of the label's stems that the question holds or asks for, and .3 * rapidfuzz's ratio.

    Stems of the question are widened by what its words ask for ("when" asks for a date). The ratio is the better of
    rapidfuzz's partial ratio and token set ratio over the words that carry meaning.
    """

    name = "lexical-1"

    def __call__(self, relations: Sequence[str], questions: Sequence[str]) -> Scores:
        labels, label_of = _distinct(relations)
        asked, question_of = _distinct(questions)
        _same_length(relations, questions)
        wanted = [frozenset(_stems(label)) for label in labels]
        held = [_widened(_stems(question)) for question in asked]
        left, right = ([" ".join(_stems(text)) for text in texts] for texts in (labels, asked))
        scores = np.zeros(len(relations))
        for start in range(0, len(relations), _PAIRS):
            part = slice(start, start + _PAIRS)
            ends = list(zip(label_of[part].tolist(), question_of[part].tolist(), strict=True))
            overlap = [len(wanted[a] & held[b]) / len(wanted[a]) if wanted[a] else 0.0 for a, b in ends]
            ratio = _ratio([left[a] for a, _ in ends], [right[b] for _, b in ends])
            scores[part] = TOKEN_SHARE * np.array(overlap) + (1 - TOKEN_SHARE) * ratio
        return scores


class Embedding:
    """The cosine of two sentence embeddings of all-MiniLM-L6-v2 (384 numbers, mean pooling), cut to 0 to 1.

    Runs on the CPU in float32, and is loaded at the first call, which raises InputError where the package is missing or
    its files are not the published ones. Scores are rounded to 4 digits, since vectors differ by about 2e-7 with how texts
    were batched; on the edge of rounding, a score can still differ by .0001 between runs. The vectors of a call's texts,
    and of the last texts before (:data:`REMEMBERED`), take 1.5 KB each.
    """

    name = "minilm-1"

    def __init__(self) -> None:
        self._lock = Lock()  # a fast tokenizer may not be used by two threads at a time
        self._loaded: tuple[Any, Any] | None = None
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def __call__(self, relations: Sequence[str], questions: Sequence[str]) -> Scores:
        labels, label_of = _distinct(relations)
        asked, question_of = _distinct(questions)
        _same_length(relations, questions)
        scores = np.zeros(len(relations))
        left, right = self.vectors(labels), self.vectors(asked)
        for start in range(0, len(relations), _PAIRS // 16):
            part = slice(start, start + _PAIRS // 16)
            scores[part] = np.einsum("ij,ij->i", left[label_of[part]], right[question_of[part]])
        return np.clip(np.round(scores, 4), 0.0, 1.0)

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors, one row a text, float32; the row of an empty text is all zeros."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        with self._lock:
            tokenizer, model = self._loaded = self._loaded or load_encoder()
            new = [text for text in dict.fromkeys(texts) if text not in self._known]
            self._known |= zip(new, encode(tokenizer, model, new), strict=True)
            found = np.array([self._known[text] for text in texts], dtype=np.float32)
            for text in list(islice(self._known, max(len(self._known) - REMEMBERED, 0))):
                del self._known[text]
        return found


class Mixed:
    """The weighted mean of the lexical and the embedding score; ``share`` (0 to 1) is the embedding's part."""

    def __init__(
        self, share: float = EMBEDDING_SHARE, lexical: Similarity | None = None, embedding: Similarity | None = None
    ) -> None:
        if not 0.0 <= share <= 1.0:
            raise InputError(f"share {share}: the embedding's share of a mixed similarity is between 0 and 1")
        self.share = share
        self._parts = lexical or Lexical(), embedding or _encoder()

    @property
    def name(self) -> str:
        """Names both parts and the share."""
        lexical, embedding = self._parts
        return f"mixed({lexical.name}, {self.share:g} {embedding.name})"

    def __call__(self, relations: Sequence[str], questions: Sequence[str]) -> Scores:
        lexical, embedding = (part(relations, questions) for part in self._parts)
        return (1 - self.share) * lexical + self.share * embedding


def best_similarity(name: SimilarityName = "auto") -> Similarity:
    """The similarity of a name; ``auto`` is mixed where the encoder's package is installed, and lexical elsewhere.

    Raises InputError for an unknown name, and for one whose package is not installed.
    """
    if name not in ("lexical", "embedding", "mixed", "auto"):
        raise InputError(f"similarity {name!r}: known are lexical, embedding, mixed and auto")
    if name == "lexical" or (name == "auto" and encoder_folder() is None):
        return Lexical()
    if encoder_folder() is None:
        raise not_installed(name)
    return _encoder() if name == "embedding" else Mixed()


@lru_cache(maxsize=1)
def _encoder() -> Embedding:
    """One for the process: loading takes seconds, and the vectors of relations serve every question."""
    return Embedding()


def similarity(label: str, question: str) -> float:
    """The lexical score of one pair, 0 to 1; see :class:`Lexical`."""
    return float(Lexical()([label], [question])[0])


def _distinct(texts: Sequence[str]) -> tuple[list[str], npt.NDArray[np.intp]]:
    """The distinct texts in order, and the place of each text among them."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(places), np.fromiter((places[text] for text in texts), np.intp, len(texts))


def _same_length(relations: Sequence[str], questions: Sequence[str]) -> None:
    if len(relations) != len(questions):
        raise ValueError(f"{len(relations)} relations and {len(questions)} questions make no pairs")


def _ratio(left: list[str], right: list[str]) -> Scores:
    """rapidfuzz's ratio of each pair, 0 to 1; 0 where either is empty (rapidfuzz finds two empty texts equal)."""
    ratios = [
        process.cpdist(left, right, scorer=scorer, dtype=np.float64)
        for scorer in (fuzz.partial_ratio, fuzz.token_set_ratio)
    ]
    empty = [not (a and b) for a, b in zip(left, right, strict=True)]
    return np.where(empty, 0.0, np.maximum(*ratios) / 100)


@lru_cache(maxsize=1 << 16)
def _stems(text: str) -> tuple[str, ...]:
    """Distinct stems of the words that carry meaning, in order."""
    words = re.findall(r"\w+", re.sub(r"['’]s\b", "", text.lower()))
    return tuple(dict.fromkeys(_stem(word) for word in words if word not in _STOP))


def _widened(stems: tuple[str, ...]) -> frozenset[str]:
    """Stems of a question, and of what its words ask for."""
    cues = _stemmed_cues()
    return frozenset(stems).union(*(cues[stem] for stem in stems if stem in cues))


@lru_cache(maxsize=1)
def _stemmed_cues() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for cue, words in _CUES.items():
        for stem in map(_stem, words.split()):
            found[stem] = found.get(stem, frozenset()).union(_stems(cue))
    return found


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    """A light suffix stripper: "directed", "director" and "directing" meet, "capital" stays. At least 3 letters stay."""
    if word.endswith(("ied", "ies")) and len(word) > 5:
        return f"{word[:-3]}i"
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return f"{word[:-1]}i" if len(word) > 3 and word.endswith("y") else word
