"""The endpoint against a socket server that misbehaves in all the ways that public endpoints do."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import parse_qs

import pytest

from kg.endpoint import Endpoint, QueryTooHeavy, Term, entity_values
from kg.pacing import Gate, retry_after
from store.types import InputError, RunError

QUERY = "SELECT ?s WHERE { ?s ?p ?o }"
BODY = json.dumps({"head": {"vars": ["s"]}, "results": {"bindings": [{"s": {"type": "uri", "value": "http://x/1"}}]}})
ROWS = [{"s": Term("http://x/1", "uri")}]


def reply(status: int = 200, body: bytes | str = BODY, *, cut: int = 0, **headers: str) -> bytes:
    """A whole HTTP answer; ``cut`` bytes of the promised body are missing."""
    content = body.encode() if isinstance(body, str) else body
    lines = {"Content-Type": "application/sparql-results+json", "Content-Length": str(len(content))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content[: len(content) - cut]


class FaultServer:
    """Answers each request with the next of its replies (the last one for ever), and keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[bytes | Callable[[socket.socket], None]] = []
        self.requests: list[tuple[dict[str, str], str]] = []
        self.times: list[float] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/sparql"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while stream.readline():
                    headers = {}
                    while (line := stream.readline().decode().strip()) != "":
                        name, _, value = line.partition(": ")
                        headers[name.lower()] = value
                    query = parse_qs(stream.read(int(headers["content-length"])).decode())["query"][0]
                    self.requests.append((headers, query))
                    self.times.append(time.monotonic())
                    answer = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                    if callable(answer):
                        answer(connection)
                        return
                    connection.sendall(answer)
                    if b"Content-Length" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < int(
                        answer.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
                    ):
                        connection.shutdown(socket.SHUT_RDWR)
                        return
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()
        self._thread.join(5)


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

    def test_a_day_of_retry_after_stops_the_run(self, server: FaultServer) -> None:
        server.replies = [reply(429, "banned", Retry_After="86400")]
        with pytest.raises(RunError, match="asks to wait 86400 s"):
            quick(server)[0].select(QUERY)
        assert len(server.requests) == 1

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
        with pytest.raises(RunError, match=r"refuses this client.*user_agent"):
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
        ],
        ids=["connection cut", "body cut", "empty", "no result", "list", "no bindings", "empty html", "cut gzip"],
    )
    def test_what_is_no_whole_result_is_never_empty(self, server: FaultServer, bad: bytes) -> None:
        server.replies = [bad, reply()]
        assert quick(server)[0].select(QUERY) == ROWS
        server.replies = [bad]
        with pytest.raises(RunError, match="after 4 attempts"):
            quick(server)[0].select(QUERY)

    def test_an_empty_result_is_empty(self, server: FaultServer) -> None:
        server.replies = [reply(body='{"head": {"vars": []}, "results": {"bindings": []}}')]
        assert quick(server)[0].select(QUERY) == []

    def test_a_drip_ends_at_the_deadline(self, server: FaultServer) -> None:
        def drip(connection: socket.socket) -> None:
            connection.sendall(reply(body=" " * 1000, cut=1000))
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.1)

        server.replies = [drip]
        endpoint, _pauses = quick(server, timeout=0.5)
        start = time.monotonic()
        with pytest.raises(QueryTooHeavy, match=r"no complete answer within 0\.5 s, after 2 attempts"):
            endpoint.select(QUERY)
        assert time.monotonic() - start < 2.0

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


class TestInput:
    @pytest.mark.parametrize("url", ["ftp://x/", "query.wikidata.org", "http://", "http://a b/", "http://x:port/", ""])
    def test_url(self, url: str) -> None:
        with pytest.raises(InputError, match="url"):
            Endpoint(url, snapshot="s")

    def test_a_password_in_the_url(self) -> None:
        with pytest.raises(InputError, match="password"):
            Endpoint("https://me:secret@example.org/", snapshot="s", user_agent="x (a@b.org)")

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


class TestPacing:
    def test_retry_after_forms(self) -> None:
        assert retry_after("120") == 120.0
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        assert 57 < (retry_after(later) or 0) <= 60
        assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
        assert retry_after("soon") is None
        assert retry_after(None) is None

    def test_requests_are_spaced_once_the_burst_is_used_up(self) -> None:
        gate, pauses = Gate(in_flight=2, rate=2.0, burst=3), list[float]()
        for _ in range(5):
            with gate.entered(pauses.append):
                pass
        assert [round(pause, 1) for pause in pauses] == [0.5, 1.0]

    def test_no_more_in_flight_than_allowed(self) -> None:
        gate, now, most = Gate(in_flight=2, rate=1e6, burst=100), [0], [0]
        lock = threading.Lock()

        def work() -> None:
            with gate.entered(time.sleep):
                with lock:
                    now[0] += 1
                    most[0] = max(most[0], now[0])
                time.sleep(0.02)
                with lock:
                    now[0] -= 1

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most[0] == 2

    def test_a_hold_is_for_everybody(self) -> None:
        gate, pauses = Gate(in_flight=2, rate=1e6, burst=100), list[float]()
        gate.hold(5)
        with gate.entered(pauses.append):
            pass
        assert [round(pause) for pause in pauses] == [5]
