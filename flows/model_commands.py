"""The models of the registry on the command line: ``factscale models --help``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from flows.printing import Shape, console, print_rows
from flows.server import prefect_api, prepare_environment
from store.home import Home
from store.types import InputError, RunError, Sampling

if TYPE_CHECKING:
    from models.registry import ModelEntry, Registry
    from models.session import Inspection, ModelSession
    from tasks.weights import ModelChoice

models_app = typer.Typer(no_args_is_help=True, help="List the models of the registry, and try them.")

RegistryOption = Annotated[
    Path | None, typer.Option("--registry", metavar="FILE", help="A registry; else deployments/models.yaml.")
]
ShapeOption = Annotated[Shape, typer.Option("--format", help="How to print the rows.")]

QUESTION = "What is the capital of France? Answer in one word."
_TOKENS = 8
_HOSTED_TOKENS = 64
_PROMPT_LINES = 6


class Finding(NamedTuple):
    """One line of a check. It fails where the model cannot do what its entry says."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    found: str


@models_app.command("ls")
def models_ls(registry: RegistryOption = None, shape: ShapeOption = Shape.TABLE) -> None:
    """List the models, what they cost (US dollars a million tokens), and whether they can be used here and now."""
    prepare_environment(Home.current())
    known = registry_at(registry)
    rows = [_row(entry) for entry in known.models]
    if shape is not Shape.TABLE:
        print_rows(rows, shape)
        return
    if not any(entry.prices for entry in known.models):
        rows = [{name: row[name] for name in row if name not in ("price_in", "price_out")} for row in rows]
    for row in rows:
        row["params"] = _human(row["params"])
    print_rows(rows, shape, title=f"Models of {known.path}")
    if any(row["state"] == "no revision" for row in rows):
        console.print("no revision: set the commit hash of its weights in the registry before a study uses it.")
    if any(row["state"].startswith("key ") for row in rows):
        console.print(
            "key ... missing: set the environment variable, or save it as a Prefect Secret block (lower case, dashes)."
        )


@models_app.command("check")
def models_check(
    alias: Annotated[str, typer.Argument(help="A model of the registry.")],
    engine: Annotated[
        Literal["auto", "vllm", "transformers"], typer.Option(help="What loads it; auto: vLLM where installed.")
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="The precision it is computed in.")
    ] = "auto",
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask an OpenAI-compatible server (with /v1) instead of loading it here."),
    ] = None,
    served_as: Annotated[
        str | None, typer.Option("--served-as", help="The server's name for it; else its hub id, or its alias.")
    ] = None,
    registry: RegistryOption = None,
    shape: ShapeOption = Shape.TABLE,
) -> None:
    """Open a model as a study would, render a prompt, generate a few tokens, and say what was found.

    Exit code 1 if it cannot do what its entry says. A hosted model is asked for one short reply, which costs a little.
    """
    from models.engines.base import EngineOptions
    from models.session import ModelSession

    home = Home.current()
    prepare_environment(home)
    choice = _choice(registry_at(registry).entry(alias), server, served_as)
    secrets = secrets_of(choice, home)
    reference = choice.reference(home)
    started = time.monotonic()
    with ModelSession(reference, EngineOptions(engine=engine, dtype=dtype), secrets=secrets) as session:
        findings = list(_findings(session, choice, time.monotonic() - started))
    rows: list[dict[str, Any]] = [finding._asdict() for finding in findings]
    print_rows(rows, shape, title=f"Check of {alias}")
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)


def registry_at(path: Path | None) -> Registry:
    """The registry in a file, or the shipped one."""
    from flows.parameters import DEFAULT_REGISTRY
    from models.registry import load_registry

    return load_registry(path or DEFAULT_REGISTRY)


def _row(entry: ModelEntry) -> dict[str, Any]:
    return {
        "alias": entry.alias,
        "source": entry.source,
        "params": entry.parameters,
        "format": entry.format,
        "roles": " ".join(entry.roles),
        "context": entry.context_length,
        "price_in": entry.prices.input if entry.prices else None,
        "price_out": entry.prices.output if entry.prices else None,
        "state": _state(entry),
    }


def _state(entry: ModelEntry) -> str:
    """Whether the model can be used: its weights are here, can be fetched, or are behind a server whose key is known."""
    from models.embedded import FOLDER, default_cache
    from models.engines.base import ModelRef, check_folder
    from models.fetching import downloaded
    from models.registry import EMBEDDED
    from tasks.weights import key_of

    if entry.server is not None and entry.server.key_variable is not None:
        try:
            key_of(entry.server, entry.alias)
        except (InputError, RunError):
            return f"key {entry.server.key_variable} missing"
    if entry.hub_id is not None and entry.revision is None:
        return "no revision"
    if entry.server is not None:
        return f"behind {entry.server.url}"
    if entry.folder is not None:
        try:
            check_folder(ModelRef(entry.alias, entry.folder, entry.adapter))
        except InputError:
            return "no weights"
        return "ready"
    if entry.source == EMBEDDED:
        here = (default_cache() / FOLDER / "manifest.json").is_file()
    else:
        here = downloaded(entry.source, entry.revision or "")
    return "ready" if here else "to download"


def _human(parameters: int | None) -> str | None:
    """So many parameters as people say it: 135M, 7.6B, 671B."""
    if parameters is None:
        return None
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= unit:
            value = parameters / unit
            return f"{value:.1f}{name}" if value < 10 else f"{value:.0f}{name}"
    return str(parameters)


def _choice(entry: ModelEntry, url: str | None, served_as: str | None) -> ModelChoice:
    """The model as its entry says, or on the server that the command names."""
    from pydantic import ValidationError

    from models.engines.base import Server
    from models.registry import HOSTED
    from tasks.weights import ModelChoice

    if url is None:
        if served_as is not None:
            raise InputError("--served-as goes with --server: name the server's URL as well")
        return ModelChoice(entry=entry, format=entry.format)
    if entry.source == HOSTED:
        raise InputError(
            f"--server: model {entry.alias!r} is behind an API of its own; change its entry in the registry"
        )
    try:
        server = Server(url=url, model=served_as or entry.hub_id or entry.alias)
    except ValidationError as error:
        raise InputError(f"--server: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    return ModelChoice(entry=entry, format=entry.format, server=server)


def secrets_of(choice: ModelChoice, home: Home) -> dict[str, str]:
    """What the model's process needs in its environment, also where a key is a block of the home's Prefect API."""
    variable = choice.asked_at.key_variable if choice.asked_at else None
    if variable is None or os.environ.get(variable):
        return choice.secrets()
    with prefect_api(home):  # the key may be a block of the home's own API
        return choice.secrets()


def _findings(session: ModelSession, choice: ModelChoice, seconds: float) -> Iterator[Finding]:
    from models.embedded import default_cache
    from models.registry import model_key
    from store.types import Message

    entry, info = choice.entry, session.info
    yield Finding("key", "ok", model_key(entry, default_cache()))
    asked = choice.asked_at
    where = f"{info.version}, {info.dtype} on {info.device}" if asked is None else f"server {asked.url}, {info.version}"
    yield Finding("engine", "ok", f"{where}, {info.rows} rows at a time; opened in {seconds:.1f} s")
    messages = (Message(role="user", content=QUESTION),)
    if choice.hosted:
        yield from _reply(session, choice, messages)
        return
    yield _context(info.context_length, entry.context_length)
    try:
        inspection = session.inspect(messages)
    except InputError as error:
        yield Finding("prompt", "fail", str(error))
        return
    yield from _inspected(inspection, entry)
    yield from _reply(session, choice, messages)


def _context(found: int, said: int) -> Finding:
    if found == said:
        return Finding("context", "ok", f"{found:,} tokens")
    mend = "mend context_length" if found > said else "what needs more is refused"
    return Finding("context", "warn", f"{found:,} tokens, and the registry says {said:,}: {mend}")


def _inspected(inspection: Inspection, entry: ModelEntry) -> Iterator[Finding]:
    lines = inspection.prompt.splitlines()
    cut = "...\n" if len(lines) > _PROMPT_LINES else ""
    end = "\n" if inspection.prompt.endswith("\n") else ""
    shown = cut + "\n".join(lines[-_PROMPT_LINES:]) + end
    yield Finding(f"prompt of {inspection.prompt_tokens} tokens", "ok", shown)
    stops = ", ".join(f"{text} ({number})" for text, number in inspection.stops.items())
    yield Finding("stop tokens", "ok" if stops else "fail", stops or "none: nothing would end a turn; set stop_tokens")
    if inspection.marker is None:
        yield Finding("end of thinking", "ok", f"no marker: format {entry.format}")
    elif inspection.marker in inspection.stops:
        yield Finding("end of thinking", "ok", f"{inspection.marker} ({inspection.stops[inspection.marker]})")
    else:
        yield Finding("end of thinking", "fail", f"{inspection.marker} is no stop token; choose another format for it")


def _reply(session: ModelSession, choice: ModelChoice, messages: tuple[Any, ...]) -> Iterator[Finding]:
    from models.asking import Ask
    from tasks.progress import dollars

    sampling, room = (choice.entry.sampling, _HOSTED_TOKENS) if choice.hosted else (Sampling(), _TOKENS)
    started = time.monotonic()
    [reply] = [one for group in session.ask([Ask("check", messages, 0)], sampling, room) for one in group]
    seconds = time.monotonic() - started
    speed = f"{reply.generated} tokens in {seconds:.1f} s, {reply.generated / seconds:.0f} tokens/s"
    text = reply.text.strip() if choice.hosted else repr(reply.text)
    if reply.text.strip():
        yield Finding("reply", "ok", text)
    else:  # students' blocks mean nothing to a base that was not trained on them: that alone is no failure
        yield Finding("reply", "fail" if choice.hosted else "warn", f"no text; it ended by {reply.finish!r}")
    yield Finding("speed", "ok", f"{speed} for one row")
    if choice.prices is not None:
        cost = choice.prices.cost(reply.prompt_tokens, reply.cached_tokens, reply.generated)
        yield Finding(
            "cost", "ok", f"{dollars(cost)} for {reply.prompt_tokens} prompt and {reply.generated} generated tokens"
        )
