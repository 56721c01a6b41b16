"""Benchmark questions on the command line: ``factscale data --help``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.printing import Shape, console, print_rows
from store.types import InputError, Question, RunError, Split

if TYPE_CHECKING:
    from eval.benchmarks.checking import Finding, SetFile
    from eval.benchmarks.fetching import Landed
    from eval.benchmarks.registry import Benchmark, BenchmarkRegistry, SplitFile

data_app = typer.Typer(no_args_is_help=True, help="Fetch, check and look at benchmark questions.")

Row = dict[str, Any]
RegistryOption = Annotated[
    Path | None,
    typer.Option("--registry", metavar="FILE", help="A list of benchmarks; else deployments/benchmarks.yaml."),
]
ShapeOption = Annotated[Shape, typer.Option("--format", help="How to print the rows.")]
SplitOption = Annotated[Literal["train", "dev", "test"] | None, typer.Option(help="One split; else all of them.")]

_STARTER = "starter"
_SHOWN = 10
_LANDED = ("set", "split", "state", "records", "questions", "sha256", "file", "source", "note")


@data_app.command("ls")
def data_ls(registry: RegistryOption = None, shape: ShapeOption = Shape.TABLE) -> None:
    """List every set and split: the published number of records, and what of it is here."""
    from eval.benchmarks.registry import data_folder

    known = _registry(registry)
    rows = [_listed(chosen) for chosen in (*_shipped_sets(), *_sets(known))]
    print_rows(rows, shape, title=f"Benchmarks of {known.path}; files in {data_folder()}")
    if shape is Shape.TABLE and any(row["state"] == "missing" for row in rows):
        console.print("missing: `factscale data get NAME` fetches the files of a set, or says where they are.")
    if shape is Shape.TABLE and any(row["state"] == "needs names" for row in rows):
        console.print(
            "needs names: its answers are Freebase ids; put names.tsv beside the file (a line an id: id, tab, name)."
        )


@data_app.command("get")
def data_get(
    name: Annotated[str | None, typer.Argument(help="A set of `factscale data ls`.")] = None,
    split: SplitOption = None,
    file: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Take this file, fetched by hand, in place of fetching."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch every set that has an address.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Fetch what is here already once more.")] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="With --from: take a file with another sha256 or number of records.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched, from where; fetch nothing.")
    ] = False,
    registry: RegistryOption = None,
    shape: ShapeOption = Shape.TABLE,
) -> None:
    """Fetch the official files of a set, checked by sha256 where it is known and by the published number of records.

    They are kept in ~/.cache/factscale/data (or below FACTSCALE_CACHE), where studies find them without a path.
    """
    known = _registry(registry)
    if everything == (name is not None):
        raise InputError("name a set of `factscale data ls`, or --all")
    if name == _STARTER:
        raise InputError(
            f"dataset {_STARTER!r}: comes with factscale, there is nothing to fetch; `factscale data show {_STARTER}`"
        )
    if unchecked and file is None:
        raise InputError("--unchecked: for a file that you give with --from")
    if dry_run:
        if file is not None:
            raise InputError(
                "--dry-run: a file that is given with --from is not fetched; `factscale data check` looks into it"
            )
        entries = known.benchmarks if name is None else (known.entry(name),)
        parts = [(entry, part) for entry in entries for part in _parts(entry, split, given=name is not None)]
        print_rows([_foreseen(entry, part, again=again) for entry, part in parts], shape, title="Nothing was fetched")
        return
    if file is not None:
        rows = [_registered(known, name, file, split, unchecked=unchecked)]
    else:
        entries = known.benchmarks if name is None else (known.entry(name),)
        wanted = [(entry, part) for entry in entries for part in _parts(entry, split, given=name is not None)]
        rows = [_fetched(entry, part, again=again, alone=len(wanted) == 1) for entry, part in wanted]
    if shape is Shape.TABLE:
        print_rows([{name: row[name] for name in row if name not in ("source", "note")} for row in rows], shape)
        for row in rows:
            if row["note"]:
                name = "" if row["state"] == "failed" else f"{row['set']} {row['split']}: "
                console.print(f"{name}{row['note']}", highlight=False, soft_wrap=True, markup=False)
    else:
        print_rows(rows, shape)
    if any(row["state"] == "failed" for row in rows):
        raise typer.Exit(1)


@data_app.command("check")
def data_check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME|FILE]...", help="Sets or files; else everything that is here.")
    ] = None,
    split: SplitOption = None,
    form: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Whose form a file has, where its name does not say it.")
    ] = None,
    registry: RegistryOption = None,
    shape: ShapeOption = Shape.TABLE,
) -> None:
    """Hold files against the registry, and count what their questions carry.

    Exit code 1 if one is not the registry's, is not whole, or gives no question.
    """
    from eval.benchmarks.checking import examine

    known = _registry(registry)
    chosen = [one for name in names or (None,) for one in _chosen(known, name, split, form)]
    if not chosen:
        raise InputError("nothing is here yet: `factscale data get NAME` fetches a set, or name a file")
    findings = [(one, finding) for one in chosen for finding in examine(one)]
    rows = [{"set": one.name, **finding._asdict()} for one, finding in findings]
    if shape is Shape.TABLE:
        for one in chosen:
            own = [finding._asdict() for other, finding in findings if other is one]
            print_rows(own, shape, title=f"Check of {one.name}")
    else:
        print_rows(rows, shape)
    failed = [(one, finding) for one, finding in findings if finding.verdict == "fail"]
    if failed:
        _say_failed(failed, shape)
        raise typer.Exit(1)


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="A set of `factscale data ls`, or jsonl with --path.")],
    split: SplitOption = None,
    identifier: Annotated[str | None, typer.Option("--id", help="The question with this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many questions, from the first.")] = _SHOWN,
    path: Annotated[Path | None, typer.Option(help="A file; else the one that was fetched.")] = None,
    shape: ShapeOption = Shape.TABLE,
) -> None:
    """Show questions with their answers, aliases, entities, hops and where they were read."""
    from eval.benchmarks import load

    chosen = split or _only_split(name, path)
    questions = load(name, chosen, path=path)
    if identifier is None:
        _print_questions(
            questions[:limit], shape, f"{name} {chosen}: {min(limit, len(questions)):,} of {len(questions):,}"
        )
        return
    found = [question for question in questions if question.id == identifier]
    if not found:
        near = [question.id for question in questions if identifier.lower() in question.id.lower()][:3]
        hint = f"near ones: {', '.join(near)}" if near else f"the first is {questions[0].id!r}"
        raise InputError(f"--id {identifier!r}: not a question of {name} {chosen}; {hint}")
    _print_questions(found, shape, f"{name} {chosen}")


def _registry(path: Path | None) -> BenchmarkRegistry:
    from eval.benchmarks.registry import load_registry, shipped

    return shipped() if path is None else load_registry(path)


def _sets(known: BenchmarkRegistry) -> Iterator[SetFile]:
    """Every split of the registry, with its file where that is here."""
    from eval.benchmarks.checking import SetFile
    from eval.benchmarks.registry import data_folder, local_file

    for entry in known.benchmarks:
        for part in entry.splits:
            yield SetFile(entry.name, part.split, local_file(entry.name, part, data_folder()), part)


def _shipped_sets() -> Iterator[SetFile]:
    """The splits of the starter set."""
    from eval.benchmarks import read
    from eval.benchmarks.checking import SPLITS, SetFile

    return (SetFile(_STARTER, split, None) for split in SPLITS if read(_STARTER, split).questions)


def _listed(chosen: SetFile) -> Row:
    from eval.benchmarks import count
    from eval.benchmarks.freebase import names_table
    from eval.benchmarks.records import NO_NAME

    part = chosen.part
    row: Row = {"set": chosen.dataset, "split": chosen.split, "published": part.published if part else None}
    if part is not None and chosen.file is None:
        state = "missing" if part.sources else "by hand"
        return {**row, "records": None, "questions": None, "state": state, "file": part.file}
    try:
        found = count(chosen.dataset, chosen.split, path=chosen.file)
    except InputError:
        return {**row, "records": None, "questions": None, "state": "malformed", "file": str(chosen.file)}
    file = chosen.file.name if chosen.file else "comes with factscale"
    state = "here" if part is None or part.published in (None, found.records) else "not whole"
    if NO_NAME in found.left_out and chosen.file and names_table(chosen.file) is None:
        state = "needs names"
    return {**row, "records": found.records, "questions": found.questions, "state": state, "file": file}


def _parts(entry: Benchmark, split: Split | None, *, given: bool) -> tuple[SplitFile, ...]:
    """The splits that are fetched: the one asked for; of a set that was named all, of `--all` those with an address."""
    if split is not None:
        if not given:
            return tuple(part for part in entry.splits if part.split == split and part.sources)
        return (entry.of(split),)
    return entry.splits if given else tuple(part for part in entry.splits if part.sources)


def _fetched(entry: Benchmark, part: SplitFile, *, again: bool, alone: bool) -> Row:
    """One split of `data get`. What fails is told in its row where there are others to go on with."""
    from eval.benchmarks.fetching import fetch
    from eval.benchmarks.registry import data_folder

    try:
        with _waiting(f"{entry.name} {part.split}: fetching"):
            landed = fetch(entry, part, data_folder(), again=again)
    except (InputError, RunError) as error:
        if alone:
            raise
        return {**dict.fromkeys(_LANDED), "set": entry.name, "split": part.split, "state": "failed", "note": str(error)}
    return _landed_row(entry, part, landed, "fetched" if landed.new else "here already")


def _foreseen(entry: Benchmark, part: SplitFile, *, again: bool) -> Row:
    """What `data get` would do for one split."""
    from eval.benchmarks.registry import data_folder, local_file

    here = local_file(entry.name, part, data_folder())
    state = "here already" if here and not again else "would be fetched" if part.sources else "by hand"
    source = part.sources[0].address if part.sources else entry.page
    return {"set": entry.name, "split": part.split, "state": state, "file": str(here or part.file), "source": source}


def _registered(known: BenchmarkRegistry, name: str | None, file: Path, split: Split | None, *, unchecked: bool) -> Row:
    """`data get --from`: the split is the one asked for, else that of the file's sha256 or name."""
    from eval.benchmarks.checking import identify
    from eval.benchmarks.fetching import register
    from eval.benchmarks.registry import data_folder

    if name is None:
        raise InputError("--from: name the set that the file is of")
    entry = known.entry(name)
    if split is None:
        split = entry.splits[0].split if len(entry.splits) == 1 else identify(file, known, name, None)[0].split
    part = entry.of(split)
    return _landed_row(entry, part, register(entry, part, file, data_folder(), unchecked=unchecked), "taken")


def _landed_row(entry: Benchmark, part: SplitFile, landed: Landed, state: str) -> Row:
    known = part.known.get(landed.sha256, "another than in the registry" if part.known else "none known")
    values = (entry.name, part.split, state, landed.found.records, landed.found.questions, known, str(landed.path))
    return dict(zip(_LANDED, (*values, landed.source, part.note), strict=True))


def _waiting(message: str) -> AbstractContextManager[object]:
    return console.status(message) if console.is_terminal else nullcontext()


def _chosen(known: BenchmarkRegistry, name: str | None, split: Split | None, form: str | None) -> Iterator[SetFile]:
    """What one argument of `data check` stands for; None for everything that is here."""
    from eval.benchmarks.checking import identify

    if name is None:
        yield from (one for one in _sets(known) if one.file is not None and split in (None, one.split))
    elif name == _STARTER:
        yield from (one for one in _shipped_sets() if split in (None, one.split))
    elif (entry := known.find(name)) is not None:
        if split is not None:
            entry.of(split)
        here = [one for one in _sets(known) if one.dataset == name and one.file and split in (None, one.split)]
        if not here:
            raise InputError(
                f"dataset {name!r}: nothing of it is here; run `factscale data get {name}`, or name a file"
            )
        yield from here
    elif Path(name).is_file():
        yield from identify(Path(name), known, form, split)
    elif Path(name).name != name or Path(name).suffix:
        raise InputError(f"{name}: no such file; check the path, or name a set of `factscale data ls`")
    else:
        known.entry(name)


def _say_failed(failed: list[tuple[SetFile, Finding]], shape: Shape) -> None:
    if shape is Shape.TABLE:
        for one, finding in failed:
            said = f"{one.name}: {finding.check}: {finding.found}"
            console.print(said, style="red", highlight=False, soft_wrap=True, markup=False)


def _only_split(name: str, path: Path | None) -> Split:
    """The split that is meant where none is said: of a file the one it has, of a set the one that is here, else test."""
    from eval.benchmarks.checking import identify

    known = _registry(None)
    if path is not None:
        splits = [one.split for one in identify(path, known, name, None)]
    elif name == _STARTER:
        splits = ["test"]
    else:
        splits = [one.split for one in _sets(known) if one.dataset == name and one.file is not None]
    return splits[0] if len(splits) == 1 else "test"


def _print_questions(questions: tuple[Question, ...] | list[Question], shape: Shape, title: str) -> None:
    if shape is Shape.JSON:
        print_rows([question.model_dump(mode="json") for question in questions], shape)
        return
    rows = [_question_row(question) for question in questions]
    if shape is Shape.CSV:
        print_rows(rows, shape)
        return
    for row in rows:
        fields = [{"field": field, "value": value} for field, value in row.items() if value not in (None, "")]
        print_rows(fields, shape, title=f"{title}, question {row['id']}")


def _question_row(question: Question) -> Row:
    links = {role: [link for link in question.links if link.role == role] for role in ("question", "answer")}
    return {
        "id": question.id,
        "question": question.text,
        "answers": "; ".join(f"{a.text} ({a.entity})" if a.entity else a.text for a in question.answers),
        "aliases": "; ".join(alias for answer in question.answers for alias in answer.forms[1:]),
        "answer type": question.answer_type,
        "question entities": " ".join(link.entity for link in links["question"]),
        "answer entities": " ".join(link.entity for link in links["answer"]),
        "links from": " ".join(sorted({link.source for link in question.links})),
        "hops": question.hops,
        "dataset": f"{question.dataset} {question.split}",
        "provenance": question.provenance,
    }
