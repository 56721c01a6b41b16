"""A training runs in a process of its own, so that its memory is really freed and the parent never imports torch.

The parent writes one job (JSON) to the child's standard input and reads messages (JSON lines) from a pipe; what the
child and its libraries print goes to a log file. The kernel kills the child when the parent dies, by ``kill -9`` too.

Where a training takes several processes, the child is a launcher (``models.launching``) and ``python -m
models.training_process`` one of the workers that it starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from store.types import InputError, RunError

Message = dict[str, Any]
Send = Callable[[Message], None]

BOOT = "from models.training_process import child_main; child_main()"
LOG_LINES = 8
"""How many of the log's last lines a message about a dead child repeats."""

LONGEST = 4096
"""Bytes of a message. Workers write into one pipe, which keeps no more than this in one piece (Linux's ``PIPE_BUF``)."""

FAILURE = "failure.json"
"""Beside the job, for the other machines: what a worker failed of."""

FOREIGN = (
    "ACCELERATE_", "FSDP_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_",
    "PMI_", "OMPI_", "MV2_", "MPI_LOCAL",
)  # fmt: skip
"""Variables of a distributed program that this one may itself be part of (torch's, or one of MPI's); a training is another."""

LAUNCHER, TASK, PIPE = "FACTSCALE_LAUNCHER", "FACTSCALE_TASK", "FACTSCALE_PIPE"
"""What a worker reads from its environment: the launcher's process id, the file of its job, the pipe to the parent."""


def run_child(
    job: str,
    log: Path,
    threads: int | None,
    on_log: Callable[[Message], None],
    variables: Mapping[str, str] | None = None,
    device: str = "auto",
) -> Message:
    """Do ``job`` in a child process; hand every ``log`` message to ``on_log``; return the ``done`` one.

    ``variables`` join the child's environment, which is that of :func:`environment`.

    Called and left in the same thread: the kernel ties the child's life to the thread that started it. Whatever ends
    this call early (an exception of ``on_log``, an interrupt) kills the child.

    Raises:
        InputError, RunError: as raised in the child.
        RunError: the child died without a word; the message says by which signal and repeats the end of the log.
    """
    read, write = os.pipe()
    with os.fdopen(read, encoding="utf-8", errors="replace") as messages:
        command = [sys.executable, "-c", BOOT, str(write), str(os.getpid())]
        child = {**environment(threads, device=device), **(variables or {})}
        return attended(command, messages, write, log, on_log, child, job)


def attended(
    command: list[str],
    messages: TextIO,
    write: int,
    log: Path,
    on_log: Callable[[Message], None],
    env: Mapping[str, str],
    job: str = "",
) -> Message:
    """Start ``command`` with ``job`` on its standard input and the descriptor ``write``, and stay with it to its end.

    ``messages`` is the other end of ``write``. Returned and raised is what :func:`run_child` says.
    """
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, pass_fds=(write,),
                env=env, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(write)
        try:
            _hand_over(process, job)
            last = _last_word(messages, on_log)
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
                messages.read()  # ends when all that the child started are gone as well
    if "done" in last:
        done: Message = last["done"]
        return done
    code = process.returncode
    how = f"was killed by {signal.Signals(-code).name} (out of memory?)" if code < 0 else f"ended with code {code}"
    if "error" not in last:
        raise RunError(f"the training process {how} before it was done; the end of {log}:\n{_tail(log)}")
    raise plainly(last)


def plainly(failure: Message) -> InputError | RunError:
    """The error that a message tells of."""
    return InputError(failure["error"]) if failure.get("input") else RunError(failure["error"])


def environment(threads: int | None, gpus: int = 1, device: str = "auto") -> dict[str, str]:
    """The child's environment: no network, no telemetry, so many GPUs (on the device ``cpu`` none), this project's modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    root = str(Path(__file__).resolve().parents[1])
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1",  # else a folder `models` where the user happens to stand would come before ours
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that spin while they wait take the cores from those they wait for, as soon as anything else runs:
        # measured 20-55 tokens/s against 140-190 beside two busy processes, and no loss on a quiet machine.
        "OMP_WAIT_POLICY": kept.get("OMP_WAIT_POLICY", "PASSIVE"),
        # With more GPUs in sight than processes transformers' Trainer spreads each batch over them (DataParallel),
        # which is slower and changes the effective batch size. Which GPUs are used is chosen by this variable. With one
        # in sight torch would put the shards of a training on CPUs there.
        "CUDA_VISIBLE_DEVICES": ",".join(_visible(kept.get("CUDA_VISIBLE_DEVICES"), 0 if device == "cpu" else gpus)),
        **({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}),
    }


def _visible(chosen: str | None, gpus: int) -> list[str]:
    return chosen.split(",")[:gpus] if chosen is not None else [str(gpu) for gpu in range(gpus)]


def _hand_over(process: subprocess.Popen[bytes], job: str) -> None:
    assert process.stdin is not None  # noqa: S101 - for the type checker: it was asked for as a pipe
    try:
        with process.stdin as pipe:
            pipe.write(job.encode())
    except BrokenPipeError:
        pass  # the child died at once; its exit code and its log say more than this error


def _last_word(messages: Any, on_log: Callable[[Message], None]) -> Message:
    """Read until the child closes the pipe. Returns what it said last, or nothing where it died without a word.

    Of several errors the first one counts that the child foresaw: when one of several workers fails, the others lose their
    connections to it.
    """
    last: Message = {}
    for line in messages:
        if not line.endswith("\n"):
            break  # cut off by the child's death
        message = _message(line)
        if message is None:
            continue
        if "log" in message:
            on_log(message["log"])
        else:
            if not last or "done" in message or (last.get("unforeseen") and not message.get("unforeseen")):
                last = message
    return last


def _message(line: str) -> Message | None:
    """None where it is none: what does not belong in the pipe must not hide what else is in it."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def line_of(message: Message) -> str:
    """A message as one line of ASCII that a pipe keeps in one piece; an error that is too long for that is cut."""
    line = json.dumps(message) + "\n"
    while len(line) > LONGEST and message.get("error"):
        # A character takes up to 12 bytes, as two escapes.
        message = {**message, "error": message["error"][: -math.ceil((len(line) - LONGEST) / 12)]}
        line = json.dumps(message) + "\n"
    return line


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:])


def child_main() -> None:
    """Entry of the child: the pipe's file descriptor and the parent's process id are its arguments."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    with os.fdopen(descriptor, "w", buffering=1, encoding="utf-8") as pipe:

        def send(message: Message) -> None:
            pipe.write(line_of(message))

        if not do(sys.stdin.buffer.read(), send):
            sys.exit(1)


def do(job: bytes, send: Send) -> bool:
    """Train, and send the result or the error. Returns whether it went well."""
    try:
        from models import training_run  # imports torch: only here

        send({"done": training_run.train(job, send)})
    except (InputError, RunError) as error:
        send({"error": str(error), "input": isinstance(error, InputError)})
        return False
    except Exception as error:
        traceback.print_exc()
        send(
            {
                "error": f"the training process failed: {type(error).__name__}: {error}",
                "input": False,
                "unforeseen": True,
            }
        )
        return False
    return True


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends (Linux ``prctl(2)``).

    Leaves at once if the parent was gone before it could be asked. Where there is no ``prctl`` this does nothing.
    """
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def worker_main() -> None:
    """Entry of one of several workers. Rank 0 of all speaks; of another machine the first, to say that it is done."""
    die_with_parent(int(os.environ[LAUNCHER]))
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    file = Path(os.environ[TASK])
    task = json.loads(file.read_text(encoding="utf-8"))
    with open(os.environ[PIPE], "w", buffering=1, encoding="utf-8") as pipe:

        def send(message: Message) -> None:
            if "error" in message and not message.get("unforeseen") and task["nodes"] > 1:
                _write_once(file.with_name(FAILURE), json.dumps(message))
            if rank == 0 or "error" in message or ("done" in message and local == 0):
                pipe.write(line_of(message))

        if not do(json.dumps(task["job"]).encode(), send):
            # At once: an orderly end would wait for the other ranks, which wait for this one.
            pipe.close()
            sys.stdout.flush()
            os._exit(1)


def _write_once(path: Path, text: str) -> None:
    with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    worker_main()
