"""The plots of a made-up study: what is drawn, that every name is text, and how a plot leaves as a picture."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import made_study
import pytest

from eval import analysis_plots, scaling_plots
from eval.agreement import summarise_judges
from eval.plots import Plot, by_setting, colour_of, models_of, panels_of
from eval.summary import Cell, LengthBin, Summary, summarise
from store import queries
from store.connection import Store
from store.scores import score_study

QUALITY = [
    {"name": name, "recipe": recipe, "training_set": key, "candidates": 40, "kept": kept, "accuracy": accuracy}
    | {"mean_thinking_tokens": tokens, "judge_accuracy": judged, "semantic_match": None}
    for name, recipe, key, kept, accuracy, tokens, judged in (
        ("both", "mix", "c", 36, 0.65, 800.0, None),
        ("fs1", "fs1", "b", 30, 0.8, 700.0, 0.75),
        ("rt", "rt", "a", 20, 0.5, 900.0, None),
    )
]
LOGS = [
    {"student_key": "s", "step": 1, "loss": 3.0, "held_out_loss": None},
    {"student_key": "s", "step": 2, "loss": 2.0, "held_out_loss": 2.5},
]
STUDENTS = [{"student_key": "s", "base": "tiny", "trained_on": "rt", "variant": ""}]


LARGE: dict[str, Any] = {"model": "large", "base": "large", "parameters": 1_000_000_000}


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    store = Store(tmp_path_factory.mktemp("store") / "made.duckdb")
    made_study.make(store)
    key = made_study.STUDY
    score_study(store, key)
    judges = summarise_judges(queries.judge_rows(store, key), queries.ballot_rows(store, key))
    lengths = queries.length_rows(store, key)
    return summarise(queries.score_columns(store, key), queries.run_rows(store, key), judges, lengths=lengths)


def changed(summary: Summary, change: Callable[[Cell], Cell]) -> Summary:
    """The summary with other cells."""
    return summary.model_copy(update={"cells": tuple(change(cell) for cell in summary.cells)})


def drawn(plot: Plot | None) -> Plot:
    assert plot
    return plot


def lines(axis: Any, colour: str) -> list[tuple[list[float], list[float]]]:
    """The lines of a colour, as their x and y."""
    return [(list(one.get_xdata()), list(one.get_ydata())) for one in axis.get_lines() if one.get_color() == colour]


def test_budgets_are_drawn_at_their_accuracy_a_line_a_setting(summary: Summary) -> None:
    plot = drawn(scaling_plots.accuracy_by_budget(summary, "starter"))
    for setting in made_study.SETTINGS:
        cells = [c for c in summary.cells if (c.run.model, c.run.setting) == (made_study.SMALL, setting)]
        (_, y), *_ = lines(plot.figure.axes[0], colour_of(setting))
        assert y == [cell.accuracy.value for cell in cells if cell.accuracy]
    assert [tick.get_text() for tick in plot.figure.axes[0].get_xticklabels()] == ["16", "48", "no limit"]
    for words in (*made_study.SETTINGS, "n = 10 x 4 samples, small n", "accuracy"):
        assert words in plot.inline


def test_students_of_a_sweep_have_a_panel_each_with_their_base_as_it_is(summary: Summary) -> None:
    cells = []
    for cell in summary.cells:
        if cell.run.setting in ("rt", "fs1"):
            names = [f"{cell.run.model}/{variant}" for variant in ("lora", "full")]
            cells += [
                cell._replace(run=cell.run._replace(run_key=f"{name}-{cell.run.run_key}", model=name)) for name in names
            ]
        else:
            cells.append(cell)
    small = [cell for cell in cells if cell.run.role == "student"]
    panels = panels_of(small, "starter")
    assert [panel.title for panel in panels] == [f"{made_study.SMALL}/lora", f"{made_study.SMALL}/full"]
    for panel in panels:
        assert list(by_setting(panel.cells)) == ["instruct", "cot", "rt", "fs1"]
        own = {cell.run.model for cell in panel.cells if cell.run.setting in ("rt", "fs1")}
        assert own == {panel.title}
    # Of a base whose students of one setting alone differ, the others keep their panel.
    some = [
        cell._replace(run=cell.run._replace(model=cell.run.alias)) if cell.run.setting == "rt" else cell
        for cell in small
    ]
    assert panels_of(some, "starter")[0].title == made_study.SMALL


def test_models_that_ran_once_share_a_panel(summary: Summary) -> None:
    once = summary.cells[-1]
    name = "deepseek-r1-distill-llama-70b"
    other = once._replace(run=once.run._replace(run_key="x", model=name, base=name))
    small = tuple(cell for cell in summary.cells if cell.run.model == made_study.SMALL)
    plot = drawn(
        scaling_plots.accuracy_by_budget(summary.model_copy(update={"cells": (*small, once, other)}), "starter")
    )
    assert [axis.get_title(loc="left") for axis in plot.figure.axes if axis.get_visible()] == [
        made_study.SMALL,
        "At one budget only",
    ]
    names = [tick.get_text() for tick in plot.figure.axes[1].get_xticklabels()]
    assert names == [made_study.BIG, "deepseek-r1-\ndistill-\nllama-70b"]


def test_samples_are_drawn_as_pass_at_k_and_as_majority(summary: Summary) -> None:
    plot = drawn(scaling_plots.pass_and_majority(summary, "starter"))
    cell = next(cell for cell in summary.largest if cell.run.setting == "rt")
    (_, passes), (_, majority) = lines(plot.figure.axes[0], colour_of("rt"))
    assert passes == [point.value for point in cell.pass_at_k]
    assert majority == [point.value for point in cell.majority_at_k]
    assert scaling_plots.pass_and_majority(changed(summary, lambda cell: cell._replace(samples=1)), "starter") is None


def test_sizes_need_two_of_students(summary: Summary) -> None:
    assert scaling_plots.accuracy_by_model_size(summary) is None
    larger = tuple(
        cell._replace(run=cell.run._replace(run_key=f"{cell.run.run_key}-l", **LARGE))
        for cell in summary.cells
        if cell.run.model == made_study.SMALL
    )
    both = summary.model_copy(update={"cells": (*summary.cells, *larger)})
    plot = drawn(scaling_plots.accuracy_by_model_size(both))
    ((x, y),) = lines(plot.figure.axes[0], colour_of("fs1"))
    assert x == [135_000_000, 1_000_000_000]
    assert y[0] == y[1]
    assert {"135M", "1B", "7.6B"} == {tick.get_text() for tick in plot.figure.axes[0].get_xticklabels()}
    # Students of a sweep have a line each, which goes on where the other size has the same variant.
    variants = tuple(
        cell._replace(run=cell.run._replace(run_key=f"{cell.run.run_key}-{name}", model=f"{cell.run.alias}/{name}"))
        for cell in both.cells
        for name in ("a", "b")
        if cell.run.setting == "fs1"
    )
    swept = drawn(scaling_plots.accuracy_by_model_size(summary.model_copy(update={"cells": variants})))
    assert [x for x, _ in lines(swept.figure.axes[0], colour_of("fs1"))] == [[135_000_000, 1_000_000_000]] * 2
    unknown = changed(both, lambda cell: cell._replace(run=cell.run._replace(parameters=None)))
    assert scaling_plots.accuracy_by_model_size(unknown) is None


def test_lengths_are_those_of_the_largest_budget_and_cut_ones_stand_apart(summary: Summary) -> None:
    run = next(cell.run for cell in summary.largest if cell.run.setting == "rt")
    bins = (
        LengthBin(run, None, 8.0, 11.3, False, 10, 5, 9.0),
        LengthBin(run, None, 16.0, 22.6, False, 20, 5, 20.0),
        LengthBin(run, None, 16.0, 22.6, True, 4, 1, 21.0),
        LengthBin(run, 16, 8.0, 11.3, False, 10, 10, 9.0),
    )
    plot = drawn(scaling_plots.accuracy_by_length(summary.model_copy(update={"lengths": bins}), "starter"))
    assert lines(plot.figure.axes[0], colour_of("rt")) == [([9.0, 20.0], [0.5, 0.25]), ([21.0], [0.25])]
    assert "34 traces, 4 cut (dotted)" in plot.inline
    assert scaling_plots.accuracy_by_length(summary.model_copy(update={"lengths": ()}), "starter") is None


def test_what_a_base_did_as_it_is_counts_once_in_each_panel_of_its_students(summary: Summary) -> None:
    plain = next(cell.run for cell in summary.largest if cell.run.setting == "instruct")
    trained = next(cell.run for cell in summary.largest if cell.run.setting == "rt")
    mixed = trained._replace(model=f"{trained.model}/both", setting="mix", base=trained.alias)
    bins = tuple(LengthBin(run, None, 8.0, 11.3, False, 16, 5, 9.0) for run in (plain, trained, mixed))
    plot = drawn(scaling_plots.accuracy_by_length(summary.model_copy(update={"lengths": bins}), "starter"))
    assert plot.inline.count("32 traces, 0 cut (dotted)") == 2
    groups = [group for group in summary.groups if group.run.setting in ("instruct", "rt")]
    groups += [group._replace(run=mixed) for group in groups if group.run.setting == "rt"]
    changed_groups = summary.model_copy(update={"groups": tuple(groups)})
    bars = drawn(analysis_plots.accuracy_by_group(changed_groups, "starter", "hops"))
    kinds = len({group.value for group in groups if group.by == "hops" and group.value != "unknown"})
    assert [len(axis.patches) for axis in bars.figure.axes if axis.get_visible()] == [2 * kinds, 2 * kinds]


def test_panels_of_details_are_students_unless_there_is_none(summary: Summary) -> None:
    runs = [cell.run for cell in summary.cells]
    assert models_of(runs) == [made_study.SMALL]
    assert models_of(run for run in runs if run.role == "baseline") == [made_study.BIG]
    assert [panel.title for panel in panels_of(summary.cells, "starter")] == [made_study.SMALL, made_study.BIG]


def test_groups_are_bars_and_unknown_ones_are_left_out(summary: Summary) -> None:
    plot = drawn(analysis_plots.accuracy_by_group(summary, "starter", "hops"))
    assert [tick.get_text() for tick in plot.figure.axes[0].get_xticklabels()] == ["1\nn=3", "2\nn=3", "3\nn=3"]
    groups = [g for g in summary.groups if g.by == "hops" and g.run.setting == "cot" and g.value != "unknown"]
    heights = [bar.get_height() for bar in plot.figure.axes[0].patches[3:6]]
    assert heights == [group.accuracy.value for group in groups]
    kinds = drawn(analysis_plots.accuracy_by_group(summary, "starter", "answer_type"))
    assert "entity\nn=4" in [tick.get_text() for tick in kinds.figure.axes[0].get_xticklabels()]
    assert analysis_plots.accuracy_by_group(summary.model_copy(update={"groups": ()}), "starter", "hops") is None


def test_datasets_are_rows_where_there_are_several(summary: Summary) -> None:
    assert analysis_plots.accuracy_by_dataset(summary) is None
    other = tuple(c._replace(run=c.run._replace(run_key=f"{c.run.run_key}-o", dataset="other")) for c in summary.cells)
    plot = drawn(analysis_plots.accuracy_by_dataset(summary.model_copy(update={"cells": (*summary.cells, *other)})))
    assert [axis.get_title(loc="left") for axis in plot.figure.axes] == [made_study.SMALL, "Baselines"]
    assert [tick.get_text() for tick in plot.figure.axes[0].get_yticklabels()] == ["starter", "other"]


def test_reliability_is_drawn_from_the_bins(summary: Summary) -> None:
    plot = drawn(analysis_plots.reliability(summary, "starter"))
    cell = next(cell for cell in summary.largest if cell.run.setting == "fs1")
    assert cell.calibration
    ((x, y),) = lines(plot.figure.axes[0], colour_of("fs1"))
    assert x == [one.confidence for one in cell.calibration.bins]
    assert y == [one.accuracy.value for one in cell.calibration.bins]
    assert analysis_plots.reliability(changed(summary, lambda c: c._replace(calibration=None)), "starter") is None


def test_judge_and_matcher_are_joined(summary: Summary) -> None:
    plot = drawn(analysis_plots.judge_against_matcher(summary, "starter"))
    cell = next(cell for cell in summary.largest if cell.run.setting == "cot")
    assert cell.accuracy
    assert cell.judge
    (ends, _), *_ = lines(plot.figure.axes[0], colour_of("cot"))
    assert ends == [cell.accuracy.value, cell.judge.accuracy]
    assert analysis_plots.judge_against_matcher(changed(summary, lambda c: c._replace(judge=None)), "starter") is None


def test_training_quality_sets_rt_beside_fs1() -> None:
    plot = drawn(analysis_plots.training_quality(QUALITY))
    heights = [[bar.get_height() for bar in axis.patches] for axis in plot.figure.axes]
    assert heights == [[0.5, 0.8, 0.65], [0.5, 0.75, 0.9], [900.0, 700.0, 800.0]]
    first = plot.figure.axes[0]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["rt\nn=40", "fs1\nn=40", "both\nn=40"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in first.lines] == [([1.2], [0.75])]
    assert analysis_plots.training_quality([]) is None
    assert analysis_plots.training_quality([{**QUALITY[0], "candidates": None}]) is None


def test_low_accuracies_say_where_the_axis_ends(summary: Summary) -> None:
    def low(cell: Cell) -> Cell:
        return cell._replace(accuracy=cell.accuracy and cell.accuracy._replace(value=0.02, low=0.0, high=0.08))

    plot = drawn(scaling_plots.accuracy_by_budget(changed(summary, low), "starter"))
    assert "accuracy (axis ends at 0.1)" in plot.inline
    assert "axis ends" not in drawn(scaling_plots.accuracy_by_budget(summary, "starter")).inline


def test_names_are_no_mathematics_and_no_markup_and_keep_their_digits(summary: Summary) -> None:
    named = changed(summary, lambda cell: cell._replace(run=cell.run._replace(model="a$_{b}$<b>中文 1.23456")))
    plot = drawn(scaling_plots.accuracy_by_budget(named, "starter"))
    assert "a$_{b}$&lt;b&gt;中文 1.23456" in plot.inline
    assert re.search(r' d="[^"]*\d\.\d{3}', plot.inline) is None


@pytest.mark.parametrize("dataset", ["starter", '<b>"& set'])
def test_a_picture_of_its_own_needs_no_page(summary: Summary, dataset: str) -> None:
    named = changed(summary, lambda cell: cell._replace(run=cell.run._replace(dataset=dataset)))
    plot = drawn(scaling_plots.pass_and_majority(named, dataset))
    root = ElementTree.fromstring(plot.svg)  # noqa: S314 - we drew it
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == f"pass@k and majority at the largest budget on {dataset}"
    assert "var(--" not in plot.svg
    assert re.fullmatch(r"[a-z0-9-]+", plot.file)
    inches = plot.figure.get_size_inches()
    assert plot.png.startswith(b"\x89PNG\r\n\x1a\n")
    assert [int.from_bytes(plot.png[at : at + 4], "big") for at in (16, 20)] == [int(200 * inch) for inch in inches]


def test_equal_input_gives_equal_bytes_in_any_order_of_drawing(summary: Summary) -> None:
    first, second = (drawn(analysis_plots.judge_against_matcher(summary, "starter")) for _ in range(2))
    pixels = first.png
    assert (second.inline, second.svg, second.png) == (first.inline, first.svg, pixels)
