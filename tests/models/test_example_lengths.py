"""Lengths of examples: what training itself counts, for many at a time, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.example_lengths import example_lengths, reader_key
from models.formats import FORMATS, render_prompt
from models.plain_tokenizer import PlainTokenizer
from models.registry import ModelEntry
from models.training_text import Example, UnfitExampleError, encode
from store.types import InputError, Message

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]


def entry(source: str, **changes: Any) -> ModelEntry:
    return ModelEntry.model_validate(
        {"alias": "m", "source": source, "context_length": 512, "parameters": 1, **changes}
    )


def example(number: int, **changes: Any) -> Example:
    asked = (Message(role="user", content=f"Where was number {number // 3} born? Ends in \\boxed{{}}."),)
    words = {"question_id": f"q{number}", "trace_id": f"t{number}", "messages": asked}
    thinking = f"  Ada {number}, naïve – 東京 🙂, place of birth: Paris.\n" * (number % 7 + 1)
    return Example(**{**words, "thinking": thinking, "answer": f" Paris {number}\n", **changes})


@pytest.mark.parametrize("form", ["blocks", "plain"])
def test_lengths_are_those_that_training_has(embedded: Path, tokenizer: Any, tmp_path: Path, form: str) -> None:
    examples = [
        *(example(number) for number in range(8)),
        example(1, thinking="ends <|im_end|> here"),
        example(2, answer="a<|im_start|>"),
    ]
    told: list[int] = []
    found = example_lengths(examples, entry(str(embedded)), form, tmp_path, told.append)
    assert found[:-2] == [len(encode(one, tokenizer, FORMATS[form]).input_ids) for one in examples[:-2]]
    for unfit in examples[-2:]:
        with pytest.raises(UnfitExampleError, match="special tokens"):
            encode(unfit, tokenizer, FORMATS[form])
    assert found[-2:] == [None, None]
    assert sum(told) == len(examples)


def test_the_plain_tokenizer_renders_as_transformers_does(embedded: Path, tokenizer: Any) -> None:
    plain = PlainTokenizer(embedded)
    messages = (Message(role="system", content="Be short."), Message(role="user", content="Who wrote Hamlet?"))
    for form in FORMATS.values():
        assert render_prompt(plain, messages, form) == render_prompt(tokenizer, messages, form)
    assert plain.eos_token_id == tokenizer.eos_token_id
    assert plain.get_vocab() == tokenizer.get_vocab()
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert {number for number, token in plain.added_tokens_decoder.items() if token.special} == special


def test_the_template_of_the_registry_counts_and_is_in_the_key(embedded: Path, tmp_path: Path) -> None:
    template = tmp_path / "long.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        + "Please! " * 40
        + "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    usual, longer = entry(str(embedded)), entry(str(embedded), chat_template=template)
    examples = [example(0), example(1)]
    longest = example_lengths(examples, longer, "blocks", tmp_path)
    for more, less in zip(longest, example_lengths(examples, usual, "blocks", tmp_path), strict=True):
        assert more is not None
        assert less is not None
        assert more > less
    keys = {reader_key(usual, "blocks"), reader_key(longer, "blocks"), reader_key(usual, "plain")}
    assert len(keys) == 3
    template.write_text(template.read_text() + " ")
    assert reader_key(longer, "blocks") not in keys


def test_a_hosted_model_has_no_tokenizer() -> None:
    server = {"url": "https://api.example.org/v1", "model": "x", "api": "chat"}
    hosted = ModelEntry.model_validate({"alias": "far", "source": "hosted", "context_length": 8, "server": server})
    with pytest.raises(InputError, match="only behind an API"):
        reader_key(hosted, "blocks")


def test_counting_imports_no_torch(embedded: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom models.example_lengths import example_lengths\n"
        "from models.registry import ModelEntry\nfrom models.training_text import Example\nfrom store.types import Message\n"
        f"entry = ModelEntry(alias='m', source={str(embedded)!r}, context_length=512, parameters=1)\n"
        "one = Example(question_id='q', trace_id='t', messages=(Message(role='user', content='?'),), thinking='x', answer='y')\n"
        "assert example_lengths([one], entry, 'blocks', Path('.'))[0] > 10\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
