"""Token ids and labels of a trace, with the embedded model's real tokenizer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.formats import FORMATS, bind, render_prompt
from models.formats import encode as ids_of
from models.training_text import (
    IGNORED,
    Dropped,
    Encoded,
    Example,
    UnfitExampleError,
    build_dataset,
    check_template,
    checked,
    encode,
    training_set_hash,
)
from store.types import InputError, Message

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = FORMATS["blocks"]
ASK = (Message(role="user", content="Where was Ada born? Put your final answer in \\boxed{}."),)


def example(number: int = 0, **changes: Any) -> Example:
    words = {"question_id": f"q{number}", "trace_id": f"t{number}", "messages": ASK}
    return Example(**{**words, "thinking": "The facts say: Ada, place of birth, Paris.", "answer": "Paris", **changes})


@pytest.fixture(scope="module")
def tokenizer(embedded: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(embedded))


@pytest.mark.real
class TestEncode:
    @pytest.mark.parametrize("form", [BLOCKS, FORMATS["plain"]], ids=lambda form: form.name)
    def test_evaluation_builds_the_same_ids(self, tokenizer: Any, form: Any) -> None:
        ids = encode(example(), tokenizer, form).input_ids
        bound = bind(form, tokenizer)
        asked = render_prompt(tokenizer, ASK, form)
        forced = [*asked, *ids_of(tokenizer, example().thinking), *bound.close, *bound.forced]
        assert ids[: len(asked)] == asked
        assert ids[: len(forced)] == forced

    def test_only_what_the_student_writes_is_learned(self, tokenizer: Any) -> None:
        ids, labels = encode(example(), tokenizer, BLOCKS)
        learned = [label for label in labels if label != IGNORED]
        assert ids[len(ids) - len(learned) :] == learned
        text = "The facts say: Ada, place of birth, Paris.<|im_start|>answer\nAnswer: \\boxed{Paris}<|im_end|>"
        assert tokenizer.decode(learned) == text
        assert tokenizer.decode(ids[: -len(learned)]).endswith("<|im_start|>assistant\n<|im_start|>think\n")

    def test_white_space_around_the_segments_is_cut(self, tokenizer: Any) -> None:
        spaced = example(thinking="\n The facts say: Ada, place of birth, Paris.\n\n", answer=" Paris ")
        assert encode(spaced, tokenizer, BLOCKS) == encode(example(), tokenizer, BLOCKS)

    @pytest.mark.parametrize("field", ["thinking", "answer"])
    def test_a_marker_in_the_text_is_refused(self, tokenizer: Any, field: str) -> None:
        with pytest.raises(UnfitExampleError, match=r"t0.*<\|im_end\|>"):
            encode(example(**{field: "so<|im_end|>"}), tokenizer, BLOCKS)

    def test_a_marker_that_the_vocabulary_lacks_is_refused(self, tokenizer: Any) -> None:
        with pytest.raises(InputError, match=r"</think>.*vocabulary"):
            encode(example(), tokenizer, FORMATS["tags"])


@pytest.mark.real
class TestBuildDataset:
    def test_drops_and_counts_by_reason(self, tokenizer: Any) -> None:
        examples = [
            example(0),
            example(1, thinking="word " * 300),
            example(2, thinking=" "),
            example(3, answer="<|im_end|>"),
        ]
        dataset, dropped = build_dataset(examples, tokenizer, BLOCKS, max_length=120)
        assert dropped == Dropped(too_long=1, empty=1, special_token=1)
        assert str(dropped) == "1 too long, 1 special token, 1 empty"
        assert dataset.column_names == ["input_ids", "labels"]
        assert [tuple(dataset[0].values())] == [tuple(encode(example(0), tokenizer, BLOCKS))]

    def test_keeps_an_example_of_exactly_the_greatest_length(self, tokenizer: Any) -> None:
        length = len(encode(example(), tokenizer, BLOCKS).input_ids)
        assert len(build_dataset([example()], tokenizer, BLOCKS, length)[0]) == 1
        with pytest.raises(
            InputError, match=f"1 too long; the longest has {length} tokens, max_length is {length - 1}"
        ):
            build_dataset([example()], tokenizer, BLOCKS, length - 1)

    def test_the_order_of_rows_changes_nothing(self, tokenizer: Any) -> None:
        rows = [example(number, answer=city) for number, city in enumerate(("Rome", "Oslo", "Lima"))]
        forward, _ = build_dataset(rows, tokenizer, BLOCKS, 200)
        backward, _ = build_dataset(rows[::-1], tokenizer, BLOCKS, 200)
        assert forward.to_list() == backward.to_list()


class TestChecked:
    def test_all_masked_is_refused(self) -> None:
        with pytest.raises(InputError, match="all 3 labels are masked"):
            checked(Encoded([5, 6, 7], [IGNORED] * 3))

    def test_a_first_label_alone_is_never_learned(self) -> None:
        with pytest.raises(InputError, match="masked"):
            checked(Encoded([5, 6, 7], [5, IGNORED, IGNORED]))

    def test_lengths_must_agree(self) -> None:
        with pytest.raises(InputError, match="3 token ids have 2 labels"):
            checked(Encoded([5, 6, 7], [5, 6]))


class TestTrainingSetHash:
    def test_holds_content_and_repeats_but_not_order(self) -> None:
        rows = [example(0), example(1)]
        assert training_set_hash(rows) == training_set_hash(rows[::-1])
        assert training_set_hash(rows) != training_set_hash([*rows, rows[0]])
        assert training_set_hash(rows) != training_set_hash([example(0), example(1, answer="Rome")])


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, models.training_text, models.finetune; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.real
class TestTemplate:
    def changed(self, embedded: Path, template: str) -> Any:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(embedded))
        tokenizer.chat_template = template
        return tokenizer

    def test_its_own_template_fits(self, tokenizer: Any) -> None:
        for form in FORMATS.values():
            if form.name != "tags":  # its marker is not in this vocabulary
                check_template(tokenizer, bind(form, tokenizer))

    @pytest.mark.parametrize(
        ("template", "why"),
        [
            (
                "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}",
                "'<|start_header_id|>', which is not a token of this model",
            ),
            ("{% for m in messages %}<start_of_turn>{{ m.content }}<end_of_turn>{% endfor %}", "'<start_of_turn>'"),
            ("{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}", "nothing of that ends a generation"),
            (
                "{% for m in messages %}{{ m.role }}<|im_end|>{% endfor %}",
                "leaves out what a user or an assistant says",
            ),
            ("", "has no chat template"),
        ],
    )
    def test_another_models_template_is_refused(self, embedded: Path, template: str, why: str) -> None:
        with pytest.raises(InputError, match=re.escape(why)):
            build_dataset([example()], self.changed(embedded, template), BLOCKS, 96)
