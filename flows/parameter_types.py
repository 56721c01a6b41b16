"""Kinds of fields that several sections of a study have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from store.types import Sampling

NAME = r"^[a-z0-9][a-z0-9._-]*$"
"""What people call a mix or a variant: it stands in names of runs, files and artifacts."""


def _increasing(budgets: tuple[int | None, ...]) -> tuple[int | None, ...]:
    finite = [b for b in budgets if b is not None]
    for budget in finite:
        if budget < 1:
            raise ValueError(f"budget {budget} gives no room to think: use 1 or more tokens, or null for no limit")
    if finite != sorted(set(finite)) or None in budgets[:-1]:
        raise ValueError(f"budgets {list(budgets)} must rise without repeats; null (no limit) comes last")
    return budgets


Budgets = Annotated[tuple[int | None, ...], Field(min_length=1), AfterValidator(_increasing)]
Alias = Annotated[str, Field(min_length=1, description="A model of the registry (deployments/models.yaml)")]


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values as they are. Raises ValueError that names those that are there more than once."""
    repeated = sorted({str(v) for v in values if values.count(v) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} is named more than once")
    return values


def check_greedy(field: str, sampling: Sampling, samples: int) -> None:
    """Raises ValueError for several samples that would all be the same; ``field`` is the name of the sampling."""
    if sampling.temperature == 0.0 and samples > 1:
        raise ValueError(
            f"{field}: samples {samples} at temperature 0 would all be equal: use 1 sample, or a temperature"
        )
