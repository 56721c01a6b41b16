"""The trace explorer's pages, gathered from the store: rows and texts of a question, its picture, its place in a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.explorer import state_of
from eval.explorer_views import Choice, Filters, Frame, ListView, QuestionView, RunView, SampleMark, Shown
from eval.summary import BASELINE, setting_rank
from kg.drawing import path_svg
from store import exploring, single_question
from store.connection import Store
from store.exploring import RunAt, Search
from store.types import Detail, InputError, Triple
from tasks.retrieval_reports import path_of

Record = dict[str, Any]
EXPORTED_SAMPLES = 4  # of a run and question with their texts: a thought can have 30,000 characters


class Explorer:
    """A study to be explored. Each method opens the store for reading, for one page at a time, and closes it before it draws.

    ``name`` is shown on the pages; ``report``: there is a drawn report to go back to. Raises what :class:`Store` raises.
    """

    def __init__(self, store: Store, study_key: str, name: str, *, report: bool = False) -> None:
        self._store, self._study = store, study_key
        self._frame = Frame(name, page_size=exploring.PAGE, report=report)

    def frame(self) -> Frame:
        """What all pages share, without the store's part."""
        return self._frame

    def list_view(self, filters: Filters) -> ListView:
        """One page of the list. Raises InputError for a run or budget that the study does not have."""
        with self._store.connection(read_only=True):
            runs = exploring.study_runs(self._store, self._study)
            choices = _choices(runs)
            a, b = _chosen(filters, choices)
            rows = exploring.find_questions(self._store, self._study, _search(filters, runs, a, b), filters.page)
            kinds = exploring.kinds_of_questions(self._store, self._study)
        return ListView(replace(self._frame, choices=choices), filters, kinds, rows, a, b)

    def question_view(self, question_key: str, filters: Filters) -> QuestionView | None:
        """A question with the two runs that the filters name; None if it is none of the study's."""
        with self._store.connection(read_only=True):
            question = single_question.question(self._store, self._study, question_key)
            if question is None:
                return None
            runs = exploring.study_runs(self._store, self._study)
            choices = _choices(runs)
            a, b = _chosen(filters, choices)
            near = exploring.neighbours(self._store, self._study, _search(filters, runs, a, b), question_key)
            wanted = [
                (choice, budget, (sample - 1,))
                for choice, budget, sample in (
                    (a, filters.a_budget, filters.a_sample),
                    (b, filters.b_budget, filters.b_sample),
                )
                if choice is not None and question["asked"]
            ]
            gathered, found = self._gathered(question, wanted, runs)
        view = _drawn(QuestionView(replace(self._frame, choices=choices), question, **gathered, filters=filters), found)
        if near is None:
            return view
        return replace(view, place=near.place, total=near.total, previous=near.previous, next=near.next)

    def exported_views(self, question_keys: Sequence[str], samples: int = EXPORTED_SAMPLES) -> list[QuestionView]:
        """Questions with all their runs at the largest budget, and the texts of the first ``samples``, for static pages.

        Keys that are none of the study's are left out.
        """
        runs = exploring.study_runs(self._store, self._study)
        choices = _choices(runs)
        wanted = [(choice, "", tuple(range(samples))) for choice in choices]
        views = []
        for key in question_keys:
            with self._store.connection(read_only=True):  # for one question at a time: a writer may be waiting
                question = single_question.question(self._store, self._study, key)
                if question is None:
                    continue
                gathered, found = self._gathered(question, wanted, runs)
            gathered["runs"] = tuple(run for run in gathered["runs"] if run.run is not None)
            views.append(_drawn(QuestionView(replace(self._frame, choices=choices), question, **gathered), found))
        return views

    def student(self, student_key: str) -> Record | None:
        """A student with its training set; None if the study has none of this key."""
        with self._store.connection(read_only=True):
            return single_question.student(self._store, self._study, student_key)

    def _gathered(
        self, question: Record, wanted: Sequence[tuple[Choice, str, tuple[int, ...]]], runs: Sequence[Record]
    ) -> tuple[dict[str, Any], Record | None]:
        """Fields of a :class:`QuestionView`, and what retrieval found."""
        store, study = self._store, self._study
        judges = single_question.judges_of(store, study)
        chosen = [(c, budget, samples, _run_on(runs, c, question["dataset"])) for c, budget, samples in wanted]
        distinct = {run["run_key"]: run for *_, run in chosen if run is not None}
        traces = single_question.traces_of(store, list(distinct.values()), question)
        self._add_grades(traces, question, judges)
        mine = {key: _by_sample(row for row in traces if row["run_key"] == key) for key in distinct}
        shown = {
            id(row): row
            for *_, samples, run in chosen
            if run is not None
            for sample in samples
            for row in mine[run["run_key"]].get(sample, ())
        }
        training = (
            single_question.training_traces(store, study, question["question_key"]) if question["trained"] else []
        )
        texts = _Texts(store, [*shown.values(), *training])
        for row in shown.values():
            row["answer_text"] = texts.answers.get(row["trace_id"], "")
        students = {
            run["student_key"]: single_question.student_of(store, run["student_key"])
            for run in distinct.values()
            if run["student_key"]
        }
        fields = {
            "links": single_question.links_of(store, question["question_key"]),
            "judges": judges,
            "runs": tuple(
                _run_view(choice, budget, samples, run, mine, texts, students)
                for choice, budget, samples, run in chosen
            ),
            "training": [texts.of_training(row) for row in training],
        }
        return fields, single_question.searched_paths(store, study, question["question_key"])

    def _add_grades(self, traces: Sequence[dict[str, Any]], question: Record, judges: Sequence[Record]) -> None:
        keys = [row["prediction_key"] for row in traces if row["prediction_key"] is not None]
        grades = single_question.grades_of(self._store, self._study, question["gold_key"], keys)
        for row in traces:
            row["grades"] = [_grade(row, grades, judge["position"]) for judge in judges]


class _Texts:
    """The long texts of traces."""

    def __init__(self, store: Store, traces: Sequence[Record]) -> None:
        self.thoughts = single_question.thought_texts(store, (row["thought_id"] for row in traces))
        self.answers = single_question.answer_texts(store, (row["trace_id"] for row in traces))
        self.prompts = single_question.prompt_messages(store, (row["prompt_key"] for row in traces))

    def of_training(self, row: Record) -> Record:
        thinking = self.thoughts.get(row["thought_id"], "")[: row["thinking_chars"]]
        answer, messages = self.answers.get(row["trace_id"], ""), self.prompts.get(row["prompt_key"], [])
        return {**row, "thinking": thinking, "answer_text": answer, "messages": messages}


def _run_view(
    choice: Choice,
    budget: str,
    samples: tuple[int, ...],
    run: Record | None,
    traces: Mapping[str, Mapping[int, list[Record]]],
    texts: _Texts,
    students: Mapping[str, Record | None],
) -> RunView:
    if run is None:
        return RunView(choice, None, None)
    at, mine = _budget(run, budget), traces[run["run_key"]]
    # Each sample's trace at the budget that is looked at.
    now = {sample: next((row for row in rows if row["budget"] == at), None) for sample, rows in mine.items()}
    return RunView(
        choice,
        run,
        at,
        tuple(SampleMark(sample, state_of(now.get(sample))) for sample in range(run["samples"])),
        tuple(
            Shown(
                sample,
                texts.thoughts.get(mine[sample][0]["thought_id"], ""),
                tuple(mine[sample]),
                texts.prompts.get(mine[sample][0]["prompt_key"], []),
            )
            for sample in samples
            if sample in mine
        ),
        students.get(run["student_key"]),
    )


def _grade(trace: Record, grades: Mapping[tuple[int, str], str | None], judge: int) -> str:
    """What a judge says of a trace, in words."""
    if trace["prediction_key"] is None:
        return "not asked, no prediction"
    place = (judge, trace["prediction_key"])
    if place not in grades:
        return "not judged yet"
    return (grades[place] or "no valid reply").replace("_", " ")


def _by_sample(rows: Any) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = {}
    for row in rows:
        found.setdefault(row["sample"], []).append(row)
    return found


def _choices(runs: Sequence[Record]) -> tuple[Choice, ...]:
    """Models and settings of the study: students by size, their settings in the paper's order, then baselines."""
    found: dict[tuple[str, str, str], set[int | None]] = {}
    for run in runs:
        found.setdefault((run["role"], run["model"], run["setting"]), set()).update(run["budgets"])
    models = list(dict.fromkeys((role, model) for role, model, _ in found))
    bases = {run["model"]: run.get("base") or run["model"] for run in runs}
    order = sorted(found, key=lambda one: (models.index(one[:2]), setting_rank(one[2]), one[2]))
    return tuple(
        Choice(
            model,
            setting,
            role,
            tuple(sorted(found[role, model, setting], key=lambda b: (b is None, b or 0))),
            bases[model],
        )
        for role, model, setting in order
    )


def _chosen(filters: Filters, choices: Sequence[Choice]) -> tuple[Choice | None, Choice | None]:
    """The two that are compared; by default the first model's last setting (A) and the setting it is compared with (B)."""
    if not choices:
        return None, None
    by_value = {choice.value: choice for choice in choices}
    for side, value, budget in (("a", filters.a, filters.a_budget), ("b", filters.b, filters.b_budget)):
        if value and value not in by_value:
            raise InputError(f"{side}={value}: the study has no such model and setting")
        if budget not in ("", "none") and not any(int(budget) in choice.budgets for choice in choices):
            raise InputError(f"{side}_budget={budget}: no run of the study has this budget")
    first = [choice for choice in choices if choice.base == choices[0].base]
    versus = next((choice for choice in first if choice.setting == BASELINE), choices[0])
    if first[-1] == versus and len(choices) > 1:
        versus = choices[1] if choices[0] == versus else choices[0]
    return by_value.get(filters.a, first[-1]), by_value.get(filters.b, versus)


def _search(filters: Filters, runs: Sequence[Record], a: Choice | None, b: Choice | None) -> Search:
    return Search(
        a=_side(runs, a, filters.a_budget),
        b=_side(runs, b, filters.b_budget),
        words=tuple(filters.q.split()),
        dataset=filters.dataset or None,
        hops=filters.hops,
        answer_type=filters.type or None,
        flagged={"yes": True, "no": False}.get(filters.flagged),
        outcome=filters.show,
        order=filters.sort,
    )


def _side(runs: Sequence[Record], choice: Choice | None, budget: str) -> tuple[RunAt, ...]:
    """The runs of one side, one a dataset, each at the budget."""
    if choice is None:
        return ()
    datasets = dict.fromkeys(run["dataset"] for run in runs)
    mine = [run for name in datasets if (run := _run_on(runs, choice, name)) is not None]
    return tuple(RunAt(run["run_key"], _budget(run, budget)) for run in mine)


def _run_on(runs: Sequence[Record], choice: Choice, dataset: str) -> Record | None:
    wanted = (choice.role, choice.model, choice.setting, dataset)
    return next((run for run in runs if (run["role"], run["model"], run["setting"], run["dataset"]) == wanted), None)


def _budget(run: Record, wanted: str) -> int | None:
    """The run's budget of that name; its largest if it has none such."""
    budget = None if wanted == "none" else int(wanted or 0)
    found: int | None = budget if budget in run["budgets"] else run["budgets"][-1]
    return found


def _drawn(view: QuestionView, found: Record | None) -> QuestionView:
    """The view with the picture of the question's paths."""
    if found is None:
        return view
    details = {
        Triple(row["subject"], row["predicate"], row["object"], row["literal"]): tuple(
            Detail(tuple((name, value, literal) for name, value, literal in qualifiers), precision, unit)
            for qualifiers, precision, unit in row["details"]
        )
        for row in found["statements"]
    }
    paths = [(path_of(row), row["kept"]) for row in found["paths"]]
    kept, dropped = [p for p, is_kept in paths if is_kept], [p for p, is_kept in paths if not is_kept]
    title = f"Paths of: {view.question['text']}"
    drawing = path_svg(kept, found["labels"], title, dropped=dropped, details=details) if kept else None
    return replace(view, drawing=drawing, graph=found["graph"] or None)
