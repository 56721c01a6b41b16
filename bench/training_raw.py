"""What a training does without us: TRL's ``SFTTrainer``, and a bare loop in torch, in a process of its own.

Started by ``bench.training``, which writes one job (JSON) to standard input and reads JSON from the file that the job names.
Token ids and labels come from our own builder on every side, so that all learn the same tokens.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, get_scheduler, set_seed

from models.engines.base import ModelRef
from models.engines.loading import load_tokenizer
from models.finetune import TrainJob
from models.formats import format_named
from models.training_batches import pad
from models.training_model import choose_precision, student_model
from models.training_text import IGNORED, build_dataset

Step = dict[str, float]
"""``loss`` of a step, ``tokens`` read and ``seconds`` gone since training began, both sums."""


def main() -> None:
    """Train as the job says, and write down each step."""
    asked = json.load(sys.stdin)
    job = TrainJob.model_validate(asked["job"])
    spec, hyper = job.spec, job.spec.hyperparameters
    if job.options.threads:
        torch.set_num_threads(job.options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = choose_precision(hyper.precision, device)
    tokenizer = load_tokenizer(ModelRef("base", spec.base))
    dataset, _ = build_dataset(job.examples, tokenizer, format_named(spec.format), hyper.max_length)
    set_seed(hyper.seed)
    model, _ = student_model(spec, precision, device)  # the very one that we train
    work: dict[str, Callable[..., list[Step]]] = {"trl": of_trl, "loop": of_loop}
    with tempfile.TemporaryDirectory() as folder:
        steps = work[asked["side"]](job, model, tokenizer, dataset, device, precision == "bf16", folder)
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    Path(asked["answer"]).write_text(json.dumps({"steps": steps, "precision": precision, "device": device}))


def of_trl(job: TrainJob, model: Any, tokenizer: Any, dataset: Any, device: str, bf16: bool, folder: str) -> list[Step]:
    """TRL's trainer with the very same arguments, and its loss on the completion alone by our labels."""
    from trl import SFTConfig, SFTTrainer

    hyper = job.spec.hyperparameters
    arguments = SFTConfig(
        output_dir=folder, num_train_epochs=hyper.epochs, max_steps=hyper.max_steps or -1,
        per_device_train_batch_size=hyper.batch_size, gradient_accumulation_steps=hyper.gradient_accumulation,
        learning_rate=hyper.rate, lr_scheduler_type=hyper.scheduler, warmup_steps=hyper.warmup_ratio,
        weight_decay=hyper.weight_decay, adam_beta1=hyper.betas[0], adam_beta2=hyper.betas[1],
        max_grad_norm=1.0, optim="adamw_torch_fused", seed=hyper.seed, data_seed=hyper.seed,
        bf16=bf16, use_cpu=device == "cpu", gradient_checkpointing=job.options.gradient_checkpointing,
        save_strategy="no", logging_strategy="steps", logging_steps=1, logging_nan_inf_filter=False,
        dataloader_num_workers=0, dataloader_pin_memory=device == "cuda", report_to="none", disable_tqdm=True,
        max_length=None, completion_only_loss=True, padding_free=job.options.packing,
    )  # fmt: skip
    watch = _Watch()
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=dataset.map(_masked, remove_columns=["labels"]),
        processing_class=tokenizer, callbacks=[watch],
    )  # fmt: skip
    trainer.train()
    return watch.steps


def _masked(row: dict[str, list[int]]) -> dict[str, list[int]]:
    return {"completion_mask": [int(label != IGNORED) for label in row["labels"]]}


class _Watch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Notes loss, tokens and time of each step when it is logged, as our own log does."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._started = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            gone = time.perf_counter() - self._started
            self.steps.append({"loss": logs["loss"], "tokens": logs["num_tokens"], "seconds": gone})


def of_loop(job: TrainJob, model: Any, tokenizer: Any, dataset: Any, device: str, bf16: bool, _: str) -> list[Step]:
    """The least that training takes: batches, forward, backward, clipping, AdamW; examples in another order than Trainer's."""
    hyper = job.spec.hyperparameters
    rows = dataset.to_list()
    random.Random(hyper.seed).shuffle(rows)  # noqa: S311 - an order, not a secret
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=hyper.rate, betas=hyper.betas,
        weight_decay=hyper.weight_decay, fused=True,
    )  # fmt: skip
    count = hyper.max_steps or 1
    scheduler = get_scheduler(hyper.scheduler, optimizer, num_warmup_steps=0, num_training_steps=count)
    done: list[Step] = []
    started, tokens, place = time.perf_counter(), 0, 0
    for _step in range(count):
        batches = []
        for _batch in range(hyper.gradient_accumulation):
            batches.append(pad([rows[(place + i) % len(rows)] for i in range(hyper.batch_size)]))
            place += hyper.batch_size
        learned = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            tokens += int(batch["attention_mask"].sum())
            there = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
                found = model(**there, num_items_in_batch=learned).loss
            found.backward()
            loss += float(found)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        done.append({"loss": loss, "tokens": tokens, "seconds": time.perf_counter() - started})
    return done


if __name__ == "__main__":
    main()
