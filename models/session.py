"""A model in a process of its own: loaded when the session opens, gone with all its memory when it closes.

The parent stays free of torch: it sends jobs over a socket pair and gets outcomes back as they come. The child dies
with its parent, even one that is killed -9, and writes to a log file rather than to the terminal.

    with ModelSession(ModelRef("smollm2-135m", folder)) as session:
        for outcome in session.run_ladder(jobs, plan): ...

The child is started as ``python -m models.session FD PARENT LOGLEVEL``; nobody else starts it so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from models.budgets import LadderJob, LadderOutcome, LadderPlan, run_ladder
from models.engines.base import Engine, EngineName, GenerationLog, ModelRef, Precision, Request, load_engine
from models.formats import decode, encode, format_named, render_prompt
from models.training_process import die_with_parent
from store.types import InputError, Message, RunError, Sampling

__all__ = ["ModelRef", "ModelSession", "SessionInfo"]

log = logging.getLogger(__name__)

CHUNK = {"transformers": 64, "vllm": 256}
"""Jobs thought and answered together; what a kill loses. vLLM schedules its own batches and wants more of them."""

# The parent-death signal is tied to the thread that started the child, so that one which outlives every caller does it.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model-session")


class SessionInfo(NamedTuple):
    """What runs in the child."""

    engine: str
    version: str
    dtype: str
    device: str
    context_length: int
    pid: int


class ModelSession:
    """A handle on a loaded model; a context manager. To be used by one thread at a time.

    ``batch_size`` and ``threads`` default to what the engine finds right. ``log_file`` takes what the child prints
    (default: a temporary file, removed if all went well). ``generation_log`` and ``unit``: see ``GenerationLog``; the
    environment variable FACTSCALE_GENERATION_LOG names the file where the argument does not.
    """

    def __init__(
        self,
        model: ModelRef,
        engine: EngineName = "auto",
        dtype: Precision = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
        *,
        chunk: int | None = None,
        log_file: Path | None = None,
        generation_log: Path | None = None,
        unit: str = "",
    ) -> None:
        named = os.environ.get("FACTSCALE_GENERATION_LOG")
        lines = generation_log or (Path(named) if named else None)
        self._setup = _Setup(model, engine, dtype, batch_size, threads, chunk, lines, unit)
        self._own_log = log_file is None
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
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
        """
        if self._log_file is None:
            descriptor, name = tempfile.mkstemp(prefix="factscale-model-", suffix=".log")
            os.close(descriptor)
            self._log_file = Path(name)
        mine, theirs = Pipe()
        with theirs, self._log_file.open("ab") as output:
            self._process = _starter.submit(_start, theirs.fileno(), output.fileno()).result()
        self._connection = mine
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

    def run_ladder(self, jobs: Sequence[LadderJob], plan: LadderPlan) -> Iterator[LadderOutcome]:
        """Think and answer for every job; see ``models.budgets.run_ladder``. Outcomes stream as chunks end.

        Dropping the iterator before its end closes the session.
        """
        self._send("run_ladder", list(jobs), plan)
        try:
            while (outcome := self._receive()) is not None:
                yield outcome
        except GeneratorExit:  # the child is in the middle of its work and would answer the next call with its rest
            self._end(kill=True)
            raise

    def generate_text(
        self, prompts: Sequence[Sequence[Message]], sampling: Sampling, max_tokens: int, seeds: Sequence[int]
    ) -> list[str]:
        """The plain continuation of each prompt, without thinking block, in order (for a judge)."""
        self._send("generate_text", [list(p) for p in prompts], sampling, max_tokens, list(seeds))
        return list(self._receive())

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens the model's tokenizer makes of each text."""
        self._send("count_tokens", list(texts))
        return list(self._receive())

    def _send(self, name: str, *arguments: Any) -> None:
        if self._connection is None:
            raise RunError("the model session is not open")
        try:
            self._connection.send((name, arguments))
        except OSError:
            raise self._death() from None

    def _receive(self) -> Any:
        """The child's next message; its exceptions are raised here."""
        if self._connection is None:
            raise RunError("the model session is not open")
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if kind == "error":
            raise value
        return value

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
            hint = "; the system kills so when memory runs out: use a smaller batch_size" if name == "SIGKILL" else ""
            return RunError(f"the process of model {alias!r} was killed by {name}{hint} (log: {self._log_file})")
        return RunError(f"the process of model {alias!r} ended with exit code {code} (log: {self._log_file})")

    def _end(self, kill: bool) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = self._info = None
        if connection is not None:
            connection.close()  # an idle child sees the end of its input and leaves
        if process is None:
            return
        if kill:
            process.kill()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Setup(NamedTuple):
    """What the child is told before it loads anything."""

    model: ModelRef
    engine: EngineName
    dtype: Precision
    batch_size: int | None
    threads: int | None
    chunk: int | None
    generation_log: Path | None
    unit: str


def _start(descriptor: int, output: int) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parent.parent)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
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

    def __init__(self, setup: _Setup, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._format = format_named(setup.model.format_name)
        self._engine: Engine = load_engine(setup.model, setup.engine, setup.dtype, setup.batch_size, setup.threads)
        self._chunk = setup.chunk or CHUNK[self._engine.name]
        self._log = GenerationLog(setup.generation_log, setup.unit)

    def info(self) -> SessionInfo:
        engine = self._engine
        return SessionInfo(engine.name, engine.version, engine.dtype, engine.device, engine.context_length, os.getpid())

    def run_ladder(self, jobs: list[LadderJob], plan: LadderPlan) -> None:
        """Send each outcome, then None."""
        for outcome in run_ladder(self._engine, jobs, plan, self._format, self._chunk, self._log):
            self._connection.send(("value", outcome))

    def generate_text(
        self, prompts: list[list[Message]], sampling: Sampling, max_tokens: int, seeds: list[int]
    ) -> list[str]:
        engine, plain = self._engine, format_named("plain")
        requests = [
            Request(str(i), tuple(render_prompt(engine.tokenizer, prompt, plain)), max_tokens, seed)
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        self._log.started("text", [r.id for r in requests], max_tokens)
        done = {c.id: c for c in engine.generate(requests, sampling, engine.eos_token_ids)}
        self._log.ended(sum(c.generated for c in done.values()))
        return [decode(engine.tokenizer, done[r.id].token_ids) for r in requests]

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(encode(self._engine.tokenizer, text)) for text in texts]

    def serve(self) -> None:
        """Answer calls until the parent closes its end."""
        while True:
            try:
                name, arguments = self._connection.recv()
            except EOFError:
                self._engine.close()
                return
            try:
                message = ("value", getattr(self, name)(*arguments))
            except BrokenPipeError:
                return
            except Exception as error:
                log.exception("%s failed", name)
                message = ("error", _portable(error))
            self._connection.send(message)


def _portable(error: Exception) -> Exception:
    """The error as the parent should raise it: bad input stays so, everything else is a failed run."""
    if type(error) in (InputError, RunError):
        return type(error)(str(error))
    return RunError(f"{type(error).__name__}: {error}")


def main(descriptor: int, parent: int) -> None:
    """Run the child: load what the parent names, say so, and serve."""
    die_with_parent(parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    connection: Connection[Any, Any] = Connection(descriptor)
    try:
        child = _Child(connection.recv(), connection)
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
