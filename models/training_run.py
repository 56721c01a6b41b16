"""The inside of a training process: transformers' ``Trainer`` and peft over our own ids and labels. Imports torch.

Started by ``models.finetune`` through ``models.training_process``; nothing else imports this.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import IntervalStrategy

from models.engines.base import ModelRef
from models.engines.loading import load_tokenizer
from models.finetune import CHECKPOINTS, LOG, TrainJob, TrainLog, TrainResult
from models.formats import format_named
from models.launching import launch_of
from models.training_batches import Order, Rows, dealt, packed, pad, tokens_in
from models.training_estimate import steps_an_epoch
from models.training_model import check_vocabulary, choose_device, choose_precision, save_student, student_model
from models.training_process import Message, Send
from models.training_progress import Progress
from models.training_ranks import ALONE, Ranks, meet, part
from models.training_sharded import SHARDS, keep_sums_exact, whole
from models.training_text import IGNORED, build_dataset
from store.types import InputError, RunError

COMPLETE = "complete"
"""Written into a checkpoint last: one without it was cut off by a kill and is not resumed from."""


def train(text: bytes, send: Send) -> Message:
    """Train the ``TrainJob`` in ``text`` (JSON), save weights and tokenizer to its folder, return a ``TrainResult``."""
    job = TrainJob.model_validate_json(text)
    hyper, form = job.spec.hyperparameters, format_named(job.spec.format)
    if job.options.threads:
        torch.set_num_threads(job.options.threads_each)
    device = choose_device(job.options)
    ranks = meet(device, job.options.devices)
    check_one_training(text, ranks)
    precision = choose_precision(hyper.precision, device)
    spec = job.spec
    tokenizer = load_tokenizer(
        ModelRef("base", spec.base, chat_template=spec.chat_template, trust_remote_code=spec.trust_remote_code)
    )
    dataset, dropped = build_dataset(job.examples, tokenizer, form, hyper.max_length)
    held_out = _held_out(job, tokenizer)
    set_seed(hyper.seed)  # before the adapter is made: its first weights are random
    model, dtype = student_model(spec, precision, device)
    check_vocabulary(model, dataset)
    sharded = ranks.size > 1
    checkpoint = ranks.agreed(last_checkpoint(job.folder / CHECKPOINTS, sharded) if ranks.is_main else None)
    start = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    progress = Progress(job.folder / LOG, send, resumed_at=start if checkpoint else None, ranks=ranks)
    arguments = _arguments(job, precision, device)
    arguments.eval_strategy = IntervalStrategy.EPOCH if held_out else IntervalStrategy.NO
    # The base model's loss; or an epoch's, if what came after its last checkpoint was killed.
    between = start % steps_an_epoch(len(dataset), hyper, job.options.devices) == 0
    arguments.eval_on_start = bool(held_out) and between and progress.last_eval_step != start
    trainer = StudentTrainer(
        model=model, args=arguments,
        train_dataset=Rows(dataset, hyper.batch_size, ranks.size) if sharded else dataset,
        data_collator=packed if job.options.packing else pad, held_out=held_out, progress=progress, ranks=ranks,
    )  # fmt: skip
    if sharded:
        torch.manual_seed(hyper.seed + ranks.rank)  # else all ranks would drop out the same units
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except NotFiniteError:
        # Nothing of it is worth going on from.
        shutil.rmtree(job.folder / CHECKPOINTS, ignore_errors=True)
        raise
    if held_out and progress.last_eval_step != trainer.state.global_step:
        trainer.evaluate()
    save_student(whole(model, hyper.kind, ranks), tokenizer, hyper.kind, dtype, job.folder, ranks)
    result = TrainResult(
        steps=trainer.state.global_step, tokens=progress.tokens, seconds=round(progress.seconds, 3),
        train_loss=progress.loss, base_loss=progress.first_eval, held_out_loss=progress.last_eval,
        examples=len(dataset), held_out_examples=len(held_out), dropped=dropped, precision=precision,
        device=device, threads=torch.get_num_threads(), memory_bytes=progress.memory(),
    )  # fmt: skip
    part()
    return result.model_dump(mode="json")


def check_one_training(text: bytes, ranks: Ranks) -> None:
    """Whether all ranks have the job ``text``: a machine may have joined another training that was begun at this address.

    Raises:
        RunError: on every rank, if one of them has another job.
    """
    if not ranks.same(hashlib.sha256(text).hexdigest()):
        raise RunError(
            "another training was joined: a machine took part in one that a kill had left behind, and not in this one; that "
            "is over now, and the same call trains"
        )


class NotFiniteError(InputError):
    """The loss or the gradient is infinite or not a number. The same job would fail again in the same way."""


class StudentTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed here
    """``Trainer`` with our held-out loss, our log, a stop at losses that are not finite, and no pickled arguments."""

    def __init__(
        self, *, held_out: list[dict[str, list[int]]], progress: Progress, ranks: Ranks = ALONE, **rest: Any
    ) -> None:
        super().__init__(eval_dataset=held_out or None, **rest)
        self._held_out = held_out
        self._progress = progress
        self._ranks = ranks

    def create_accelerator_and_postprocess(self) -> None:
        """Trainer's, and sums that stay exact where weights are sharded."""
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            keep_sums_exact(self.accelerator.state.fsdp_plugin, self.args.bf16)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        return Order(rows, self.args.data_seed) if isinstance(rows, Rows) else super()._get_train_sampler(train_dataset)

    def _run_epoch(self, *arguments: Any, **named: Any) -> None:
        # Trainer makes one step more where it goes on from the checkpoint of the last one, amid an epoch.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **named)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """One forward and backward pass over a micro-batch; the loss is checked before it can move the weights."""
        self._progress.read(tokens_in(inputs))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._check("loss", float(loss))
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean loss (nats) of a learned token over all held-out examples, in whatever batches they come."""
        self._progress.lap()
        loss = held_out_loss(
            self.model, self._held_out, self.args.per_device_eval_batch_size, self.args.device, self._ranks
        )
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
        self._ranks.wait()
        if self._ranks.is_main:
            (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()
        self._progress.lap()


def held_out_loss(
    model: Any, rows: list[dict[str, list[int]]], batch_size: int, device: torch.device, ranks: Ranks = ALONE
) -> float:
    """Mean cross entropy (nats) of the learned tokens of ``rows``; each token counts once, however rows are batched."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for own in dealt(rows, batch_size, ranks):
            batch = {name: tensor.to(device) for name, tensor in pad(own).items()}
            labels = batch.pop("labels")[:, 1:]
            learned = labels != IGNORED
            # Row by row, and where something is learned alone: the whole vocabulary in fp32 is the largest tensor of all.
            for row, wanted, kept in zip(model(**batch).logits[:, :-1], labels, learned, strict=True):
                total += float(cross_entropy(row[kept].float(), wanted[kept], reduction="sum"))
            count += int(learned.sum())
    total, tokens = ranks.sums(total, count)
    return total / tokens


def last_checkpoint(folder: Path, sharded: bool = False) -> Path | None:
    """The complete checkpoint of the highest step; the others, complete or not, are removed.

    One process cannot go on from the shards of several, nor they from its.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    complete = [path for path in found if (path / COMPLETE).is_file() and (path / SHARDS).is_dir() == sharded]
    for path in found:
        if path not in complete[-1:]:
            shutil.rmtree(path)
    return complete[-1] if complete else None


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


def _arguments(job: TrainJob, precision: str, device: str) -> TrainingArguments:
    hyper, options = job.spec.hyperparameters, job.options
    recompute = options.gradient_checkpointing and not launch_of(hyper, options).recompute
    return TrainingArguments(
        output_dir=str(job.folder / CHECKPOINTS),
        num_train_epochs=hyper.epochs, max_steps=hyper.max_steps or -1,
        per_device_train_batch_size=hyper.batch_size, per_device_eval_batch_size=hyper.batch_size,
        gradient_accumulation_steps=hyper.gradient_accumulation // options.devices,
        learning_rate=hyper.rate, lr_scheduler_type=hyper.scheduler, warmup_steps=hyper.warmup_ratio,
        weight_decay=hyper.weight_decay, adam_beta1=hyper.betas[0], adam_beta2=hyper.betas[1],
        max_grad_norm=1.0, optim="adamw_torch_fused", seed=hyper.seed, data_seed=hyper.seed,
        bf16=precision == "bf16", use_cpu=device == "cpu",
        gradient_checkpointing=recompute,
        gradient_checkpointing_kwargs={"use_reentrant": False} if recompute else None,
        accelerator_config={"use_configured_state": True} if options.devices > 1 else None,
        save_strategy="steps", save_steps=options.checkpoint_steps,
        save_total_limit=2,  # the older one stays until the newer one is marked complete
        logging_strategy="steps", logging_steps=1, logging_nan_inf_filter=False,
        dataloader_num_workers=0, dataloader_pin_memory=device == "cuda", remove_unused_columns=False,
        report_to=list(options.report_to) or "none", run_name=job.folder.name, disable_tqdm=True, push_to_hub=False,
    )  # fmt: skip
