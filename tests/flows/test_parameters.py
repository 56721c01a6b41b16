"""A study's YAML: every shipped one is valid, and bad ones get one message with the field, the value and the mend."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from flows.parameters import DEFAULT_REGISTRY, STUDIES, Study, load_study, reporting
from flows.training_parameters import DevCheck, Mix, MixPart, TrainingRun, Tuning, Variant
from models.finetune import Hyperparameters
from models.registry import load_registry
from store.types import InputError, Setting

SHIPPED = sorted(STUDIES.glob("*.yaml"))


def write(folder: Path, **fields: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "try", **fields}), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_study_is_valid(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    registry = load_registry(DEFAULT_REGISTRY)
    judges = [judge.model for judge in study.evaluate.judges]
    for alias in [*study.distill.teachers, *study.finetune.students, *study.evaluate.baselines, *judges]:
        assert registry.entry(alias).alias == alias


def test_there_is_a_demo() -> None:
    assert "demo" in [path.stem for path in SHIPPED]


def test_a_report_is_chosen_without_changing_the_study(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, evaluate={"baselines": ["qwen2.5-72b"]}))
    other = reporting(study, None, "qwen2.5-72b", 40)
    assert (other.report.baseline, other.report.baseline_model, other.report.questions) == (
        Setting.INSTRUCT,
        "qwen2.5-72b",
        40,
    )
    assert other.model_dump(exclude={"report"}) == study.model_dump(exclude={"report"})
    assert reporting(study, None, None, None) == study
    with pytest.raises(
        InputError, match=r"baseline_model 'qwq-32b' is not run in this study; it runs qwen2.5-72b, smollm2"
    ):
        reporting(study, None, "qwq-32b", None)
    with pytest.raises(InputError, match=r"'qwen2.5-72b' is a baseline and run as it is; use instruct"):
        reporting(study, Setting.COT, "qwen2.5-72b", None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluate": {"overlap": {"cosine": 1.5}}}, r"evaluate\.overlap\.cosine: .*less than 1"),
        ({"report": {"questions": -1}}, r"report\.questions: .*greater than or equal to 0"),
        ({"evaluate": {"budgets": [0, 16]}}, r"evaluate\.budgets: budget 0 gives no room to think: use 1 or more"),
        ({"evaluate": {"budgets": [-4]}}, r"budget -4 gives no room"),
        ({"evaluate": {"budgets": [64, 16]}}, r"budgets \[64, 16\] must rise"),
        ({"evaluate": {"budgets": []}}, r"evaluate\.budgets: .*at least 1 item"),
        (
            {"evaluate": {"settings": ["instruct", "magic"]}},
            r"evaluate\.settings\.1: .*'instruct', 'cot', 'rt', 'fs1' or 'mix'.*'magic'",
        ),
        ({"evaluate": {"setings": ["cot"]}}, r"evaluate\.setings: unknown field"),
        ({"evaluate": {"samples": "many"}}, r"evaluate\.samples: .*integer.*'many'"),
        (
            {"evaluate": {"samples": 4, "sampling": {"temperature": 0}}},
            r"samples 4 at temperature 0 would all be equal",
        ),
        (
            {"evaluate": {"samples": 4, "reasoning_sampling": {"temperature": 0}}},
            r"evaluate: reasoning_sampling: samples 4 at temperature 0 would all be equal",
        ),
        ({"evaluate": {"max_thinking_tokens": 10, "budgets": [16]}}, r"exceed max_thinking_tokens 10: raise it"),
        (
            {"evaluate": {"judges": ["a", {"model": "a", "retries": 0}]}},
            r"judge a with question contains is named more than once",
        ),
        (
            {"evaluate": {"judges": [{"model": "a", "question": "rate"}]}},
            r"judges\.0\.question: .*'grade' \(got 'rate'\)",
        ),
        ({"evaluate": {"judges": [{"model": "a", "retries": 9}]}}, r"judges\.0\.retries: .*less than or equal to 5"),
        ({"evaluate": {"judges": [7]}}, r"judges\.0: .*\(got 7\)"),
        ({"evaluate": {"judge": "a"}}, r"evaluate\.judge: unknown field"),
        ({"distill": {"recipes": ["rt"]}}, r"evaluate\.settings names fs1, but distill\.recipes has no fs1"),
        ({"distill": {"teachers": []}}, r"distill\.teachers: .*at least 1 item"),
        ({"finetune": {"students": ["a", "a"]}}, r"a is named more than once"),
        ({"retrieve": {"endpoint": "ftp://x"}}, r"'ftp://x' is neither a loaded graph's name nor an http"),
        ({"retrieve": {"endpoint": "https://example.org/sparql"}}, r"name its content in `snapshot`"),
        ({"retrieve": {"snapshot": "2026-01"}}, r"a loaded graph is known by its content: leave it out"),
        ({"retrieve": {"cap": 100}}, r"max_degree 500 is above cap 100"),
        ({"retrieve": {"deep_cap": 100}}, r"deep_cap 100 is below cap 500"),
        ({"retrieve": {"max_hops": 5}}, r"max_hops: .*less than or equal to 4 \(got 5\)"),
        ({"train": {"limit": 0}}, r"train\.limit: .*greater than or equal to 1 \(got 0\)"),
        ({"name": "My Study"}, r"name: .*'My Study'"),
    ],
)
def test_bad_values(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_study(write(tmp_path, **fields))
    assert "study.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://me:hunter2@h/v1"},
        {"url": "http://h/v1?key=hunter2"},
        {"url": "http://h/v1", "key_variable": "hunter2"},
    ],
)
def test_what_may_be_a_key_is_not_repeated(tmp_path: Path, fields: dict[str, str]) -> None:
    servers = {"servers": [{"model": "a", **fields}]}
    with pytest.raises(InputError, match=r"generation\.servers\.0\.(url|key_variable): ") as caught:
        load_study(write(tmp_path, generation=servers))
    assert "hunter2" not in str(caught.value)


def test_a_judge_may_be_named_by_its_alias_alone(tmp_path: Path) -> None:
    judges: list[object] = ["a", {"model": "a", "question": "grade", "examples": True, "retries": 0}]
    plain, full = load_study(write(tmp_path, evaluate={"judges": judges})).evaluate.judges
    assert (plain.model, plain.question, plain.examples, plain.retries) == ("a", "contains", False, 2)
    assert (full.model, full.question, full.examples, full.retries) == ("a", "grade", True, 0)


def test_a_list_with_a_wrong_item_is_not_called_too_short(tmp_path: Path) -> None:
    datasets = {"datasets": [{"dataset": "mine", "path": "x", "columns": {"answer": "x"}}]}
    with pytest.raises(InputError, match=r"evaluate\.datasets\.0\.columns\.answer: unknown field") as caught:
        load_study(write(tmp_path, evaluate=datasets))
    assert "at least 1 item" not in str(caught.value)


def test_a_missing_file_names_the_shipped_studies(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no study file .*nowhere\.yaml; shipped studies .*demo"):
        load_study(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "holds list"), ("", "holds NoneType")]
)
def test_files_that_are_no_study(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_study(path)


def test_the_run_form_is_made_of_the_parameters() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.study import study

    schema = parameter_schema(study.fn)
    fields = schema.definitions["Study"]["properties"]
    assert set(fields) == set(Study.model_fields)
    assert schema.definitions["Setting"]["enum"] == ["instruct", "cot", "rt", "fs1", "mix"]
    assert not any(d.get("additionalProperties") not in (None, False) for d in schema.definitions.values()), (
        "a free dict"
    )


def test_every_field_of_training_has_help_and_no_default_hides_a_method() -> None:
    for kind in (Hyperparameters, Variant, DevCheck, TrainingRun, Tuning, Mix, MixPart):
        without = [name for name, field in kind.model_fields.items() if not field.description]
        assert not without, f"{kind.__name__}: {without}"
    shown = Tuning.model_json_schema()["properties"]["hyperparameters"]["default"]
    assert shown["learning_rate"] is None  # a form that prefills it would train in full at the rate of adapters
    assert Hyperparameters.model_validate(shown | {"method": "full"}).rate == 1e-5


class TestVariants:
    BASE = Hyperparameters(learning_rate=1e-3, lora_r=64, epochs=2)

    def test_it_changes_what_it_says(self) -> None:
        made = Variant(name="long", epochs=9, seed=4).applied(self.BASE)
        assert made == self.BASE.model_copy(update={"epochs": 9, "seed": 4})

    def test_another_kind_of_adapter_keeps_rate_and_rank(self) -> None:
        assert Variant(name="four", method="qlora").applied(self.BASE) == self.BASE.model_copy(
            update={"method": "qlora"}
        )

    def test_full_training_takes_its_own_rate(self) -> None:
        made = Variant(name="full", method="full").applied(self.BASE)
        assert (made.rate, made.lora_r, made.epochs) == (1e-5, 16, 2)
        assert Variant(name="full", method="full", learning_rate=1e-4).applied(self.BASE).rate == 1e-4

    def test_every_hyperparameter_but_the_optimisers_can_vary(self) -> None:
        assert set(Hyperparameters.model_fields) - set(Variant.model_fields) == {"betas"}

    def test_the_same_student_twice(self) -> None:
        twice = [{"name": "a"}, {"name": "b", "learning_rate": 2e-4}]
        with pytest.raises(ValidationError, match="'b' is the same student as 'a'"):
            Tuning.model_validate({"sweep": twice})


def test_a_mix_is_not_called_as_a_setting() -> None:
    for name in ("instruct", "cot", "mix", "fs1"):
        with pytest.raises(ValidationError, match="is the name of a setting"):
            Mix.model_validate({"name": name, "parts": [{"recipe": "rt"}]})
