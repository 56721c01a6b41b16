"""What the numbers say, in plain words: nothing that the intervals and tests do not carry."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from eval.agreement import JudgeSummary
from eval.statistics import Estimate
from eval.summary import Cell, Comparison, Summary, budget_name, setting_rank
from store.types import budget_order

SMALL_N = 30
_NAMED = 4  # findings spelled out at most; the table has them all
_CELLS_SHOWN = 40  # in a summary that people read at a glance
_CUT_SHARE = 0.5
_LOST_SHARE = 0.1
_FAIR_KAPPA = 0.4


def verdict(summary: Summary) -> tuple[str, ...]:
    """The study's outcome in a few sentences, the answer first: settings, budgets, and what limits the numbers."""
    cells = [cell for cell in summary.largest if cell.accuracy]
    if not cells:
        return ("No scored trace has landed yet, so that nothing can be said.",)
    sentences = [
        _settings(summary.comparisons, summary.baseline.label),
        _budgets(summary.budget_gains),
        *_limits(cells),
        *_overlaps(summary),
        *_judges(summary.judges),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def scope(summary: Summary) -> str:
    """What was asked, in one sentence."""
    cells = summary.largest
    models = sorted({cell.run.alias for cell in cells})
    named = sorted({cell.run.model for cell in cells} - set(models))
    students = f" (students: {listed(named)})" if named else ""
    settings = list(dict.fromkeys(cell.run.setting for cell in cells))
    budgets = sorted({cell.budget for cell in summary.cells}, key=budget_order)
    per_dataset = {cell.run.dataset: cell.questions for cell in cells}
    asked = listed([f"{count:,} of {name}" for name, count in sorted(per_dataset.items())])
    times = ["once" if count == 1 else f"{count} times" for count in sorted({cell.samples for cell in cells})]
    return (
        f"{counted(len(models), 'model')} ({listed(models)}){students} answered questions ({asked}) in "
        f"{counted(len(settings), 'setting')} ({listed(settings)}), {listed(times, 'or')} each, with {_budgets_asked(budgets)}."
    )


def markdown_summary(summary: Summary, report: str | None = None) -> str:
    """The verdict and the results as GitHub-flavoured Markdown, names escaped; ``report`` is the address or path of its report.

    Small studies have a row a run and budget; others a row a dataset and model at the largest budget, with a column a setting.
    """
    lines = [*(inert(sentence) + "\n" for sentence in (*verdict(summary), scope(summary)))]
    if report is not None:
        lines.append((f"[The report](<{inert(report)}>)" if "://" in report else f"Report: `{report}`") + "\n")
    table = _cell_table(summary.cells) if len(summary.cells) <= _CELLS_SHOWN else _model_table(summary.largest)
    heads, *rows = table
    lines += ["", "| " + " | ".join(inert(head) for head in heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(inert(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f}%"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, signed."""
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def p_value(p: float) -> str:
    """A p-value to two significant digits; very small ones as a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def interval(estimate: Estimate | None) -> str:
    """A share with its interval, as text."""
    if estimate is None:
        return "–"
    return f"{percent(estimate.value)} ({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"


def magnitude(number: float) -> str:
    """A large number in three digits at most: ``135M``, ``1.54B``."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def counted(n: int, noun: str) -> str:
    """``3 models``, ``1 model``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def listed(words: Sequence[str], joiner: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return f" {joiner} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _budgets_asked(budgets: Sequence[int | None]) -> str:
    finite = [f"{budget:,}" for budget in budgets if budget is not None]
    of = f"thinking budgets of {listed(finite)} tokens" if finite else ""
    return " and ".join(part for part in (of, "no limit on thinking" if None in budgets else "") if part)


def _step(one: Comparison) -> str:
    return f"from a budget of {one.versus} tokens to {'no limit' if one.budget is None else f'{one.budget:,}'}"


def _settings(comparisons: Sequence[Comparison], baseline: str) -> str:
    if not comparisons:
        return f"No setting can be compared: the study has no run of {baseline} beside another on the same questions."
    told = [one for one in comparisons if one.outcome in ("gain", "loss")]
    least = min(one.difference.n for one in comparisons)
    if not told:
        far = max(comparisons, key=lambda one: abs(one.difference.diff))
        half = [one for one in comparisons if one.outcome == "unclear"]
        hint = f" {counted(len(half), 'comparison')} passed one of the two tests but not both." if half else ""
        lack = "holds in both tests" if half else "can be told"
        return (
            f"No difference between the settings {lack} at n = {least:,}. The largest one seen is {_named(far)}; "
            f"after correction for {counted(len(comparisons), 'comparison')}, p = {p_value(far.holm_difference)} "
            f"(bootstrap) and {p_value(far.holm_mcnemar)} (McNemar).{hint}"
        )
    gains, losses = ([one for one in told if one.outcome == kind] for kind in ("gain", "loss"))
    told.sort(key=lambda one: -abs(one.difference.diff))
    rest = len(comparisons) - len(told)
    return (
        f"Of {counted(len(comparisons), 'comparison')} with {baseline}, {counted(len(gains), 'gain')} and "
        f"{len(losses)} loss{'' if len(losses) == 1 else 'es'} hold after correction: "
        + "; ".join(_named(one) for one in told[:_NAMED])
        + ("; and others in the table" if len(told) > _NAMED else "")
        + (f". In the other {rest} no difference can be told (n from {least:,})." if rest else ".")
    )


def _budgets(gains: Sequence[Comparison]) -> str:
    if not gains:
        return ""
    told = [one for one in gains if one.outcome in ("gain", "loss")]
    least = min(one.difference.n for one in gains)
    if not told:
        far = max(gains, key=lambda one: abs(one.difference.diff))
        return (
            f"No gain from more thinking can be told at n = {least:,}: the largest change is "
            f"{points(far.difference.diff)} points for {far.run.setting} of {far.run.model} on {far.run.dataset} "
            f"{_step(far)} (95% interval {_range(far)})."
        )
    up = sum(one.outcome == "gain" for one in told)
    best = max(told, key=lambda one: abs(one.difference.diff))
    return (
        f"With the largest budget {counted(up, 'run')} of {len(gains)} gained on the smallest and {len(told) - up} lost; "
        f"the largest change is {points(best.difference.diff)} points for {best.run.setting} of {best.run.model} on "
        f"{best.run.dataset} (95% interval {_range(best)}, n = {best.difference.n:,})."
    )


def _limits(cells: Sequence[Cell]) -> list[str]:
    found = []
    least = min(cell.accuracy.n for cell in cells if cell.accuracy)
    if least < SMALL_N:
        found.append(f"With {counted(least, 'question')} the intervals are wide; only a large difference could show.")
    traces = sum(cell.traces for cell in cells)
    missing = sum(cell.missing for cell in cells)
    if missing:
        found.append(f"{missing:,} of {traces + missing:,} traces at the largest budget are missing and left out.")
    cut = sum(cell.cut for cell in cells) / traces
    if cut >= _CUT_SHARE:
        found.append(f"{cut:.0%} of the thoughts were still running when the largest budget cut them.")
    lost = sum(cell.unparsed + cell.refused for cell in cells) / traces
    if lost >= _LOST_SHARE:
        found.append(f"{lost:.0%} of the traces hold no answer that could be read, or a refusal; they count as wrong.")
    return found


def _overlaps(summary: Summary) -> list[str]:
    """How many test questions overlap with training, and what that does to the accuracies."""
    flagged = sum(one.flagged for one in summary.overlaps)
    if not flagged:
        return []
    asked = sum(one.questions for one in summary.overlaps)
    moved = [cell.clean.value - cell.accuracy.value for cell in summary.largest if cell.clean and cell.accuracy]
    far = (
        f"; without them accuracies at the largest budget move by {points(max(moved, key=abs))} points at most"
        if moved
        else ""
    )
    return [f"{flagged:,} of {counted(asked, 'test question')} overlap with training{far}."]


def _judges(judges: Sequence[JudgeSummary]) -> list[str]:
    """Which judges are not to be trusted, and why."""
    found = []
    weak = [(one, kappa) for one in judges if (kappa := one.total.matcher.kappa) is not None and kappa < _FAIR_KAPPA]
    if weak:
        named = listed([f"{one.label}, kappa {kappa:.2f} at n = {one.total.matcher.n:,}" for one, kappa in weak])
        found.append(
            f"{'A judge agrees' if len(weak) == 1 else 'Judges agree'} with the matcher little beyond chance ({named}); "
            "accuracies here are the matcher's."
        )
    mute = [one for one in judges if one.verdicts and one.invalid / one.verdicts >= _LOST_SHARE]
    return found + [
        f"{one.label} gave no valid verdict on {one.invalid / one.verdicts:.0%} of what it judged." for one in mute
    ]


def _cell_table(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    heads = (
        "dataset",
        "model",
        "setting",
        "budget",
        "n",
        "accuracy (95% interval)",
        "majority",
        "cut",
        "refused",
        "unparsed",
        "missing",
    )
    return [
        heads,
        *(
            (
                *(cell.run.dataset, cell.run.model, cell.run.setting, budget_name(cell.budget)),
                f"{cell.accuracy.n if cell.accuracy else 0:,}",
                interval(cell.accuracy),
                percent(cell.majority.value) if cell.majority else "–",
                *(f"{count:,}" for count in (cell.cut, cell.refused, cell.unparsed, cell.missing)),
            )
            for cell in cells
        ),
    ]


def _model_table(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    settings = sorted({cell.run.setting for cell in cells}, key=lambda setting: (setting_rank(setting), setting))
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        found.setdefault((cell.run.dataset, cell.run.model), {})[cell.run.setting] = cell
    rows: list[tuple[str, ...]] = [("dataset", "model", "n", *settings, "cut", "refused", "unparsed", "missing")]
    for names, runs in found.items():
        n = max(cell.accuracy.n if cell.accuracy else 0 for cell in runs.values())
        shown = (interval(runs[setting].accuracy) if setting in runs else "" for setting in settings)
        counts = (
            sum(getattr(cell, name) for cell in runs.values()) for name in ("cut", "refused", "unparsed", "missing")
        )
        rows.append((*names, f"{n:,}", *shown, *(f"{count:,}" for count in counts)))
    return rows


def _named(one: Comparison) -> str:
    return (
        f"{one.run.setting} of {one.run.model} on {one.run.dataset}, {points(one.difference.diff)} points against "
        f"{one.versus} (95% interval {_range(one)}, n = {one.difference.n:,})"
    )


def _range(one: Comparison) -> str:
    return f"{points(one.difference.low)} to {points(one.difference.high)}"


def inert(text: str) -> str:
    """The text as it may stand in Markdown, in a table too, with nothing in it that acts."""
    # Names come from registries and benchmark files; none may open a tag or a table cell in the page that shows this.
    return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
