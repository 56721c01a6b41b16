"""A quick try of a student, or of any model: ``factscale chat demo:fs1``; docs/train-alone.md.

It is asked as an evaluation asks it (setting `instruct`, the student's own format, thinking cut at a budget and an answer
forced after it), and each question stands alone: nothing of the ones before is told to the model.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from flows.model_commands import RegistryOption, registry_at, secrets_of
from flows.printing import console
from flows.server import prepare_environment
from store.home import Home
from store.types import InputError, Sampling, digest

if TYPE_CHECKING:
    from models.budgets import LadderPlan
    from models.finetune import StudentManifest
    from models.registry import ModelEntry, Registry
    from models.session import ModelSession
    from tasks.weights import ModelChoice

BUDGET = 1024
"""Thinking tokens where nothing is said: enough for a try, and on a CPU a minute."""

_LISTED = 12  # students or models that an error names


class Reply(NamedTuple):
    """What came of one question. ``answer`` is read from ``answer_text`` as an evaluation reads it; None: there is none."""

    question: str
    thinking: str
    answer_text: str
    answer: str | None
    thinking_tokens: int
    answer_tokens: int
    cut: bool
    forced: bool
    seconds: float


def chat(
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            help="STUDY:TRAINING_SET[:VARIANT] (demo:fs1), a student's name, key or folder, or a model of the registry.",
        ),
    ],
    question: Annotated[
        str | None, typer.Option("--question", "-q", metavar="TEXT", help="Ask this alone, and exit.")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="Thinking tokens; then an answer is forced.")] = BUDGET,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=5.0, help="0: greedy. Else as in an evaluation: 0.7.")
    ] = None,
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answer.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Another one draws another reply.")] = 0,
    engine: Annotated[
        Literal["auto", "vllm", "transformers"], typer.Option(help="What loads it; auto: vLLM where installed.")
    ] = "auto",
    registry: RegistryOption = None,
    shape: Annotated[
        Literal["text", "json"], typer.Option("--format", help="json: one object a line and question.")
    ] = "text",
) -> None:
    """Ask a student questions: typed, one a line from a pipe, or one with --question. Ctrl-D ends it."""
    home = Home.current()
    given = None if question is None and _typed() else _given(question)
    prepare_environment(home)
    from models.engines.base import EngineOptions
    from models.session import ModelSession

    choice = _choice(student, registry_at(registry), home)
    plan = _plan(choice, budget, temperature, max_answer_tokens)
    secrets = secrets_of(choice, home)
    reference = choice.reference(home)
    started = time.monotonic()
    with (
        _waiting(f"opening {choice.name}"),
        ModelSession(reference, EngineOptions(engine=engine), secrets=secrets) as session,
    ):
        if shape == "text":
            info = session.info
            opened = f"{info.version}, {info.dtype} on {info.device}; opened in {time.monotonic() - started:.1f} s"
            console.print(f"{_title(choice)}: {opened}", style="dim", markup=False, highlight=False)
        for place, text in enumerate(given if given is not None else _prompted()):
            reply = _ask(session, text, plan, int(digest([seed, place, text], 8), 16))
            if shape == "json":
                print(json.dumps(reply._asdict(), ensure_ascii=False), flush=True)
            else:
                _show(reply, budget)


def _typed() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _given(question: str | None) -> list[str]:
    """The questions that are there before a model is opened."""
    typed = "" if sys.stdin is None or question is not None else sys.stdin.read()
    lines = typed.splitlines() if question is None else [question]
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise InputError("there is no question: give --question TEXT, or one a line on standard input")
    return found


def _prompted() -> Iterator[str]:
    console.print("Ask a question; each stands alone. Ctrl-D ends.", style="dim")
    while True:
        try:
            text = console.input("[bold]> [/bold]").strip()
        except EOFError:
            console.print()
            return
        if text:
            yield text


def _choice(named: str, registry: Registry, home: Home) -> ModelChoice:
    """The student or model that a person means. Raises InputError where there is none; names those that there are."""
    from models.finetune import load_manifest
    from tasks.weights import ModelChoice

    folder = _folder(named, home)
    if folder is None:
        if named in [entry.alias for entry in registry.models]:
            entry = registry.entry(named)
            return ModelChoice(entry=entry, format=entry.format)
        raise InputError(f"student {named}: {_known(registry, home)}")
    manifest = load_manifest(folder)
    if manifest is None:
        raise InputError(f"student {named}: {folder} has no readable manifest.json, so it is no complete student")
    return ModelChoice(entry=_base(manifest, registry), format=manifest.format, student=str(folder))


def _folder(named: str, home: Home) -> Path | None:
    """The folder of the student that is meant, by path, by its name or key in the store, or by its key in the home."""
    from tasks.named import find_trained

    path = Path(named).expanduser()
    if path.is_dir() or "/" in named:
        if not path.is_dir():
            raise InputError(f"student {named}: there is no such folder")
        return path.resolve()
    if home.store.exists():
        try:
            return home.students / find_trained(home.store, named).key
        except InputError:
            if ":" in named:
                raise
    elif ":" in named:
        home.existing()
    found = [one for one in _folders(home) if len(named) >= 6 and one.name.startswith(named)]
    if len(found) > 1:
        raise InputError(f"student {named}: the keys of {len(found)} students begin so; give more of it")
    return found[0] if found else None


def _folders(home: Home) -> list[Path]:
    return sorted(path.parent for path in home.students.glob("*/manifest.json"))


def _known(registry: Registry, home: Home) -> str:
    rows = home.store.query("SELECT student_key, name FROM students ORDER BY name") if home.store.exists() else []
    stored = {row["student_key"]: f"{row['student_key'][:8]} ({row['name'].removeprefix('student ')})" for row in rows}
    names = [stored.get(path.name, path.name[:8]) for path in _folders(home)]
    models = [entry.alias for entry in registry.models]

    def some(words: list[str]) -> str:
        return ", ".join(words[:_LISTED]) + (", ..." if len(words) > _LISTED else "") or "none yet"

    return f"not known. Students here: {some(names)}. Models of {registry.path}: {some(models)}"


def _base(manifest: StudentManifest, registry: Registry) -> ModelEntry:
    """The registry's entry of the weights that a student was made of."""
    from models.embedded import default_cache
    from models.registry import HOSTED, model_key

    for entry in registry.models:
        try:
            if entry.source != HOSTED and model_key(entry, default_cache()) == manifest.base_key:
                return entry
        except InputError:  # another model's folder is gone, or it is not pinned
            continue
    raise InputError(
        f"the student's base {manifest.base_key} is no model of {registry.path}: add it there, or name another --registry"
    )


def _plan(choice: ModelChoice, budget: int, temperature: float | None, max_answer_tokens: int) -> LadderPlan:
    from flows.evaluation_parameters import Evaluation
    from models.budgets import LadderPlan

    sampling = Evaluation().sampling
    if temperature == 0:
        sampling = Sampling(repetition_penalty=sampling.repetition_penalty)
    elif temperature is not None:
        sampling = sampling.model_copy(update={"temperature": temperature})
    return LadderPlan(
        sampling=sampling,
        budgets=(None,) if choice.hosted else (budget,),  # thinking behind an API can be neither cut nor extended
        max_thinking_tokens=budget,
        max_answer_tokens=max_answer_tokens,
    )


def _title(choice: ModelChoice) -> str:
    return choice.name if choice.student is None else f"student {Path(choice.student).name[:12]} of {choice.name}"


def _ask(session: ModelSession, text: str, plan: LadderPlan, seed: int) -> Reply:
    from eval.answers import extract
    from models.budgets import LadderJob
    from models.training_files import asked

    started = time.monotonic()
    job = LadderJob("chat", asked(text).messages, seed, None, plan.budgets)
    with _waiting("thinking"):
        [outcome] = [one for group in session.run_ladder([job], plan) for one in group]
    [found], thought = outcome.answers, outcome.thought
    # A response that answers by itself is no thought before an answer.
    alone = not found.answer_tokens and not found.forced
    return Reply(
        question=text,
        thinking="" if thought is None or alone else thought.text,
        answer_text=found.answer_text,
        answer=extract(found.answer_text, allow_tail=not found.cut and found.finish == "stop").prediction,
        thinking_tokens=found.thinking_tokens,
        answer_tokens=found.answer_tokens,
        cut=found.cut,
        forced=found.forced,
        seconds=round(time.monotonic() - started, 3),
    )


def _show(reply: Reply, budget: int) -> None:
    if reply.thinking.strip():
        console.print(_plain(reply.thinking.strip()), style="dim", markup=False, highlight=False)
    console.print(_plain(reply.answer_text.strip()) or "(no answer)", style="bold", markup=False, highlight=False)
    tokens = reply.thinking_tokens + reply.answer_tokens
    parts = [
        f"answer: {_plain(reply.answer) if reply.answer is not None else 'none'}",
        f"{reply.thinking_tokens:,} + {reply.answer_tokens:,} tokens in {reply.seconds:.1f} s",
        f"{tokens / max(reply.seconds, 1e-9):,.0f} tokens/s",
        *([f"thinking cut at {budget:,}"] if reply.cut else []),
    ]
    console.print(f"({', '.join(parts)})", style="dim", markup=False, highlight=False)


def _plain(text: str) -> str:
    """What a model writes, without the control characters that a terminal would obey."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _waiting(what: str) -> Any:
    """A sign of life while one waits, on terminals alone."""
    return console.status(what) if console.is_terminal else nullcontext()
