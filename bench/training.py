"""Our training against TRL's ``SFTTrainer`` and a bare loop on the same tokens, and what packing gains.

    python -m bench.training [--quick] [--check] [--method lora|full]

All sides train the embedded model on the same token ids and labels (loss on the completion alone) with the same batches,
optimiser, schedule, precision and seed; TRL sees them in the same order, so that its losses have to be ours: a few steps in
float32 show it. Each run has a process of its own; they alternate, and each side's best counts, since what else runs on a
machine only slows. The speed is that of steady training: tokens, padding not counted, of all steps but the first few, by the
clock between their ends. The whole process, from its start to saved weights, stands beside it.

Packing is measured with our own process on examples whose lengths differ by a factor of up to 16.

TRL is no dependency: ``pip install -c constraints.txt -e ".[bench]"``. Prints a table, then one JSON object as its last line.
``--quick`` trains a few steps and leaves out the bars on speed. With ``--check`` a missed bar is named and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from eval.benchmarks import load
from models.embedded import default_cache, embedded_key, embedded_model
from models.finetune import Hyperparameters, Precision, ProcessOptions, TrainJob, TrainLog, TrainSpec, train
from models.prompts import question_prompt
from models.training_process import environment
from models.training_text import Example, in_order
from store.types import RunError, Setting

ROOT = Path(__file__).resolve().parent.parent
INSTALL = 'pip install --constraint constraints.txt --editable ".[bench]"'

Method = Literal["lora", "full"]
Side = Literal["ours", "trl", "loop"]
Figures = Mapping[str, Mapping[str, float]]
"""By method and name."""

STEPS, QUICK_STEPS = 14, 4
SETTLING, QUICK_SETTLING = 2, 1
"""Steps at the beginning that are left out: memory is laid out, threads start."""
BATCH = 4
ROUNDS = 3
WORDS = (40, 90)
"""Words of a thought: least and most."""
VARYING = (8, 128)
PACKED_BATCH = 8

AGREEING_STEPS = 4

BARS = {"ours/trl": 0.98}
PACKING_BARS = {"packed/padded": 1.0}
CEILINGS = {"loss in fp32, largest difference": 0.001}
"""Upper bounds, of every table: nats a token, at every one of a few steps."""


class Measured(NamedTuple):
    """One run: ``speed`` in tokens a second of its steady part; of the whole process the seconds and those of CPU time; the
    losses of its steps."""

    speed: float
    tokens: int
    whole_seconds: float
    whole_cpu: float
    losses: list[float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, or 1 for a missed bar, a failed run, or where TRL is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps, one round")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a bar is missed")
    parser.add_argument("--method", choices=("lora", "full"), action="append", help="default: both")
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("trl") is None:
        print(f"TRL is not installed; install what this benchmark compares with: {INSTALL}", file=sys.stderr)
        return 1
    methods: list[Method] = given.method or ["lora", "full"]
    figures: dict[str, dict[str, float]]
    packing: dict[str, dict[str, float]]
    try:
        figures = {method: against_others(method, quick=given.quick) for method in methods}
        packing = {method: of_packing(method, quick=given.quick) for method in methods}
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    missed = report(figures, packing, quick=given.quick)
    return 1 if given.check and missed else 0


def against_others(method: Method, *, quick: bool) -> dict[str, float]:
    """Our process, TRL's and the bare loop, run after run."""
    steps = QUICK_STEPS if quick else STEPS
    settling = QUICK_SETTLING if quick else SETTLING
    made = examples(steps * BATCH, WORDS)
    exact, few = _spec(method, AGREEING_STEPS, BATCH, "fp32"), examples(AGREEING_STEPS * BATCH, VARYING)
    runs: dict[Side, list[Measured]] = {"ours": [], "trl": [], "loop": []}
    for _ in range(1 if quick else ROUNDS):
        for side, done in runs.items():
            done.append(run(side, _spec(method, steps, BATCH), made, settling))
            last = done[-1]
            whole_run = f"{last.whole_seconds:.0f} s in all, {last.whole_cpu:.0f} s of CPU time"
            say(f"{method}: {side} {last.speed:.1f} tokens/s, {whole_run}")
    best = {side: max(done, key=lambda one: one.speed) for side, done in runs.items()}
    whole = {side: min(one.whole_seconds for one in done) for side, done in runs.items()}
    cpu = {side: min(one.whole_cpu for one in done) for side, done in runs.items()}
    ours, trl, loop = best["ours"], best["trl"], best["loop"]
    return {
        "steps": float(steps),
        "tokens": float(ours.tokens),
        "ours, tokens/s": ours.speed,
        "trl, tokens/s": trl.speed,
        "bare loop, tokens/s": loop.speed,
        "ours/trl": ours.speed / trl.speed,
        "ours/bare loop": ours.speed / loop.speed,
        "loss in fp32, largest difference": difference(run("ours", exact, few, 1), run("trl", exact, few, 1)),
        "ours, whole process, s": whole["ours"],
        "trl, whole process, s": whole["trl"],
        "whole process, trl/ours": whole["trl"] / whole["ours"],
        "its CPU time, trl/ours": cpu["trl"] / cpu["ours"],
        "its CPU time, bare loop/ours": cpu["loop"] / cpu["ours"],
    }


def of_packing(method: Method, *, quick: bool) -> dict[str, float]:
    """Our process with and without packing, on examples of strongly varying length."""
    steps = QUICK_STEPS if quick else STEPS
    settling = QUICK_SETTLING if quick else SETTLING
    made = examples(steps * PACKED_BATCH, VARYING)
    spec = _spec(method, steps, PACKED_BATCH)
    exact, few = _spec(method, AGREEING_STEPS, BATCH, "fp32"), examples(AGREEING_STEPS * BATCH, VARYING)
    runs: dict[bool, list[Measured]] = {False: [], True: []}
    for _ in range(1 if quick else ROUNDS):
        for packing, done in runs.items():
            done.append(run("ours", spec, made, settling, packing=packing))
            say(f"{method}: {'packed' if packing else 'padded'} {done[-1].speed:.1f} tokens/s")
    padded, packed = (max(runs[packing], key=lambda one: one.speed) for packing in (False, True))
    return {
        "tokens": float(packed.tokens),
        "padded, tokens/s": padded.speed,
        "packed, tokens/s": packed.speed,
        "packed/padded": packed.speed / padded.speed,
        "loss in fp32, largest difference": difference(
            run("ours", exact, few, 1), run("ours", exact, few, 1, packing=True)
        ),
    }


def examples(count: int, words: tuple[int, int]) -> tuple[Example, ...]:
    """Training examples about starter questions; their thoughts have between ``words`` words, spread evenly by ratio."""
    questions = load("starter", "train")
    text = " ".join(question.text for question in questions).split()
    least, most = words
    made = []
    for place in range(count):
        question = questions[place % len(questions)]
        # The golden ratio spreads lengths evenly however many there are, and neighbours differ.
        length = round(least * (most / least) ** ((place * 0.6180339887) % 1))
        start = (place * 97) % (len(text) - most)
        made.append(
            Example(
                question_id=question.id, trace_id=str(place), messages=question_prompt(question, Setting.INSTRUCT).messages,
                thinking=" ".join(text[start : start + length]), answer=question.answers[0].text,
            )
        )  # fmt: skip
    return tuple(made)


def run(side: Side, spec: TrainSpec, made: Sequence[Example], settling: int, *, packing: bool = False) -> Measured:
    """Train once in a process of its own, and measure it."""
    options = ProcessOptions(packing=packing, threads=len(os.sched_getaffinity(0)), checkpoint_steps=10_000)
    with tempfile.TemporaryDirectory(prefix="factscale-bench-") as name:
        folder = Path(name)
        started, cpu = time.perf_counter(), _cpu_of_children()
        steps = _ours(spec, made, options, folder) if side == "ours" else _raw(side, spec, made, options, folder)
        whole, cpu = time.perf_counter() - started, _cpu_of_children() - cpu
    return measured(steps, settling, whole, cpu)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(steps: Sequence[TrainLog], settling: int, whole: float, cpu: float) -> Measured:
    """The speed after the first ``settling`` steps, by sums of tokens and seconds."""
    first, last = steps[settling - 1], steps[-1]
    speed = (last.tokens - first.tokens) / (last.seconds - first.seconds)
    return Measured(speed, last.tokens, whole, cpu, [step.loss for step in steps if step.loss is not None])


def difference(one: Measured, other: Measured) -> float:
    """The largest difference of the losses of a step; infinite where they have different numbers of steps or tokens."""
    if len(one.losses) != len(other.losses) or one.tokens != other.tokens:
        return float("inf")
    return max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))


def _spec(method: Method, steps: int, batch: int, precision: Precision = "auto") -> TrainSpec:
    hyper = Hyperparameters(
        method=method, learning_rate=2e-4, max_steps=steps, batch_size=batch, gradient_accumulation=1, max_length=1024,
        warmup_ratio=0, precision=precision,
    )  # fmt: skip
    return TrainSpec(
        base=embedded_model(default_cache()), base_key=embedded_key(), format="blocks", hyperparameters=hyper
    )


def _ours(spec: TrainSpec, made: Sequence[Example], options: ProcessOptions, folder: Path) -> list[TrainLog]:
    logs: list[TrainLog] = []
    train(spec, made, (), folder / "student", on_log=logs.append, options=options)
    return [log for log in logs if log.loss is not None]


def _raw(side: Side, spec: TrainSpec, made: Sequence[Example], options: ProcessOptions, folder: Path) -> list[TrainLog]:
    """What ``bench.training_raw`` says. Raises RunError where it fails."""
    answer = folder / "answer"
    job = TrainJob(spec=spec, examples=tuple(in_order(made)), held_out=(), folder=folder, options=options)
    asked = {"side": side, "job": job.model_dump(mode="json"), "answer": str(answer)}
    child = {**environment(options.threads), "HF_DATASETS_CACHE": str(folder / "datasets")}
    done = subprocess.run(
        [sys.executable, "-m", "bench.training_raw"], input=json.dumps(asked), text=True, env=child,
        capture_output=True, cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RunError(f"the training with {side} failed:\n{done.stderr[-2000:]}")
    said = json.loads(answer.read_text())["steps"]
    return [
        TrainLog(step=place, total_steps=len(said), loss=one["loss"], tokens=int(one["tokens"]), seconds=one["seconds"])
        for place, one in enumerate(said, start=1)
    ]


def report(figures: Figures, packing: Figures, *, quick: bool) -> list[str]:
    """Print the tables and the JSON line. Returns the bars that are missed, in words."""
    missed: list[str] = []
    for title, found, bars in (("", figures, BARS), ("packing", packing, PACKING_BARS)):
        floors = {} if quick else bars
        print(f"{title:<34}" + "".join(f"{method:>12}" for method in found))
        for name in next(iter(found.values())):
            row = "".join(f"{figure[name]:>12.4g}" for figure in found.values())
            bar = (
                f"bar >= {floors[name]:g}"
                if name in floors
                else f"bar <= {CEILINGS[name]:g}"
                if name in CEILINGS
                else ""
            )
            print(f"{name:<34}{row}  {bar}".rstrip())
        for method, figure in found.items():
            short = {name: f">= {bound:g}" for name, bound in floors.items() if not figure[name] >= bound}
            over = {name: f"<= {bound:g}" for name, bound in CEILINGS.items() if not figure[name] <= bound}
            missed += [
                f"{method}: {name} is {figure[name]:.4g}, the bar is {bar}" for name, bar in (short | over).items()
            ]
    for line in missed:
        print(f"missed: {line}")
    print(
        json.dumps(
            {
                "bench": "training",
                "quick": quick,
                "missed": missed,
                "methods": _rounded(figures),
                "packing": _rounded(packing),
            }
        )
    )
    return missed


def _rounded(figures: Figures) -> dict[str, dict[str, float | None]]:
    return {
        method: {name: round(value, 6) if math.isfinite(value) else None for name, value in figure.items()}
        for method, figure in figures.items()
    }


def say(what: str) -> None:
    """Progress, on standard error: standard output is the result."""
    print(f"... {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
