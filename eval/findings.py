"""What the numbers say, in plain words and as flat tables: nothing that the intervals and tests do not carry."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from eval.agreement import JudgeSummary
from eval.summary import Cell, Comparison, Summary, budget_name

SMALL_N = 30
_NAMED = 4  # findings spelled out at most; the table has them all
_CUT_SHARE = 0.5
_LOST_SHARE = 0.1
_FAIR_KAPPA = 0.4


def verdict(summary: Summary) -> tuple[str, ...]:
    """The study's outcome in a few sentences, the answer first: settings, budgets, and what limits the numbers."""
    cells = [cell for cell in summary.largest if cell.accuracy]
    if not cells:
        return ("No scored trace has landed yet, so that nothing can be said.",)
    sentences = [
        _settings(summary.comparisons),
        _budgets(summary.budget_gains),
        *_limits(cells),
        *_judges(summary.judges),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def scope(summary: Summary) -> str:
    """What was asked, in one sentence."""
    cells = summary.largest
    models = sorted({cell.run.model for cell in cells})
    settings = list(dict.fromkeys(cell.run.setting for cell in cells))
    budgets = sorted({cell.budget for cell in summary.cells}, key=lambda b: (b is None, b or 0))
    per_dataset = {cell.run.dataset: cell.questions for cell in cells}
    asked = listed([f"{count:,} of {name}" for name, count in sorted(per_dataset.items())])
    times = ["once" if count == 1 else f"{count} times" for count in sorted({cell.samples for cell in cells})]
    return (
        f"{counted(len(models), 'model')} ({listed(models)}) answered questions ({asked}) in "
        f"{counted(len(settings), 'setting')} ({listed(settings)}), {listed(times, 'or')} each, with {_budgets_asked(budgets)}."
    )


def table_rows(summary: Summary) -> list[dict[str, Any]]:
    """The result table, one flat row a run and budget; shares between 0 and 1, None where there is nothing to tell."""
    return [_table_row(cell) for cell in summary.cells]


def judge_table(summary: Summary) -> list[dict[str, Any]]:
    """One flat row a judge: what it was asked, and its agreement with the matcher and with the other judges."""
    return [
        {
            "judge": one.label,
            "verdicts": one.verdicts,
            "calls": one.calls,
            "calls_a_trace": _rounded(one.calls_a_trace),
            "retried": one.retried,
            "invalid": one.invalid,
            "not_attempted": one.not_attempted if one.question == "grade" else None,
            "cost": one.cost,
            "agreement": _rounded(one.total.matcher.share),
            "kappa": _rounded(one.total.matcher.kappa),
        }
        | {
            f"kappa with {other.label}": _rounded(agreement.kappa if agreement else None)
            for other, agreement in zip(summary.judges, one.others, strict=True)
        }
        for one in summary.judges
    ]


def markdown_summary(summary: Summary) -> str:
    """The verdict and the result table as GitHub-flavoured Markdown, names escaped."""
    lines = [*(inert(sentence) + "\n" for sentence in (*verdict(summary), scope(summary))), ""]
    heads = ("dataset", "model", "setting", "budget", "n", "accuracy (95% interval)", "majority", "missing", "cut")
    lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for cell in summary.cells:
        values = (
            cell.run.dataset,
            cell.run.model,
            cell.run.setting,
            budget_name(cell.budget),
            str(cell.accuracy.n if cell.accuracy else 0),
            interval(cell),
            percent(cell.majority.value) if cell.majority else "–",
            str(cell.missing),
            str(cell.cut),
        )
        lines.append("| " + " | ".join(inert(value) for value in values) + " |")
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


def interval(cell: Cell) -> str:
    """Accuracy with its interval, as text."""
    if cell.accuracy is None:
        return "–"
    return f"{percent(cell.accuracy.value)} ({100 * cell.accuracy.low:.1f}–{100 * cell.accuracy.high:.1f})"


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


def _settings(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return "No setting can be compared: the study has no instruct run beside another setting of the same model."
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
        f"Of {counted(len(comparisons), 'comparison')} with instruct, {counted(len(gains), 'gain')} and "
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


def _named(one: Comparison) -> str:
    return (
        f"{one.run.setting} of {one.run.model} on {one.run.dataset}, {points(one.difference.diff)} points against "
        f"{one.versus} (95% interval {_range(one)}, n = {one.difference.n:,})"
    )


def _range(one: Comparison) -> str:
    return f"{points(one.difference.low)} to {points(one.difference.high)}"


def _table_row(cell: Cell) -> dict[str, Any]:
    accuracy, judge = cell.accuracy, cell.judge
    last = cell.pass_at_k[-1] if cell.pass_at_k else None
    return {
        "dataset": cell.run.dataset,
        "model": cell.run.model,
        "role": cell.run.role,
        "setting": cell.run.setting,
        "budget": budget_name(cell.budget),
        "questions": cell.questions,
        "samples": cell.samples,
        "n": accuracy.n if accuracy else 0,
        "accuracy": _rounded(accuracy.value if accuracy else None),
        "low": _rounded(accuracy.low if accuracy else None),
        "high": _rounded(accuracy.high if accuracy else None),
        "majority": _rounded(cell.majority.value if cell.majority else None),
        "pass_k": last.k if last else None,
        "pass_at_k": _rounded(last.value if last else None),
        "traces": cell.traces,
        "cut": cell.cut,
        "forced": cell.forced,
        "unparsed": cell.unparsed,
        "refused": cell.refused,
        "missing": cell.missing,
        "judge_accuracy": _rounded(judge.accuracy if judge else None),
        "judge_kappa": _rounded(judge.kappa if judge else None),
        "judge_invalid": judge.invalid if judge else None,
        "thinking_tokens": _rounded(cell.thinking_tokens, 1),
        "generated_tokens": _rounded(cell.generated_tokens, 1),
    }


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def inert(text: str) -> str:
    """The text as it may stand in Markdown, in a table too, with nothing in it that acts."""
    # Names come from registries and benchmark files; none may open a tag or a table cell in the page that shows this.
    return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
