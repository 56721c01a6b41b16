r"""Plain text out of what models write around an answer: LaTeX, markdown, HTML, lists, quotes, closing punctuation.

``\boxed{\text{Paris} \\ \text{London}}`` holds ``Paris; London``, ``20^{\text{th}}`` is ``20th``. This is no LaTeX
engine: a command that is not known here is dropped and what it was given is kept. :mod:`eval.answers` finds the answer that
is written so; its parser's version covers this module too.
"""

from __future__ import annotations

import html
import re
import unicodedata

# LaTeX command and the character it stands for, in turn.
_COMMANDS = (
    "times × cdot · approx ≈ sim ~ pm ± degree ° circ ° ldots … dots … pounds £ euro € textdollar $ percent % sqrt √ "
    "infty ∞ alpha α beta β gamma γ delta δ epsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ mu μ nu ν xi ξ pi π "
    "rho ρ sigma σ tau τ upsilon υ phi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Phi Φ "
    "Psi Ψ Omega Ω"
)
_SYMBOLS = {"quad": " ", "qquad": " ", "newline": "\x1e"}
_SYMBOLS |= dict(zip(_COMMANDS.split()[::2], _COMMANDS.split()[1::2], strict=True))
_NATIONAL = "o ø O Ø l ł L Ł ae æ AE Æ oe œ OE Œ ss ß aa å AA Å dh ð DH Ð th þ TH Þ i i"
_LETTERS = dict(zip(_NATIONAL.split()[::2], _NATIONAL.split()[1::2], strict=True))
_LETTER = re.compile(rf"\\({'|'.join(_LETTERS)})(?![A-Za-z])(?:\{{\}}|\s+(?=[a-z]))?")
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "c": "\u0327", "v": "\u030c"}
_ACCENTS |= {"=": "\u0304", ".": "\u0307", "u": "\u0306", "H": "\u030b", "k": "\u0328", "r": "\u030a"}
_WRAPS = [
    (pair[0], pair[1])
    for pair in ["()", "[]", '""', "“”", "„“", "‘’", "''", "«»", "<>", "「」", "『』", "《》", "【】"]
]
_ROW = "\x1e"  # a line that LaTeX ends: the next one is another item
_ITEM = re.compile(r"\s*(?:[-*•–]|\(?\d{1,2}[.)])\s+(?=\S)")
_QUOTED_LIST = re.compile(r"\[?\s*(?:\"[^\"]+\"|“[^“”]+”)(?:\s*[,;]\s*(?:\"[^\"]+\"|“[^“”]+”))+\s*\]?")


def trim(text: str) -> str:
    """``text`` as a person would write the bare answer: no LaTeX, markdown, wrapping quotes or closing punctuation.

    Lines that are items (bullets, numbers, LaTeX's rows, or each beginning with a capital) are joined by semicolons, all
    others by spaces.
    """
    text = " ".join(_one_line(_from_markdown(_from_latex(text))).split())
    before = None
    while text != before:
        before = text
        text = re.sub(r"^(?:[:=]\s*|[-*•>#–]+\s+)+", "", text).strip().strip("*")
        if re.fullmatch(r"_.*_", text):
            text = text.strip("_")
        if not re.search(r"(?:^|[\s.])[^\W\d_]\.$", text):  # "U.S.", "Sammy Davis Jr. A."
            text = text.rstrip(" .,;:。，；：、।")
        if text.startswith('"') and text.count('"') == 1:
            text = text[1:]  # the end was cut
        if _QUOTED_LIST.fullmatch(text):
            text = re.sub(r"[\"“”\[\]]", "", text)
        for left, right in _WRAPS:
            if text.startswith(left) and text.endswith(right) and not set(left + right) & set(text[1:-1]):
                text = text[1:-1].strip()
    return text


def items(lines: list[str]) -> list[str]:
    """The text of each item of the list that ``lines`` begin with; none where the first line is no item."""
    found = []
    for line in lines:
        mark = _ITEM.match(line)
        if mark is None:
            break
        found.append(line[mark.end() :].strip())
    return found


def _one_line(text: str) -> str:
    """The lines of ``text`` in one: those that are items with "; " between them, parts of a sentence with a space."""
    rows = [" ".join(_joined([line for line in row.splitlines() if line.strip()])) for row in text.split(_ROW)]
    return "; ".join(row.strip() for row in rows if row.strip())


def _joined(lines: list[str]) -> list[str]:
    listed = items(lines)
    if len(listed) > 1 and len(listed) == len(lines):
        return ["; ".join(item.rstrip(" ,;") for item in listed)]
    joined = lines[:1]
    for line in lines[1:]:
        first = line.lstrip()[0]
        # A capital after no punctuation begins another name; a small letter, a digit or a bracket goes on.
        if first.isalpha() and not first.islower() and joined[-1].rstrip()[-1] not in ",;:&-–":
            joined[-1] = joined[-1].rstrip() + ";"
        joined.append(line)
    return joined


# LaTeX ----------------------------------------------------------------------------------------------------------------

_LARGE = r"(?:Large|LARGE|Huge|AA|AE|OE|DH|TH|[GDTLXPSO][a-z]{1,5}(?=[\s{}]))"
_SUBSCRIPT = re.compile(r"(?:(?<=[A-Z])|(?<=[A-Z][a-z])|(?<=[})]))_(\d{1,3})|(?<=[\w})])_\{(\d{1,3})\}")
_ORDINAL = re.compile(r"\^\s*\{?\s*(?:\\[a-z]+\s*\{?\s*)?(st|nd|rd|th)\b")


def _from_latex(text: str) -> str:
    text = _rows(text)
    text = re.sub(r"(?<!\\)\\+(?=[A-Za-z])", r"\\", text)  # one backslash, where a model doubled it as in JSON
    text = re.sub(r"\\(?:textcolor|color|colorbox|href)\s*\{[^{}]*\}", "", text)
    text = text.replace("``", "“").replace("''", "”")
    # Pandoc's rule for the closing dollar sign: no space before it and no digit after it, so that "$5 to $6" stays.
    text = re.sub(r"(?<!\\)\$([^$\n]*[^$\s\\])\$(?!\d)", r"\1", text.replace("$$", "$"))
    text = re.sub(r"\\[()\[\]!]", "", text)
    text = re.sub(r"\\[,;:> ]|(?<=\w)~(?=\w)|\\\\", " ", text)
    text = re.sub(r"(?<=\d)(?=\\[dt]?frac)", " ", text)
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\^\s*\{?\s*\\circ", "°", text)
    text = _ORDINAL.sub(r"\1", text)
    text = _LETTER.sub(lambda command: _LETTERS[command[1]], text)
    text = re.sub(r"\\(?:(['`^\"~=.])\{?|([cvuHkr])\{)([A-Za-z])", _accented, text)
    text = re.sub(r"\\([A-Za-z]+)\*?", lambda command: _SYMBOLS.get(command[1], ""), text)
    text = re.sub(r"\\(?=[%$&#_])", "", text)
    text = _SUBSCRIPT.sub(lambda found: found[1] or found[2], text)
    text = re.sub(r"[{}]", "", text)
    text = re.sub(r"°\s+(?=[CF]\b)", "°", text)
    text = re.sub(r"(?<=\w)--(?=\w)", "–", text)
    text = re.sub(r"(?<=[^\d\s])\$$", "", text.strip())  # the end of a formula whose start was cut off
    return unicodedata.normalize("NFC", text.replace("\\", ""))


def _rows(text: str) -> str:
    r"""LaTeX's line ends as ``_ROW``; tables and aligned lines without what holds them together."""
    if "\\\\" in text:
        # Two backslashes before a small letter are one that was doubled, before a capital a line end and a name.
        text = re.sub(
            rf"(?<!\\)\\\\(?=\\(?!\\)|(?!{_LARGE})[A-Z][a-z]|[^A-Za-z\\]|$)(?:\[[^\]\n]{{0,10}}\])?", _ROW, text
        )
    if "\\begin" in text:
        text = re.sub(r"\\+begin\s*\{(?:array|tabular)\*?\}\s*(?:\{[^{}]*\})?|\\+(?:begin|end)\s*\{[^{}]*\}", " ", text)
        text = re.sub(r"(?<!\\)&(?!\w{2,6};)", " ", text)
    return text


def _accented(command: re.Match[str]) -> str:
    return command[3] + _ACCENTS[command[1] or command[2]]


# Markdown and HTML ----------------------------------------------------------------------------------------------------

_TAGS = re.compile(r"</?(?:b|i|u|em|strong|p|br|span|sup|sub|mark|answer|code|final_answer)\b[^>\n]{0,40}>", re.I)


def _from_markdown(text: str) -> str:
    text = re.sub(r"\[([^\]\n]*)\]\(https?:[^)\s]*\)", r"\1", text)  # a link
    text = _TAGS.sub(" ", text)
    if "&" in text:
        text = re.sub(r"&(?:amp;)+", "&", text)
        text = re.sub(r"&(?:quot|apos|nbsp|lt|gt|#\d{1,6}|#x[0-9a-f]{1,5});", lambda name: html.unescape(name[0]), text)
    return re.sub(r"\*\*|__|`|(?<=\S)\s*\[\^?\d{1,3}\](?=\W*$)", "", text)
