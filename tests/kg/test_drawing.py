"""The picture of paths: well-formed, escaped, every statement in its true direction."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations

import pytest

from kg.drawing import BOX_WIDTH, path_svg
from store.types import Path, Triple

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
    assert "first 8 of 13 paths" in "".join(text.text or "" for text in svg.iter(f"{SVG}text"))


def test_all_text_is_escaped_and_long_names_are_whole_in_the_tooltip() -> None:
    long = 'A <b> & "very" long name that goes on\x07 and on for much more than the two lines of a box'
    svg = parsed(
        [path(Triple("Q1", "P1", "Q3"))], {**LABELS, "Q3": long, "P1": "x" * 60}, "<script>alert(1)</script> & co"
    )
    assert long.replace("\x07", " ") in boxes(svg)
    titles = [title.text for title in svg.iter(f"{SVG}title")]
    assert "x" * 60 in titles
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
