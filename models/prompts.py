"""Our prompts: what a model is asked, what a teacher is shown, what a judge decides.

Pure functions of their arguments: the same question gives the same messages on every host, so that ``Prompt.key`` can
stand for them in a cache key. Follows the study (arXiv 2505.11140) in what is said, not in its words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from store.types import InputError, JudgeQuestion, Message, Prompt, Question, Recipe, Setting

BOXED = "Put your final answer in \\boxed{}."
STEP_BY_STEP = "Think step by step before you answer."
GRAPH = (
    "Use the facts below as inspiration; they are not the only possible source of the answer. "
    "One `subject, relation, object` a line:"
)


class Example(NamedTuple):
    """A made-up question with its facts and an answer that shows the form; nothing of it is in any knowledge graph."""

    question: str
    graph: str
    answer: str


EXAMPLES = (
    Example(
        "Who painted the Harbour of Orm?",
        "Harbour of Orm, creator, Lena Voss",
        "The Harbour of Orm was painted by Lena Voss.\n\nFinal answer: \\boxed{Lena Voss}",
    ),
    Example(
        "Which metal did the inventor of the Zeta lamp sell?",
        "Zeta lamp, discoverer or inventor, Ada Brook\nAda Brook, product sold, tungsten",
        "The Zeta lamp was invented by Ada Brook, and Ada Brook sold tungsten.\n\nFinal answer: \\boxed{tungsten}",
    ),
)


class Judged(NamedTuple):
    """A made-up case for a small judge, with the reply to either question."""

    gold: str
    prediction: str
    digit: str
    letter: str


JUDGED = (
    Judged("Lena Voss", "the painter Lena Voss", "1", "A"),
    Judged("tungsten", "copper", "0", "B"),
    Judged("Ada Brook", "I cannot tell who that was", "0", "C"),
    Judged("4 May 1731", "it was 1732", "0", "B"),
    Judged("Orm", "Orm", "1", "A"),
)
CONTAINS = (
    "You compare a predicted answer with gold answers. Reply 1 if the prediction states one of the gold answers, or "
    "names the same thing in other words; reply 0 if it does not. Reply with the single digit and nothing else."
)
GRADE = (
    "You grade a predicted answer by the gold answers of its question; any one of them is a full answer.\n"
    "A: the prediction names one of the gold answers, in whatever words, spelling or form, and takes nothing of it back.\n"
    "B: the prediction names something else, or names a gold answer only beside others that are wrong.\n"
    "C: the prediction commits itself to no answer: it declines, or says that it does not know.\n"
    "Reply with the single letter A, B or C and nothing else."
)
_AGAIN: dict[JudgeQuestion, str] = {
    "contains": "That is no verdict. Reply with one digit, 1 or 0, and nothing else.",
    "grade": "That is no verdict. Reply with one letter, A, B or C, and nothing else.",
}
_REPLY_SHOWN = 200  # characters of an invalid reply that its judge is shown again
_CONTROL = re.compile(r"<\|[^|<>\n]{0,40}\|>")


def question_prompt(question: Question, setting: Setting) -> Prompt:
    """What a model under evaluation is asked. ``cot`` adds a line; students of ``rt`` and ``fs1`` see the ``instruct``
    one: what differs between them is their training alone."""
    extra = [STEP_BY_STEP] if setting is Setting.COT else []
    return _user(question, " ".join([question.text, *extra, BOXED]))


def teacher_prompt(question: Question, recipe: Recipe, graph: str | None, *, examples: bool = True) -> Prompt:
    """What a teacher is asked for a training trace. ``graph`` is the linearised paths, one triple a line.

    ``rt`` is the plain question, whatever the graph. ``examples`` puts two made-up questions with their answers before
    it, as earlier turns of the chat: a small teacher uses the box only if it has seen it used. SmolLM2-135M at
    temperature 0.4, one sample of 14 easy questions with facts: 14 boxes, 10 of them right (without facts 4); with three
    wordings and no examples, no right box. Reasoning models, the study's teachers, are asked without examples.

    Raises:
        InputError: recipe ``fs1`` without a graph.
    """
    facts = recipe is Recipe.FS1
    if facts and (graph is None or not graph.strip()):
        raise InputError(f"question {question.id}: the recipe fs1 needs the question's paths, and it has none")
    turns: list[Message] = []
    for example in EXAMPLES if examples else ():
        turns.append(Message(role="user", content=_teacher_text(example.question, example.graph if facts else None)))
        turns.append(Message(role="assistant", content=example.answer))
    turns.append(Message(role="user", content=_teacher_text(question.text, graph if facts else None)))
    return Prompt(question_id=question.id, messages=tuple(turns))


def _teacher_text(question: str, graph: str | None) -> str:
    facts = "" if graph is None else f"{GRAPH}\n{graph.strip()}\n\n"
    return f"{facts}{question} {BOXED}"


def judge_prompt(
    gold: Sequence[str], prediction: str, question: JudgeQuestion = "contains", *, examples: bool = False
) -> tuple[Message, ...]:
    """Ask a judge about ``prediction``: does it give one of the ``gold`` answers (1 or 0), or which grade is it (A, B, C).

    The benchmark question is not shown: a verdict is then one of (judge, gold answers, prediction), and is asked for
    once, however many questions, runs and samples come to the same pair. ``contains`` is the fs1 study's question
    (arXiv 2505.11140), ``grade`` has the three grades of SimpleQA (arXiv 2411.04368); the words are ours.
    ``examples`` shows made-up cases in place of the instruction, for a judge so small that it would not keep to the form
    otherwise. SmolLM2-135M, greedy, on 108 pairs: 1 digit with the instruction, 105 with cases, 107 with both, but those
    were the same digit throughout.

    Raises:
        InputError: there is no gold answer.
    """
    if not gold:
        raise InputError(f"no gold answer to judge the prediction {prediction!r} by")
    contains = question == "contains"
    task, end = (CONTAINS, "Digit:") if contains else (GRADE, "Letter:")
    if not examples:
        return (Message(role="user", content=f"{task}\n\n{_case(gold, prediction, end)}"),)
    turns: list[Message] = []
    for known in JUDGED:
        if not (contains and known.letter == "C"):
            turns.append(Message(role="user", content=_case((known.gold,), known.prediction, end)))
            turns.append(Message(role="assistant", content=known.digit if contains else known.letter))
    return (*turns, Message(role="user", content=_case(gold, prediction, end)))


def judge_again(asked: Sequence[Message], reply: str, question: JudgeQuestion) -> tuple[Message, ...]:
    """Ask once more, after a ``reply`` that was no verdict: it is shown, shortened, and then the form that is wanted."""
    # Nothing that a chat template takes for the border of a turn may come back in a turn.
    words = " ".join(_CONTROL.sub(" ", reply).split())
    said = words[:_REPLY_SHOWN] + ("…" if len(words) > _REPLY_SHOWN else "")
    return (
        *asked,
        Message(role="assistant", content=said or "(nothing)"),
        Message(role="user", content=_AGAIN[question]),
    )


def _case(gold: Sequence[str], prediction: str, end: str) -> str:
    # White space of a prediction is not in its key, so it may not change what a judge sees.
    return f"Gold answers: {'; '.join(gold)}\nPrediction: {' '.join(prediction.split())}\n{end}"


def _user(question: Question, content: str) -> Prompt:
    return Prompt(question_id=question.id, messages=(Message(role="user", content=content),))
