"""Examples from files: every form that is read, and the place and field of every row that is malformed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.prompts import BOXED
from models.training_files import read_examples
from models.training_text import training_set_hash
from store.types import InputError, Message

ROWS = [
    {"question": "Where was Ada born?", "thinking": "Ada, place of birth, Paris.", "answer": "Paris"},
    {"question": "Where was Bo born?", "thinking": "Bo, place of birth, Rome.", "answer": "Rome"},
]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


class TestRows:
    def test_a_question_is_asked_as_in_an_evaluation(self, tmp_path: Path) -> None:
        read = read_examples(jsonl(tmp_path / "born.jsonl", ROWS))
        assert [one.messages for one in read.examples] == [
            (Message(role="user", content=f"{row['question']} {BOXED}"),) for row in ROWS
        ]
        assert [(one.thinking, one.answer) for one in read.examples] == [(r["thinking"], r["answer"]) for r in ROWS]
        assert read.held_out is None
        assert read.files == {"born.jsonl": hashlib.sha256((tmp_path / "born.jsonl").read_bytes()).hexdigest()}

    def test_parquet_gives_what_json_lines_give(self, tmp_path: Path) -> None:
        one, other = jsonl(tmp_path / "a.jsonl", ROWS), parquet(tmp_path / "b.parquet", ROWS)
        assert read_examples(one).examples == read_examples(other).examples

    def test_messages_win_over_the_question_and_names_are_kept(self, tmp_path: Path) -> None:
        asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
        row = {**ROWS[0], "messages": asked, "question_id": "q1", "trace_id": "t1", "teacher": "qwq", "gold": [1]}
        read = read_examples(parquet(tmp_path / "a.parquet", [row]))
        [example] = read.examples
        assert [message.model_dump() for message in example.messages] == asked
        assert (example.question_id, example.trace_id, read.teachers) == ("q1", "t1", ("qwq",))

    def test_rows_about_one_question_share_its_name_and_a_changed_row_changes_the_set(self, tmp_path: Path) -> None:
        other = {**ROWS[0], "thinking": "Another thought."}
        first, second, third = read_examples(jsonl(tmp_path / "a.jsonl", [*ROWS, other])).examples
        assert first.question_id == third.question_id != second.question_id
        assert len({first.trace_id, second.trace_id, third.trace_id}) == 3
        moved = read_examples(jsonl(tmp_path / "b.jsonl", [other, *ROWS[::-1]])).examples
        assert training_set_hash(moved) == training_set_hash([first, second, third])
        assert training_set_hash(moved[1:]) != training_set_hash(moved)

    def test_blank_lines_are_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps(ROWS[0]) + "\n\n  \n" + json.dumps(ROWS[1]), encoding="utf-8")
        assert len(read_examples(path).examples) == 2


class TestFolders:
    def test_two_splits(self, tmp_path: Path) -> None:
        parquet(tmp_path / "train.parquet", ROWS[:1])
        parquet(tmp_path / "held_out.parquet", ROWS[1:])
        (tmp_path / "README.md").write_text("a card")
        read = read_examples(tmp_path)
        assert ([one.answer for one in read.examples], [one.answer for one in read.held_out or ()]) == (
            ["Paris"],
            ["Rome"],
        )
        assert sorted(read.files) == ["held_out.parquet", "train.parquet"]

    def test_shards_of_a_published_set_in_their_order(self, tmp_path: Path) -> None:
        folder = tmp_path / "data" / "fs1"
        for place, row in enumerate(ROWS):
            parquet(folder / f"train-0000{place}-of-00002.parquet", [row])
        for path in (tmp_path, tmp_path / "data", folder):
            read = read_examples(path)
            assert ([one.answer for one in read.examples], read.held_out) == (["Paris", "Rome"], None)

    def test_one_of_several_sets_has_to_be_named(self, tmp_path: Path) -> None:
        for name in ("rt", "fs1"):
            parquet(tmp_path / "data" / name / "train-00000-of-00001.parquet", ROWS)
        with pytest.raises(InputError, match=r"2 training sets are in it; name one: .*data/fs1, .*data/rt"):
            read_examples(tmp_path)
        assert len(read_examples(tmp_path / "data" / "rt").examples) == 2

    def test_half_a_set_is_refused(self, tmp_path: Path) -> None:
        parquet(tmp_path / "train-00000-of-00002.parquet", ROWS)
        with pytest.raises(InputError, match=r"the split train has 1 files .* another number"):
            read_examples(tmp_path)
        parquet(tmp_path / "train-00001-of-00002.parquet", ROWS)
        assert len(read_examples(tmp_path).examples) == 4
        parquet(tmp_path / "train.parquet", ROWS)
        with pytest.raises(InputError, match="of one export alone"):
            read_examples(tmp_path)

    def test_folders_without_examples(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no train\.parquet or train\.jsonl in it"):
            read_examples(tmp_path)
        parquet(tmp_path / "held_out.parquet", ROWS)
        with pytest.raises(InputError, match="it has a held_out split and no train split"):
            read_examples(tmp_path)


class TestMalformed:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ([1], "line 2: this is list, not an object"),
            ({"question": "Who?", "answer": "x"}, "line 2: thinking is missing; give a text"),
            ({"question": "Who?", "thinking": "t", "answer": None}, "line 2: answer is missing"),
            (
                {"question": "Who?", "thinking": "t", "answer": 42},
                "line 2: answer is 42, which is no text; write it in quotes",
            ),
            ({"thinking": "t", "answer": "a"}, r"line 2: question is missing; give question \(a text\) or messages"),
            ({"question": " ", "thinking": "t", "answer": "a"}, "line 2: question is missing"),
            ({"messages": "Who?", "thinking": "t", "answer": "a"}, "line 2: messages: Input should be a valid tuple"),
            (
                {"messages": [{"role": "bot", "content": "x"}], "thinking": "t", "answer": "a"},
                r"line 2: messages\.0\.role: Input should be .* \(got 'bot'\)",
            ),
            (
                {"messages": [{"role": "user"}], "thinking": "t", "answer": "a"},
                r"line 2: messages\.0\.content: Field required",
            ),
            ({"messages": [], "thinking": "t", "answer": "a"}, "line 2: messages have to end with the user's turn"),
            (
                {"messages": [{"role": "assistant", "content": "x"}], "thinking": "t", "answer": "a"},
                "line 2: messages have to end with the user's turn",
            ),
        ],
    )
    def test_a_row(self, tmp_path: Path, row: Any, message: str) -> None:
        with pytest.raises(InputError, match=rf"a\.jsonl {message}"):
            read_examples(jsonl(tmp_path / "a.jsonl", [ROWS[0], row]))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", r"line 1: this is no JSON \(.*\); each line is one object"),
            (b'{"question": "\xff"}', "line 1: this is no JSON"),
            (b"", "there is no example in it"),
        ],
    )
    def test_a_file(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_examples(path)

    def test_parquet(self, tmp_path: Path) -> None:
        rows = [*ROWS, {**ROWS[0], "answer": None}]
        with pytest.raises(InputError, match=r"a\.parquet row 3: answer is missing"):
            read_examples(parquet(tmp_path / "a.parquet", rows))
        with pytest.raises(InputError, match=r"b\.parquet: the column answer is missing; it has question, thinking"):
            read_examples(parquet(tmp_path / "b.parquet", [{"question": "Who?", "thinking": "t"}]))
        (tmp_path / "c.parquet").write_bytes(b"no parquet")
        with pytest.raises(InputError, match=r"c\.parquet: it cannot be read as Parquet"):
            read_examples(tmp_path / "c.parquet")

    def test_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("question,answer\n")
        with pytest.raises(InputError, match=r"read from \.parquet and \.jsonl files; convert it"):
            read_examples(tmp_path / "a.csv")
        with pytest.raises(InputError, match="no such file or folder"):
            read_examples(tmp_path / "none.jsonl")
