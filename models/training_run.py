"""The inside of a training process: transformers' ``Trainer`` and peft over our own ids and labels. Imports torch.

Started by ``models.finetune`` through ``models.training_process``; nothing else imports this.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import IntervalStrategy

from models.engines.base import ModelRef
from models.engines.loading import load_tokenizer
from models.finetune import CHECKPOINTS, LOG, Hyperparameters, TrainJob, TrainLog, TrainResult, TrainSpec
from models.formats import format_named
from models.training_process import Message, Send
from models.training_text import IGNORED, build_dataset
from store.types import InputError, RunError

COMPLETE = "complete"
"""Written into a checkpoint last: one without it was cut off by a kill and is not resumed from."""


def train(text: bytes, send: Send) -> Message:
    """Train the ``TrainJob`` in ``text`` (JSON), save weights and tokenizer to its folder, return a ``TrainResult``."""
    job = TrainJob.model_validate_json(text)
    hyper, form = job.spec.hyperparameters, format_named(job.spec.format)
    if job.options.threads:
        torch.set_num_threads(job.options.threads)
    device = _device(job.options.device)
    precision = choose_precision(hyper.precision, device)
    spec = job.spec
    tokenizer = load_tokenizer(
        ModelRef("base", spec.base, chat_template=spec.chat_template, trust_remote_code=spec.trust_remote_code)
    )
    dataset, dropped = build_dataset(job.examples, tokenizer, form, hyper.max_length)
    held_out = _held_out(job, tokenizer)
    set_seed(hyper.seed)  # before the adapter is made: its first weights are random
    model, dtype = _student(spec, hyper)
    checkpoint = last_checkpoint(job.folder / CHECKPOINTS)
    progress = Progress(job.folder / LOG, send, resumed_at=int(checkpoint.name.split("-")[1]) if checkpoint else None)
    arguments = _arguments(job, precision, device)
    arguments.eval_strategy = IntervalStrategy.EPOCH if held_out else IntervalStrategy.NO
    arguments.eval_on_start = bool(held_out) and checkpoint is None  # the base model's loss
    trainer = StudentTrainer(
        model=model, args=arguments, train_dataset=dataset,
        data_collator=pad, held_out=held_out, progress=progress,
    )  # fmt: skip
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except NotFiniteError:
        # The same job would fail again in the same way: nothing of it is worth going on from.
        shutil.rmtree(job.folder / CHECKPOINTS, ignore_errors=True)
        raise
    if held_out and progress.last_eval_step != trainer.state.global_step:
        trainer.evaluate()
    _save(model, tokenizer, hyper.method, dtype, job.folder)
    result = TrainResult(
        steps=trainer.state.global_step, tokens=progress.tokens, seconds=round(progress.seconds, 3),
        train_loss=progress.loss, base_loss=progress.first_eval, held_out_loss=progress.last_eval,
        examples=len(dataset), held_out_examples=len(held_out), dropped=dropped, precision=precision,
        device=device, threads=torch.get_num_threads(),
    )  # fmt: skip
    return result.model_dump(mode="json")


class NotFiniteError(RunError):
    """The loss or the gradient is infinite or not a number."""


class Progress:
    """Counts tokens and seconds, writes the log's lines and sends them. Goes on where a resumed log ends."""

    def __init__(self, path: Path, send: Send, resumed_at: int | None) -> None:
        self._path, self._send = path, send
        self._lap = time.monotonic()
        self._lap_tokens = 0
        self.tokens, self.seconds, self.loss = 0, 0.0, math.nan
        self.first_eval: float | None = None
        self.last_eval: float | None = None
        self.last_eval_step: int | None = None
        kept = self._kept(resumed_at)
        path.write_text("".join(line.model_dump_json() + "\n" for line in kept), encoding="utf-8")
        for line in kept:
            self._remember(line)

    def _kept(self, resumed_at: int | None) -> list[TrainLog]:
        """The lines up to the checkpoint; those after it will be written again."""
        if resumed_at is None or not self._path.is_file():
            return []
        lines = [line for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]
        return [log for log in map(TrainLog.model_validate_json, lines) if log.step <= resumed_at]

    def _remember(self, line: TrainLog) -> None:
        self.tokens, self.seconds = line.tokens, line.seconds
        if line.loss is not None:
            self.loss = line.loss
        if line.eval_loss is not None:
            self.last_eval, self.last_eval_step = line.eval_loss, line.step
            self.first_eval = line.eval_loss if line.step == 0 else self.first_eval

    def read(self, tokens: int) -> None:
        """The model has read ``tokens`` more tokens of training text."""
        self._lap_tokens += tokens

    def lap(self) -> None:
        """Count the time since the last lap as used, but not as training (a checkpoint was written)."""
        now = time.monotonic()
        self.seconds += now - self._lap
        self._lap = now

    def write(self, line: TrainLog) -> None:
        """Add tokens and times to ``line``, append it to the log and send it."""
        before = self.seconds
        self.lap()
        speed = self._lap_tokens / max(self.seconds - before, 1e-9)
        counted = {"tokens": self.tokens + self._lap_tokens, "seconds": round(self.seconds, 3)}
        self._lap_tokens = 0
        line = line.model_copy(update={**counted, "tokens_per_second": round(speed, 1)})
        self._remember(line)
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(line.model_dump_json() + "\n")
        self._send({"log": json.loads(line.model_dump_json())})


class StudentTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed here
    """``Trainer`` with our held-out loss, our log, a stop at losses that are not finite, and no pickled arguments."""

    def __init__(self, *, held_out: list[dict[str, list[int]]], progress: Progress, **rest: Any) -> None:
        super().__init__(eval_dataset=held_out or None, **rest)
        self._held_out = held_out
        self._progress = progress

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """One forward and backward pass over a micro-batch; the loss is checked before it can move the weights."""
        self._progress.read(int(inputs["attention_mask"].sum()))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._check("loss", float(loss))
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean loss (nats) of a learned token over all held-out examples, in whatever batches they come."""
        self._progress.lap()
        loss = held_out_loss(self.model, self._held_out, self.args.per_device_eval_batch_size, self.args.device)
        self._check("held-out loss", loss)
        self.log({"eval_loss": loss})
        return {"eval_loss": loss}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log, and ours."""
        super().log(logs, start_time)
        if "loss" in logs:
            self._check("gradient", logs["grad_norm"])
        if "loss" in logs or "eval_loss" in logs:
            line = TrainLog(
                step=self.state.global_step, total_steps=self.state.max_steps, loss=logs.get("loss"),
                eval_loss=logs.get("eval_loss"), learning_rate=logs.get("learning_rate", 0.0),
            )  # fmt: skip
            self._progress.write(line)

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise NotFiniteError(
                f"the {what} is not finite ({value}) at step {self.state.global_step}: training stopped. "
                f"Lower learning_rate ({self.args.learning_rate:g}), or check the base model's weights"
            )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Trainer's own also pickles the arguments (training_args.bin).
        self.model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._progress.lap()
        super()._save_checkpoint(model, trial)
        (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()
        self._progress.lap()


def held_out_loss(model: Any, rows: list[dict[str, list[int]]], batch_size: int, device: torch.device) -> float:
    """Mean cross entropy (nats) of the learned tokens of ``rows``; each token counts once, however rows are batched."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = {name: tensor.to(device) for name, tensor in pad(rows[start : start + batch_size]).items()}
            labels = batch.pop("labels")[:, 1:]
            logits = model(**batch).logits[:, :-1].float()
            total += float(cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"))
            count += int((labels != IGNORED).sum())
    return total / count


def pad(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch of shape (rows, longest row), padded on the right; padding is masked by length, since its id may be real.

    Raises:
        InputError: nothing in the batch is learned.
    """
    longest = max(len(row["input_ids"]) for row in rows)

    def column(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    batch = {"input_ids": column("input_ids", 0), "attention_mask": mask, "labels": column("labels", IGNORED)}
    if bool((batch["labels"] == IGNORED).all()):
        raise InputError(f"all labels of a batch of {len(rows)} are masked: nothing would be learned from it")
    return batch


def last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step; the others, complete or not, are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    complete = [path for path in found if (path / COMPLETE).is_file()]
    for path in found:
        if path not in complete[-1:]:
            shutil.rmtree(path)
    return complete[-1] if complete else None


def choose_precision(asked: Literal["auto", "fp32", "bf16"], device: str) -> Literal["fp32", "bf16"]:
    """``auto`` is bf16 where the hardware multiplies it natively: elsewhere it is emulated and 3 times slower.

    Raises:
        InputError: bf16 is asked for on a GPU that has none.
    """
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))
    if asked == "bf16" and device == "cuda" and not native:
        raise InputError("precision: this GPU has no bf16; use 'fp32' or 'auto'")
    return ("bf16" if native else "fp32") if asked == "auto" else asked


def _device(asked: str) -> str:
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("device: 'cuda' is asked for and torch finds no CUDA device; use 'auto' or 'cpu'")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def _held_out(job: TrainJob, tokenizer: Any) -> list[dict[str, list[int]]]:
    """The held-out rows, longest first (little padding in a batch); none where none fits: a measure, not a must."""
    if not job.held_out:
        return []
    hyper = job.spec.hyperparameters
    try:
        dataset, dropped = build_dataset(job.held_out, tokenizer, format_named(job.spec.format), hyper.max_length)
    except InputError as error:
        print(f"no held-out loss: {error}")
        return []
    print(f"held out: {len(dataset)} examples, dropped: {dropped}")
    return sorted(dataset.to_list(), key=lambda row: -len(row["input_ids"]))


def _dtype(base: Path) -> torch.dtype:
    """The dtype in which the weights in ``base`` are stored, as its config says; fp32 where it says nothing."""
    config = json.loads((base / "config.json").read_text())
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    found = getattr(torch, str(name))
    if not isinstance(found, torch.dtype):
        raise InputError(f"base: {base / 'config.json'} names an unknown dtype {name!r}")
    return found


def _student(spec: TrainSpec, hyper: Hyperparameters) -> tuple[Any, torch.dtype]:
    """The model to train, with fp32 weights (safetensors only, no network), and the dtype in which it is saved whole."""
    model = AutoModelForCausalLM.from_pretrained(
        str(spec.base), dtype=torch.float32, use_safetensors=True, local_files_only=True,
        trust_remote_code=spec.trust_remote_code,
    )  # fmt: skip
    dtype = _dtype(spec.base)
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and hyper.max_length > context:
        raise InputError(f"max_length: {hyper.max_length} is more than the base model's context of {context} tokens")
    if hyper.method == "full":
        return model, dtype
    config = LoraConfig(
        r=hyper.lora_r, lora_alpha=hyper.lora_alpha, lora_dropout=hyper.lora_dropout, bias="none",
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model, config), dtype


def _arguments(job: TrainJob, precision: str, device: str) -> TrainingArguments:
    hyper, options = job.spec.hyperparameters, job.options
    return TrainingArguments(
        output_dir=str(job.folder / CHECKPOINTS),
        num_train_epochs=hyper.epochs, max_steps=hyper.max_steps or -1,
        per_device_train_batch_size=hyper.batch_size, per_device_eval_batch_size=hyper.batch_size,
        gradient_accumulation_steps=hyper.gradient_accumulation,
        learning_rate=hyper.learning_rate, lr_scheduler_type=hyper.scheduler, warmup_steps=hyper.warmup_ratio,
        weight_decay=hyper.weight_decay, adam_beta1=hyper.betas[0], adam_beta2=hyper.betas[1],
        max_grad_norm=1.0, optim="adamw_torch_fused", seed=hyper.seed, data_seed=hyper.seed,
        bf16=precision == "bf16", use_cpu=device == "cpu",
        gradient_checkpointing=options.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if options.gradient_checkpointing else None,
        save_strategy="steps", save_steps=options.checkpoint_steps,
        save_total_limit=2,  # the older one stays until the newer one is marked complete
        logging_strategy="steps", logging_steps=1, logging_nan_inf_filter=False,
        dataloader_num_workers=0, dataloader_pin_memory=device == "cuda", remove_unused_columns=False,
        report_to="none", disable_tqdm=True, push_to_hub=False,
    )  # fmt: skip


def _save(model: Any, tokenizer: Any, method: str, dtype: torch.dtype, folder: Path) -> None:
    """Weights as safetensors, and the tokenizer with its chat template."""
    if method == "lora":
        # `save_embedding_layers` would look the base up on the hub to see whether its vocabulary was changed.
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    else:
        model.to(dtype).save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))
