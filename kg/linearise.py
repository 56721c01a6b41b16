"""Paths as text for a prompt: one ``subject, relation, object`` line for each statement, as the fs1 study prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from store.types import Path, Triple


def linearise(paths: Sequence[Path], labels: Mapping[str, str], max_triples: int | None = None) -> str:
    """One line for each distinct statement of the paths, best-ranked path first, joined by line breaks.

    Statements stand in their true direction, whichever way the path walks them. Names are labels (an id without one is
    printed as it is; see :func:`unlabelled`), literals are printed as they are. Equal lines are printed once. A path
    that would exceed ``max_triples`` lines is left out whole, for half a path misleads; the first is cut instead.
    """
    lines: dict[str, None] = {}
    for path in paths:
        new = dict.fromkeys(line for line in (_line(t, labels) for t in path.triples) if line not in lines)
        if max_triples is None or len(lines) + len(new) <= max_triples:
            lines |= new
        elif not lines:
            lines = dict.fromkeys(list(new)[:max_triples])
    return "\n".join(lines)


def unlabelled(paths: Sequence[Path], labels: Mapping[str, str]) -> set[str]:
    """Ids of entities and properties on the paths that have no label and so would be printed as ids."""
    named = {name for path in paths for t in path.triples for name in (t.subject, t.predicate)}
    named |= {t.object for path in paths for t in path.triples if not t.literal}
    return {name for name in named if not labels.get(name, "").strip()}


def _line(triple: Triple, labels: Mapping[str, str]) -> str:
    value = triple.object if triple.literal else _name(triple.object, labels)
    return f"{_name(triple.subject, labels)}, {_name(triple.predicate, labels)}, {value}"


def _name(one: str, labels: Mapping[str, str]) -> str:
    # A line break in a label would make two lines of one statement.
    return " ".join(labels.get(one, "").split()) or one
