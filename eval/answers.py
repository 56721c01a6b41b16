r"""Find the answer that a model's text gives: its box, its answer block, its last words, or its refusal.

``\boxed{...}`` is what the prompts ask for; small models bend it in many ways (nested or missing braces, LaTeX
inside, restated questions, placeholders copied from the prompt, a run-on into a question of their own making). What
is looked for, in this order:

1. the answer part: the text after a closed thought, without a thought that never closed. A cut thought gives no
   answer, even where it holds a box: that box is a guess on the way;
2. in it, a complete box, then a box that was never closed, then an ``Answer:`` block or a sentence like "the
   answer is Paris" (the "answer" of JSON or of a table is such a block);
3. a complete box inside a closed thought (the study takes a box anywhere);
4. a refusal; and, only where asked, the last words.

The answer goes on as plain text (:mod:`eval.plain_text`), the items of a list with semicolons between them.
:mod:`eval.matching` compares it.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from eval import plain_text
from eval.plain_text import items, trim
from store.types import digest

How = Literal["boxed", "boxed_open", "block", "tail", "refused", "none"]

TAIL_WORDS = 10  # as in the fs1 study
LONGEST = 1000  # characters of text that an answer is looked for in, so that a model in a loop costs linear time


class Extraction(NamedTuple):
    """The answer found in a text (None where there is none) and how it was found."""

    prediction: str | None
    how: How


def extract(text: str, *, allow_tail: bool) -> Extraction:
    r"""The answer that ``text`` gives.

    Of several boxes the **last** complete one that is not empty counts. The fs1 study takes the first; but models
    restate and correct themselves ("... so \boxed{Paris}. Wait, the question says ... \boxed{Lyon}"), and a prompt
    repeated at the start holds a box too. The same holds for answer blocks. What follows an answer as a new
    "Question:" is the model asking itself something else and is not read.

    ``allow_tail`` says whether the last 10 words may stand for the answer; pass False for a text that was cut.
    Refusals ("I don't know", ``\boxed{unknown}``) give None with ``how="refused"``.
    """
    thought, answer = _split_thought(_ESCAPED.sub(_unescaped, text))
    parts = [part for part in _RUN_ON.split(answer) if part.strip()]
    for part in parts:
        if found := _explicit(part):
            return found
    if thought and (box := _first_answer(inside for inside, complete in _boxes(thought) if complete)):
        return _unless_refused(box, "boxed")
    if parts and _refuses(parts[0]):
        return Extraction(None, "refused")
    if parts and allow_tail and (words := _tail(parts[0])):
        return _unless_refused(words, "tail")
    return Extraction(None, "none")


# Thoughts, turns and run-ons ----------------------------------------------------------------------------------------

_THOUGHT_CLOSE = re.compile(
    r"</(?:think(?:ing)?|thought|reasoning)>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>"
    r"|<\|im_start\|>\s*answer\b|<(?:final_)?answer>",
    re.I,
)
_THOUGHT_OPEN = re.compile(
    r"<(?:think(?:ing)?|thought|reasoning)>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis"
    r"|<\|im_start\|>\s*think\b",
    re.I,
)
_ANSWER_CLOSE = re.compile(r"</(?:final_)?answer>", re.I)
_RUN_ON = re.compile(
    r"(?im)^[ \t#*>]*(?:question|q|user|human|problem)[ \t]*\d*[*]*[:：]|<\|im_start\|>\s*user\b"
    r"|<\|start_header_id\|>\s*user\b|<start_of_turn>\s*user\b|<\|user\|>|<｜User｜>|\[INST\]"
)
_SPECIAL = re.compile(r"<[|｜][\w ▁]{1,30}[|｜]>(?:assistant\b)?|</s>|<s>|<eos>|<(?:start|end)_of_turn>|\[/INST\]")
# What "\b", "\t" and "\f" of a box and its LaTeX become where a text went through a string literal.
_ESCAPED = re.compile(r"\x08(?=oxed)|\t(?=ext[a-z]{0,6}\{)|\x0c(?=rac\{)")


def _unescaped(control: re.Match[str]) -> str:
    return {"\x08": "\\b", "\t": "\\t", "\x0c": "\\f"}[control.group()]


def _split_thought(text: str) -> tuple[str, str]:
    """The closed thought ("" where there is none) and the answer part, of a text."""
    closes = list(_THOUGHT_CLOSE.finditer(text))
    thought, answer = (text[: closes[-1].start()], text[closes[-1].end() :]) if closes else ("", text)
    if reopened := _THOUGHT_OPEN.search(answer):
        answer = answer[: reopened.start()]
    if closes and closes[-1].group().lower() in ("<answer>", "<final_answer>"):
        content, *closed = _ANSWER_CLOSE.split(answer, maxsplit=1)
        lines = [line for line in content.splitlines() if line.strip()]
        # A tag whose content is one line, or one list, is an answer block by itself.
        if closed and (len(lines) == 1 or (lines and len(items(lines)) == len(lines))) and not _LABEL.search(content):
            answer = content if "boxed" in content else f"Answer:\n{content.strip()}"
    return thought, answer


def _explicit(part: str) -> Extraction | None:
    """The answer that is marked as one, by a box or a label."""
    plain = _SPECIAL.sub("\n", part)
    boxes = _boxes(plain)
    if box := _first_answer(inside for inside, complete in boxes if complete):
        return _unless_refused(box, "boxed")
    if box := _first_answer(inside for inside, complete in boxes if not complete):
        return _unless_refused(box, "boxed_open")
    for marked in (_json_values(plain), _blocks(plain), _cells(plain)):
        if block := _first_answer(marked):
            return _unless_refused(block, "block")
    return None


def _first_answer(candidates: Iterable[str]) -> str | None:
    """The first candidate, trimmed, that is not empty and no placeholder."""
    for candidate in candidates:
        trimmed = _OWN_LABEL.sub("", trim(candidate))
        if not _PLACEHOLDER.fullmatch(trimmed):
            return trim(trimmed)
    return None


_OWN_LABEL = re.compile(r"(?i)^(?:the\s+|my\s+)?(?:final\s+|correct\s+)?answer\s*(?:is\b\s*:?|[:=])\s*")
_PLACEHOLDER = re.compile(
    r"[\W_]*|(?:(?:the|your|my|insert|put|write|enter|place|final|correct|short|exact)\s+)*"
    r"(?:answer|response|solution)s?(?:\s+(?:goes\s+)?(?:in\s+)?here)?",
    re.I,
)

# Boxes --------------------------------------------------------------------------------------------------------------

_BOX = re.compile(
    r"(?:(?<!\\)\\+|\b)(?:boxed|fbox)\s*(?:\\+text\w{0,6}\s*)?\{"
    r"|(?<!\\)\\+boxed\s*(?:\((?P<round>[^()\n]*)\)|\[(?P<square>[^\[\]\n]*)\])"  # \boxed(Paris)
)
_EMPTY_LINE = re.compile(r"\n[ \t]*\n")


def _boxes(text: str) -> list[tuple[str, bool]]:
    """(content, complete) of each outermost box, the last one first; an open one runs to the end of its first line."""
    found: list[tuple[str, bool]] = []
    closing = _matching_braces(text)
    end = 0
    for box in _BOX.finditer(text):
        if box.start() < end:
            continue  # a box inside a box; trimming unwraps it
        if not box.group().endswith("{"):
            found.append((box["round"] or box["square"] or "", True))
            continue
        close = closing.get(box.end() - 1)
        inside = text[box.end() : box.end() + LONGEST].lstrip()
        # A brace that closes after an empty line, or far away, belongs to something else: the box was left open.
        if (
            close is not None
            and close <= box.end() + LONGEST
            and not _EMPTY_LINE.search(text[box.end() : close].strip())
        ):
            end = close
            found.append((text[box.end() : close], True))
        else:
            line = inside.partition("\n")[0]
            if text.endswith("$", 0, box.start()):  # the formula ends, and with it the box
                line = re.split(r"(?<!\\)\$", line, maxsplit=1)[0]
            another = _BOX.search(line)
            found.append((line[: another.start()] if another else line, False))
    return found[::-1]


def _matching_braces(text: str) -> dict[int, int]:
    """Position of the closing brace for each opening one that is closed; escaped braces do not count. Linear time."""
    open_at: list[int] = []
    closing: dict[int, int] = {}
    for token in re.finditer(r"\\[{}\\]|[{}]", text):
        if token.group() == "{":
            open_at.append(token.start())
        elif token.group() == "}" and open_at:
            closing[open_at.pop()] = token.start()
    return closing


# Answer blocks ------------------------------------------------------------------------------------------------------

_ADVERBS = r"(?:\s+(?:therefore|thus|simply|actually|indeed|(?:most\s+)?(?:probably|likely)))*"
_LABEL = re.compile(
    r"(?<!long )(?<!wrong )\banswers?\b[\"'*_)]*"
    r"(?:\s+(?:to|for)\s+(?:the|this|that|your)(?:\s+\w+){0,4}?(?:\s+[\"“][^\"”\n]{1,200}[\"”])?)?"
    r"(?:\s*[(\[][^)\]\n]{0,40}[)\]])?[*_]*"
    rf"\s*(?:[:：=→]|(?:is|was|are|were|(?:would|should|must|could|might|may)\s+be|(?:seems|appears)\s+to\s+be)\b{_ADVERBS}\s*[:：]?)"
    r"|^[ \t#>*_]*(?:final\s+)?answer[*_]*[ \t]+[-–—](?=[ \t])"  # Answer - Paris
    r"|^[ \t#>*_]*(?:(?:the|my|final|short|correct)[ \t]+)*answer[ \t*_]*$"  # a heading
    r"|^[ \t>*_]*a[*_]*[:：]|\bans\.?\s?[:：]"
    r"|(?:答案|答え|정답|الإجابة|الجواب|उत्तर)[*\s]{0,3}(?:是|为|は|[:：])"
    r"|\b(?:ответ|respuesta|réponse|antwort|risposta|resposta)\b[*\s]{0,3}(?:lautet|ist|es|est|è|é)?\s?[:：]",
    re.I | re.M,
)
# Words that a period may follow inside a name; "No" only before a number ("No. 5").
_ABBREVIATION = re.compile(
    r"(?:^|\W)(?:[^\W\d_]|st|mt|ft|dr|mr|mrs|ms|jr|sr|prof|capt|sgt|lt|col|gen|gov|sen|rev|hon|vs|vol|op|ca|approx|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.$",
    re.I,
)


_BOLD = re.compile(r"\s*(?:\*\*\s+)?\*\*(?!\s)([^*\n]+?)(?:\*\*(?=\s*$|[.,;:!(]|\s+[(–—-])|(?<=[.!?])\*\*)")


def _blocks(text: str) -> Iterator[str]:
    """What follows each answer label, to the end of its first sentence, or its list; the last label first."""
    for label in reversed(list(_LABEL.finditer(text))):
        sentence_so_far = re.split(r"[.!?\n]", text[max(0, label.start() - 200) : label.start()])[-1]
        refusal = _REFUSAL.search(sentence_so_far)
        if refusal and not _GUESS_FOLLOWS.search(sentence_so_far, refusal.end()):
            continue  # "I don't know what the answer is"
        line, _, below = text[label.end() : label.end() + LONGEST].partition("\n")
        if not trim(line) and re.match(r"[\s*_]*$", line):
            lines = [line for line in below.splitlines() if line.strip() and not _FENCE.match(line)]
            if listed := items(lines):
                yield "; ".join(trim(item) for item in listed)
                continue
            line = lines[0] if lines else ""
        if bold := _BOLD.match(line):
            yield bold[1]
            continue
        sentence = _first_sentence(line.strip(" \t*_"))
        yield re.split(r",?\s+because\s", sentence, maxsplit=1)[0]


_FENCE = re.compile(r"\s*(?:```|~~~)")
_KEY = re.compile(r"[\"'](?:\w{1,20}_)?answers?[\"']\s*:\s*", re.I)


def _json_values(text: str) -> Iterator[str]:
    """The value of each "answer" (or "final_answer") of JSON, or of a Python dict's text; the last one first."""
    for key in reversed(list(_KEY.finditer(text))):
        rest = text[key.end() : key.end() + LONGEST]
        try:
            value, _ = json.JSONDecoder().raw_decode(rest) if rest[:1] != "{" else ("", 0)
        except (ValueError, RecursionError):
            quoted = re.match(r"'([^'\n]*)'(?=\s*[,}])|\"?([^\n]*)", rest)
            value = (quoted[1] or quoted[2] or "") if quoted else ""
        if value is None:
            yield "unknown"  # null: an answer is refused, not forgotten
        elif isinstance(value, list):
            yield "; ".join(str(item) for item in value)
        else:
            yield str(value).lower() if isinstance(value, bool) else str(value)


def _cells(text: str) -> Iterator[str]:
    """The answer of a markdown table: beside the word in a row, else below it in the last row."""
    rows = [[cell.strip(" *_:") for cell in line.strip().strip("|").split("|")] for line in _TABLE_ROW.findall(text)]
    for row in rows:
        if len(row) == 2 and _ANSWER_CELL.fullmatch(row[0]) and not _ANSWER_CELL.fullmatch(row[1]):
            yield row[1]
    for row in rows[:1]:
        for column, name in enumerate(row):
            if len(rows) > 1 and _ANSWER_CELL.fullmatch(name) and column < len(rows[-1]):
                yield rows[-1][column]


_TABLE_ROW = re.compile(r"^[ \t]*\|.+\|[ \t]*$", re.M)
_ANSWER_CELL = re.compile(r"(?:final |correct )?answer", re.I)


def _first_sentence(line: str) -> str:
    line = re.split(r"[。！？]", line, maxsplit=1)[0]
    if re.match(r"1[.)]\s", line) and re.search(r"\s2[.)]\s", line):
        return line  # a list: the periods are of its numbers
    for stop in re.finditer(r"[.!?][\"”'’*)]*\s+(?=[\"“'(*]*[A-Z0-9])", line):
        before = line[: stop.start() + 1]
        numbered = re.search(r"\bno\.$", before, re.I) and line[stop.end()].isdigit()
        if not numbered and not _ABBREVIATION.search(before):
            return line[: stop.end()]
    return line


# Refusals and last words --------------------------------------------------------------------------------------------

_REFUSAL = re.compile(
    r"\b(?:i|we)(?:['’]m|\s+am|['’]re|\s+are|\s+really|\s+honestly)*\s+(?:(?:do\s+not|don['’]?t|cannot|can\s+not|can['’]t|"
    r"could\s+not|couldn['’]t|not\s+able\s+to|unable\s+to)(?:\s+(?:currently|actually|accurately|definitively|really))*\s+"
    r"(?:know|answer|provide|determine|find|recall|remember|say|confirm|verify|tell|assist|help|"
    r"have\s+(?:enough|any|access|that|sufficient|specific|information|real-time))|not\s+(?:sure|certain|aware|familiar)|"
    r"have\s+no\s+(?:idea|information|knowledge))\b"
    r"|\bas\s+an\s+ai\b|\bunable\s+to\s+(?:answer|determine|provide|find)\b|\bno\s+idea\b"
    r"|\b(?:cannot|can['’]t|could\s+not)\s+be\s+(?:determined|answered|found|known)\b"
    r"|\b(?:not\s+enough|insufficient|need\s+more|no(?:\s+\w+){0,2})\s+(?:information|data)\b|不知道|不清楚|无法(?:确定|回答)"
    r"|\b(?:impossible|not\s+possible)\s+to\s+(?:say|know|determine|answer)\b",
    re.I,
)
_GUESS_FOLLOWS = re.compile(
    r"\b(?:i\s+(?:think|believe|guess|would\s+(?:say|guess))|(?:best|my)\s+guess|had\s+to\s+guess|but\s+(?:it|he|she|they|the)"
    r"|(?:probably|likely|maybe|perhaps))\b",
    re.I,
)
_EMPTY_ANSWER = re.compile(
    r"(?:unknown|un(?:known|answerable|determined|clear)|not\s+(?:known|applicable|available|specified|provided|sure|given)"
    r"|n\s*/\s*a|idk|no\s+(?:answer|idea)(?:\s+found)?|(?:none|not)\s+found|information\s+(?:is\s+)?not\s+available)",
    re.I,
)


def _unless_refused(prediction: str, how: How) -> Extraction:
    refusal = _REFUSAL.search(prediction)
    if _EMPTY_ANSWER.fullmatch(prediction) or (refusal and not _GUESS_FOLLOWS.search(prediction, refusal.end())):
        return Extraction(None, "refused")
    return Extraction(prediction, how)


def _refuses(part: str) -> bool:
    """Whether the first or the last line refuses, with no guess after it ("I'm not sure, but I think it is Paris")."""
    lines = [line for line in part.splitlines() if line.strip()]
    refusals = [match for line in (lines[0], lines[-1]) for match in _REFUSAL.finditer(line)]
    if not refusals:
        return bool(_EMPTY_ANSWER.fullmatch(trim(lines[-1])))
    last = part.rfind(refusals[-1].group())
    return not _GUESS_FOLLOWS.search(part, last + len(refusals[-1].group()))


def _tail(part: str) -> str | None:
    """The last words of the last line that says anything."""
    for line in reversed(_SPECIAL.sub("\n", part).splitlines()):
        words = trim(line[-LONGEST:]) if line.strip() else ""
        if not _PLACEHOLDER.fullmatch(words):
            return trim(" ".join(words.split()[-TAIL_WORDS:]))
    return None


# A changed parser gives other predictions: the version is part of the keys of what is derived from them.
PARSER_VERSION = digest([inspect.getsource(sys.modules[__name__]), inspect.getsource(plain_text)])
