"""Plots of training: a line a student, each told apart, in the colour of the setting that it is asked in."""

from __future__ import annotations

from typing import Any

from eval.plots import Plot, colour_of
from eval.training_plots import loss_curves, training_course, training_plots


def student(key: str, trained_on: str = "rt", variant: str = "", base: str = "tiny") -> dict[str, Any]:
    return {"student_key": key, "base": base, "trained_on": trained_on, "variant": variant}


def step(key: str, number: int, loss: float | None, held_out: float | None = None, **more: float) -> dict[str, Any]:
    row = {"student_key": key, "step": number, "loss": loss, "held_out_loss": held_out, "memory_bytes": None}
    return row | {"learning_rate": 0.1, "tokens_per_second": 300.0} | more


LOGS = [step("s", 0, None, 4.0), step("s", 1, 3.0), step("s", 2, 2.0, 2.5)]


def lines(plot: Plot | None, colour: str, panel: int = 0) -> list[tuple[list[float], list[float]]]:
    assert plot
    drawn = [line for line in plot.figure.axes[panel].lines if line.get_color() == colour]
    return [([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]) for line in drawn]


def test_losses_are_drawn_where_steps_were_logged() -> None:
    plot = loss_curves([student("s"), student("unlogged")], LOGS)
    assert lines(plot, colour_of("rt")) == [([1, 2], [3.0, 2.0]), ([0, 2], [4.0, 2.5])]
    assert loss_curves([student("s")], []) is None


def test_a_mix_has_the_colour_of_its_setting() -> None:
    assert len(lines(loss_curves([student("s", "both")], LOGS), colour_of("mix"))) == 2


def test_variants_share_a_colour_and_differ_in_their_dashes() -> None:
    logs = [*LOGS, *({**row, "student_key": "t"} for row in LOGS)]
    plot = loss_curves([student("s", variant="a"), student("t", variant="b")], logs)
    assert plot
    training = [line for line in plot.figure.axes[0].lines if "training" in str(line.get_label())]
    assert [line.get_label() for line in training] == ["rt a, training", "rt b, training"]
    assert {line.get_color() for line in training} == {colour_of("rt")}
    assert len({line.get_linestyle() for line in training}) == 2


def test_the_course_leaves_out_what_was_not_measured() -> None:
    plot = training_course([student("s")], LOGS)
    assert plot
    titles = [axis.get_title("left") for axis in plot.figure.axes if axis.get_visible()]
    assert titles == ["Learning rate", "Speed"]
    assert lines(plot, colour_of("rt"), panel=1) == [([1, 2], [300.0, 300.0])]
    measured = training_course([student("s")], [step("s", 1, 3.0, memory_bytes=2.0**31)])
    assert lines(measured, colour_of("rt"), panel=2) == [([1], [2.0])]


def test_each_base_has_a_panel_and_both_plots_are_made() -> None:
    logs = [*LOGS, *({**row, "student_key": "t"} for row in LOGS)]
    plots = training_plots([student("s"), student("t", base="small")], logs)
    assert [plot.name for plot in plots] == ["loss", "training-course"]
    assert [axis.get_title("left") for axis in plots[0].figure.axes] == ["small", "tiny"]
    assert training_plots([], []) == []
