"""The labels that come with factscale, held against the starter slice and a real extract."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from kg.endpoint import Endpoint
from kg.fetching import Fetcher
from kg.graph import Graph
from kg.properties import common_labels
from kg.server import local_endpoint
from kg.starter import properties

EXTRACT = Path(__file__).resolve().parents[3] / "shared" / "data" / "kg" / "wikidata_extract.nt.gz"


def test_ids_and_labels() -> None:
    assert all(
        re.fullmatch(r"P[1-9]\d*", one) and label == label.strip() != "" for one, label in common_labels().items()
    )
    assert len(set(common_labels().values())) == len(common_labels())


def test_the_starter_slice_agrees() -> None:
    both = common_labels().keys() & properties().keys()
    assert {one: common_labels()[one] for one in both} == {one: properties()[one].label for one in both}


def test_the_extract_agrees() -> None:
    if not EXTRACT.is_file():
        pytest.skip(f"no extract at {EXTRACT}")
    form = re.compile(
        rb'<http://www.wikidata.org/entity/(P\d+)> <http://www.w3.org/2000/01/rdf-schema#label> "(.*)"@en'
    )
    with gzip.open(EXTRACT) as lines:
        said = {m[1].decode(): m[2].decode() for line in lines if b"entity/P" in line and (m := form.match(line))}
    assert said
    assert {one: common_labels()[one] for one in said.keys() & common_labels().keys()} == {
        one: said[one] for one in said.keys() & common_labels().keys()
    }


def test_a_graphs_own_label_wins_and_what_is_unknown_stays_so(tmp_path: Path) -> None:
    facts = tmp_path / "facts.nt"
    label = "http://www.w3.org/2000/01/rdf-schema#label"
    facts.write_text(f'<http://www.wikidata.org/entity/P569> <{label}> "born on"@en .\n')
    graph = Graph()
    with local_endpoint([facts], tmp_path / "kg") as url:
        Fetcher(Endpoint(url, snapshot="facts"), graph).labels(["P569", "P570", "P99999"])
    assert graph.labels == {"P569": "born on", "P570": "date of death"}
    assert graph.named == {"P569", "P570", "P99999"}
