"""Real training: LoRA on the embedded model, and a tiny random model where only the machinery is looked at."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_model import make_tiny

from models.engines.base import ModelRef
from models.finetune import (
    Hyperparameters,
    ProcessOptions,
    StudentManifest,
    TrainJob,
    TrainLog,
    TrainSpec,
    _made,
    load_manifest,
    train,
    verify,
    wandb_wants_key,
)
from models.formats import FORMATS
from models.training_text import Example, build_dataset, encode
from store.types import InputError, Message, RunError

ROOT = Path(__file__).resolve().parents[2]
BORN = {
    "Ada": "Paris", "Bo": "Rome", "Cy": "Oslo", "Di": "Cairo", "Ed": "Lima", "Flo": "Bern", "Gus": "Delhi",
    "Hal": "Tokyo", "Ida": "Quito", "Jo": "Accra", "Kim": "Sofia", "Lou": "Dakar", "Max": "Minsk", "Ned": "Riga",
}  # fmt: skip
TINY = Hyperparameters(
    learning_rate=0.01, epochs=9, batch_size=2, gradient_accumulation=2, max_length=96, lora_dropout=0.1, max_steps=24
)


def example(name: str, city: str) -> Example:
    return Example(
        question_id=name, trace_id=f"{name}-0",
        messages=(Message(role="system", content="Be brief."), Message(role="user", content=f"Where was {name} born?")),
        thinking=f"The facts say: {name}, place of birth, {city}.", answer=city,
    )  # fmt: skip


EXAMPLES = [example(name, city) for name, city in BORN.items()]
TRAINING, HELD_OUT = EXAMPLES[:12], EXAMPLES[12:]


class Student:
    """A trained student, and what was logged while it was trained."""

    def __init__(self, spec: TrainSpec, folder: Path, options: ProcessOptions | None = None) -> None:
        self.spec, self.folder = spec, folder
        self.logs: list[TrainLog] = []
        self.manifest: StudentManifest = train(
            spec, TRAINING, HELD_OUT, folder, on_log=self.logs.append, options=options
        )

    def written(self) -> list[tuple[int, float | None, float | None]]:
        """Step and losses of every line of the log in the folder."""
        lines = [json.loads(line) for line in (self.folder / "train_log.jsonl").read_text().splitlines()]
        return [(line["step"], line["loss"], line["eval_loss"]) for line in lines]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


def spec_of(base: Path, hyperparameters: Hyperparameters) -> TrainSpec:
    return TrainSpec(base=base, base_key="test", format="blocks", hyperparameters=hyperparameters)


@pytest.fixture(scope="module")
def student(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Student:
    # In fp32 on every machine, since what is measured afterwards is compared with what was measured in training.
    hyper = Hyperparameters(
        learning_rate=2e-3, epochs=3, batch_size=4, gradient_accumulation=1, max_length=96, precision="fp32"
    )  # fmt: skip
    return Student(spec_of(embedded, hyper), tmp_path_factory.mktemp("students") / "real")


@pytest.fixture(scope="module")
def uninterrupted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Student:
    return Student(spec_of(tiny, TINY), tmp_path_factory.mktemp("students") / "tiny")


def held_out_loss(model: Any, base: Path) -> float:
    import torch
    from transformers import AutoTokenizer

    from models.training_run import held_out_loss as measure

    rows, _ = build_dataset(HELD_OUT, AutoTokenizer.from_pretrained(str(base)), FORMATS["blocks"], 96)
    return measure(model, rows.to_list(), 1, torch.device("cpu"))


def learned_text(folder: Path) -> list[int]:
    from transformers import AutoTokenizer

    return encode(TRAINING[0], AutoTokenizer.from_pretrained(str(folder)), FORMATS["blocks"]).input_ids


def whole_model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)


@pytest.mark.real
class TestRealStudent:
    def test_the_held_out_loss_falls(self, student: Student) -> None:
        result = student.manifest.result
        assert result.base_loss is not None
        assert result.held_out_loss is not None
        assert result.held_out_loss < 0.5 * result.base_loss
        assert result.steps == 9
        assert student.logs[0].step == 0
        assert student.logs[0].eval_loss == result.base_loss
        assert student.logs[-1].eval_loss == result.held_out_loss
        assert all(log.tokens_per_second > 0 for log in student.logs if log.loss is not None)

    def test_the_folder_holds_its_certificate_and_nothing_pickled(self, student: Student) -> None:
        assert load_manifest(student.folder) == verify(student.folder) == student.manifest
        names = {path.name for path in student.folder.rglob("*")}
        assert {"adapter_model.safetensors", "adapter_config.json", "chat_template.jinja", "train.log"} <= names
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
        assert not names & {"job.json", "checkpoints"}
        assert [step for step, _, _ in student.written()] == [log.step for log in student.logs]

    def test_the_adapter_and_the_merged_model_are_what_was_trained(self, student: Student, tmp_path: Path) -> None:
        import torch
        from peft import PeftModel

        from models.engines.loading import merge_adapter

        folder = tmp_path / "merged"
        merge_adapter(ModelRef("student", student.spec.base, student.folder), folder, torch.bfloat16)
        adapted = PeftModel.from_pretrained(whole_model(student.spec.base), str(student.folder)).eval()
        merged = whole_model(folder).eval()
        expected = student.manifest.result.held_out_loss
        assert held_out_loss(adapted, student.folder) == pytest.approx(expected, abs=1e-4)
        assert held_out_loss(merged, folder) == pytest.approx(expected, abs=0.05)  # rounded to bf16
        ids = torch.tensor([learned_text(student.folder)])
        with torch.no_grad():
            tops = [model(input_ids=ids).logits[0].argmax(-1) for model in (adapted, merged)]
        assert (tops[0] == tops[1]).float().mean() > 0.9

    def test_a_trained_student_is_not_trained_again(self, student: Student) -> None:
        before = {path: path.stat().st_mtime_ns for path in student.folder.iterdir()}
        again = Student(student.spec, student.folder)
        assert (again.manifest, again.logs) == (student.manifest, [])
        assert {path: path.stat().st_mtime_ns for path in student.folder.iterdir()} == before
        other = student.spec.model_copy(update={"base_key": "another"})
        with pytest.raises(InputError, match=r"output: .* another student"):
            Student(other, student.folder)

    def test_changed_weights_are_found(self, student: Student, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(student.folder, tmp_path / "copy"))
        with (copy / "adapter_model.safetensors").open("r+b") as handle:
            handle.seek(-1, os.SEEK_END)
            handle.write(b"\x55")
        with pytest.raises(RunError, match=r"adapter_model\.safetensors is not what its manifest says"):
            verify(copy)
        (copy / "manifest.json").unlink()
        assert load_manifest(copy) is None
        with pytest.raises(InputError, match="not a student"):
            verify(copy)


@pytest.mark.real
class TestInterruptedTraining:
    def test_kill_nine_leaves_nothing_and_the_same_call_completes(self, uninterrupted: Student, tmp_path: Path) -> None:
        output = tmp_path / "student"
        parent, child = start_training(uninterrupted.spec, output)
        try:
            wait_for_step(parent, 8)
        finally:
            parent.kill()
            parent.wait()
        wait_until_gone(child)
        assert not output.exists()
        assert load_manifest(tmp_path / "student.partial") is None
        resumed = Student(uninterrupted.spec, output, ProcessOptions(checkpoint_steps=3))
        first = resumed.logs[0].step
        assert 6 < first <= 24, "it began again instead of going on from a checkpoint"
        assert resumed.written() == uninterrupted.written()
        assert resumed.manifest.weights == uninterrupted.manifest.weights
        assert resumed.manifest.result.tokens == uninterrupted.manifest.result.tokens
        assert not (tmp_path / "student.partial").exists()

    def test_a_kill_before_what_it_was_made_from_is_removed(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def kill(*_: Any) -> None:
            raise KeyboardInterrupt

        spec, output = spec_of(tiny, TINY.model_copy(update={"max_steps": 1})), tmp_path / "student"
        logs: list[TrainLog] = []
        with monkeypatch.context() as patched:
            patched.setattr("models.finetune._publish", kill)
            with pytest.raises(KeyboardInterrupt):
                train(spec, TRAINING, (), output)
        assert train(spec, TRAINING, (), output, on_log=logs.append) == verify(output)
        assert logs == [], "it was trained again"
        assert not {path.name for path in output.iterdir()} & {"job.json", "checkpoints"}

    def test_a_kill_before_it_gets_its_name(self, uninterrupted: Student, tmp_path: Path) -> None:
        partial, output = tmp_path / "student.partial", tmp_path / "student"
        logs: list[TrainLog] = []
        shutil.copytree(uninterrupted.folder, partial)
        for name in ("training.json", "training.json.part"):  # of a training of several machines
            (partial / name).write_text("{}")
        found = train(uninterrupted.spec, TRAINING, HELD_OUT, output, on_log=logs.append)
        assert (found, logs) == (uninterrupted.manifest, [])
        names = [{path.name for path in folder.iterdir()} for folder in (output, uninterrupted.folder)]
        assert names[0] == names[1]

    def test_weights_that_are_not_those_of_the_manifest_are_made_again(
        self, uninterrupted: Student, tmp_path: Path
    ) -> None:
        partial = Path(shutil.copytree(uninterrupted.folder, tmp_path / "student.partial"))
        weights = partial / "adapter_model.safetensors"
        key, kind, held_out = (getattr(uninterrupted.manifest, name) for name in ("key", "kind", "held_out_set"))
        assert _made(partial, key, kind, None) is None  # the losses of other held-out examples
        shutil.copy(uninterrupted.folder / "manifest.json", partial)
        assert _made(partial, key, kind, held_out) == uninterrupted.manifest
        weights.write_bytes(weights.read_bytes()[:-1])
        assert _made(partial, key, kind, held_out) is None
        assert load_manifest(partial) is None

    def test_a_kill_while_an_epoch_is_measured(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from models import training_run

        def attempt(folder: Path, killed: int | None) -> list[tuple[Any, ...]]:
            """What the log says after an attempt that dies when it measures for the ``killed``-th time (from 0)."""
            measured = 0

            def measure(*given: Any) -> float:
                nonlocal measured
                if measured == killed:
                    raise KeyboardInterrupt
                measured += 1
                return held_out_loss_of(*given)

            job = TrainJob(
                spec=spec_of(tiny, TINY.model_copy(update={"max_steps": 5})), examples=tuple(TRAINING),
                held_out=tuple(HELD_OUT), folder=folder, options=ProcessOptions(checkpoint_steps=3, device="cpu"),
            )  # fmt: skip
            folder.mkdir(exist_ok=True)
            with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
                patched.setattr(training_run, "held_out_loss", measure)
                training_run.train(job.model_dump_json().encode(), lambda _: None)
            lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
            return [(line["step"], line["loss"], line["eval_loss"], line["tokens"]) for line in lines]

        held_out_loss_of = training_run.held_out_loss
        expected = attempt(tmp_path / "whole", None)
        assert [step for step, _, held_out, _ in expected if held_out is not None] == [0, 3, 5]
        # In the first epoch's measure, after the checkpoint of step 3; in the last one, after that of step 5, amid an epoch.
        assert [len(attempt(tmp_path / "killed", killed)) for killed in (1, 1)] == [4, 7]
        assert attempt(tmp_path / "killed", None) == expected

    def test_an_error_while_logging_ends_the_process(self, tiny: Path, tmp_path: Path) -> None:
        def stop(log: TrainLog) -> None:
            raise KeyboardInterrupt

        before = set(children(os.getpid()))  # servers of other tests
        with pytest.raises(KeyboardInterrupt):
            train(spec_of(tiny, TINY), TRAINING, HELD_OUT, tmp_path / "student", on_log=stop)
        assert not (tmp_path / "student").exists()
        assert set(children(os.getpid())) <= before


def start_training(spec: TrainSpec, output: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that trains and prints the steps, and the id of its training process."""
    code = (
        "import sys; from pathlib import Path\n"
        "from models.finetune import *; from models.training_text import Example\n"
        "job = TrainJob.model_validate_json(sys.stdin.readline())\n"
        "train(job.spec, job.examples, job.held_out, job.folder, options=job.options,\n"
        "      on_log=lambda log: print(log.step, flush=True))\n"
    )
    job = {
        "spec": spec.model_dump(mode="json"),
        "examples": [row.model_dump(mode="json") for row in TRAINING],
        "held_out": [row.model_dump(mode="json") for row in HELD_OUT],
        "folder": str(output),
        "options": {"checkpoint_steps": 3},
    }
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdin is not None
    with parent.stdin as pipe:
        pipe.write(json.dumps(job) + "\n")
    deadline = time.monotonic() + 60
    while not (found := children(parent.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return parent, found[0]


def wait_for_step(parent: subprocess.Popen[str], step: int) -> None:
    assert parent.stdout is not None
    for line in parent.stdout:
        if int(line) >= step:
            parent.stdout.close()
            return
    raise AssertionError(f"the training ended before step {step}")


def children(process: int) -> list[int]:
    return [
        int(child) for path in Path(f"/proc/{process}/task").glob("*/children") for child in path.read_text().split()
    ]


def wait_until_gone(process: int) -> None:
    """Gone, or dead and not yet collected by the init process."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    raise AssertionError(f"the training process {process} outlived its parent")


@pytest.mark.real
class TestFull:
    def test_saves_a_whole_model_in_the_dtype_of_the_base(self, tiny: Path, tmp_path: Path) -> None:
        from safetensors import safe_open

        hyper = Hyperparameters(method="full", learning_rate=0.01, epochs=3, max_length=96)
        full = Student(spec_of(tiny, hyper), tmp_path / "full", ProcessOptions(gradient_checkpointing=True))
        for name in ("config.json", "generation_config.json"):
            assert json.loads((full.folder / name).read_text()).get("use_cache", True) is True
        result = full.manifest.result
        assert held_out_loss(whole_model(full.folder), full.folder) == pytest.approx(result.held_out_loss, abs=0.05)
        assert (result.held_out_loss or 99) < (result.base_loss or 0)
        with safe_open(full.folder / "model.safetensors", "pt") as weights:
            assert weights.get_slice("model.norm.weight").get_dtype() == "BF16"


@pytest.mark.real
def test_the_held_out_loss_is_the_mean_over_learned_tokens_in_whatever_batches(tiny: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    from models.training_run import held_out_loss as measure

    rows = build_dataset(EXAMPLES, AutoTokenizer.from_pretrained(str(tiny)), FORMATS["blocks"], 96)[0].to_list()
    model = whole_model(tiny).eval()
    losses = []
    for row in rows:
        with torch.no_grad():
            scores = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        losses += [-float(scores[at, label]) for at, label in enumerate(row["labels"][1:]) if label != -100]
    for batch_size in (1, 4, 99):
        found = measure(model, rows, batch_size, torch.device("cpu"))
        assert found == pytest.approx(sum(losses) / len(losses), abs=1e-5)


@pytest.mark.real
def test_tensorboard_is_told_of_the_same_losses(tiny: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hyper = TINY.model_copy(update={"max_steps": 3})
    told = Student(spec_of(tiny, hyper), tmp_path / "told", ProcessOptions(report_to=("tensorboard",)))
    events = EventAccumulator(str(tmp_path / "told.tensorboard")).Reload()
    losses = [(step, loss) for step, loss, _ in told.written() if loss is not None]
    assert [(one.step, pytest.approx(one.value, abs=1e-6)) for one in events.Scalars("train/loss")] == losses
    assert not list(told.folder.rglob("events.*"))
    assert all(log.memory_bytes and log.memory_bytes > 2**20 for log in told.logs)


@pytest.mark.real
class TestPacking:
    def test_packed_rows_do_not_see_one_another(self, tiny: Path) -> None:
        import torch
        from transformers import AutoTokenizer

        from models.training_batches import packed, pad

        rows = build_dataset(TRAINING[:3], AutoTokenizer.from_pretrained(str(tiny)), FORMATS["blocks"], 96)[0].to_list()
        model = whole_model(tiny).eval()
        model.config.use_cache = False  # as in training
        with torch.no_grad():
            together = model(**{k: v for k, v in packed(rows).items() if k != "labels"}).logits[0]
            apart = [model(**{k: v for k, v in pad([row]).items() if k != "labels"}).logits[0] for row in rows]
        assert packed(rows)["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in rows))
        torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-4)

    def test_the_losses_are_those_of_padded_batches(self, tiny: Path, tmp_path: Path) -> None:
        hyper = TINY.model_copy(update={"max_steps": 4, "lora_dropout": 0.0, "precision": "fp32"})
        padded = Student(spec_of(tiny, hyper), tmp_path / "padded")
        joined = Student(spec_of(tiny, hyper), tmp_path / "joined", ProcessOptions(packing=True))
        for (step, loss, held_out), (other, *losses) in zip(padded.written(), joined.written(), strict=True):
            assert step == other
            assert losses == [pytest.approx(loss, abs=1e-4), pytest.approx(held_out, abs=1e-4)]
        assert joined.manifest.result.tokens == padded.manifest.result.tokens
        assert joined.manifest.key == padded.manifest.key

    def test_a_batch_in_which_nothing_is_learned(self) -> None:
        from models.training_batches import packed

        with pytest.raises(InputError, match="all labels of a batch of 2 are masked"):
            packed([{"input_ids": [1, 2], "labels": [-100, -100]}] * 2)


@pytest.mark.real
class TestRefusals:
    def test_nothing_fits(self, tiny: Path, tmp_path: Path) -> None:
        hyper = TINY.model_copy(update={"max_length": 16})
        with pytest.raises(InputError, match=r"12 were dropped: 12 too long; the longest has .* max_length is 16"):
            train(spec_of(tiny, hyper), TRAINING, HELD_OUT, tmp_path / "student")
        assert not (tmp_path / "student").exists()

    def test_a_loss_that_is_not_finite(self, tiny: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        poisoned = Path(shutil.copytree(tiny, tmp_path / "poisoned"))
        tensors = load_file(poisoned / "model.safetensors")
        tensors["model.norm.weight"][0] = float("nan")
        save_file(tensors, poisoned / "model.safetensors", metadata={"format": "pt"})
        job = TrainJob(
            spec=spec_of(poisoned, TINY), examples=tuple(TRAINING), held_out=(), folder=tmp_path,
            options=ProcessOptions(),
        )  # fmt: skip
        from models import training_run  # in this process: what the libraries warn of is an error here

        # No RunError: what fails again in the same way is not to be tried again.
        with pytest.raises(InputError, match=r"loss is not finite \(nan\) at step 0.*learning_rate \(0\.01\)"):
            training_run.train(job.model_dump_json().encode(), lambda message: None)
        assert not list(tmp_path.glob("*.safetensors"))

    def test_four_bits_need_a_gpu_and_their_package(self, tiny: Path, tmp_path: Path) -> None:
        import torch

        from models.training_model import student_model

        spec = spec_of(tiny, Hyperparameters(method="qlora", max_length=96))
        with pytest.raises(InputError, match="'qlora' needs a GPU"):
            student_model(spec, "fp32", "cpu")
        if find_spec("bitsandbytes") is None:
            with pytest.raises(InputError, match=r"method 'qlora' needs the package bitsandbytes.*pip install"):
                train(spec, TRAINING, (), tmp_path / "student")
        elif not torch.cuda.is_available():
            with pytest.raises(InputError, match="'qlora' needs a GPU"):
                train(spec, TRAINING, (), tmp_path / "student")

    def test_a_tokenizer_of_another_model(self, tiny: Path, tmp_path: Path) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(**json.loads((tiny / "config.json").read_text()) | {"vocab_size": 900})
        small = Path(shutil.copytree(tiny, tmp_path / "small"))
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(str(small))
        with pytest.raises(InputError, match=r"gives token id \d+, the model has embeddings for 900"):
            train(spec_of(small, TINY), TRAINING, (), tmp_path / "student")

    def test_a_tracker_that_is_not_installed(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("models.finetune.find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"report_to 'wandb' needs the package wandb.*pip install wandb"):
            train(spec_of(tiny, TINY), TRAINING, (), tmp_path / "s", options=ProcessOptions(report_to=("wandb",)))

    def test_a_tracker_without_a_key(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("models.finetune.find_spec", lambda name: object())
        monkeypatch.setenv("HOME", str(tmp_path))  # no netrc in it
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(InputError, match=r"api\.wandb\.ai wants a key: .*WANDB_API_KEY.*'wandb-api-key'"):
            train(spec_of(tiny, TINY), TRAINING, (), tmp_path / "s", options=ProcessOptions(report_to=("wandb",)))

    @pytest.mark.parametrize(
        ("variables", "wanted"),
        [({}, True), ({"WANDB_MODE": "online"}, True), ({"WANDB_API_KEY": "k"}, False), ({"WANDB_MODE": "offline"}, False),
         ({"WANDB_MODE": "dryrun"}, False), ({"WANDB_MODE": "disabled"}, False)],
    )  # fmt: skip
    def test_when_a_tracker_wants_a_key(self, variables: dict[str, str], wanted: bool) -> None:
        assert wandb_wants_key(variables) is wanted

    def test_no_model_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"base: .* has no config\.json"):
            train(spec_of(tmp_path, TINY), TRAINING, (), tmp_path / "student")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    import fcntl

    (tmp_path / "student.partial").mkdir()
    descriptor = os.open(tmp_path / "student.partial", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield tmp_path / "student"
    os.close(descriptor)


@pytest.mark.real
def test_two_processes_do_not_train_one_student(locked: Path, tiny: Path) -> None:
    with pytest.raises(RunError, match="another process"):
        train(spec_of(tiny, TINY), TRAINING, (), locked)


class TestHyperparameters:
    @pytest.mark.parametrize(
        ("field", "value"),
        [("learning_rate", 0), ("epochs", -1), ("batch_size", 0), ("warmup_ratio", 1), ("betas", (0.9, 1.0)),
         ("held_out", 0.9), ("precision", "fp8"), ("max_steps", 0), ("unknown", 1)],
    )  # fmt: skip
    def test_a_message_names_the_field(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError, match=field):
            Hyperparameters(**{field: value})

    def test_full_has_one_form(self) -> None:
        with pytest.raises(ValidationError, match="lora_r: method 'full' has no adapter"):
            Hyperparameters(method="full", lora_r=8)

    def test_the_key_holds_what_changes_the_weights(self) -> None:
        spec = spec_of(Path("/a"), TINY)
        assert spec.key("x") == spec.model_copy(update={"base": Path("/b")}).key("x")
        others = [
            spec.model_copy(update={"hyperparameters": TINY.model_copy(update={"seed": 1})}).key("x"),
            spec.model_copy(update={"base_key": "other"}).key("x"),
            spec.key("y"),
        ]
        assert spec.key("x") not in others
