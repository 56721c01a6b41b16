"""Our prompts: what a model is asked, what a teacher is shown, what a judge decides.

Pure functions of their arguments: the same question gives the same messages on every host, so that ``Prompt.key`` can
stand for them in a cache key. Follows the study (arXiv 2505.11140) in what is said, not in its words.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.types import InputError, Message, Prompt, Question, Recipe, Setting

BOXED = "Put your final answer in \\boxed{}."
STEP_BY_STEP = "Think step by step before you answer."
GRAPH = (
    "The lines below are facts from a knowledge graph, one `subject, relation, object` a line. Use them as inspiration "
    "for your reasoning; they may be incomplete, and they are not the only possible source of the answer."
)
JUDGE = (
    "You compare a predicted answer with gold answers. Reply 1 if the prediction states one of the gold answers, or "
    "names the same thing in other words; reply 0 if it does not. Reply with the single digit and nothing else."
)


def question_prompt(question: Question, setting: Setting) -> Prompt:
    """What a model under evaluation is asked. ``cot`` adds a line; students of ``rt`` and ``fs1`` see the ``instruct``
    one: what differs between them is their training alone."""
    extra = [STEP_BY_STEP] if setting is Setting.COT else []
    return _user(question, " ".join([question.text, *extra, BOXED]))


def teacher_prompt(question: Question, recipe: Recipe, graph: str | None) -> Prompt:
    """What a teacher is asked for a training trace. ``graph`` is the linearised paths, one triple a line.

    ``rt`` is the plain question, whatever the graph.

    Raises:
        InputError: recipe ``fs1`` without a graph.
    """
    if recipe is Recipe.RT:
        return question_prompt(question, Setting.INSTRUCT)
    if graph is None or not graph.strip():
        raise InputError(f"question {question.id}: the recipe fs1 needs the question's paths, and it has none")
    return _user(question, f"{GRAPH}\n\n{graph.strip()}\n\n{question.text} {BOXED}")


def judge_prompt(gold: Sequence[str], prediction: str) -> tuple[Message, ...]:
    """Ask whether ``prediction`` gives one of the ``gold`` answers; the reply is 1 or 0.

    The question is not shown: a verdict is then one of (judge, gold answers, prediction) and is asked for once.

    Raises:
        InputError: there is no gold answer.
    """
    if not gold:
        raise InputError(f"no gold answer to judge the prediction {prediction!r} by")
    shown = "\n".join(f"- {answer}" for answer in gold)
    content = f"{JUDGE}\n\nGold answers:\n{shown}\nPrediction: {prediction}\n\nDigit:"
    return (Message(role="user", content=content),)


def _user(question: Question, content: str) -> Prompt:
    return Prompt(question_id=question.id, messages=(Message(role="user", content=content),))
