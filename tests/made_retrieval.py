"""Retrieval as rows in a store, made up and fully known: what the tests of the retrieval report and its queries read.

Four sets of questions, each awkward in its way; every question is kept beside the store as a plain ``Fact``, so that a test
computes what it expects without any of the code under test. Rows of other studies stand in the same tables.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa

from store.connection import Store

RETRIEVAL, OTHER_RETRIEVAL = "retrieval-a", "retrieval-b"
SNAPSHOT, OTHER_SNAPSHOT = "graph-1", "graph-2"
LINKING, CONTROL, OLDER_CONTROL, OTHER_CONTROL = "linking-a", "control-a", "control-older", "control-b"
HOSTILE = "<script>alert('x')</script></style><img src=http://evil.example/a.png onerror=alert(1)>"

Tables = dict[str, list[dict[str, Any]]]
Hops = int | None


class Pair(NamedTuple):
    """A question entity and a target: hops, hops without a hub, and the number of paths."""

    hops: Hops
    specific: Hops
    paths: int


class Wrong(NamedTuple):
    """The control of a question: hops to its answer and to a wrong one."""

    answer: Hops
    answer_specific: Hops
    wrong: Hops
    wrong_specific: Hops


class Fact(NamedTuple):
    """All that is known of one searched question."""

    key: str
    dataset: str
    split: str
    answer_type: str
    sources: tuple[str, ...]  # of the question's links, best last
    answer_sources: tuple[str, ...]
    pairs: tuple[Pair, ...]
    control: Wrong | None
    kept: int
    lines: int
    tokens: int
    truncated: int
    unlabelled: int
    duplicates: int

    @property
    def any(self) -> bool:
        return any(pair.hops is not None for pair in self.pairs)

    @property
    def specific(self) -> bool:
        return any(pair.specific is not None for pair in self.pairs)


class Kind(NamedTuple):
    """How a dataset is: chances of a link, of a path, of one without a hub, and the same to a wrong answer."""

    source: str
    linked: float
    any: float
    specific: float
    wrong_any: float
    wrong_specific: float
    controls: bool = True


# The third is worse than chance; the fourth has no control, hardly a path, and a name that would like to be markup.
DATASETS = {
    "mintaka": Kind("gold_qid", 0.97, 0.95, 0.70, 0.86, 0.30),
    "cwq": Kind("mid_map", 0.85, 0.90, 0.60, 0.85, 0.22),
    "timequestions": Kind("label", 0.90, 0.55, 0.20, 0.85, 0.50),
    f"simple{HOSTILE}": Kind("label", 0.40, 0.20, 0.05, 0.0, 0.0, controls=False),
}


def make(store: Store, *, questions: int = 60, paths_each: int = 6, seed: int = 3) -> tuple[Fact, ...]:
    """Land a retrieval of four sets of ``questions`` each, with its linking, control and requests; return its facts."""
    rng = random.Random(seed)
    facts = tuple(
        _fact(rng, f"{place}-{number:05d}", name, kind, number)
        for place, (name, kind) in enumerate(DATASETS.items())
        for number in range(questions)
    )
    tables: Tables = {}
    for fact in facts:
        _land(tables, rng, fact, paths_each)
    _of_others(tables, facts[0])
    _requests(tables)
    for day, (key, retrieval) in enumerate(
        ((OLDER_CONTROL, RETRIEVAL), (CONTROL, RETRIEVAL), (OTHER_CONTROL, OTHER_RETRIEVAL)), start=1
    ):
        _add(tables, "units", **_control_unit(key, retrieval, day))
    store.land({name: pa.Table.from_pylist(rows) for name, rows in tables.items()})
    return facts


def _fact(rng: random.Random, key: str, dataset: str, kind: Kind, number: int) -> Fact:
    answer_type = {7: "boolean", 8: "number", 9: "date"}.get(number % 20, "entity")
    linked = rng.random() < kind.linked
    sources = (rng.choice(("label", kind.source)), kind.source)[rng.randrange(2) :] if linked else ()
    answers = (kind.source,) if answer_type == "entity" and rng.random() < kind.linked else ()
    searched = bool(sources) and (bool(answers) or answer_type != "entity")
    pairs = tuple(_pair(rng, kind) for _ in range(rng.choice((1, 1, 1, 2, 5)))) if searched else ()
    control = None
    if kind.controls and searched and answers and number % 9:
        control = Wrong(pairs[0].hops, pairs[0].specific, *_hops(rng, kind.wrong_any, kind.wrong_specific))
    found = sum(pair.paths for pair in pairs)
    kept = min(found, 10)
    return Fact(
        key=key,
        dataset=dataset,
        split="train" if dataset == "mintaka" else "test",
        answer_type=answer_type,
        sources=sources,
        answer_sources=answers,
        pairs=pairs,
        control=control,
        kept=kept,
        lines=kept * 2,
        tokens=kept * 2 * rng.randint(9, 15),
        truncated=int(rng.random() < 0.1),
        unlabelled=2 if dataset == "cwq" and number == 11 and kept else 0,
        duplicates=1 if dataset == "cwq" and number == 12 and kept else 0,
    )


def _pair(rng: random.Random, kind: Kind) -> Pair:
    hops, specific = _hops(rng, kind.any, kind.specific)
    return Pair(hops, specific, 0 if hops is None else min(int(rng.paretovariate(0.9)), 400))


def _hops(rng: random.Random, share: float, specific: float) -> tuple[Hops, Hops]:
    if rng.random() >= share:
        return None, None
    hops = rng.choices((1, 2, 3), (3, 4, 2))[0]
    # A path without a hub may be longer than the shortest one, never shorter.
    return hops, min(3, hops + rng.randrange(2)) if rng.random() < specific / share else None


def _land(tables: Tables, rng: random.Random, fact: Fact, paths_each: int) -> None:
    _add(tables, "questions", **_question(fact))
    _add(tables, "linkings", linking_key=LINKING, question_key=fact.key, dataset=fact.dataset)
    for role, sources in (("question", fact.sources), ("answer", fact.answer_sources)):
        for position, source in enumerate(sources):
            _add(tables, "resolved_links", **_link(fact.key, role, position, source))
    lengths = [pair.hops for pair in fact.pairs if pair.hops is not None]
    _add(
        tables,
        "retrievals",
        retrieval_key=RETRIEVAL,
        question_key=fact.key,
        snapshot=SNAPSHOT,
        linking_key=LINKING,
        pairs=len(fact.pairs),
        connected=len(lengths),
        specific=sum(pair.specific is not None for pair in fact.pairs),
        paths=sum(pair.paths for pair in fact.pairs),
        min_hops=min(lengths, default=None),
        truncated=fact.truncated,
        graph=f"France, capital, Paris\n{HOSTILE}" if fact.kept else "",
        lines=fact.lines,
        tokens=fact.tokens,
        unlabelled=fact.unlabelled,
        duplicates=fact.duplicates,
    )
    for place, pair in enumerate(fact.pairs):
        _add(tables, "retrieval_pairs", **_pair_row(RETRIEVAL, fact.key, place, pair))
    for rank in range(min(paths_each + fact.kept, sum(pair.paths for pair in fact.pairs))):
        _add(tables, "paths", **_path(fact, rank, rng))
    if fact.control:
        _add(tables, "controls", **_control_row(CONTROL, fact, fact.control))


def _question(fact: Fact) -> dict[str, Any]:
    return {
        "question_key": fact.key,
        "dataset": fact.dataset,
        "question_id": fact.key,
        "split": fact.split,
        "text": f"Which city is number {fact.key}? {HOSTILE if fact.key.endswith('00000') else ''}",
        "answer_type": fact.answer_type,
        "hops": None,
        "answers": json.dumps([{"text": "Paris", "entity": "Q90", "aliases": []}]),
        "gold_key": f"gold-{fact.key}",
        "provenance": "made",
    }


def _link(question: str, role: str, position: int, source: str, linking: str = LINKING) -> dict[str, Any]:
    return {
        "linking_key": linking,
        "question_key": question,
        "role": role,
        "position": position,
        "entity": f"Q{position + 1}",
        "source": source,
        "mention": "city",
        "span_start": 6,
        "span_end": 10,
        "score": 1.0,
    }


def _pair_row(retrieval: str, question: str, place: int, pair: Pair) -> dict[str, Any]:
    row = {"retrieval_key": retrieval, "question_key": question, "source": f"Q{int(question[2:]) // 2 + 1}"}
    return row | {"target": f"Q9{place}", "hops": pair.hops, "specific_hops": pair.specific, "paths": pair.paths}


def _path(fact: Fact, rank: int, rng: random.Random) -> dict[str, Any]:
    parts = {"similarity": 0.7, "degree_penalty": -0.02 * rng.randint(0, 9), "length_penalty": -0.15}
    return {
        "retrieval_key": RETRIEVAL,
        "question_key": fact.key,
        "rank": rank,
        "source": "Q142",
        "target": "Q90",
        "hops": 1,
        "score": 0.55 - rank / 100,
        "kept": rank < fact.kept,
        "kind": "pair" if rank else "joint",
        "triples": '[["Q142","P36","Q90",false]]',
        "sibling_penalty": 0.0,
        **parts,
    }


def _control_row(key: str, fact: Fact, wrong: Wrong) -> dict[str, Any]:
    row = {"control_key": key, "question_key": fact.key, "dataset": fact.dataset, "answer": "Q90", "wrong": "Q64"}
    row |= {"hops": wrong.wrong, "specific_hops": wrong.wrong_specific}
    return row | {"answer_hops": wrong.answer, "answer_specific_hops": wrong.answer_specific}


def _control_unit(key: str, retrieval: str, day: int) -> dict[str, Any]:
    unit = {"unit_key": key, "kind": "control", "name": f"control {key}", "seconds": 1.0, "row_count": 1}
    unit |= {"spec": json.dumps({"retrieval": retrieval, "questions": "set-1", "seed": day}), "versions": "{}"}
    unit |= {"prompt_tokens": 0, "cached_tokens": 0, "generated_tokens": 0, "host": "host-a"}
    return unit | {"landed_at": datetime(2026, 1, day)}


def _of_others(tables: Tables, fact: Fact) -> None:
    """Rows that must be in no number: another question of the same retrieval, another retrieval, control and linking."""
    stranger = fact._replace(key="9-99999", sources=(), answer_sources=())
    _add(tables, "questions", **_question(stranger))
    searched = next(row for row in tables["retrievals"] if row["question_key"] == fact.key)
    _add(tables, "retrievals", **searched | {"question_key": stranger.key, "pairs": 99, "unlabelled": 99})
    # The links of the other retrieval are those of the dataset, and its snapshot is another one.
    other = {"retrieval_key": OTHER_RETRIEVAL, "linking_key": None, "snapshot": OTHER_SNAPSHOT, "specific": None}
    _add(tables, "retrievals", **searched | other | {"lines": None, "tokens": None, "duplicates": None})
    _add(tables, "links", question_key=fact.key, entity="Q142", role="question", source="gold_qid")
    _add(tables, "links", question_key=fact.key, entity="m.05qtj", role="answer", source="gold_mid")
    far = Pair(5, 5, 7)
    _add(tables, "retrieval_pairs", **_pair_row(RETRIEVAL, stranger.key, 0, far))
    _add(tables, "retrieval_pairs", **_pair_row(OTHER_RETRIEVAL, fact.key, 0, far))
    for control in (OLDER_CONTROL, OTHER_CONTROL):
        _add(tables, "controls", **_control_row(control, fact, Wrong(9, 9, 9, 9)))
    _add(tables, "resolved_links", **_link(fact.key, "question", 0, "gold_qid", "linking-b"))


REQUESTS = (  # snapshot, purpose, outcome, status, attempts, bytes, how many
    (SNAPSHOT, "neighbourhoods", "ok", 200, 1, 50_000, 30),
    (SNAPSHOT, "neighbourhoods", "ok", 200, 3, 40_000, 4),
    (SNAPSHOT, "neighbourhoods", "late", 200, 2, 0, 2),
    (SNAPSHOT, "labels", "ok", 200, 1, 20_000, 5),
    (SNAPSHOT, "labels", "passing", 429, 4, 500, 1),
    (SNAPSHOT, "control", "ok", 200, 1, 1_000, 2),
    (SNAPSHOT, "degrees", "unreached", None, 4, 0, 1),
    (OTHER_SNAPSHOT, "statements", "ok", 200, 1, 10, 50),
)


def _requests(tables: Tables) -> None:
    for place, (snapshot, purpose, outcome, status, attempts, size, count) in enumerate(REQUESTS):
        for number in range(count):
            _add(
                tables,
                "endpoint_requests",
                request_id=f"{place}-{number}",
                snapshot=snapshot,
                purpose=purpose,
                query_hash="0",
                started_at=datetime(2026, 1, 2),
                outcome=outcome,
                status=status,
                attempts=attempts,
                bytes=size,
                seconds=1.5,
                waited=0.5 if attempts > 1 else 0.0,
                row_count=10,
            )
    for snapshot, direction, cut in _expansions():
        entity = f"Q{len(tables.get('expansions', []))}"
        row = {"snapshot": snapshot, "entity": entity, "direction": direction, "cap": 500}
        _add(tables, "expansions", **row, edges=500 if cut else 20, truncated=cut)


def _expansions() -> Iterator[tuple[str, str, bool]]:
    yield from ((SNAPSHOT, "out", False) for _ in range(40))
    yield from ((SNAPSHOT, "in", number < 3) for number in range(20))
    yield (OTHER_SNAPSHOT, "in", True)


def _add(tables: Tables, table: str, **row: Any) -> None:
    tables.setdefault(table, []).append(row)
