"""Hold a benchmark's file against what is known of it: its digest, its counts, and what its questions carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from eval.benchmarks import LOADERS, Contents, read
from eval.benchmarks.fetching import origin
from eval.benchmarks.freebase import names_table
from eval.benchmarks.records import NO_NAME, content
from eval.benchmarks.registry import BenchmarkRegistry, SplitFile
from store.types import InputError, Question, Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_SAY_THEIR_SPLIT = ("jsonl", "starter")


class Finding(NamedTuple):
    """One line of a check. It fails where the file is not what it should be, or gives no question."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    found: str


class SetFile(NamedTuple):
    """One split of a dataset in a file (None: the starter set's own), with what the registry says of it."""

    dataset: str
    split: Split
    file: Path | None
    part: SplitFile | None = None

    @property
    def name(self) -> str:
        """The dataset and the split."""
        return f"{self.dataset} {self.split}"


def examine(chosen: SetFile) -> list[Finding]:
    """Everything that can be said of a file without another one. A malformed file is a finding that fails."""
    findings = []
    if chosen.file is not None:
        findings.append(Finding("file", "ok", str(chosen.file)))
        try:
            findings.append(_digest(chosen.file, chosen.part))
        except InputError as error:
            return [*findings, Finding("sha256", "fail", str(error))]
    try:
        contents = read(chosen.dataset, chosen.split, path=chosen.file)
    except InputError as error:
        return [*findings, Finding("records", "fail", str(error))]
    return [*findings, *_counts(chosen, contents), *_carried(contents.questions)]


def identify(file: Path, registry: BenchmarkRegistry, dataset: str | None, split: Split | None) -> list[SetFile]:
    """Which dataset and splits a file is of: those given, else by its digest or name in the registry, else by its records.

    Raises InputError for a file that is not known by either, where ``dataset`` or ``split`` is needed.
    """
    if dataset is not None and dataset not in LOADERS:
        raise InputError(f"dataset {dataset!r}: unknown; known ones: {', '.join(sorted(LOADERS))}")
    sha256 = content(file)[1]
    plain = file.name.removesuffix(".gz")
    fitting = [
        SetFile(entry.name, part.split, file, part)
        for entry in registry.benchmarks
        for part in entry.splits
        if dataset in (None, entry.name) and (sha256 in part.known or plain == part.file)
    ]
    if meant := [one for one in fitting if split in (None, one.split)]:
        return meant[:1]
    if fitting:
        raise InputError(f"{file}: it is the file of {fitting[0].name}, and not of {split}; ask for that split")
    if dataset is None and plain.endswith(".jsonl"):
        dataset = "jsonl"
    if dataset is None:
        raise InputError(
            f"{file}: no benchmark has a file of this name or sha256; say whose form it has with --as NAME"
        )
    if split is not None:
        entry_found = registry.find(dataset)
        part_found = next((one for one in entry_found.splits if one.split == split), None) if entry_found else None
        return [SetFile(dataset, split, file, part_found)]
    if dataset not in _SAY_THEIR_SPLIT:
        raise InputError(f"{file}: say its split with --split train, dev or test")
    there = [one for one in SPLITS if read(dataset, one, path=file).questions]
    return [SetFile(dataset, one, file) for one in there or SPLITS[-1:]]


def _digest(file: Path, part: SplitFile | None) -> Finding:
    sha256 = content(file)[1]
    if part is not None and sha256 in part.known:
        return Finding("sha256", "ok", f"{sha256} ({part.known[sha256]})")
    if part is not None and part.known:
        return Finding("sha256", "fail", f"{sha256}; {' or '.join(part.known)} is expected")
    landed = origin(file).get("sha256")
    if landed is not None and landed != sha256:
        return Finding("sha256", "fail", f"{sha256}; it was {landed} when it was fetched")
    since = ", as when it was fetched" if landed else ""
    return Finding("sha256", "ok" if landed or part is None else "warn", f"{sha256} (the registry gives none{since})")


def _counts(chosen: SetFile, contents: Contents) -> Iterable[Finding]:
    questions, left_out = len(contents.questions), Counter(item.reason for item in contents.left_out)
    records = questions + left_out.total()
    published = chosen.part.published if chosen.part else None
    if published is None:
        yield Finding("records", "ok" if records else "fail", f"{records:,}")
    elif published == records:
        yield Finding("records", "ok", f"{records:,}, as published")
    else:
        yield Finding("records", "fail", f"{records:,} of {published:,} published")
    # A whole file without answers is what it is; one that is not whole may be another file.
    empty: Literal["warn", "fail"] = "warn" if published == records else "fail"
    yield Finding("questions", "ok" if questions else empty, f"{questions:,}")
    for reason, number in sorted(left_out.items()):
        # Without a table of names a study refuses the file.
        refused = reason == NO_NAME and chosen.file is not None and names_table(chosen.file) is None
        yield Finding("left out", "fail" if refused else "ok", f"{number:,} ({reason})")
    if ids := len({item.entity for item in contents.unnamed}):
        mend = "name them in names.tsv beside the file (a line an id: id, tab, name)"
        yield Finding("answers without a name", "warn", f"{ids:,} distinct ids; {mend}")


def _carried(questions: tuple[Question, ...]) -> Iterable[Finding]:
    if not questions:
        return
    aliases = sum(len(answer.forms) > 1 for question in questions for answer in question.answers)
    answers = sum(len(question.answers) for question in questions)
    yield Finding("answers", "ok", f"{answers:,}, {aliases:,} of them with aliases")
    yield Finding("answer types", "ok", _tally(question.answer_type for question in questions))
    yield Finding(
        "hops", "ok", _tally("unknown" if question.hops is None else str(question.hops) for question in questions)
    )
    kinds = _tally(f"{link.role} {link.source}" for question in questions for link in question.links)
    yield Finding("links", "ok", kinds or "none: entities are looked for by name")


def _tally(values: Iterable[str]) -> str:
    return "; ".join(f"{value}: {number:,}" for value, number in sorted(Counter(values).items()))
