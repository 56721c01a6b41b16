"""Paths as a picture shows them: numbered walks from box to box, their distinct statements, and both in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kg.linearise import Details, linearise, object_text
from kg.svg_text import signed_text
from store.types import Detail, Path, Triple


class Step(NamedTuple):
    """One statement as a walk takes it: from box, to box. A literal's box is named by its statement."""

    start: str
    end: str
    triple: Triple


class ShownPath(NamedTuple):
    """A path with its number in the picture."""

    number: int
    path: Path
    walk: list[Step]
    kept: bool


class Edge(NamedTuple):
    """A statement as it is drawn: its name, the numbers of its paths, its qualifiers, and all of it for the tooltip."""

    step: Step
    name: str
    numbers: str
    note: str
    tooltip: str
    kept: bool


def numbered_paths(kept: Sequence[Path], dropped: Sequence[Path]) -> list[ShownPath]:
    """The paths in the order in which they are numbered, from 1: the kept ones, then the dropped ones."""
    chosen = [(path, True) for path in kept] + [(path, False) for path in dropped]
    return [ShownPath(number, path, _walk(path), of_kept) for number, (path, of_kept) in enumerate(chosen, start=1)]


def statement_edges(
    shown: Sequence[ShownPath], labels: Mapping[str, str], details: Details, numbered: bool
) -> list[Edge]:
    """The distinct statements of all paths, in the order of the paths; with the numbers of their paths if ``numbered``."""
    steps: dict[Triple, Step] = {}
    paths: dict[Triple, list[ShownPath]] = {}
    for one in shown:
        for step in one.walk:
            steps.setdefault(step.triple, step)
            paths.setdefault(step.triple, []).append(one)
    return [
        Edge(
            step,
            label_or_id(triple.predicate, labels),
            _ranges([one.number for one in paths[triple]]) if numbered else "",
            "; ".join(dict.fromkeys(note for detail in details.get(triple, ()) if (note := _note(detail, labels)))),
            linearise([_path_of(triple)], labels, details=details).text.replace("\n", "; "),
            any(one.kept for one in paths[triple]),
        )
        for triple, step in steps.items()
    ]


def walk_line(one: ShownPath, labels: Mapping[str, str], details: Details) -> str:
    """A path in one line, arrows in the true direction of its statements: "Hamlet —author→ William Shakespeare"."""
    text = label_or_id(one.path.source, labels)
    for step in one.walk:
        triple, relation = step.triple, label_or_id(step.triple.predicate, labels)
        forward = triple.subject == step.start
        end = object_text(triple, labels, details.get(triple, ())) if triple.literal else label_or_id(step.end, labels)
        text += f" —{relation}→ {end}" if forward else f" ←{relation}— {end}"
    return text


def described(one: ShownPath, labels: Mapping[str, str], details: Details) -> str:
    """A path in one line with its number, whether it is kept, and its score where that has parts."""
    score = f", score {signed_text(one.path.score)}" if one.path.parts else ""
    return f"{one.number} ({'kept' if one.kept else 'dropped'}{score}): {walk_line(one, labels, details)}"


def label_or_id(one: str, labels: Mapping[str, str]) -> str:
    """The label of an entity or relation on one line; its id where it has none."""
    return " ".join(labels.get(one, "").split()) or one


def _walk(path: Path) -> list[Step]:
    node, steps = path.source, []
    for triple in path.triples:
        following = triple.object if triple.subject == node else triple.subject
        steps.append(Step(node, "\t".join(triple[:3]) if triple.literal else following, triple))
        node = following
    return steps


def _path_of(triple: Triple) -> Path:
    return Path(source=triple.subject, target=triple.object, triples=(triple,))


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers in short: 1, 2, 3, 5 is "1–3, 5"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _note(detail: Detail, labels: Mapping[str, str]) -> str:
    """Qualifiers in short: "1885 – 1889, replaces Chester A. Arthur"."""
    texts = {name: text for name, text, _literal in detail.qualifiers}
    start, end = texts.get("P580", ""), texts.get("P582", "")
    parts = [f"{start} – {end}".strip()] if start or end else []
    for name, text, literal in detail.qualifiers:
        if name not in ("P580", "P582"):
            shown = text if literal else label_or_id(text, labels)
            parts.append(shown if name == "P585" else f"{label_or_id(name, labels)} {shown}")
    return ", ".join(parts)
