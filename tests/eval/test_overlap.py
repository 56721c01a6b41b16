"""Overlap of test with training questions, and what of a test question stood in a training prompt."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from eval.leaks import Leak, Shown, leaks, statement_ends
from eval.overlap import OverlapOptions, overlaps, summarise_overlaps, words
from kg.linearise import Form, linearise
from store.types import Answer, AnswerType, Detail, Question, Triple
from store.types import Path as Walk

LINKED = Path(__file__).resolve().parents[3] / "shared" / "data" / "linked"


def asked(text: str, *gold: str, kind: AnswerType = "entity", dataset: str = "d") -> Question:
    answers = tuple(Answer(text=one) for one in gold or ("Nobody",))
    return Question(id=text[:40], dataset=dataset, split="test", text=text, answers=answers, answer_type=kind)


def measured(test: str, *train: str, **options: Any) -> Any:
    return overlaps([asked(test)], [asked(one) for one in train], OverlapOptions(**options))[0]


class TestWords:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Who's JAY-Z’s wife?", "whos jay zs wife"),
            ("Beyoncé  Knowles", "beyonce knowles"),
            ("ﬁrst № １０", "first no 10"),
            ("Straße in København", "strasse in københavn"),
            ("8,849 m, 1.5", "8849 m 1 5"),
            ("snake_case", "snake case"),
            ("東京 タワー", "東京 タワー"),
            ("?!", ""),
        ],
    )
    def test_reading(self, text: str, expected: str) -> None:
        assert " ".join(words(text)) == expected

    def test_the_words_of_a_part_are_a_part_of_the_words(self) -> None:
        parts = ["Who was O'Neal's U.S. coach?", "1,000 Ångström", "A. B. C.", "Straße"]
        assert words("\n".join(parts)) == tuple(word for part in parts for word in words(part))


class TestOverlaps:
    def test_exact_is_the_same_words(self) -> None:
        found = measured("when is homers birthday", "Where was Homer born?", "When is Homer's birthday?")
        assert (found.nearest, found.exact, found.ngram, found.cosine, found.flagged) == (1, True, 1.0, None, True)

    def test_questions_without_words_are_compared_as_they_are(self) -> None:
        assert measured("?", "!", "?").nearest == 1
        found = measured("?", "!")
        assert (found.nearest, found.exact, found.ngram, found.flagged) == (None, False, 0.0, False)

    @pytest.mark.parametrize(
        ("test", "train", "share"),
        [
            ("a b c d e f g", "x a b c d e f g y", 1.0),
            ("a b c d e f g", "a b c d e f x", 2 / 3),
            ("a b c d e f g", "x b c d e f y", 1 / 3),
            ("a b c d e a b c d e", "a b c d e", 1 / 5),  # 6 windows, 5 of them distinct
            ("who is angelina jolie", "who is angelina jolie husband name?", 1.0),  # shorter than n: one gram
            ("who is angelina jolie", "who is Angelina", 0.0),
            ("a b c d e", "e d c b a", 0.0),
        ],
    )
    def test_share_of_ngrams(self, test: str, train: str, share: float) -> None:
        found = measured(test, train)
        assert found.ngram == pytest.approx(share)
        assert found.flagged == (share >= 0.7)
        assert found.nearest == (0 if share else None)

    def test_the_share_is_of_one_training_question(self) -> None:
        found = measured("a b c d e f g h i j", "a b c d e f", "f g h i j", "e f g h i j k")
        assert (found.nearest, found.ngram) == (0, pytest.approx(2 / 6))
        assert measured("a b c d e f", "a b c d e x y", "a b c d e", "b c d e f").nearest == 1, (
            "the shortest, then the first"
        )

    def test_thresholds_are_options(self) -> None:
        assert not measured("a b c d e f", "a b c d e").flagged
        assert measured("a b c d e f", "a b c d e", ngram_share=0.5).flagged
        assert measured("a b c d e f", "a b c d e", ngram=1).flagged
        with pytest.raises(ValidationError):
            OverlapOptions(ngram_share=0)

    @pytest.mark.parametrize("seed", range(4))
    def test_against_comparing_every_pair(self, seed: int) -> None:
        dice = random.Random(seed)

        def text() -> str:
            return " ".join(dice.choice("abc") for _ in range(dice.randint(1, 9)))

        test, train = [asked(text()) for _ in range(60)], [asked(text()) for _ in range(50)]
        vectors = {one.text: unit(dice) for one in (*test, *train)}
        options = OverlapOptions(ngram=dice.randint(1, 5), cosine=0.8)
        found = overlaps(test, train, options, lambda texts: np.array([vectors[one] for one in texts], np.float32))
        for one, got in zip(test, found, strict=True):
            shares = [share(one.text, other.text, options.ngram) for other in train]
            cosines = [float(vectors[one.text] @ vectors[other.text]) for other in train]
            assert got.exact == any(one.text == other.text for other in train)
            assert got.ngram == pytest.approx(max(shares))
            assert got.cosine == pytest.approx(max(cosines), abs=1e-4)
            assert got.flagged == (got.exact or max(shares) >= options.ngram_share or max(cosines) > options.cosine)
            assert got.nearest is not None
            if got.exact:
                assert train[got.nearest].text == one.text
            elif max(shares) >= options.ngram_share:
                assert shares[got.nearest] == max(shares)
            else:
                assert cosines[got.nearest] == pytest.approx(max(cosines), abs=1e-4)

    def test_no_questions_on_either_side(self) -> None:
        def never(texts: Sequence[str]) -> npt.NDArray[np.float32]:
            raise AssertionError(texts)

        assert overlaps([], [asked("a")], OverlapOptions(), never) == []
        found = overlaps([asked("a")], [], OverlapOptions(), never)[0]
        assert (found.nearest, found.exact, found.ngram, found.cosine, found.flagged) == (None, False, 0.0, None, False)

    def test_a_cosine_is_flagged_above_its_threshold(self) -> None:
        vectors = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
        for threshold, flagged in ((0.6, False), (0.5999, True)):
            options = OverlapOptions(cosine=threshold)
            found = overlaps([asked("a")], [asked("b")], options, lambda _texts: vectors)[0]
            assert (found.cosine, found.flagged, found.nearest) == (0.6, flagged, 0)

    def test_texts_are_encoded_once(self) -> None:
        seen: list[str] = []

        def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
            seen.extend(texts)
            return np.eye(len(texts), dtype=np.float32)

        found = overlaps([asked("a"), asked("b"), asked("a")], [asked("b"), asked("b")], OverlapOptions(), embed)
        assert sorted(seen) == ["a", "b"]
        assert [one.cosine for one in found] == [0.0, 1.0, 0.0]

    def test_large_sets_take_seconds(self) -> None:
        dice = random.Random(0)
        common = [f"w{number}" for number in range(300)]

        def some(count: int) -> list[Question]:
            return [asked("what is the name of the " + " ".join(dice.choices(common, k=6))) for _ in range(count)]

        test, train = some(4000), some(3500)
        started = time.perf_counter()
        overlaps(test, train, OverlapOptions())
        assert time.perf_counter() - started < 20, "each pair in Python would take minutes"


def unit(dice: random.Random) -> npt.NDArray[np.float64]:
    vector = np.array([dice.gauss(0, 1) for _ in range(4)])
    return vector / float(np.linalg.norm(vector))


def share(test: str, train: str, size: int) -> float:
    """By definition: windows of the one looked for in the windows of the other."""
    left, right = test.split(), train.split()
    size = min(size, len(left))
    windows = {" ".join(left[at : at + size]) for at in range(len(left) - size + 1)}
    held = {" ".join(right[at : at + size]) for at in range(len(right) - size + 1)}
    return len(windows & held) / len(windows)


LABELS = {
    "Q1": "France",
    "Q2": "Paris",
    "Q3": "Grover Cleveland",
    "Q4": "President of the United States",
    "Q5": "Washington, D.C.",
    "Q6": "The Lord of the Rings",
    "Q7": "J. R. R. Tolkien",
    "Q8": "actor",
    "Q9": "University of Oxford",
    "Q10": "Oxford",
    "P36": "capital",
    "P39": "position held",
    "P50": "author",
    "P106": "occupation",
    "P69": "educated at",
    "P569": "date of birth",
    "P580": "start time",
    "P1082": "population",
    "P131": "located in the administrative territorial entity",
}


def printed(triple: Triple, form: Form = "fs1", *details: Detail) -> str:
    walk = Walk(source=triple.subject, target=triple.object, triples=(triple,))
    return linearise([walk], LABELS, form=form, details={triple: details}).text


CAPITAL = Triple("Q1", "P36", "Q2")
OFFICE = Triple("Q3", "P39", "Q4")
TERM = Detail(qualifiers=(("P580", "1885-03-04", True),))
BORN = Triple("Q7", "P569", "1892-01-03", True)
PEOPLE = Triple("Q2", "P1082", "2145906", True)
FACTS = [
    (CAPITAL, (), asked("What is the capital of France?", "Paris"), True),
    (CAPITAL, (), asked("what is france's capital", "paris"), True),
    (CAPITAL, (), asked("Which country has the capital Paris?", "Nobody", "France"), True),
    (CAPITAL, (), asked("Where was Monet born?", "Paris"), False),
    (CAPITAL, (), asked("What is the capital of France?", "Lyon"), False),
    (CAPITAL, (), asked("Is Paris or Lyon the capital of France?", "Paris"), False),
    (CAPITAL, (), asked("Is Paris the capital of France?", "yes", kind="boolean"), False),
    (CAPITAL, (), asked("What is the capital of New Franceville?", "Paris"), False),
    (OFFICE, (TERM,), asked("Who was president of the United States in 1885?", "Grover Cleveland"), True),
    (OFFICE, (TERM,), asked("When did Grover Cleveland first come to power?", "1885", kind="date"), True),
    (OFFICE, (TERM,), asked("When did Grover Cleveland first come to power?", "4 March 1885", kind="date"), True),
    (OFFICE, (TERM,), asked("When did Grover Cleveland first come to power?", "5 March 1885", kind="date"), False),
    (OFFICE, (TERM,), asked("When did Chester Arthur leave?", "1885", kind="date"), False),
    (BORN, (), asked("In which year was J.R.R. Tolkien born?", "1892", kind="date"), True),
    (BORN, (), asked("On which day was J. R. R. Tolkien born?", "January 3", kind="date"), False),
    (PEOPLE, (), asked("How many people live in Paris?", "2,145,906", kind="number"), True),
    (PEOPLE, (), asked("How many people live in Paris?", "2.1 million", kind="number"), False),
    (Triple("Q2", "P1082", "21", True), (), asked("How many zoos has Paris?", "21", kind="number"), False),
    (Triple("Q2", "P1082", "12", True), (), asked("How many zoos has Paris?", "twelve", kind="number"), False),
    (Triple("Q2", "P1082", "112", True), (), asked("How many zoos has Paris?", "112.0", kind="number"), True),
    (Triple("Q2", "P1082", "yes", True), (), asked("Is Paris large?", "yes", kind="boolean"), False),
    (Triple("Q5", "P131", "Q1"), (), asked("Where is Washington, D.C.?", "France"), True),
    (Triple("Q6", "P50", "Q7"), (), asked("Who wrote The Lord of the Rings?", "JRR Tolkien", "J.R.R. Tolkien"), True),
    (Triple("Q3", "P106", "Q8"), (), asked("Which actor played a president?", "Grover Cleveland"), False),
    (Triple("Q3", "P106", "Q8"), (), asked("What was Grover Cleveland by trade?", "actor"), True),
    (Triple("Q7", "P69", "Q9"), (), asked("Who taught in Oxford?", "J. R. R. Tolkien"), False),
]


class TestFacts:
    @pytest.mark.parametrize(
        ("triple", "details", "question", "leaked"), FACTS, ids=lambda one: getattr(one, "text", None)
    )
    def test_a_statement_joins_a_name_of_the_question_to_its_answer(
        self, triple: Triple, details: tuple[Detail, ...], question: Question, leaked: bool
    ) -> None:
        shown = Shown("t", "...", ("Lyon, country, Gaul", printed(triple, "fs1", *details)))
        assert leaks([question], [shown]) == [Leak("fact", "t") if leaked else None]

    @pytest.mark.parametrize(
        ("triple", "question", "leaked"),
        [
            (CAPITAL, asked("What is the capital of France?", "Paris"), True),
            (CAPITAL, asked("What is the best known town?", "Paris"), False),
            (CAPITAL, asked("Where was Monet born?", "Paris"), False),
            (Triple("Q6", "P50", "Q7"), asked("Who wrote Lord of the Rings?", "J. R. R. Tolkien"), True),
            (BORN, asked("When was J. R. R. Tolkien born?", "3 January 1892", kind="date"), True),
            (Triple("Q7", "P69", "Q9"), asked("Who taught in Oxford?", "J. R. R. Tolkien"), False),
            (Triple("Q7", "P69", "Q9"), asked("Where did J. R. R. Tolkien learn?", "University of Oxford"), True),
        ],
        ids=lambda one: getattr(one, "text", None),
    )
    def test_sentences(self, triple: Triple, question: Question, leaked: bool) -> None:
        line = printed(triple, "verbalised")
        assert line.endswith(".")
        assert leaks([question], [Shown("t", "...", (line,))]) == [Leak("fact", "t") if leaked else None]

    def test_a_name_is_no_part_of_the_answer_of_a_sentence(self) -> None:
        question = asked("Where does the United Nations meet?", "United Nations headquarters")
        shown = Shown("t", "...", ("Kofi Annan worked in the United Nations headquarters.",))
        assert leaks([question], [shown]) == [None]

    @pytest.mark.parametrize(
        ("line", "pair"),
        [
            ("Washington, D.C., capital of, United States", ("Washington, D.C.", "United States")),
            ("Alien (film), director, Ridley Scott", ("Ridley Scott", "Alien (film)")),
            ("Ridley Scott, notable work, Alien (film)", ("Ridley Scott", "Alien (film)")),
            ("A, position held, B (start time 1885; end time 1889) (start time 1893)", ("A", "1889")),
            ("A, position held, B (start time 1885; end time 1889) (start time 1893)", ("B", "1893")),
            ("A, position held, B (of Upper House)", ("A", "Upper House")),
        ],
    )
    def test_ends_of_a_statement(self, line: str, pair: tuple[str, str]) -> None:
        assert pair in set(statement_ends(line))

    def test_the_first_prompt_is_named_and_lines_of_the_text_do_not_count(self) -> None:
        line = printed(CAPITAL)
        question = asked("What is the capital of France?", "Paris")
        shown = [Shown("a", line), Shown("b", "", (line,)), Shown("c", "", (line,))]
        assert leaks([question], shown) == [Leak("fact", "b")]
        assert leaks([question], [Shown("a", line)]) == [None]
        assert leaks([], shown) == []


class TestQuestions:
    def test_a_question_in_a_prompt_counts_before_a_fact(self) -> None:
        prompt = "Facts:\nFrance, capital, Paris\n\nName it: what is the CAPITAL of France, and why? Put it in a box."
        test = [
            asked("What is the capital of France?", "Paris"),
            asked("What is the capital of Franc?"),
            asked("hat is the capital of France"),
            asked("the capital"),
            asked("and why put it"),
        ]
        found = leaks(test, [Shown("a", "", ("France, capital, Paris",)), Shown("b", prompt)])
        assert found == [Leak("question", "b"), None, None, None, Leak("question", "b")]

    def test_no_questions_and_no_prompts(self) -> None:
        assert leaks([asked("Who was it then?")], []) == [None]
        assert leaks([asked("?")], [Shown("a", "anything")]) == [None]

    @pytest.mark.parametrize("seed", range(3))
    def test_against_looking_in_every_prompt(self, seed: int) -> None:
        dice = random.Random(seed)

        def text(longest: int) -> str:
            return " ".join(dice.choice("abc") for _ in range(dice.randint(3, longest)))

        test, prompts = [asked(text(6)) for _ in range(80)], [text(30) for _ in range(12)]
        found = leaks(test, [Shown(str(place), one) for place, one in enumerate(prompts)])
        for question, leak in zip(test, found, strict=True):
            where = [str(place) for place, one in enumerate(prompts) if f" {question.text} " in f" {one} "]
            assert leak == (Leak("question", where[0]) if where else None)


def row(**changes: Any) -> dict[str, Any]:
    plain = {
        "dataset": "d",
        "question_key": "k",
        "question": "q",
        "nearest_question": "n",
        "exact": False,
        "ngram": 0.1,
        "by_ngram": False,
        "cosine": 0.5,
        "by_cosine": False,
        "leak": None,
        "leaked_in_question": None,
        "flagged": False,
    }
    return plain | changes


class TestSummary:
    def test_counts_by_measure_and_the_nearest_first(self) -> None:
        rows = [
            row(question="far"),
            row(question="near", cosine=0.95, by_cosine=True, flagged=True),
            row(question="told", leak="fact", leaked_in_question="there", flagged=True),
            row(
                question="same",
                exact=True,
                ngram=1.0,
                by_ngram=True,
                cosine=1.0,
                by_cosine=True,
                leak="question",
                flagged=True,
            ),
            row(dataset="c", cosine=None, by_cosine=None, ngram=0.8, by_ngram=True, flagged=True),
        ]
        without, summary = summarise_overlaps(rows, examples=3)
        assert (without.dataset, without.questions, without.ngram, without.cosine, without.flagged) == (
            "c",
            1,
            1,
            None,
            1,
        )
        assert summary[:8] == ("d", 4, 1, 1, 2, 1, 1, 3)
        assert [one.question for one in summary.examples] == ["same", "near", "told"]
        assert summary.examples[2].leaked_in == "there"
        assert summarise_overlaps([]) == ()


def linked(name: str) -> list[Question]:
    file = LINKED / f"{name}.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"real questions are not here: no {file}")
    records = map(json.loads, gzip.decompress(file.read_bytes()).decode().splitlines())
    return [asked(one["question"], *filter(None, one["answers"]), dataset=name) for one in records]


def test_real_benchmarks_share_questions() -> None:
    """TimeQuestions was collected from WebQSP and ComplexWebQuestions among others, with their splits mixed."""
    train = [*linked("webqsp_test"), *linked("cwq_test")]
    times, simple = linked("exaqt_test"), linked("simpleqa_test")
    found = overlaps([*times, *simple], train, OverlapOptions())
    exact = [one.exact for one in found]
    assert 70 <= sum(exact[: len(times)]) <= 100
    assert sum(exact[len(times) :]) == 0
    prompts = leaks([*times, *simple], [Shown(str(place), one.text) for place, one in enumerate(train)])
    said = [leak is not None for leak in prompts]
    assert all(leak or len(words(one.text)) < 3 for one, leak, same in zip(times, said, exact, strict=False) if same)
    assert sum(said) < sum(exact) + 20
