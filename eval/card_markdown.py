"""The Markdown of cards: YAML in front, tables, code blocks, and the sources that a card names with their terms.

Texts of models and benchmarks are made inert here: nothing of theirs opens a tag, a link, an image or a table cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from eval.card_facts import BenchmarkFacts
from eval.findings import inert


class Terms(NamedTuple):
    """A question set's name, its page, and the terms its questions stand under, where these are known."""

    name: str
    page: str | None
    terms: str


_UNKNOWN = "not known to factscale: see its page before you pass it on"
TERMS: dict[str, Terms] = {
    "cwq": Terms("ComplexWebQuestions", "https://www.tau-nlp.sites.tau.ac.il/compwebq", _UNKNOWN),
    "webqsp": Terms("WebQSP", "https://www.microsoft.com/en-us/download/details.aspx?id=52763", _UNKNOWN),
    "grailqa": Terms("GrailQA", "https://dki-lab.github.io/GrailQA/", "CC BY-SA 4.0: share alike what you make of it"),
    "exaqt": Terms(
        "TimeQuestions",
        "https://exaqt.mpi-inf.mpg.de/",
        "not known to factscale: see its page; the copy in github.com/zhenjia2017/FAITH is under MIT",
    ),
    "simpleqa": Terms("SimpleQA", "https://github.com/openai/simple-evals", "MIT"),
    "mintaka": Terms("Mintaka", "https://github.com/amazon-science/mintaka", "CC BY 4.0"),
    "fs1": Terms("the merged set of the fs1 study", "https://github.com/jjzha/fs1", "those of the six sets in it"),
    "starter": Terms("factscale's starter set", None, "those of factscale; its facts are Wikidata's (CC0)"),
}
"""Question sets that factscale knows; all of them are in English."""


def card(front: Mapping[str, Any], parts: Sequence[str]) -> str:
    """The whole text: the YAML ``front`` between two rules, then the ``parts``, an empty line between them."""
    # A width without end: a folded string is harder to read for people, and no shorter.
    text = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{text}---\n\n" + "\n\n".join(parts) + "\n"


def sources(benchmarks: Iterable[BenchmarkFacts], given: str | None, base: str | None = None) -> list[str]:
    """The question sets with their terms; the licence that was ``given``, if any; ``base``: the model it is made of."""
    rows = []
    for one in benchmarks:
        known = TERMS.get(one.dataset, Terms(one.dataset, None, "a set of the study's own: not known to factscale"))
        name = f"[{known.name}]({known.page})" if known.page else plain(known.name)
        files = ", ".join(f"`{code(file)}`" for file in one.files) or "–"
        rows.append((name, one.split, f"{one.questions:,}", files, known.terms))
    licence = (
        f"Whoever published this gave it the licence `{code(given)}`." if given else "No licence was given for this."
    )
    also = f" The terms of {plain(base)} hold for what is made of it." if base else ""
    if not rows:
        return [
            "## Sources and licences",
            f"{licence} The examples stand under the terms of where they come from.{also}",
        ]
    return [
        "## Sources and licences",
        f"{licence} Questions and gold answers stand under the terms of the sets that they come from.{also}",
        table(("questions of", "split", "questions", "read from", "terms"), rows, trusted=(0, 3)),
    ]


def provenance(keys: Mapping[str, str], versions: Mapping[str, str]) -> list[str]:
    """Keys of the store, and versions of packages."""
    return ["## Provenance", table(("what", "which"), [*keys.items(), *sorted(versions.items())])]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], trusted: Sequence[int] = ()) -> str:
    """A Markdown table; cells in the columns ``trusted`` are Markdown of our own."""
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in rows:
        cells = [cell if place in trusted else plain(cell) for place, cell in enumerate(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plain(text: str) -> str:
    """``text`` as it may stand in Markdown: no tag, no link, no image, no code."""
    return re.sub(r"([\[\]`])", r"\\\1", inert(text))


def code(text: str) -> str:
    """``text`` as it may stand between two backticks, in a table too."""
    return " ".join(text.replace("`", "'").replace("|", "\\|").split())


def fenced(text: str, language: str) -> str:
    """A code block; its fence is longer than any row of backticks in ``text``."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
