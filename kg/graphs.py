"""Named graphs: facts loaded once under a name, and what is known of each: size, entities, labels, content.

``<name>.json`` beside the loaded folders is a graph's manifest. It is written last and at once, so that a name stands
for a whole graph or for nothing. ``starter``, the slice that comes with the package, can be served without being loaded.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from kg.endpoint import PREFIXES, Endpoint
from kg.loading import Progress, is_loaded, load, remove, skipped, snapshot_of
from kg.server import serve
from kg.starter import snapshot as starter_snapshot
from kg.starter import write_ntriples
from store.types import Frozen, InputError, RunError

STARTER = "starter"
COUNT_SECONDS = 86_400  # counting a whole Wikidata takes hours, and is done once

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_ITEM = 'FILTER(isIRI(?e) && STRSTARTS(STR(?e), "http://www.wikidata.org/entity/Q"))'
_STATEMENTS = "SELECT (COUNT(*) AS ?n) WHERE { ?s ?p ?o }"
# The filter stands outside the sub-selects: it is then judged once an entity, not once a statement.
_ENTITIES = f"""SELECT (COUNT(*) AS ?n) WHERE {{
  {{ SELECT DISTINCT ?e WHERE {{ {{ ?e ?p ?o }} UNION {{ ?s ?p ?e }} }} }} {_ITEM} }}"""
_LABELLED = f"""{PREFIXES}SELECT (COUNT(DISTINCT ?e) AS ?n) WHERE {{
  ?e rdfs:label ?label . FILTER(LANG(?label) IN ("en", "mul")) {_ITEM} }}"""


class LoadedGraph(Frozen):
    """A graph that is loaded under a name.

    ``snapshot`` is the hash of the files' content, for cache keys; ``statements`` counts distinct triples, ``entities``
    the items (Q) that stand in any, ``labelled`` is the share of these with an English label; ``skipped`` counts lines
    that lenient loading left out; ``loaded_at`` is an ISO time (UTC); ``folder`` holds the store.
    """

    name: str
    snapshot: str
    files: tuple[str, ...]
    statements: int
    entities: int
    labelled: float
    lenient: bool
    skipped: int
    loaded_at: str
    folder: Path


def load_graph(
    files: Sequence[Path],
    name: str,
    directory: Path,
    *,
    lenient: bool = False,
    replace: bool = False,
    on_progress: Progress | None = None,
) -> LoadedGraph:
    """Load files under a name; at once if the name stands for their content already, however that was loaded.

    Other content under a known name is taken only with ``replace``; the old folder goes, unless another name or a
    running server uses it. Raises InputError for a bad or taken name and for files without a statement, else as
    :func:`kg.loading.load` does. After an error all names stand for what they stood for.
    """
    _check(name)
    snapshot = snapshot_of(files)
    old = _read(directory, name)
    if old is not None and _is_kept(old, snapshot, replace):
        return old
    place = load(files, directory, lenient=lenient, on_progress=on_progress)
    try:
        # Named while it is served: a folder in use is never removed by somebody who finds no name for it.
        with serve(place, query_seconds=COUNT_SECONDS) as url:
            graph = _examined(url, name, snapshot, files, place, lenient)
            old = _name(graph, directory, replace)
    except InputError:
        _remove_unnamed(place, directory)
        raise
    if old is not None and old.folder != place:
        _remove_unnamed(old.folder, directory)
    return graph


def would_load(files: Sequence[Path], name: str, directory: Path, *, replace: bool = False) -> bool:
    """Whether :func:`load_graph` would load these files, or find their content under the name. Reads them, writes nothing.

    Raises InputError as it does for a bad or taken name, and for a file that cannot be read.
    """
    _check(name)
    snapshot, old = snapshot_of(files), _read(directory, name)
    return old is None or not _is_kept(old, snapshot, replace)


def graphs(directory: Path) -> list[LoadedGraph]:
    """All loaded graphs by name. Raises InputError for a manifest that is damaged."""
    names = sorted(file.stem for file in directory.glob("*.json") if _NAME.fullmatch(file.stem))
    return [graph for name in names if (graph := _read(directory, name)) is not None]


def is_named(name: str, directory: Path) -> bool:
    """Whether a graph of that name was loaded; :func:`graph_named` says whether it is whole."""
    return (directory / f"{name}.json").is_file()


def graph_named(name: str, directory: Path) -> LoadedGraph:
    """The graph of that name. Raises InputError, which lists the known names, if there is none or its folder is gone."""
    graph = _read(directory, name) if _NAME.fullmatch(name) else None
    if graph is None:
        known = ", ".join([STARTER, *(one.name for one in graphs(directory))])
        raise InputError(f"no graph {name!r} is loaded in {directory}: load one, or choose from {known}")
    if not is_loaded(graph.folder):
        raise InputError(f"graph {name!r}: its folder {graph.folder} is gone: load {', '.join(graph.files)} again")
    return graph


@contextmanager
def serve_graph(name: str, directory: Path, port: int | None = None) -> Iterator[str]:
    """Serve a loaded graph, or the starter slice, on 127.0.0.1 and yield the query URL; it ends with the block.

    Raises as :func:`graph_named` and :func:`kg.server.serve` do.
    """
    with ExitStack() as stack:
        place = _starter(directory) if name == STARTER else graph_named(name, directory).folder
        try:
            url = stack.enter_context(serve(place, port=port))
        except RunError as error:
            raise RunError(f"{error} If oxigraph was changed since {name} was loaded, load it again.") from error
        yield url


def _starter(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"starter-{starter_snapshot()[:12]}.nt"
    if not file.exists():
        write_ntriples(file)
    return load([file], directory)


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"name {name!r} of a graph: use at most 64 small letters, digits, - and _, and begin with a letter or digit"
        )
    if name == STARTER:
        raise InputError(f"name {name!r} is that of the slice that comes with factscale: choose another")


def _is_kept(old: LoadedGraph, snapshot: str, replace: bool) -> bool:
    """Whether what has the name stays as it is. Raises InputError if that is not what was asked for."""
    if replace or not is_loaded(old.folder):
        return False
    if old.snapshot != snapshot:
        raise InputError(
            f"graph {old.name!r} holds other content ({', '.join(old.files)}; loaded {old.loaded_at}): "
            "choose another name, or have it replaced (--replace)"
        )
    return True


def _examined(url: str, name: str, snapshot: str, files: Sequence[Path], place: Path, lenient: bool) -> LoadedGraph:
    endpoint = Endpoint(url, snapshot=snapshot, timeout=COUNT_SECONDS)
    statements, entities, labelled = (
        int(endpoint.select(query)[0]["n"].value) for query in (_STATEMENTS, _ENTITIES, _LABELLED)
    )
    if statements == 0:
        raise InputError(f"no statement in {', '.join(map(str, files))}: give files that hold some")
    return LoadedGraph(
        name=name,
        snapshot=snapshot,
        files=tuple(str(file.resolve()) for file in files),
        statements=statements,
        entities=entities,
        labelled=labelled / entities if entities else 0.0,
        lenient=lenient,
        skipped=skipped(place),
        loaded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        folder=place,
    )


def _read(directory: Path, name: str) -> LoadedGraph | None:
    file = directory / f"{name}.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        return LoadedGraph.model_validate({**fields, "folder": directory / fields["folder"]})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, ValidationError) as error:
        raise InputError(f"manifest {file} is damaged: remove it, and load the graph again") from error


def _name(graph: LoadedGraph, directory: Path, replace: bool) -> LoadedGraph | None:
    """Write the manifest, unless the same was named meanwhile; returns what had the name before. One at a time."""
    with (directory / "names.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = _read(directory, graph.name)
        if old is not None and _is_kept(old, graph.snapshot, replace):
            return old
        # The folder is kept relative, so that the home can be moved.
        fields = {**graph.model_dump(mode="json"), "folder": graph.folder.name}
        partial = directory / f"{graph.name}.json.part"
        try:
            with partial.open("w", encoding="utf-8") as file:
                json.dump(fields, file, indent=1, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(directory / f"{graph.name}.json")
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise RunError(f"{directory} cannot be written ({error.strerror}): free some space") from error
        return old


def _remove_unnamed(place: Path, directory: Path) -> None:
    """Remove a folder that no graph is in; one that a server uses stays."""
    with (directory / "names.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(graph.folder != place for graph in graphs(directory)):
            remove(place)
