"""A made-up study of any size over real question ids: what the store is measured with.

Every row has the form of a landed one, keys and texts are drawn from a seeded generator, a run at a time, so that 1.7 million
traces need little memory. Accuracies differ by setting, model and question, so that tables and plots of it look like a study.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.types import Question, digest
from tasks.keys import score_key
from tasks.questions import gold_key, question_key

STUDY = "bench-store"
STUDENTS = (
    ("qwen2.5-0.5b", 494_000_000),
    ("qwen2.5-1.5b", 1_540_000_000),
    ("qwen2.5-3b", 3_090_000_000),
    ("qwen2.5-7b", 7_620_000_000),
    ("qwen2.5-14b", 14_800_000_000),
    ("qwen2.5-32b", 32_800_000_000),
)
BASELINES = (
    ("qwen2.5-72b", 72_700_000_000),
    ("qwq-32b", 32_800_000_000),
    ("r1-distill-70b", 70_600_000_000),
    ("o3-mini", None),
)
SETTINGS = ("instruct", "cot", "rt", "fs1")
PARSER, MATCHER, JUDGE = "parser-bench", "matcher-bench", "judge-bench"
THOUGHT_SENTENCES, ANSWER_SENTENCES = 30, 2  # of about 90 characters
TOKENS_A_SENTENCE = 20

Tables = dict[str, pa.Table]


class Shape(NamedTuple):
    """The size of a made-up study: ``samples`` a question, each answered at every budget."""

    samples: int
    budgets: tuple[int, ...]

    @property
    def traces_a_question(self) -> int:
        """Rows of ``traces`` for one question of a run."""
        return self.samples * len(self.budgets)


class Run(NamedTuple):
    """One run: who is asked what, and how good it is (share of right samples of an average question)."""

    place: int
    role: str
    model: str
    parameters: int | None
    setting: str
    dataset: str
    skill: float

    @property
    def unit(self) -> str:
        """Key of its unit of traces."""
        return digest(["bench unit", *self[:-1]])

    @property
    def thought_key(self) -> str:
        """Key of its kind of thought."""
        return digest(["bench thought", self.model, self.setting])


def runs_of(datasets: Sequence[str]) -> list[Run]:
    """The matrix of the fs1 study over these datasets: 6 students x 4 settings and 4 baselines."""
    matrix = [("student", *model, setting) for model in STUDENTS for setting in SETTINGS]
    matrix += [("baseline", *model, "instruct") for model in BASELINES]
    found: list[Run] = []
    for role, model, parameters, setting in matrix:
        for place, dataset in enumerate(datasets):
            size = np.log10(parameters or 50e9) - 8.5
            skill = 0.12 + 0.13 * size + 0.03 * SETTINGS.index(setting) * (3 - size) + 0.02 * place
            found.append(Run(len(found), role, model, parameters, setting, dataset, float(np.clip(skill, 0.02, 0.9))))
    return found


def question_tables(questions: Mapping[str, Sequence[Question]]) -> Tables:
    """Questions, their prompts (the question itself) and prompt sets, one set a dataset."""
    rows: dict[str, list[dict[str, Any]]] = {"questions": [], "prompts": [], "prompt_sets": []}
    for dataset, members in questions.items():
        for question in members:
            key, prompt = question_key(question), digest(["bench prompt", question.text])
            answers = json.dumps([answer.model_dump() for answer in question.answers])
            rows["questions"].append(
                {
                    "question_key": key,
                    "dataset": dataset,
                    "question_id": question.id,
                    "split": question.split,
                    "text": question.text,
                    "answer_type": question.answer_type,
                    "hops": question.hops,
                    "answers": answers,
                    "gold_key": gold_key(question),
                    "provenance": question.provenance,
                }
            )
            rows["prompts"].append(
                {"prompt_key": prompt, "messages": json.dumps([{"role": "user", "content": question.text}])}
            )
            rows["prompt_sets"].append(
                {
                    "set_key": f"bench-{dataset}",
                    "question_key": key,
                    "dataset": dataset,
                    "question_id": question.id,
                    "prompt_key": prompt,
                }
            )
    rows["prompts"] = list({row["prompt_key"]: row for row in rows["prompts"]}.values())
    return {name: pa.Table.from_pylist(values) for name, values in rows.items()}


def study_tables(runs: Sequence[Run], shape: Shape) -> Tables:
    """The study, its runs and its judge."""
    rows = [
        {
            "study_key": STUDY,
            "run_key": digest(["bench run", *run[:-1]]),
            "unit_key": run.unit,
            "role": run.role,
            "model": run.model,
            "setting": run.setting,
            "dataset": run.dataset,
            "prompt_set": f"bench-{run.dataset}",
            "thought_key": run.thought_key,
            "answer_key": "bench-answer",
            "samples": shape.samples,
            "budgets": list(shape.budgets),
            "parser": PARSER,
            "matcher": MATCHER,
            "judge": JUDGE,
            "parameters": run.parameters,
            "score_key": score_key(run.unit, PARSER, MATCHER, JUDGE),
        }
        for run in runs
    ]
    study = {"study_key": STUDY, "name": "bench-store", "spec": json.dumps({"name": "bench-store", "seed": 0})}
    judge = {"study_key": STUDY, "position": 0, "judge": JUDGE, "model": "llama-3.3-70b", "question": "contains"}
    named = {"study_runs": rows, "studies": [study], "study_judges": [judge]}
    return {name: pa.Table.from_pylist(values) for name, values in named.items()}


class Maker:
    """Draws the traces of one run after another. ``sentences`` is what texts are put together of."""

    def __init__(self, questions: Mapping[str, Sequence[Question]], shape: Shape, seed: int = 0) -> None:
        self._questions, self._shape = questions, shape
        self._rng = np.random.default_rng(seed)
        texts = [question.text for members in questions.values() for question in members]
        self._sentences = pa.array([f"Let me see: {text} That needs another look." for text in texts[:8192]])
        self._hard = {
            dataset: self._rng.normal(0, 0.25, len(members)) for dataset, members in questions.items()
        }  # how much easier than the average question each is, the same for every run

    def traces(self, run: Run) -> Tables:
        """Thoughts and traces with their texts, predictions and verdicts of a run; a row a sample (and budget)."""
        members, shape = self._questions[run.dataset], self._shape
        thoughts = len(members) * shape.samples
        place = np.repeat(np.arange(len(members)), shape.samples)
        sample = np.tile(np.arange(shape.samples), len(members))
        length = self._rng.integers(60, 2 * THOUGHT_SENTENCES * TOKENS_A_SENTENCE, thoughts)
        thought_ids = self._ids(run, thoughts)
        shared = self._shared(run, members, place, sample, thought_ids)
        tables = {
            "thoughts": pa.table(
                {
                    **shared,
                    "seed": self._rng.integers(0, 2**31, thoughts),
                    "ended": pa.array(np.where(length > shape.budgets[-1], "length", "stop")),
                    "thinking_tokens": length.astype(np.int32),
                    "generated_tokens": length.astype(np.int32) + 1,
                    "injected_tokens": np.zeros(thoughts, np.int32),
                    "stops": pa.array(
                        [[]] * thoughts, pa.list_(pa.struct([("position", pa.int32()), ("ended", pa.string())]))
                    ),
                }
            ),
            "thought_texts": pa.table(
                {
                    "thought_id": thought_ids,
                    "token_ids": self._token_ids(thoughts, THOUGHT_SENTENCES * TOKENS_A_SENTENCE),
                    "text": self._texts(thoughts, THOUGHT_SENTENCES),
                }
            ),
        }
        return {**tables, **self._answers(run, members, shared, place, length)}

    def _answers(
        self, run: Run, members: Sequence[Question], shared: dict[str, Any], place: Any, length: Any
    ) -> Tables:
        shape = self._shape
        many = len(shape.budgets)
        rows = len(place) * many
        repeat = pa.array(np.repeat(np.arange(len(place)), many))
        budget = np.tile(np.array(shape.budgets), len(place))
        thinking = np.minimum(np.repeat(length, many), budget)
        trace_ids = self._ids(run, rows)
        chance = run.skill + self._hard[run.dataset][np.repeat(place, many)] + 0.02 * np.log2(budget / 256)
        right = self._rng.random(rows) < np.clip(chance, 0, 0.97)
        how = self._rng.choice(["boxed", "block", "none", "refused"], rows, p=[0.85, 0.1, 0.04, 0.01])
        answered = (how == "boxed") | (how == "block")
        right &= answered
        wrong = self._rng.integers(0, 6, rows)
        text = np.where(right, "right", np.char.add("wrong ", wrong.astype(str)))
        prediction = pa.array(text, mask=~answered)
        cut = np.repeat(length, many) > budget
        traces = pa.table(
            {
                **{name: pc.take(pa.array(values), repeat) for name, values in shared.items()},
                "trace_id": trace_ids,
                "answer_key": pa.array(["bench-answer"] * rows),
                "budget": budget.astype(np.int32),
                "thinking_tokens": thinking.astype(np.int32),
                "thinking_chars": (thinking * 4).astype(np.int32),
                "cut": cut,
                "forced": cut,
                "finish": pa.array(["stop"] * rows),
                "answer_tokens": np.full(rows, ANSWER_SENTENCES * TOKENS_A_SENTENCE, np.int32),
                "shared": np.zeros(rows, bool),
                "self_contained": np.zeros(rows, bool),
                "extensions": np.zeros(rows, np.int32),
            }
        )
        texts = pa.table(
            {
                "trace_id": trace_ids,
                "answer_ids": self._token_ids(rows, ANSWER_SENTENCES * TOKENS_A_SENTENCE),
                "answer_text": self._texts(rows, ANSWER_SENTENCES),
            }
        )
        predictions = pa.table(
            {
                "trace_id": trace_ids,
                "parser": pa.array([PARSER] * rows),
                "prediction": prediction,
                "prediction_key": prediction,
                "how": pa.array(how),
                "class": prediction,
            }
        )
        return {"traces": traces, "trace_texts": texts, "predictions": predictions}

    def verdicts(self) -> Tables:
        """What matcher and judge say of every prediction that can come up; the judge errs on one wrong one in six."""
        golds = sorted({gold_key(question) for members in self._questions.values() for question in members})
        rows = [
            {
                "judge": judge,
                "gold_key": gold,
                "prediction_key": key,
                "correct": key == "right" or (judge == JUDGE and key == "wrong 0"),
                "grade": "correct" if key == "right" or (judge == JUDGE and key == "wrong 0") else "incorrect",
                "rule": "exact" if key == "right" else "none",
                "reply": "",
                "attempts": int(judge == JUDGE),
            }
            for judge in (MATCHER, JUDGE)
            for gold in golds
            for key in ("right", *(f"wrong {number}" for number in range(6)))
        ]
        return {"verdicts": pa.Table.from_pylist(rows)}

    def _shared(
        self, run: Run, members: Sequence[Question], place: Any, sample: Any, thought_ids: pa.Array
    ) -> dict[str, Any]:
        ids = pa.array([question.id for question in members])
        prompts = pa.array([digest(["bench prompt", question.text]) for question in members])
        rows = len(place)
        return {
            "thought_id": thought_ids,
            "thought_key": pa.array([run.thought_key] * rows),
            "model": pa.array([run.model] * rows),
            "dataset": pa.array([run.dataset] * rows),
            "question_id": pc.take(ids, pa.array(place)),
            "prompt_key": pc.take(prompts, pa.array(place)),
            "sample": sample.astype(np.int32),
            "prompt_tokens": np.full(rows, 40, np.int32),
            "cached_tokens": np.zeros(rows, np.int32),
        }

    def _ids(self, run: Run, rows: int) -> pa.Array:
        """Keys of 32 hex digits that begin with those of the kind of thought, and are as random as a digest after that."""
        raw = self._rng.bytes(12 * rows).hex()
        return pa.array([run.thought_key[:8] + raw[start : start + 24] for start in range(0, 24 * rows, 24)])

    def _texts(self, rows: int, sentences: int) -> pa.Array:
        chosen = pc.take(self._sentences, pa.array(self._rng.integers(0, len(self._sentences), rows * sentences)))
        offsets = pa.array(np.arange(0, rows * sentences + 1, sentences), pa.int32())
        return pc.binary_join(pa.ListArray.from_arrays(offsets, chosen), " ")

    def _token_ids(self, rows: int, tokens: int) -> pa.Array:
        # Token frequencies fall like Zipf's law, which is what makes them compress as real ones do.
        drawn = np.minimum(self._rng.zipf(1.3, rows * tokens), 49_151).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(np.arange(0, rows * tokens + 1, tokens), pa.int32()), pa.array(drawn))


def groups(tables: Tables, shape: Shape, thoughts: int) -> Iterator[Tables]:
    """The rows of a run in groups of so many thoughts with their traces, as a unit lands them."""
    many = len(shape.budgets)
    for start in range(0, tables["thoughts"].num_rows, thoughts):
        yield {
            name: table.slice(start, thoughts)
            if name in ("thoughts", "thought_texts")
            else table.slice(start * many, thoughts * many)
            for name, table in tables.items()
            if name in ("thoughts", "thought_texts", "traces", "trace_texts")
        }
