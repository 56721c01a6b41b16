"""The embedded model for the tests of ``models``, fetched once into the cache and loaded once in float32."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch is loaded: threads that spin while they wait starve the other processes of a small machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from models.embedded import default_cache, embedded_model
from models.engines.base import Engine, EngineOptions, ModelRef, load_engine

FLOAT32 = EngineOptions(engine="transformers", dtype="float32", batch_size=16)
"""Results do not depend on the batch."""


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The folder of the embedded model."""
    return embedded_model(default_cache())


@pytest.fixture(scope="session")
def engine(embedded: Path) -> Iterator[Engine]:
    """The embedded model in transformers, float32."""
    loaded = load_engine(ModelRef("smollm2-135m", embedded), FLOAT32)
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def tokenizer(engine: Engine) -> Any:
    """The tokenizer of the embedded model."""
    return engine.tokenizer
