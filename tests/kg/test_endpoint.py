"""The endpoint against a socket server that misbehaves in all the ways that public endpoints do, and a real one."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fault_server import BODY, FaultServer, Misbehaviour, Reply, drip, drip_head, reply, reset

from kg import pacing
from kg.endpoint import PREFIXES, Endpoint, QueryTooHeavy, RequestRecord, Term, entity_values, text_literal
from kg.pacing import HostRefuses, Limits
from kg.server import local_endpoint
from store.types import InputError, RunError

QUERY = "SELECT ?s WHERE { ?s ?p ?o }"
ROWS = [{"s": Term("http://x/1", "uri")}]


@pytest.fixture(autouse=True)
def new_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports come again, holds and refusals must not."""
    monkeypatch.setattr(pacing, "_GATES", {})


@pytest.fixture
def server() -> Iterator[FaultServer]:
    one = FaultServer()
    yield one
    one.close()


def quick(server: FaultServer, **options: object) -> tuple[Endpoint, list[float]]:
    """An endpoint whose pauses are written down instead of waited for."""
    pauses: list[float] = []
    return Endpoint(server.url, snapshot="s", sleep=pauses.append, **options), pauses  # type: ignore[arg-type]


class TestRequest:
    def test_posts_the_query_and_asks_for_gzip_json(self, server: FaultServer) -> None:
        server.replies = [reply(body=gzip.compress(BODY.encode()), Content_Encoding="gzip")]
        endpoint, _pauses = quick(server, user_agent="mine/1 (me@example.org)")
        assert endpoint.select(QUERY) == ROWS
        headers, query = server.requests[0]
        assert query == QUERY
        assert headers["user-agent"] == "mine/1 (me@example.org)"
        assert headers["accept-encoding"] == "gzip"
        assert "application/sparql-results+json" in headers["accept"]

    def test_one_connection_for_many_requests_and_counters(self, server: FaultServer) -> None:
        server.replies = [reply()]
        endpoint, _pauses = quick(server)
        for _ in range(20):
            endpoint.select(QUERY)
        assert server.connections == 1
        assert endpoint.requests == 20
        assert endpoint.bytes == 20 * len(BODY)

    def test_all_kinds_of_terms(self, server: FaultServer) -> None:
        row = {
            "a": {"type": "literal", "value": "5", "datatype": "http://x#integer"},
            "b": {"type": "literal", "value": "Wien", "xml:lang": "de"},
            "c": {"type": "bnode", "value": "b0"},
        }
        server.replies = [reply(body=json.dumps({"head": {"vars": ["a"]}, "results": {"bindings": [row]}}))]
        [terms] = quick(server)[0].select(QUERY)
        assert terms == {
            "a": Term("5", "literal", "http://x#integer"),
            "b": Term("Wien", "literal", None, "de"),
            "c": Term("b0", "bnode"),
        }


class TestFaults:
    def test_429_waits_what_it_is_told_and_no_less(self, server: FaultServer) -> None:
        server.replies = [reply(429, "slow down", Retry_After="1"), reply()]
        assert Endpoint(server.url, snapshot="s").select(QUERY) == ROWS
        assert server.times[1] - server.times[0] >= 1.0

    def test_retry_after_comes_before_any_pause_of_our_own(self, server: FaultServer) -> None:
        server.replies = [reply(503, "", Retry_After="7"), reply()]
        endpoint, pauses = quick(server)
        assert endpoint.select(QUERY) == ROWS
        assert [round(p, 1) for p in pauses] == [7.0]

    def test_a_day_of_retry_after_stops_the_run_and_the_next_ones(self, server: FaultServer) -> None:
        server.replies = [reply(429, "banned", Retry_After="86400")]
        with pytest.raises(RunError, match="asks to wait 86400 s"):
            quick(server)[0].select(QUERY)
        with pytest.raises(RunError, match="has asked not to be asked again before"):
            quick(server)[0].select(QUERY)
        assert len(server.requests) == 1

    def test_retry_after_nothing_is_no_leave_to_hammer(self, server: FaultServer) -> None:
        server.replies = [reply(429, "", Retry_After="0"), reply()]
        endpoint, pauses = quick(server)
        assert endpoint.select(QUERY) == ROWS
        assert len(pauses) == 1

    def test_no_other_thread_slips_through_before_a_retry_after(self, server: FaultServer) -> None:
        server.replies = [reply(429, "", Retry_After="0.5"), reply()]
        endpoint = Endpoint(server.url, snapshot="s", limits=Limits(in_flight=1, rate=1e6, burst=100))
        threads = [threading.Thread(target=endpoint.select, args=[QUERY]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.times) == 5
        assert server.times[1] - server.times[0] >= 0.5

    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    def test_passing_states_are_tried_again_with_growing_pauses(self, server: FaultServer, status: int) -> None:
        server.replies = [reply(status, "busy")] * 3 + [reply()]
        endpoint, pauses = quick(server)
        assert endpoint.select(QUERY) == ROWS
        assert len(pauses) == 3
        assert pauses[0] < pauses[2]

    def test_after_the_last_attempt_the_error_names_url_status_and_attempts(self, server: FaultServer) -> None:
        server.replies = [reply(503, "overloaded")]
        with pytest.raises(RunError, match=r"127\.0\.0\.1.*HTTP 503 \(overloaded\).*after 4 attempts.*Check"):
            quick(server)[0].select(QUERY)
        assert len(server.requests) == 4

    def test_403_is_not_tried_again(self, server: FaultServer) -> None:
        server.replies = [reply(403, "no")]
        for _ in range(2):
            with pytest.raises(HostRefuses, match=r"refuses this client.*user_agent"):
                quick(server)[0].select(QUERY)
        assert len(server.requests) == 1

    def test_400_is_not_tried_again_and_shows_the_parser_message(self, server: FaultServer) -> None:
        server.replies = [reply(400, "error at 1:17")]
        with pytest.raises(RunError, match="error at 1:17"):
            quick(server)[0].select(QUERY)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        "bad",
        [
            reply(body=BODY, cut=20),
            reply(body=BODY[:-20]),
            reply(body=""),
            reply(body="{}"),
            reply(body="[]"),
            reply(body='{"head": {}, "results": {}}'),
            reply(body="", Content_Type="text/html"),
            reply(body=gzip.compress(BODY.encode())[:-12], Content_Encoding="gzip"),
            reply(body=BODY, cut=20, chunked=True),
            reply(body=BODY, cut=5, chunked=True),
            reply(body="[" * 100_000),
            reply(body='{"boolean": true}'),
            reply(body=b"\xff" + BODY.encode()),
        ],
        ids=[
            *("connection cut", "body cut", "empty", "no result", "list", "no bindings", "empty html", "cut gzip"),
            *("cut chunk", "no last chunk", "deep", "of an ASK", "no UTF-8"),
        ],
    )
    def test_what_is_no_whole_result_is_never_empty(self, server: FaultServer, bad: Reply) -> None:
        server.replies = [bad, reply()]
        assert quick(server)[0].select(QUERY) == ROWS
        server.replies = [bad]
        # A smaller query may well pass: a server at its time limit breaks off.
        with pytest.raises(QueryTooHeavy, match="after 4 attempts"):
            quick(server)[0].select(QUERY)

    def test_a_chunked_answer(self, server: FaultServer) -> None:
        server.replies = [reply(chunked=True)]
        endpoint, _pauses = quick(server)
        assert [endpoint.select(QUERY) for _ in range(3)] == [ROWS] * 3
        assert server.connections == 1

    @pytest.mark.parametrize("status", [200, 206])
    def test_a_part_of_the_answer_that_virtuoso_calls_so(self, server: FaultServer, status: int) -> None:
        server.replies = [reply(status, X_SQL_State="S1TAT")]
        with pytest.raises(QueryTooHeavy, match="only a part of the answer, after 2 attempts"):
            quick(server)[0].select(QUERY)

    def test_a_timeout_that_is_written_into_the_answer(self, server: FaultServer) -> None:
        server.replies = [reply(body=BODY[:-20] + "\njava.util.concurrent.TimeoutException\n\tat java.base")]
        with pytest.raises(QueryTooHeavy, match="after 2 attempts"):
            quick(server)[0].select(QUERY)

    def test_a_reset_connection(self, server: FaultServer) -> None:
        server.replies = [reset, reply()]
        assert quick(server)[0].select(QUERY) == ROWS

    def test_an_empty_result_is_empty(self, server: FaultServer) -> None:
        server.replies = [reply(body='{"head": {"vars": []}, "results": {"bindings": []}}')]
        assert quick(server)[0].select(QUERY) == []

    @pytest.mark.parametrize("slow", [drip, drip_head])
    def test_a_drip_ends_at_the_deadline(self, server: FaultServer, slow: Misbehaviour) -> None:
        server.replies = [slow]
        endpoint, _pauses = quick(server, timeout=0.4)
        start = time.monotonic()
        with pytest.raises(QueryTooHeavy, match=r"no complete answer within 0\.4 s, after 2 attempts"):
            endpoint.select(QUERY)
        assert time.monotonic() - start >= 0.8

    def test_a_silent_server_ends_at_the_deadline(self, server: FaultServer) -> None:
        server.replies = [lambda _connection: time.sleep(3)]
        with pytest.raises(QueryTooHeavy, match="no complete answer"):
            quick(server, timeout=0.3)[0].select(QUERY)

    def test_a_server_side_timeout_is_too_heavy(self, server: FaultServer) -> None:
        server.replies = [reply(500, "java.util.concurrent.TimeoutException")]
        with pytest.raises(QueryTooHeavy, match="after 2 attempts"):
            quick(server)[0].select(QUERY)

    def test_a_dead_endpoint(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        with pytest.raises(RunError, match=rf"cannot reach {url} after 4 attempts.*refused"):
            Endpoint(url, snapshot="s", sleep=lambda _s: None).select(QUERY)

    def test_a_moved_endpoint_names_its_new_url(self, server: FaultServer) -> None:
        server.replies = [reply(301, "", Location="https://elsewhere/sparql")]
        with pytest.raises(RunError, match="moved to https://elsewhere/sparql"):
            quick(server)[0].select(QUERY)


class TestAsk:
    @pytest.mark.parametrize("answer", [True, False])
    def test_says_so(self, server: FaultServer, answer: bool) -> None:
        server.replies = [reply(body=json.dumps({"head": {}, "boolean": answer}))]
        assert quick(server)[0].ask("ASK {}") is answer

    @pytest.mark.parametrize("body", ["", "{}", '{"boolean": "false"}', '{"boolean": null}', BODY])
    def test_no_answer_is_no_no(self, server: FaultServer, body: str) -> None:
        server.replies = [reply(body=body)]
        with pytest.raises(RunError, match="no whole SPARQL result"):
            quick(server)[0].ask("ASK {}")


class TestRecord:
    def test_of_an_answer(self, server: FaultServer) -> None:
        server.replies = [reply(503, "busy", Retry_After="0.2"), reply()]
        records: list[RequestRecord] = []
        before = datetime.now(UTC)
        endpoint = Endpoint(server.url, snapshot="s", on_request=records.append)
        endpoint.select(QUERY)
        [record] = records
        assert record.query_hash == hashlib.sha256(QUERY.encode()).hexdigest()[:16]
        assert before <= record.started_at < before + timedelta(seconds=5)
        assert (record.outcome, record.status, record.attempts, record.rows) == ("ok", 200, 2, 1)
        assert record.bytes == endpoint.bytes == len("busy") + len(BODY)
        assert 0.2 <= record.waited < record.seconds < 2

    @pytest.mark.parametrize(
        ("answer", "outcome", "status", "attempts"),
        [
            (reply(500, "QueryTimeoutException"), "late", 500, 2),
            (reply(413, "too large"), "late", 413, 1),
            (drip_head, "late", 200, 2),
            (drip, "late", 200, 2),
            (reply(body=BODY, cut=1), "cut", 200, 4),
            (reply(body=""), "cut", 200, 4),
            (reply(429, ""), "passing", 429, 4),
            (reset, "passing", None, 4),
            (reply(429, "", Retry_After="86400"), "passing", 429, 1),
            (reply(403, ""), "refused", 403, 1),
            (reply(400, "no SPARQL"), "rejected", 400, 1),
            (reply(404, ""), "rejected", 404, 1),
            (reply(301, "", Location="https://x/"), "rejected", 301, 1),
        ],
    )
    def test_of_a_failure(
        self, server: FaultServer, answer: Reply | Misbehaviour, outcome: str, status: int | None, attempts: int
    ) -> None:
        server.replies = [answer]
        records: list[RequestRecord] = []
        endpoint, _pauses = quick(server, on_request=records.append, timeout=0.4)
        with pytest.raises(RunError):
            endpoint.select(QUERY)
        [record] = records
        assert record[2:5] == (outcome, status, attempts)
        assert record.rows == 0
        assert endpoint.requests == attempts == len(server.requests)

    def test_of_what_was_not_even_sent(self, server: FaultServer) -> None:
        server.replies = [reply(403, "")]
        records: list[RequestRecord] = []
        endpoint, _pauses = quick(server, on_request=records.append)
        for _ in range(2):
            with pytest.raises(HostRefuses):
                endpoint.select(QUERY)
        assert [(record.outcome, record.attempts, record.status) for record in records] == [
            ("refused", 1, 403),
            ("refused", 0, None),
        ]

    def test_of_a_dead_endpoint(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        records: list[RequestRecord] = []
        with pytest.raises(RunError):
            Endpoint(url, snapshot="s", sleep=lambda _s: None, on_request=records.append).ask("ASK {}")
        assert records[0][2:6] == ("unreached", None, 4, 0)

    def test_a_log_that_fails_fails_the_call(self, server: FaultServer) -> None:
        def full(_record: RequestRecord) -> None:
            raise OSError("disk full")

        server.replies = [reply()]
        with pytest.raises(OSError, match="disk full"):
            quick(server, on_request=full)[0].select(QUERY)


class TestLimits:
    def test_two_endpoints_of_a_host_share_one_gate(self, server: FaultServer) -> None:
        server.replies = [reply()]
        limits = Limits(rate=4.0, burst=1)
        one, pauses = quick(server, limits=limits)
        other = Endpoint(server.url + "/other", snapshot="s", sleep=pauses.append)
        for endpoint in (one, other):
            endpoint.select(QUERY)
        assert len(pauses) == 1
        assert 0.1 < pauses[0] <= 0.25

    def test_processes_share_a_folder(self, server: FaultServer, tmp_path: Path) -> None:
        server.replies = [reply()]
        quick(server, shared=tmp_path / "slots")[0].select(QUERY)
        assert len(list((tmp_path / "slots").iterdir())) == 2

    def test_nothing_is_shared_for_this_machine(
        self, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pacing, "shared_folder", lambda: tmp_path / "slots")
        server.replies = [reply()]
        quick(server)[0].select(QUERY)
        assert not (tmp_path / "slots").exists()


HOSTILE = [
    "",
    "plain",
    '"',
    "\\",
    "'",
    '"""',
    '" } DROP ALL #',
    '\\" } DROP ALL #',
    "\\u0022 } DROP ALL #",
    "\\\\u0022 } DROP ALL #",
    "\\U00000022 } DROP ALL #",
    "\\u005C",
    "\\u000A",
    "\\\x01u0022",
    "a\nb\r\nc\td\be\fg",
    "".join(map(chr, range(1, 0x20))) + "\x7f\x80\x85\x9f\xa0",
    "\u2028\u2029\ufeff\ufffe\uffff\u202e",
    "𝔘\U0010ffff😀",
    "<http://x> ?s @en ^^xsd:string {} # \\",
    "ü" * 200_000,
    '"\\\n' * 50_000,
]


def shown(text: object) -> str:
    return repr(text)[:30]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    place = tmp_path_factory.mktemp("facts")
    (place / "one.nt").write_text('<http://x/1> <http://x/label> "\\"\\\\u0022"@en .\n')
    with local_endpoint([place / "one.nt"], place) as url:
        yield Endpoint(url, snapshot="s", limits=Limits(in_flight=4, rate=1e6, burst=1000, seconds_burst=1e6))


class TestTextLiteral:
    @pytest.mark.parametrize("text", HOSTILE, ids=shown)
    def test_reads_as_the_text_in_a_real_server(self, real: Endpoint, text: str) -> None:
        query = f"{PREFIXES}SELECT ?x ?n WHERE {{ BIND({text_literal(text)} AS ?x) BIND(STRLEN(?x) AS ?n) }}"
        [row] = real.select(query)
        assert row["x"] == Term(text, "literal")
        assert int(row["n"].value) == len(text)

    def test_with_a_language_in_a_real_server(self, real: Endpoint) -> None:
        label = text_literal('"\\u0022', "en")
        found = real.select(f"SELECT ?s WHERE {{ ?s ?p {label} }}")
        assert found == [{"s": Term("http://x/1", "uri")}]
        assert real.ask(f"ASK {{ ?s ?p {text_literal('x', 'zh-hant')} }}") is False

    def test_reads_the_same_whenever_escapes_are_replaced(self) -> None:
        """An engine may replace codepoint escapes in the whole query first, or string escapes in one go with them."""
        rng = random.Random(0)
        for _ in range(3000):
            text = "".join(
                rng.choices(["\\", "u", "U", "0", "0022", '"', "\n", "\x01", "\x85", "é"], k=rng.randrange(9))
            )
            literal = text_literal(text)
            assert unescaped(codepoints(literal)) == text
            assert unescaped(literal) == text

    @pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 1000 + "\udfff", "\ude00\ud83d"], ids=shown)
    def test_what_no_literal_holds(self, text: str) -> None:
        with pytest.raises(InputError, match="NUL or half a surrogate pair") as caught:
            text_literal(text)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400

    @pytest.mark.parametrize("lang", ["", "en ", "en\n", "e1", "-", "en-", "en@", 'en" }', "é", "en_US"])
    def test_language_tags(self, lang: str) -> None:
        with pytest.raises(InputError, match="language tag"):
            text_literal("x", lang)

    def test_half_a_character_in_a_query(self, server: FaultServer) -> None:
        with pytest.raises(InputError, match="surrogate"):
            quick(server)[0].select(QUERY + "\ud800")
        assert server.requests == []

    def test_an_update_is_sent_as_a_query_and_so_refused(self, real: Endpoint) -> None:
        with pytest.raises(RunError, match="HTTP 400"):
            real.select("DROP ALL")
        assert real.ask("ASK { ?s ?p ?o }")


def codepoints(query: str) -> str:
    return re.sub(r"\\u([0-9A-F]{4})", lambda match: chr(int(match[1], 16)), query)


def unescaped(literal: str) -> str:
    """What a double-quoted literal reads as, by SPARQL's grammar. Fails if it ends before its last character."""
    short = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\"}
    assert re.fullmatch(r'"(?:[^"\\\n\r]|\\[tnrbf"\\]|\\u[0-9A-F]{4})*"', literal), literal
    return re.sub(
        r"\\(?:u([0-9A-F]{4})|(.))",
        lambda match: chr(int(match[1], 16)) if match[1] else short[match[2]],
        literal[1:-1],
    )


class TestInput:
    @pytest.mark.parametrize("url", ["ftp://x/", "query.wikidata.org", "http://", "http://a b/", "http://x:port/", ""])
    def test_url(self, url: str) -> None:
        with pytest.raises(InputError, match="url"):
            Endpoint(url, snapshot="s")

    def test_a_password_in_the_url(self) -> None:
        with pytest.raises(InputError, match="password"):
            Endpoint("https://me:secret@example.org/", snapshot="s", user_agent="x (a@b.org)")

    @pytest.mark.parametrize(
        "number", [{"attempts": 0}, {"timeout": 0}, {"timeout": float("inf")}, {"timeout": float("nan")}]
    )
    def test_numbers(self, number: dict[str, float]) -> None:
        with pytest.raises(InputError, match=next(iter(number))):
            Endpoint("http://localhost/", snapshot="s", **number)  # type: ignore[arg-type]

    @pytest.mark.parametrize("agent", [None, "", "mybot/1.0", "me at example.org"])
    def test_a_public_host_wants_a_contact(self, agent: str | None) -> None:
        with pytest.raises(InputError, match=r"user_agent.*query\.wikidata\.org"):
            Endpoint("https://query.wikidata.org/sparql", snapshot="s", user_agent=agent)

    @pytest.mark.parametrize("agent", ["x (me@example.org)", "x (https://example.org/bot)"])
    def test_contacts(self, agent: str) -> None:
        assert Endpoint("https://query.wikidata.org/sparql", snapshot="s", user_agent=agent).user_agent == agent

    def test_a_header_cannot_be_smuggled_in(self) -> None:
        with pytest.raises(InputError, match="line breaks"):
            Endpoint("http://localhost/", snapshot="s", user_agent="x\r\nHost: y")

    def test_values_are_distinct_ids_in_order(self) -> None:
        assert entity_values(["Q2", "P31", "Q2"], "e") == "VALUES ?e { wd:Q2 wd:P31 }"

    @pytest.mark.parametrize("bad", ["Q1 } DROP ALL #", "q1", "Q0", "Q", "", "Q1\n", "L5", "Q１"])
    def test_only_ids_become_sparql(self, bad: str) -> None:
        with pytest.raises(InputError, match="Q42"):
            entity_values(["Q1", bad])
