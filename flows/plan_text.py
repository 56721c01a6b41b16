"""A plan as people read it: two tables and a few lines, on the terminal or as artifacts of a run."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from flows.parameters import Study
from flows.plan_absent import Absent, PlanningOrders
from flows.plan_models import ModelPlan, Totals, by_model, totals
from flows.plan_units import Planned, Planner
from flows.printing import Shape, console, print_rows
from store.home import Home

Row = dict[str, Any]


class Plan(NamedTuple):
    """The units of a study, its models, the sums, and what a run needs that is not here yet."""

    study: str
    units: list[Planned]
    models: list[ModelPlan]
    totals: Totals
    absent: tuple[Absent, ...] = ()


def make_plan(
    study: Study, home: Home, only: str | None = None, gpu_price: float | None = None, gpus: int | None = None
) -> Plan:
    """The plan of a study, or of one stage of it; nothing is fetched, asked or spent.

    Data that is not here yet is stood in for, see ``plan_absent``. Raises what checking a study raises else.
    """
    from flows.plan import check_orders

    orders = PlanningOrders(study, home)
    check_orders(study, orders, only)
    units = list(Planner(study, orders).units(None if only == "study" else only))
    models = by_model(study, orders, units, gpu_price)
    return Plan(study.name, units, models, totals(study, units, models, gpus or 1), orders.absent)


def unit_rows(units: list[Planned]) -> list[Row]:
    """A row a unit; ``cost`` only where any model has prices."""
    priced = any(unit.cost is not None for unit in units)
    return [
        {
            "unit": u.unit,
            "state": u.state,
            "rows": u.rows,
            "tokens": u.tokens,
            "expected": u.expected,
            "prompt_tokens": u.prompt,
        }
        | ({"cost": u.cost} if priced else {})
        for u in units
    ]


def model_rows(models: list[ModelPlan]) -> list[Row]:
    """A row a model and role, with numbers as numbers."""
    return [
        {
            "model": one.model,
            "role": one.role,
            "units": one.units,
            "to_do": one.to_do,
            "tokens": one.tokens,
            "expected": one.expected,
            "prompt_tokens": one.prompt,
            "per_second": None if one.rate is None else round(one.rate, 3),
            "speed": f"measured, {one.measured} units" if one.source == "measured" else one.source,
            "gpus_a_unit": one.gpus,
            "gpu_hours" if one.device == "cuda" else "hours": round(one.hours, 3),
            "api_cost": one.api,
            "gpu_cost": one.rent,
            "weights": one.weights,
        }
        for one in models
    ]


def shown_models(models: list[ModelPlan]) -> list[Row]:
    """The same for people: rounded, short, without columns that are empty throughout."""
    hours = "GPU h" if any(one.device == "cuda" for one in models) else "hours here"
    rows = [
        {
            "model": one.model,
            "role": one.role,
            "to do": f"{one.to_do}/{one.units}",
            "at most": _rounded(one.tokens),
            "expected": "?" if one.expected is None and one.to_do else _rounded(one.expected or 0),
            "a second": _speed(one),
            "GPUs": f"{one.gpus:g}" if one.gpus else "-",
            hours: _short(one.hours),
            "API $": "-" if one.api is None else _short(one.api),
            "GPU $": "-" if one.rent is None else _short(one.rent),
            "to fetch": f"{one.to_fetch:,.0f} GiB" if one.to_fetch else "-",
        }
        for one in models
    ]
    empty = [name for name in ("GPUs", "API $", "GPU $") if all(row[name] == "-" for row in rows)]
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]


def _short(number: float) -> str:
    """Without digits behind the point where there are three before it."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.2f}"


def _rounded(tokens: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if tokens >= size:
            return f"{tokens / size:.0f} {letter}" if tokens >= 100 * size else f"{tokens / size:.1f} {letter}"
    return str(tokens)


def _speed(one: ModelPlan) -> str:
    """Tokens or calls a second, and how that is known: by so many measured units, or estimated."""
    if one.rate is None:
        return "-"
    number = f"{one.rate:,.0f}" if one.rate >= 10 else f"{one.rate:.2f}"
    if one.source != "measured":
        return f"~{number}"
    return f"{number}{' calls' if one.work == 'judge' else ''} ({one.measured})"


def summary_lines(plan: Plan) -> list[str]:
    """What the plan comes to, and what of it is known how well."""
    found, models = plan.totals, plan.models
    lines = [
        f"{found.units} units, {found.to_do} to do; at most {found.tokens:,} tokens to generate"
        + (f", expected {found.expected:,}" if found.expected < found.tokens else "")
        + "."
    ]
    if found.device == "cuda":
        lines.append(f"{found.hours:,.1f} GPU hours; {_wall(found)}.")
    else:
        lines.append(f"About {found.wall:,.2f} hours on this machine, which has no GPU.")
    prompts = "to providers at most (prompts by their characters, four a token)"
    money = [f"${found.api:,.2f} {prompts}" if found.api is not None else ""]
    money.append(f"${found.rent:,.2f} for GPUs" if found.rent is not None else "")
    if any(money):
        lines.append(f"Money: {' and '.join(part for part in money if part)}.")
    if found.estimated:
        busy = sum(one.to_do > 0 for one in models)
        lines.append(
            f"ESTIMATED (~), not measured: the speed of {found.estimated} of {busy} rows above, by rules of thumb "
            "that can be off by a factor of two or more. Run with --limit first: the store then knows the real ones."
        )
    if found.at_most:
        lines.append(
            f"AT MOST: nothing is known of lengths in {found.at_most} rows (?), so every thought counts at its full length."
        )
    if missing := sorted({one.model for one in models if one.to_do and one.to_fetch}):
        lines.append(f"NOT DOWNLOADED YET, and fetched when first needed (docs/models.md): {', '.join(missing)}.")
    return lines + absent_lines(plan)


def absent_lines(plan: Plan) -> list[str]:
    """What a run of the study needs first, a line each."""
    if not plan.absent:
        return []
    return [
        "NOT HERE YET, so stood in for; a run needs it first:",
        *(f"- {one.what}: {one.mend}" for one in plan.absent),
    ]


def _wall(found: Totals) -> str:
    large = ", ".join(found.too_large)
    if found.in_turn:
        told = "the GPUs of a unit do not hold {}: raise generation.tensor_parallel, or fan_out.gpu_gib if yours are larger"
        wall = f"one unit after another (fan_out: local) {found.wall:,.1f} hours or more"
    else:
        told = "too few for {}"
        wall = f"with {found.gpus} GPU{'s' if found.gpus > 1 else ''} {found.wall:,.1f} hours or more"
    return f"{wall} ({told.format(large)})" if large else wall


def print_plan(
    study: Study,
    home: Home,
    only: str | None = None,
    *,
    shape: Shape = Shape.TABLE,
    by: str = "unit",
    gpu_price: float | None = None,
    gpus: int | None = None,
) -> None:
    """Print the plan: both tables and what they come to, or one table for programs (``by`` unit or model)."""
    plan = make_plan(study, home, only, gpu_price, gpus)
    if shape is not Shape.TABLE:
        print_rows(model_rows(plan.models) if by == "model" else unit_rows(plan.units), shape)
        for line in absent_lines(plan):
            print(line, file=sys.stderr)
        return
    shown = [{name: value for name, value in row.items() if name != "prompt_tokens"} for row in unit_rows(plan.units)]
    print_rows(shown, shape, title=f"Plan of {study.name}: units")
    if plan.models:
        print_rows(shown_models(plan.models), shape, title="By model")
    for line in summary_lines(plan):
        console.print(line, markup=False, highlight=False)
