"""The unit that generates: traces of one model over one set of prompts, at every budget, so many samples each.

The same unit serves teachers (one budget) and evaluated models (a ladder). Rows land in groups while it runs; a unit that
was cut asks the store which rows are missing and generates only those. What landed is never generated again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from prefect import task
from pydantic import Field

from models.budgets import LadderJob, LadderOutcome, LadderPlan, Stop, Thought
from models.engines.base import Adapters, EngineName, EngineOptions, OutOfMemory, Precision
from models.formats import FORMATS
from models.registry import Prices
from models.session import ModelSession
from store.connection import Store
from store.home import Home
from store.types import Frozen
from tasks.keys import TracesSpec, seed_of, thought_id, trace_id
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.progress import progress
from tasks.questions import Asked, prompt_rows
from tasks.weights import ModelChoice

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Run(Frozen):
    """How models are run: nothing of it enters a key (see models/engines)."""

    engine: EngineName = Field(default="auto", description="How models run here; auto: vLLM where installed")
    dtype: Precision = Field(default="auto", description="auto: bfloat16 where the hardware is fast at it")
    batch_size: int | None = Field(
        default=None, ge=1, description="Rows generated together; empty: the engine's own. Halved when memory runs out"
    )
    chunk: int | None = Field(
        default=None,
        ge=1,
        description="Rows on their way at a time, which is what a kill can lose; empty: twice what the engine generates together",
    )
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs that share one model (vLLM)")
    gpu_memory: float = Field(default=0.9, gt=0.0, le=1.0, description="Share of a GPU's memory for vLLM")
    adapters: Adapters = Field(
        default="merge", description="LoRA students: merged into their base, or served as adapters by vLLM"
    )

    def options(self, batch_size: int | None) -> EngineOptions:
        """What an engine is told."""
        return EngineOptions(
            engine=self.engine,
            dtype=self.dtype,
            batch_size=batch_size,
            tensor_parallel=self.tensor_parallel,
            gpu_memory=self.gpu_memory,
            adapters=self.adapters,
        )


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
    # Prompts of like length together, the longest first: less padding, and a lack of memory shows at once.
    jobs.sort(key=lambda job: -sum(len(message.content) for message in job.messages))
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
    landing = _Landing(order, store, {row.thought: row for row in wanted_rows(spec, order.asked)})
    details: dict[str, Any] = {}
    found = [missing.jobs]  # for the first attempt; a further one finds less
    with progress(order.name, missing.total, missing.done) as meter:

        def generate(session: ModelSession) -> None:
            details.update(session.info.details)
            jobs = found.pop() if found else missing_rows(store, spec, order.asked).jobs
            for outcomes in session.run_ladder(jobs, _plan(spec), order.run.chunk):
                made = landing.land(outcomes)
                meter.advance(made.rows, made.tokens, made.cost)

        if missing.jobs:
            with_model(order.model, order.run, order.key, home, generate)
            details["generated_now"] = landing.tokens  # the rest of its rows took other seconds than this unit's
    totals = _totals(store, list(landing.rows.values()))
    store.land({}, clock.unit("traces", order, spec, rows=missing.total, details=details, **totals))
    return {"traces": missing.total, "tokens": landing.tokens}


def with_model(model: ModelChoice, run: Run, unit: str, home: Home, work: Callable[[ModelSession], T]) -> T:
    """What ``work`` gives with the model of a unit, which has a process of its own, and is gone after it.

    When memory runs out, the model is opened again for half as many rows, and ``work`` is called again: it has to ask the
    store what is still missing. With one row there is nothing to halve.
    """
    rows = run.batch_size
    while True:
        try:
            with open_session(model, run, unit, home, rows) as session:
                return work(session)
        except OutOfMemory as error:
            if error.rows <= 1:
                raise
            rows = error.rows // 2
            logger.warning("%s; going on with %d rows at a time", error, rows)


def open_session(model: ModelChoice, run: Run, unit: str, home: Home, batch_size: int | None = None) -> ModelSession:
    """The model of a unit in a process of its own, to be entered; its log and the generation log are the home's."""
    return ModelSession(
        model.reference(home),
        run.options(batch_size or run.batch_size),
        log_file=home.log_file(f"model-{unit[:12]}"),
        generation_log=home.generation_log,
        unit=unit,
        secrets=model.secrets(),
    )


def _plan(spec: TracesSpec) -> LadderPlan:
    return LadderPlan(
        sampling=spec.thought.sampling,
        budgets=tuple(budget or None for budget in spec.budgets),
        max_thinking_tokens=spec.thought.max_thinking_tokens,
        max_answer_tokens=spec.answer.max_answer_tokens,
        extension=spec.thought.extension,
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
            stops=tuple(Stop(stop["position"], stop["ended"]) for stop in row["stops"]),
            generated=row["generated_tokens"],
            injected=row["injected_tokens"],
            told=row["thinking_tokens"],
        )
        for row in rows
    }


class _Made(NamedTuple):
    """What one landing brought: traces, tokens generated for them, their cost in US dollars."""

    rows: int
    tokens: int
    cost: float


class _Landing:
    """Turns outcomes into rows and lands them."""

    def __init__(self, order: TracesOrder, store: Store, rows: dict[str, Wanted]) -> None:
        self._order, self._store, self.rows = order, store, rows
        self._prices: Prices | None = order.model.prices
        self._self_contained = FORMATS[order.spec.thought.format].self_contained
        self.tokens = 0

    def land(self, outcomes: Sequence[LadderOutcome]) -> _Made:
        """Land the thoughts and traces of some rows in one transaction."""
        tables: dict[str, list[dict[str, Any]]] = {"thoughts": [], "thought_texts": [], "traces": [], "trace_texts": []}
        tokens = 0
        for outcome in outcomes:
            row = self.rows[outcome.thought_id]
            shared = {
                "thought_id": row.thought,
                "thought_key": self._order.spec.thought.key,
                "model": self._order.model.name,
                "dataset": row.asked.question.dataset,
                "question_id": row.asked.question.id,
                "prompt_key": row.asked.prompt.key,
                "sample": row.sample,
            }
            if outcome.thought is not None:
                tokens += outcome.thought.generated
                self._add_thought(tables, shared, outcome.thought)
            tokens += self._add_traces(tables, shared, row, outcome)
        self._store.land(tables)
        self.tokens += tokens
        spent = [*tables["thoughts"], *(row for row in tables["traces"] if not row["shared"])]
        cost = sum(row["cost"] or 0.0 for row in spent)
        return _Made(len(tables["traces"]), tokens, cost)

    def _cost(self, prompt: int, cached: int, generated: int) -> float | None:
        return None if self._prices is None else self._prices.cost(prompt, cached, generated)

    def _add_thought(self, tables: dict[str, list[dict[str, Any]]], shared: dict[str, Any], thought: Thought) -> None:
        tables["thoughts"].append(
            {
                **shared,
                "seed": seed_of(shared["thought_id"]),
                "ended": thought.ended,
                "thinking_tokens": thought.length,
                "prompt_tokens": thought.prompt_tokens,
                "cached_tokens": thought.cached_tokens,
                "stops": [stop._asdict() for stop in thought.stops],
                "generated_tokens": thought.generated,
                "injected_tokens": thought.injected,
                "cost": self._cost(thought.prompt_tokens, thought.cached_tokens, thought.generated),
            }
        )
        tables["thought_texts"].append(
            {"thought_id": shared["thought_id"], "token_ids": list(thought.token_ids), "text": thought.text}
        )

    def _add_traces(
        self, tables: dict[str, list[dict[str, Any]]], shared: dict[str, Any], row: Wanted, outcome: LadderOutcome
    ) -> int:
        tokens = 0
        for answer in outcome.answers:
            spent = 0 if answer.shared else answer.answer_tokens
            tables["traces"].append(
                {
                    **shared,
                    "answer_key": self._order.spec.answer.key,
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
                    "self_contained": self._self_contained,
                    "extensions": answer.extensions,
                    "cost": self._cost(answer.prompt_tokens, answer.cached_tokens, answer.answer_tokens),
                }
            )
            tables["trace_texts"].append(
                {
                    "trace_id": row.traces[answer.budget],
                    "answer_ids": list(answer.answer_token_ids),
                    "answer_text": answer.answer_text,
                }
            )
            tokens += spent
        return tokens


def _totals(store: Store, rows: Sequence[Wanted]) -> dict[str, Any]:
    """Tokens and cost of the unit's rows, whenever they landed."""
    sums = (
        "coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt, coalesce(sum(cached_tokens), 0)::BIGINT AS cached, "
        "sum(cost) AS cost"
    )
    thoughts = store.query_for(
        [row.thought for row in rows],
        f"SELECT coalesce(sum(generated_tokens), 0)::BIGINT AS made, {sums} FROM thoughts "  # noqa: S608
        "SEMI JOIN wanted_ids ON wanted = thought_id",
    )[0]
    answers = store.query_for(
        [trace for row in rows for trace in row.traces.values()],
        # Budgets that share a prefix share its answer, whichever of them is in this unit.
        f"SELECT coalesce(sum(answer_tokens), 0)::BIGINT AS made, {sums} FROM ("  # noqa: S608
        "SELECT any_value(answer_tokens) AS answer_tokens, any_value(prompt_tokens) AS prompt_tokens, "
        "any_value(cached_tokens) AS cached_tokens, any_value(cost) AS cost FROM traces "
        "SEMI JOIN wanted_ids ON wanted = trace_id GROUP BY thought_id, thinking_tokens, cut)",
    )[0]
    costs = [found["cost"] for found in (thoughts, answers) if found["cost"] is not None]
    return {
        "generated_tokens": thoughts["made"] + answers["made"],
        "prompt_tokens": thoughts["prompt"] + answers["prompt"],
        "cached_tokens": thoughts["cached"] + answers["cached"],
        "cost": sum(costs) if costs else None,
    }
