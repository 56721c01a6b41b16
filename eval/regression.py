"""Has a study become better or worse since it was last accepted: a paired test on the questions that both were asked.

A *cell* is a run (role, model, setting, dataset) at one budget; the score of a question in it is the share of its samples that
are right, from 0 to 1. The rule, with ``confidence`` c and ``margin`` m:

1. **Pairs.** Cells are matched by role, model, setting, dataset and budget, and in a matched cell only questions count that
   both evaluations asked, known by their content with their gold answers. New and gone questions are counted and never
   compared: a harder question set is no regression. A changed gold answer makes another question, one gone and one new.
2. **Family.** A cell in which nothing changed (model, prompts, sampling, samples, parser and scorer are the same) has the very
   same rows and an effect of exactly 0. It is shown, and no hypothesis: a study of 168 runs of which one student is new is a
   test of that student, not of 168.
3. **Test.** In each changed cell the p-value of the mean difference (now less before) is that of the exact sign-flip test over
   questions (``eval.sign_flips``): had nothing changed, a question's score before and now could change places. The samples of
   a question are alike, so questions are what is flipped. The interval is that of the paired bootstrap over questions
   (``eval.statistics.paired_bootstrap_of_means``).
4. **Together.** The pooled effect is the mean over questions of a question's mean difference over the changed cells that it is
   in, and questions are flipped and drawn whole again, since what one run finds hard others do too. It sees what moves all runs
   a little; the cells see what moves one run, or two in opposite directions.
5. **Verdicts.** The p-values of all changed cells, and the pooled one where there is more than one cell, are corrected together
   after Holm: where nothing but chance has changed, the chance of any "improved" or "worse" in one comparison is at most 1 - c,
   with however few questions. A corrected p-value of at most 1 - c makes a verdict; intervals are each at level c by itself, so
   that one may leave out 0 without a verdict. Overall: *worse* if the pooled effect or any cell is worse, else *improved* if any
   is improved, else *same*.
6. **Regression.** The pooled effect or a cell is worse, and has lost more than m. Few questions can lose much by chance and many
   can lose next to nothing surely; a regression is both sure and large.

Few questions can tell little: m of them that differ have no p-value below 2^(1 - m), so that one cell alone needs six for a
verdict at c = .95, and one of twelve cells needs ten. Where the number of samples changed, scores before and now vary unlike,
and the test is exact only as the number of questions grows. tests/eval/test_regression.py simulates its level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from eval.sign_flips import sign_flip_p
from eval.statistics import PairedDifference, holm, paired_bootstrap_of_means

Verdict = Literal["improved", "same", "worse"]
Floats = npt.NDArray[np.float64]


class Cell(NamedTuple):
    """One run at one budget (thinking tokens; None: no budget)."""

    role: str
    model: str
    setting: str
    dataset: str
    budget: int | None


class Scored(NamedTuple):
    """The scores of a cell: ``questions`` are keys by content, ``shares`` from 0 to 1, both of shape (questions,).

    ``made`` says what its rows depend on, by name; ``prompts`` the prompt of each question, of the same shape.
    """

    questions: npt.NDArray[np.str_]
    shares: Floats
    prompts: npt.NDArray[np.str_]
    made: Mapping[str, str]


class Change(NamedTuple):
    """What became of one cell, on the ``n`` questions that both evaluations asked.

    ``effect`` is the accuracy ``after`` less that ``before``; ``changed`` names what differs in how it was made (empty: its
    rows are the same).
    """

    cell: Cell
    n: int
    before: float
    after: float
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: Verdict
    changed: tuple[str, ...]


class Pooled(NamedTuple):
    """All changed cells together, over the ``n`` questions that are in any of them."""

    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    verdict: Verdict


class Comparison(NamedTuple):
    """Two evaluations of a study, by the rule of this module.

    ``pooled`` is None where no cell changed. ``questions`` are in both evaluations, ``new`` only in the later, ``gone`` only in
    the earlier; so with ``new_cells`` and ``gone_cells``. ``unmatched`` cells are in both, but share no question.
    """

    verdict: Verdict
    regression: bool
    pooled: Pooled | None
    changes: tuple[Change, ...]
    questions: int
    new: int
    gone: int
    new_cells: tuple[Cell, ...]
    gone_cells: tuple[Cell, ...]
    unmatched: tuple[Cell, ...]


class _Pair(NamedTuple):
    cell: Cell
    keys: npt.NDArray[np.str_]
    before: Floats
    after: Floats
    changed: tuple[str, ...]


def compare(
    before: Mapping[Cell, Scored], after: Mapping[Cell, Scored], *, margin: float, confidence: float = 0.95
) -> Comparison:
    """What became of a study by the rule above; cells stand in the order of ``after``.

    Raises ValueError for a negative margin, a confidence outside 0 to 1, or scores outside 0 to 1.
    """
    if margin < 0 or not 0 < confidence < 1:
        raise ValueError(f"margin {margin} must be 0 or more, confidence {confidence} between 0 and 1")
    pairs = [_pair(cell, before[cell], scored) for cell, scored in after.items() if cell in before]
    tested = [pair for pair in pairs if len(pair.keys)]
    changed = [pair for pair in tested if pair.changed]
    differences = [_difference(pair.after, pair.before, confidence) for pair in changed]
    together = _together(changed, confidence) if len(changed) > 1 else None
    corrected = holm([one.p for one in (*differences, *([together] if together else []))])
    by_cell = {pair.cell: (*one, p) for pair, one, p in zip(changed, differences, corrected, strict=False)}
    changes = tuple(_change(pair, by_cell.get(pair.cell), confidence) for pair in tested)
    pooled = _pooled(together or (differences[0] if differences else None), corrected, confidence)
    told = [(change.effect, change.verdict) for change in changes]
    told += [(pooled.effect, pooled.verdict)] if pooled else []
    verdicts = {verdict for _, verdict in told}
    mine, theirs = _keys(after), _keys(before)
    return Comparison(
        verdict="worse" if "worse" in verdicts else "improved" if "improved" in verdicts else "same",
        regression=any(verdict == "worse" and effect < -margin for effect, verdict in told),
        pooled=pooled,
        changes=changes,
        questions=len(mine & theirs),
        new=len(mine - theirs),
        gone=len(theirs - mine),
        new_cells=tuple(cell for cell in after if cell not in before),
        gone_cells=tuple(cell for cell in before if cell not in after),
        unmatched=tuple(pair.cell for pair in pairs if not len(pair.keys)),
    )


def drift(
    before: Mapping[Cell, Scored], after: Mapping[Cell, Scored], confidence: float = 0.95
) -> PairedDifference | None:
    """The pooled effect alone, as in :func:`compare`: how far a study has come since ``before``, however many small steps were
    accepted between. None where no cell changed."""
    pairs = [_pair(cell, before[cell], scored) for cell, scored in after.items() if cell in before]
    changed = [pair for pair in pairs if pair.changed and len(pair.keys)]
    return _together(changed, confidence) if changed else None


def _pair(cell: Cell, before: Scored, after: Scored) -> _Pair:
    keys, there, here = np.intersect1d(before.questions, after.questions, assume_unique=True, return_indices=True)
    names = dict.fromkeys((*after.made, *before.made))
    changed = [name for name in names if before.made.get(name) != after.made.get(name)]
    if np.any(before.prompts[there] != after.prompts[here]):
        changed.append("prompts")
    return _Pair(cell, keys, before.shares[there], after.shares[here], tuple(changed))


def _difference(after: Floats, before: Floats, confidence: float) -> PairedDifference:
    interval = paired_bootstrap_of_means(after, before, level=confidence)
    # The bootstrap's own p-value is too small where questions are few: 24 of them call one null night in 13 changed.
    return interval._replace(p=sign_flip_p(after - before))


def _together(pairs: list[_Pair], confidence: float) -> PairedDifference:
    """The paired difference of every question's mean over the cells that it is in."""
    keys, place = np.unique(np.concatenate([pair.keys for pair in pairs]), return_inverse=True)
    cells = np.bincount(place, minlength=len(keys))
    after, before = (
        # The mean of shares is one; rounding must not take it past 1.
        np.clip(np.bincount(place, np.concatenate(values), minlength=len(keys)) / cells, 0.0, 1.0)
        for values in ([pair.after for pair in pairs], [pair.before for pair in pairs])
    )
    # Means over many cells are nearly all distinct by rounding alone, and the bootstrap counts distinct values.
    return _difference(np.round(after, 9), np.round(before, 9), confidence)


def _change(pair: _Pair, tested: tuple[float, ...] | None, confidence: float) -> Change:
    before, after = float(pair.before.mean()), float(pair.after.mean())
    if tested is None:
        return Change(pair.cell, len(pair.keys), before, after, 0.0, 0.0, 0.0, 1.0, 1.0, "same", ())
    effect, low, high, p, n, p_holm = tested
    verdict = _verdict(effect, p_holm, confidence)
    return Change(pair.cell, int(n), before, after, effect, low, high, p, p_holm, verdict, pair.changed)


def _pooled(difference: PairedDifference | None, corrected: list[float], confidence: float) -> Pooled | None:
    if difference is None:
        return None
    diff, low, high, p, n = difference
    return Pooled(diff, low, high, p, corrected[-1], n, _verdict(diff, corrected[-1], confidence))


def _verdict(effect: float, p_holm: float, confidence: float) -> Verdict:
    if p_holm > 1 - confidence + 1e-12 or effect == 0:
        return "same"
    return "improved" if effect > 0 else "worse"


def _keys(scores: Mapping[Cell, Scored]) -> set[str]:
    return {key for scored in scores.values() for key in scored.questions.tolist()}
