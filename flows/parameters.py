"""The parameters of every flow, as frozen models: a study's YAML and Prefect's run form are the same thing.

Each flow takes what it needs and what the flows before it needed, so that it can find their units by their keys:
``Retrieve`` < ``Distill`` < ``Finetune`` < ``Evaluate`` < ``Study``.

Their sections stand in modules of their own: ``flows/*_parameters.py``.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError, model_validator

from flows.evaluation_parameters import Evaluation, Reporting
from flows.generation_parameters import FanOut, Generation
from flows.retrieval_parameters import QuestionSet, Retrieval
from flows.training_parameters import Distillation, Tuning
from store.types import Frozen, InputError, Recipe, Setting

REPOSITORY = Path(__file__).resolve().parent.parent
STUDIES = REPOSITORY / "deployments" / "studies"
DEFAULT_REGISTRY = REPOSITORY / "deployments" / "models.yaml"


class Retrieve(Frozen):
    """Parameters of `retrieve`: find and rank the paths of the training questions."""

    name: str = Field(
        default="study",
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        description="Of the study, in tables and folders: lower-case letters, digits, - and _",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Every row's own seed comes from it")
    train: QuestionSet = Field(default=QuestionSet(split="train"), description="The questions that teachers answer")
    retrieve: Retrieval = Field(default=Retrieval(), description="Where paths come from, and which a teacher sees")
    registry: str | None = Field(default=None, description="A registry of models; empty: deployments/models.yaml")

    @property
    def registry_path(self) -> Path:
        """The registry's file."""
        return Path(self.registry) if self.registry else DEFAULT_REGISTRY


class Distill(Retrieve):
    """Parameters of `distill`: teachers' traces and the training sets made of them."""

    distill: Distillation = Field(
        default=Distillation(), description="Who is asked for traces, and what students learn"
    )
    generation: Generation = Field(default=Generation(), description="How models are run: no result depends on it")
    fan_out: FanOut = Field(default=FanOut(), description="Where models are run: no result depends on it")

    @property
    def counted_by(self) -> str:
        """The alias of the model whose tokenizer counts the tokens of examples."""
        return self.distill.tokenizer or self.retrieve.tokenizer


class Finetune(Distill):
    """Parameters of `finetune`: students trained on the training sets."""

    finetune: Tuning = Field(default=Tuning(), description="Which students are trained on what, and how")

    @model_validator(mode="after")
    def _training_sets_are_made(self) -> Finetune:
        made = self.distill.training_sets
        if unmade := [name for name in self.finetune.training_sets if name not in made]:
            raise ValueError(
                f"finetune.training_sets names {', '.join(unmade)}; distill makes {', '.join(made)} (recipes and mixes)"
            )
        dev = self.finetune.dev
        if dev is not None and dev.questions is None and self.distill.held_out == 0:
            raise ValueError(
                "finetune.dev: distill.held_out is 0, so there are no dev questions; name some in dev.questions"
            )
        return self

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The names of the training sets that students are trained on."""
        return self.finetune.training_sets or self.distill.training_sets


class Evaluate(Finetune):
    """Parameters of `evaluate`: the matrix of runs, their answers and verdicts."""

    evaluate: Evaluation = Field(default=Evaluation(), description="Who answers what, how often, at which budgets")

    @model_validator(mode="after")
    def _students_need_their_recipe(self) -> Evaluate:
        for setting in self.evaluate.settings:
            if setting is Setting.MIX:
                if not any(mix.name in self.trained_on for mix in self.distill.mixes):
                    raise ValueError(
                        "evaluate.settings names mix, but no student is trained on one: add it to distill.mixes"
                    )
            elif setting.trained and Recipe(setting.value) not in self.distill.recipes:
                raise ValueError(f"evaluate.settings names {setting}, but distill.recipes has no {setting}: add it")
            elif setting.trained and setting.value not in self.trained_on:
                raise ValueError(f"evaluate.settings names {setting}, but finetune.training_sets does not: add it")
        return self


class Study(Evaluate):
    """Parameters of `study`: everything from paths to the report."""

    report: Reporting = Field(default=Reporting(), description="What the report compares and shows")

    @model_validator(mode="after")
    def _the_baseline_is_run(self) -> Study:
        chosen, wanted = self.report, self.evaluate
        if chosen.baseline_model is not None:
            students = set(self.finetune.students)
            if chosen.baseline_model not in students | set(wanted.baselines):
                raise ValueError(
                    f"report.baseline_model {chosen.baseline_model!r} is not run in this study; it runs "
                    f"{', '.join(sorted(students | set(wanted.baselines)))}"
                )
            if chosen.baseline_model not in students and chosen.baseline is not Setting.INSTRUCT:
                raise ValueError(
                    f"report.baseline {chosen.baseline}: {chosen.baseline_model!r} is a baseline and run as it is; use instruct"
                )
        return self


def reporting(study: Study, baseline: Setting | None, baseline_model: str | None, questions: int | None) -> Study:
    """The study with another report; None leaves what it says. Raises InputError for a baseline that it does not run."""
    given = {"baseline": baseline, "baseline_model": baseline_model, "questions": questions}
    chosen = study.report.model_dump() | {name: value for name, value in given.items() if value is not None}
    try:
        return Study.model_validate({**study.model_dump(), "report": chosen})
    except ValidationError as error:
        raise InputError(_first_errors(error)) from None


def load_study(path: Path) -> Study:
    """The study of a YAML file. Raises InputError that names the file, the field, the value and what is wrong."""
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in STUDIES.glob("*.yaml")))
        raise InputError(f"no study file {path}; shipped studies (deployments/studies): {known}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not the fields of a study")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_errors(error)}") from None


def _first_errors(error: ValidationError) -> str:
    lines = []
    errors = error.errors(include_url=False)
    # A list whose items are wrong is told to be too short as well.
    told = {item["loc"][:length] for item in errors for length in range(len(item["loc"]))}
    for item in errors:
        if item["type"] == "too_short" and item["loc"] in told:
            continue
        field = ".".join(str(part) for part in item["loc"]) or "study"
        # What stands in a server's field by mistake may be a key.
        hidden = isinstance(item["input"], dict | Frozen) or "servers" in item["loc"]
        shown = "" if hidden else f" (got {item['input']!r})"
        mend = "unknown field: remove it or mend its spelling" if item["type"] == "extra_forbidden" else item["msg"]
        lines.append(f"{field}: {mend.removeprefix('Value error, ')}{shown}")
    return "; ".join(lines)
