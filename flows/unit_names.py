"""One GPU unit of a study by its name, small enough for the parameters of a flow run, and its work order derived from that.

An order holds every prompt of its unit, and a flow run's parameters may have half a megabyte. So a run is told the study and
which unit of it, and comes to the same order by itself. Of runs, traces and students only that one is built, whatever the size
of the matrix; a judge's order is made of all runs that it judges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from prefect import Task
from pydantic import Field, ValidationError, model_validator

from flows.orders import CheckOrder, Orders, RunName, StudentName
from flows.parameters import Evaluate, Finetune, Retrieve, Study
from flows.retrieval_parameters import QuestionSet
from store.types import Frozen, InputError, Question, Recipe, Setting
from tasks.students import StudentOrder, student, student_missing
from tasks.traces import TracesOrder, traces
from tasks.verdicts import JudgeOrder, verdicts

Kind = Literal["teacher", "student", "check", "run", "judge", "teachers_judge"]
GpuOrder = TracesOrder | StudentOrder | JudgeOrder
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "teacher": ("model", "recipe"),
    "student": ("model", "training_set"),
    "check": ("model", "training_set"),
    "run": ("model", "setting", "dataset"),
    "judge": (),
    "teachers_judge": (),
}
_FILES = ("path", "registry", "mid_map")
"""Fields of a study that name files: relative ones mean another file where a worker stands elsewhere."""


class UnitName(Frozen):
    """Which unit of the study. What its kind does not need stays empty."""

    kind: Kind = Field(
        description="teacher: a teacher's traces; student: a training; check: answers to dev questions; run: answers of a run of "
        "the matrix; judge: a judge's verdicts; teachers_judge: its verdicts on teachers"
    )
    model: str | None = Field(
        default=None, description="The alias of the teacher, of the student's base, or of who answers"
    )
    recipe: Recipe | None = Field(default=None, description="Of a teacher's traces")
    training_set: str | None = Field(
        default=None, description="What the student is trained on; empty: the model as it is"
    )
    variant: str = Field(
        default="", description="Of the sweep; empty: the only one, or the best where the study selects it"
    )
    untrained: bool = Field(default=False, description="check: ask the base as it is")
    setting: Setting | None = Field(default=None, description="Of a run")
    dataset: str | None = Field(default=None, description="Of a run, by its name in evaluate.datasets")
    position: int = Field(default=0, ge=0, description="Of the judge in evaluate.judges, from 0")
    key: str | None = Field(default=None, description="The key that the unit must have; empty: whatever it has")

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> UnitName:
        for field in _NEEDED[self.kind]:
            if getattr(self, field) is None:
                raise ValueError(f"{field}: a unit of kind {self.kind!r} needs one")
        return self


class Work(NamedTuple):
    """A unit that is to be made: its task and order, its name, and whether it is missing (None: ask the store)."""

    task: Task[..., Any]
    order: GpuOrder
    name: UnitName
    missing: bool | None = None


def teacher_work(orders: Orders, model: str, recipe: Recipe) -> Work:
    """A teacher's traces in one recipe."""
    return Work(traces, orders.teacher(model, recipe)[0], UnitName(kind="teacher", model=model, recipe=recipe))


def student_work(orders: Orders, name: StudentName) -> Work:
    """The training of a student."""
    unit = UnitName(kind="student", model=name.base, training_set=name.training_set, variant=name.variant)
    order = orders.student(*name)
    return Work(student, order, unit, student_missing(order, orders.home))


def check_work(check: CheckOrder) -> Work:
    """Answers of a student, or of its base as it is, to dev questions."""
    unit = UnitName(
        kind="check",
        model=check.base,
        training_set=check.training_set,
        variant=check.variant or "",
        untrained=check.variant is None,
    )
    return Work(traces, check.traces, unit)


def run_work(name: RunName, order: TracesOrder) -> Work:
    """Answers of one run of the matrix."""
    unit = UnitName(
        kind="run",
        model=name.base,
        training_set=name.training_set,
        variant=name.variant or "",
        setting=name.setting,
        dataset=name.questions.dataset,
    )
    return Work(traces, order, unit)


def judge_work(order: JudgeOrder, position: int | None) -> Work:
    """The verdicts of the judge at a ``position`` of evaluate.judges; None: those on teachers."""
    kind: Kind = "teachers_judge" if position is None else "judge"
    return Work(verdicts, order, UnitName(kind=kind, position=position or 0))


def work_of(orders: Orders, unit: UnitName) -> Work:
    """The work that a name stands for, in the study of ``orders``.

    Raises:
        InputError: the study has no such unit, or its key is another than the name says.
        Waiting: what it is made of has not landed.
    """
    found = _found(orders, unit)
    if unit.key is not None and found.order.key != unit.key:
        raise InputError(
            f"{found.order.name} has the key {found.order.key} here and {unit.key} where it was handed out: this worker has "
            "other code, another registry, other questions or another store; give both machines the same, and the same "
            "FACTSCALE_HOME and FACTSCALE_STORE"
        )
    return found._replace(name=unit)


def _found(orders: Orders, unit: UnitName) -> Work:
    model, training_set = str(unit.model), str(unit.training_set)
    if unit.kind == "teacher":
        return teacher_work(orders, model, Recipe(unit.recipe or ""))
    if unit.kind == "student":
        return student_work(orders, StudentName(model, training_set, _variant(orders, unit)))
    if unit.kind == "check":
        variant = None if unit.untrained else _variant(orders, unit)
        return check_work(orders.check(model, training_set, variant))
    if unit.kind == "run":
        name = _run_name(orders, unit)
        return run_work(name, orders.run(*name).traces)
    if unit.kind == "teachers_judge":
        if (judge := orders.teachers_judge()) is None:
            raise InputError("distill.judge: the study names no judge of teachers")
        return judge_work(judge, None)
    judges = orders.judges([orders.run(*name) for name in orders.run_names()])
    if unit.position >= len(judges):
        raise InputError(f"unit.position {unit.position}: the study has {len(judges)} judges, counted from 0")
    return judge_work(judges[unit.position], unit.position)


def _variant(orders: Orders, unit: UnitName) -> str:
    parameters = orders.parameters
    known = list(parameters.finetune.variants) if isinstance(parameters, Finetune) else []
    if unit.variant not in known:
        named = ", ".join(known) if any(known) else "one without a name: leave it empty"
        raise InputError(f"unit.variant {unit.variant!r}: the study has {named}")
    return unit.variant


def _run_name(orders: Orders, unit: UnitName) -> RunName:
    variant: str | None = ""
    if unit.training_set is not None:
        best = isinstance(orders.parameters, Finetune) and orders.parameters.finetune.select == "best"
        variant = None if best and not unit.variant else _variant(orders, unit)
    setting = Setting(unit.setting or "")
    return RunName("student", str(unit.model), setting, _dataset(orders, unit), unit.training_set, variant)


def _dataset(orders: Orders, unit: UnitName) -> QuestionSet:
    parameters = orders.parameters
    sets = parameters.evaluate.datasets if isinstance(parameters, Evaluate) else ()
    for chosen in sets:
        if chosen.dataset == unit.dataset:
            return chosen
    raise InputError(f"unit.dataset {unit.dataset!r}: the study asks {', '.join(one.dataset for one in sets)}")


def questions_of(order: GpuOrder) -> tuple[Question, ...]:
    """The questions that an order asks, which have to be known to the store; none of a training."""
    if isinstance(order, TracesOrder):
        return tuple(asked.question for asked in order.asked)
    return ()


def plain_parameters(parameters: Retrieve) -> dict[str, Any]:
    """A study as the parameters of another run, as small as may be: JSON without what is as it is by default, files by
    their whole paths. Parameters of a flow that is not the last get a report and a matrix that ask for nothing more."""
    said: dict[str, Any] = _absolute(parameters.model_dump(mode="json", exclude_defaults=True))
    if not isinstance(parameters, Evaluate):
        # Settings of students would want recipes that this study need not have.
        said["evaluate"] = {"settings": [Setting.INSTRUCT.value]}
    try:
        again = Study.model_validate(said).model_dump(mode="json")
    except ValidationError:
        again = {}
    meant: dict[str, Any] = _absolute(parameters.model_dump(mode="json"))
    if any(again.get(field) != value for field, value in meant.items()):  # a default that another field moves
        return {**meant, **({} if isinstance(parameters, Evaluate) else {"evaluate": said["evaluate"]})}
    return said


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: str(Path(item).expanduser().resolve()) if name in _FILES and isinstance(item, str) else _absolute(item)
        for name, item in value.items()
    }
