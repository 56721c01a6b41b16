"""Links from questions and their answers to Wikidata: gold ids first, Freebase ids through a map, names last.

Every link says where it comes from, since the sources differ in how far they can be trusted: a gold id is the dataset's
own, a mapped Freebase id is as good as the map, and a name may be that of something else. Links of *answers* use the gold
answers: right for making training data, and never a way to answer a question.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from kg.endpoint import PREFIXES, Endpoint, text_literal
from kg.mentions import LabelIndex
from kg.names import is_name, name_key
from kg.neighbourhoods import batched
from store.types import InputError, LinkRole, LinkSource, Question

LINKER_VERSION = "1"
MOST_MENTIONS = 3  # label links of a question
LEAST_SCORE = 0.15  # below it most label links are wrong

_ROLES: tuple[LinkRole, ...] = ("question", "answer")
_SOURCES: tuple[LinkSource, ...] = ("gold_qid", "mid_map", "label")  # the best first
_MID = re.compile(r"/?([mg])[./]([0-9a-z_]+)")
_ITEM = re.compile(r"Q[1-9][0-9]*")


class Linked(NamedTuple):
    """One link. ``start`` and ``end`` are characters of the question's text, or of the text of one of the answers.

    ``mention`` is what was matched; it has no span where it is an answer's alias, or where the link is not by name.
    ``score`` (0 to 1) is the probability that a label link is right, and 1 for the other sources.
    """

    entity: str
    role: LinkRole
    source: LinkSource
    mention: str = ""
    start: int | None = None
    end: int | None = None
    score: float = 1.0


class Coverage(TypedDict):
    """Of the questions of a dataset, how many have this as the best source of the links of a role.

    ``source`` is "none" where there is no link, and "literal" where there is none to be had: a number, a date, yes or no.
    """

    dataset: str
    role: LinkRole
    source: str
    questions: int
    share: float


class MidMap(dict[str, str]):
    """QIDs by Freebase id (``m.02mjmr``). ``skipped`` rows had no Freebase id, ``repeated`` ones another QID for one."""

    skipped = 0
    repeated = 0


def freebase_id(text: str) -> str | None:
    """A Freebase id in the form ``m.02mjmr``, also from ``/m/02mjmr``; None if the text is none."""
    match = _MID.fullmatch(text)
    return f"{match[1]}.{match[2]}" if match else None


def read_mid_map(path: Path) -> MidMap:
    """Read a tab-separated file (gzipped if it ends in .gz) with the columns ``mid`` and ``qid`` named in its first line.

    Rows whose mid is no Freebase id are counted and left out; of several QIDs for one the first stays. Raises InputError
    with file and line for a file that cannot be read, a missing column, or a QID that is none.
    """
    found = MidMap()
    rows = _lines(path)
    header = next(rows, "").split("\t")
    if not {"mid", "qid"} <= set(header):
        raise InputError(f"{path}, line 1: no columns mid and qid, but {header[:5]}: name them in the first line")
    mid_at, qid_at = header.index("mid"), header.index("qid")
    for number, line in enumerate(rows, start=2):
        cells = line.split("\t")
        if len(cells) <= max(mid_at, qid_at):
            raise InputError(f"{path}, line {number}: {len(cells)} columns, but the first line names {len(header)}")
        mid, qid = freebase_id(cells[mid_at]), cells[qid_at]
        if mid is None:
            found.skipped += 1
        elif not _ITEM.fullmatch(qid):
            raise InputError(f"{path}, line {number}: qid {qid!r} is no Wikidata item: give one like Q76")
        elif found.setdefault(mid, qid) != qid:
            found.repeated += 1
    return found


def _lines(path: Path) -> Iterator[str]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig") as file
        ):
            for line in file:
                yield line.rstrip("\r\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"map of Freebase ids {path} cannot be read ({error}): give a tab-separated file") from error


def mids_of(endpoint: Endpoint, mids: Iterable[str], batch: int = 500) -> dict[str, str]:
    """QIDs of Freebase ids as Wikidata knows them; ids that it does not know are not in the result.

    P646 holds the ``m.`` ids, P2671 the ``g.`` ids. Of several items for one id that with the lowest number is taken.
    Raises InputError for an id that is none, RunError as ``Endpoint.select`` does.
    """
    asked = [_checked(mid) for mid in dict.fromkeys(mids)]

    def fetch(part: Sequence[str]) -> list[tuple[int, str]]:
        literals = " ".join(text_literal(f"/{mid.replace('.', '/')}") for mid in part)
        rows = endpoint.select(
            f'{PREFIXES}SELECT ?mid (STRAFTER(STR(?e), "entity/") AS ?id) WHERE {{ '
            f"VALUES ?mid {{ {literals} }} ?e wdt:P646|wdt:P2671 ?mid }}"
        )
        items = ((row["id"].value, freebase_id(row["mid"].value) or "") for row in rows)
        return [(int(item[1:]), mid) for item, mid in items if _ITEM.fullmatch(item)]

    pairs = [pair for part in batched(fetch, list(dict.fromkeys(asked)), batch) for pair in part]
    return {mid: f"Q{number}" for number, mid in sorted(pairs, reverse=True)}


def _checked(mid: str) -> str:
    found = freebase_id(mid)
    if found is None:
        raise InputError(f"Freebase id {mid!r} is none: give one like m.02mjmr or /m/02mjmr")
    return found


def link(
    question: Question,
    *,
    mids: Mapping[str, str],
    index: LabelIndex | None,
    answers: LabelIndex | None = None,
) -> tuple[Linked, ...]:
    """The links of a question: of its own entities, then of its answers'. An entity may have both roles.

    For each role the ids that the dataset gives, with its Freebase ids through ``mids``; only where these give nothing,
    links by name through ``index`` (for answers through ``answers``, where that is given). In the question's text at most
    :data:`MOST_MENTIONS` entities of a score of at least :data:`LEAST_SCORE`, the best first; each answer by its whole text
    or, failing that, an alias. Numbers, dates and yes or no are not linked by name.
    """
    found: list[Linked] = []
    for role in _ROLES:
        links = _given(question, role, mids)
        if not links and index is not None:
            links = _mentioned(question, index) if role == "question" else _answers(question, answers or index)
        best: dict[str, Linked] = {}
        for one in links:
            best.setdefault(one.entity, one)
        found += best.values()
    return tuple(found)


def _given(question: Question, role: LinkRole, mids: Mapping[str, str]) -> list[Linked]:
    own = [one for one in question.links if one.role == role]
    found = [Linked(one.entity, role, one.source) for one in own if one.source != "gold_mid"]
    if role == "answer":
        found += [Linked(one.entity, role, "gold_qid", one.text) for one in question.answers if one.entity is not None]
    mapped = [mids[mid] for mid in question.freebase_ids(role) if mid in mids]
    found += [Linked(entity, role, "mid_map") for entity in mapped]
    return sorted(found, key=lambda one: _SOURCES.index(one.source))


def _mentioned(question: Question, index: LabelIndex) -> list[Linked]:
    found: dict[str, Linked] = {}
    for text, start, end, (best, *_others) in index.mentions(question.text):
        if best.score < LEAST_SCORE or len(found) == MOST_MENTIONS:
            break
        found.setdefault(best.entity, Linked(best.entity, "question", "label", text, start, end, best.score))
    return list(found.values())


def _answers(question: Question, index: LabelIndex) -> list[Linked]:
    """Links of answers by their whole names. Where the type is not known to be an entity, numbers are none either."""
    if question.answer_type not in ("entity", "text"):
        return []
    found = []
    for answer in question.answers:
        for form in answer.forms:
            if question.answer_type == "text" and not is_name(name_key(form)):
                continue
            best = index.whole(form)
            if best is not None:
                start, end = (0, len(form)) if form == answer.text else (None, None)
                found.append(Linked(best.entity, "answer", "label", form, start, end, best.score))
                break
    return found


def coverage(questions: Sequence[Question], linked: Sequence[Sequence[Linked]]) -> list[Coverage]:
    """How far the links go, by dataset, role and best source. ``linked`` has the links of each question, in order.

    The shares of a dataset and role add up to 1; sources that no question has are left out.
    """
    counts: dict[tuple[str, LinkRole], Counter[str]] = {}
    for question, links in zip(questions, linked, strict=True):
        for role in _ROLES:
            sources = {one.source for one in links if one.role == role}
            literal = role == "answer" and question.answer_type in ("number", "date", "boolean")
            best = next((source for source in _SOURCES if source in sources), "literal" if literal else "none")
            counts.setdefault((question.dataset, role), Counter())[best] += 1
    return [
        Coverage(
            dataset=dataset,
            role=role,
            source=source,
            questions=counted[source],
            share=counted[source] / counted.total(),
        )
        for (dataset, role), counted in sorted(counts.items(), key=lambda item: (item[0][0], _ROLES.index(item[0][1])))
        for source in (*_SOURCES, "none", "literal")
        if counted[source]
    ]
