"""Plots of how students were trained, step by step: loss, learning rate, speed and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.plots import INK, Plot, colour_of, dress, figure_of, marker_of
from eval.summary import SETTING_ORDER

Row = Mapping[str, Any]

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
_SHADES = (1.0, 0.55, 0.75, 0.4)


def training_plots(students: Sequence[Row], logs: Sequence[Row]) -> list[Plot]:
    """Both plots below, without those that have nothing to show. Rows are those of ``store.queries.student_rows``."""
    return [plot for plot in (loss_curves(students, logs), training_course(students, logs)) if plot]


def loss_curves(students: Sequence[Row], logs: Sequence[Row]) -> Plot | None:
    """Training loss (lines) and held-out loss (markers) by step, a panel a base model. None without a logged step."""
    shown = _logged(students, logs)
    bases = sorted({str(student["base"]) for student, _ in shown})
    if not bases:
        return None
    figure, axes = figure_of(len(bases))
    for axis, base in zip(axes, bases, strict=True):
        mine = [(student, rows) for student, rows in shown if student["base"] == base]
        highest = max(_loss_lines(axis, student, rows, place) for student, rows, place in _placed(mine))
        dress(axis, base, "", "optimiser step", "loss (nats a token)", highest * 1.08 or 1.0)
        axis.legend(loc="upper right", frameon=False, fontsize=7.5, labelcolor=INK)
    return Plot("loss", "Training and held-out loss by step", figure)


def training_course(students: Sequence[Row], logs: Sequence[Row]) -> Plot | None:
    """Learning rate, speed and peak memory by step: a panel each, a line a student. None without a logged step."""
    shown = [(student, [row for row in rows if row["loss"] is not None]) for student, rows in _logged(students, logs)]
    shown = [(student, rows) for student, rows in shown if rows]
    if not shown:
        return None
    panels = [
        ("Learning rate", "of each step", "learning_rate", 1.0),
        ("Speed", "tokens a second, padding not counted", "tokens_per_second", 1.0),
        ("Memory", "GiB at most so far", "memory_bytes", 2.0**30),
    ]
    panels = [one for one in panels if any(row.get(one[2]) is not None for _, rows in shown for row in rows)]
    figure, axes = figure_of(len(panels))
    several = len({str(student["base"]) for student, _ in shown}) > 1
    for axis, (title, note, column, unit) in zip(axes, panels, strict=True):
        highest = 0.0
        for student, rows, place in _placed(shown):
            points = [(row["step"], row[column] / unit) for row in rows if row.get(column) is not None]
            if points:
                name = f"{student['base']} {_name(student)}" if several else _name(student)
                axis.plot(*zip(*points, strict=True), label=name, **_style(student, place))
                highest = max(highest, *(value for _, value in points))
        dress(axis, title, note, "optimiser step", "", highest * 1.08 or 1.0)
    axes[0].legend(loc="lower left", frameon=False, fontsize=7.5, labelcolor=INK)
    return Plot("training-course", "Learning rate, speed and memory of training by step", figure)


def _logged(students: Sequence[Row], logs: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    """The students of which a step was logged, each with its log."""
    by_student: dict[str, list[Row]] = {}
    for row in logs:
        by_student.setdefault(str(row["student_key"]), []).append(row)
    return [(student, by_student[key]) for student in students if (key := str(student["student_key"])) in by_student]


def _placed(shown: Sequence[tuple[Row, list[Row]]]) -> list[tuple[Row, list[Row], int]]:
    """Each student with its place among those of its colour, which tells their lines apart."""
    seen: dict[str, int] = {}
    placed = []
    for student, rows in shown:
        colour = _setting(student)
        placed.append((student, rows, seen.get(colour, 0)))
        seen[colour] = seen.get(colour, 0) + 1
    return placed


def _setting(student: Row) -> str:
    """The setting that a student of this training set is asked in, which gives it its colour."""
    name = str(student["trained_on"])
    return name if name in SETTING_ORDER else "mix"


def _name(student: Row) -> str:
    return " ".join(str(student[part]) for part in ("trained_on", "variant") if student[part])


def _style(student: Row, place: int) -> dict[str, Any]:
    return {
        "color": colour_of(_setting(student)),
        "linestyle": _DASHES[place % len(_DASHES)],
        "alpha": _SHADES[place % len(_SHADES)],
        "linewidth": 1.3,
    }


def _loss_lines(axis: Any, student: Row, rows: Sequence[Row], place: int) -> float:
    training = [(row["step"], row["loss"]) for row in rows if row["loss"] is not None]
    held_out = [(row["step"], row["held_out_loss"]) for row in rows if row["held_out_loss"] is not None]
    style = _style(student, place)
    if training:
        axis.plot(*zip(*training, strict=True), label=f"{_name(student)}, training", **style)
    if held_out:
        marked = {
            "linestyle": ":",
            "linewidth": 0.8,
            "marker": marker_of(_setting(student)),
            "markersize": 6 - place % 3,
        }
        axis.plot(*zip(*held_out, strict=True), label=f"{_name(student)}, held out", **(style | marked))
    return max((loss for _, loss in training + held_out), default=0.0)
