"""A smaller study of the same kind: ``--limit`` of the commands, ``limit`` of the deployments."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field

from flows.parameters import Evaluate, Finetune, Retrieve
from flows.retrieval_parameters import QuestionSet

P = TypeVar("P", bound=Retrieve)

Limit = Annotated[
    int | None,
    Field(ge=1, description="At most so many questions of each set, for a trial; empty: as the study says"),
]
DryRun = Annotated[
    bool, Field(description="Say what would be done and what it would take, as an artifact; nothing is done or spent")
]


def limited(parameters: P, limit: int | None) -> P:
    """The same parameters with at most ``limit`` questions of each set; None leaves them as they are.

    What lands is shared with the whole study: rows are known by their questions, not by the sets. The name tells the trial
    from the whole (``demo-first-5``), so that its report, artifacts and nightly verdicts never take the place of the whole's.
    """
    if limit is None:
        return parameters

    def few(questions: QuestionSet) -> QuestionSet:
        fewest = limit if questions.limit is None else min(limit, questions.limit)
        return questions.model_copy(update={"limit": fewest})

    retrieve = parameters.retrieve
    suffix = f"-first-{limit}"
    changed: dict[str, object] = {
        "name": f"{parameters.name.removesuffix(suffix)}{suffix}",
        "train": few(parameters.train),
        "retrieve": retrieve.model_copy(update={"datasets": tuple(map(few, retrieve.datasets))}),
    }
    if isinstance(parameters, Finetune) and (dev := parameters.finetune.dev) is not None and dev.questions is not None:
        fewer = dev.model_copy(update={"questions": few(dev.questions)})
        changed["finetune"] = parameters.finetune.model_copy(update={"dev": fewer})
    if isinstance(parameters, Evaluate):
        evaluate = parameters.evaluate
        changed["evaluate"] = evaluate.model_copy(update={"datasets": tuple(map(few, evaluate.datasets))})
    return parameters.model_copy(update=changed)
