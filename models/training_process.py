"""A training runs in a process of its own, so that its memory is really freed and the parent never imports torch.

The parent writes one job (JSON) to the child's standard input and reads messages (JSON lines) from a pipe; what the
child and its libraries print goes to a log file. The kernel kills the child when the parent dies, by ``kill -9`` too.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store.types import InputError, RunError

Message = dict[str, Any]
Send = Callable[[Message], None]

BOOT = "from models.training_process import child_main; child_main()"
LOG_LINES = 8
"""How many of the log's last lines a message about a dead child repeats."""


def run_child(job: str, log: Path, threads: int | None, on_log: Callable[[Message], None]) -> Message:
    """Do ``job`` in a child process; hand every ``log`` message to ``on_log``; return the ``done`` one.

    Called and left in the same thread: the kernel ties the child's life to the thread that started it. Whatever ends
    this call early (an exception of ``on_log``, an interrupt) kills the child.

    Raises:
        InputError, RunError: as raised in the child.
        RunError: the child died without a word; the message says by which signal and repeats the end of the log.
    """
    read, write = os.pipe()
    with log.open("ab") as output, os.fdopen(read, encoding="utf-8") as messages:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", BOOT, str(write), str(os.getpid())],
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, pass_fds=(write,),
                env=environment(threads), start_new_session=True,
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
    if "done" in last:
        done: Message = last["done"]
        return done
    if "error" in last:
        raise InputError(last["error"]) if last.get("input") else RunError(last["error"])
    code = process.returncode
    how = f"was killed by {signal.Signals(-code).name} (out of memory?)" if code < 0 else f"ended with code {code}"
    raise RunError(f"the training process {how} before it was done; the end of {log}:\n{_tail(log)}")


def environment(threads: int | None) -> dict[str, str]:
    """The child's environment: no network, no telemetry, one GPU, and this project on the import path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    root = str(Path(__file__).resolve().parents[1])
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that spin while they wait take the cores from those they wait for, as soon as anything else runs:
        # measured 20-55 tokens/s against 140-190 beside two busy processes, and no loss on a quiet machine.
        "OMP_WAIT_POLICY": kept.get("OMP_WAIT_POLICY", "PASSIVE"),
        # With several GPUs in sight transformers' Trainer spreads each batch over them (DataParallel), which is
        # slower and changes the effective batch size. One training is one GPU: choose it by this variable.
        "CUDA_VISIBLE_DEVICES": kept.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        **({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}),
    }


def _hand_over(process: subprocess.Popen[bytes], job: str) -> None:
    assert process.stdin is not None  # noqa: S101 - for the type checker: it was asked for as a pipe
    try:
        with process.stdin as pipe:
            pipe.write(job.encode())
    except BrokenPipeError:
        pass  # the child died at once; its exit code and its log say more than this error


def _last_word(messages: Any, on_log: Callable[[Message], None]) -> Message:
    """Read until the child closes the pipe. Returns its last message, or nothing where it died without one."""
    last: Message = {}
    for line in messages:
        if not line.endswith("\n"):
            break  # cut off by the child's death
        message: Message = json.loads(line)
        if "log" in message:
            on_log(message["log"])
        else:
            last = message
    return last


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:])


def child_main() -> None:
    """Entry of the child: the pipe's file descriptor and the parent's process id are its arguments."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    with os.fdopen(descriptor, "w", buffering=1, encoding="utf-8") as pipe:

        def send(message: Message) -> None:
            pipe.write(json.dumps(message) + "\n")

        job = sys.stdin.buffer.read()
        try:
            from models import training_run  # imports torch: only here

            send({"done": training_run.train(job, send)})
        except (InputError, RunError) as error:
            send({"error": str(error), "input": isinstance(error, InputError)})
            sys.exit(1)
        except Exception as error:
            traceback.print_exc()
            send({"error": f"the training process failed: {type(error).__name__}: {error}", "input": False})
            sys.exit(1)


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
