"""Training sets as units: the traces of teachers that students are trained on, chosen by ``tasks.selection``.

A training set is named by its content: by the hash of its examples and of which of them are held out. Units with other
rules can come to the same set; each keeps its own statistics (``training_set_units``), and students are shared.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task

from models.embedded import default_cache
from models.example_lengths import example_lengths
from models.registry import ModelEntry
from models.training_text import training_set_hash
from store.connection import Store
from store.home import Home
from store.types import Frozen, InputError, Question, Recipe, digest
from tasks.examples import example
from tasks.keys import TrainingSetSpec
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.progress import progress
from tasks.questions import stored_questions
from tasks.selection import Candidate, Fate, Rules, choose, held_out_questions
from tasks.training_folders import folder_missing, write_folder
from tasks.training_statistics import near_gold, statistics_of
from tasks.verdicts import PredictionsOrder

MIX = "mix"
"""What stands for the recipe of a training set with traces of several."""


class TrainingSetOrder(Frozen):
    """A work order: the training set ``set_name`` (a recipe, or a mix's name) of a study.

    ``parts`` has the predictions of each part of the spec; ``recipe`` is None for traces of several recipes. ``tokenizer`` is
    what counts, in the layout ``format``; ``questions`` are the keys of all training questions of the study. ``study`` and
    ``retrieval`` (whose paths fs1 teachers saw) are told in the folder that the set is written into, and change no row.
    """

    name: str
    set_name: str
    recipe: Recipe | None
    spec: TrainingSetSpec
    parts: tuple[tuple[PredictionsOrder, ...], ...]
    tokenizer: ModelEntry
    format: str
    questions: tuple[str, ...]
    study: str = ""
    retrieval: str | None = None

    @property
    def key(self) -> str:
        """The unit's key."""
        return self.spec.key

    @property
    def rules(self) -> Rules:
        """What decides about a trace."""
        spec = self.spec
        return Rules(
            accept=spec.accept,
            limits=tuple(part.traces for part in spec.parts),
            max_per_question=spec.max_per_question,
            max_per_question_over_all=spec.max_per_question_over_all,
            max_tokens=spec.max_tokens,
            seed=spec.seed,
        )


@task(name="training set", **UNIT_OPTIONS)
def training_set(order: TrainingSetOrder) -> str:
    """The key of the training set, which is the hash of its content. Its folder is written as well."""
    home = Home.current()
    key = land_training_set(order, home.store)
    write_folder(home, order.key, key, order.set_name, order.study, order.retrieval)
    return key


def training_set_missing(order: TrainingSetOrder, home: Home) -> bool:
    """Whether the unit has to run: its row is missing, or the folder of its content has gone."""
    found = _landed(order, home.store)
    return found is None or folder_missing(home, found)


def land_training_set(order: TrainingSetOrder, store: Store) -> str:
    """The rows of :func:`training_set`. Raises InputError if no trace is left, with the counts of what was left out."""
    clock, spec = Clock(), order.spec
    found = _landed(order, store)
    if found is not None:
        return found
    candidates = [
        candidate
        for place, (part, readings) in enumerate(zip(spec.parts, order.parts, strict=True))
        for reading in readings
        for candidate in _candidates(store, place, part.recipe, reading, spec)
    ]
    questions = stored_questions(store, sorted({one.question_key for one in candidates}))
    fates = choose(candidates, order.rules, lambda right: _lengths(order, right, questions))
    kept = [fate.candidate for fate in fates if fate.reason is None]
    if not kept:
        raise InputError(_empty(order, fates))
    out = held_out_questions([one.question_key for one in kept], order.questions, spec.held_out, spec.seed)
    near = None if spec.encoder is None else near_gold(candidates, questions)
    statistics = json.dumps(statistics_of(fates, out, near))
    key = _content_key(kept, questions, out)
    header = {
        "training_set": key,
        "name": order.set_name,
        "recipe": MIX if order.recipe is None else order.recipe.value,
        "row_count": len(kept),
        "statistics": statistics,
    }
    mine = {"unit_key": order.key, "training_set": key, "name": order.set_name, "statistics": statistics}
    unit = clock.unit("training_set", order, spec, rows=len(kept), details={"training_set": key})
    rows = _rows(key, kept, out)
    store.land({"training_rows": rows, "training_sets": [header], "training_set_units": [mine]}, unit)
    return key


def _landed(order: TrainingSetOrder, store: Store) -> str | None:
    """The training set that the unit came to, if it has landed."""
    found = store.query("SELECT versions ->> 'training_set' AS hash FROM units WHERE unit_key = ?", [order.key])
    return str(found[0]["hash"]) if found else None


def _lengths(
    order: TrainingSetOrder, candidates: Sequence[Candidate], questions: Mapping[str, Question]
) -> list[int | None]:
    examples = [example(one._asdict(), questions[one.question_key]) for one in candidates]
    with progress(order.name, len(examples)) as meter:
        return example_lengths(examples, order.tokenizer, order.format, default_cache(), meter.advance)


def _content_key(kept: Sequence[Candidate], questions: Mapping[str, Question], out: set[str]) -> str:
    sides: dict[bool, list[Any]] = {False: [], True: []}
    for one in kept:
        sides[one.question_key in out].append(example(one._asdict(), questions[one.question_key]))
    return digest({"train": training_set_hash(sides[False]), "held_out": training_set_hash(sides[True])})


def _rows(key: str, kept: Sequence[Candidate], out: set[str]) -> list[dict[str, Any]]:
    return [
        {
            "training_set": key,
            "position": position,
            "trace_id": one.trace_id,
            "question_key": one.question_key,
            "prediction": one.prediction,
            "held_out": one.question_key in out,
            "recipe": one.recipe,
        }
        for position, one in enumerate(kept)
    ]


def _empty(order: TrainingSetOrder, fates: Sequence[Fate]) -> str:
    dropped = Counter(str(fate.reason) for fate in fates)
    told = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common()) or "none"
    mend = "ask a better teacher, or raise distill.samples, distill.max_thinking_tokens or train.limit"
    if dropped["too long"] == max(dropped.values(), default=-1):
        mend = f"raise distill.max_tokens ({order.spec.max_tokens})"
    elif dropped["no verdict"] + dropped["wrong by judge"] > len(fates) / 2:
        mend = f"see what the judge {order.spec.judge} replies (table verdicts), take another one, or accept: exact"
    return f"the training set {order.set_name} is empty: of {len(fates)} traces {told}; {mend}"


def _candidates(
    store: Store, place: int, recipe: Recipe, order: PredictionsOrder, spec: TrainingSetSpec
) -> list[Candidate]:
    rows = store.query(
        "SELECT t.trace_id, t.question_id, t.sample, t.cut, t.thinking_tokens, left(h.text, t.thinking_chars) AS thinking, "
        "t.model AS teacher, p.prediction, s.question_key, coalesce(v.correct, false) AS correct, j.correct AS judged "
        "FROM prompt_sets s JOIN questions q USING (question_key) "
        "JOIN traces t ON t.dataset = s.dataset AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key "
        "JOIN thought_texts h ON h.thought_id = t.thought_id "
        "JOIN predictions p ON p.trace_id = t.trace_id AND p.parser = $parser "
        "LEFT JOIN verdicts v ON v.judge = $matcher AND v.gold_key = q.gold_key AND v.prediction_key = p.prediction_key "
        "LEFT JOIN verdicts j ON j.judge = $judge AND j.gold_key = q.gold_key AND j.prediction_key = p.prediction_key "
        "WHERE s.set_key = $prompts AND t.thought_key = $thought AND t.answer_key = $answer AND t.sample < $samples "
        "AND list_contains($budgets::INTEGER[], coalesce(t.budget, 0))",
        {
            "parser": spec.parser,
            "matcher": spec.matcher,
            "judge": spec.judge,
            "prompts": order.prompt_set,
            "thought": order.thought_key,
            "answer": order.answer_key,
            "samples": order.samples,
            "budgets": list(order.budgets),
        },
    )
    return [Candidate(part=place, recipe=recipe.value, source=order.thought_key, **row) for row in rows]
