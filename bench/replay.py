"""A stand-in for models, of the benchmarks alone: it replays recorded traces, so that a study of any width runs without a GPU.

Thoughts are pieces of those that a real study recorded, put one behind the other and cut anew for each row, so that no two are
equal; answers are recorded ones too, but for a share of rows in which a gold answer stands in the box. Nothing that it makes
tells anything of a model: its engine is called ``replay`` in every unit's row.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from models.asking import Ask, Reply
from models.budgets import BudgetAnswer, LadderJob, LadderOutcome, LadderPlan, Stop, Thought, prefix
from models.embedded import default_cache, embedded_model
from models.finetune import LOG, MANIFEST, ProcessOptions, StudentManifest, TrainLog, TrainResult, TrainSpec
from models.session import SessionInfo
from models.training_text import Dropped, Example
from store.home import Home
from store.types import InputError, Question, Sampling
from tasks.traces import Run
from tasks.weights import ModelChoice

MEDIAN_TOKENS, SPREAD = 600, 0.8  # of a thought: log-normal, as reasoning models' are roughly
GROUP = 1024  # rows handed over together, as of an engine that computes some hundreds at a time
_RIGHT, _TAUGHT_RIGHT = 0.35, 0.45  # share of rows with a gold answer: a model as it is, and a student
_LEAST_TOKENS = 20_000


class Recording(NamedTuple):
    """What is replayed: one long thought (``ids``, and where the text of each ends), answers, and a judge's replies."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]
    text: str
    answers: tuple[str, ...]
    replies: tuple[str, ...]
    gold: Mapping[str, str]

    def piece(self, draw: random.Random, most: int) -> tuple[tuple[int, ...], str, list[int]]:
        """Token ids of a thought of at most ``most`` tokens, its text, and where each token ends in it."""
        length = max(8, min(most, int(draw.lognormvariate(np.log(MEDIAN_TOKENS), SPREAD))))
        start = draw.randrange(len(self.ids) - length)
        before = self.ends[start - 1] if start else 0
        ends = self.ends[start : start + length]
        return self.ids[start : start + length], self.text[before : ends[-1]], [end - before for end in ends]


def recorded(home: Home, questions: Iterable[Question]) -> Recording:
    """The traces of every study of a home. Raises InputError where there are none."""
    store = home.existing().store
    thoughts = [row["text"] for row in store.query("SELECT text FROM thought_texts ORDER BY thought_id")]
    answers = [row["answer_text"] for row in store.query("SELECT DISTINCT answer_text FROM trace_texts ORDER BY ALL")]
    replies = [
        row["reply"] for row in store.query("SELECT reply FROM verdicts WHERE grade IS NOT NULL AND reply <> ''")
    ]
    if not thoughts or not answers:
        raise InputError(f"{home.folder} has no traces to replay: run `make demo` first")
    tokenizer = Tokenizer.from_file(str(embedded_model(default_cache()) / "tokenizer.json"))
    whole = "\n".join(thoughts)
    encoded = tokenizer.encode(whole, add_special_tokens=False)
    ids, ends, text = list(encoded.ids), [end for _, end in encoded.offsets], whole
    while len(ids) < _LEAST_TOKENS:
        ids += ids
        ends += [end + len(text) for end in ends]
        text += text
    gold = {question.text: question.gold[0] for question in questions}
    digits = tuple(reply for reply in replies if reply.strip() in ("0", "1")) or ("0", "1")
    return Recording(tuple(ids), tuple(ends), text, tuple(answers), digits, gold)


class ReplaySession:
    """What ``tasks.traces.open_session`` gives in place of a model; see :class:`models.session.ModelSession`."""

    def __init__(self, recording: Recording, model: ModelChoice, asked: Counter[str]) -> None:
        self._recording, self._model, self._asked = recording, model, asked
        self.info = SessionInfo("replay", "0", "none", "none", model.entry.context_length, GROUP, os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def run_ladder(
        self, jobs: Iterable[LadderJob], plan: LadderPlan, window: int | None = None
    ) -> Iterator[list[LadderOutcome]]:
        """Replay a trace for every job and budget."""
        waiting = iter(jobs)
        while group := list(islice(waiting, window or GROUP)):
            self._asked["traces"] += sum(len(job.budgets) for job in group)
            yield [self._outcome(job, plan) for job in group]

    def ask(
        self, asks: Iterable[Ask], sampling: Sampling, max_tokens: int, window: int | None = None
    ) -> Iterator[list[Reply]]:
        """Replay a reply of a judge for every question."""
        waiting, replies = iter(asks), self._recording.replies
        while group := list(islice(waiting, window or GROUP)):
            self._asked["replies"] += len(group)
            yield [Reply(ask.id, replies[ask.seed % len(replies)], "stop", 200, 0, 1) for ask in group]

    def _outcome(self, job: LadderJob, plan: LadderPlan) -> LadderOutcome:
        draw = random.Random(job.seed)  # noqa: S311 - a stand-in's dice
        ids, text, ends = self._recording.piece(draw, plan.max_thinking_tokens)
        how: Any = "eos" if self._model.format == "plain" else "marker"
        hosted = self._model.hosted
        thought = Thought(
            token_ids=() if hosted else ids,
            text=text,
            ended=how,
            prompt_tokens=100,
            stops=(Stop(len(ids), how),),
            generated=len(ids) + 1,
            told=len(ids) if hosted else None,
        )
        answer = self._answer(job, draw)
        answers: list[BudgetAnswer] = []
        for budget in job.budgets:
            used = prefix(thought, budget, plan)
            answers.append(
                BudgetAnswer(
                    budget=budget,
                    thinking_tokens=used.length,
                    thinking_chars=ends[used.length - 1] if used.length else 0,
                    cut=used.cut,
                    forced=used.cut,
                    answer_token_ids=() if hosted else ids[:12],
                    answer_text=answer,
                    answer_tokens=12,
                    shared=bool(answers) and answers[-1].thinking_tokens == used.length and answers[-1].cut == used.cut,
                    finish="stop",
                    prompt_tokens=100 + used.length,
                    cached_tokens=100 + used.length,
                )
            )
        return LadderOutcome(job.thought_id, thought if job.thought is None else None, tuple(answers))

    def _answer(self, job: LadderJob, draw: random.Random) -> str:
        if draw.random() < (_RIGHT if self._model.student is None else _TAUGHT_RIGHT):
            asked = job.messages[-1].content
            gold = next(
                (self._recording.gold[line] for line in _questions_in(asked) if line in self._recording.gold), None
            )
            if gold is not None:
                return f"Answer: \\boxed{{{gold}}}"
        return draw.choice(self._recording.answers)


def _questions_in(prompt: str) -> Iterator[str]:
    """What may be the question of a prompt: the text before the words that every prompt ends with."""
    from models.prompts import BOXED, STEP_BY_STEP

    last = prompt.rsplit("\n", 1)[-1].removesuffix(BOXED).rstrip()
    yield last
    yield last.removesuffix(STEP_BY_STEP).rstrip()


class StandIn:
    """What takes the place of ``tasks.traces.open_session`` and ``models.finetune.train``. ``asked`` counts what was asked of it:
    traces, replies, students."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.asked: Counter[str] = Counter()

    def open_session(
        self, model: ModelChoice, run: Run, unit: str, home: Home, batch_size: int | None = None
    ) -> ReplaySession:
        """A session that replays."""
        return ReplaySession(self._recording, model, self.asked)

    def train(
        self,
        spec: TrainSpec,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        output: Path,
        *,
        on_log: Callable[[TrainLog], None] = lambda _: None,
        options: ProcessOptions | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> StudentManifest:
        """A student without weights that could be loaded."""
        self.asked["students"] += 1
        return _student(spec, len(examples), len(held_out), output)


def _student(spec: TrainSpec, examples: int, held_out: int, output: Path) -> StudentManifest:
    output.mkdir(parents=True, exist_ok=True)
    save_file({"stand_in": np.zeros(1, np.float32)}, output / "model.safetensors")
    log = TrainLog(step=1, total_steps=1, loss=1.0, tokens=1, tokens_per_second=1.0, seconds=1.0)
    (output / LOG).write_text(json.dumps(log.model_dump()) + "\n", encoding="utf-8")
    result = TrainResult(
        steps=1, tokens=1, seconds=1.0, train_loss=1.0, base_loss=None, held_out_loss=None, examples=examples,
        held_out_examples=held_out, dropped=Dropped(), precision="bf16", device="none", threads=1,
    )  # fmt: skip
    manifest = StudentManifest(
        key=output.name, kind="full", base_key=spec.base_key, format=spec.format, hyperparameters=spec.hyperparameters,
        training_set=output.name, held_out_set=None, result=result, versions={"replay": "0"},
        weights={"model.safetensors": output.name},
    )  # fmt: skip
    (output / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest
