"""The log of a training, as it is written to the student's folder and sent to the parent process. Imports torch."""

from __future__ import annotations

import json
import math
import resource
import time
from pathlib import Path

import torch

from models.finetune import TrainLog
from models.training_process import Send
from models.training_ranks import ALONE, Ranks


class Progress:
    """Counts tokens and seconds, writes the log's lines and sends them. Goes on where a resumed log ends."""

    def __init__(self, path: Path, send: Send, resumed_at: int | None, ranks: Ranks = ALONE) -> None:
        self._path, self._send, self._ranks = path, send, ranks
        self._lap = time.monotonic()
        self._lap_tokens = 0
        self.tokens, self.seconds, self.loss = 0, 0.0, math.nan
        self.first_eval: float | None = None
        self.last_eval: float | None = None
        self.last_eval_step: int | None = None
        kept = self._kept(resumed_at)
        ranks.wait()  # all have read it
        if ranks.is_main:
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
        tokens = round(self._ranks.sums(self._lap_tokens)[0])
        speed = tokens / max(self.seconds - before, 1e-9)
        counted = {"tokens": self.tokens + tokens, "seconds": round(self.seconds, 3)}
        self._lap_tokens = 0
        line = line.model_copy(
            update={**counted, "tokens_per_second": round(speed, 1), "memory_bytes": self.memory()}
        )  # fmt: skip
        self._remember(line)
        if not self._ranks.is_main:
            return
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(line.model_dump_json() + "\n")
        self._send({"log": json.loads(line.model_dump_json())})

    def memory(self) -> int:
        """Bytes: the peak of the rank with the highest one."""
        return int(self._ranks.largest(peak_memory()))


def peak_memory() -> int:
    """Bytes: the peak of what this process's GPU gave it, or of the process itself where there is no GPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
