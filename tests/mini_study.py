"""The smallest whole study on real parts: greedy, in float32, so that it gives the same rows every time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

CHUNK, THINK, TEACH, ANSWER = 2, 12, 40, 6
BUDGETS = (4, 12)
TRAIN, TEST = 6, 4
MINI: dict[str, Any] = {
    "name": "mini",
    "seed": 3,
    "train": {"split": "train", "limit": TRAIN},
    "retrieve": {"top_paths": 2, "max_triples": 3, "similarity": "lexical"},
    "generation": {"engine": "transformers", "dtype": "float32", "chunk": CHUNK, "batch_size": CHUNK},
    "distill": {
        "recipes": ["fs1"],
        "examples": True,
        "sampling": {"temperature": 0},
        "max_thinking_tokens": TEACH,
        "max_answer_tokens": ANSWER,
        "held_out": 0,
        "semantic": "off",
    },
    "finetune": {"hyperparameters": {"max_steps": 2, "warmup_ratio": 0, "max_length": 256, "precision": "fp32"}},
    "evaluate": {
        "settings": ["instruct", "fs1"],
        "datasets": [{"split": "test", "limit": TEST}],
        "budgets": list(BUDGETS),
        "max_answer_tokens": ANSWER,
        "sampling": {"temperature": 0},
        "overlap": {"encoder": "off"},
    },
}


def mini(**sections: dict[str, Any]) -> dict[str, Any]:
    """The study with some fields of some sections changed."""
    study = copy.deepcopy(MINI)
    for name, fields in sections.items():
        study[name] |= fields
    return study


def write(folder: Path, study: dict[str, Any]) -> Path:
    """The study as a YAML file."""
    path = folder / f"{study['name']}.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path
