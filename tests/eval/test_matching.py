"""The matcher: what is equal, and, as important, what is not."""

import calendar
import random
import time
from fractions import Fraction

import pytest

from eval.matching import (
    MATCHER_VERSION,
    Date,
    Matcher,
    answer_class,
    list_parts,
    match,
    normalise,
    parse_boolean,
    parse_date,
    parse_number,
)
from store.types import Answer, AnswerType, Question, Verdict


def ask(kind: AnswerType, *gold: str, aliases: tuple[str, ...] = ()) -> Question:
    answers = tuple(Answer(text=text, aliases=aliases) for text in gold)
    return Question(id="q", dataset="d", split="test", text="?", answers=answers, answer_type=kind)


RIGHT: list[tuple[AnswerType, str, str, str]] = [
    ("entity", "Paris", "paris", "exact"),
    ("entity", "Paris", "  PARIS. ", "exact"),
    ("entity", "The Trial", "Trial", "exact"),
    ("entity", "A Tale of Two Cities", "Tale of the Two Cities", "exact"),
    ("entity", "Erwin Schrödinger", "Erwin Schrodinger", "exact"),
    ("entity", "Søren Kierkegaard", "Soren Kierkegaard", "exact"),
    ("entity", "Łódź", "Lodz", "exact"),
    ("entity", "J. R. R. Tolkien", "J.R.R. Tolkien", "exact"),
    ("entity", "J. R. R. Tolkien", "JRR Tolkien", "exact"),
    ("entity", "U.S.A.", "USA", "exact"),
    ("entity", "Ph.D.", "PhD", "exact"),
    ("entity", "Jay-Z", "Jay Z", "exact"),
    ("entity", "Flannery O’Connor", "Flannery O'Connor", "exact"),
    ("entity", "Simon & Garfunkel", "Simon and Garfunkel", "exact"),
    ("entity", "“Heroes”", "Heroes", "exact"),
    ("entity", "Tōkyō", "Tokyo", "exact"),
    ("entity", "ﬁlm", "film", "exact"),
    ("entity", "The The", "The The", "exact"),
    ("entity", "東京", "東京", "exact"),
    ("entity", "दिल्ली", "दिल्ली।", "exact"),
    ("entity", "C++", "c++", "exact"),
    ("entity", "!!!", "!!!", "exact"),
    ("number", "8849", "8,849", "exact"),
    ("number", "8849", "8,849 m", "number"),
    ("number", "8,849 m", "8849", "number"),
    ("number", "8,849 metres", "8849 m", "number"),
    ("number", "8849", "8 849 metres above sea level", "number"),
    ("number", "8849", "8'849", "number"),
    ("number", "8849", "approximately 8,849 m (29,032 ft)", "number"),
    ("number", "8848.86", "8849", "number"),
    ("number", "7", "seven", "number"),
    ("number", "7", "Seven players", "number"),
    ("number", "170th", "170", "number"),
    ("number", "123", "one hundred and twenty-three", "number"),
    ("number", "2000000", "$2 million", "number"),
    ("number", "2000000", "two million", "number"),
    ("number", "2,500,000", "2.5 million", "number"),
    ("number", "1000000000", "10^9", "number"),
    ("number", "299792458", "2.998 × 10^8 m/s", "number"),
    ("number", "0.5", "1/2", "number"),
    ("number", "0.5", "½", "number"),
    ("number", "2.5", "2½", "number"),
    ("number", "2.5", "2,5", "number"),
    ("number", "50%", "50 percent", "exact"),
    ("number", "50%", "50", "number"),
    ("number", "-40", "−40 °C", "number"),
    ("number", "3.14159", "3.1416", "number"),
    ("number", "12", "a dozen", "number"),
    ("number", "1234567", "12,34,567", "number"),
    ("number", "1400000000", "1.4 billion", "number"),
    ("date", "1879-03-14", "14 March 1879", "date"),
    ("date", "1879-03-14", "March 14, 1879", "date"),
    ("date", "1879-03-14", "March 14th 1879", "date"),
    ("date", "1879-03-14", "the 14th of March, 1879", "date"),
    ("date", "1879-03-14", "Friday, 14 March 1879", "date"),
    ("date", "1879-03-14", "on 14 Mar. 1879", "date"),
    ("date", "1879-03-14", "1879 March 14", "date"),
    ("date", "1879-03-14", "14-Mar-1879", "date"),
    ("date", "1879-03-14", "3/14/1879", "date"),
    ("date", "1879-03-14", "14/03/1879", "date"),
    ("date", "1879-03-14", "14.03.1879", "date"),
    ("date", "1879-03-14", "1879/03/14", "exact"),
    ("date", "1879-03-14", "1879-03-14T00:00:00Z", "date"),
    ("date", "1879-03-14T00:00:00Z", "14 March 1879", "date"),
    ("date", "1879-03", "March 1879", "date"),
    ("date", "1879-03", "14 March 1879", "date"),
    ("date", "1879-00-00", "1879", "date"),
    ("date", "1879", "14 March 1879", "date"),
    ("date", "1879", "in the year 1879", "date"),
    ("date", "1879", "c. 1879", "date"),
    ("date", "-0044", "44 BC", "date"),
    ("date", "-0044-03-15", "March 15, 44 BCE", "date"),
    ("date", "-0044-03-15", "15 March 44 B.C.", "date"),
    ("date", "44 BCE", "44 BC", "date"),
    ("date", "AD 79", "79 CE", "date"),
    ("date", "May 5", "5 May", "date"),
    ("date", "May 5", "5 May 1821", "date"),
    ("boolean", "Yes", "yes", "exact"),
    ("boolean", "No", "No, it is not.", "boolean"),
    ("boolean", "No", "No it is not", "boolean"),
    ("boolean", "Yes", "True", "boolean"),
    ("boolean", "False", "No.", "boolean"),
    ("boolean", "Yes", "**Yes** - both were", "boolean"),
    ("text", "December 2013", "2013-12", "date"),
    ("text", "2490 cc", "2,490", "number"),
    ("text", "1907", "14 March 1907", "date"),
    ("text", "Season 1 episode 3", "season 1, episode 3", "exact"),
    ("number", "15000", "15,000 people", "number"),
    ("number", "42.195", "42.195 km", "number"),
    ("number", "42.195 km", "42.2 kilometres", "number"),
    ("number", "1,000,000", "1,000,400", "number"),
    ("number", "105", "one hundred and five", "number"),
    ("date", "1969-07", "July 1969", "date"),
    ("date", "1969-07", "20 July 1969", "date"),
    ("date", "1969-07-20", "20th July, 1969", "date"),
    ("date", "1969-07-20", "20 July 1969 (Sunday)", "date"),
    ("date", "July 20, 1969", "1969-07-20", "date"),
    ("entity", "Washington, D.C.", "Washington DC", "exact"),
    ("entity", "Red, White, and Blue", "red, white and blue", "exact"),
]

WRONG: list[tuple[AnswerType, str, str]] = [
    ("entity", "George H. W. Bush", "George W. Bush"),
    ("entity", "George W. Bush", "George H. W. Bush"),
    ("entity", "George W. Bush", "George Bush"),
    ("entity", "Paris", "Pairs"),
    ("entity", "Paris", "Paris, Texas"),
    ("entity", "Paris", "Paris or London"),
    ("entity", "Paris", "Paris, London, Berlin"),
    ("entity", "Paris", "The capital of France is Paris."),
    ("entity", "Paris", "Not Paris"),
    ("entity", "Paris", ""),
    ("entity", "Paris", "."),
    ("entity", "The The", "the"),
    ("entity", "Vitamin A", "Vitamin"),
    ("entity", "George A. Romero", "George Romero"),
    ("entity", "C", "C++"),
    ("entity", "C#", "C"),
    ("entity", "Apollo 11", "11"),
    ("text", ".500", "500"),
    ("entity", "1.5", "15"),
    ("entity", "Louis XIV", "Louis XVI"),
    ("entity", "Blink-182", "Blink-18"),
    ("entity", "!!!", "???"),
    ("number", "8849", "8848"),
    ("number", "8849", "8849.5"),
    ("number", "8,849 m", "8,849 ft"),
    ("number", "8,849 m", "8.849 km"),
    ("number", "1.5", "15"),
    ("number", "5", "-5"),
    ("number", "5", "5 or 6"),
    ("number", "5", "5, 6"),
    ("number", "5", "5-6"),
    ("number", "5", "between 5 and 6"),
    ("number", "5", "more than 5"),
    ("number", "5", "not 5"),
    ("number", "5", "5 is wrong"),
    ("number", "5", "five or six"),
    ("number", "5", "the first 5 of the 12"),
    ("number", "8", "10⁸"),
    ("number", "108", "10^8"),
    ("number", "21", "2½"),
    ("number", "1990", "nineteen ninety"),
    ("number", "2000000", "2"),
    ("number", "2000000", "2 thousand"),
    ("number", "1400000000", "1.41 billion"),
    ("number", "3.14159", "3.2"),
    ("number", "$5", "£5"),
    ("number", "7", "7/0"),
    ("date", "1879-03-14", "1879"),
    ("date", "1879-03-14", "March 1879"),
    ("date", "1879-03-14", "15 March 1879"),
    ("date", "1879-03-14", "14 April 1879"),
    ("date", "1879-03-14", "14 March 1880"),
    ("date", "1879-03-14", "March 14"),
    ("date", "1879-03-14", "14 March 79"),
    ("date", "1879-03-04", "3/4/1879"),
    ("date", "1879-04-03", "3/4/1879"),
    ("date", "1879", "1880"),
    ("date", "1879", "1879 or 1880"),
    ("date", "1879", "1870s"),
    ("date", "1879", "14 March 1880"),
    ("date", "1879", "19th century"),
    ("date", "44 BC", "44"),
    ("date", "44 BC", "AD 44"),
    ("date", "-0044", "0044"),
    ("date", "1900-02-28", "30 February 1900"),
    ("boolean", "No", "Yes"),
    ("boolean", "No", "No idea"),
    ("boolean", "No", "No one knows"),
    ("boolean", "No", "No. 5"),
    ("boolean", "Yes", "yes or no"),
    ("boolean", "Yes", "yes/no"),
    ("boolean", "No", "Nobody"),
    ("boolean", "No", "It depends"),
    ("text", "1907", "1908"),
    ("text", "6 feet", "6 metres"),
    ("number", "42.195", "42.3 km"),
    ("number", "42.195 km", "42.195 miles"),
    ("number", "15000", "15,001 people"),
    ("number", "15000", "15"),
    ("date", "1969-07-20", "1969"),
    ("date", "1969-07-20", "July 1969"),
    ("date", "1969-07", "1969"),
    ("date", "1969-07", "August 1969"),
    ("date", "1969", "July"),
    ("date", "1914", "1914 and 1918"),
    ("date", "1969-07-20", "July 20, 1969 and July 21, 1969"),
    ("entity", "Simon and Garfunkel", "Simon"),
    ("entity", "Simon and Garfunkel", "Garfunkel and Simon"),
    ("entity", "Washington, D.C.", "Washington"),
    ("entity", "Washington, D.C.", "D.C., Washington"),
]

# Gold answers, prediction, and the rule that accepts it (None: wrong).
CITIES = ("Paris", "London", "Rome")
PAIRS = ("Simon and Garfunkel", "Washington, D.C.", "The Lion, the Witch and the Wardrobe", "Paris")
LISTS: list[tuple[AnswerType, tuple[str, ...], str, str | None]] = [
    ("entity", CITIES, "Paris, London and Rome", "list"),
    ("entity", CITIES, "Paris, London, and Rome.", "list"),
    ("entity", CITIES, "rome and the LONDON", "list"),
    ("entity", CITIES, "Rome & London", "list"),
    ("entity", CITIES, "Paris,London", "list"),
    ("entity", CITIES, "Paris; London", "list"),
    ("entity", CITIES, "Paris、London", "list"),
    ("entity", CITIES, "1. Paris 2. London 3. Rome", "list"),
    ("entity", CITIES, "(1) Paris, (2) London", "list"),
    ("entity", CITIES, "1) Paris\n2) London", "list"),
    ("entity", CITIES, "Paris\nLondon\n", "list"),
    ("entity", CITIES, "- Paris\n- London", "list"),
    ("entity", CITIES, "• Paris • London", "list"),
    ("entity", CITIES, "both Paris and London", "list"),
    ("entity", CITIES, "Paris, , London,", "list"),
    ("entity", CITIES, "Paris,", "exact"),
    ("entity", CITIES, "Paris or London", None),
    ("entity", CITIES, "Paris, London or Rome", None),
    ("entity", CITIES, "Paris and/or London", None),
    ("entity", CITIES, "neither Paris nor London", None),
    ("entity", CITIES, "Paris, not London", None),
    ("entity", CITIES, "Paris, and not London", None),
    ("entity", CITIES, "Paris, London, Berlin", None),
    ("entity", CITIES, "Berlin, Paris", None),
    ("entity", CITIES, "Paris, London, etc.", None),
    ("entity", CITIES, "Paris, Paris", None),
    ("entity", CITIES, "Paris, London, Paris", None),
    ("entity", CITIES, "Paris London", None),
    ("entity", CITIES, "Paris - London", None),
    ("entity", CITIES, "2. Paris 3. London", None),
    ("entity", CITIES, "The cities are Paris and London", None),
    ("entity", CITIES, ", and ;", None),
    ("entity", ("Paris",), "Paris, France", None),
    ("entity", ("Paris",), "Paris, Paris", None),
    ("entity", PAIRS, "Simon and Garfunkel", "exact"),
    ("entity", PAIRS, "Simon and Garfunkel, Paris", "list"),
    ("entity", PAIRS, "Paris and Simon and Garfunkel", "list"),
    ("entity", PAIRS, "Simon & Garfunkel and Washington, D.C.", "list"),
    ("entity", PAIRS, "Paris, Washington, D.C., and Simon and Garfunkel", "list"),
    ("entity", PAIRS, "Paris; The Lion, the Witch and the Wardrobe", "list"),
    ("entity", PAIRS, "The Lion, the Witch and the Wardrobe, Simon and Garfunkel", "list"),
    ("entity", PAIRS, "Simon, Paris", None),
    ("entity", PAIRS, "Garfunkel and Simon", None),
    ("entity", PAIRS, "Simon, Garfunkel", None),
    ("entity", PAIRS, "Washington and Paris", None),
    ("entity", PAIRS, "Paris and Garfunkel", None),
    ("entity", PAIRS, "The Lion and the Witch", None),
    ("number", ("5", "1,234"), "5 and 1,234", "list"),
    ("number", ("5", "6"), "5, 6", "list"),
    ("number", ("5", "6"), "five and six", "list"),
    ("number", ("5", "6"), "5 m and 6 m", "list"),
    ("number", ("5", "100"), "5 and one hundred", "list"),
    ("number", ("100", "5"), "one hundred and five", None),
    ("number", ("1", "234"), "1,234", None),
    ("number", ("1", "234", "567"), "1,234,567", None),
    ("number", ("5", "6"), "5,6", None),
    ("number", ("5", "6"), "5 or 6", None),
    ("number", ("5", "6"), "5-6", None),
    ("number", ("5", "6"), "between 5 and 6", None),
    ("number", ("5", "6"), "5, 7", None),
    ("date", ("1914", "1918"), "1914 and 1918", "list"),
    ("date", ("1914", "1918"), "1914–1918", None),
    ("date", ("1969-07-20", "1972-12-14"), "July 20, 1969 and December 14, 1972", "list"),
    ("date", ("1969-07-20", "1972-12-14"), "July 20, 1969, December 14, 1972", "list"),
    ("date", ("1969-07-20", "1972-12-14"), "20 July 1969; 1972-12-14", "list"),
    ("date", ("1969-07-20", "1972-12-14"), "1969 and 1972", None),
    ("date", ("July 20", "1969"), "July 20, 1969", "date"),
    ("text", ("July 20", "1972"), "July 20, 1972", "date"),
    ("text", ("May 5", "Napoleon"), "Napoleon, 5 May 1821", "list"),
    ("text", ("Paris", "7"), "Paris and seven", "list"),
    ("entity", ("Apollo 11", "12"), "Apollo 11 and twelve", None),
]


@pytest.mark.parametrize(("kind", "gold", "prediction", "rule"), RIGHT)
def test_right(kind: AnswerType, gold: str, prediction: str, rule: str) -> None:
    assert match(prediction, ask(kind, gold)) == Verdict(correct=True, rule=rule)


@pytest.mark.parametrize(("kind", "gold", "prediction"), WRONG)
def test_wrong(kind: AnswerType, gold: str, prediction: str) -> None:
    assert match(prediction, ask(kind, gold)) == Verdict(correct=False, rule="none")


@pytest.mark.parametrize(("kind", "gold", "prediction", "rule"), LISTS)
def test_lists(kind: AnswerType, gold: tuple[str, ...], prediction: str, rule: str | None) -> None:
    assert Matcher(ask(kind, *gold)).rule(prediction) == rule


def test_items_of_a_list_are_different_answers_whatever_alias_they_go_by() -> None:
    question = Question(
        id="q",
        dataset="d",
        split="test",
        text="?",
        answers=(
            Answer(text="New York City", aliases=("NYC", "Gotham")),
            Answer(text="Los Angeles", aliases=("LA", "City of Angels")),
            Answer(text="Springfield, Illinois", aliases=("Springfield",)),
            Answer(text="Springfield, Ohio", aliases=("Springfield",)),
        ),
    )
    right = ["LA, Gotham", "NYC and Los Angeles", "Springfield, Springfield", "Springfield, Ohio, Springfield"]
    right += ["Springfield, Springfield, Ohio", "Springfield, Illinois, Springfield, Ohio, and LA"]
    wrong = ["NYC, New York City", "LA, City of Angels", "Springfield, Springfield, Springfield"]
    wrong += ["Springfield, Ohio, Springfield, Springfield", "Ohio, LA"]
    assert {text: match(text, question).rule for text in right} == dict.fromkeys(right, "list")
    assert {text: match(text, question).rule for text in wrong} == dict.fromkeys(wrong, "none")


def test_any_list_of_gold_answers_matches_and_one_foreign_or_repeated_item_spoils_it() -> None:
    """Names with commas and "and" among them, in any order, joined in any way."""
    names = [*CITIES, *PAIRS[:3], "Crosby, Stills, Nash and Young", "Trinidad and Tobago", "Earth, Wind & Fire", "U2"]
    foreign = ["Oslo", "Simon", "Trinidad", "Wind", "Nash", "Washington", "not Paris", "Crosby, Stills"]
    joints = [", ", "; ", " and ", " & ", ", and ", "\n", "\n- ", " • "]
    dice = random.Random(3)
    seen = {True: 0, False: 0}
    for _ in range(2000):
        gold = dice.sample(names, dice.randint(2, len(names)))
        items = dice.sample(gold, dice.randint(2, len(gold)))
        right = dice.random() < 0.5
        if not right:
            items.insert(dice.randint(0, len(items)), dice.choice([*foreign, items[0]]))
        joint = dice.choice(joints)
        text = joint.join(items)
        if dice.random() < 0.2:
            text = " ".join(f"{number}. {item}" for number, item in enumerate(items, start=1))
        assert Matcher(ask("entity", *gold)).rule(text) == ("list" if right else None), (gold, text)
        seen[right] += 1
    assert min(seen.values()) > 800


def test_no_list_matches_a_question_with_one_answer() -> None:
    dice = random.Random(5)
    for _ in range(500):
        items = dice.choices([*CITIES, *PAIRS], k=dice.randint(2, 4))
        text = dice.choice([", ", " and ", "; "]).join(items)
        for gold in items:
            assert not match(text, ask("entity", gold)).correct or normalise(text) == normalise(gold)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("Paris", ["Paris"]),
        ("8,849", ["8,849"]),
        ("1,234 and 5", ["1,234", "5"]),
        ("March 14, 1879", ["March 14, 1879"]),
        ("14 March, 1879, Ulm", ["14 March, 1879", "Ulm"]),
        ("Washington, D.C.", ["Washington", "D.C."]),
        ("Vol. 1. Vol. 2. ", ["Vol. 1. Vol. 2. "]),
        ("Andes and Alps", ["Andes", "Alps"]),
    ],
)
def test_list_parts(text: str, parts: list[str]) -> None:
    assert [text[start:end] for start, end in list_parts(text)] == parts


def test_long_lists_and_shared_aliases_take_no_time() -> None:
    answers = tuple(Answer(text=f"Name {number}", aliases=("Smith",)) for number in range(150))
    question = Question(id="q", dataset="d", split="test", text="?", answers=answers)
    start = time.perf_counter()
    assert match(", ".join(["Smith"] * 150), question).rule == "list"
    assert match(", ".join(["Smith"] * 149 + ["Jones"]), question).rule == "none"
    assert match("Smith, " * 20_000, question).rule == "none"
    assert match(" ".join(f"Name {number}," for number in range(150)), question).rule == "list"
    assert time.perf_counter() - start < 3.0


def test_every_gold_form_matches_itself_and_the_rule_tells_texts_from_aliases() -> None:
    question = ask("entity", "New York City", "Newark", aliases=("NYC", "The Big Apple"))
    rules = {form: match(form, question).rule for form in question.gold}
    assert rules == {"New York City": "exact", "NYC": "alias", "The Big Apple": "alias", "Newark": "exact"}
    assert match("big apple", question) == Verdict(correct=True, rule="alias")
    assert match(None, question) == Verdict(correct=False, rule="none")


def test_number_aliases_count_too() -> None:
    assert match("8,849 meters", ask("number", "the height", aliases=("8849 m",))).rule == "number"


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("8.849 km", "8.849", "km"),
        ("1.000.000", "1000000", None),
        ("1 000 000,", None, None),
        ("€3.5bn", "3500000000", "€"),
        ("$2M", "2000000", "$"),
        ("US$ 1,200", "1200", "$"),
        ("-$5", "-5", "$"),
        ("5 m", "5", "m"),
        ("357,022 km²", "357022", "km2"),
        ("88 square miles", "88", "mi2"),
        ("nine hundred ninety-nine thousand nine hundred ninety-nine", "999999", None),
        ("four hundred million", "400000000", None),
        ("zero", "0", None),
        ("1e6", "1000000", None),
        ("3.2 x 10^-5", "0.000032", None),
        (".5", "0.5", None),
        ("1/3", "1/3", None),
        ("12:30", None, None),
        ("1.2.3", None, None),
        ("5 6", None, None),
        ("one two", None, None),
        ("twenty twenty", None, None),
        ("seven-eleven", None, None),
        ("hundred", None, None),
        ("m", None, None),
        ("Five Nights at Freddy's", "5", None),
        ("", None, None),
        ("9" * 5000, None, None),
    ],
)
def test_parse_number(text: str, value: str | None, unit: str | None) -> None:
    found = parse_number(text)
    assert found == (None if value is None else (Fraction(value), unit))


@pytest.mark.parametrize(
    ("given", "right"), [("1000999", True), ("1001000", True), ("1001001", False), ("999000", True), ("998999", False)]
)
def test_tolerance_of_large_numbers_is_one_in_a_thousand(given: str, right: bool) -> None:
    assert match(given, ask("number", "1000000")).correct is right


def test_whole_numbers_below_a_million_have_no_tolerance() -> None:
    assert not match("999998", ask("number", "999999")).correct
    assert match("1000999", ask("number", "1000000")).correct


def test_every_day_in_every_form_is_read_back() -> None:
    months = list(calendar.month_name)[1:]
    for number, month in enumerate(months, start=1):
        for day in (1, 9, 10, 28):
            date = Date(1066, number, day)
            forms = [
                f"{day} {month} 1066",
                f"{month} {day}, 1066",
                f"{day} {month[:3]}. 1066",
                f"1066-{number:02d}-{day:02d}",
            ]
            assert [parse_date(form) for form in forms] == [date] * 4
        assert parse_date(f"{month} 1066") == parse_date(f"{month[:3]} 1066") == Date(1066, number)
        assert parse_date(f"{month} 44 BC") == Date(-44, number)


def test_dates_that_are_none() -> None:
    texts = [
        "",
        "March",
        "1879-13-01",
        "1879-80",
        "31 April 1900",
        "0000",
        "12",
        "14",
        "1879-1955",
        "5 p.m.",
        "a",
        "1990s",
    ]
    assert {text: parse_date(text) for text in texts} == dict.fromkeys(texts)


def test_leading_boolean() -> None:
    assert parse_boolean("Yes, because he was born there") is True
    assert parse_boolean("False!") is False
    assert [parse_boolean(text) for text in ("", "Norway", "No information", "Not true", "yesterday")] == [None] * 5


@pytest.mark.parametrize(
    ("kind", "texts", "expected"),
    [
        ("entity", ("The Trial", "trial.", "TRIAL"), "trial"),
        ("number", ("8,849 m", "8849", "8849.0 metres"), "8849"),
        ("number", ("0.5", "1/2", "½"), "0.5"),
        ("number", ("about two", "2"), "2"),
        ("number", ("many",), "many"),
        ("date", ("14 March 1879", "1879-03-14", "March 14, 1879"), "1879-03-14"),
        ("date", ("1879", "in 1879"), "1879"),
        ("date", ("44 BC", "-0044"), "-0044"),
        ("date", ("March 14", "14 March"), "--03-14"),
        ("boolean", ("Yes", "true", "Yes, it is"), "yes"),
        ("boolean", ("no", "False."), "no"),
        ("boolean", ("maybe",), "maybe"),
        ("text", ("1,907", "1907"), "1907"),
        ("text", ("May 1907", "1907-05"), "1907-05"),
        ("entity", ("???",), "???"),
        ("entity", ("Paris and London", "London & Paris", "london and paris."), "london paris"),
        ("entity", ("Paris, Rome, and London", "London, Paris and Rome"), "london paris rome"),
        ("entity", ("Washington, D.C.", "Washington DC"), "washington dc"),
        ("number", ("one hundred and five", "105"), "105"),
    ],
)
def test_answer_class(kind: AnswerType, texts: tuple[str, ...], expected: str) -> None:
    assert {answer_class(text, kind) for text in texts} == {expected}


def test_case_space_and_quotes_around_make_no_difference() -> None:
    texts = [
        text
        for _, gold, prediction, *_ in [*RIGHT, *WRONG]
        for text in (gold, prediction)
        if normalise(text).strip("?!.")
    ]
    assert {text: normalise(f' "{text.upper()}"\n') for text in texts} == {text: normalise(text) for text in texts}


def test_version_is_a_digest() -> None:
    assert len(MATCHER_VERSION) == 32
    assert int(MATCHER_VERSION, 16) >= 0
