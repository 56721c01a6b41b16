"""English labels of Wikidata's common date and quantity properties, for graphs that come without them.

Extracts often hold the labels of items alone, and a date of birth would then be printed as P569. A graph's own label
always wins. The facts are Wikidata's (CC0).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def common_labels() -> dict[str, str]:
    """Labels by property id."""
    lines = files(__package__).joinpath("property_labels.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return dict(line.split("\t") for line in lines)  # two columns, as a test holds
