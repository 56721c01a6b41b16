"""``factscale kg paths``: the paths of one question, found and ranked before one's eyes. Nothing is landed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flows.kg_commands import STARTER, serving
from flows.printing import Shape, console
from store.types import InputError

notes = Console(stderr=True)

if TYPE_CHECKING:
    from kg.endpoint import Endpoint
    from kg.graph import Graph
    from kg.retrieval import Found
    from store.types import Path


def kg_paths(
    question: Annotated[
        str, typer.Argument(help='The question, for example "Where did the author of Nineteen Eighty-Four die?"')
    ],
    sources: Annotated[
        list[str] | None, typer.Option("--from", metavar="Q..", help="An entity of the question; may be repeated.")
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="Q..|VALUE", help="An answer: an entity, a date or a number; may be repeated."),
    ] = None,
    graph: Annotated[
        str, typer.Option(metavar="NAME|URL", help="A loaded graph, starter, or a SPARQL endpoint's URL.")
    ] = STARTER,
    hops: Annotated[int, typer.Option(min=1, max=4, help="The longest path.")] = 3,
    every_length: Annotated[bool, typer.Option("--all", help="Paths of every length, not the shortest only.")] = False,
    top: Annotated[
        int, typer.Option(min=1, help="Paths that are kept, but one at least of each entity and answer.")
    ] = 5,
    similarity: Annotated[str, typer.Option(help="lexical, embedding, mixed or auto.")] = "lexical",
    form: Annotated[str, typer.Option(help="How facts are printed: fs1 or verbalised.")] = "fs1",
    picture: Annotated[File | None, typer.Option("--svg", help="Draw the paths into this file.")] = None,
    user_agent: Annotated[
        str | None, typer.Option(help="Who asks, with an e-mail or URL; public endpoints want it.")
    ] = None,
    shape: Annotated[Shape, typer.Option("--format", help="How to print the paths.")] = Shape.TABLE,
) -> None:
    """Find the paths between a question's entities and an answer, with their scores and the text a teacher would read.

    Without --from the entities are looked for by their names in the question.
    """
    from kg.candidates import Options, Want
    from kg.endpoint import Endpoint
    from kg.fetching import Fetcher
    from kg.graph import Graph
    from kg.linearise import linearise
    from kg.retrieval import Retriever
    from kg.similarity import best_similarity

    if form not in ("fs1", "verbalised"):
        raise InputError(f"form {form!r}: known are fs1 and verbalised")
    if not targets:
        raise InputError("--to is missing: name at least one answer, an entity (Q42), a date or a number")
    for one in sources or ():
        if not _is_item(one):
            raise InputError(
                f"--from {one!r} is no entity: give an id like Q42, or leave it out to have names looked for"
            )
    entities = [one for one in targets if _is_item(one)]
    values = [one for one in targets if not _is_item(one)]
    if entities and values:
        raise InputError(f"--to {values[0]!r} is no entity while {entities[0]} is one: ask for one kind at a time")
    options = Options(max_hops=hops, policy="all" if every_length else "minimal", top_paths=top)
    with serving(graph) as url:
        endpoint = Endpoint(url, snapshot="shown", user_agent=user_agent)
        known = Graph()
        retriever = Retriever(known, options, best_similarity(similarity))  # type: ignore[arg-type]
        asked = sources or _mentioned(endpoint, graph, question)
        want = Want(
            key="shown",
            text=question,
            sources=tuple(asked),
            targets=tuple(entities),
            matches=(lambda text: any(_same(text, value) for value in values)) if values else None,
        )
        retriever.gather([want], Fetcher(endpoint, known))
        [found] = retriever.find([want])
        text = linearise(found.kept, known.labels, details=known.details, form="fs1" if form == "fs1" else "verbalised")
    if picture is not None:
        _draw(picture, question, found, known, entities)
    rows = [_row(path, known, kept=True) for path in found.kept]
    rows += [_row(path, known, kept=False) for path in found.dropped]
    if shape is Shape.TABLE:
        _print(question, asked, rows, text.text, known, endpoint.requests, found, hops)
    elif shape is Shape.JSON:
        print(json.dumps({"question": question, "paths": rows, "text": text.text}, indent=1, ensure_ascii=False))
    else:
        from flows.printing import print_rows

        print_rows([{**row, "triples": json.dumps(row["triples"])} for row in rows], shape)
    if picture is not None and shape is Shape.TABLE:
        console.print(f"Picture: {picture}", soft_wrap=True, highlight=False, markup=False)


def _same(literal: str, value: str) -> bool:
    """Whether a date or number of the graph is the value: a date to the value's precision ("1949" is any day of it)."""
    plain = value.replace(",", "")
    return literal == plain or (bool(re.fullmatch(r"-?\d{4,}(-\d\d)?", plain)) and literal.startswith(f"{plain}-"))


def _is_item(text: str) -> bool:
    return text[:1] == "Q" and text[1:].isdecimal()


def _mentioned(endpoint: Endpoint, graph: str, question: str) -> list[str]:
    """The entities that the question names, by the whole index of a local graph or by a look-up at a URL."""
    from kg.linking import LEAST_SCORE, MOST_MENTIONS
    from kg.mentions import LabelIndex
    from kg.names import candidate_spans, graph_names, lookup

    if "://" not in graph and graph != STARTER:
        notes.print(f"Reading all names of {graph}; --from Q.. spares that.", highlight=False)
    names = lookup(endpoint, candidate_spans(question)) if "://" in graph else graph_names(endpoint)
    mentions = LabelIndex(names).mentions(question)
    found = [one.candidates[0].entity for one in mentions if one.candidates[0].score >= LEAST_SCORE][:MOST_MENTIONS]
    if not found:
        raise InputError(f"no entity of {graph} is named in {question!r}: give its id with --from Q..")
    return found


def _row(path: Path, graph: Graph, *, kept: bool) -> dict[str, Any]:
    parts = path.parts
    return {
        "kept": kept,
        "kind": path.kind,
        "path": _walk(path, graph),
        "score": round(path.score, 4),
        **({name: round(value, 4) for name, value in parts._asdict().items()} if parts else {}),
        "triples": [list(triple[:3]) for triple in path.triples],
    }


def _walk(path: Path, graph: Graph) -> str:
    """The walk with an arrow for each statement, in its true direction: ``a -[p]-> b <-[q]- c``."""
    node, text = path.source, graph.name(path.source)
    for triple in path.triples:
        forward = triple.subject == node
        node = triple.object if forward else triple.subject
        name = node if triple.literal else graph.name(node)
        relation = graph.name(triple.predicate)
        text += f" -[{relation}]-> {name}" if forward else f" <-[{relation}]- {name}"
    return text


def _print(
    question: str,
    asked: Sequence[str],
    rows: list[dict[str, Any]],
    text: str,
    graph: Graph,
    requests: int,
    found: Found,
    hops: int,
) -> None:
    named = ", ".join(f"{graph.name(one)} ({one})" for one in asked)
    console.print(f"{question}\nfrom {named}", markup=False, highlight=False)
    if not rows:
        console.print(f"No path of at most {hops} hops.{' Try --hops 4, or another entity.' if hops < 4 else ''}")
        return
    table = Table(header_style="bold")
    for name in ("", "path", "score", "similarity", "degree", "length", "sibling"):
        table.add_column(name, justify="left" if name in ("", "path") else "right", overflow="fold")
    for row in rows:
        numbers = [f"{row[name]:+.2f}" for name in ("score", "similarity", "degree", "length", "sibling")]
        style = None if row["kept"] else "dim"
        table.add_row("kept" if row["kept"] else "dropped", row["path"].replace("[", "\\["), *numbers, style=style)
    console.print(table)
    total = max(found.paths, len(rows))
    hidden = f" ({total - len(rows)} not shown)" if total > len(rows) else ""
    console.print(f"{total} path{'' if total == 1 else 's'}{hidden}; {requests} requests\n")
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _draw(file: File, question: str, found: Found, graph: Graph, answers: Sequence[str]) -> None:
    from kg.drawing import path_svg

    svg = path_svg(
        found.kept, graph.labels, question, dropped=found.dropped, details=graph.details, answers=frozenset(answers)
    )
    if file.is_dir():
        raise InputError(f"--svg {file} cannot be written (it is a folder): name a file in it")
    partial = file.with_name(f".{file.name}.part")
    try:
        partial.write_text(svg, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(
            f"--svg {file} cannot be written ({error.strerror}): name a file in a folder that exists"
        ) from error
