"""One student alone: ``factscale train TRAINSET --student ALIAS``; docs/train-alone.md.

A training set of the store becomes the student that a study with the same hyperparameters would train: the study finds it
done. Examples from files become a folder that is a student, with its manifest and card.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from flows.model_commands import RegistryOption, registry_at
from flows.printing import Shape, console, print_rows, size_of
from flows.server import prepare_environment
from store.home import Home
from store.types import InputError

if TYPE_CHECKING:
    from models.finetune import Hyperparameters, ProcessOptions, StudentManifest
    from models.registry import ModelEntry
    from models.training_text import Example
    from tasks.named import FoundSet

HELD_OUT = 0.1
"""Share of the questions that is held out of examples from files, as in a study."""


class Source(NamedTuple):
    """What is trained on: a set of the store (``found``), or examples that were read from ``files`` (name to sha256)."""

    name: str
    examples: list[Example]
    held_out: list[Example]
    found: FoundSet | None = None
    files: dict[str, str] | None = None
    teachers: tuple[str, ...] = ()


def train(
    trainset: Annotated[
        str,
        typer.Argument(
            metavar="TRAINSET",
            help="STUDY:NAME (demo:fs1), a training set's key or its beginning, or a folder or file with examples (.parquet, "
            ".jsonl).",
        ),
    ],
    student: Annotated[str, typer.Option("--student", metavar="ALIAS", help="The base: a model of the registry.")],
    method: Annotated[Literal["lora", "qlora", "full"] | None, typer.Option(help="Else lora.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Else that of the method: 2e-4, of full 1e-5.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Else 5.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Ends earlier than the epochs would, or later.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples that a device computes together; else 4.")] = None,
    gradient_accumulation: Annotated[int | None, typer.Option(help="Batches that make one step; else 4.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens; longer examples are dropped. Else 8192, or the model's context.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Else 0.")] = None,
    precision: Annotated[Literal["auto", "fp32", "bf16"] | None, typer.Option(help="Else auto.")] = None,
    packing: Annotated[bool, typer.Option("--packing", help="Join a batch's examples without padding.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, and slower.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, max=64, help="GPUs of this machine; more than one: FSDP2.")] = 1,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Where a student of files goes; else into the home.")
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=0.9, metavar="SHARE", help="Questions kept for the held-out loss, of files; else 0.1."
        ),
    ] = None,
    registry: RegistryOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and estimate; train nothing.")] = False,
) -> None:
    """Train one student. Start it again after any interruption: it goes on from its last checkpoint."""
    home = Home.current()
    prepare_environment(home)
    from models.finetune import ProcessOptions

    hyper = _hyperparameters(
        method=method, learning_rate=learning_rate, epochs=epochs, max_steps=max_steps,
        batch_size=batch_size, gradient_accumulation=gradient_accumulation, max_length=max_length, seed=seed,
        precision=precision,
    )  # fmt: skip
    entry = registry_at(registry).entry(student)
    if max_length is None and entry.context_length < hyper.max_length:
        hyper = hyper.model_copy(update={"max_length": entry.context_length})
    source = _source(trainset, home, hyper.seed, held_out)
    if source.found is not None and to is not None:
        raise InputError(
            "--to is for examples from files: a student of the store lies in its home; publish it to a folder"
        )
    options = ProcessOptions(packing=packing, gradient_checkpointing=gradient_checkpointing, gpus=gpus)
    if dry_run:
        _estimate(source, entry, hyper, options)
        return
    if source.found is not None:
        folder, manifest = _train_stored(source.found, entry, hyper, options, home)
    else:
        folder, manifest = _train_files(source, entry, hyper, options, home, to)
    _tell(folder, manifest)


def _hyperparameters(**given: Any) -> Hyperparameters:
    """Hyperparameters with what was given on the command line; the rest keeps its defaults."""
    from pydantic import ValidationError

    from models.finetune import Hyperparameters

    try:
        return Hyperparameters(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}: " if first["loc"] else ""
        raise InputError(f"{option}{first['msg'].removeprefix('Value error, ')} (got {first['input']!r})") from None


def _source(named: str, home: Home, seed: int, held_out: float | None) -> Source:
    """What TRAINSET means: a path, where there is one or it looks like one, else a training set of the store."""
    from models.training_files import SUFFIXES, read_examples
    from tasks.examples import examples_of
    from tasks.named import find_training_set

    path = Path(named).expanduser()
    if path.exists() or named.endswith((*SUFFIXES, "/")):
        return _of_files(
            path, read_examples(path), seed, HELD_OUT if held_out is None else held_out, held_out is not None
        )
    if held_out is not None:
        raise InputError("--held-out is for examples from files: in a training set of the store it is settled")
    store = home.existing().store
    study, _, name = named.rpartition(":")
    found = _of_study_file(study, name, home) if study.endswith((".yaml", ".yml")) else find_training_set(store, named)
    return Source(found.name, *examples_of(store, found.key), found=found)


def _of_files(path: Path, read: Any, seed: int, share: float, said: bool) -> Source:
    from tasks.selection import held_out_questions

    name = path.resolve().name if path.is_dir() else path.stem
    if read.held_out is not None:
        if said:
            raise InputError(f"--held-out: {path} has a held_out split of its own; leave the option out")
        return Source(name, read.examples, read.held_out, files=read.files, teachers=read.teachers)
    asked = [one.question_id for one in read.examples]
    kept = held_out_questions(asked, asked, share, seed)
    examples = [one for one in read.examples if one.question_id not in kept]
    held_out = [one for one in read.examples if one.question_id in kept]
    return Source(name, examples, held_out, files=read.files, teachers=read.teachers)


def _of_study_file(file: str, name: str, home: Home) -> FoundSet:
    """The training set that a study's file makes, also of a study that was not evaluated yet."""
    from flows.orders import Orders
    from flows.parameters import load_study
    from tasks.named import FoundSet

    study = load_study(Path(file))
    if name not in study.distill.training_sets:
        raise InputError(f"{file}:{name}: this study makes the training sets {', '.join(study.distill.training_sets)}")
    order = Orders(study, home).training_set(name)
    rows = home.store.query("SELECT versions ->> 'training_set' AS key FROM units WHERE unit_key = ?", [order.key])
    if not rows:
        raise InputError(f"{file}:{name} has not landed yet: run `factscale study run {file} --only distill` first")
    return FoundSet(rows[0]["key"], name)


def _estimate(source: Source, entry: ModelEntry, hyper: Hyperparameters, options: ProcessOptions) -> None:
    """Print what the training would take on this machine."""
    import torch

    from flows.orders import STUDENT_FORMAT
    from models.embedded import default_cache
    from models.engines.base import ModelRef
    from models.engines.loading import load_tokenizer
    from models.finetune import check_packages
    from models.formats import format_named
    from models.launching import check_devices
    from models.registry import fetch_tokenizer
    from models.training_estimate import Device, estimate
    from models.training_model import choose_precision

    check_packages(hyper.method, options)
    check_devices(hyper, options)
    base = fetch_tokenizer(entry, default_cache())
    tokenizer = load_tokenizer(
        ModelRef(
            entry.alias, base, chat_template=entry.chat_template, trust_remote_code=entry.trust_remote_code
        )
    )  # fmt: skip
    kind: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    device = Device(
        precision=choose_precision(hyper.precision, kind), kind=kind, devices=options.gpus, packing=options.packing,
        checkpointing=options.gradient_checkpointing,
    )  # fmt: skip
    found = estimate(
        source.examples, source.held_out, tokenizer, format_named(STUDENT_FORMAT), hyper, base, entry.parameters, device
    )
    rate = f"{hyper.method}, learning rate {hyper.rate:g}, {device.precision} on {device.kind}"
    memory = size_of(found.memory_bytes) if found.memory_bytes is not None else "not known for this kind of model"
    rows = [
        ("training set", source.name),
        ("examples", f"{found.examples:,} to learn, {found.held_out:,} held out"),
        ("dropped", str(found.dropped)),
        ("tokens an epoch", f"{found.tokens:,}, of which {found.learned:,} are learned"),
        (
            "length of an example",
            f"{found.shortest:,} to {found.longest:,} tokens, {found.mean_length:,.0f} in the mean",
        ),
        ("training", rate),
        ("steps", f"{found.steps:,} of {hyper.batch_size * hyper.gradient_accumulation:,} examples"),
        ("tokens to read", f"{found.tokens_read:,}"),
        ("memory a device", f"about {memory}" if found.memory_bytes is not None else memory),
    ]
    print_rows([{"what": what, "how much": text} for what, text in rows], Shape.TABLE, title=f"Training {entry.alias}")
    console.print("Dry run: nothing was trained.")


def _train_stored(
    found: FoundSet, entry: ModelEntry, hyper: Hyperparameters, options: ProcessOptions, home: Home
) -> tuple[Path, StudentManifest | None]:
    """Land the student of a training set of the store, as a study would."""
    from flows.orders import STUDENT_FORMAT, student_name
    from models.embedded import default_cache
    from models.finetune import load_manifest
    from models.registry import model_key
    from tasks.keys import StudentSpec
    from tasks.students import StudentOrder, land_student, student_missing

    base_key = model_key(entry, default_cache())
    order = StudentOrder(
        name=student_name(entry.alias, found.name, ""),
        spec=StudentSpec(base_key=base_key, training_set=found.key, hyperparameters=hyper, format=STUDENT_FORMAT),
        trained_on=found.name,
        variant="",
        entry=entry,
        options=options,
    )
    if student_missing(order, home):
        _showing(lambda: land_student(order, home))
    else:
        console.print("This student is there already.")
    folder = home.students / order.key
    return folder, load_manifest(folder)


def _train_files(
    source: Source, entry: ModelEntry, hyper: Hyperparameters, options: ProcessOptions, home: Home, to: Path | None
) -> tuple[Path, StudentManifest | None]:
    """Train a student of examples from files, which the store knows nothing of."""
    from eval.card_facts import TrainingFacts
    from flows.orders import STUDENT_FORMAT
    from models.embedded import default_cache
    from models.finetune import TrainSpec, load_manifest
    from models.finetune import train as train_student
    from models.registry import fetch, model_key
    from models.training_text import training_set_hash
    from tasks.progress import progress
    from tasks.student_exports import write_file_card
    from tasks.students import Course

    if to is not None and to.suffix == ".partial":
        raise InputError(f"--to: {to} is what a training that has not ended is called; choose another name")
    spec = TrainSpec(
        base=fetch(entry, default_cache()),
        base_key=model_key(entry, default_cache()),
        format=STUDENT_FORMAT,
        hyperparameters=hyper,
        chat_template=entry.chat_template,
        trust_remote_code=entry.trust_remote_code,
    )
    key = spec.key(training_set_hash(source.examples))
    folder = to.expanduser().absolute() if to is not None else home.students / key
    there = load_manifest(folder)
    if there is not None and there.key == key:
        # The held-out examples change no weights and stand in no key, but its loss and card speak of them.
        if there.held_out_set != (training_set_hash(source.held_out) if source.held_out else None):
            raise InputError(
                f"{folder}: this student is there already, measured on other held-out examples; name another folder with --to, "
                "or remove this one"
            )
        console.print("This student is there already.")

    def work() -> None:
        with progress(f"student {entry.alias} {source.name}", 1, rows="steps") as meter:
            train_student(spec, source.examples, source.held_out, folder, on_log=Course(meter).log, options=options)

    folder.parent.mkdir(parents=True, exist_ok=True)
    _showing(work)
    whole = (*source.examples, *source.held_out)
    facts = TrainingFacts(
        recipe=source.name, training_set=training_set_hash(source.examples), rows=len(whole),
        held_out=len({one.question_id for one in source.held_out}), questions=len({one.question_id for one in whole}),
        teachers=source.teachers, files=source.files or {},
    )  # fmt: skip
    write_file_card(folder, entry.alias, facts)
    return folder, load_manifest(folder)


def _showing(work: Callable[[], Any]) -> None:
    """Do the work with a bar, or a line now and then where the output is no terminal."""
    from flows.terminal import showing
    from tasks.progress import listening

    with showing(console) as listener, listening(listener):
        work()


def _tell(folder: Path, manifest: StudentManifest | None) -> None:
    """What came of it."""
    if manifest is None:
        raise InputError(f"{folder}: the student has gone while it was looked at; train it again")
    result = manifest.result
    before, after = (f"{one:.3f}" if one is not None else "none" for one in (result.base_loss, result.held_out_loss))
    speed = f"{result.tokens / max(result.seconds, 1e-9):,.0f} tokens/s on {result.device}, {result.precision}"
    trained = f"{result.steps:,} steps over {result.examples:,} examples in {result.seconds:,.0f} s ({speed})"
    for line in (
        f"{trained}; dropped: {result.dropped}",
        f"Held-out loss, nats a token: {before} before, {after} after",
        f"Student: {folder}",
        f"Try it: factscale chat {folder}",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
