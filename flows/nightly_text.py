"""What a night tells people: Markdown and a table for the UI, one line for the log and for a run that fails."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def headline(told: Row) -> str:
    """The verdict in a line."""
    name, verdict = told["name"], told["verdict"]
    if verdict == "first":
        return f"{name}: the first re-evaluation, with nothing to compare it with"
    if told["effect"] is None:
        return f"{name}: same; no run that both have has changed"
    line = f"{name}: {verdict}, {points(told['effect'])} points {interval(told)} on {told['questions']:,} questions"
    return (
        f"{line}, a regression beyond the margin of {points(told['margin'], sign=False)}"
        if told["regression"]
        else line
    )


def failure(told: Row, runs: list[Row]) -> str:
    """Why a run with a regression fails, and what to do."""
    beyond = [run for run in runs if run["verdict"] == "worse" and run["effect"] < -told["margin"]]
    worst = f"; worst: {run_name(beyond[0])} {points(beyond[0]['effect'])} {interval(beyond[0])}" if beyond else ""
    return (
        f"{headline(told)}{worst}. All has landed; if the change is intended, accept it: "
        f"`factscale nightly accept {told['name']} {told['nightly_key'][:8]}`"
    )


def unchanged(name: str, since: Row | None) -> str:
    """What is told where nothing was new."""
    when = f" (accepted verdict of {since['decided_at']:%Y-%m-%d %H:%M} UTC: {since['verdict']})" if since else ""
    return f"{name}: same; nothing has changed since the last accepted re-evaluation{when}, and nothing was generated"


def page_text(told: Row, accepted: str, page: str | None) -> str:
    """The Markdown of a verdict: the verdict first, then what it stands on."""
    lines = [f"## {'REGRESSION' if told['regression'] else told['verdict'].capitalize()}", "", headline(told) + ".", ""]
    if told["effect"] is not None:
        level, margin = f"{told['confidence']:.0%}", points(told["margin"], sign=False)
        lines += [
            "| pooled effect (points) | interval | p (Holm) | margin |",
            "|---:|---|---:|---:|",
            f"| {points(told['effect'])} | {interval(told)}, {level} | {told['p_holm']:.4f} | {margin} |",
            "",
        ]
    if told["drift"] is not None:
        between = f"[{points(told['drift_low'])}, {points(told['drift_high'])}]"
        lines += [
            f"Drift since the anchor (the last accepted by hand, else the first): {points(told['drift'])} {between}",
            "",
        ]
    lines += [
        f"- questions: {told['questions']:,} in both, {told['new_questions']:,} new, {told['gone_questions']:,} gone "
        "(compared are those in both)",
        f"- runs at a budget: {told['new_runs']} new, {told['gone_runs']} gone; scored by the {told['scored_by']}",
        f"- accepted: {accepted}",
        f"- study {told['study_key'][:8]} against {(told['against'] or 'nothing')[:8]}, verdict {told['nightly_key'][:8]}",
    ]
    if page:
        lines.append(f"- report: `{page}`")
    lines += ["", "The runs are in the table beside this; what the words mean is in docs/nightly.md."]
    return "\n".join(lines)


def run_table(runs: list[Row]) -> list[Row]:
    """The runs of a verdict as people read them: accuracies and effects in percent and points."""
    return [
        {
            "verdict": run["verdict"],
            "model": run["model"],
            "setting": run["setting"],
            "dataset": run["dataset"],
            "budget": str(run["budget"] or "no limit"),
            "n": run["n"],
            "before %": f"{100 * run['before']:.1f}",
            "now %": f"{100 * run['after']:.1f}",
            "effect": points(run["effect"]),
            "interval": interval(run),
            "p (Holm)": f"{run['p_holm']:.4f}",
            "changed": run["changed"] or "nothing",
        }
        for run in runs
    ]


def run_name(run: Row) -> str:
    """A run as people call it."""
    return f"{run['model']} {run['setting']} {run['dataset']} at {run['budget'] or 'no limit'}"


def points(share: float, *, sign: bool = True) -> str:
    """A share in percentage points."""
    return f"{100 * share:+.1f}" if sign else f"{100 * share:.1f}"


def interval(row: Row) -> str:
    """An interval of an effect in points."""
    return f"[{points(row['low'])}, {points(row['high'])}]"
