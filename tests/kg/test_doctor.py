"""The examination of endpoints: real ones, and a proxy before a real one that does what cannot be made to happen."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import urllib3

from kg import doctor
from kg.doctor import Check, examine
from kg.endpoint import Endpoint
from kg.graphs import serve_graph
from kg.server import local_endpoint

WD, PROP = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/"
LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
XSD = "http://www.w3.org/2001/XMLSchema#"
FULL = f"""<{WD}Q1> <{PROP}direct/P31> <{WD}Q2> .
<{WD}Q1> <{PROP}direct/P646> "/m/0abc" .
<{WD}Q1> <{PROP}direct/P569> "1900"^^<{XSD}gYear> .
<{WD}Q1> <{PROP}P31> <{WD}statement/s1> .
<{WD}statement/s1> <{PROP}statement/P31> <{WD}Q2> .
<{WD}statement/s1> <{PROP}qualifier/P580> "x" .
<{WD}Q1> <{LABEL}> "one"@en .
<{WD}Q2> <{LABEL}> "zwei"@de .
"""
Answer = tuple[int, dict[str, str], bytes]
Alter = Callable[[str, Any], Answer | Any]

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_graph("starter", tmp_path_factory.mktemp("kg")) as url:
        yield url


@contextmanager
def proxy(url: str, alter: Alter) -> Iterator[tuple[str, list[str]]]:
    """An endpoint that hands on what ``alter`` makes of each query and its answer; yields its URL and the queries."""
    queries, behind = list[str](), urllib3.PoolManager()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            query = parse_qs(body)["query"][0]
            queries.append(query)
            form = {"Accept": "application/sparql-results+json"}
            answer = behind.request("POST", url, fields={"query": query}, encode_multipart=False, headers=form)
            altered = alter(query, answer.json())
            kind = {"Content-Type": "application/sparql-results+json"}
            status, headers, content = (
                altered if isinstance(altered, tuple) else (200, kind, json.dumps(altered).encode())
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/sparql", queries
        finally:
            server.shutdown()
            thread.join()
            behind.clear()


def examined(url: str, **options: float) -> dict[str, Check]:
    checks = examine(Endpoint(url, snapshot="s", **options))  # type: ignore[arg-type]
    assert len({check.name for check in checks}) == len(checks)
    assert all(bool(check.mend) == (check.verdict != "ok") for check in checks)
    return {check.name: check for check in checks}


def of(checks: dict[str, Check], verdict: str) -> set[str]:
    return {name for name, check in checks.items() if check.verdict == verdict}


class TestHealthy:
    def test_the_starter_slice_has_all_but_full_statements_and_freebase_ids(self, starter: str) -> None:
        checks = examined(starter)
        assert of(checks, "warn") == {"full statements", "Freebase ids"}
        assert not of(checks, "fail")
        assert checks["labels of items"].found.startswith("100.0%")
        assert checks["rows in an answer"].found.startswith("all ")

    def test_at_most_twelve_requests_each_with_a_limit_or_bound_to_ids(self, starter: str) -> None:
        with proxy(starter, lambda _query, answer: answer) as (url, queries):
            examined(url)
        assert len(queries) <= 12
        assert all("LIMIT" in query or "VALUES" in query or "WHERE {}" in query for query in queries)

    def test_what_a_graph_has_and_lacks(self, tmp_path: Path) -> None:
        (tmp_path / "full.nt").write_text(FULL)
        with local_endpoint([tmp_path / "full.nt"], tmp_path) as url:
            checks = examined(url)
        assert checks["full statements"] == Check("full statements", "ok", "present; 1 qualifiers in the sample")
        assert checks["Freebase ids"].found == "present, such as /m/0abc"
        assert checks["dates"].found == f"only of type {XSD}gYear"
        assert checks["numbers"].verdict == "warn"
        assert checks["labels of items"][1:3] == ("warn", "50.0% of 2 have an English one")
        assert checks["labels of properties"].verdict == "fail"
        assert checks["declared properties"].verdict == "warn"

    def test_edges_of_uncommon_properties_alone(self, tmp_path: Path) -> None:
        (tmp_path / "odd.nt").write_text(f"<{WD}Q1> <{PROP}direct/P9000> <{WD}Q2> .\n")
        with local_endpoint([tmp_path / "odd.nt"], tmp_path) as url:
            assert examined(url)["direct edges"].found == "1 sampled, of 1 properties"

    def test_a_graph_that_is_not_wikidatas(self, tmp_path: Path) -> None:
        (tmp_path / "other.nt").write_text("<http://a/b> <http://a/c> <http://a/d> .\n")
        with local_endpoint([tmp_path / "other.nt"], tmp_path) as url:
            checks = examined(url)
        assert checks["direct edges"].verdict == "fail"
        assert checks["VALUES"].found == "not examined: there is no direct edge to start from"


class TestSick:
    def test_nobody_there(self) -> None:
        checks = examined("http://127.0.0.1:9/sparql")
        assert of(checks, "fail") == {"reachable"}
        assert list(checks) == ["user agent", "reachable"]

    @pytest.mark.parametrize(
        "answer",
        [
            (200, {"Content-Type": "text/html"}, b"<html>welcome</html>"),
            (200, {"Content-Type": "application/sparql-results+json"}, b'{"head": {}, "resul'),
            (200, {"Content-Type": "application/json"}, b"[]"),
            {"head": {"vars": []}, "results": {"bindings": []}},
        ],
        ids=["a page", "cut", "other JSON", "an empty answer, as without a user agent"],
    )
    def test_no_sparql_json(self, starter: str, answer: Any) -> None:
        with proxy(starter, lambda *_: answer) as (url, queries):
            checks = examined(url)
        assert of(checks, "fail") == {"SPARQL JSON"}
        assert checks["reachable"].verdict == "ok"
        assert len(queries) == 1

    @pytest.mark.parametrize("status", [403, 404, 500])
    def test_refused_at_once(self, starter: str, status: int) -> None:
        with proxy(starter, lambda *_: (status, {}, b"no")) as (url, queries):
            checks = examined(url)
        assert str(status) in checks["reachable"].found
        assert of(checks, "fail") == {"reachable"}
        assert len(queries) == 1

    def test_a_throttled_client_asks_no_more_and_does_not_wait(self, starter: str) -> None:
        def throttle(query: str, answer: Any) -> Any:
            return (429, {"Retry-After": "3600"}, b"slow down") if "VALUES" in query else answer

        with proxy(starter, throttle) as (url, queries):
            checks = examined(url)
        assert len(queries) == 3
        assert of(checks, "fail") == {"VALUES"}
        assert "429" in checks["VALUES"].found
        assert "not asked any more" in checks["rows in an answer"].found

    def test_three_failures_end_it(self, starter: str) -> None:
        def heavy(query: str, answer: Any) -> Any:
            return answer if "?one" in query else (400, {}, b"cannot parse")

        with proxy(starter, heavy) as (url, queries):
            checks = examined(url)
        assert len(queries) == 4
        assert {"direct edges", "declared properties", "dates", "numbers", "Freebase ids"} == of(checks, "fail")
        assert "3 requests have failed" in checks["gzip"].found

    def test_a_time_limit_is_told_of_the_query_that_meets_it(self, starter: str) -> None:
        def slow(query: str, answer: Any) -> Any:
            return (500, {}, b"java.util.concurrent.TimeoutException") if "qualifier" in query else answer

        with proxy(starter, slow) as (url, _queries):
            checks = examined(url)
        assert of(checks, "fail") == {"full statements"}
        assert checks["rows in an answer"].verdict == "ok"

    def test_rows_cut_silently(self, starter: str) -> None:
        def cut(_query: str, answer: Any) -> Any:
            return {**answer, "results": {"bindings": answer["results"]["bindings"][:1000]}}

        with proxy(starter, cut) as (url, _queries):
            checks = examined(url)
        assert of(checks, "fail") == {"rows in an answer"}
        assert checks["rows in an answer"].found.startswith("silently cut: 1,000 of ")

    def test_values_and_unions_answered_in_part(self, starter: str) -> None:
        def partly(query: str, answer: Any) -> Any:
            rows = answer["results"]["bindings"]
            kept = rows[:5] if "VALUES" in query and "?p) ?o" in query else rows[:1] if "?o ?r wd:" in query else rows
            return {**answer, "results": {"bindings": kept}}

        with proxy(starter, partly) as (url, _queries):
            checks = examined(url)
        assert of(checks, "fail") == {"VALUES", "UNION of LIMITs"}

    def test_rows_of_another_shape(self, starter: str) -> None:
        strange = {"head": {"vars": ["x"]}, "results": {"bindings": [{"x": {"type": "literal", "value": "y"}}]}}
        with proxy(starter, lambda query, answer: answer if "?one" in query else strange) as (url, _queries):
            checks = examined(url)
        assert "another shape" in checks["direct edges"].found
        assert "another shape" in checks["rows in an answer"].found


class TestPublic:
    """What counts for other people's servers only, at one that is taken for such a server."""

    @pytest.fixture(autouse=True)
    def _not_local(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor._Watched, "local", False)

    def test_plain_answers_are_told_and_gzip_is_seen(self, starter: str) -> None:
        with proxy(starter, lambda _query, answer: answer) as (url, _queries):
            assert examined(url)["gzip"].verdict == "warn"

        def packed(_query: str, answer: Any) -> Any:
            headers = {"Content-Type": "application/sparql-results+json", "Content-Encoding": "gzip"}
            return 200, headers, gzip.compress(json.dumps(answer).encode())

        with proxy(starter, packed) as (url, _queries):
            assert examined(url)["gzip"].found.startswith("used: ")

    def test_no_scan_for_edges(self, starter: str) -> None:
        def none(query: str, answer: Any) -> Any:
            return {**answer, "results": {"bindings": []}} if "?s wdt:P31 ?o" in query else answer

        with proxy(starter, none) as (url, queries):
            checks = examined(url)
        assert checks["direct edges"].verdict == "fail"
        assert not any("STRSTARTS" in query for query in queries)
