"""What a report shows of rows as the store has them: units of work, training sets, and teachers' traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.pages import image
from eval.summary import setting_rank

Row = Mapping[str, Any]
_DETAILS = (
    "engine",
    "engine_version",
    "dtype",
    "device",
    "training_set",
    "weights",
)  # what units tell of themselves beside versions


def unit_table(units: Sequence[Row]) -> dict[str, Any]:
    """The units with their totals; ``cost`` (US dollars) is None where no unit has prices."""
    fields = ("seconds", "row_count", "prompt_tokens", "cached_tokens", "generated_tokens")
    costs = [unit["cost"] for unit in units if unit["cost"] is not None]
    return {
        "rows": units,
        "cost": sum(costs) if costs else None,
        "totals": {field: sum(unit[field] for unit in units) for field in fields},
        "reused": sum(bool(unit["reused"]) for unit in units),
        "hosts": sorted({str(unit["host"]) for unit in units}),
    }


def packages_of(units: Sequence[Row]) -> dict[str, str]:
    """Versions that the units were made with; where they differ all are named."""
    found: dict[str, set[str]] = {}
    for unit in units:
        for name, version in unit["versions"].items():
            if name not in _DETAILS:
                found.setdefault(str(name), set()).add(str(version))
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def engines_of(units: Sequence[Row]) -> list[str]:
    """Engine, precision and device of the units that ran a model."""
    ran = [unit["versions"] for unit in units if "engine" in unit["versions"]]
    return sorted({" ".join(str(made.get(name, "")) for name in ("engine", "dtype", "device")).strip() for made in ran})


def training_set(row: Row) -> dict[str, Any]:
    """A training set's row with its statistics split: plain numbers, and counts by name (reasons for a drop)."""
    numbers = {name: value for name, value in row["statistics"].items() if not isinstance(value, dict | list)}
    counts = {name: value for name, value in row["statistics"].items() if isinstance(value, dict)}
    return {**row, "numbers": numbers, "counts": counts}


def training_examples(
    traces: Sequence[Row], graphs: Mapping[str, str], drawings: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Training questions with their picture, their linearised graph and a teacher's trace for each recipe."""
    found: dict[str, dict[str, Any]] = {}
    for row in traces:
        key = row["question_key"]
        entry = found.setdefault(
            key, {**row, "graph": graphs.get(key, ""), "drawing": image(drawings.get(key)), "traces": []}
        )
        entry["traces"].append(row)
    for entry in found.values():
        entry["traces"].sort(key=lambda row: setting_rank(row["recipe"]))
    return list(found.values())
