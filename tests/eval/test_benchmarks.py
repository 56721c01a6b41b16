"""Loading questions: our own forms, splits, counts, and messages that name file, line and field."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from made_benchmarks import array, exaqt_record, mintaka_record, webqsp_record, write

from eval.benchmarks import LOADERS, count, load
from store.types import Answer, InputError, Link, Question, Split


def starter_record(number: int = 1, **changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": f"s{number}",
        "split": "dev",
        "question": "When was the composer of Fidelio born?",
        "answer_type": "date",
        "hops": 2,
        "question_entities": ["Q155973"],
        "answers": [{"text": "17 December 1770", "entity": None, "aliases": ["1770-12-17"]}],
        "gold": {"path": [["Q155973", "P86", "Q255"]]},
    }
    return {**record, **changes}


def custom_record(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"c{number}",
        "split": "test",
        "text": "Who wrote Hamlet?",
        "answers": ["William Shakespeare"],
        **changes,
    }


def test_starter_form(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        starter_record(1),
        starter_record(
            2,
            answer_type="entity",
            question="Who composed Fidelio?",
            hops=1,
            answers=[{"text": "Ludwig van Beethoven", "entity": "Q255", "aliases": ["Beethoven"]}],
        ),
    )
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    first, second = load("starter", "dev", path=path)
    assert first == Question(
        id="s1",
        dataset="starter",
        split="dev",
        text="When was the composer of Fidelio born?",
        answers=(Answer(text="17 December 1770", aliases=("1770-12-17",)),),
        answer_type="date",
        links=(Link(entity="Q155973", role="question", source="gold_qid"),),
        hops=2,
        provenance=f"sha256:{checksum} line 1",
    )
    assert second.links == (Link(entity="Q155973", role="question"), Link(entity="Q255", role="answer"))
    assert second.gold == ("Ludwig van Beethoven", "Beethoven")
    assert second.provenance.endswith(" line 2")


def test_the_starter_set_that_ships() -> None:
    questions = [question for split in ("train", "test") for question in load("starter", split)]  # type: ignore[arg-type]
    assert len(questions) >= 50
    assert len({question.id for question in questions}) == len(questions)
    assert {question.dataset for question in questions} == {"starter"}
    assert all(question.entities("question") for question in questions)
    assert load("starter", "test", limit=3) == load("starter", "test")[:3]


def test_custom_form_with_its_defaults(tmp_path: Path) -> None:
    full = custom_record(2, dataset="plays", answer_type="text", hops=1, provenance="by hand")
    full["answers"] = [{"text": "Shakespeare", "entity": "Q692", "aliases": ["The Bard"]}]
    full["links"] = [{"entity": "Q41567", "role": "question"}]
    path = write(tmp_path, custom_record(1), full)
    plain, rich = load("jsonl", "test", path=path)
    assert (plain.dataset, plain.answer_type, plain.gold) == ("mine", "entity", ("William Shakespeare",))
    assert plain.provenance.startswith("sha256:")
    assert rich.model_dump(mode="json") == {**full, "links": [{**full["links"][0], "source": "gold_qid"}]}


def test_splits_order_and_limit(tmp_path: Path) -> None:
    records = [custom_record(n, split="test" if n % 2 else "train") for n in range(10)]
    path = write(tmp_path, *records)
    assert [question.id for question in load("jsonl", "test", path=path)] == ["c1", "c3", "c5", "c7", "c9"]
    assert [question.id for question in load("jsonl", "test", path=path, limit=2)] == ["c1", "c3"]
    assert len(load("jsonl", "train", path=path, limit=100)) == 5


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    """Empty lines count; a line separator inside a text (U+2028, valid JSON) does not; a byte order mark is no error."""
    path = tmp_path / "odd.jsonl"
    first = json.dumps(custom_record(1, text="a\u2028b"), ensure_ascii=False)
    path.write_text(f"\ufeff{first}\r\n\r\n{json.dumps(custom_record(2))}", encoding="utf-8")
    questions = load("jsonl", "test", path=path)
    assert [question.provenance.rpartition(" ")[2] for question in questions] == ["1", "3"]
    assert questions[0].text == "a\u2028b"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("startr", "dataset 'startr': unknown; did you mean 'starter'\\? known ones: .*jsonl.*starter"),
        ("JSONL", "did you mean 'jsonl'"),
        ("zzz", "dataset 'zzz': unknown; known ones"),
        ("", "dataset '': unknown"),
    ],
)
def test_unknown_dataset(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(name, "test")


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one(limit: int) -> None:
    with pytest.raises(InputError, match=f"limit {limit}: must be 1 or more"):
        load("starter", "test", limit=limit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "field 'id'"),
        ({"id": 7}, "field 'id'.*is '7'"),
        ({"split": "validation"}, "field 'split'.*is 'validation'"),
        ({"question": ""}, "field 'question'"),
        ({"question": None}, "field 'question'"),
        ({"answer_type": "place"}, "field 'answer_type'.*is 'place'"),
        ({"hops": 0}, "field 'hops'"),
        ({"answers": []}, "field 'answers'"),
        ({"answers": "Paris"}, "field 'answers': a list of objects"),
        ({"answers": ["Paris"]}, "field 'answers': a list of objects"),
        ({"answers": [{"text": ""}]}, r"field 'answers\.0\.text'"),
        ({"answers": [{"text": "a", "alias": "b"}]}, r"field 'answers\.0\.alias'"),
        ({"question_entities": ["P31"]}, "field 'question_entities or answers.*is 'P31'"),
        ({"question_entities": "Q1"}, "field 'question_entities': a list of strings"),
    ],
)
def test_malformed_starter_record(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path, starter_record(1), starter_record(2, **change))
    with pytest.raises(InputError, match=f"mine.jsonl, line 2, {message}"):
        load("starter", "dev", path=path)


@pytest.mark.parametrize("field", ["id", "split", "question", "answers"])
def test_missing_starter_field(tmp_path: Path, field: str) -> None:
    record = starter_record(1)
    del record[field]
    with pytest.raises(InputError, match=f"mine.jsonl, line 1, field '{field}': "):
        load("starter", "dev", path=write(tmp_path, record))


def test_unknown_field_of_a_custom_record(tmp_path: Path) -> None:
    path = write(tmp_path, custom_record(1, question="Who?"))
    with pytest.raises(InputError, match="line 1, field 'question': Extra inputs"):
        load("jsonl", "test", path=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1: not valid JSON"),
        (b"[1]\n", "line 1: a JSON list"),
        (b'\n"text"\n', "line 2: a JSON str"),
        (b'{"id": "\xff"}', "line 1: not UTF-8"),
        (b"[" * 100_000, "line 1: not valid JSON"),
        (b"", "no question in split 'test'; the file has no question at all"),
        (b"\n\n", "no question at all"),
    ],
)
def test_files_that_are_no_jsonl(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load("jsonl", "test", path=path)


def test_missing_file_folder_and_path(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            load("jsonl", "test", path=path)
    with pytest.raises(InputError, match="needs the path"):
        load("jsonl", "test")


def test_empty_split_names_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path, custom_record(1), custom_record(2, split="dev"), custom_record(3))
    with pytest.raises(InputError, match=r"no question in split 'train'; the file has dev \(1\), test \(2\)"):
        load("jsonl", "train", path=path)


def test_repeated_id_names_both_lines_even_across_splits(tmp_path: Path) -> None:
    path = write(tmp_path, custom_record(1), custom_record(2), custom_record(1, split="dev"))
    with pytest.raises(InputError, match=r"id 'c1' is used twice .* line 1 and .* line 3"):
        load("jsonl", "test", path=path)


def test_a_new_loader_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question(id="x", dataset="new", split="test", text="?", answers=(Answer(text="a"),))
    monkeypatch.setitem(LOADERS, "new", lambda source: iter([question]))
    assert load("new", "test") == (question,)


def test_gzip_is_read_and_does_not_change_the_question(tmp_path: Path) -> None:
    plain = array(tmp_path, mintaka_record(), name="mintaka_dev.json")
    packed = tmp_path / "mintaka_dev.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert load("mintaka", "dev", path=packed) == load("mintaka", "dev", path=plain)
    own = write(tmp_path, custom_record())
    (tmp_path / "mine.jsonl.gz").write_bytes(gzip.compress(own.read_bytes()))
    assert load("jsonl", "test", path=tmp_path / "mine.jsonl.gz") == load("jsonl", "test", path=own)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a whole gzip file"):
        load("mintaka", "dev", path=packed)


def test_repeated_id_of_an_official_file(tmp_path: Path) -> None:
    path = array(tmp_path, mintaka_record(1), mintaka_record(2), mintaka_record(1), name="mintaka_dev.json")
    with pytest.raises(InputError, match=r"id 'm1' is used twice .* record 1 and .* record 3"):
        load("mintaka", "dev", path=path)


# Splits ---------------------------------------------------------------------------------------------------------------


def test_the_name_of_a_file_says_its_split(tmp_path: Path) -> None:
    path = array(tmp_path, mintaka_record(), name="mintaka_dev.json")
    assert load("mintaka", "dev", path=path)[0].split == "dev"
    with pytest.raises(InputError, match=r"no question in split 'test'; the file has dev \(1\)"):
        load("mintaka", "test", path=path)
    for name in ("mintaka.json", "mintaka_train_and_test.json"):  # no split, and no single one
        unsaid = array(tmp_path, mintaka_record(), name=name)
        assert [load("mintaka", split, path=unsaid)[0].split for split in ("dev", "test")] == ["dev", "test"]


def test_records_that_say_their_split_are_believed(tmp_path: Path) -> None:
    mixed = array(tmp_path, exaqt_record(1), exaqt_record(2, **{"Data set": "development"}), name="timequestions.json")
    assert [question.id for question in load("exaqt", "dev", path=mixed)] == ["2"]
    wrong = array(tmp_path, exaqt_record(1), exaqt_record(2, **{"Data set": "train"}), name="timequestions_test.json")
    with pytest.raises(InputError, match=r"record 2: says split 'train', the file's name says 'test'"):
        load("exaqt", "test", path=wrong)


@pytest.mark.parametrize(
    ("name", "identifier", "asked", "split"),
    [
        ("WebQSP.json", "WebQTrn-1", "train", "train"),
        ("WebQSP.json", "WebQTrn-1", "dev", "dev"),  # the official set has no dev split: part of train is taken for it
        ("WebQSP.pdev.json", "WebQTrn-1", "dev", "dev"),
        ("WebQSP.json", "WebQTest-1", "test", "test"),
        ("WebQSP.json", "Mine-1", "train", "train"),
    ],
)
def test_webqsp_splits(tmp_path: Path, name: str, identifier: str, asked: Split, split: str) -> None:
    path = write(tmp_path, webqsp_record(QuestionId=identifier), name=name)
    assert load("webqsp", asked, path=path)[0].split == split


def test_test_questions_never_become_training_questions(tmp_path: Path) -> None:
    path = write(tmp_path, webqsp_record(), name="WebQSP.json")
    with pytest.raises(InputError, match=r"no question in split 'train'; the file has test \(1\)"):
        load("webqsp", "train", path=path)
    path = write(tmp_path, webqsp_record(), name="WebQSP.train.json")
    with pytest.raises(InputError, match="says split 'test', the file's name says 'train'"):
        load("webqsp", "train", path=path)


# Counts ---------------------------------------------------------------------------------------------------------------


def test_count_is_printed(tmp_path: Path) -> None:
    path = array(tmp_path, exaqt_record(1), exaqt_record(2, Answer=[]), name="timequestions_test.json")
    assert str(count("exaqt", "test", path=path)).splitlines() == [
        "exaqt test: 2 records of 3,237 published, 1 questions",
        "  left out: 1 (no gold answer)",
    ]
