"""The flow `retrieve` over six whole benchmarks and a real extract of Wikidata: it ends, leaves nobody out, and asks once.

About ten minutes on two cores. The data are public but not part of the repository; without them the test is skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.benchmark_files import DATA, FILES, named_cwq
from flows.orders import Orders
from flows.parameters import Retrieve
from store.home import Home
from tasks.questions import question_key

MOST_UNLABELLED = 0.005  # ids a printed line: the extract names all items, but not every property of a date or number

_ID = re.compile(r"(?:(?<=, )|^)[PQ]\d+(?=, |$)", re.MULTILINE)  # where fs1 prints a subject, relation or object

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not (DATA / "benchmarks").is_dir(), reason=f"no real data at {DATA}"),
]


def parameters(folder: Path, limit: int | None = None) -> Retrieve:
    sets: list[dict[str, Any]] = [
        {"dataset": name, "split": split, "limit": limit, "path": str(DATA / "benchmarks" / file)}
        for name, (split, file) in FILES.items()
    ]
    sets[1]["path"] = str(named_cwq(folder))
    mid_map = str(DATA / "kg" / "freebase_mid2qid.tsv.gz")
    chosen = {"endpoint": "extract", "mid_map": mid_map, "datasets": sets[1:], "similarity": "lexical"}
    return Retrieve.model_validate({"name": "six", "train": sets[0], "retrieve": chosen})


def retrieved(home: Home, study: Retrieve, monkeypatch: pytest.MonkeyPatch) -> Orders:
    """Run the flow, check what it has landed, and run it again."""
    from flows.retrieval import retrieval_of
    from flows.retrieve import retrieve
    from flows.server import prefect_api
    from kg.graphs import load_graph

    monkeypatch.setenv("FACTSCALE_HOME", str(home.folder))
    load_graph(sorted((DATA / "kg").glob("*.nt.gz")), "extract", home.kg)
    orders = Orders(study, home)
    questions = orders.searched_questions
    with prefect_api(home):
        assert retrieve(study) == len(questions)
        requests = home.store.query("SELECT count(*) AS n, sum(attempts)::BIGINT AS made FROM endpoint_requests")
        checked(orders)

        monkeypatch.setattr("kg.graphs.serve", lambda *_, **__: pytest.fail("a server was started"))
        assert retrieve(study) == 0
    assert home.store.query("SELECT count(*) AS n, sum(attempts)::BIGINT AS made FROM endpoint_requests") == requests
    pairs = retrieval_of(orders).searched_pairs
    assert requests[0]["made"] <= 0.15 * pairs + 20 * len(FILES)  # the latter for what the smallest study asks too
    return orders


def checked(orders: Orders) -> None:
    """That every question has its row, and that the report counts what was printed."""
    from flows.retrieval import retrieval_of

    keys = {question_key(question): question.dataset for question in orders.searched_questions}
    rows = orders.store.query("SELECT * FROM retrievals WHERE retrieval_key = ?", [orders.retrieval.key])
    assert {row["question_key"] for row in rows} == set(keys)
    assert len(rows) == len(keys)
    assert len(orders.store.query("SELECT 1 FROM linkings WHERE linking_key = ?", [orders.linking.key])) == len(keys)

    summary = retrieval_of(orders)
    assert {part.dataset: part.questions for part in summary.parts} == Counter(keys.values())
    assert all(part.connected.value > 0 for part in summary.parts)
    assert all(part.control is not None and part.control.n > 0 for part in summary.parts)
    total = summary.total
    assert total is not None
    lines = [line for row in rows for line in row["graph"].splitlines()]
    assert total.printed_lines == len(lines) == sum(row["lines"] for row in rows) > 0
    assert total.unlabelled == sum(len(set(_ID.findall(row["graph"]))) for row in rows) <= MOST_UNLABELLED * len(lines)
    assert total.duplicates == sum(len(some) - len(set(some)) for some in (r["graph"].splitlines() for r in rows)) == 0


def test_six_whole_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = retrieved(Home(tmp_path), parameters(tmp_path), monkeypatch)
    assert len(orders.searched_questions) > 20_000
    assert set(FILES) == {question.dataset for question in orders.searched_questions}
    page = orders.home.reports / "six" / "retrieval.html"
    assert "wrong answers" in page.read_text(encoding="utf-8")
