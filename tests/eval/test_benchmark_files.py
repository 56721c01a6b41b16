"""The real public files: counts as published, and the same answers and entities as a view joined by other means."""

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from eval.benchmarks import Contents, count, load, read
from eval.benchmarks.registry import published
from eval.benchmarks.values import timestamp
from eval.matching import parse_date, parse_number
from store.types import AnswerType, InputError, Question, Split

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES: dict[tuple[str, Split], str] = {
    ("cwq", "test"): "cwq/ComplexWebQuestions_test.json.gz",
    ("webqsp", "test"): "webqsp/WebQSP.test.jsonl.gz",
    ("grailqa", "dev"): "grailqa/grailqa_dev_full.jsonl.gz",
    ("exaqt", "test"): "exaqt/timequestions_test.json.gz",
    ("exaqt", "dev"): "exaqt/timequestions_dev.json.gz",
    ("simpleqa", "test"): "simpleqa/simple_qa_test_set.csv.gz",
    ("mintaka", "dev"): "mintaka/mintaka_dev.json.gz",
}
EXAQT: tuple[Split, ...] = ("test", "dev")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the public benchmark files in {DATA}")


@cache
def real(name: str, split: Split) -> Contents:
    names = joined_names() if name == "cwq" else None
    return read(name, split, path=DATA / "benchmarks" / FILES[name, split], names=names)


@cache
def joined(name: str, split: Split) -> dict[str, dict[str, Any]]:
    with gzip.open(DATA / "linked" / f"{name}_{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return {record["id"]: record for record in map(json.loads, lines)}


def joined_names() -> dict[str, str]:
    """Names of Freebase ids: of the first answer of each question, the only one that the view has."""
    records = joined("cwq", "test").values()
    return {record["answer_mids"][0]: record["answers"][0] for record in records if record.get("answer_mids")}


def pairs(name: str, split: Split) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Each question with its record of the joined view."""
    others = joined(name, split)
    return ((question, others[question.id]) for question in real(name, split).questions)


@pytest.mark.parametrize(
    ("name", "split", "questions", "left_out", "unnamed"),
    [
        ("cwq", "test", 3_528, 3, 275),
        ("webqsp", "test", 1_628, 11, 28),
        ("grailqa", "dev", 6_763, 0, 0),
        ("exaqt", "test", 3_203, 34, 0),
        ("exaqt", "dev", 3_201, 35, 0),
        ("simpleqa", "test", 4_326, 0, 0),
        ("mintaka", "dev", 2_000, 0, 0),
    ],
)
def test_counts_are_the_published_ones(name: str, split: Split, questions: int, left_out: int, unnamed: int) -> None:
    contents = real(name, split)
    assert len(contents.questions) + len(contents.left_out) == published(name, split)
    assert (len(contents.questions), len(contents.left_out)) == (questions, left_out)
    assert len({item.entity for item in contents.unnamed}) == unnamed
    assert {question.answer_type for question in contents.questions} <= set(get_args(AnswerType))
    assert all(question.links for question in contents.questions if name in ("cwq", "webqsp"))


def test_cwq_ids_are_those_of_the_view() -> None:
    path = DATA / "benchmarks" / FILES["cwq", "test"]
    with pytest.raises(InputError, match="the answers of 3,527 questions are ids without a name"):
        load("cwq", "test", path=path)
    assert len(count("cwq", "test", path=path).unnamed) == 936
    same = [q.freebase_ids("question") == tuple(theirs.get("question_mids", ())) for q, theirs in pairs("cwq", "test")]
    assert sum(same) > 3_400  # the view leaves out ids that begin with g., and holds a few classes
    assert sum(q.hops is None for q, _theirs in pairs("cwq", "test")) < 200


def test_names_of_webqsp_fit_cwq() -> None:
    """Two files that know nothing of each other: WebQuestionsSP's name of an id is the view's answer with that id."""
    names: dict[str, str] = {}
    for question in real("webqsp", "test").questions:
        ids = question.freebase_ids("answer")
        if len(ids) == len(question.answers):
            names |= dict(zip(ids, (answer.text for answer in question.answers), strict=True))
    contents = read("cwq", "test", path=DATA / "benchmarks" / FILES["cwq", "test"], names=names)
    others = joined("cwq", "test")
    assert len(contents.questions) > 2_000
    assert sum(others[q.id]["answers"][0] in q.gold for q in contents.questions) > 0.95 * len(contents.questions)


def test_webqsp_answers_are_those_of_the_view() -> None:
    for question, theirs in pairs("webqsp", "test"):
        assert {answer.text for answer in question.answers} <= set(theirs["answers"])
        assert set(question.freebase_ids("question")) == set(theirs["question_mids"])
        assert set(question.freebase_ids("answer")) == set(theirs.get("answer_mids", ()))


def test_grailqa_answers_are_those_of_the_view() -> None:
    for question, theirs in pairs("grailqa", "dev"):
        assert (question.text, set(question.gold)) == (
            theirs["question"].strip(),
            {a.strip() for a in theirs["answers"]},
        )
        assert question.freebase_ids("question") == tuple(theirs.get("question_mids", ()))
    sample = load("grailqa", "dev", path=DATA / "benchmarks/grailqa/grailqa_dev_sample1000.json.gz")
    full = {question.id: question for question in real("grailqa", "dev").questions}
    assert len(sample) == 1_000
    for question in sample:
        other = full[question.id]
        assert (question.text, question.hops, question.answer_type) == (other.text, other.hops, other.answer_type)
        assert (set(question.gold), set(question.links)) == (set(other.gold), set(other.links))


@pytest.mark.parametrize("split", EXAQT)
def test_exaqt_answers_are_those_of_the_view(split: Split) -> None:
    for question, theirs in pairs("exaqt", split):
        texts = {(timestamp(text) or {"text": text.strip()})["text"] for text in theirs["answers"]}
        assert {answer.text for answer in question.answers} == texts
        assert {qid.strip() for qid in theirs["answer_qids"]} == set(question.entities("answer"))
        assert question.text == theirs["question"].strip()


def test_simpleqa_answers_are_those_of_the_view() -> None:
    for question, theirs in pairs("simpleqa", "test"):
        assert question.text == theirs["question"].strip()
        assert question.gold == (theirs["answers"][0].strip(),)


def test_mintaka_answers_are_those_of_the_view() -> None:
    counted = 0
    for question, theirs in pairs("mintaka", "dev"):
        assert question.text == theirs["question"]
        assert question.entities("question") == tuple(dict.fromkeys(theirs["question_qids"]))
        assert question.entities("answer") == tuple(dict.fromkeys(theirs["answer_qids"]))
        texts = {answer.text for answer in question.answers}
        if question.answer_type == "boolean":
            assert {text == "yes" for text in texts} == {text == "True" for text in theirs["answers"]}
        elif theirs["answers"] and texts != set(theirs["answers"]):
            counted += 1
            assert question.answer_type == "number"
    assert counted == 194  # the view names what was counted


def test_a_file_under_another_name_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "questions.json.gz"
    path.write_bytes((DATA / "benchmarks" / FILES["mintaka", "dev"]).read_bytes())
    assert len(load("mintaka", "dev", path=path)) == 2_000
    with pytest.raises(InputError, match=r"questions\.json\.gz: it is the file of mintaka dev, and not of test"):
        load("mintaka", "test", path=path)


@pytest.mark.parametrize(("name", "split", "most"), [("exaqt", "test", 0), ("exaqt", "dev", 1), ("mintaka", "dev", 11)])
def test_dates_and_numbers_are_read_by_the_matcher(name: str, split: Split, most: int) -> None:
    """Those that are not are as odd in the file: heights in feet and inches, 25 January as 1963-25-01, 1,900,000 BCE."""
    readers = {"date": parse_date, "number": parse_number}
    unread = [
        question.gold
        for question in real(name, split).questions
        if question.answer_type in readers and not any(readers[question.answer_type](form) for form in question.gold)
    ]
    assert len(unread) == most, unread
