"""The ladder against independent budget-forced runs: the same tokens, for the price of the longest run.

    python -m bench.budgets [--quick] [--check] [--engine transformers|vllm] [--questions N]

Each question of the starter set thinks once and is answered at every budget; then each budget is run by itself, as studies
usually do. Greedy, in float32, with ends of thinking put off ("Wait,"), so that every run uses its budget up. Prints a
table, then one JSON object as its last line. With ``--check`` a missed bar is named and the exit status is 1:

- all thinking tokens and all answers are those of the independent runs;
- tokens and time of the ladder are within 10 % of their share by the rule: (max(b) + answers) / (sum(b) + answers).

``--quick`` takes 4 questions and short budgets and leaves out the bar on time.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.outcome import finish
from eval.benchmarks import load
from models.budgets import Extension, LadderJob, LadderOutcome, LadderPlan
from models.embedded import default_cache, embedded_model
from models.engines.base import EngineName, EngineOptions, ModelRef
from models.prompts import question_prompt
from models.session import ModelSession
from store.types import Setting

BUDGETS, QUICK_BUDGETS = (64, 128, 256, 512), (16, 32, 64)
QUESTIONS, QUICK_QUESTIONS = 8, 4
ANSWER = 16
SLACK = 1.1


class Ran(NamedTuple):
    """One way to answer every question at every budget: what came out, and what it took."""

    outcomes: dict[tuple[str, int | None], tuple[tuple[int, ...], tuple[int, ...]]]
    thinking: int
    answers: int
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens that the model generated."""
        return self.thinking + self.answers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, or 1 for a missed bar."""
    parser = argparse.ArgumentParser(prog="python -m bench.budgets", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_QUESTIONS} questions, budgets {QUICK_BUDGETS}")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a bar is missed")
    parser.add_argument("--engine", choices=("transformers", "vllm"), action="append", help="default: all installed")
    parser.add_argument("--questions", type=int, help=f"how many questions (default {QUESTIONS})")
    given = parser.parse_args(arguments)
    engines: list[EngineName] = given.engine or [
        "transformers",
        *(["vllm"] if importlib.util.find_spec("vllm") else []),
    ]
    budgets = QUICK_BUDGETS if given.quick else BUDGETS
    count = given.questions or (QUICK_QUESTIONS if given.quick else QUESTIONS)
    figures = {engine: measure(engine, budgets, count) for engine in engines}
    missed = [
        f"{engine}: {bar}" for engine, figure in figures.items() for bar in _missed(figure, time_too=not given.quick)
    ]
    _print(figures, budgets, count)
    return finish("budgets", missed, check=given.check, budgets=budgets, questions=count, engines=figures)


def measure(engine: EngineName, budgets: tuple[int, ...], count: int) -> dict[str, float]:
    """The ladder and the independent runs on one engine, side by side."""
    model = ModelRef("smollm2-135m", embedded_model(default_cache()))
    questions = load("starter", "test", limit=count)
    prompts = [question_prompt(question, Setting.COT) for question in questions]
    jobs = [LadderJob(p.question_id, p.messages, 1 + i, None, budgets) for i, p in enumerate(prompts)]
    options = EngineOptions(engine=engine, dtype="float32", batch_size=max(count, 2))
    with ModelSession(model, options) as session:
        _run(session, [jobs[0]._replace(thought_id="warm-up", budgets=(budgets[0],))], budgets[:1])
        ladder = _run(session, jobs, budgets)
        alone = [_run(session, [job._replace(budgets=(b,)) for job in jobs], (b,)) for b in budgets]
    together = Ran(
        outcomes={key: value for ran in alone for key, value in ran.outcomes.items()},
        thinking=sum(ran.thinking for ran in alone),
        answers=sum(ran.answers for ran in alone),
        seconds=sum(ran.seconds for ran in alone),
    )
    pairs = [(ladder.outcomes[key], together.outcomes[key]) for key in together.outcomes]
    # What the rule says for thoughts that use their budget up; the answers are those that were given.
    rule = (count * max(budgets) + ladder.answers) / (count * sum(budgets) + together.answers)
    return {
        "slices": len(pairs),
        "equal_thinking": sum(ours[0] == theirs[0] for ours, theirs in pairs),
        "equal_answers": sum(ours[1] == theirs[1] for ours, theirs in pairs),
        "ladder_tokens": ladder.tokens,
        "independent_tokens": together.tokens,
        "ladder_seconds": round(ladder.seconds, 2),
        "independent_seconds": round(together.seconds, 2),
        "rule": round(rule, 4),
        "token_share": round(ladder.tokens / together.tokens, 4),
        "time_share": round(ladder.seconds / together.seconds, 4),
    }


def _run(session: ModelSession, jobs: Sequence[LadderJob], budgets: tuple[int, ...]) -> Ran:
    plan = LadderPlan(
        budgets=budgets, max_thinking_tokens=max(budgets), max_answer_tokens=ANSWER, extension=Extension(margin=4)
    )
    started = time.perf_counter()
    done: list[LadderOutcome] = [o for group in session.run_ladder(jobs, plan, window=len(jobs)) for o in group]
    seconds = time.perf_counter() - started
    outcomes = {
        (o.thought_id, a.budget): (o.thought.token_ids[: a.thinking_tokens], a.answer_token_ids)
        for o in done
        if o.thought is not None
        for a in o.answers
    }
    thinking = sum(o.thought.generated for o in done if o.thought is not None)
    answers = sum(a.answer_tokens for o in done for a in o.answers if not a.shared)
    return Ran(outcomes, thinking, answers, seconds)


def _missed(figure: dict[str, float], *, time_too: bool) -> list[str]:
    missed = [
        f"{figure[name]:.0f} of {figure['slices']:.0f} {name.replace('_', ' ')}"
        for name in ("equal_thinking", "equal_answers")
        if figure[name] < figure["slices"]
    ]
    shares = ("token_share", *(["time_share"] if time_too else []))
    return missed + [
        f"{name.replace('_', ' ')} {figure[name]:.3f} is over {SLACK} x {figure['rule']:.3f}"
        for name in shares
        if figure[name] > SLACK * figure["rule"]
    ]


def _print(figures: dict[EngineName, dict[str, Any]], budgets: tuple[int, ...], count: int) -> None:
    table = Table(title=f"{count} questions at budgets {', '.join(map(str, budgets))}", title_justify="left", box=None)
    table.add_column("figure")
    for engine in figures:
        table.add_column(engine, justify="right")
    for name in next(iter(figures.values())):
        table.add_row(name.replace("_", " "), *(f"{figure[name]:g}" for figure in figures.values()))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
