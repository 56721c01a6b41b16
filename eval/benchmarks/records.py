"""Read benchmark files, plain or gzipped, into records that remember where they stand, and make questions of them.

A file is JSONL, a JSON array, a JSON object around an array, Parquet, or CSV. What is wrong with it is an InputError that
names the file, the place and the field; the place is the line (JSONL, CSV) or the record's number (JSON), from 1, or the
row (Parquet), from 0. The digest of a provenance is that of the content, so that a gzipped copy has the same.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from store.types import InputError, Question, Split

SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "ptrain": "train",
    "dev": "dev",
    "pdev": "dev",
    "development": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}
NO_ANSWER = "no gold answer"
NO_NAME = "its answers are ids without a name"
PARQUET = b"PAR1"  # how a Parquet file begins
_LARGEST_CELL = 2**31 - 1  # bytes; the list of answers of one question is longer than csv's own limit


class Source(NamedTuple):
    """What a loader is asked for. ``split`` is believed where neither the records nor the file's name say theirs."""

    dataset: str
    split: Split
    path: Path | None = None
    names: Mapping[str, str] | None = None

    @property
    def file(self) -> Path:
        """The path, for a dataset that cannot do without; InputError where none was given."""
        if self.path is None:
            raise InputError(f"dataset {self.dataset!r}: needs the path of its file; give path")
        return self.path


class LeftOut(NamedTuple):
    """A record that cannot be asked, and why."""

    split: Split
    where: str
    reason: str


class Unnamed(NamedTuple):
    """A gold answer of which the file gives only an id. Its question stays, if another answer has a name."""

    split: Split
    where: str
    entity: str


Item = Question | LeftOut | Unnamed


class Record(NamedTuple):
    """One JSON object or row of a file. ``where`` is for messages, ``provenance`` (file digest, line) for the question."""

    data: dict[str, Any]
    where: str
    provenance: str

    @property
    def fields(self) -> Fields:
        """Checked access to the values."""
        return Fields(self.data, self.where)


class Fields(NamedTuple):
    """The values of one JSON object of a record; ``at`` is the object's place in it. Texts come without white space around.

    Every method raises InputError with file, line and field for a value that is not of the kind it gives.
    """

    data: dict[str, Any]
    where: str
    at: str = ""

    def bad(self, name: str, expected: str) -> InputError:
        """The error for a field: what it should be and what it is."""
        value = self.data.get(name)
        found = f"is {str(value)[:60]!r}" if name in self.data else "missing"
        return InputError(f"{self.where}, field {self.at + name!r}: {expected} is expected ({found})")

    def text(self, name: str) -> str:
        """A string that is not empty."""
        value = self.data.get(name)
        if not isinstance(value, str) or not (stripped := value.strip()):
            raise self.bad(name, "a text")
        return stripped

    def optional_text(self, name: str) -> str:
        """A string, "" where it is null or missing."""
        value = self.data.get(name)
        if value is not None and not isinstance(value, str):
            raise self.bad(name, "a text or null")
        return (value or "").strip()

    def identifier(self, name: str) -> str:
        """A string or whole number, as a string."""
        value = self.data.get(name)
        if isinstance(value, str) and (stripped := value.strip()):
            return stripped
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self.bad(name, "a text or whole number")

    def texts(self, name: str) -> list[str]:
        """A list of strings, empty ones left away; [] where it is null or missing."""
        value = self.data.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.bad(name, "a list of strings")
        return [item.strip() for item in value if item.strip()]

    def object(self, name: str) -> Fields:
        """A JSON object."""
        value = self.data.get(name)
        if not isinstance(value, dict):
            raise self.bad(name, "an object")
        return Fields(value, self.where, f"{self.at}{name}.")

    def objects(self, name: str, *, optional: bool = False) -> list[Fields]:
        """A list of JSON objects; ``optional``: [] where it is null or missing."""
        value = self.data.get(name)
        if value is None and optional:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.bad(name, "a list of objects")
        return [Fields(item, self.where, f"{self.at}{name}.{index}.") for index, item in enumerate(value)]


def content(path: Path) -> tuple[bytes, str]:
    """The bytes of a file, unpacked if they are gzip, and their sha256."""
    try:
        raw = path.read_bytes()
        unpacked = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    return unpacked, hashlib.sha256(unpacked).hexdigest()


def is_records(data: bytes) -> bool:
    """Whether a file's content is for :func:`read_records` (JSON, JSONL, Parquet), and not a CSV table."""
    return data.startswith(PARQUET) or data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")


def read_jsonl(path: Path) -> Iterator[Record]:
    """The objects of a JSONL file with their line numbers from 1; empty lines are passed over."""
    data, checksum = content(path)
    yield from _lines(path, data, checksum)


def _lines(path: Path, data: bytes, checksum: str) -> Iterator[Record]:
    # Split the bytes: str.splitlines would also split at separators that JSON allows inside a string (U+2028).
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _record(_parsed(line, where, "one object a line"), where, f"sha256:{checksum} line {number}")


def read_records(path: Path, key: str | None = None) -> Iterator[Record]:
    """The objects of a JSON array (numbered from 1), of the array under ``key`` of a JSON object, or of JSONL lines, or the
    rows of a Parquet file (numbered from 0)."""
    data, checksum = content(path)
    if data.startswith(PARQUET):
        yield from _parquet(path, data, checksum)
        return
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] != b"[" and (key is None or _is_record(start.split(b"\n", 1)[0], key)):
        yield from _lines(path, data, checksum)
        return
    items = _parsed(data, str(path), f"a list, or an object with {key!r}," if key else "a list")
    if isinstance(items, dict) and key in items:
        items = items[key]
    if not isinstance(items, list):
        raise InputError(f"{path}, field {key!r}: a list of objects is expected (is {str(items)[:60]!r})")
    for number, item in enumerate(items, start=1):
        yield _record(item, f"{path}, record {number}", f"sha256:{checksum} record {number}")


def _parquet(path: Path, data: bytes, checksum: str) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a whole Parquet file ({error}); fetch it again") from error
    for number, row in enumerate(rows):
        yield Record(row, f"{path}, row {number}", f"sha256:{checksum} row {number}")


def _is_record(line: bytes, key: str) -> bool:
    """Whether the first line is a record by itself, so that the file is JSONL."""
    try:
        data = json.loads(line)
        return not isinstance(data, dict) or key not in data
    except (ValueError, RecursionError):
        return False


def _parsed(data: bytes, where: str, expected: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error}); {expected} is expected") from error


def _record(data: Any, where: str, provenance: str) -> Record:
    if not isinstance(data, dict):
        raise InputError(f"{where}: a JSON {type(data).__name__}; an object is expected")
    return Record(data, where, provenance)


def read_table(path: Path) -> Iterator[Record]:
    """The rows of a CSV file with a header, every value a string, with the number of the line they start on."""
    data, checksum = content(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    # strict: a quote that is never closed would take the rest of the file for one cell.
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    for line, row in _numbered(rows, path):
        if header is None:
            header = row
        elif len(row) != len(header):
            raise InputError(
                f"{path}, line {line}: {len(row)} cells where the header has {len(header)}; put cells with commas in quotes"
            )
        else:
            yield Record(dict(zip(header, row, strict=True)), f"{path}, line {line}", f"sha256:{checksum} line {line}")


def _numbered(rows: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a csv reader that are not empty, with the line each starts on."""
    while True:
        line, limit = rows.line_num + 1, csv.field_size_limit(_LARGEST_CELL)
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise InputError(f"{path}, line {line}: not valid CSV ({error}); check its quotes") from error
        finally:
            csv.field_size_limit(limit)  # the limit is one of the whole process
        if row is None:
            return
        if row:
            yield line, row


def split_of(source: Source, record: Record, said: Sequence[Split] = ()) -> Split:
    """The split of a record: the one in the file's name, else what the record says, else the one asked for.

    ``said``: the splits that the record allows, the likeliest first. Raises InputError where it contradicts the name.
    """
    named = _named_split(source.file)
    if named and said and named not in said:
        raise InputError(
            f"{record.where}: says split {said[0]!r}, the file's name says {named!r}; rename the file if the record is right"
        )
    if named:
        return named
    return source.split if not said or source.split in said else said[0]


def _named_split(path: Path) -> Split | None:
    words = re.findall(r"[a-z]+", path.name.lower())
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def build(record: Record, fields: dict[str, Any], names: dict[str, str] | None = None) -> Question:
    """A question of ``fields``. A bad value is an InputError that names file, line and field, ``names`` giving a
    field's name in the file where it differs from ours.
    """
    try:
        return Question.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        location = [str(part) for part in problem["loc"]]
        if location and names:
            location[0] = names.get(location[0], location[0])
        field = ".".join(location) or "record"
        # What is missing or of the wrong shape is often large: show the value only where it is short.
        value = "" if problem["type"] == "missing" else f" (is {str(problem['input'])[:60]!r})"
        raise InputError(f"{record.where}, field {field!r}: {problem['msg']}{value}") from error


def settle(
    record: Record, fields: dict[str, Any], unnamed: Sequence[str] = (), names: dict[str, str] | None = None
) -> Iterator[Item]:
    """What a record comes to: its answers without a name, and a question, or why it is left out."""
    split: Split = fields["split"]
    for entity in unnamed:
        yield Unnamed(split, record.where, entity)
    if fields["answers"]:
        yield build(record, {**fields, "provenance": record.provenance}, names)
    else:
        yield LeftOut(split, record.where, NO_NAME if unnamed else NO_ANSWER)
