"""The ``oxigraph`` program of the PyPI package: where it is, and running it as a child that cannot outlive its parent."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from store.types import RunError

_PR_SET_PDEATHSIG = 1
# Looked up before any fork: a child of a process with threads must not import or load anything.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def oxigraph_binary() -> Path:
    """The program: beside this Python (where pip puts it), or on PATH. Raises RunError if there is none."""
    beside = Path(sys.executable).parent / "oxigraph"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("oxigraph")
    if found is None:
        raise RunError(f"no oxigraph program beside {sys.executable} or on PATH: pip install oxigraph")
    return Path(found)


def oxigraph_version(binary: Path) -> str:
    """The program's version, like ``0.5.13``. Raises RunError if it does not say one."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\d+(?:\.\d+)+", said)
    if match is None:
        raise RunError(f"{binary} --version says {said!r}: not an oxigraph program that works here")
    return match.group()


def first_error(log: Path) -> str:
    """What the program's log says went wrong: its first error, else its last line."""
    lines = log.read_text(errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    return (errors or lines[-1:] or ["it said nothing"])[0].removeprefix("Error: ").strip().rstrip(".")


class Child:
    """A process that cannot outlive this one, however this one ends. ``output`` and ``stdin`` are file descriptors.

    The kernel kills the child when the *thread* that forked it ends, so each child has a thread of its own, which does
    nothing but wait for it. Raises RunError if the program cannot be started.
    """

    def __init__(self, command: list[str], output: int, stdin: int = subprocess.DEVNULL) -> None:
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        arguments = (command, output, stdin)
        self._thread = threading.Thread(target=self._run, args=arguments, name="oxigraph", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise RunError(f"{command[0]} cannot be started: {self._failure}") from self._failure

    def _run(self, command: list[str], output: int, stdin: int) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal ends the study, which then ends its server in order
                preexec_fn=_die_with_parent(os.getpid()),
            )
        except OSError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        self._process.wait()

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return not self._thread.is_alive()

    def wait(self) -> int:
        """The exit status, once the process has ended."""
        try:
            self._thread.join()
        except BaseException:
            self.stop()
            raise
        return self._process.returncode if self._process else -1

    def stop(self, grace: float = 5.0) -> None:
        """End the process: asked first, killed after ``grace`` seconds."""
        if self._process is None:
            return
        if not self.ended:
            self._process.terminate()
            self._thread.join(grace)
        if not self.ended:
            self._process.kill()
            self._thread.join()


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """What the child runs before its program: ask for SIGKILL at its parent's death. Linux only."""
    if _PRCTL is None:
        return None

    def arrange() -> None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request was made
            os._exit(1)

    return arrange
