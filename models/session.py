"""A model in a process of its own: loaded when the session opens, gone with all its memory when it closes.

The parent stays free of torch: it sends jobs over a socket pair and gets outcomes back as they come, while the child
works on. The child dies with its parent, even one that is killed -9, and writes to a log file rather than to the terminal.

    with ModelSession(ModelRef("smollm2-135m", folder)) as session:
        for outcomes in session.run_ladder(jobs, plan): ...

The child is started as ``python -m models.session FD PARENT``; nobody else starts it so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from models.asking import Ask, Asker, Reply
from models.budgets import LadderJob, LadderOutcome, LadderPlan
from models.engines.base import EngineOptions, GenerationLog, ModelRef, OutOfMemory, load_engine
from models.formats import bind, decode, format_named, render_prompt
from models.ladder import Ladder, Work
from models.training_process import die_with_parent
from store.types import InputError, Message, RunError, Sampling

__all__ = ["Inspection", "ModelRef", "ModelSession", "SessionInfo"]

log = logging.getLogger(__name__)

GROUP_SECONDS = 5.0
"""What has ended is handed over after so long at most, even if it is little: what a kill can lose is also a matter of time."""

_LOOK_SECONDS = 2.0

# The parent-death signal is tied to the thread that started the child, so that one which outlives every caller does it.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model-session")


class SessionInfo(NamedTuple):
    """What runs in the child. ``rows`` are computed at a time."""

    engine: str
    version: str
    dtype: str
    device: str
    context_length: int
    rows: int
    pid: int

    @property
    def details(self) -> dict[str, str]:
        """What a unit's row says of how it was made."""
        return {"engine": self.engine, "engine_version": self.version, "dtype": self.dtype, "device": self.device}


class Inspection(NamedTuple):
    """How a model is asked: a rendered prompt and its length in tokens, what ends its turns, and its thinking's end.

    A model behind a chat API shows the messages; its server renders them.
    """

    prompt: str
    prompt_tokens: int
    stops: dict[str, int]
    marker: str | None


class ModelSession:
    """A handle on a loaded model; a context manager. To be used by one thread at a time.

    ``options`` default to what the engine finds right. ``log_file`` takes what the child prints
    (default: a temporary file, removed if all went well). ``generation_log`` and ``unit``: see ``GenerationLog``; the
    environment variable FACTSCALE_GENERATION_LOG names the file where the argument does not. ``secrets`` are environment
    variables of the child alone.
    """

    def __init__(
        self,
        model: ModelRef,
        options: EngineOptions | None = None,
        *,
        log_file: Path | None = None,
        generation_log: Path | None = None,
        unit: str = "",
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        named = os.environ.get("FACTSCALE_GENERATION_LOG")
        lines = generation_log or (Path(named) if named else None)
        self._setup = _Setup(model, options or EngineOptions(), lines, unit)
        self._secrets = dict(secrets or {})
        self._own_log = log_file is None
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None
        self._failure: Exception | None = None
        self._info: SessionInfo | None = None

    @property
    def info(self) -> SessionInfo:
        """Engine, versions, precision and device of the loaded model."""
        if self._info is None:
            raise RunError("the model session is not open")
        return self._info

    def __enter__(self) -> Self:
        """Start the child and wait until the model is loaded.

        Raises:
            InputError: the model folder, engine or format is wrong.
            RunError: the model cannot be loaded, or the child died.
            OutOfMemory: it may fit with fewer rows.
        """
        if self._log_file is None:
            descriptor, name = tempfile.mkstemp(prefix="factscale-model-", suffix=".log")
            os.close(descriptor)
            self._log_file = Path(name)
        mine, theirs = Pipe()
        with theirs, self._log_file.open("ab") as output:
            self._process = _starter.submit(_start, theirs.fileno(), output.fileno(), self._secrets).result()
        self._connection, self._messages = mine, queue.SimpleQueue()
        # Read at once whatever comes: a child that could not send would not read, and both would wait for ever.
        self._reader = threading.Thread(target=_read, args=(mine, self._messages), name="model-session", daemon=True)
        self._reader.start()
        try:
            mine.send(self._setup)
            self._info = self._receive()
        except BaseException:
            self._end(kill=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the child may be in the middle of a long generation: it is not asked, it is ended.
        self._end(kill=error is not None)
        if error is None and self._own_log and self._log_file is not None:
            self._log_file.unlink(missing_ok=True)

    def run_ladder(
        self, jobs: Iterable[LadderJob], plan: LadderPlan, window: int | None = None
    ) -> Iterator[list[LadderOutcome]]:
        """Think and answer for every job; see ``models.ladder``. Outcomes come in groups, in any order.

        A group counts as kept when the next one is asked for. At most ``window`` jobs (default: twice the rows that the
        engine computes at a time) are on their way or not kept, so that a kill loses no more. Dropping the iterator
        before its end closes the session.
        """
        yield from self._stream("ladder", (plan,), jobs, window)

    def ask(
        self, asks: Iterable[Ask], sampling: Sampling, max_tokens: int, window: int | None = None
    ) -> Iterator[list[Reply]]:
        """Short replies without thinking (for a judge), in groups as in :meth:`run_ladder`."""
        yield from self._stream("ask", (sampling, max_tokens), asks, window)

    def inspect(self, messages: Sequence[Message]) -> Inspection:
        """How the model is asked these messages, and what ends its turns."""
        self._send("inspect", tuple(messages))
        inspection: Inspection = self._receive()
        return inspection

    def _stream(self, name: str, arguments: tuple[Any, ...], jobs: Iterable[Any], window: int | None) -> Iterator[Any]:
        size = window or 2 * self.info.rows
        waiting = iter(jobs)
        self._send(name, *arguments)
        self._failure = None
        try:
            working = self._feed(waiting, size, kept=0)
            while working:
                group = self._group(working, max(1, size // 4))
                yield group
                working += self._feed(waiting, len(group), kept=len(group)) - len(group)
            while self._receive() is not None:  # the child says that it has ended the call
                pass
        except BaseException as error:
            if (
                error is not self._failure
            ):  # the child is in the middle of its work and would answer the next call with its rest
                self._end(kill=True)
            raise

    def _feed(self, waiting: Iterator[Any], size: int, kept: int) -> int:
        """Send the next ``size`` jobs, saying how many outcomes are kept; an empty list ends the call."""
        more = list(islice(waiting, size))
        self._send("jobs", more, kept)
        return len(more)

    def _group(self, working: int, size: int) -> list[Any]:
        """The next outcomes: ``size`` of them, or what there is after a while, but at least one."""
        if self._failure is not None:
            raise self._failure
        group: list[Any] = []
        while not group:
            group += self._receive()
        until = time.monotonic() + GROUP_SECONDS
        while len(group) < min(size, working):
            try:
                more = self._receive(max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            except (InputError, RunError):  # it is raised after what had ended before it is kept
                break
            if not more:  # the child has too little to do until these are kept
                break
            group += more
        return group

    def _send(self, name: str, *arguments: Any) -> None:
        if self._connection is None:
            raise RunError("the model session is not open")
        try:
            self._connection.send((name, arguments))
        except OSError:
            raise self._death() from None

    def _receive(self, timeout: float | None = None) -> Any:
        """The child's next message; its exceptions are raised here. Raises queue.Empty after ``timeout`` seconds."""
        if self._connection is None:
            raise RunError("the model session is not open")
        message = self._message(timeout)
        if message is None:
            self._messages.put(None)  # it stays dead
            self._failure = self._death()
            raise self._failure
        kind, value = message
        if kind == "error":
            self._failure = value
            raise value
        return value

    def _message(self, timeout: float | None) -> Any:
        """The next message, None from a dead child. A process of its own that outlives it may hold its end open: so it is
        looked after, too."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK_SECONDS if until is None else min(_LOOK_SECONDS, until - time.monotonic())
            with contextlib.suppress(queue.Empty):
                return self._messages.get(timeout=max(0.0, left))
            if until is not None and time.monotonic() >= until:
                raise queue.Empty
            if self._process is not None and self._process.poll() is not None and self._messages.empty():
                return None

    def _death(self) -> RunError:
        """How the child died, in words."""
        process = self._process
        alias = self._setup.model.alias
        if process is None:
            return RunError(f"the process of model {alias!r} is gone")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        code = process.poll()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            text = f"the process of model {alias!r} was killed by {name}"
            if name == "SIGKILL" and self._info is not None and self._setup.model.server is None:
                hint = "the system kills so when memory runs out: use a smaller batch_size"
                return OutOfMemory(f"{text}; {hint} (log: {self._log_file})", self._info.rows)
            return RunError(f"{text} (log: {self._log_file})")
        return RunError(f"the process of model {alias!r} ended with exit code {code} (log: {self._log_file})")

    def _end(self, kill: bool) -> None:
        process, connection, reader = self._process, self._connection, self._reader
        self._process = self._connection = self._reader = self._info = None
        if connection is not None:
            # Closing it under the reader would not wake the reader; this does, by way of the child, which leaves.
            with socket.socket(fileno=os.dup(connection.fileno())) as half, contextlib.suppress(OSError):
                half.shutdown(socket.SHUT_WR)
        if process is not None:
            try:
                if not kill:
                    process.wait(30)
            except subprocess.TimeoutExpired:
                kill = True
            if kill:  # it leads a session: its own workers go with it
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if reader is not None:
            reader.join()
        if connection is not None:
            connection.close()


class _Setup(NamedTuple):
    """What the child is told before it loads anything."""

    model: ModelRef
    options: EngineOptions
    generation_log: Path | None
    unit: str


def _read(connection: Connection[Any, Any], messages: queue.SimpleQueue[Any]) -> None:
    """Put every message of the child into the queue; None when there will be no more."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            messages.put(connection.recv())
    messages.put(None)


def _start(descriptor: int, output: int, secrets: Mapping[str, str]) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, **secrets}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    environment["PYTHONSAFEPATH"] = "1"  # else a folder `models` where the user happens to stand would come before ours
    # OpenMP threads that spin while they wait take the cores from whoever else runs: with one busy neighbour on two
    # cores spinning was measured 7 times slower.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    command = [sys.executable, "-m", "models.session", str(descriptor), str(os.getpid())]
    return subprocess.Popen(
        command,
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        start_new_session=True,  # Ctrl-C in the terminal is for the parent, which ends its children
    )


class _Child:
    """The other end: one loaded engine and the calls it answers."""

    _engine: Any

    def __init__(self, setup: _Setup, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._format = format_named(setup.model.format_name)
        self._engine = self._load(setup)
        self._log = GenerationLog(setup.generation_log, setup.unit)

    def _load(self, setup: _Setup) -> Any:
        return load_engine(setup.model, setup.options)

    def info(self) -> SessionInfo:
        e = self._engine
        return SessionInfo(e.name, e.version, e.dtype, e.device, e.context_length, e.rows, os.getpid())

    def ladder(self, plan: LadderPlan) -> None:
        """Work on the jobs that the parent sends; send each outcome, then None."""
        self._work(Ladder(self._engine, plan, self._format, self._log))

    def ask(self, sampling: Sampling, max_tokens: int) -> None:
        """The same for short questions."""
        self._work(Asker(self._engine, self._format, sampling, max_tokens, self._log))

    def inspect(self, messages: tuple[Message, ...]) -> Inspection:
        tokenizer = self._engine.tokenizer
        ids = bind(self._format, tokenizer)
        prompt = render_prompt(tokenizer, messages, self._format)
        stops = {tokenizer.convert_ids_to_tokens(i): i for i in sorted(ids.stops | self._engine.eos_token_ids)}
        return Inspection(decode(tokenizer, prompt), len(prompt), stops, self._format.marker)

    def _work(self, work: Work[Any, Any]) -> None:
        # The parent answers every group of outcomes with as many new jobs, or with none once it has no more.
        working = unkept = 0
        more = True
        try:
            while working or more:
                while more and (not working or self._connection.poll() or (unkept and work.hungry)):
                    if unkept and not self._connection.poll():
                        self._connection.send(("value", []))  # the parent need not wait for more
                    _, (jobs, kept) = self._connection.recv()
                    work.add(jobs)
                    working += len(jobs)
                    unkept -= kept
                    more = bool(jobs)
                if working and (done := work.wait()):
                    self._connection.send(("value", done))
                    working -= len(done)
                    unkept += len(done)
            while unkept:  # what it says of the last groups
                _, (_, kept) = self._connection.recv()
                unkept -= kept
        except BaseException:
            with contextlib.suppress(Exception):  # a broken engine may not even close; the first error says why
                work.close()
            raise
        work.close()

    def serve(self) -> None:
        """Answer calls until the parent closes its end."""
        while True:
            try:
                name, arguments = self._connection.recv()
            except EOFError:
                self._engine.close()
                return
            if name == "jobs":  # sent before the parent knew that the call has failed
                continue
            try:
                message = ("value", getattr(self, name)(*arguments))
            except BrokenPipeError:
                return
            except Exception as error:
                log.exception("%s failed", name)
                message = ("error", _portable(error))
            self._connection.send(message)


class _HostedChild(_Child):
    """A model behind a chat API: messages and text in place of token ids."""

    def _load(self, setup: _Setup) -> Any:
        from models.engines.chat import ChatEngine

        return ChatEngine(setup.model, setup.options)

    def ladder(self, plan: LadderPlan) -> None:
        from models.hosted import HostedLadder

        self._work(HostedLadder(self._engine, plan, self._format, self._log))

    def ask(self, sampling: Sampling, max_tokens: int) -> None:
        from models.hosted import HostedAsker

        self._work(HostedAsker(self._engine, self._format, sampling, max_tokens, self._log))

    def inspect(self, messages: tuple[Message, ...]) -> Inspection:
        prompt = "\n".join(f"{message.role}: {message.content}" for message in messages)
        return Inspection(prompt, 0, {}, self._format.marker)


def _portable(error: Exception) -> Exception:
    """The error as the parent should raise it: bad input stays so, everything else is a failed run."""
    if type(error) in (InputError, RunError, OutOfMemory):
        return error
    return RunError(f"{type(error).__name__}: {error}")


def main(descriptor: int, parent: int) -> None:
    """Run the child: load what the parent names, say so, and serve."""
    die_with_parent(parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    connection: Connection[Any, Any] = Connection(descriptor)
    try:
        setup: _Setup = connection.recv()
        hosted = setup.model.server is not None and setup.model.server.api == "chat"
        child = _HostedChild(setup, connection) if hosted else _Child(setup, connection)
    except EOFError:
        return
    except Exception as error:
        log.exception("loading failed")
        connection.send(("error", _portable(error)))
        return
    connection.send(("value", child.info()))
    child.serve()


if __name__ == "__main__":
    # Types cross the border by their module's name: run under it, not as __main__.
    from models import session

    session.main(int(sys.argv[1]), int(sys.argv[2]))
