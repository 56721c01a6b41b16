"""Several processes train one student: two of this CPU, with the weights in shards (FSDP2 over gloo)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_tiny

from flows.server import free_port
from models.finetune import Hyperparameters, ProcessOptions, TrainJob, TrainLog, TrainSpec, train
from models.launching import join
from models.training_text import Example
from store.types import InputError, Message, RunError

ROOT = Path(__file__).resolve().parents[2]
CITIES = {
    "Ada": "Paris", "Bo": "Rome", "Cy": "Oslo", "Di": "Cairo", "Ed": "Lima", "Flo": "Bern", "Gus": "Delhi",
    "Hal": "Tokyo", "Ida": "Quito", "Jo": "Accra", "Kim": "Sofia", "Lou": "Dakar", "Max": "Minsk", "Ned": "Riga",
}  # fmt: skip
# 11 examples are 6 batches of 2, the last one half empty: 3 steps an epoch, whose last one is shared by two processes too.
STEPS = Hyperparameters(
    method="full", learning_rate=0.01, epochs=9, batch_size=2, gradient_accumulation=2, max_length=96, max_steps=7,
    precision="fp32",
)  # fmt: skip
LORA = Hyperparameters(**{**STEPS.model_dump(), "method": "lora", "max_steps": 9})

Curve = list[tuple[int, float | None, float | None, int]]


def example(name: str) -> Example:
    return Example(
        question_id=name, trace_id=f"{name}-0", messages=(Message(role="user", content=f"Where was {name} born?"),),
        thinking=f"The facts say: {name}, place of birth, {CITIES[name]}.", answer=CITIES[name],
    )  # fmt: skip


TRAINING, HELD_OUT = [[example(name) for name in names] for names in (list(CITIES)[:11], list(CITIES)[11:])]


def two(**more: Any) -> ProcessOptions:
    return ProcessOptions(**{"gpus": 2, "device": "cpu", "threads": 2, "checkpoint_steps": 3, **more})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


def spec_of(base: Path, hyperparameters: Hyperparameters) -> TrainSpec:
    return TrainSpec(base=base, base_key="test", format="blocks", hyperparameters=hyperparameters)


def curve_of(spec: TrainSpec, output: Path, options: ProcessOptions) -> Curve:
    logs: list[TrainLog] = []
    train(spec, TRAINING, HELD_OUT, output, on_log=logs.append, options=options)
    return written(output)


def written(folder: Path) -> Curve:
    """Step, losses and tokens of every line of the log in the folder."""
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["eval_loss"], line["tokens"]) for line in lines]


def assert_same(found: Curve, expected: Curve, within: float = 1e-4) -> None:
    assert [(step, tokens) for step, _, _, tokens in found] == [(step, tokens) for step, _, _, tokens in expected]
    for (_, loss, held_out, _), (_, other_loss, other_held_out, _) in zip(found, expected, strict=True):
        assert loss == pytest.approx(other_loss, abs=within)
        assert held_out == pytest.approx(other_held_out, abs=within)


def weights(folder: Path, name: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    loaded: dict[str, Any] = load_file(folder / name)
    return loaded


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


@pytest.mark.real
class TestTwoProcesses:
    def test_are_one_training_and_give_one_whole_model(self, base: Path, tmp_path: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        spec = spec_of(base, STEPS)
        expected = curve_of(spec, tmp_path / "one", ProcessOptions(device="cpu", threads=2))
        found = curve_of(spec, tmp_path / "two", two(gradient_checkpointing=True, packing=True))
        assert_same(found, expected)
        whole, single = (weights(tmp_path / name, "model.safetensors") for name in ("two", "one"))
        assert largest_difference(whole, single) < 1e-3  # one digit of bf16
        assert {tensor.dtype for tensor in whole.values()} == {torch.bfloat16}
        assert largest_difference(whole, weights(base, "model.safetensors")) > 0.01
        configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("two", "one")]
        assert configs[0] == configs[1]
        model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "two"))
        assert torch.equal(model.state_dict()["model.norm.weight"], whole["model.norm.weight"])
        names = {path.name for path in (tmp_path / "two").iterdir()}
        assert names == {path.name for path in (tmp_path / "one").iterdir()}

    @pytest.mark.slow  # one process is killed in test_finetune.py each time
    def test_kill_nine_leaves_no_process_and_the_same_call_goes_on(self, base: Path, tmp_path: Path) -> None:
        spec, output = spec_of(base, LORA), tmp_path / "two"
        parent, lines = start(spec, output, two())
        try:
            wait_for_step(lines, 4)
            family = descendants(parent.pid)
            assert len(family) == 3, "a launcher and two workers"
        finally:
            parent.kill()
            parent.wait()
            lines.close()
        wait_until(lambda: not any(map(is_alive, family)), 10, "processes outlived their parent")
        assert not output.exists()
        assert (tmp_path / "two.partial" / "checkpoints" / "checkpoint-3" / "pytorch_model_fsdp_0").is_dir()
        resumed: list[TrainLog] = []
        train(spec, TRAINING, HELD_OUT, output, on_log=resumed.append, options=two())
        assert resumed[0].step > 3, "it began again instead of going on from a checkpoint"
        assert_same(written(output), curve_of(spec, tmp_path / "one", ProcessOptions(device="cpu", threads=2)))
        whole, single = (weights(tmp_path / name, "adapter_model.safetensors") for name in ("two", "one"))
        assert largest_difference(whole, single) < 1e-4
        assert any(float(tensor.abs().max()) > 0.01 for name, tensor in whole.items() if "lora_B" in name)

    def test_a_loss_that_is_not_finite_on_one_of_them(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file
        from transformers import AutoTokenizer

        # The embedding of a token that only one example has: the other process computes with numbers.
        poisoned = make_tiny(tmp_path / "base", tied=False)
        tensors = weights(poisoned, "model.safetensors")
        tokenizer = AutoTokenizer.from_pretrained(str(poisoned))
        only = set(tokenizer(" Ada")["input_ids"]) - set(tokenizer(" ".join(str(e) for e in TRAINING[1:]))["input_ids"])
        assert only
        tensors["model.embed_tokens.weight"][sorted(only)] = float("nan")
        save_file(tensors, poisoned / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=r"^the loss is not finite \(nan\) at step \d+: training stopped"):
            train(spec_of(poisoned, STEPS), TRAINING, (), tmp_path / "student", options=two())
        assert not list((tmp_path / "student.partial").glob("checkpoints/*"))


@pytest.mark.real
@pytest.mark.parametrize(("jobs", "agree"), [(("a", "a"), True), (("a", "b"), False)])
def test_all_have_the_same_job_or_all_stop(jobs: tuple[str, str], agree: bool) -> None:
    code = (
        "import sys; from models.training_ranks import meet, part\n"
        "ranks = meet('cpu', 2); print(ranks.same(sys.argv[1])); part()\n"
    )
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, job], stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, job in enumerate(jobs)
    ]  # fmt: skip
    assert [process.communicate(timeout=60)[0].strip() for process in started] == [str(agree)] * 2


@pytest.mark.real
@pytest.mark.slow
class TestMore:
    def test_a_job_that_cannot_be_done(self, base: Path, tmp_path: Path) -> None:
        hyper = STEPS.model_copy(update={"max_length": 16})
        with pytest.raises(InputError, match="no example is left to train on"):
            train(spec_of(base, hyper), TRAINING, HELD_OUT, tmp_path / "student", options=two())

    def test_a_process_that_is_killed_ends_the_others(self, base: Path, tmp_path: Path) -> None:
        before = set(descendants(os.getpid()))  # servers of other tests

        def kill_one(log: TrainLog) -> None:
            if log.step == 2:
                os.kill(max(set(descendants(os.getpid())) - before), signal.SIGKILL)

        spec = spec_of(base, STEPS.model_copy(update={"max_steps": 200}))
        with pytest.raises(RunError, match=r"^a training process was killed by SIGKILL \(out of memory\?\)"):
            train(spec, TRAINING, HELD_OUT, tmp_path / "student", on_log=kill_one, options=two())
        assert set(descendants(os.getpid())) <= before

    def test_two_machines(self, base: Path, tmp_path: Path) -> None:
        spec, options = spec_of(base, STEPS), two(gpus=1, nodes=2, main_address=f"127.0.0.1:{free_port()}")
        first, lines = start(spec, tmp_path / "students" / "two", options)
        said: list[str] = []
        try:
            assert join(tmp_path / "students" / "two", 1, wait=60, say=said.append) == 1
            assert first.wait(60) == 0
        finally:
            first.kill()
            first.wait()
            lines.close()
        assert said[-1].endswith("done")
        assert_same(
            written(tmp_path / "students" / "two"),
            curve_of(spec, tmp_path / "one", ProcessOptions(device="cpu", threads=2)),
        )

    def test_a_machine_that_joins_what_a_kill_left_behind(self, base: Path, tmp_path: Path) -> None:
        students = tmp_path / "students"
        spec, options = spec_of(base, STEPS), two(gpus=1, nodes=2, main_address=f"127.0.0.1:{free_port()}")
        left, left_lines = start(spec, students / "left", options)
        wait_until((students / "left.partial" / "training.json").is_file, 60, "it did not begin")
        left.kill()
        left.wait()
        left_lines.close()
        said: list[str] = []
        other = spec.model_copy(update={"base_key": "other"})
        with ThreadPoolExecutor(1) as pool:
            joined = pool.submit(join, students, 1, wait=30, say=said.append)
            wait_until(lambda: bool(said), 60, "nothing was joined")
            with pytest.raises(RunError, match="another training was joined"):
                train(other, TRAINING, HELD_OUT, students / "right", options=options)
            train(other, TRAINING, HELD_OUT, students / "right", options=options)  # as a study tries again
            assert joined.result() == 1
        assert "left.partial: another training was joined" in said[1]
        assert said[-1].endswith("right.partial: done")

    def test_what_is_dropped_out_is_the_same_after_a_resume(self, base: Path, tmp_path: Path) -> None:
        spec = spec_of(base, LORA.model_copy(update={"lora_dropout": 0.2}))
        expected = curve_of(spec, tmp_path / "uninterrupted", two(gradient_checkpointing=True))
        parent, lines = start(spec, tmp_path / "resumed", two(gradient_checkpointing=True))
        wait_for_step(lines, 5)
        parent.kill()
        parent.wait()
        lines.close()
        assert_same(curve_of(spec, tmp_path / "resumed", two(gradient_checkpointing=True)), expected, within=1e-6)


def start(spec: TrainSpec, output: Path, options: ProcessOptions) -> tuple[subprocess.Popen[str], Any]:
    """A process that trains, and the steps that it prints."""
    code = (
        "import sys; from models.finetune import *\n"
        "job = TrainJob.model_validate_json(sys.stdin.readline())\n"
        "train(job.spec, job.examples, job.held_out, job.folder, options=job.options,\n"
        "      on_log=lambda log: print(log.step, flush=True))\n"
    )
    job = TrainJob(spec=spec, examples=tuple(TRAINING), held_out=tuple(HELD_OUT), folder=output, options=options)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(job.model_dump_json() + "\n")
    return process, process.stdout


def wait_for_step(lines: Any, step: int) -> None:
    for line in lines:
        if int(line) >= step:
            return
    raise AssertionError(f"the training ended before step {step}")


def descendants(process: int) -> list[int]:
    children = [
        int(child) for path in Path(f"/proc/{process}/task").glob("*/children") for child in path.read_text().split()
    ]
    return children + [grandchild for child in children for grandchild in descendants(child)]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
