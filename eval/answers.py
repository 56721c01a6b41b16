r"""Find the answer that a model's text gives: its box, its answer block, its last words, or its refusal.

``\boxed{...}`` is what the prompts ask for; small models bend it in many ways (nested or missing braces, LaTeX
inside, restated questions, placeholders copied from the prompt, a run-on into a question of their own making). What
is looked for, in this order:

1. the answer part: the text after a closed thought, without a thought that never closed. A cut thought gives no
   answer, even where it holds a box: that box is a guess on the way;
2. in it, a complete box, then a box that was never closed, then an ``Answer:`` block or a sentence like "the
   answer is Paris";
3. a complete box inside a closed thought (the study takes a box anywhere);
4. a refusal; and, only where asked, the last words.

The answer goes on as plain text: LaTeX, markdown, quotes and closing punctuation are trimmed. ``eval.matching``
compares it.
"""

from __future__ import annotations

import inspect
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

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
    thought, answer = _split_thought(text)
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

_THOUGHT_CLOSE = re.compile(r"</think(?:ing)?>|<\|im_start\|>\s*answer\b|<answer>", re.I)
_THOUGHT_OPEN = re.compile(r"<think(?:ing)?>|<\|im_start\|>\s*think\b", re.I)
_RUN_ON = re.compile(r"(?im)^[ \t#*>]*(?:question|q|user|human|problem)[ \t]*\d*[*]*[:：]|<\|im_start\|>\s*user\b")
_SPECIAL = re.compile(r"<\|[\w ]{1,30}\|>(?:assistant\b)?|</s>|<s>|<eos>|<end_of_turn>")


def _split_thought(text: str) -> tuple[str, str]:
    """The closed thought ("" where there is none) and the answer part, of a text."""
    closes = list(_THOUGHT_CLOSE.finditer(text))
    thought, answer = (text[: closes[-1].start()], text[closes[-1].end() :]) if closes else ("", text)
    if reopened := _THOUGHT_OPEN.search(answer):
        answer = answer[: reopened.start()]
    if closes and closes[-1].group().lower() == "<answer>":
        content, closed, _ = answer.partition("</answer>")
        # A tag whose content is one line is an answer block by itself.
        if closed and len(content.strip().splitlines()) == 1 and not _LABEL.search(content):
            answer = content if "boxed" in content else f"Answer: {content.strip()}"
    return thought, answer


def _explicit(part: str) -> Extraction | None:
    """The answer that is marked as one, by a box or a label."""
    plain = _SPECIAL.sub("\n", part)
    boxes = _boxes(plain)
    if box := _first_answer(inside for inside, complete in boxes if complete):
        return _unless_refused(box, "boxed")
    if box := _first_answer(inside for inside, complete in boxes if not complete):
        return _unless_refused(box, "boxed_open")
    if block := _first_answer(_blocks(plain)):
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
    r"(?:(?<!\\)\\+|\b)(?:boxed|fbox)\s*\{"
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

_LABEL = re.compile(
    r"\banswers?\b[\"'*_)]*(?:\s+(?:to|for)\s+(?:the|this|that|your)(?:\s+\w+){0,4}?)?(?:\s*\([^)\n]{0,40}\))?[*_]*"
    r"\s*(?:[:：]|(?:is|was|would\s+be)\b(?:\s+(?:therefore|thus|simply|actually|indeed|probably|likely))*\s*[:：]?)",
    re.I,
)
# Words that a period may follow inside a name; "No" only before a number ("No. 5").
_ABBREVIATION = re.compile(
    r"(?:^|\W)(?:[^\W\d_]|st|mt|ft|dr|mr|mrs|ms|jr|sr|prof|capt|sgt|lt|col|gen|gov|sen|rev|hon|vs|vol|op|ca|approx|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.$",
    re.I,
)


def _blocks(text: str) -> Iterator[str]:
    """What follows each answer label, to the end of its first sentence; the last label first."""
    for label in reversed(list(_LABEL.finditer(text))):
        sentence_so_far = re.split(r"[.!?\n]", text[max(0, label.start() - 200) : label.start()])[-1]
        if _REFUSAL.search(sentence_so_far):
            continue  # "I don't know what the answer is"
        same_line, _, below = text[label.end() : label.end() + LONGEST].partition("\n")
        if not trim(same_line) and re.match(r"[\s*_]*$", same_line):
            same_line = below.lstrip().partition("\n")[0]
        sentence = _first_sentence(same_line.strip(" \t*_"))
        yield re.split(r",?\s+because\s", sentence, maxsplit=1)[0]


def _first_sentence(line: str) -> str:
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
    r"|\b(?:not\s+enough|insufficient|no)\s+(?:information|data)\b|\bimpossible\s+to\s+(?:say|know|determine|answer)\b",
    re.I,
)
_GUESS_FOLLOWS = re.compile(
    r"\b(?:i\s+(?:think|believe|guess|would\s+(?:say|guess))|(?:best|my)\s+guess|had\s+to\s+guess|but\s+(?:it|he|she|they|the)"
    r"|(?:probably|likely|maybe|perhaps))\b",
    re.I,
)
_EMPTY_ANSWER = re.compile(
    r"(?:unknown|un(?:known|answerable|determined|clear)|not\s+(?:known|applicable|available|specified|provided|sure|given)"
    r"|n\s*/\s*a|idk|no\s+(?:answer|idea)|undetermined)",
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


# Plain text out of LaTeX and markdown -------------------------------------------------------------------------------

# LaTeX command and the character it stands for, in turn.
_COMMANDS = (
    "times × cdot · approx ≈ sim ~ pm ± degree ° circ ° pi π ldots … dots … pounds £ euro € textdollar $ percent %"
)
_COMMANDS += " o ø O Ø l ł L Ł ae æ AE Æ ss ß aa å"
_SYMBOLS = {"quad": " ", "qquad": " ", "newline": " "}
_SYMBOLS |= dict(zip(_COMMANDS.split()[::2], _COMMANDS.split()[1::2], strict=True))
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "c": "\u0327", "v": "\u030c"}
_WRAPS = (("(", ")"), ("[", "]"), ('"', '"'), ("“", "”"), ("„", "“"), ("‘", "’"), ("'", "'"), ("«", "»"), ("<", ">"))


def trim(text: str) -> str:
    """``text`` as a person would write the bare answer: no LaTeX, markdown, wrapping quotes or closing punctuation."""
    text = " ".join(_from_markdown(_from_latex(text)).split())
    before = None
    while text != before:
        before = text
        text = re.sub(r"^(?:[:=]\s*|[-*•>#–]+\s+)+", "", text).strip().strip("*")
        if re.fullmatch(r"_.*_", text):
            text = text.strip("_")
        if not re.search(r"(?:^|[\s.])[^\W\d_]\.$", text):  # "U.S.", "Sammy Davis Jr. A."
            text = text.rstrip(" .,;:")
        for left, right in _WRAPS:
            if text.startswith(left) and text.endswith(right) and not set(left + right) & set(text[1:-1]):
                text = text[1:-1].strip()
    return text


def _from_latex(text: str) -> str:
    text = re.sub(r"(?<!\\)\\+(?=[A-Za-z])", r"\\", text)  # one backslash, where a model doubled it as in JSON
    text = text.replace("``", "“").replace("''", "”")
    # Pandoc's rule for the closing dollar sign: no space before it and no digit after it, so that "$5 to $6" stays.
    text = re.sub(r"(?<!\\)\$([^$\n]*[^$\s\\])\$(?!\d)", r"\1", text.replace("$$", "$"))
    text = re.sub(r"\\[()\[\]!]", "", text)
    text = re.sub(r"\\[,;:> ]|(?<=\w)~(?=\w)|\\\\", " ", text)
    text = re.sub(r"(?<=\d)(?=\\[dt]?frac)", " ", text)
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\^\s*\{?\s*\\circ", "°", text)
    text = re.sub(r"\\(?:(['`^\"~])\{?|([cv])\{)([A-Za-z])", _accented, text)
    text = re.sub(r"\\([A-Za-z]+)\*?", lambda command: _SYMBOLS.get(command[1], ""), text)
    text = re.sub(r"\\(?=[%$&#_])|[{}]", "", text)
    text = re.sub(r"°\s+(?=[CF]\b)", "°", text)
    text = re.sub(r"(?<=[^\d\s])\$$", "", text.strip())  # the end of a formula whose start was cut off
    return unicodedata.normalize("NFC", text.replace("\\", ""))


def _accented(command: re.Match[str]) -> str:
    return command[3] + _ACCENTS[command[1] or command[2]]


def _from_markdown(text: str) -> str:
    text = re.sub(r"\[([^\]\n]*)\]\(https?:[^)\s]*\)", r"\1", text)  # a link
    text = re.sub(
        r"</?(?:b|i|u|em|strong|p|br|span|sup|sub|answer|code|final_answer)\b[^>\n]{0,40}>", " ", text, flags=re.I
    )
    return re.sub(r"\*\*|__|`|(?<=\S)\s*\[\d{1,3}\](?=\W*$)", "", text)


# A changed parser gives other predictions: the version is part of the keys of what is derived from them.
PARSER_VERSION = digest(inspect.getsource(sys.modules[__name__]))
