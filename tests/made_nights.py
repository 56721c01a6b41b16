"""Studies of one run as rows in a store, whose right answers are known: what the tests of nightly verdicts compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from store.connection import Store


def land(
    store: Store, key: str, right: Sequence[int], *, model: str = "m1", start: int = 0, detailed: bool = True
) -> None:
    """A study of one run (two samples a question, budgets 8 and none): ``right`` samples of each question at both.

    Of q0 no sample has an answer, of q1 one; the judge said nothing of that, and of the others that one sample is right.
    """
    names = [f"q{place}" for place in range(start, start + len(right))]
    score = {"how": "boxed", "majority": [True, True], "votes": 2, "classes": 1}
    counts = ("cut", "forced", "unparsed", "refused", "thinking_tokens", "answer_tokens")
    scores = [
        {
            "score_key": f"score-{key}",
            "budget": budget,
            "question_key": name,
            "samples": 2,
            "correct": count,
            **{name: value for name, value in score.items() if name != "how"},
            **dict.fromkeys(counts, 0),
            "unparsed": {"q0": 2, "q1": 1}.get(name, 0),
            "judged": 0 if name in ("q0", "q1") else 1,
            "judged_correct": 0 if name in ("q0", "q1") else 1,
            "judged_matched": 0,
            "judged_both": 0,
        }
        for budget in (8, None)
        for name, count in zip(names, right, strict=True)
    ]
    thought = {"model_key": model, "format": "plain", "sampling": {}, "seed": 1, "max_thinking_tokens": 9}
    answer = {"forced_answer": "", "max_answer_tokens": 5}
    run = {
        "study_key": key,
        "run_key": f"run-{key}",
        "unit_key": f"unit-{key}",
        "role": "student",
        "model": "small",
        "base": "small",
        "setting": "fs1",
        "dataset": "starter",
        "prompt_set": f"set-{key}",
        "thought_key": f"thought-{model}",
        "answer_key": "answer",
        "samples": 2,
        "budgets": [8, 0],
        "parser": "parser-1",
        "matcher": "matcher-1",
        "judge": "judge-1",
        "score_key": f"score-{key}",
    }
    unit = {
        "unit_key": f"unit-{key}",
        "kind": "traces",
        "name": "answers",
        "spec": json.dumps({"thought": thought, "answer": answer} if detailed else {}),
        "versions": "{}",
        "host": "h",
        "seconds": 1.0,
        **dict.fromkeys(("row_count", "prompt_tokens", "cached_tokens", "generated_tokens"), 1),
    }
    prompts = [
        {
            "set_key": f"set-{key}",
            "question_key": name,
            "dataset": "starter",
            "question_id": name,
            "prompt_key": f"p-{name}",
        }
        for name in names
    ]
    studies = [{"study_key": key, "name": "made", "spec": "{}"}]
    scored = [{"score_key": f"score-{key}", "traces": 1}]
    with store.transaction() as db:  # has no key
        db.register("made_scores", pa.Table.from_pylist(scores))
        db.execute("INSERT INTO question_scores BY NAME SELECT * FROM made_scores")
        db.unregister("made_scores")
    tables: dict[str, list[dict[str, Any]]] = {"study_runs": [run], "prompt_sets": prompts}
    store.land({**tables, "studies": studies, "scored": scored, "units": [unit]})
