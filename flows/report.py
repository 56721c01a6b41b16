"""The flow `report`: the pages of a study, drawn from the store, with its artifacts.

Run alone: ``factscale report deployments/studies/demo.yaml``.
"""

from __future__ import annotations

from pathlib import Path

from eval.findings import markdown_summary
from eval.summary import Baseline
from eval.tables import judge_table, leaderboard_rows, table_rows
from flows.artifacts import gather, markdown, pictures, table
from flows.evaluate import study_key, training_units
from flows.limits import DryRun, Limit, limited
from flows.orders import Orders, Waiting
from flows.parameters import Study
from flows.plan import publish_plan
from flows.recorded import flow
from store.home import Home
from tasks.keys import set_key
from tasks.landing import submit
from tasks.reports import ReportOrder, draw, draw_page, is_drawn, report_page, report_spec, summary_of

_FIRST_PLOTS = ("budgets", "parallel")


@flow(name="report")
def report(parameters: Study, limit: Limit = None, dry_run: DryRun = False) -> str:
    """Draw the report unless nothing changed since. Returns the path of its first page."""
    parameters, home = limited(parameters, limit), Home.current()
    if dry_run:
        return publish_plan(parameters, "report")
    order = report_order(parameters, home)
    page = report_page(order, home)
    gather([submit(draw, order, home.store, missing=not is_drawn(order, home))])
    summary = summary_of(home.store, order.study_key, order.baseline)
    table(f"leaderboard-{parameters.name}", leaderboard_rows(summary), f"Leaderboard of {parameters.name}")
    if summary.judges:
        table(f"judges-{parameters.name}", judge_table(summary), f"Judges of {parameters.name}")
    markdown(f"summary-{parameters.name}", markdown_summary(summary, str(page)), "Summary of the study")
    if shown := _pictures(page.parent / "plots"):
        markdown(f"plots-{parameters.name}", shown, "Plots of the report")
    return str(page)


def draw_report(parameters: Study, home: Home) -> Path:
    """Draw the report outside Prefect: what `factscale report` does."""
    return draw_page(report_order(parameters, home), home)


def result_table(parameters: Study, home: Home) -> list[dict[str, str]]:
    """The result table as a terminal shows it: shares in percent; what is the same in every row is left out."""
    order = report_order(parameters, home)
    rows = table_rows(summary_of(home.store, order.study_key, order.baseline))
    names = [name for name in ("model", "dataset") if len({row[name] for row in rows}) > 1]
    return [
        {name: str(row[name]) for name in names}
        | {
            "setting": row["setting"],
            "budget": str(row["budget"]),
            "n": str(row["n"]),
            "accuracy % [95%]": f"{_percent(row['accuracy'])} [{_percent(row['low'])}, {_percent(row['high'])}]",
            f"pass@{row['pass_k']}": _percent(row["pass_at_k"]),
            "majority": _percent(row["majority"]),
            "cut": str(row["cut"]),
            "no answer": str(row["unparsed"] + row["refused"]),
            "missing": str(row["missing"]),
        }
        for row in rows
    ]


def report_folder(parameters: Study, home: Home) -> Path:
    """Where the report of a study lies, drawn or not."""
    return home.reports / parameters.name


def landed_key(parameters: Study, home: Home) -> str:
    """The key of a study that has landed. Raises Waiting if its runs have not."""
    return report_order(parameters, home).study_key


def report_order(parameters: Study, home: Home) -> ReportOrder:
    """The work order of a study's report. Raises Waiting if the study's runs have not landed."""
    orders = Orders(parameters, home)
    runs = [orders.run(*names) for names in orders.run_names()]
    judges = orders.judges(runs)
    overlaps = orders.overlaps()
    trained = training_units(orders, parameters)
    key = study_key(parameters, runs, judges, overlaps, trained)
    if not home.store.query("SELECT 1 FROM studies WHERE study_key = ?", [key]):
        raise Waiting(
            f"study {parameters.name} has not landed with these parameters and this version of the code: run `evaluate` first "
            "(`factscale study run` does; `factscale study plan` shows what is missing)"
        )
    control = orders.control()
    units = [run.predictions.key for run in runs] + [judge.key for judge in judges] + [one.key for one in overlaps]
    units += [orders.retrieval.key, set_key(list(orders.searched_keys)), *([control.key] if control else []), *trained]
    chosen = parameters.report
    baseline = Baseline(setting=chosen.baseline.value, model=chosen.baseline_model)
    return ReportOrder(
        name=f"report {parameters.name}",
        study=parameters.name,
        study_key=key,
        seed=parameters.seed,
        snapshot=orders.source.snapshot,
        retrieval=orders.retrieval.key,
        control=control.key if control else None,
        searched=orders.searched_keys,
        spec=report_spec(key, units, baseline, chosen.questions),
    )


def _pictures(folder: Path) -> str:
    """The plots as Markdown, the most telling ones first."""
    files = sorted(folder.glob("*.png"), key=lambda file: (not file.stem.startswith(_FIRST_PLOTS), file.name))
    return pictures(((file.stem, file.read_bytes()) for file in files), f"More plots are in `{folder}`.")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
