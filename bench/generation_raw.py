"""What an engine does by itself: transformers' ``generate`` and vLLM's ``LLM.generate``, in a process of its own.

Started by ``bench.generation``, which writes one job (JSON) to standard input and reads one line of JSON from the file
that the job names. Nothing of the project is imported here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""A request: ``id``, ``ids`` (the prompt), ``most`` (new tokens)."""
Outputs = dict[str, list[int]]
"""Generated ids of each request, the stop token included."""


def main() -> None:
    """Load the engine, generate stage by stage, say how long it took and what came out."""
    job = json.load(sys.stdin)
    started = time.perf_counter()
    run = {"transformers": of_transformers, "vllm": of_vllm}[job["engine"]](job)
    loaded = time.perf_counter()
    if job["tune"]:
        said: dict[str, Any] = {"batch": _fastest(run, job)}
    else:
        cpu = time.process_time()
        outputs: Outputs = {}
        for stage in job["stages"]:
            outputs |= run(stage, job["batch"])
        seconds, cpu = time.perf_counter() - loaded, time.process_time() - cpu
        said = {"load_seconds": loaded - started, "seconds": seconds, "cpu": cpu, "outputs": outputs}
    Path(job["answer"]).write_text(json.dumps(said) + "\n")


def _fastest(run: Callable[[list[Row], int], Outputs], job: dict[str, Any]) -> int:
    """The batch size of ``job["tune"]`` that makes most tokens a second of a part of the work: as many rows for each."""
    rows = [row | {"most": min(row["most"], 8)} for row in job["stages"][0][: max(job["tune"])]]
    run(rows[:2], 2)  # the first pass is slower
    speeds: dict[int, float] = {}
    for size in job["tune"]:
        started = time.perf_counter()
        made = sum(map(len, run(rows, size).values()))
        speeds[size] = made / (time.perf_counter() - started)
        print(f"batches of {size}: {speeds[size]:.1f} tokens/s", file=sys.stderr)
    return max(speeds, key=lambda size: speeds[size])


def of_transformers(job: dict[str, Any]) -> Callable[[list[Row], int], Outputs]:
    """``model.generate`` on batches padded on the left, rows of like length together."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=getattr(torch, job["dtype"]))
    model = model.to(device).eval()
    stops: list[int] = job["stops"]

    def run(rows: list[Row], size: int) -> Outputs:
        order = sorted(rows, key=lambda row: -len(row["ids"]))
        outputs: Outputs = {}
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            width = len(batch[0]["ids"])
            ids = torch.tensor([[stops[0]] * (width - len(row["ids"])) + row["ids"] for row in batch])
            mask = torch.tensor([[0] * (width - len(row["ids"])) + [1] * len(row["ids"]) for row in batch])
            made = model.generate(
                ids.to(device), attention_mask=mask.to(device), do_sample=False, eos_token_id=stops,
                pad_token_id=stops[0], max_new_tokens=max(row["most"] for row in batch),
            )  # fmt: skip
            outputs |= {
                row["id"]: _until(new[: row["most"]], stops)
                for row, new in zip(batch, made[:, width:].tolist(), strict=True)
            }
        return outputs

    return run


def of_vllm(job: dict[str, Any]) -> Callable[[list[Row], int], Outputs]:
    """``LLM.generate`` with all prompts at once, set up as vLLM's own pages say for this device."""
    import torch

    gpu = torch.cuda.is_available()
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if not gpu:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, sorted(os.sched_getaffinity(0)))))
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import LLM, SamplingParams, TokensPrompt

    # The block size of our engine: with the default, 128 tokens, these prompts would never be cached.
    placed: dict[str, Any] = {} if gpu else {"enforce_eager": True, "block_size": 32}
    llm: Any = LLM(model=job["folder"], dtype=job["dtype"], **placed)

    def run(rows: list[Row], _size: int) -> Outputs:
        prompts = [TokensPrompt(prompt_token_ids=row["ids"]) for row in rows]
        parameters = [
            SamplingParams(
                temperature=0.0, max_tokens=row["most"], stop_token_ids=job["stops"], ignore_eos=True, detokenize=False
            )
            for row in rows
        ]
        made = llm.generate(prompts, parameters, use_tqdm=False)
        return {row["id"]: list(one.outputs[0].token_ids) for row, one in zip(rows, made, strict=True)}

    return run


def _until(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """The ids up to the first stop token, with it; what follows is padding."""
    end = next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))
    return list(ids[:end])


if __name__ == "__main__":
    main()
