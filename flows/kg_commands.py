"""Knowledge graphs on the command line: ``factscale kg --help``."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.printing import Shape, console, print_rows, size_of
from flows.server import prepare_environment
from store.home import Home

if TYPE_CHECKING:
    from kg.loading import Progress

kg_app = typer.Typer(no_args_is_help=True, help="Load, serve and examine knowledge graphs.")

STARTER = "starter"
_DOCTOR_SECONDS = 30.0

ShapeOption = Annotated[Shape, typer.Option("--format", help="How to print the rows.")]


@kg_app.command("load")
def kg_load(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="N-Triples or Turtle (.nt, .ttl), also gzip (.nt.gz, .ttl.gz)"),
    ],
    name: Annotated[str | None, typer.Option(help="The graph's name in studies; else the first file's.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the name from what has it now.")] = False,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Leave out lines that do not parse, as a few of Wikidata's dumps do not.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be loaded, and whether it is there already.")
    ] = False,
) -> None:
    """Load facts as one graph under a name. The same content is loaded once."""
    from kg.graphs import load_graph, would_load

    if dry_run:
        called = name or _stem(files[0])
        new = would_load(files, called, _folder(), replace=replace)
        size = size_of(sum(file.stat().st_size for file in files))
        said = f"{len(files)} files, {size}, would be loaded" if new else "this content is loaded already"
        console.print(f"[bold]{called}[/bold]: {said}. Nothing was done.", highlight=False, soft_wrap=True)
        return
    with _progress() as on_progress:
        graph = load_graph(
            files, name or _stem(files[0]), _folder(), lenient=lenient, replace=replace, on_progress=on_progress
        )
    console.print(
        f"[bold]{graph.name}[/bold]: {graph.statements:,} statements, {graph.entities:,} entities, "
        f"{graph.labelled:.1%} of them with an English label; snapshot {graph.snapshot[:12]}",
        highlight=False,
        soft_wrap=True,
    )
    if graph.skipped:
        console.print(
            f"{graph.skipped:,} lines did not parse and were left out: load.log in {graph.folder}", soft_wrap=True
        )
    if not graph.entities:
        console.print("It holds no Wikidata item (wd:Q...), so no study can use it.", soft_wrap=True)
    else:
        console.print(f"In a study: retrieve: {{endpoint: {graph.name}}}", highlight=False, soft_wrap=True)


@kg_app.command("ls")
def kg_ls(shape: ShapeOption = Shape.TABLE) -> None:
    """List the graphs that are loaded."""
    from kg.graphs import graphs

    rows = [graph.model_dump(mode="json") for graph in graphs(Home.current().kg)]
    if shape is not Shape.TABLE:
        print_rows(rows, shape)
        return
    columns = ("name", "statements", "entities", "labelled", "skipped", "loaded_at", "snapshot", "files")
    shown = [{column: row[column] for column in columns} for row in rows]
    for row in shown:
        row |= {
            "loaded_at": row["loaded_at"][:16],
            "snapshot": row["snapshot"][:12],
            "files": " ".join(Path(file).name for file in row["files"]),
        }
    print_rows(shown, shape, title="Loaded graphs")
    console.print(f"`{STARTER}` comes with factscale and needs no loading.")


@kg_app.command("serve")
def kg_serve(
    name: Annotated[str, typer.Argument(help="A loaded graph, or starter.")] = STARTER,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of the SPARQL server, on 127.0.0.1.")] = 7878,
) -> None:
    """Serve a graph to this machine until Ctrl-C; studies that name a graph need no such server."""
    from kg.graphs import graph_named, serve_graph
    from kg.starter import snapshot

    folder, stop = _folder(), threading.Event()
    content = snapshot() if name == STARTER else graph_named(name, folder).snapshot
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with serve_graph(name, folder, port) as url:
            _say(f"SPARQL endpoint: {url}   (Ctrl-C ends it)")
            _say(f"In a study, no server needed: retrieve: {{endpoint: {name}}}")
            _say(f"In a study, this server:      retrieve: {{endpoint: '{url}', snapshot: {name}-{content[:12]}}}")
            stop.wait()
    except KeyboardInterrupt:
        _say("ending")


@kg_app.command("doctor")
def kg_doctor(
    target: Annotated[
        str, typer.Argument(metavar="[URL|NAME]", help="A SPARQL endpoint's URL, a loaded graph, or starter.")
    ] = STARTER,
    user_agent: Annotated[
        str | None, typer.Option(help="Who asks, with an e-mail or URL; public endpoints want it.")
    ] = None,
    shape: ShapeOption = Shape.TABLE,
) -> None:
    """Examine whether an endpoint can carry a study, with about a dozen small requests; exit code 1 if it cannot."""
    from kg.doctor import examine
    from kg.endpoint import Endpoint

    with serving(target) as url:
        checks = examine(Endpoint(url, snapshot="examined", user_agent=user_agent, timeout=_DOCTOR_SECONDS))
    rows: list[dict[str, Any]] = [check._asdict() for check in checks]
    print_rows(rows, shape, title=f"Examination of {target}")
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(1)


@contextmanager
def serving(target: str) -> Iterator[str]:
    """The query URL of a loaded graph, which is served as long as the block lasts, or the URL itself."""
    if "://" in target:
        yield target
        return
    from kg.graphs import serve_graph

    with serve_graph(target, _folder()) as url:
        yield url


def _folder() -> Path:
    home = Home.current()
    prepare_environment(home)  # tells a home that cannot be made
    home.kg.mkdir(exist_ok=True)
    return home.kg


def _stem(file: Path) -> str:
    stem = file.name.removesuffix(".gz").removesuffix(".nt").removesuffix(".ttl").lower()
    return re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar of the bytes read, on a terminal only."""
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("comparing", total=None)

        def show(done: int, total: int) -> None:
            reading = done < total
            bar.update(task, completed=done, total=total, description="loading" if reading else "sorting, counting")

        yield show
