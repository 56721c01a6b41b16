"""The picture of paths: well-formed, escaped, every statement in its true direction, every score with its parts."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations

import pytest

from kg.drawing import BOX_WIDTH, WIDEST, path_svg
from store.types import Detail, Path, ScoreParts, Triple

SVG = "{http://www.w3.org/2000/svg}"
LABELS = {"Q1": "Source", "Q2": "Middle", "Q3": "Target", "P1": "first", "P2": "second", "P3": "third"}


def path(*triples: Triple, source: str = "Q1", target: str = "Q3") -> Path:
    return Path(source=source, target=target, triples=triples)


def parsed(paths: list[Path], labels: dict[str, str] = LABELS, title: str = "t") -> ET.Element:
    return ET.fromstring(path_svg(paths, labels, title))  # noqa: S314


def boxes(svg: ET.Element) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, width and height by whole label."""
    found = {}
    for group in svg.iter(f"{SVG}g"):
        rect, title = group.find(f"{SVG}rect"), group.find(f"{SVG}title")
        assert rect is not None
        assert title is not None
        x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        found[title.text or ""] = (x, y, w, h)
    return found


def words(svg: ET.Element) -> list[str]:
    """What is written, each text without its tooltip and without the spaces between its parts."""
    found = []
    for text in svg.iter(f"{SVG}text"):
        spans = [text.text or ""]
        for one in text:
            spans += ["" if one.tag == f"{SVG}title" else one.text or "", one.tail or ""]
        found.append(" ".join("".join(spans).split()))
    return found


def arrows(svg: ET.Element) -> list[tuple[float, float]]:
    """The x where each arrow starts, and where its head is."""
    found = []
    for line in svg.iter(f"{SVG}path"):
        numbers = line.attrib["d"].replace("M", " ").replace("Q", " ").split()
        found.append((float(numbers[0]), float(numbers[-2])))
    return found


def fills(svg: ET.Element) -> dict[str, str]:
    return {g.find(f"{SVG}title").text: g.find(f"{SVG}rect").attrib["fill"] for g in svg.iter(f"{SVG}g")}  # type: ignore[union-attr,misc]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_columns_from_source_to_target_and_true_directions() -> None:
    svg = parsed([path(Triple("Q1", "P1", "Q2"), Triple("Q3", "P2", "Q2"))])
    at = boxes(svg)
    assert at["Source"][0] < at["Middle"][0] < at["Target"][0]
    (start1, head1), (start2, head2) = arrows(svg)
    assert start1 < head1, "a forward statement points to the right"
    assert start2 > head2, "an inverse statement points to the left"


def test_parallel_and_mutual_relations_are_each_drawn() -> None:
    paths = [path(Triple("Q1", "P1", "Q3")), path(Triple("Q1", "P2", "Q3")), path(Triple("Q3", "P3", "Q1"))]
    svg = parsed(paths)
    assert len(boxes(svg)) == 2
    assert len({line.attrib["d"] for line in svg.iter(f"{SVG}path")}) == 3
    assert {"first", "second", "third"} <= {text.text for text in svg.iter(f"{SVG}text")}


def test_a_statement_of_several_paths_is_drawn_once() -> None:
    paths = [path(Triple("Q1", "P1", "Q2"), Triple("Q2", name, "Q3")) for name in ("P2", "P3")]
    assert len(arrows(parsed(paths))) == 3


def test_roles_have_their_colours_with_contrast() -> None:
    svg = parsed([path(Triple("Q1", "P1", "Q2"), Triple("Q2", "P2", "Q3"))])
    assert len(set(fills(svg).values())) == 3
    for group in svg.iter(f"{SVG}g"):
        fill, ink = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert fill is not None
        assert ink is not None
        light, dark = luminance(fill.attrib["fill"]), luminance(ink.attrib["fill"])
        assert (light + 0.05) / (dark + 0.05) >= 7


def test_boxes_do_not_overlap_and_stay_inside() -> None:
    paths = [path(Triple("Q1", "P1", f"Q{n}"), Triple("Q3", "P2", f"Q{n}")) for n in range(10, 22)]
    paths += [path(Triple("Q1", "P569", "1879-03-14", True), target="1879-03-14")]
    svg = parsed(paths)
    at = list(boxes(svg).values())
    assert len(at) == 10, "8 paths at most"
    for (x1, y1, w1, h1), (x2, y2, w2, h2) in combinations(at, 2):
        assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1
    for x, y, w, h in at:
        assert x >= 0
        assert y >= 40
        assert x + w <= float(svg.attrib["width"])
        assert y + h <= float(svg.attrib["height"])
    assert "first 8 of 13 kept" in "".join(text.text or "" for text in svg.iter(f"{SVG}text"))


def test_all_text_is_escaped_and_long_names_are_whole_in_the_tooltip() -> None:
    long = 'A <b> & "very" long name that goes on\x07 and on for much more than the two lines of a box'
    svg = parsed(
        [path(Triple("Q1", "P1", "Q3"))], {**LABELS, "Q3": long, "P1": "x" * 60}, "<script>alert(1)</script> & co"
    )
    assert long.replace("\x07", " ") in boxes(svg)
    titles = [title.text for title in svg.iter(f"{SVG}title")]
    assert any("x" * 60 in (title or "") for title in titles)
    assert "<script>alert(1)</script> & co" in titles
    assert not list(svg.iter(f"{SVG}script"))
    for text in svg.iter(f"{SVG}text"):
        assert len(text.text or "") * 6.2 <= BOX_WIDTH * 2


def test_literals_with_one_value_are_boxes_of_their_own() -> None:
    paths = [
        path(Triple("Q1", "P1", "5", True), target="5"),
        path(Triple("Q3", "P1", "5", True), source="Q3", target="5"),
    ]
    assert len(list(parsed(paths).iter(f"{SVG}g"))) == 4


@pytest.mark.parametrize("title", ["", "x" * 500])
def test_no_paths(title: str) -> None:
    svg = parsed([], title=title)
    assert "no paths" in [text.text for text in svg.iter(f"{SVG}text")]
    assert float(svg.attrib["width"]) < 1000


def scored(parts: tuple[float, float, float, float], *triples: Triple) -> Path:
    return path(*triples).model_copy(update={"parts": ScoreParts(*parts), "score": round(sum(parts), 6)})


KEPT = [
    scored((0.9, 0.0, -0.15, 0.0), Triple("Q1", "P1", "Q3")),
    scored((0.5, -0.08, -0.3, 0.0), Triple("Q1", "P1", "Q2"), Triple("Q2", "P2", "Q3")),
]
DROPPED = [
    scored((0.2, -0.11, -0.3, -0.2), Triple("Q1", "P1", "Q2"), Triple("Q3", "P1", "Q2")),
    scored((0.1, -0.12, -0.3, -0.2), Triple("Q1", "P3", "Q4"), Triple("Q3", "P3", "Q4")),
]


class TestDropped:
    def svg(self) -> ET.Element:
        return ET.fromstring(path_svg(KEPT, LABELS, "t", dropped=DROPPED))  # noqa: S314

    def test_statements_of_dropped_paths_alone_are_dashed(self) -> None:
        lines = [line.attrib for line in self.svg().iter(f"{SVG}path")]
        assert ["stroke-dasharray" in line for line in lines] == [False, False, False, True, True, True]
        assert len({line["stroke"] for line in lines}) == 2

    def test_boxes_of_dropped_paths_alone_are_dashed(self) -> None:
        rects = {g.find(f"{SVG}title").text: g.find(f"{SVG}rect") for g in self.svg().iter(f"{SVG}g")}  # type: ignore[union-attr]
        assert {name for name, rect in rects.items() if "stroke-dasharray" in rect.attrib} == {"Q4"}  # type: ignore[union-attr]

    def test_the_legend_names_what_is_there(self) -> None:
        assert {"question entity", "end of a path", "kept path", "dropped path"} <= set(words(self.svg()))
        alone = words(ET.fromstring(path_svg(KEPT, LABELS, "t", answers=["Q3"])))  # noqa: S314
        assert "answer" in alone
        assert "dropped path" not in alone

    def test_only_the_first_are_drawn(self) -> None:
        many = [path(Triple("Q1", "P1", f"Q{n}"), Triple(f"Q{n}", "P1", "Q3")) for n in range(10, 30)]
        svg = ET.fromstring(path_svg(KEPT, LABELS, "t", dropped=many))  # noqa: S314
        assert len(boxes(svg)) == 3 + 5
        assert any("first 5 of 20 dropped" in text for text in words(svg))


class TestScores:
    def rows(self, svg: ET.Element) -> dict[str, list[str]]:
        """The texts of each height, from left to right."""
        found: dict[str, list[tuple[float, str]]] = {}
        for text, said in zip(svg.iter(f"{SVG}text"), words(svg), strict=True):
            found.setdefault(text.attrib["y"], []).append((float(text.attrib["x"]), said))
        return {row[0][1]: [said for _x, said in row] for row in map(sorted, found.values())}

    def test_each_path_has_its_parts_and_their_sum(self) -> None:
        rows = self.rows(ET.fromstring(path_svg(KEPT, LABELS, "t", dropped=DROPPED)))  # noqa: S314
        assert rows["path"][:6] == ["path", "■ similarity", "■ degree", "■ length", "■ sibling", "= score"]
        assert rows["1"] == ["1", "kept", "Source —first→ Target", "0.90", "0", "−0.15", "0", "0.75"]
        assert rows["2"][2:] == ["Source —first→ Middle —second→ Target", "0.50", "−0.08", "−0.30", "0", "0.12"]
        assert rows["3"][1:] == [
            "dropped", "Source —first→ Middle ←first— Target", "0.20", "−0.11", "−0.30", "−0.20", "−0.41"
        ]  # fmt: skip
        assert rows["4"][0] == "4"

    def test_bars_are_to_scale_around_a_common_zero(self) -> None:
        svg = ET.fromstring(path_svg(KEPT, LABELS, "t", dropped=DROPPED))  # noqa: S314
        bars: dict[str, list[tuple[float, float]]] = {}
        for rect in svg.iter(f"{SVG}rect"):
            title = rect.find(f"{SVG}title")
            if title is not None:
                bars.setdefault(rect.attrib["y"], []).append((float(rect.attrib["x"]), float(rect.attrib["width"])))
        widths = [[width for _x, width in bars[y]] for y in sorted(bars, key=float)]
        scale = widths[0][0] / 0.9
        for row, one in zip(widths, KEPT + DROPPED, strict=True):
            assert one.parts is not None
            assert row == pytest.approx([abs(part) * scale for part in one.parts if part], abs=0.2)
        for row in bars.values():
            zero = row[0][0]
            assert zero == pytest.approx(bars[min(bars, key=float)][0][0])
            ends = [zero, *(x for x, _width in row[1:])]
            assert [x + width for x, width in row[1:]] == pytest.approx(ends[:-1], abs=0.2), "side by side"

    def test_statements_carry_the_numbers_of_their_paths(self) -> None:
        svg = ET.fromstring(path_svg(KEPT, LABELS, "t", dropped=DROPPED))  # noqa: S314
        assert {"first 1", "first 2, 3", "second 2", "first 3", "third 4"} <= set(words(svg))
        shared = [
            scored((0.1 * n, 0, 0, 0), Triple("Q1", "P1", "Q2"), Triple("Q2", f"P{n}", "Q3")) for n in range(2, 6)
        ]
        assert "first 1–4" in words(ET.fromstring(path_svg(shared, LABELS, "t")))  # noqa: S314

    def test_without_parts_there_is_no_table(self) -> None:
        svg = parsed([path(Triple("Q1", "P1", "Q3"))])
        assert "= score" not in words(svg)
        assert "first" in words(svg), "and no number of a row"

    def test_the_description_says_it_in_words(self) -> None:
        desc = ET.fromstring(path_svg(KEPT, LABELS, "t", dropped=DROPPED[:1])).find(f"{SVG}desc")  # noqa: S314
        assert desc is not None
        assert (desc.text or "").split("; ") == [
            "1 (kept, score 0.75): Source —first→ Target",
            "2 (kept, score 0.12): Source —first→ Middle —second→ Target",
            "3 (dropped, score −0.41): Source —first→ Middle ←first— Target",
        ]


def test_details_of_literals_and_statements() -> None:
    born, high = Triple("Q1", "P1", "1879-03-14", True), Triple("Q1", "P2", "5", True)
    held = Triple("Q1", "P3", "Q3")
    terms = (("P580", "1885", True), ("P582", "1889", True), ("P9", "Q2", False))
    details = {
        born: (Detail(precision=9),),
        high: (Detail(unit="Q5"),),
        held: (Detail(qualifiers=terms), Detail(qualifiers=(("P585", "1901", True),))),
    }
    labels = {**LABELS, "Q5": "metre", "P9": "of"}
    ends = [path(born, target="1879-03-14"), path(high, target="5"), path(held)]
    svg = ET.fromstring(path_svg(ends, labels, "t", details=details))  # noqa: S314
    assert {"1879", "5 metre"} <= set(boxes(svg))
    assert "1885 – 1889, of Middle; 1901" in words(svg)


def test_answers_and_question_entities_have_their_colours() -> None:
    joint = path(Triple("Q1", "P1", "Q2"), Triple("Q2", "P2", "Q3")).model_copy(update={"kind": "joint"})
    svg = ET.fromstring(path_svg([joint], LABELS, "t", answers={"Q2"}))  # noqa: S314
    by_answer = fills(svg)
    assert by_answer["Middle"] == fills(parsed([joint]))["Target"], "the answer, not the end"
    assert by_answer["Target"] != by_answer["Middle"]
    between = joint.model_copy(update={"kind": "between"})
    assert fills(parsed([between]))["Target"] == fills(parsed([between]))["Source"]


def crowded() -> tuple[list[Path], list[Path], dict[str, str]]:
    """Parallel, mutual, skipping and crossing statements over 4 columns, with long names and literals."""
    labels = {f"Q{n}": f"Entity number {n} with a fairly long label" for n in range(1, 40)}
    labels |= {f"P{n}": f"relation {n} that is long enough to be cut" for n in range(1, 40)}
    kept = [scored((0.5, 0, -0.1, 0), Triple("Q1", f"P{n}", "Q3")) for n in range(1, 4)]
    kept += [scored((0.5, 0, -0.1, 0), Triple("Q1", "P1", f"Q{n}"), Triple("Q3", "P2", f"Q{n}")) for n in range(10, 13)]
    kept += [
        scored(
            (0.5, 0, -0.1, 0),
            Triple("Q1", "P1", f"Q{n}"),
            Triple(f"Q{n}", "P2", f"Q{n + 1}"),
            Triple(f"Q{n + 1}", "P3", "Q3"),
        )
        for n in (20, 22)
    ]
    dropped = [scored((0.1, 0, -0.1, 0), Triple("Q1", f"P{n}", "1879-03-14", True)) for n in (7, 8)]
    dropped += [scored((0.1, 0, -0.1, 0), Triple("Q1", "P9", f"Q{n}"), Triple(f"Q{n}", "P9", "Q3")) for n in (30, 31)]
    return kept, dropped, labels


def test_a_crowded_picture_stays_readable_and_inside() -> None:
    kept, dropped, labels = crowded()
    svg = ET.fromstring(path_svg(kept, labels, "t" * 300, dropped=dropped))  # noqa: S314
    wide, high = float(svg.attrib["width"]), float(svg.attrib["height"])
    assert wide <= WIDEST
    rects = [rect.attrib for rect in svg.iter(f"{SVG}rect")]
    areas = [tuple(float(rect[name]) for name in ("x", "y", "width", "height")) for rect in rects if "x" in rect]
    for x, y, w, h in areas:
        assert x >= 0
        assert y >= 0
        assert x + w <= wide + 0.1
        assert y + h <= high + 0.1
    tags = [area for area, rect in zip(areas, [r for r in rects if "x" in r], strict=True) if rect.get("rx") == "3"]
    assert len(tags) == 3 + 2 * 3 + 2 * 3 + 2 + 2 * 2
    for tag in tags:
        for box in boxes(svg).values():
            assert not overlapping(tag, box)
    for one, other in combinations(tags, 2):
        assert not overlapping(one, other)


def test_no_arrow_runs_through_a_box_of_others() -> None:
    kept, _dropped, labels = crowded()
    svg = ET.fromstring(path_svg(kept[:1] + kept[6:], labels, "t"))  # noqa: S314
    skipping = next(svg.iter(f"{SVG}path")).attrib["d"].replace("M", " ").replace("Q", " ").split()
    x1, y1, cx, cy, x2, y2 = map(float, skipping)
    for step in range(200):
        a, b, c = (1 - step / 199) ** 2, 2 * step / 199 * (1 - step / 199), (step / 199) ** 2
        x, y = a * x1 + b * cx + c * x2, a * y1 + b * cy + c * y2
        for name, (left, top, width, height) in boxes(svg).items():
            if " 1 " not in name and " 3 " not in name:
                assert not (left < x < left + width and top < y < top + height)


def overlapping(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one, other
    return x1 + w1 > x2 + 0.1 and x2 + w2 > x1 + 0.1 and y1 + h1 > y2 + 0.1 and y2 + h2 > y1 + 0.1
