"""Load benchmark questions: the starter set, six public benchmarks in their official files, and sets of your own.

``load("starter", "dev")``; ``load("cwq", "test")`` from the file that `factscale data get` has fetched, or ``path=...``;
``load("jsonl", "test", path=Path("mine.jsonl"))``. Such a file has one JSON object a line with the fields of
``store.types.Question``; ``dataset`` defaults to the file's name, and an answer may be a plain string:

    {"id": "q1", "split": "test", "text": "Who wrote Hamlet?", "answers": ["Shakespeare"], "answer_type": "entity"}

Hub datasets and files with other columns: see ``custom``. An official file is of one split: the one in its name
(``mintaka_dev.json``), else what its records say, else the one asked for. Files may be gzipped. Records that cannot be
asked are left out and counted, never silently: `factscale data check`.

A further benchmark is a function ``Source -> Iterator[Question | LeftOut | Unnamed]`` (the whole file, in its order) in
``LOADERS``; splits, limits, repeated ids, empty sets and counts are dealt with here. Where its files come from is in
``registry``.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from eval.benchmarks.custom import Columns, Custom, read_custom
from eval.benchmarks.freebase import cwq, grailqa, names_table, webqsp
from eval.benchmarks.own import jsonl, starter
from eval.benchmarks.records import NO_NAME, Item, LeftOut, Record, Source, Unnamed, build, read_jsonl
from eval.benchmarks.registry import data_folder, fetched_file, published, shipped
from eval.benchmarks.tables import merged, simpleqa
from eval.benchmarks.wikidata import exaqt, mintaka
from store.types import InputError, Question, Split

__all__ = [
    "LOADERS",
    "Columns",
    "Contents",
    "Count",
    "Custom",
    "LeftOut",
    "Record",
    "Source",
    "Unnamed",
    "build",
    "count",
    "load",
    "read",
    "read_jsonl",
]

Loader = Callable[[Source], Iterator[Item]]

LOADERS: dict[str, Loader] = {
    "cwq": cwq,
    "exaqt": exaqt,
    "fs1": merged,
    "grailqa": grailqa,
    "jsonl": jsonl,
    "mintaka": mintaka,
    "simpleqa": simpleqa,
    "starter": starter,
    "webqsp": webqsp,
}


class Contents(NamedTuple):
    """What a file holds for one split, in file order: questions, records left out, answers without a name."""

    questions: tuple[Question, ...]
    left_out: tuple[LeftOut, ...]
    unnamed: tuple[Unnamed, ...]


class Count(NamedTuple):
    """How many records of a split became questions. ``unnamed``: the distinct ids of answers without a name."""

    dataset: str
    split: Split
    records: int
    questions: int
    left_out: dict[str, int]
    unnamed: tuple[str, ...]
    published: int | None

    def __str__(self) -> str:
        if self.published is None:
            official = ""
        elif self.published == self.records:
            official = ", as published"
        else:
            official = f" of {self.published:,} published"
        lines = [f"{self.dataset} {self.split}: {self.records:,} records{official}, {self.questions:,} questions"]
        lines += [f"  left out: {number:,} ({reason})" for reason, number in sorted(self.left_out.items())]
        if self.unnamed:
            lines.append(f"  answers that are ids without a name: {len(self.unnamed):,} distinct; {_NAMES}")
        return "\n".join(lines)


_NAMES = "name them in names.tsv beside the file (a line an id: id, tab, name)"


def load(
    name: str,
    split: Split,
    *,
    limit: int | None = None,
    path: Path | None = None,
    names: Mapping[str, str] | None = None,
    custom: Custom | None = None,
    folder: Path | None = None,
) -> tuple[Question, ...]:
    """Questions of one split of a benchmark, in file order; ``limit`` takes the first ones.

    ``path`` names the file; a public benchmark can do without, once its file was fetched into ``folder`` (else
    ``registry.data_folder()``). ``names`` are names of Freebase ids, for files that give answers as ids alone (else those
    of ``names.tsv`` beside the file). ``custom`` is for a set of your own, whose name is then free. The whole file is
    checked, whatever the split and limit. Raises InputError for an unknown name, a bad limit, a missing or malformed file
    (with line and field), a repeated id, a file of another split, questions without any named answer where no names are
    given, and a split with no question; RunError where the hub cannot be reached.
    """
    _check_name(name, custom)
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: must be 1 or more; leave it out to take every question")
    file = locate(name, split, path, custom, folder)
    items = _items(name, split, file, names, custom, folder)
    found = _of(items, split)
    nameless = sum(item.reason == NO_NAME for item in found.left_out)
    # With a table of names it is known that some are missing; without one, a handful would pass for the benchmark.
    if nameless and file and names is None and not names_table(file):
        raise InputError(f"{file}: the answers of {nameless:,} questions are ids without a name; {_NAMES}")
    if not found.questions:
        there = Counter(item.split for item in items if isinstance(item, Question))
        other = ", ".join(f"{key} ({number})" for key, number in sorted(there.items())) or "no question at all"
        reasons = Counter(item.reason for item in found.left_out)
        left = "".join(f"; {number:,} left out ({reason})" for reason, number in sorted(reasons.items()))
        raise InputError(f"dataset {name!r}: no question in split {split!r}; the file has {other}{left}")
    return found.questions[:limit]


def read(
    name: str,
    split: Split,
    *,
    path: Path | None = None,
    names: Mapping[str, str] | None = None,
    custom: Custom | None = None,
    folder: Path | None = None,
) -> Contents:
    """All that a file holds for one split, with what is left out of it. Raises as ``load``, but not for an empty split."""
    _check_name(name, custom)
    return _of(_items(name, split, locate(name, split, path, custom, folder), names, custom, folder), split)


def count(name: str, split: Split, *, path: Path | None = None, names: Mapping[str, str] | None = None) -> Count:
    """How many records and questions a file has for one split, to be held against the published number."""
    contents = read(name, split, path=path, names=names)
    left_out = Counter(item.reason for item in contents.left_out)
    return Count(
        name,
        split,
        len(contents.questions) + left_out.total(),
        len(contents.questions),
        dict(left_out),
        tuple(dict.fromkeys(item.entity for item in contents.unnamed)),
        published(name, split),
    )


def locate(
    name: str, split: Split, path: Path | None = None, custom: Custom | None = None, folder: Path | None = None
) -> Path | None:
    """The file or folder that a set is read from: ``path``, else what was fetched; None for the hub and the starter set.

    Raises InputError for a public benchmark whose file was not fetched, with the command that fetches it.
    """
    if path is not None or custom is not None or shipped().find(name) is None:
        return path
    return fetched_file(name, split, folder)


def _items(
    name: str,
    split: Split,
    path: Path | None,
    names: Mapping[str, str] | None,
    custom: Custom | None,
    folder: Path | None,
) -> list[Item]:
    source = Source(name, split, path, names)
    kept = (folder or data_folder()) / "hub"
    items = list(LOADERS[name](source) if custom is None else read_custom(source, custom, kept))
    questions = [item for item in items if isinstance(item, Question)]
    _check_ids(questions, name)
    if custom is None and questions:
        _check_split(name, questions[0], path)
    return items


def _check_split(name: str, question: Question, path: Path | None) -> None:
    """A file that does not say its split, under a name that does not either, may be known by its content."""
    entry = shipped().find(name)
    for part in entry.splits if entry else ():
        if part.split != question.split and any(digest in question.provenance for digest in part.known):
            raise InputError(
                f"{path}: it is the file of {name} {part.split}, and not of {question.split}; ask for that split"
            )


def _of(items: list[Item], split: Split) -> Contents:
    mine = [item for item in items if item.split == split]
    return Contents(
        tuple(item for item in mine if isinstance(item, Question)),
        tuple(item for item in mine if isinstance(item, LeftOut)),
        tuple(item for item in mine if isinstance(item, Unnamed)),
    )


def _check_name(name: str, custom: Custom | None) -> None:
    if custom is not None:
        if name in LOADERS:
            raise InputError(f"dataset {name!r}: it has a loader of its own; give your set another name")
        return
    if name not in LOADERS:
        close = difflib.get_close_matches(name.lower(), LOADERS, n=1)
        suggestion = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"dataset {name!r}: unknown; {suggestion}known ones: {', '.join(sorted(LOADERS))}; "
            "for a set of your own name its columns"
        )


def _check_ids(questions: list[Question], name: str) -> None:
    first: dict[str, Question] = {}
    for question in questions:
        earlier = first.setdefault(question.id, question)
        if earlier is not question:
            raise InputError(
                f"dataset {name!r}: id {question.id!r} is used twice ({earlier.provenance} and {question.provenance}); "
                "give every question its own id"
            )
