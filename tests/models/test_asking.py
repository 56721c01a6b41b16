"""Short replies, without thinking."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from scripted_engine import Scripted

from models.asking import Ask, Asker, Reply
from models.engines.base import GenerationLog
from models.formats import FORMATS, decode
from store.types import Message, Sampling


def asked(engine: Scripted, asks: list[Ask], fmt: str = "plain") -> dict[str, Reply]:
    asker: Any = Asker(engine, FORMATS[fmt], Sampling(), 8, GenerationLog(None))
    asker.add(asks)
    replies: list[Reply] = []
    while done := asker.wait():
        replies += done
    return {reply.id: reply for reply in replies}


def test_a_model_that_thinks_is_given_a_closed_thought(tokenizer: Any) -> None:
    engine = Scripted(tokenizer, [33], stop=tokenizer.eos_token_id)
    replies = asked(engine, [Ask("a", (Message(role="user", content="Digit:"),), 1)], "blocks")
    assert decode(tokenizer, engine.calls[0][0].token_ids).endswith("<|im_start|>think\n<|im_start|>answer\n")
    assert (replies["a"].finish, replies["a"].generated) == ("stop", 2)


def test_a_question_that_does_not_fit_stops_nobody(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    engine = Scripted(tokenizer, [33], stop=tokenizer.eos_token_id)
    engine.context_length = 80
    long = (Message(role="user", content="gold answer " * 60),)
    with caplog.at_level(logging.WARNING):
        replies = asked(engine, [Ask("long", long, 1), Ask("short", (Message(role="user", content="Digit:"),), 1)])
    assert replies["long"] == Reply("long", "", "length", 0, 0, 0)
    assert replies["short"].finish == "stop"
    assert "long" in caplog.text
