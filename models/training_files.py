"""Training examples from files: Parquet or JSON lines with one example a row, or a folder of them in two splits.

    folder/train.parquet, held_out.parquet              as `distill` writes them beside the store
    folder/data/NAME/train-00000-of-00001.parquet, ...  as `factscale publish dataset` writes them
    anything.jsonl, anything.parquet                    one file, whose held-out share is drawn when it is trained on

Columns (others are passed over):

    messages      what the student is asked: a list of turns with `role` and `content`, the last one the user's
    question      in place of messages: a text, which is asked as an evaluation asks it
    thinking      the thought that is learned
    answer        the answer that is learned, as it is to stand in the box
    question_id   which rows are about the same question; empty: rows with the same messages
    trace_id      what a message calls the row; empty: made from its content
    teacher       who thought it; for the card alone

Importing this imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from models.fetching import sha256_of
from models.prompts import question_prompt
from models.training_text import Example
from store.types import Answer, InputError, Message, Prompt, Question, Setting, digest

SUFFIXES = (".parquet", ".jsonl")
TRAIN, HELD_OUT = "train", "held_out"

_SPLIT = re.compile(rf"({TRAIN}|{HELD_OUT})(?:-(\d+)-of-(\d+))?\.(?:parquet|jsonl)")
_TEXTS = ("question", "thinking", "answer", "question_id", "trace_id", "teacher")
_LEARNED = ("thinking", "answer")
_MESSAGES = TypeAdapter(tuple[Message, ...])


class FileExamples(NamedTuple):
    """Examples as they stand in the files. ``held_out`` is None where the files have no such split.

    ``files`` maps names to the sha256 of what was read; ``teachers`` are those that the rows name.
    """

    examples: list[Example]
    held_out: list[Example] | None
    files: dict[str, str]
    teachers: tuple[str, ...]


def read_examples(path: Path) -> FileExamples:
    """The examples in a file or folder.

    Raises:
        InputError: there is none, a folder holds several training sets, or a row is malformed; names file, row and field.
    """
    splits = _splits(path) if path.is_dir() else {TRAIN: [_checked(path)]}
    found: dict[str, list[Example]] = {TRAIN: [], HELD_OUT: []}
    files: dict[str, str] = {}
    teachers: set[str] = set()
    for split, parts in splits.items():
        for file in parts:
            files[file.name] = sha256_of(file)
            for where, row in _rows(file):
                found[split].append(_example(row, where))
                teachers.update(filter(None, [row.get("teacher")]))
    if not found[TRAIN]:
        raise InputError(f"{path}: there is no example in it")
    held_out = found[HELD_OUT] if HELD_OUT in splits else None
    return FileExamples(found[TRAIN], held_out, files, tuple(sorted(teachers)))


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: examples are read from {' and '.join(SUFFIXES)} files; convert it to one of them")
    return path


def _splits(folder: Path) -> dict[str, list[Path]]:
    """The files of each split, in order, of the one training set in the folder."""
    sets = [one for one in (folder, *sorted((folder / "data").glob("*/")), *sorted(folder.glob("*/"))) if _parts(one)]
    if not sets:
        raise InputError(
            f"{folder}: no {TRAIN}.parquet or {TRAIN}.jsonl in it, nor in a folder of it; name the file itself"
        )
    if len(sets) > 1:
        raise InputError(f"{folder}: {len(sets)} training sets are in it; name one: {', '.join(map(str, sets))}")
    parts = _parts(sets[0])
    for split, files in parts.items():
        _check_whole(sets[0], split, files)
    if TRAIN not in parts:
        raise InputError(f"{sets[0]}: it has a {HELD_OUT} split and no {TRAIN} split")
    return {split: sorted(files) for split, files in sorted(parts.items(), reverse=True)}


def _parts(folder: Path) -> dict[str, list[Path]]:
    parts: dict[str, list[Path]] = {}
    for file in folder.iterdir():
        if (named := _SPLIT.fullmatch(file.name)) and file.is_file():
            parts.setdefault(named[1], []).append(file)
    return parts


def _check_whole(folder: Path, split: str, files: list[Path]) -> None:
    """A half copied folder would train on half of it without a word."""
    wanted = {int(named[3] or 1) for file in files if (named := _SPLIT.fullmatch(file.name))}
    if wanted != {len(files)}:
        raise InputError(
            f"{folder}: the split {split} has {len(files)} files ({', '.join(sorted(file.name for file in files))}), and their "
            "names speak of another number; copy all of them, and of one export alone"
        )


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with the words that name its place."""
    yield from (_parquet_rows(file) if file.suffix == ".parquet" else _json_rows(file))


def _json_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file} line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{where}: this is no JSON ({error}); each line is one object") from None
            if not isinstance(row, dict):
                raise InputError(f"{where}: this is {type(row).__name__}, not an object with the fields of an example")
            yield where, row


def _parquet_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            present = set(opened.schema_arrow.names)
            if missing := [name for name in _LEARNED if name not in present]:
                raise InputError(f"{file}: the column {missing[0]} is missing; it has {', '.join(sorted(present))}")
            wanted = [name for name in ("messages", *_TEXTS) if name in present]
            start = 1
            for batch in opened.iter_batches(batch_size=1024, columns=wanted):
                for number, row in enumerate(batch.to_pylist(), start=start):
                    yield f"{file} row {number}", row
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: it cannot be read as Parquet: {error}") from None


def _example(row: dict[str, Any], where: str) -> Example:
    for name in _TEXTS:
        value = row.get(name)
        if value is None and name in _LEARNED:
            raise InputError(f"{where}: {name} is missing; give a text")
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where}: {name} is {_short(value)}, which is no text; write it in quotes")
    messages = _messages(row, where)
    said = [message.model_dump() for message in messages]
    return Example(
        question_id=row.get("question_id") or digest(said),
        trace_id=row.get("trace_id") or digest([said, row["thinking"], row["answer"]]),
        messages=messages,
        thinking=row["thinking"],
        answer=row["answer"],
    )


def _messages(row: dict[str, Any], where: str) -> tuple[Message, ...]:
    given, question = row.get("messages"), row.get("question")
    if given is not None:
        try:
            messages = _MESSAGES.validate_python(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in ("messages", *first["loc"]))
            raise InputError(f"{where}: {field}: {first['msg']} (got {_short(first['input'])})") from None
        if not messages or messages[-1].role != "user":
            raise InputError(f"{where}: messages have to end with the user's turn, which the student answers")
        return messages
    if question is None or not question.strip():
        raise InputError(
            f"{where}: question is missing; give question (a text) or messages (a list of role and content)"
        )
    return asked(question).messages


def asked(question: str) -> Prompt:
    """The prompt of a question that is no benchmark's, worded as an evaluation words it (setting `instruct`)."""
    made = Question(id="question", dataset="file", split="train", text=question, answers=(Answer(text="unknown"),))
    return question_prompt(made, Setting.INSTRUCT)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
