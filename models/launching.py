"""A training over several GPUs or machines: what ``accelerate launch`` is told, and the processes that it starts.

    this process -> launcher (accelerate, torchrun) -> one worker a device
         ^-- a named pipe: log lines and the result of rank 0, errors of any rank

The job lies in the student's ``.partial`` folder, where workers of other machines read it too. The kernel kills the
launcher when this process dies, and each worker when the launcher dies. Importing this imports no torch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import yaml

from models.training_process import (
    FAILURE,
    LAUNCHER,
    PIPE,
    TASK,
    Message,
    attended,
    die_with_parent,
    environment,
    line_of,
    plainly,
)
from store.types import InputError, RunError

if TYPE_CHECKING:
    from models.finetune import Hyperparameters, ProcessOptions

CONFIG = "accelerate.yaml"
TRAINING = "training.json"
"""What the workers are to do: the attempt's name, the number of nodes, the job. Written before they start."""

PART = ".part"
"""What a file is called in addition until it is whole."""

MEETING_SECONDS = 1800
"""How long a machine waits for the others."""

LOOK_SECONDS = 0.5
"""How often a machine looks whether a training has begun."""

FATAL = {-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS}

LAUNCH = "from models.launching import launch_main; launch_main()"


class Launch(NamedTuple):
    """Where a training runs: ``nodes`` machines with ``gpus`` processes each; this is machine ``node`` of them.

    ``address`` is host:port of machine 0. ``recompute``: activations of a layer are computed again in the backward pass.
    """

    gpus: int = 1
    nodes: int = 1
    node: int = 0
    address: str | None = None
    recompute: bool = False

    @property
    def processes(self) -> int:
        """Of all machines."""
        return self.gpus * self.nodes


def check_devices(hyper: Hyperparameters, options: ProcessOptions) -> None:
    """Whether the job can be shared out among the devices without becoming another job.

    Raises:
        InputError: names the field, the number and the mend.
    """
    devices = options.gpus * options.nodes
    if (options.nodes > 1) != (options.main_address is not None):
        raise InputError("nodes and main_address go together: several machines meet at host:port of the first one")
    if options.main_address is not None:
        host_and_port(options.main_address)
    if devices == 1:
        return
    said = (
        f"{devices} devices ({options.gpus} a node, {options.nodes} nodes)" if options.nodes > 1 else f"{devices} GPUs"
    )
    if hyper.gradient_accumulation % devices:
        more = -(-hyper.gradient_accumulation // devices) * devices
        raise InputError(
            f"gradient_accumulation: the {hyper.gradient_accumulation} batches of a step cannot be shared out evenly among "
            f"{said}; "
            f"use a multiple of {devices} such as {more} (with a smaller batch_size, a step sees as many examples), or fewer GPUs"
        )
    if hyper.method == "qlora":
        raise InputError(f"method: 'qlora' trains on one GPU, and this run has {said}; use 'lora', or gpus: 1")


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of ``host:port``; an IPv6 address stands in brackets. Raises InputError where it is no such thing."""
    host, _, port = address.rpartition(":")
    if not host.strip("[]") or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"main_address: {address!r} is not host:port; write for example node-1:29500")
    return host.strip("[]"), int(port)


def launch_of(hyper: Hyperparameters, options: ProcessOptions, node: int = 0) -> Launch:
    """How the machine ``node`` launches this job."""
    return Launch(
        options.gpus, options.nodes, node, options.main_address,
        recompute=options.gradient_checkpointing and options.devices > 1 and recomputed_by_accelerate(hyper),
    )  # fmt: skip


def recomputed_by_accelerate(hyper: Hyperparameters) -> bool:
    """Its recomputation draws dropout anew, so that gradients belong to another network; transformers' own does not."""
    return hyper.method == "full" or hyper.lora_dropout == 0


def accelerate_config(launch: Launch) -> dict[str, Any]:
    """The configuration for ``accelerate launch --config_file``: FSDP2 where there are several processes.

    Weights are read by one process a machine and sent to the others; checkpoints stay in shards. The precision is left out,
    since the workers choose it: what is said here would not count.
    """
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "NO" if launch.processes == 1 else "FSDP",
        "num_machines": launch.nodes,
        "num_processes": launch.processes,
        "machine_rank": launch.node,
        "main_process_port": 0,  # any that is free
        "rdzv_backend": "static",
        "same_network": True,
        "main_training_function": "main",
        "use_cpu": False,
        "debug": False,
    }
    if launch.address is not None:
        config["main_process_ip"], config["main_process_port"] = host_and_port(launch.address)
    if launch.processes > 1:
        config["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_cpu_ram_efficient_loading": True,
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            "fsdp_activation_checkpointing": launch.recompute,
            "fsdp_offload_params": False,
        }
    return config


def write_config(folder: Path, launch: Launch) -> Path:
    """Write the configuration into ``folder``: accelerate.yaml, of other machines than the first with their number."""
    path = folder / (CONFIG if launch.node == 0 else f"accelerate.node{launch.node}.yaml")
    path.write_text(yaml.safe_dump(accelerate_config(launch), sort_keys=False), encoding="utf-8")
    return path


def launch_arguments(config: Path) -> list[str]:
    """The arguments of ``accelerate launch`` for a configuration."""
    waiting = ["--rdzv_conf", f"timeout={MEETING_SECONDS}"]
    return ["--config_file", str(config), *waiting, "--module", "models.training_process"]


def run_launched(
    job: str,
    folder: Path,
    launch: Launch,
    threads: int | None,
    on_log: Callable[[Message], None],
    variables: Mapping[str, str] | None = None,
    device: str = "auto",
) -> Message:
    """Do the ``TrainJob`` ``job`` (JSON) on all devices; hand on its log and return its result as ``run_child`` does.

    Machines beside this one take part when somebody calls :func:`join` on them.

    Raises:
        InputError, RunError: as raised in a worker of any machine.
        RunError: a worker or the launcher died; the message repeats the end of the log.
    """
    (folder / FAILURE).unlink(missing_ok=True)
    task = folder / TRAINING
    _write_whole(task, json.dumps({"attempt": uuid4().hex, "nodes": launch.nodes, "job": json.loads(job)}))
    try:
        return _launched(folder, launch, threads, on_log, variables or {}, device)
    finally:
        call_off(folder)


def call_off(folder: Path) -> None:
    """Let no other machine join what was begun in ``folder``: after a ``kill -9`` it still stands there."""
    for name in (TRAINING, TRAINING + PART):
        (folder / name).unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove what only the training needed."""
    call_off(folder)
    for pattern in ("accelerate*.yaml", "train.node*.log", FAILURE):
        for path in folder.glob(pattern):
            path.unlink()


def _launched(
    folder: Path,
    launch: Launch,
    threads: int | None,
    on_log: Callable[[Message], None],
    variables: Mapping[str, str],
    device: str,
) -> Message:
    config = write_config(folder, launch)
    log = folder / ("train.log" if launch.node == 0 else f"train.node{launch.node}.log")
    shared = {**environment(threads, launch.gpus, device), **variables, TASK: str((folder / TRAINING).absolute())}
    with _named_pipe() as (path, messages, write):
        command = [sys.executable, "-c", LAUNCH, str(os.getpid()), *launch_arguments(config)]
        try:
            return attended(command, messages, write, log, on_log, {**shared, PIPE: str(path)})
        except RunError as error:
            if (told := _failure_elsewhere(folder)) is not None:
                raise told from None
            raise error


@contextmanager
def _named_pipe() -> Iterator[tuple[Path, Any, int]]:
    """A pipe with a name, since neither accelerate nor torchrun hand a descriptor on: its path, its end to read from,
    and a descriptor to write to, which keeps it open until somebody else does.
    """
    with tempfile.TemporaryDirectory(prefix="factscale-") as folder:
        path = Path(folder) / "messages"
        os.mkfifo(path, 0o600)
        read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # an ordinary open would wait for a writer
        write = os.open(path, os.O_WRONLY)
        os.set_blocking(read, True)
        with os.fdopen(read, encoding="utf-8", errors="replace") as messages:
            yield path, messages, write


def _write_whole(path: Path, text: str) -> None:
    """Nobody sees half of it."""
    part = path.with_name(path.name + PART)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _failure_elsewhere(folder: Path) -> InputError | RunError | None:
    try:
        return plainly(json.loads((folder / FAILURE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def launch_main() -> None:
    """Entry of the launcher: the parent's process id, then the arguments of ``accelerate launch``."""
    parent = int(sys.argv.pop(1))
    die_with_parent(parent)
    os.environ[LAUNCHER] = str(os.getpid())
    sys.argv[0] = "accelerate-launch"
    from accelerate.commands.launch import main
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        main()
    except ChildFailedError as error:
        # A worker that failed has said why. One that was killed could not, and the others lost their connection to it;
        # those end by the launcher's SIGTERM, or abort.
        killed = {failure.exitcode for failure in error.failures.values()} & FATAL
        if killed:
            _tell(f"a training process was killed by {signal.Signals(-min(killed)).name} (out of memory?)")
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        _tell(f"the training could not be launched: {type(error).__name__}: {error}")
        sys.exit(1)


def _tell(error: str) -> None:
    with open(os.environ[PIPE], "w", encoding="utf-8") as pipe:
        pipe.write(line_of({"error": error, "input": False}))


def join(folder: Path, rank: int, *, wait: float = 600.0, say: Callable[[str], None] = lambda _: None) -> int:
    """Take part, as machine ``rank`` (1 or more), in the trainings of several machines that machine 0 begins in ``folder``.

    ``folder`` is one that all machines see: a student's, or one that holds students. Ends when no training has begun for
    ``wait`` seconds, and for a single student as soon as it is trained. A training that fails is told of and may begin
    again; the last one has to go well. Returns the number of those that did.

    Raises:
        InputError: ``rank`` is not the number of another machine than the first.
        RunError: no training began, or the last one failed.
    """
    if rank < 1:
        raise InputError(f"rank: {rank} is not the number of another machine than the first one, which is 0")
    joined: set[str] = set()
    failure: InputError | RunError | None = None
    done, since = 0, time.monotonic()
    while time.monotonic() - since < wait:
        found = _task(folder, rank, joined)
        if found is None:
            time.sleep(LOOK_SECONDS)
            continue
        partial, attempt, job = found
        joined.add(attempt)
        say(f"{partial}: taking part as machine {rank}")
        try:
            _take_part(partial, job, rank)
            failure, done = None, done + 1
            say(f"{partial}: done")
            if partial == _partial(folder):
                return done
        except (InputError, RunError) as error:
            failure = error
            say(f"{partial}: {error}")
        since = time.monotonic()
    if failure is not None:
        raise failure
    if not done:
        raise RunError(f"{folder}: no training of several machines began there within {wait:g} seconds")
    return done


def _partial(folder: Path) -> Path:
    return folder if folder.suffix == ".partial" else folder.with_name(folder.name + ".partial")


def _task(folder: Path, rank: int, joined: set[str]) -> tuple[Path, str, dict[str, Any]] | None:
    """The newest training that this machine has not taken part in: its folder, its attempt and its job.

    The newest, since a ``kill -9`` of machine 0 leaves one behind that nobody works at.
    """
    found: list[tuple[float, Path, dict[str, Any]]] = []
    for partial in [_partial(folder), *sorted(folder.glob("*.partial"))]:
        try:
            begun, text = (partial / TRAINING).stat().st_mtime, (partial / TRAINING).read_text(encoding="utf-8")
            task = json.loads(text)
        except (OSError, ValueError):
            continue
        if task["nodes"] > rank and task["attempt"] not in joined:
            found.append((begun, partial, task))
    if not found:
        return None
    _, partial, task = max(found, key=lambda one: one[0])
    return partial, task["attempt"], task["job"]


def _take_part(partial: Path, job: dict[str, Any], rank: int) -> None:
    from models.finetune import TrainJob

    task = TrainJob.model_validate(job)
    launch = launch_of(task.spec.hyperparameters, task.options, rank)
    _launched(partial, launch, task.options.threads_each, lambda _: None, {}, task.options.device)
