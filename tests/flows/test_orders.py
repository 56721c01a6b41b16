"""The matrix of runs and the names of its students, as far as parameters alone tell them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mini_study
import pytest
import yaml

from flows.evaluate import study_key
from flows.orders import STUDENT_FORMAT, Orders, Waiting, student_name
from flows.parameters import Study
from store.home import Home
from store.types import Recipe, Setting

SWEEP = [{"name": "slow", "learning_rate": 1e-5}, {"name": "full", "method": "full"}]
DEV = {"questions": {"split": "test", "limit": 2}}
BOTH = {"name": "both", "parts": [{"recipe": "rt"}, {"recipe": "fs1"}]}


def orders(folder: Path, settings: list[str], finetune: dict[str, Any], **distill: Any) -> Orders:
    study = mini_study.mini(distill=distill, finetune=finetune, evaluate={"settings": settings})
    return Orders(Study.model_validate(study), Home(folder))


def labels(made: Orders) -> list[tuple[str, str]]:
    return [(made.label(name), name.setting.value) for name in made.run_names()]


def test_one_student_a_setting_is_called_by_its_base_alone(tmp_path: Path) -> None:
    made = orders(tmp_path, ["instruct", "rt", "fs1"], {}, recipes=["rt", "fs1"])
    assert labels(made) == [("smollm2-135m", "instruct"), ("smollm2-135m", "rt"), ("smollm2-135m", "fs1")]
    assert [student_name(*name) for name in made.student_names()] == [
        "student smollm2-135m rt",
        "student smollm2-135m fs1",
    ]


def test_several_are_told_apart_and_untrained_models_are_asked_once(tmp_path: Path) -> None:
    made = orders(tmp_path, ["instruct", "fs1"], {"sweep": SWEEP})
    assert labels(made) == [
        ("smollm2-135m", "instruct"),
        ("smollm2-135m/slow", "fs1"),
        ("smollm2-135m/full", "fs1"),
    ]
    assert made.run_title(made.run_names()[-1]) == "answers smollm2-135m/full fs1 starter-test"


def test_the_best_has_the_name_of_its_base_before_it_is_known(tmp_path: Path) -> None:
    made = orders(tmp_path, ["instruct", "fs1"], {"sweep": SWEEP, "select": "best", "dev": DEV})
    assert labels(made) == [("smollm2-135m", "instruct"), ("smollm2-135m", "fs1")]
    assert len(made.student_names()) == 2
    with pytest.raises(Waiting):
        made.run(*made.run_names()[-1])


@pytest.mark.parametrize(
    ("finetune", "students"),
    [
        ({}, ["smollm2-135m/both"]),
        ({"sweep": SWEEP}, ["smollm2-135m/both/slow", "smollm2-135m/both/full"]),
        ({"sweep": SWEEP[:1]}, ["smollm2-135m/both"]),
    ],
)
def test_students_of_mixes_are_called_by_their_mix(
    tmp_path: Path, finetune: dict[str, Any], students: list[str]
) -> None:
    made = orders(tmp_path, ["mix"], finetune, recipes=["rt", "fs1"], mixes=[BOTH])
    assert labels(made) == [(name, "mix") for name in students]
    assert made.sets_of(Setting.MIX) == ("both",)
    assert made.recipes_of("both") == (Recipe.RT, Recipe.FS1)


def test_only_the_training_sets_that_are_named_have_students(tmp_path: Path) -> None:
    made = orders(tmp_path, ["mix"], {"training_sets": ["both"]}, recipes=["rt", "fs1"], mixes=[BOTH])
    assert [tuple(name) for name in made.student_names()] == [("smollm2-135m", "both", "")]


@pytest.mark.parametrize(("wanted", "thinking"), [({}, 0.7), ({"reasoning_sampling": {"temperature": 0.6}}, 0.6)])
def test_models_that_think_in_a_block_may_be_sampled_in_a_way_of_their_own(
    tmp_path: Path, wanted: dict[str, Any], thinking: float
) -> None:
    embedded: dict[str, Any] = {"source": "embedded", "context_length": 8192, "parameters": 134515008}
    entries = [
        {**embedded, "alias": "smollm2-135m", "format": "plain", "roles": ["teacher", "student"]},
        {**embedded, "alias": "thinks", "format": "tags", "roles": ["baseline"]},
    ]
    registry = tmp_path / "models.yaml"
    registry.write_text(yaml.safe_dump({"models": entries}), encoding="utf-8")
    fields = {"settings": ["instruct"], "baselines": ["thinks"], "sampling": {"temperature": 0.7}, **wanted}
    study = Study.model_validate(mini_study.mini(evaluate=fields) | {"registry": str(registry)})
    made = Orders(study, Home(tmp_path))
    drawn = [made.run(*name).traces.spec.thought.sampling.temperature for name in made.run_names()]
    assert drawn == [0.7, thinking]
    assert study.evaluate.sampling_of(STUDENT_FORMAT).temperature == thinking


def test_how_students_are_trained_is_no_part_of_a_study(tmp_path: Path) -> None:
    plain, packed, other = (
        orders(tmp_path, ["instruct"], finetune).parameters
        for finetune in ({}, {"run": {"packing": True, "threads": 1}}, {"sweep": SWEEP})
    )
    assert study_key(plain, [], [], [], []) == study_key(packed, [], [], [], [])  # type: ignore[arg-type]
    assert study_key(plain, [], [], [], []) != study_key(other, [], [], [], [])  # type: ignore[arg-type]
