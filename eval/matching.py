"""Decide by rule whether a prediction is one of the gold answers, without a model.

Rules, tried in this order, first one that holds:

``exact``, ``alias``
    equal to a gold text, or to an alias, after ``normalise`` (SQuAD's normalisation, arXiv 1606.05250, made safe for
    numbers, initials and accents).
``number``, ``date``, ``boolean``
    equal in value, for questions of that answer type; for ``text`` questions numbers and dates are tried, since a free
    text benchmark does not say what its answers are. Entities are names: "Apollo 11" is no number.
``list``
    a list whose every item is, by a rule above, another one of the question's gold answers ("Paris, London and Rome").
``none``
    no rule held: wrong as far as rules can tell.

The whole prediction has to be the answer. A sentence that contains the gold answer does not match, nor does a list with
one item too many: which part counts is for the judge to say. Spelling distance never decides ("Paris" is not "Pairs",
"George W. Bush" is not "George H. W. Bush").

Gold answers are alternatives: one is enough, so a list need not be complete, but it may hold nothing else. Hence a list
takes at least two gold answers to match, and what "Paris, London" is worth where only Paris is gold is not decided here.
Items are parted by commas, semicolons, line ends, bullets, "and", "&", or the numbers of a list that counts 1, 2, 3. "Or"
parts nothing: it is a guess. A gold text is never parted, and neighbouring parts are joined again where a gold answer holds
a comma or an "and": "Simon and Garfunkel, Washington, D.C." is a list of two and "Simon" is no item of it. A comma inside
a number or between a day and its year parts nothing, and what is one number or one date as a whole is no list.
"""

from __future__ import annotations

import inspect
import operator
import re
import sys
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from store.types import AnswerType, Question, Verdict, digest

RELATIVE_TOLERANCE = Fraction(1, 1000)
LONGEST_LIST = 200  # parts; a model that loops does not give an answer
LARGE = 1_000_000  # whole numbers from here on are measured, not counted: the relative tolerance holds for them too

# Texts ----------------------------------------------------------------------------------------------------------------

_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "&": " and "}
)
_LETTERS |= str.maketrans({"%": " percent ", "−": "-", "⁄": "/"})


@lru_cache(maxsize=1 << 18)
def normalise(text: str) -> str:
    """``text`` in the form in which answers are compared.

    As SQuAD: lower case, no articles, no punctuation, single spaces. Beyond it: NFKC, accents and special letters
    folded (Latin, Greek, Cyrillic; other scripts keep their marks). Different from it, where deleting punctuation
    would make different answers equal: a decimal point and a leading minus sign stay ("1.5" is not "15"), hyphens
    become spaces, initials are joined ("J. R. R." = "JRR"), a letter "A." or a last "A" is no article ("Vitamin A"),
    currency signs and the plus and sharp of "C++" and "C#" stay. A text of nothing but punctuation and articles is
    kept as it is.
    """
    folded = _fold(text).translate(_LETTERS)
    bare = re.sub(r"(?<![^\s\"'(“‘])a(?=\s+\w)", " ", folded)  # the article, not an initial
    bare = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", bare)
    bare = re.sub(r"(?<=[^\W\d])['’‘ʼʻ`]|(?<=[^\W\d])\.(?=[^\W\d])", "", bare)
    kept = re.sub(
        r"(?:(?<=\d)|(?<![\w.]))\.(?=\d)|(?<![\w)])-(?=\d)|(?<=\w)[+#]+|[^\W_]",
        lambda found: "\0" * len(found.group()),
        bare,
    )
    spaced = "".join(_keep(char, mark == "\0") for char, mark in zip(bare, kept, strict=True))
    tokens = spaced.split()
    # A name of articles alone ("The The") keeps them.
    named = " ".join(token for token in tokens if token not in ("the", "an")) or " ".join(tokens)
    return re.sub(r"\b(?:[a-z] )+[a-z]\b", lambda found: found.group().replace(" ", ""), named) or folded.strip()


def _keep(char: str, wanted: bool) -> str:
    category = unicodedata.category(char)
    if wanted or category[0] == "M":  # the vowel signs of Indic scripts are marks and no word characters
        return char
    return f" {char} " if category == "Sc" else " "


def _fold(text: str) -> str:
    """NFKC, lower case, accents off; before it, what NFKC would turn into other numbers (2½ to 21⁄2, 10⁸ to 108)."""
    text = re.sub(r"(?<=\d)(?=[¼½¾⅐-⅞])", " ", text)
    text = re.sub(r"(?<=\d)(?=[⁰¹²³⁴-⁹])", "^", text)
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", decomposed))


# Numbers --------------------------------------------------------------------------------------------------------------

_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_SMALL += " seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: value for value, word in enumerate(_SMALL.split())}
_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_SCALES = {"hundred": 100, "dozen": 12, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALES |= {"mn": 10**6, "bn": 10**9}
_CURRENCY_SCALES = {"k": 1000, "m": 10**6, "b": 10**9}
# One unit a group, its canonical form first; words of one form are joined by "_".
_UNIT_FORMS = """
m meter meters metre metres | km kms kilometer kilometers kilometre kilometres | mi mile miles | yd yard yards
| cm centimeter centimeters centimetre centimetres | mm millimeter millimeters millimetre millimetres | ft foot feet
| in inch inches | km2 km^2 sq_km square_kilometers square_kilometres | m2 m^2 sq_m square_meters square_metres
| mi2 mi^2 sq_mi square_miles | acre acres | ha hectare hectares | kg kgs kilogram kilograms kilogramme kilogrammes
| g gram grams | lb lbs | t ton tons tonne tonnes | s sec second seconds | min minute minutes | h hr hrs hour hours
| day days | week weeks | month months | year years yr yrs | km/h kph kmh | mph | % percent per_cent
| °c c degrees_celsius | °f f degrees_fahrenheit | $ usd dollar dollars us_dollars | € eur euro euros
| £ gbp pounds_sterling | ¥ yen jpy
"""
_UNITS = {form.replace("_", " "): group.split()[0] for group in _UNIT_FORMS.split("|") for form in group.split()}
# A word that turns a number into a range, a list or a sentence.
_JOINING = "or and to not but is was are were between than plus minus if because"
_NO_UNIT = set(_JOINING.split())
_ABOUT = re.compile(r"(?:about|approximately|approx\.?|around|roughly|circa|ca?\.|~|≈|exactly|a total of)\s*")
_DIGITS = re.compile(
    r"(?P<grouped>\d{1,3}(?:(?:,\d{3})+|(?:,\d{2})+,\d{3}|(?: \d{3})+|(?:['’]\d{3})+|(?:_\d{3})+|"
    r"(?:\.\d{3}){2,})(?:\.\d+)?)"
    r"(?![\d.,]*\d)|(?P<mixed>(?:(?P<whole>\d{1,9}) )?(?P<over>\d{1,9}) ?/ ?(?P<under>\d{1,9}))(?![\d./])"
    r"|(?P<comma>\d{1,9},\d{1,2}(?!\d))|(?P<plain>\d{0,60}\.\d{1,60}|\d{1,60})(?!\d)"
)
_EXPONENT = re.compile(r" ?[x×·*] ?10 ?\^ ?\(?(-?\d{1,2})\)?|e([+-]?\d{1,2})(?!\w)")


class Number(NamedTuple):
    """A number and its unit, where one is given that is known."""

    value: Fraction
    unit: str | None


@lru_cache(maxsize=1 << 18)
def parse_number(text: str) -> Number | None:
    """The number that the whole of ``text`` is, or None.

    Digits with separators (8,849; 1 000 000; 1'000; a single comma before one or two digits is a decimal comma),
    fractions, powers of ten, number words up to trillions, a scale after digits (2.5 million), ordinals in digits, an
    "about" before and up to four words of unit after. Ranges, lists, "more than 5" and sentences are no numbers.
    Units are not converted.
    """
    body = re.sub(
        r"(?<=.)\([^()]*\)$", "", " ".join(_fold(text).translate({0x2212: "-", 0x2044: "/"}).split()).rstrip(" .;:")
    )
    body = _ABOUT.sub("", body.strip(), count=1) if _ABOUT.match(body) else body.strip()
    sign, currency, body = _leading_signs(body)
    found = _from_digits(body, currency) or _from_words(body)
    if found is None:
        return None
    value, rest = found
    unit = _unit(rest)
    return None if unit is None else Number(sign * value, (currency or unit) or None)


def _leading_signs(body: str) -> tuple[int, str, str]:
    signs = re.match(r"(-|\+)? ?(?:us|u\.s\.|a|c|hk)?([$€£¥])? ?(-)?(?=[\d.a-z])", body)
    if signs is None or not (signs[2] or signs[1]):
        return 1, "", body
    # "us", "a" and "c" belong to a currency sign only.
    end = signs.end() if signs[2] else signs.end(1)
    return -1 if "-" in (signs[1], signs[3]) else 1, signs[2] or "", body[end:].strip()


def _from_digits(body: str, currency: str) -> tuple[Fraction, str] | None:
    """Value of the digits at the start, with their exponent and scale, and the rest of the text."""
    found = _DIGITS.match(body)
    if found is None:
        return None
    rest = body[found.end() :]
    if found["mixed"]:
        if int(found["under"]) == 0:
            return None
        value = int(found["whole"] or 0) + Fraction(int(found["over"]), int(found["under"]))
    elif found["grouped"]:
        whole = (
            re.sub(r"\.(?=\d{3}\.)|\.(?=\d{3}$)", "", found["grouped"])
            if found["grouped"].count(".") > 1
            else found["grouped"]
        )
        value = Fraction(re.sub(r"[^\d.]", "", whole))
    else:
        value = Fraction((found["plain"] or found["comma"]).replace(",", "."))
    if power := (re.match(r"\^(-?\d{1,2})", rest) if value == 10 else _EXPONENT.match(rest)):
        exponent = power[1] or power[2]
        value = (Fraction(1) if rest.startswith("^") else value) * Fraction(10) ** int(exponent)
        rest = rest[power.end() :]
    rest = re.sub(r"^(?:st|nd|rd|th)\b", "", rest).strip()
    scales = {**_SCALES, **_CURRENCY_SCALES} if currency else _SCALES
    word, _, after = rest.partition(" ")
    return (value * scales[word], after) if word in scales else (value, rest)


def _from_words(body: str) -> tuple[Fraction, str] | None:
    """Value of the number words at the start ("one hundred and twenty-three"), and the rest of the text."""
    words = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", body).split()
    if len(words) > 1 and words[0] in ("a", "an") and words[1] in _SCALES:
        words[0] = "one"
    total = current = used = 0
    for index, word in enumerate(words):
        following = words[index + 1] if index + 1 < len(words) else ""
        if word in _WORDS:
            value = _WORDS[word]
            # "twenty three" adds up; "nineteen ninety" and "one two" are no single number.
            room = 100 if value >= 10 else 10
            if (used and value == 0) or current % room or (value < 10 and 10 <= current % 100 < 20):
                return None
            current += value
        elif word in ("hundred", "dozen") and used:
            current *= _SCALES[word]
        elif word in _SCALES and used and current:
            total, current = total + current * _SCALES[word], 0
        elif word == "and" and used and following in _WORDS:
            pass
        else:
            break
        used = index + 1
    return (Fraction(total + current), " ".join(words[used:])) if used else None


def _unit(rest: str) -> str | None:
    """Canonical unit of what follows a number, "" for none or an unknown one, None where the rest is no unit at all."""
    rest = rest.strip(" .-")
    words = rest.split()
    if (
        len(words) > 4
        or _NO_UNIT & set(words)
        or not re.fullmatch(r"(?:[^\W\d]|[\s%°$€£¥./^'-]|(?<=m)\^?[23]|(?<=mi)\^?2)*", rest)
    ):
        return None
    for length in (2, 1):
        if unit := _UNITS.get(" ".join(words[:length]).rstrip(".")):
            return unit
    return ""


def _same_number(given: Number, gold: Number) -> bool:
    """Whether a number is the gold one.

    A whole gold number below a million is a count: it has to be met exactly. Decimal and larger ones may differ by 1
    in 1,000 of the gold value. Unit words are ignored unless both have a known one and these differ.
    """
    if given.unit and gold.unit and given.unit != gold.unit:
        return False
    if gold.value.denominator == 1 and abs(gold.value) < LARGE:
        return given.value == gold.value
    return abs(given.value - gold.value) <= RELATIVE_TOLERANCE * abs(gold.value)


# Dates ----------------------------------------------------------------------------------------------------------------

_SHORT_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"
_MONTHS = {name: number for number, name in enumerate(_SHORT_MONTHS.split(), start=1)}
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY, _YEAR = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?P<year>\d{1,4})"
_DATE_FORMS = [
    re.compile(form)
    for form in (
        r"(?P<year>[+-]?\d{4,5})-(?P<number>\d{2})(?:-(?P<day>\d{2}))?",
        r"(?P<year>\d{4})/(?P<number>\d{1,2})/(?P<day>\d{1,2})",
        r"(?P<year>[+-]?\d{3,5})",
        rf"(?P<year>\d{{4}}),? {_MONTH} {_DAY}",
        rf"{_DAY}(?: of)?[ ,/-]*{_MONTH}(?:(?: of)?[ ,/-]+{_YEAR})?",
        rf"{_MONTH} {_DAY}(?!\d)(?:(?:,| of)? {_YEAR}|, ?{_YEAR})?".replace("(?P<year>", "(?P<year2>", 1),
        rf"{_MONTH}(?:,| of)? (?P<year>\d{{3,4}})",
        r"(?P<day>\d{1,2})\.(?P<number>\d{1,2})\.(?P<year>\d{4})",
    )
]
_EITHER_WAY = re.compile(r"(\d{1,2})([/-])(\d{1,2})\2(\d{4})")
_BEFORE_DATE = re.compile(
    r"(?:on|in|the|year|circa|ca?\.|about|around|approximately|~|(?:mon|tues|wednes|thurs|fri|satur|sun)day,?)\s*(?=[\s\da-z+-])"
)
_ERA = re.compile(r"\s*\b(bce?|b\.\s?c\.?(?:\s?e\.?)?|ce|ad|a\.\s?d\.?|c\.\s?e\.?)$|^(ad|a\.\s?d\.)\s*(?=\d)")


class Date(NamedTuple):
    """A date at its precision: what is not said is None. Years before the common era are negative: 44 BCE is -44."""

    year: int | None
    month: int | None = None
    day: int | None = None


@lru_cache(maxsize=1 << 18)
def parse_date(text: str) -> Date | None:
    """The date that the whole of ``text`` is, or None.

    ISO (a time of day is dropped; -0044 is read as 44 BCE, as Wikidata prints it; month or day 00 means not known),
    "14 March 1879", "March 14, 1879", "March 1879", "March 14", years of three or more digits, any year with an era.
    3/14/1879 is read where only one order is possible; 3/4/1879 could be two days and is no date.
    """
    body = " ".join(_fold(text).replace("−", "-").replace("–", "-").split()).rstrip(" .;:")
    body = re.sub(r"(?<=\d)t\d{2}:.*$|(?<=.)\s*\([^()]*\)$", "", body)
    while before := _BEFORE_DATE.match(body):
        body = body[before.end() :]
    era = _ERA.search(body)
    body = _ERA.sub("", body).strip(" ,")
    if either := _EITHER_WAY.fullmatch(body):
        return _unambiguous(*(int(either[group]) for group in (1, 3, 4)))
    if era and (years := re.fullmatch(rf"(?:{_MONTH},? )?(?P<year>\d{{1,4}})", body)):
        month = _MONTHS[years["month"][:3]] if years["month"] else None
        return _valid(-int(years["year"]) if "b" in era.group() else int(years["year"]), month, None)
    for form in _DATE_FORMS:
        if (found := form.fullmatch(body)) and (date := _date(found.groupdict(), era)):
            return date
    return None


def _date(parts: dict[str, str | None], era: re.Match[str] | None) -> Date | None:
    written = parts.get("year") or parts.get("year2")
    year = int(written) if written else None
    if year is not None and len(str(written)) < 3 and not era:
        return None  # "14 March 79" does not say its century
    if year is not None and era and "b" in era.group():
        year = -year
    month = _MONTHS[name[:3]] if (name := parts.get("month")) else int(parts.get("number") or 0) or None
    return _valid(year, month, int(parts.get("day") or 0) or None)


def _unambiguous(first: int, second: int, year: int) -> Date | None:
    readings = {_valid(year, second, first), _valid(year, first, second)} - {None}
    return readings.pop() if len(readings) == 1 else None


def _valid(year: int | None, month: int | None, day: int | None) -> Date | None:
    """The date, if its month has that day in some year (29 February in any: the Julian calendar had more of them)."""
    days = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if year == 0 or (month and month > 12) or (day and (not month or day > days[month - 1])):
        return None
    return Date(year, month, day)


def _same_date(given: Date, gold: Date) -> bool:
    """Whether a date says all that the gold one says. It may say more (a day in the gold year), not less."""
    return all(wanted is None or wanted == said for said, wanted in zip(given, gold, strict=True))


# Booleans -------------------------------------------------------------------------------------------------------------

_BOOLEAN = re.compile(
    r"(yes|no|true|false)"
    r"(?=$|[.,;:!—–]+(?:$|\s*[^\d\s])| -|\s+(?:it|he|she|they|that|this|there|the|both|because|you|we|i)\b)"
)


def parse_boolean(text: str) -> bool | None:
    """Yes (true) or no (false), alone or leading a clause; None for all else ("No idea", "yes or no")."""
    found = _BOOLEAN.match(_fold(text).replace("*", "").strip(" \"'“”"))
    return None if found is None else found[1] in ("yes", "true")


# Lists ----------------------------------------------------------------------------------------------------------------

_PARTING = re.compile(
    r"(?:[;\n•·、，；]|(?<!\d),|,(?!\d))\s*(?:(?:[-*•–]|and\b|&)\s+)?|\s(?:and|&)\s",
    re.I,
)
_DAY_BEFORE = re.compile(
    rf"(?:\b{_MONTH} {_DAY}|\b{_DAY}(?: of)? {_MONTH})$".replace("?P<day>", "").replace("?P<month>", ""), re.I
)
_YEAR_AFTER = re.compile(r", \d{3,4}\b")
_COUNTED = re.compile(r"(?:^|(?<=[\s;,]))\(?(\d{1,2})[.):]\s+(?=\D)")
_LIST_START = re.compile(r"(?:both|[-*•])\s+", re.I)


def list_parts(text: str) -> list[tuple[int, int]]:
    """Start and end of each part of a list, in order; one part where ``text`` is no list.

    A part is the smallest piece between separators: neighbours may belong together ("Washington, D.C.").
    """
    cuts = [sign.span() for sign in _PARTING.finditer(text) if not _inside_date(text, sign.start())]
    if text.startswith(("1", "(1")):
        counts = list(_COUNTED.finditer(text))
        if len(counts) > 1 and [int(m[1]) for m in counts] == list(range(1, len(counts) + 1)):
            cuts = sorted([*cuts, *(m.span() for m in counts)])
    elif opening := _LIST_START.match(text):
        cuts.insert(0, opening.span())
    parts, start = [], 0
    for left, right in [*cuts, (len(text), len(text))]:
        if text[start:left].strip(" .,;\n"):
            parts.append((start, left))
        start = max(start, right)
    return parts


def _inside_date(text: str, comma: int) -> bool:
    """Whether the comma at this place stands between a day and its year."""
    return bool(_YEAR_AFTER.match(text, comma) and _DAY_BEFORE.search(text[max(0, comma - 20) : comma]))


def _covered(text: str, parts: list[tuple[int, int]], widest: int, gold: Callable[[str], set[int]]) -> list[set[int]]:
    """The gold answers of each item, if ``parts`` can be joined to items that all have one, wide items first; else []."""
    dead: set[int] = set()  # parts from which on nothing fits

    def fit(first: int) -> list[set[int]] | None:
        if first == len(parts):
            return []
        for last in range(min(first + widest, len(parts)) - 1, first - 1, -1):
            if (
                last + 1 not in dead
                and (found := gold(text[parts[first][0] : parts[last][1]]))
                and (rest := fit(last + 1)) is not None
            ):
                return [found, *rest]
        dead.add(first)
        return None

    return fit(0) or []


def _all_different(choices: list[set[int]]) -> bool:
    """Whether each item can have a gold answer to itself: a matching of the bipartite graph by augmenting paths."""
    taken: dict[int, int] = {}

    def place(item: int, tried: set[int]) -> bool:
        for answer in choices[item] - tried:
            tried.add(answer)
            if answer not in taken or place(taken[answer], tried):
                taken[answer] = item
                return True
        return False

    return all(place(item, set()) for item in range(len(choices)))


# Verdicts -------------------------------------------------------------------------------------------------------------


class Matcher:
    """The gold answers of one question, read once, to hold many predictions against."""

    def __init__(self, question: Question) -> None:
        self._texts = {normalise(answer.text) for answer in question.answers}
        self._aliases = {normalise(alias) for answer in question.answers for alias in answer.aliases}
        self._rules = [
            (
                rule,
                _READ[rule],
                _SAME[rule],
                [
                    (gold, index)
                    for index, answer in enumerate(question.answers)
                    for form in answer.forms
                    if (gold := _READ[rule](form)) is not None
                ],
            )
            for rule in _RULES[question.answer_type]
        ]
        # A list needs several gold answers: most questions never pay for it.
        self._listed = len(question.answers) > 1 and question.answer_type != "boolean"
        self._forms: dict[str, set[int]] = {}
        self._widest = 1
        for index, answer in enumerate(question.answers if self._listed else ()):
            for form in answer.forms:
                self._forms.setdefault(normalise(form), set()).add(index)
                self._widest = max(self._widest, len(list_parts(form)))
        self._answers = len(question.answers)

    def __call__(self, prediction: str | None) -> Verdict:
        """Whether ``prediction`` is one of the gold answers, and the rule that says so. A missing prediction is wrong."""
        rule = self.rule(prediction)
        return Verdict(correct=rule is not None, rule=rule or "none")

    def rule(self, prediction: str | None) -> str | None:
        """The first rule that accepts the prediction; None if none does."""
        if prediction is None or not prediction.strip():
            return None
        said = normalise(prediction)
        if said in self._texts:
            return "exact"
        if said in self._aliases:
            return "alias"
        for rule, read, same, wanted in self._rules:
            given = read(prediction) if wanted else None
            if given is not None and any(same(given, gold) for gold, _ in wanted):
                return rule
        return "list" if self._listed and self._is_list(prediction) else None

    def _is_list(self, prediction: str) -> bool:
        parts = list_parts(prediction)
        if not 1 < len(parts) <= min(self._widest * self._answers, LONGEST_LIST):
            return False
        if self._rules and (parse_number(prediction) is not None or parse_date(prediction) is not None):
            return False
        items = _covered(prediction, parts, self._widest, self._answers_of)
        return len(items) > 1 and _all_different(items)

    def _answers_of(self, item: str) -> set[int]:
        """Indices of the gold answers that an item of a list is."""
        found = set(self._forms.get(normalise(item), ()))
        for _, read, same, wanted in self._rules:
            given = read(item) if wanted else None
            if given is not None:
                found |= {index for gold, index in wanted if same(given, gold)}
        return found


def match(prediction: str | None, question: Question) -> Verdict:
    """Whether ``prediction`` is one of the gold answers; see :class:`Matcher`, which is faster for many of one question."""
    return Matcher(question)(prediction)


_READ: dict[str, Callable[[str], Any]] = {"number": parse_number, "date": parse_date, "boolean": parse_boolean}
_SAME: dict[str, Callable[[Any, Any], bool]] = {"number": _same_number, "date": _same_date, "boolean": operator.eq}
_RULES: dict[AnswerType, tuple[str, ...]] = {
    "entity": (),
    "number": ("number",),
    "date": ("date",),
    "boolean": ("boolean",),
    "text": ("number", "date"),
}


def answer_class(prediction: str, answer_type: AnswerType) -> str:
    """Canonical form of a prediction, equal for predictions that say the same: the classes of a majority vote.

    The normalised text; for numbers the value in digits to 12 places, without its unit; for dates ISO at the given
    precision (``-0044`` for 44 BCE, ``--03-14`` without a year); yes or no. What does not parse as the type stays
    text. The words of a text with an "and" are sorted, without it: "Paris and London" and "London and Paris" are one
    class, with any commas.
    """
    if answer_type == "boolean" and (said := parse_boolean(prediction)) is not None:
        return "yes" if said else "no"
    if answer_type in ("number", "text") and (number := parse_number(prediction)) is not None:
        return str(number.value) if number.value.denominator == 1 else format(float(number.value), ".12g")
    if answer_type in ("date", "text") and (date := parse_date(prediction)) is not None:
        year = "-" if date.year is None else f"{'-' * (date.year < 0)}{abs(date.year):04d}"
        return "-".join([year, *(f"{part:02d}" for part in date[1:] if part is not None)])
    text = normalise(prediction)
    return " ".join(sorted(text.replace(" and ", " ").split())) if " and " in text else text


# A changed matcher gives other verdicts: the version is part of the keys of what is derived from them.
MATCHER_VERSION = digest(inspect.getsource(sys.modules[__name__]))
