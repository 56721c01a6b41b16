"""Our pipeline's speed over the raw engine's on the same prompts: what accounting, budgets and landing cost.

    python -m bench.generation [--quick] [--check] [--engine transformers|vllm]

The pipeline is the whole unit: a model in its own process, the ladder (a thought, then a forced answer), rows landing in
DuckDB. The raw engine gets the very same requests of both stages as token ids: transformers' ``model.generate`` on batches
sorted by length, of the size that is fastest here, and vLLM's ``LLM.generate`` with all prompts of a stage at once. Greedy,
in float32, so that both sides generate the same tokens. Every run has a process of its own; they alternate, and each side's
best counts, since what else runs on a machine only slows. Loading the model is left out on both sides.

Prints a table, then one JSON object as its last line. ``--quick`` takes 16 prompts and leaves out the bar on speed. With
``--check`` a missed bar is named and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from unittest.mock import patch

from eval.benchmarks import load
from models.budgets import LadderPlan
from models.embedded import default_cache
from models.engines.base import EngineName, GenerationLog, Precision, Request
from models.engines.loading import end_of_turn_ids, load_config, load_tokenizer
from models.formats import FORMATS, bind
from models.ladder import Ladder
from models.prompts import question_prompt
from models.registry import load_registry, model_key
from models.session import ModelSession
from store.home import Home
from store.types import RunError, Sampling, Setting
from tasks import traces
from tasks.keys import AnswerSpec, ThoughtSpec, TracesSpec
from tasks.questions import Asked, prompt_set_key
from tasks.traces import Run, TracesOrder, land_traces, missing_rows
from tasks.weights import ModelChoice

ROOT = Path(__file__).resolve().parent.parent
PROMPTS, QUICK_PROMPTS = 256, 16
THINK, QUICK_THINK = 24, 8
ANSWER = 4
REPETITIONS = 2
BATCHES = (32, 64, 128)
DTYPE: Precision = "float32"
FORMAT = FORMATS["plain"]

BARS = {"prompts": 256, "pipeline/raw": 0.98, "rows with the same tokens": 0.98}
QUICK_BARS = {"rows with the same tokens": 0.98}


class Measured(NamedTuple):
    """One run. ``seconds`` and ``cpu`` seconds leave out loading, which took ``load_seconds``."""

    tokens: int
    seconds: float
    cpu: float
    load_seconds: float
    outputs: dict[str, list[int]]

    @property
    def speed(self) -> float:
        """Generated tokens a second, of both stages."""
        return self.tokens / self.seconds


class Work(NamedTuple):
    """What a raw engine is given: the requests of each stage, and the tokens that end a row."""

    stages: list[list[Request]]
    stops: list[int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, or 1 for a missed bar or a failed run."""
    parser = argparse.ArgumentParser(prog="python -m bench.generation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_PROMPTS} prompts, one repetition")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a bar is missed")
    parser.add_argument("--engine", choices=("transformers", "vllm"), action="append", help="default: all installed")
    given = parser.parse_args(arguments)
    engines: list[EngineName] = given.engine or [
        "transformers",
        *(["vllm"] if importlib.util.find_spec("vllm") else []),
    ]
    try:
        figures: dict[str, dict[str, float]] = {engine: measure(engine, quick=given.quick) for engine in engines}
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    missed = report(figures, QUICK_BARS if given.quick else BARS, quick=given.quick)
    return 1 if given.check and missed else 0


def measure(engine: EngineName, *, quick: bool) -> dict[str, float]:
    """Pipeline and raw engine on the same prompts, run after run."""
    order = _order(engine, QUICK_PROMPTS if quick else PROMPTS, QUICK_THINK if quick else THINK)
    ours, raw = [], []
    with tempfile.TemporaryDirectory(prefix="factscale-bench-") as folder:
        first = Home(Path(folder) / "0")
        ours.append(pipeline(order, first))
        say(f"{engine}: pipeline {ours[-1].speed:.1f} tokens/s")
        work = _work(order, first)
        batch = 0
        if engine == "transformers":
            batch = QUICK_PROMPTS if quick else int(_raw(engine, order, work, tune=BATCHES)["batch"])
        for repetition in range(1 if quick else REPETITIONS):
            if repetition:
                ours.append(pipeline(order, Home(Path(folder) / str(repetition))))
                say(f"{engine}: pipeline {ours[-1].speed:.1f} tokens/s")
            raw.append(_measured(_raw(engine, order, work, batch), work.stops))
            say(f"{engine}: raw engine {raw[-1].speed:.1f} tokens/s")
    mine, its = (max(runs, key=lambda run: run.speed) for runs in (ours, raw))
    same = [mine.outputs[name] == ids for name, ids in its.outputs.items()]
    return {
        "prompts": float(len(order.asked)),
        "requests": float(len(its.outputs)),
        "pipeline, tokens": float(mine.tokens),
        "raw, tokens": float(its.tokens),
        "rows with the same tokens": sum(same) / len(same),
        "pipeline, tokens/s": mine.speed,
        "raw, tokens/s": its.speed,
        "pipeline/raw": mine.speed / its.speed,
        "pipeline/raw by CPU time": max(r.tokens / r.cpu for r in ours) / max(r.tokens / r.cpu for r in raw),
        "raw, rows a batch": float(batch or len(order.asked)),
        "session start, s": min(run.load_seconds for run in ours),
        "raw start, s": min(run.load_seconds for run in raw),
    }


def pipeline(order: TracesOrder, home: Home) -> Measured:
    """Land the whole unit in a fresh home."""

    class Timed(ModelSession):
        """A session that notes how long it took to open and to close, and what its process used in between."""

        aside = cpu = start = 0.0

        def __enter__(self) -> Self:
            started = time.perf_counter()
            super().__enter__()
            Timed.start = time.perf_counter() - started
            Timed.aside += Timed.start
            Timed.cpu -= _cpu_of(self.info.pid)
            return self

        def __exit__(self, *error: Any) -> None:
            Timed.cpu += _cpu_of(self.info.pid)
            started = time.perf_counter()
            super().__exit__(*error)
            Timed.aside += time.perf_counter() - started

    home.store.query("SELECT 1")  # a database is made once, not for every unit
    with patch.object(traces, "ModelSession", Timed):
        started, cpu = time.perf_counter(), time.process_time()
        done = land_traces(order, home)
        seconds, cpu = time.perf_counter() - started - Timed.aside, time.process_time() - cpu + Timed.cpu
    return Measured(int(done["tokens"]), seconds, cpu, Timed.start, _landed(home))


def _order(engine: EngineName, prompts: int, think: int) -> TracesOrder:
    """The unit: starter questions, step by step, one greedy sample each."""
    entry = load_registry(ROOT / "deployments" / "models.yaml").entry("smollm2-135m")
    questions = load("starter", "train", limit=prompts)
    asked = tuple(Asked(question, question_prompt(question, Setting.COT)) for question in questions)
    thought = ThoughtSpec(
        model_key=model_key(entry, default_cache()), format=entry.format, sampling=Sampling(),
        max_thinking_tokens=think, seed=0,
    )  # fmt: skip
    answer = AnswerSpec(forced_answer=FORMAT.forced_answer, max_answer_tokens=ANSWER)
    spec = TracesSpec(thought=thought, answer=answer, prompt_set=prompt_set_key(asked), samples=1, budgets=(0,))
    choice = ModelChoice(entry=entry, format=entry.format)
    return TracesOrder(name="bench", spec=spec, model=choice, asked=asked, run=Run(engine=engine, dtype=DTYPE))


class _Recorder:
    """An engine that keeps the requests it is given, in place of computing them."""

    def __init__(self, order: TracesOrder, home: Home) -> None:
        model = order.model.reference(home)
        self.name = self.version = self.dtype = self.device = "none"
        self.tokenizer = load_tokenizer(model)
        self.eos_token_ids = end_of_turn_ids(model, self.tokenizer)
        self.context_length = int(load_config(model).max_position_embeddings)
        self.rows, self.hungry = 1, False
        self.requests: list[Request] = []

    def stream(self, sampling: Sampling, stop_ids: frozenset[int]) -> Self:
        return self

    def add(self, requests: Sequence[Request]) -> None:
        self.requests.extend(requests)

    def wait(self) -> list[Any]:
        return []

    def close(self) -> None:
        """There is nothing to drop."""


def _work(order: TracesOrder, home: Home) -> Work:
    """The requests that the ladder makes of this unit: for thoughts, then for the answers after those that landed."""
    spec, longer = order.spec, AnswerSpec(forced_answer="", max_answer_tokens=ANSWER + 1)
    # Under another answer's key every trace is missing and every thought is there.
    landed = missing_rows(home.store, spec.model_copy(update={"answer": longer}), order.asked).jobs
    plan = LadderPlan(max_thinking_tokens=spec.thought.max_thinking_tokens, max_answer_tokens=ANSWER)
    recorder = _Recorder(order, home)
    stages = []
    for jobs in ([job._replace(thought=None) for job in landed], landed):
        Ladder(recorder, plan, FORMAT, GenerationLog(None)).add(jobs)
        stages.append(recorder.requests)
        recorder.requests = []
    return Work(stages, sorted(bind(FORMAT, recorder.tokenizer).stops | recorder.eos_token_ids))


def _landed(home: Home) -> dict[str, list[int]]:
    """The generated ids of every thought, and of every answer under its thought's id and a slash."""
    thoughts = home.store.query("SELECT thought_id AS name, token_ids AS ids FROM thought_texts")
    answers = home.store.query(
        "SELECT thought_id || '/' AS name, answer_ids AS ids FROM traces JOIN trace_texts USING (trace_id)"
    )
    return {row["name"]: list(row["ids"]) for row in (*thoughts, *answers)}


def _raw(
    engine: EngineName, order: TracesOrder, work: Work, batch: int = 0, tune: Sequence[int] = ()
) -> dict[str, Any]:
    """What ``bench.generation_raw`` says. Raises RunError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        job = {
            "engine": engine,
            "folder": str(order.model.reference(Home(Path(folder))).path),
            "dtype": DTYPE,
            "stages": [
                [{"id": r.id, "ids": r.token_ids, "most": r.max_tokens} for r in stage] for stage in work.stages
            ],
            "stops": work.stops,
            "batch": batch,
            "tune": list(tune),
            "answer": str(answer),
        }
        # As a session's process has it: threads that spin while they wait slow each other on few cores.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        done = subprocess.run(
            [sys.executable, "-m", "bench.generation_raw"], input=json.dumps(job), text=True, env=environment,
            capture_output=True, cwd=ROOT, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RunError(f"the raw engine {engine} failed:\n{done.stderr[-2000:]}")
        said: dict[str, Any] = json.loads(answer.read_text())
        return said


def _measured(said: dict[str, Any], stops: Sequence[int]) -> Measured:
    tokens = sum(map(len, said["outputs"].values()))
    outputs = {
        name.partition("/")[0] + ("/" if "/" in name else ""): ids[:-1] if ids[-1] in stops else ids
        for name, ids in said["outputs"].items()
    }
    return Measured(tokens, said["seconds"], said["cpu"], said["load_seconds"], outputs)


def _cpu_of(process: int) -> float:
    """Seconds of CPU time that a process has used so far (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(figures: Mapping[str, Mapping[str, float]], bars: Mapping[str, float], *, quick: bool) -> list[str]:
    """Print the table and the JSON line. Returns the bars that are missed, in words."""
    missed = [
        f"{engine}: {name} is {figure[name]:.4g}, the bar is >= {bound:g}"
        for engine, figure in figures.items()
        for name, bound in bars.items()
        if not figure[name] >= bound
    ]
    names = list(next(iter(figures.values())))
    width = max(map(len, names))
    print(f"{'':<{width}}" + "".join(f"{engine:>14}" for engine in figures))
    for name in names:
        row = "".join(f"{figure[name]:>14.4g}" for figure in figures.values())
        print(f"{name:<{width}}{row}  {f'bar >= {bars[name]:g}' if name in bars else ''}".rstrip())
    for bar in missed:
        print(f"missed: {bar}")
    shown = {
        engine: {name: None if math.isnan(value) else round(value, 4) for name, value in figure.items()}
        for engine, figure in figures.items()
    }
    print(json.dumps({"bench": "generation", "quick": quick, "missed": missed, "engines": shown}))
    return missed


def say(what: str) -> None:
    """Progress, on standard error: standard output is the result."""
    print(f"... {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
