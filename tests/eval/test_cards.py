"""Cards: YAML that the hub reads, Markdown in which nothing of models and benchmarks acts, no licence that nobody gave."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from made_study import HOSTILE

from eval.card_columns import COLUMNS
from eval.card_facts import (
    BenchmarkFacts,
    ChainFacts,
    CheckFacts,
    ConfigFacts,
    DatasetFacts,
    ExampleFacts,
    JudgeFacts,
    ModelFacts,
    ResultFacts,
    SplitFacts,
    TrainingFacts,
)
from eval.card_markdown import TERMS, code, fenced, plain, table
from eval.cards import dataset_card, model_card

EVIL = f"{HOSTILE} | ![x](http://evil.example/x.png) [y](http://evil.example) `z`\n---\n# title"

TRAINING = TrainingFacts(
    recipe="fs1", training_set="abc123", rows=1200, held_out=100, questions=1100, teachers=("qwq-32b",),
    teacher_keys=("Qwen/QwQ-32B@" + "b" * 40,), candidates=2000, accuracy=0.625, mean_thinking_tokens=767.4,
    dropped={"wrong": 700, "cut": 100},
)  # fmt: skip
RESULT = ResultFacts(
    setting="fs1", dataset="cwq", budget=512, n=3531, accuracy=0.209, standard_error=0.0068, n_clean=3500,
    accuracy_clean=0.201, traces=56496, cut=12, unparsed=5, refused=2, missing=7,
)  # fmt: skip


def dataset(**changes: Any) -> DatasetFacts:
    splits = (SplitFacts(name="train", rows=1100, questions=1000, tokens=900_000),)
    known: dict[str, Any] = {
        "kind": "training",
        "study": "demo",
        "study_key": "0" * 32,
        "configs": (ConfigFacts(name="fs1", note="what it holds", splits=splits),),
        "benchmarks": (BenchmarkFacts(dataset="cwq", split="dev", questions=1000, files=("sha256:12",)),),
        "training": (TRAINING,),
        "versions": {"factscale": "0.1.0"},
    }
    return DatasetFacts(**{**known, **changes})


def model(**changes: Any) -> ModelFacts:
    known: dict[str, Any] = {
        "name": "qwen2.5-0.5b-fs1",
        "key": "d" * 32,
        "method": "lora",
        "base": "qwen2.5-0.5b",
        "base_key": "Qwen/Qwen2.5-0.5B-Instruct@" + "7" * 40,
        "base_id": "Qwen/Qwen2.5-0.5B-Instruct",
        "base_revision": "7" * 40,
        "think_open": "<|im_start|>think\n",
        "think_close": "<|im_start|>answer\n",
        "answer_open": "Answer: \\boxed{",
        "hyperparameters": {"learning_rate": 1e-5, "max_steps": None},
        "training": TRAINING,
        "benchmarks": (BenchmarkFacts(dataset="cwq", split="dev", questions=1000),),
        "examples": 1100,
        "held_out_examples": 100,
        "dropped": {"too_long": 3, "empty": 0},
        "steps": 345,
        "tokens": 1_000_000,
        "seconds": 60.0,
        "device": "cuda",
        "precision": "bf16",
        "held_out_before": 2.0,
        "held_out_after": None,
        "study": "demo",
        "study_key": "0" * 32,
        "results": (RESULT,),
        "compared": True,
        "chain": ChainFacts(path=("a, b, c",), dataset="cwq", question_id="q1", trace="t1", position=3),
        "versions": {"torch": "2.13.0"},
        "weights": {"adapter_model.safetensors": "e" * 64},
    }
    return ModelFacts(**{**known, **changes})


def outside_code(markdown: str) -> str:
    """The Markdown without its code blocks, in which everything may stand."""
    return re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", markdown)


class TestFront:
    def test_a_dataset_names_its_files_by_configuration_and_split(self) -> None:
        card = DatasetCard(dataset_card(dataset()))
        assert card.data.configs == [
            {"config_name": "fs1", "data_files": [{"split": "train", "path": "data/fs1/train-*.parquet"}]}
        ]
        assert card.data.size_categories == ["1K<n<10K"]
        assert card.data.language == ["en"]

    @pytest.mark.parametrize(
        ("rows", "size"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (1_700_000, "1M<n<10M"), (2 * 10**9, "n>1B")]
    )
    def test_sizes_as_the_hub_names_them(self, rows: int, size: str) -> None:
        split = SplitFacts(name="test", rows=rows, questions=1)
        card = DatasetCard(dataset_card(dataset(configs=(ConfigFacts(name="x", note="", splits=(split,)),))))
        assert card.data.size_categories == [size]

    def test_a_licence_stands_there_only_if_it_was_given(self) -> None:
        assert DatasetCard(dataset_card(dataset())).data.license is None
        assert "No licence was given" in dataset_card(dataset())
        assert DatasetCard(dataset_card(dataset(license="cc-by-4.0"))).data.license == "cc-by-4.0"
        assert ModelCard(model_card(model())).data.license is None
        assert ModelCard(model_card(model(license="mit"))).data.license == "mit"

    def test_the_language_of_a_set_of_ones_own_is_not_claimed(self) -> None:
        own = (BenchmarkFacts(dataset="my-set", split="test", questions=3),)
        card = dataset_card(dataset(benchmarks=own))
        assert DatasetCard(card).data.language is None
        assert "a set of the study's own: not known to factscale" in card

    @pytest.mark.parametrize(
        ("changes", "library", "base", "relation"),
        [
            ({}, "peft", "Qwen/Qwen2.5-0.5B-Instruct", "adapter"),
            ({"method": "full"}, "transformers", "Qwen/Qwen2.5-0.5B-Instruct", "finetune"),
            ({"base_id": None, "base_revision": None}, "peft", None, None),
        ],
    )
    def test_a_model_names_its_base_where_the_hub_has_it(
        self, changes: dict[str, Any], library: str, base: str | None, relation: str | None
    ) -> None:
        data = ModelCard(model_card(model(**changes))).data
        assert (data.library_name, data.base_model, data.get("base_model_relation")) == (library, base, relation)
        assert data.pipeline_tag == "text-generation"

    def test_a_name_cannot_end_the_yaml(self) -> None:
        card = dataset_card(dataset(study="x\n---\nlicense: mit"))
        assert DatasetCard(card).data.pretty_name == "Training sets of the study x\n---\nlicense: mit"
        assert DatasetCard(card).data.license is None


class TestInert:
    def test_nothing_of_a_dataset_acts(self) -> None:
        facts = dataset(
            study=EVIL,
            training=(TRAINING.model_copy(update={"teachers": (EVIL,), "dropped": {EVIL: 1}, "recipe": EVIL}),),
            benchmarks=(BenchmarkFacts(dataset=EVIL, split="dev", questions=1, files=(EVIL,)),),
            example=ExampleFacts(config=EVIL, question=EVIL, thinking="```\n<b>\n````", answer=EVIL),
            versions={EVIL: EVIL},
        )
        self.check(dataset_card(facts))
        judged = dataset(kind="traces", study=EVIL, judges=(JudgeFacts(judge=EVIL, model=EVIL, question="grade"),))
        self.check(dataset_card(judged))

    def test_nothing_of_a_model_acts(self) -> None:
        chain = ChainFacts(path=(EVIL,), dataset=EVIL, question_id=EVIL, trace=EVIL, position=0)
        self.check(
            model_card(model(name=EVIL, base=EVIL, base_id=None, study=EVIL, chain=chain, versions={EVIL: EVIL}))
        )
        self.check(model_card(model(results=(RESULT.model_copy(update={"dataset": EVIL, "setting": EVIL}),))))

    def check(self, card: str) -> None:
        text = outside_code(card.split("\n---\n", 1)[1])
        spans = re.sub(r"(?<!\\)`[^`\n]*`", "", text)
        assert "<" not in spans
        assert not re.search(r"(?<!\\)\]\(http://evil", spans)
        assert not re.search(r"(?m)^# title", text)
        assert text.count("\n# ") == 1
        for block in re.findall(r"(?m)(?:^\|.*\n?)+", text):  # every row of a table has the cells of its head
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
            assert len(widths) == 1, block

    def test_a_fence_is_longer_than_what_it_holds(self) -> None:
        assert fenced("a\n````\nb", "text").splitlines()[0] == "`````text"
        assert fenced("a", "text") == "```text\na\n```"

    def test_plain_text_and_code(self) -> None:
        assert plain("a|b [c] `d` <e>\nf") == "a\\|b \\[c\\] \\`d\\` &lt;e&gt; f"
        assert code("a`b|c\nd") == "a'b\\|c d"
        assert table(("x",), [("<b>",)]).splitlines()[-1] == "| &lt;b&gt; |"


class TestWhatIsTold:
    def test_of_a_training_set(self) -> None:
        card = dataset_card(dataset())
        assert "**fs1** (`abc123`): 1,200 traces by qwq-32b" in card
        assert "on 1,100 questions, 100 of them held out of training" in card
        assert "chosen from 2,000 traces, of which 62.5 % were right. Left out: cut 100, wrong 700." in card
        assert "767 tokens in the mean" in card
        assert (
            "[ComplexWebQuestions](https://www.tau-nlp.sites.tau.ac.il/compwebq) | dev | 1,000 | `sha256:12` |" in card
        )
        assert all(f"| `{column.name}` | " in card for column in COLUMNS["training"])

    def test_of_a_mix_and_what_its_teachers_were_worth(self) -> None:
        numbers = {
            "candidates": 1000,
            "kept": 600,
            "accuracy": 0.625,
            "judge_accuracy": 0.5,
            "max_example_tokens": 8001,
        }
        each = {**numbers, "semantic_match": 0.25}
        sources = [{**each, "recipe": recipe, "teacher": f"{recipe}-teacher"} for recipe in ("rt", "fs1")]
        mix = TRAINING.model_copy(
            update={
                "recipe": "both",
                "recipes": {"rt": 500, "fs1": 700},
                "accept": "both",
                "judge": "llama@1",
                "max_tokens": 8192,
                "statistics": {**numbers, "sources": sources},
            }
        )
        card = dataset_card(dataset(training=(mix,)))
        assert "**both** (`abc123`): 1,200 traces (500 rt and 700 fs1) by qwq-32b" in card
        assert "A trace was accepted where its answer matches a gold one and a judge agrees (`llama@1`)." in card
        assert "No example has more than 8,192 tokens." in card
        assert "| both | all | 1,000 | 600 | 62.5 | – | 50.0 | – | – | 8,001 |" in card
        assert "| both: fs1 | fs1-teacher | 1,000 | 600 | 62.5 | 25.0 | 50.0 | – | – | 8,001 |" in card

    def test_of_a_training_set_of_its_own(self) -> None:
        split = SplitFacts(name="train", rows=3, questions=3, file="train.parquet")
        card = dataset_card(dataset(configs=(ConfigFacts(name="both", note="", splits=(split,)),), study_key=None))
        assert DatasetCard(card).data.configs == [
            {"config_name": "both", "data_files": [{"split": "train", "path": "train.parquet"}]}
        ]
        assert "study key" not in card

    def test_of_traces_and_results(self) -> None:
        judges = (JudgeFacts(judge="j@1", model="llama", question="contains"),)
        told = dataset_card(dataset(kind="traces", judges=judges, scorers=("boxed@1", "match@2")))
        assert "read and matched by `boxed@1` and `match@2`. Judges: llama (question `contains`, id `j@1`)." in told
        assert "Flagged questions overlap" in told
        configs = tuple(
            ConfigFacts(name=name, note="", splits=(SplitFacts(name="results", rows=1, questions=1),))
            for name in ("leaderboard", "questions")
        )
        results = dataset_card(dataset(kind="results", configs=configs, training=(), compared=False))
        assert "No model judged them. These questions were not compared with those of training" in results
        assert all(
            f"| `{column.name}` | " in results for name in ("leaderboard", "questions") for column in COLUMNS[name]
        )

    def test_of_a_student(self) -> None:
        card = model_card(model())
        assert "| cwq | fs1 | 512 | 3,531 | 20.9 ± 0.7 | 3,500 | 20.1 | 31 | 12 of 56,496 | 7 | 7 |" in card
        assert "2.000 before, – after (nats a token)" in card
        assert "dropped: too_long 3." in card
        assert "| learning_rate | 1e-05 |" in card
        assert "max_steps" not in card
        assert "from_pretrained('Qwen/Qwen2.5-0.5B-Instruct', revision='" + "7" * 40 in card
        assert "a, b, c\n-> question cwq q1\n-> trace t1\n-> row 3 of training set abc123\n-> student ddd" in card
        assert f"| adapter_model.safetensors | {'e' * 64} |" in card
        assert "| – | – | – | 12 of" in model_card(model(compared=False))
        assert "No study in this store has asked it yet" in model_card(model(results=(), study=None, study_key=None))

    def test_of_a_student_that_was_asked_dev_questions(self) -> None:
        check = CheckFacts(
            dataset="held out",
            n=40,
            accuracy=0.25,
            low=0.142,
            high=0.402,
            boxed=0.9,
            base_accuracy=0.1,
            base_boxed=None,
        )
        card = model_card(model(checks=(check,)))
        assert "## On dev questions" in card
        assert "| held out | 40 | 25.0 (14.2–40.2) | 10.0 | 90.0 | – |" in card
        assert "## On dev questions" not in model_card(model())

    def test_of_a_student_of_files(self) -> None:
        training = TrainingFacts(
            recipe="born", training_set="abc123", rows=14, held_out=1, questions=12, teachers=("qwq-32b",),
            files={"born.jsonl": "9" * 64},
        )  # fmt: skip
        card = model_card(model(training=training, benchmarks=(), results=(), study=None, study_key=None, chain=None))
        assert ModelCard(card).data.tags == ["factscale", "reasoning", "factuality"]
        assert "trained on examples that were read from files. It thinks" in card
        assert (
            "14 examples by qwq-32b on 12 questions, 1 of them held out of training, from `born.jsonl` (sha256 `99"
            in card
        )
        assert "Files → training set `abc123` → student" in card
        assert "The examples stand under the terms of where they come from." in card
        assert "No study" not in card
        assert "| terms |" not in card

    def test_of_a_student_of_a_mix(self) -> None:
        card = model_card(model(training=TRAINING.model_copy(update={"recipe": "both"})))
        assert "a student of the mix `both` of teachers' reasoning traces. It thinks" in card
        assert "`factscale train abc123 --student qwen2.5-0.5b` with the hyperparameters above makes it again" in card

    def test_of_the_base_its_licence_or_where_it_stands(self) -> None:
        assert "[its page](https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct) names its licence" in model_card(model())
        known = model_card(model(base_id=None, base_revision=None, base_license="apache-2.0"))
        assert "Its licence is `apache-2.0`." in known
        assert "licence is" not in model_card(model(base_id=None, base_revision=None))

    def test_the_code_that_it_shows_is_python(self) -> None:
        cards = (
            model_card(model()),
            model_card(model(method="full")),
            model_card(model(base_id=None)),
            dataset_card(dataset()),
        )
        for card in cards:
            blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", card)
            assert len(blocks) == 1
            compile(blocks[0], "card", "exec")

    def test_no_licence_is_claimed_that_is_not_known(self) -> None:
        assert TERMS["mintaka"].terms == "CC BY 4.0"
        assert all("not known" in TERMS[name].terms for name in ("cwq", "webqsp", "exaqt"))

    def test_the_front_is_plain_yaml(self) -> None:
        front = model_card(model()).split("---\n")[1]
        assert yaml.safe_load(front)["tags"] == ["factscale", "reasoning", "factuality", "fs1"]
