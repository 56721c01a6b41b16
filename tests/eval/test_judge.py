"""The judge's reply and the keys by which verdicts are shared."""

from __future__ import annotations

import pytest

from eval.judge import parse_verdict, prediction_key
from store.types import Grade, Verdict


@pytest.mark.parametrize(
    ("reply", "correct"),
    [
        ("1", True),
        ("0", False),
        (" 1\n", True),
        ("1.", True),
        ("1, because both name Paris", True),
        ("0, because the city is another one", False),
        ("0. The prediction names Rome", False),
        ("**1**", True),
        ("`0`", False),
        ("Verdict: 0", False),
        ("[1]", True),
        ("\\boxed{1}", True),
        ("Answer:1", True),
        ('{"label": 0}', False),
        ("1\n\nThe prediction says so.", True),
        ("The prediction is 1 (correct)", True),
        ("<think>the gold answer has 0 digits</think>1", True),
        ("<think>\nis it 1?\n</think>\n\n0", False),
        ("it may be 0, or 1</think>\n1", True),
        ("<think>a</think> no, <think>b</think>0", False),
        ("", None),
        ("   \n", None),
        ("yes", None),
        ("correct", None),
        ("10", None),
        ("2", None),
        ("0.5", None),
        ("1.0", None),
        ("-1", None),
        ("1/2", None),
        ("100%", None),
        ("1%", None),
        ("1,000", None),
        ("Q1", None),
        ("1st", None),
        ("2010 was wrong: 0", None),
        ("12 February 1", None),
        ("O", None),
        ("one", None),
        ("0 or 1", None),
        ("1 or 0", None),
        ("0\n\n1", None),
        ("1: it states one\n0: it does not", None),
        ("1 out of 2", None),
        ("1 of the gold answers", None),
        ("1. The gold answer is Paris", None),
        ("1) **Gold**: Paris", None),
        ("<think>1", None),
        ("<think>so the verdict is 1\n\n1", None),
        ("<think>a</think><think>1", None),
        ("<think>1</think>", None),
        ("<reasoning>1</reasoning>", None),
    ],
)
def test_a_digit_is_read(reply: str, correct: bool | None) -> None:
    grade: Grade | None = None if correct is None else "correct" if correct else "incorrect"
    expected = Verdict(correct=correct, rule="invalid" if correct is None else "judge", grade=grade)
    assert parse_verdict(reply, "contains") == expected


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A", "A"),
        ("B", "B"),
        ("C", "C"),
        (" A\n", "A"),
        ("A.", "A"),
        ("B)", "B"),
        ("(B)", "B"),
        ("[C]", "C"),
        ('"A"', "A"),
        ("**C**", "C"),
        ("`B`", "B"),
        ("$A$", "A"),
        ("\\boxed{B}", "B"),
        ("$\\boxed{\\text{C}}$", "C"),
        ("- A", "A"),
        ("Grade: A", "A"),
        ("**Grade:** B", "B"),
        ("grade = C", "C"),
        ("The grade is A.", "A"),
        ("I would give this a grade of B.", "B"),
        ("Answer: C", "C"),
        ("The answer is A", "A"),
        ("Final answer: **B**", "B"),
        ("My verdict: C", "C"),
        ("Letter: A", "A"),
        ('{"grade": "B"}', "B"),
        ("A: CORRECT", "A"),
        ("B (INCORRECT)", "B"),
        ("C - NOT_ATTEMPTED", "C"),
        ("A - Correct", "A"),
        ("A, since both name Paris", "A"),
        ("A because both name Paris", "A"),
        ("A is the right grade", "A"),
        ("B. The prediction names another city.", "B"),
        ("B. A French city is not a country.", "B"),
        ("C\n\nThe prediction says that it does not know.", "C"),
        ("The prediction names the gold answer.\n\nA", "A"),
        ("It declines to answer.\n**C**", "C"),
        ("A\nA\nA", "A"),
        ("CORRECT", "A"),
        ("INCORRECT", "B"),
        ("NOT_ATTEMPTED", "C"),
        ("NOT ATTEMPTED", "C"),
        ("Not attempted.", "C"),
        ("Correct", "A"),
        ("incorrect.", "B"),
        ("Incorrect, because Rome is another city", "B"),
        ("Correct (both say Paris)", "A"),
        ("Grade: INCORRECT", "B"),
        ("Grade: not attempted", "C"),
        ("Both name Paris.\nCorrect.", "A"),
        ("<think>A or B? B, I think.</think>A", "A"),
        ("<think>\nhm\n</think>\n\nGrade: C", "C"),
        ("vitamin C, so</think>\nB", "B"),
        ("", None),
        ("\n\n", None),
        ("D", None),
        ("a", None),
        ("1", None),
        ("A or B", None),
        ("A, B or C", None),
        ("A/B/C", None),
        ("A B", None),
        ("A\nB", None),
        ("A. correct\nB. incorrect\nC. not attempted", None),
        ("A prediction that names the city", None),
        ("A Paris street", None),
        ("A French city is not a country: B", None),
        ("Grade: A prediction", None),
        ("The prediction mentions vitamin C", None),
        ("C major", None),
        ("Plan B", None),
        ("B-52", None),
        ("C++", None),
        ("A-", None),
        ("A+", None),
        ("B's", None),
        ("U.S.A.", None),
        ("AB", None),
        ("ABC", None),
        ("Although", None),
        ("Both", None),
        ("Apple", None),
        ("B: CORRECT", None),
        ("A. It is INCORRECT", None),
        ("CORRECT or INCORRECT", None),
        ("Correct or incorrect?", None),
        ("Correct/Incorrect", None),
        ("Correctly", None),
        ("Correct answers are rare", None),
        ("Not correct", None),
        ("NOT CORRECT", None),
        ("NOT INCORRECT", None),
        ("The prediction is not correct", None),
        ("It is correct that I cannot tell", None),
        ("attempted", None),
        ("Grade:", None),
        ("Grade (A, B or C):", None),
        ("<think>A", None),
        ("<think>\nGrade: A\n\nA", None),
        ("<think>A</think>", None),
        ("A <think> or rather", None),
    ],
)
def test_a_letter_is_read(reply: str, letter: str | None) -> None:
    grades: dict[str, Grade] = {"A": "correct", "B": "incorrect", "C": "not_attempted"}
    expected = Verdict(correct=None, rule="invalid")
    if letter:
        expected = Verdict(correct=letter == "A", rule="judge", grade=grades[letter])
    assert parse_verdict(reply, "grade") == expected


@pytest.mark.parametrize(
    ("reply", "question", "whole", "cut"),
    [
        ("The verdict is 1", "contains", True, None),  # the start of 12, perhaps
        ("The verdict is 1,", "contains", True, True),
        ("1\n\n", "contains", True, True),
        ("Grade: B", "grade", False, None),  # the start of "Both", perhaps
        ("B\n", "grade", False, False),
        ("Grade: Incorrect", "grade", False, None),  # "Incorrectly"
    ],
)
def test_a_cut_reply_may_have_gone_on(reply: str, question: str, whole: bool, cut: bool | None) -> None:
    asked = "contains" if question == "contains" else "grade"
    assert parse_verdict(reply, asked).correct is whole
    assert parse_verdict(reply, asked, cut=True).correct is cut


def test_a_loop_of_tokens_is_read_in_no_time() -> None:
    for piece in ("A ", "Grade: ", "1. ", "<think>", "not ", "*_ ", "\n"):
        parse_verdict(piece * 5_000, "grade")
        parse_verdict(piece * 5_000, "contains")


def test_prediction_key_ignores_white_space_only() -> None:
    assert prediction_key("New  York\n") == prediction_key("New York")
    texts = ["New York", "new york", "New York.", "NewYork", "Nèw York", ""]
    assert len({prediction_key(text) for text in texts}) == len(texts)
