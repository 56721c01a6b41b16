"""What a report shows of rows as the store has them: units of work, training sets, and teachers' traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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


class Taught(NamedTuple):
    """What the teachers' traces of a training set were worth: of all (``teacher`` and ``recipe`` are None), or of one recipe
    and teacher. ``numbers`` are those of ``tasks.training_statistics``; what was not measured is not among them."""

    name: str
    recipe: str | None
    teacher: str | None
    numbers: Mapping[str, Any]
    dropped: Mapping[str, int]


def taught(row: Row) -> list[Taught]:
    """Of a row of ``training_sets`` the whole set, then each recipe and teacher, where there are several."""
    statistics = row["statistics"]
    sources = statistics.get("sources", [])
    parts = [(None, None, statistics)] + [(one["recipe"], one["teacher"], one) for one in sources if len(sources) > 1]
    return [
        Taught(
            row["name"] or row["recipe"],
            recipe,
            teacher,
            {name: value for name, value in known.items() if isinstance(value, int | float)},
            known.get("dropped", {}),
        )
        for recipe, teacher, known in parts
    ]


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
