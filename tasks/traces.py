"""The unit that generates: traces of one model over one set of prompts, at every budget, so many samples each.

The same unit serves teachers (one budget) and evaluated models (a ladder). Rows land chunk by chunk while it runs; a unit
that was cut asks the store which rows are missing and generates only those. What landed is never generated again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from prefect import task

from models.budgets import LadderJob, LadderOutcome, LadderPlan, Thought
from models.engines.base import EngineName, Precision
from models.formats import FORMATS
from models.session import ModelSession
from store.connection import Store
from store.home import Home
from store.types import Frozen
from tasks.keys import TracesSpec, seed_of, thought_id, trace_id
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.progress import progress
from tasks.questions import Asked, prompt_rows
from tasks.weights import ModelChoice


class Run(Frozen):
    """How the model is run: nothing of it enters a key (see models/engines)."""

    engine: EngineName = "auto"
    dtype: Precision = "auto"
    batch_size: int | None = None
    chunk: int = 64


class TracesOrder(Frozen):
    """A work order: what to generate (``spec``), with which model, for which prompts."""

    name: str
    spec: TracesSpec
    model: ModelChoice
    asked: tuple[Asked, ...]
    run: Run

    @property
    def key(self) -> str:
        """The unit's key."""
        return self.spec.key


class Wanted(NamedTuple):
    """One row to be: a sample of a question, its thought's key, and the trace key at each budget (None: unlimited)."""

    asked: Asked
    sample: int
    thought: str
    traces: dict[int | None, str]


class Missing(NamedTuple):
    """What a unit still has to do: ``jobs`` (with the thoughts that landed), and how many traces are there and wanted."""

    jobs: list[LadderJob]
    done: int
    total: int
    thoughts: int


def wanted_rows(spec: TracesSpec, asked: Sequence[Asked]) -> Iterator[Wanted]:
    """Every row of a unit, question by question, so that a question's samples share a batch and its prefix."""
    budgets = [budget or None for budget in spec.budgets]
    for one in asked:
        question = one.question
        for sample in range(spec.samples):
            thought = thought_id(spec.thought, question.dataset, question.id, one.prompt.key, sample)
            yield Wanted(one, sample, thought, {b: trace_id(thought, spec.answer, b) for b in budgets})


def missing_rows(store: Store, spec: TracesSpec, asked: Sequence[Asked]) -> Missing:
    """The anti-join of what is wanted with what landed."""
    rows = list(wanted_rows(spec, asked))
    landed = store.known("traces", "trace_id", [t for row in rows for t in row.traces.values()])
    open_rows = [row for row in rows if not landed.issuperset(row.traces.values())]
    thoughts = _landed_thoughts(store, [row.thought for row in open_rows])
    jobs = [
        LadderJob(
            thought_id=row.thought,
            messages=row.asked.prompt.messages,
            seed=seed_of(row.thought),
            thought=thoughts.get(row.thought),
            budgets=tuple(b for b, trace in row.traces.items() if trace not in landed),
        )
        for row in open_rows
    ]
    total = len(rows) * len(spec.budgets)
    return Missing(jobs, len(landed), total, sum(job.thought is None for job in jobs))


@task(name="traces", **UNIT_OPTIONS)
def traces(order: TracesOrder) -> dict[str, Any]:
    """Generate what is missing of a unit, land it chunk by chunk, and the unit's row last."""
    return land_traces(order, Home.current())


def land_traces(order: TracesOrder, home: Home) -> dict[str, Any]:
    """The body of :func:`traces`. Returns the number of traces and the tokens generated now."""
    clock, store, spec = Clock(), home.store, order.spec
    if store.has_unit(order.key):
        return {"traces": len(order.asked) * spec.samples * len(spec.budgets), "tokens": 0}
    store.land(prompt_rows(order.asked))
    missing = missing_rows(store, spec, order.asked)
    rows = {row.thought: row for row in wanted_rows(spec, order.asked)}
    details: dict[str, Any] = {}
    tokens = 0
    with progress(order.name, missing.total, missing.done) as meter:
        if missing.jobs:
            with open_session(order.model, order.run, order.key, home) as session:
                details = {"engine": session.info.engine, "dtype": session.info.dtype, "device": session.info.device}
                for start in range(0, len(missing.jobs), order.run.chunk):
                    jobs = missing.jobs[start : start + order.run.chunk]
                    # The next chunk starts when this one is landed, so that a kill loses one chunk at most.
                    outcomes = list(session.run_ladder(jobs, _plan(spec)))
                    landed, spent = _land_chunk(store, spec, order.model.name, rows, outcomes)
                    tokens += spent
                    meter.advance(landed, spent)
    store.land({}, clock.unit("traces", order, spec, rows=missing.total, details=details, **_totals(store, rows)))
    return {"traces": missing.total, "tokens": tokens}


def open_session(model: ModelChoice, run: Run, unit: str, home: Home) -> ModelSession:
    """The model of a unit in a process of its own, to be entered; its log and the generation log are the home's."""
    return ModelSession(
        model.reference(home),
        engine=run.engine,
        dtype=run.dtype,
        batch_size=run.batch_size,
        chunk=run.chunk,
        log_file=home.log_file(f"model-{unit[:12]}"),
        generation_log=home.generation_log,
        unit=unit,
    )


def _plan(spec: TracesSpec) -> LadderPlan:
    return LadderPlan(
        sampling=spec.thought.sampling,
        budgets=tuple(budget or None for budget in spec.budgets),
        max_thinking_tokens=spec.thought.max_thinking_tokens,
        max_answer_tokens=spec.answer.max_answer_tokens,
    )


def _landed_thoughts(store: Store, ids: Sequence[str]) -> dict[str, Thought]:
    rows = store.query_for(
        ids, "SELECT * FROM thoughts JOIN thought_texts USING (thought_id) SEMI JOIN wanted_ids ON wanted = thought_id"
    )
    return {
        row["thought_id"]: Thought(
            token_ids=tuple(row["token_ids"]),
            text=row["text"],
            ended=row["ended"],
            prompt_tokens=row["prompt_tokens"],
            cached_tokens=row["cached_tokens"],
        )
        for row in rows
    }


def _land_chunk(
    store: Store, spec: TracesSpec, model: str, rows: dict[str, Wanted], outcomes: Sequence[LadderOutcome]
) -> tuple[int, int]:
    tables: dict[str, list[dict[str, Any]]] = {"thoughts": [], "thought_texts": [], "traces": [], "trace_texts": []}
    tokens = 0
    for outcome in outcomes:
        row = rows[outcome.thought_id]
        shared = {
            "thought_id": row.thought,
            "thought_key": spec.thought.key,
            "model": model,
            "dataset": row.asked.question.dataset,
            "question_id": row.asked.question.id,
            "prompt_key": row.asked.prompt.key,
            "sample": row.sample,
        }
        if outcome.thought is not None:
            tokens += len(outcome.thought.token_ids)
            _add_thought(tables, shared, outcome.thought)
        tokens += _add_traces(tables, {**shared, "answer_key": spec.answer.key}, row, spec, outcome)
    store.land(tables)
    return len(tables["traces"]), tokens


def _add_thought(tables: dict[str, list[dict[str, Any]]], shared: dict[str, Any], thought: Thought) -> None:
    tables["thoughts"].append(
        {
            **shared,
            "seed": seed_of(shared["thought_id"]),
            "ended": thought.ended,
            "thinking_tokens": len(thought.token_ids),
            "prompt_tokens": thought.prompt_tokens,
            "cached_tokens": thought.cached_tokens,
        }
    )
    tables["thought_texts"].append(
        {"thought_id": shared["thought_id"], "token_ids": list(thought.token_ids), "text": thought.text}
    )


def _add_traces(
    tables: dict[str, list[dict[str, Any]]],
    shared: dict[str, Any],
    row: Wanted,
    spec: TracesSpec,
    outcome: LadderOutcome,
) -> int:
    tokens = 0
    for answer in outcome.answers:
        tables["traces"].append(
            {
                **shared,
                "trace_id": row.traces[answer.budget],
                "budget": answer.budget,
                "thinking_tokens": answer.thinking_tokens,
                "thinking_chars": answer.thinking_chars,
                "cut": answer.cut,
                "forced": answer.forced,
                "shared": answer.shared,
                "finish": answer.finish,
                "answer_tokens": answer.answer_tokens,
                "prompt_tokens": answer.prompt_tokens,
                "cached_tokens": answer.cached_tokens,
                "self_contained": FORMATS[spec.thought.format].self_contained,
            }
        )
        tables["trace_texts"].append(
            {
                "trace_id": row.traces[answer.budget],
                "answer_ids": list(answer.answer_token_ids),
                "answer_text": answer.answer_text,
            }
        )
        tokens += 0 if answer.shared else answer.answer_tokens
    return tokens


def _totals(store: Store, rows: dict[str, Wanted]) -> dict[str, int]:
    """Tokens of the unit's rows, whenever they landed."""
    sums = "coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt, coalesce(sum(cached_tokens), 0)::BIGINT AS cached"
    thoughts = store.query_for(
        list(rows),
        f"SELECT coalesce(sum(thinking_tokens), 0)::BIGINT AS made, {sums} FROM thoughts "  # noqa: S608
        "SEMI JOIN wanted_ids ON wanted = thought_id",
    )[0]
    answers = store.query_for(
        [trace for row in rows.values() for trace in row.traces.values()],
        f"SELECT coalesce(sum(answer_tokens), 0)::BIGINT AS made, {sums} FROM traces "  # noqa: S608
        "SEMI JOIN wanted_ids ON wanted = trace_id WHERE NOT shared",
    )[0]
    return {
        "generated_tokens": thoughts["made"] + answers["made"],
        "prompt_tokens": thoughts["prompt"] + answers["prompt"],
        "cached_tokens": thoughts["cached"] + answers["cached"],
    }
