"""The flow `report`: the page of a study, drawn from the store, with its artifacts.

Run alone: ``factscale report deployments/studies/demo.yaml``.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from eval.findings import judge_table, markdown_summary, table_rows
from flows.evaluate import study_key
from flows.orders import Orders, Waiting
from flows.parameters import Study
from flows.publish import gather, markdown, table
from store.home import Home
from tasks.keys import set_key
from tasks.landing import submit
from tasks.reports import ReportOrder, draw, draw_page, report_page, report_spec, summary_of


@flow(name="report")
def report(parameters: Study) -> str:
    """Draw the report unless nothing changed since. Returns the page's path."""
    home = Home.current()
    order = report_order(parameters, home)
    page = report_page(order, home)
    missing = not home.store.has_unit(order.key) or not page.is_file()
    gather([submit(draw, order, home.store, missing=missing)])
    summary = summary_of(home.store, order.study_key)
    table(f"results-{parameters.name}", table_rows(summary), f"Results of {parameters.name}")
    if summary.judges:
        table(f"judges-{parameters.name}", judge_table(summary), f"Judges of {parameters.name}")
    markdown(f"summary-{parameters.name}", f"{markdown_summary(summary)}\n\nReport: `{page}`", "Summary of the study")
    return str(page)


def draw_report(parameters: Study, home: Home) -> Path:
    """Draw the report outside Prefect: what `factscale report` does."""
    return draw_page(report_order(parameters, home), home)


def result_table(parameters: Study, home: Home) -> list[dict[str, str]]:
    """The result table as a terminal shows it: shares in percent; what is the same in every row is left out."""
    rows = table_rows(summary_of(home.store, report_order(parameters, home).study_key))
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


def report_order(parameters: Study, home: Home) -> ReportOrder:
    """The work order of a study's report. Raises Waiting if the study's runs have not landed."""
    orders = Orders(parameters, home)
    runs = [orders.run(*names) for names in orders.run_names()]
    judges = orders.judges(runs)
    key = study_key(parameters, runs, judges)
    if not home.store.query("SELECT 1 FROM studies WHERE study_key = ?", [key]):
        raise Waiting(f"study {parameters.name} has not landed with these parameters: run `evaluate` first")
    control = orders.control()
    units = [run.predictions.key for run in runs] + [judge.key for judge in judges]
    units += [orders.retrieval.key, set_key(list(orders.searched_keys)), *([control.key] if control else [])]
    return ReportOrder(
        name=f"report {parameters.name}",
        study=parameters.name,
        study_key=key,
        seed=parameters.seed,
        snapshot=orders.source.snapshot,
        retrieval=orders.retrieval.key,
        control=control.key if control else None,
        searched=orders.searched_keys,
        spec=report_spec(key, units),
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
