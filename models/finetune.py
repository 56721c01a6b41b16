"""Fine-tuning: a base model and a training set of traces become a student, a folder that holds its own certificate.

    student/  manifest.json                 written last: a folder without it is not a student
              adapter_model.safetensors     LoRA (``method: lora``), or model.safetensors (``full``)
              tokenizer.json, ...           tokenizer and chat template, as the training used them
              train_log.jsonl, train.log    losses by step; what the libraries printed

While it is trained the folder is called ``<name>.partial`` and holds checkpoints: the same call after a kill goes on
from the last complete one. Importing this imports no torch; the work is done by ``models.training_run`` in a process
of its own.
"""

from __future__ import annotations

import fcntl
import json
import netrc
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from models.fetching import sha256_of
from models.formats import format_named
from models.launching import call_off, check_devices, launch_of, run_launched, tidy
from models.training_process import run_child
from models.training_text import Dropped, Example, in_order, training_set_hash
from store.types import Frozen, InputError, RunError, digest

MANIFEST = "manifest.json"
LOG = "train_log.jsonl"
CHECKPOINTS = "checkpoints"
JOB = "job.json"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors")

Precision = Literal["auto", "fp32", "bf16"]
Method = Literal["lora", "qlora", "full"]
Kind = Literal["lora", "full"]
Scheduler = Literal["cosine", "linear", "constant_with_warmup"]
Tracker = Literal["tensorboard", "wandb"]
Beta = Annotated[float, Field(ge=0, lt=1)]

RATES: dict[str, float] = {"lora": 2e-4, "qlora": 2e-4, "full": 1e-5}
"""The learning rate where none is said: of the fs1 study for full training, of QLoRA (Dettmers et al. 2023) for adapters."""

ADAPTER_FIELDS = ("lora_r", "lora_alpha", "lora_dropout")


class Hyperparameters(Frozen):
    """How a student is trained. The defaults of full training are those of the fs1 study.

    ``qlora`` is LoRA over a base whose weights are held in 4 bits; it needs a GPU and the package bitsandbytes.
    ``precision`` bf16 is autocast over fp32 weights, or over a frozen base in its own dtype on a GPU; ``auto`` takes it
    where the hardware multiplies bf16 natively.
    """

    method: Method = Field(
        default="lora", description="lora: adapters; qlora: adapters over a 4-bit base (GPU); full: all weights"
    )
    # None, and not the number, so that a form that shows defaults does not give one method the rate of another.
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Left empty 1e-5 for full training (fs1), 2e-4 for adapters; models below 1B learn faster with 1e-3",
    )
    epochs: float = Field(default=5.0, gt=0, le=1000, description="How often each example is learned")
    batch_size: int = Field(default=4, ge=1, description="Examples that a device computes together")
    gradient_accumulation: int = Field(
        default=4, ge=1, description="Batches that make one step, over all devices; batch_size times this is 16 in fs1"
    )
    max_length: int = Field(default=8192, ge=8, description="Tokens; longer examples are dropped, never cut")
    # Below 1, since transformers reads 1 and more as a number of steps.
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps in which the rate rises from 0"
    )
    weight_decay: float = Field(default=1e-4, ge=0, le=1, description="Of AdamW")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.95), description="Of AdamW: decay of its two averages")
    lora_r: int = Field(default=16, ge=1, le=1024, description="Rank of an adapter")
    lora_alpha: int = Field(default=32, ge=1, description="An adapter is scaled by this over its rank")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped")
    scheduler: Scheduler = Field(default="cosine", description="How the rate falls after the warm-up")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of the order of examples, new weights and dropout")
    max_steps: int | None = Field(
        default=None, ge=1, description="Ends earlier than epochs would, or later; left empty, epochs decide"
    )
    precision: Precision = Field(default="auto", description="auto: bf16 where the hardware multiplies it, else fp32")

    @model_validator(mode="after")
    def _full_has_one_form(self) -> Hyperparameters:
        # Full training ignores the LoRA numbers; two spellings of one student would be two cache keys.
        for name in ADAPTER_FIELDS:
            if self.method == "full" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: method 'full' has no adapter; leave {name} out")
        return self

    @property
    def rate(self) -> float:
        """The learning rate: the one that is said, else the method's (:data:`RATES`)."""
        return self.learning_rate if self.learning_rate is not None else RATES[self.method]

    @property
    def kind(self) -> Kind:
        """What comes of it: an adapter over the base, or a whole model."""
        return "full" if self.method == "full" else "lora"

    def filled(self) -> Hyperparameters:
        """The same with its rate said, as it stands in keys: two spellings of one student would be two keys."""
        return self.model_copy(update={"learning_rate": self.rate})


Filled = Annotated[Hyperparameters, AfterValidator(Hyperparameters.filled)]
"""Hyperparameters as they stand in keys."""


class TrainSpec(Frozen):
    """What is trained from what, and how: the base's folder and key, the layout of an assistant turn.

    ``chat_template`` and ``trust_remote_code`` are those of the base's registry entry (see ``ModelRef``).
    """

    base: Path
    base_key: str
    format: str
    hyperparameters: Filled
    chat_template: Path | None = None
    trust_remote_code: bool = False

    def key(self, training_set: str) -> str:
        """The student's key. In it: base key, format, hyperparameters, the training set's hash.

        Left out: the base's path, template and trust (its key says what they are) and everything in
        ``ProcessOptions`` (threads and device change the last bits of the weights, not what was asked for).
        """
        known = self.model_dump(mode="json", exclude={"base", "chat_template", "trust_remote_code"})
        return digest({**known, "training_set": training_set})


class ProcessOptions(Frozen):
    """How the training process runs. None of it is part of a student's key.

    ``threads`` are of a machine; None leaves one process torch's default, and shares out the cores that this process may
    use among several.

    ``packing`` joins the examples of a batch in one row instead of padding them; the loss is the same. ``report_to``
    names trackers that are told of the losses as well; their files go to ``<output>.tensorboard`` and ``<output>.wandb``.

    ``gpus`` a machine and ``nodes`` machines train one student together (FSDP2); the others join by ``models.launching.join``
    at ``main_address``, host:port of this one. The examples of a step stay the same. On the device ``cpu`` these are processes.
    """

    threads: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_steps: int = Field(default=50, ge=1)
    gradient_checkpointing: bool = False
    packing: bool = False
    report_to: tuple[Tracker, ...] = ()
    gpus: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    main_address: str | None = None

    @property
    def devices(self) -> int:
        """On all machines."""
        return self.gpus * self.nodes

    @property
    def threads_each(self) -> int:
        """Of every process of a machine, where several are launched: an equal share, and one at least."""
        return max(1, (self.threads or len(os.sched_getaffinity(0))) // self.gpus)


class TrainLog(Frozen):
    """One line of progress: a ``loss`` (mean over the step's learned tokens) or an ``eval_loss`` (over held-out ones).

    Step 0 with an ``eval_loss`` is the base model. ``tokens`` (read by the model, padding not counted) and ``seconds``
    are sums since the start, over all attempts; ``tokens_per_second`` is of this step alone. ``memory_bytes`` is the
    attempt's peak so far: of what a GPU's allocator gave (of the fullest GPU), on a CPU of the process.
    """

    step: int
    total_steps: int
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float = 0.0
    tokens: int = 0
    tokens_per_second: float = 0.0
    seconds: float = 0.0
    memory_bytes: int | None = None


class TrainResult(Frozen):
    """What the training process reports at its end. Losses are in nats a token; ``train_loss`` is the last step's.

    ``base_loss`` of a ``qlora`` student is that of the base in 4 bits. ``memory_bytes`` is as in :class:`TrainLog`.
    """

    steps: int
    tokens: int
    seconds: float
    train_loss: float
    base_loss: float | None
    held_out_loss: float | None
    examples: int
    held_out_examples: int
    dropped: Dropped
    precision: Literal["fp32", "bf16"]
    device: str
    threads: int
    memory_bytes: int | None = None


class StudentManifest(Frozen):
    """The certificate of a student. ``weights`` maps each safetensors file to its sha256; ``kind`` says what they are."""

    key: str
    kind: Kind
    base_key: str
    format: str
    hyperparameters: Hyperparameters
    training_set: str
    held_out_set: str | None
    result: TrainResult
    versions: dict[str, str]
    weights: dict[str, str]


class TrainJob(Frozen):
    """What the parent hands the training process."""

    spec: TrainSpec
    examples: tuple[Example, ...]
    held_out: tuple[Example, ...]
    folder: Path
    options: ProcessOptions


def train(
    spec: TrainSpec,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    output: Path,
    *,
    on_log: Callable[[TrainLog], None] = lambda _: None,
    options: ProcessOptions | None = None,
    secrets: Mapping[str, str] | None = None,
) -> StudentManifest:
    """Train a student into the folder ``output`` and return its manifest; at once, if it is there already.

    The held-out loss is measured before the first step (the base model's), after each epoch and at the end. Optimiser:
    AdamW, gradients clipped to norm 1. LoRA adapts every linear layer but the output one. ``full`` saves in the
    dtype of the base's weights. On a CPU the same job with the same threads gives the same weights to the bit.
    What a killed attempt left is gone on from; if it lacked nothing but its name, it only gets that.
    ``secrets``: environment variables that the process needs beside this one's, such as a tracker's key.

    Raises:
        InputError: the base is no model folder, no example fits, ``max_length`` exceeds the model's context, the chat
            template is not the model's, a package or a GPU is missing, the loss is not finite, or ``output`` is taken by
            something else.
        RunError: the process died, or another process trains into ``output``.
    """
    options = options or ProcessOptions()
    format_named(spec.format)
    if not (spec.base / "config.json").is_file():
        raise InputError(f"base: {spec.base} has no config.json, so it is not a model folder; fetch the model first")
    check_packages(spec.hyperparameters.method, options)
    check_devices(spec.hyperparameters, options)
    if "wandb" in options.report_to:
        check_wandb_key({**os.environ, **(secrets or {})})
    training_set = training_set_hash(examples)
    held_out_set = training_set_hash(held_out) if held_out else None
    key = spec.key(training_set)
    with _claim(output, key, kind=spec.hyperparameters.kind) as (folder, done):
        if done is not None:
            return done
        call_off(folder)
        if (made := _made(folder, key, spec.hyperparameters.kind, held_out_set)) is not None:
            return _publish(made, folder, output)
        _resume_or_clear(folder, {"key": key, "held_out_set": held_out_set, "versions": _versions()})
        job = TrainJob(
            spec=spec, examples=tuple(in_order(examples)), held_out=tuple(in_order(held_out)), folder=folder,
            options=options,
        )  # fmt: skip
        result = _run(
            job, lambda line: on_log(TrainLog.model_validate(line)), _variables(options, output, secrets or {})
        )
        manifest = StudentManifest(
            key=key, kind=spec.hyperparameters.kind, base_key=spec.base_key, format=spec.format,
            hyperparameters=spec.hyperparameters, training_set=training_set, held_out_set=held_out_set,
            result=TrainResult.model_validate(result), versions=_versions(), weights=_weights(folder),
        )  # fmt: skip
        # Before what it could be made again from is removed: a kill from here on loses nothing.
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        return _publish(manifest, folder, output)


def _run(job: TrainJob, on_log: Callable[[dict[str, Any]], None], variables: Mapping[str, str]) -> dict[str, Any]:
    """Do the job in a process of its own, or in several."""
    options, text = job.options, job.model_dump_json()
    if options.devices == 1:
        return run_child(text, job.folder / "train.log", options.threads, on_log, variables, options.device)
    launch = launch_of(job.spec.hyperparameters, options)
    return run_launched(text, job.folder, launch, options.threads_each, on_log, variables, options.device)


def load_manifest(path: Path) -> StudentManifest | None:
    """The manifest of the student in ``path``; None where there is none or it cannot be read: that is no student."""
    try:
        return StudentManifest.model_validate_json((path / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def verify(path: Path) -> StudentManifest:
    """The manifest of the student in ``path``, after reading all its weights.

    Raises:
        InputError: there is no student.
        RunError: weights are missing, added, or differ from the manifest's sha256.
    """
    manifest = load_manifest(path)
    if manifest is None:
        raise InputError(f"{path} is not a student: it has no readable {MANIFEST}; train it first")
    found = _weights(path)
    for name in sorted(manifest.weights.keys() | found.keys()):
        if manifest.weights.get(name) != found.get(name):
            raise RunError(f"{path / name} is not what its manifest says (sha256 {found.get(name, 'missing')})")
    return manifest


@contextmanager
def _claim(output: Path, key: str, kind: str) -> Iterator[tuple[Path, StudentManifest | None]]:
    """The locked partial folder of ``output``, and the manifest if the student is there already.

    The lock is on the folder itself and the kernel frees it when the holder dies.
    """
    folder = output.with_name(output.name + ".partial")
    if (done := _already(output, key, kind)) is not None:
        yield folder, done
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(f"{folder} is in use: another process makes this student; wait for it") from None
    try:
        yield folder, _already(output, key, kind)
    finally:
        os.close(descriptor)


def _already(output: Path, key: str, kind: str) -> StudentManifest | None:
    if not output.exists():
        return None
    manifest = load_manifest(output)
    if manifest is not None and (manifest.key, manifest.kind) == (key, kind):
        return manifest
    what = "no student" if manifest is None else f"another student ({manifest.kind}, key {manifest.key[:12]})"
    raise InputError(f"output: {output} holds {what}; remove it or name another folder")


def check_packages(method: Method, options: ProcessOptions) -> None:
    """Whether the optional packages that a training needs are installed. Raises InputError that names the package."""
    needed: dict[str, str] = {name: f"report_to {name!r}" for name in options.report_to}
    if method == "qlora":
        needed["bitsandbytes"] = "method 'qlora'"
    for package, what in needed.items():
        if find_spec(package) is None:
            raise InputError(f"{what} needs the package {package}, which is not installed: pip install {package}")


def wandb_wants_key(variables: Mapping[str, str]) -> bool:
    """Whether Weights & Biases sends something, as these environment variables say, and none of them holds its key."""
    quiet = variables.get("WANDB_MODE") in ("offline", "disabled", "dryrun")  # the last one is its old word for offline
    return not quiet and not variables.get("WANDB_API_KEY")


def check_wandb_key(variables: Mapping[str, str]) -> None:
    """Whether Weights & Biases will know who reports; it would ask for a key on a terminal that is not there.

    Raises InputError that names the variable of the environment and the Prefect block.
    """
    if not wandb_wants_key(variables):
        return
    host = urlsplit(variables.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        known = netrc.netrc().authenticators(host)
    except (OSError, netrc.NetrcParseError):
        known = None
    if known is None:
        raise InputError(
            f"report_to 'wandb': {host} wants a key: set the environment variable WANDB_API_KEY, or save it as the Prefect "
            "Secret block 'wandb-api-key'; WANDB_MODE=offline keeps the run on this machine"
        )


def _variables(options: ProcessOptions, output: Path, secrets: Mapping[str, str]) -> dict[str, str]:
    """What the trackers of the training process read from their environment, beside what is in this one's."""
    chosen: dict[str, str] = {}
    if "tensorboard" in options.report_to:
        chosen["TENSORBOARD_LOGGING_DIR"] = str(output.with_name(output.name + ".tensorboard").absolute())
    if "wandb" in options.report_to:
        folder = output.with_name(output.name + ".wandb").absolute()
        folder.mkdir(parents=True, exist_ok=True)  # else it would write to the current folder
        chosen |= {"WANDB_DIR": str(folder), "WANDB_PROJECT": "factscale", "WANDB_NAME": output.name}
        chosen |= {"WANDB_LOG_MODEL": "false", "WANDB_WATCH": "false"}
    return {**{name: value for name, value in chosen.items() if name not in os.environ}, **secrets}


def _resume_or_clear(folder: Path, identity: dict[str, Any]) -> None:
    """Keep what an earlier attempt left in ``folder`` if job and libraries were the same; else remove it."""
    text = json.dumps(identity, indent=1, sort_keys=True) + "\n"
    job = folder / JOB
    if job.is_file() and job.read_text() == text:
        return
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    job.write_text(text)


def _made(folder: Path, key: str, kind: str, held_out_set: str | None) -> StudentManifest | None:
    """The manifest of a student that was whole when it was killed; anything less is no manifest, and is removed."""
    manifest, wanted = load_manifest(folder), (key, kind, held_out_set)
    if (
        manifest is not None
        and (manifest.key, manifest.kind, manifest.held_out_set) == wanted
        and manifest.weights == _weights(folder)
    ):
        return manifest
    (folder / MANIFEST).unlink(missing_ok=True)
    return None


def _publish(manifest: StudentManifest, folder: Path, output: Path) -> StudentManifest:
    """Give what is whole its name, without what only its training needed."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / JOB).unlink(missing_ok=True)
    tidy(folder)
    folder.rename(output)
    return manifest


def _weights(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}


def _versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}
