"""The sections of a study about questions and the paths between their entities: ``train``, ``retrieve``."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from eval.benchmarks import LOADERS, Columns, Custom
from eval.benchmarks.registry import HUB_ID, check_pinned
from flows.parameter_types import Alias
from store.types import Frozen, Question, Split
from tasks.questions import load_questions

STARTER = "starter"
_GRAPH_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class QuestionSet(Frozen):
    """The first ``limit`` questions of one split of a dataset."""

    dataset: str = Field(
        default=STARTER,
        min_length=1,
        description="A benchmark's name (`factscale data ls`), `jsonl` with a path, or a name of your own with hub or columns",
    )
    split: Split = Field(default="test", description="train for the questions of teachers, test for evaluation")
    limit: int | None = Field(default=None, ge=1, description="The first so many questions; empty for all")
    path: str | None = Field(
        default=None,
        description="The file of the dataset, or a folder; empty: the starter set, or what `data get` fetched",
    )
    hub: str | None = Field(default=None, pattern=HUB_ID, description="A hub dataset, owner/name; with a revision")
    revision: str | None = Field(default=None, description="Its commit: 40 hex digits")
    config: str | None = Field(default=None, min_length=1, description="Its configuration, where it has several")
    hub_split: str | None = Field(
        default=None, min_length=1, description="Its own name of the split; empty: the one that means the same"
    )
    columns: Columns | None = Field(
        default=None, description="Which columns hold what, for a hub dataset or a file that is in no known form"
    )

    @model_validator(mode="after")
    def _where_it_comes_from(self) -> QuestionSet:
        if self.dataset in LOADERS:
            for field in ("hub", "revision", "config", "hub_split", "columns"):
                if getattr(self, field) is not None:
                    raise ValueError(
                        f"{field}: dataset {self.dataset!r} has a form of its own; give your set another name"
                    )
            return self
        if self.hub is not None:
            check_pinned(self.hub, self.revision)
            if self.path is not None:
                raise ValueError("hub and path: a set comes from one of them; leave one out")
        elif self.revision is not None:
            raise ValueError("revision: only a hub dataset has one; name it in hub, or leave revision out")
        elif self.path is None and (self.columns or self.config or self.hub_split):
            raise ValueError(f"dataset {self.dataset!r}: say where it comes from, in hub or path")
        return self

    @property
    def custom(self) -> Custom | None:
        """How a set of your own is read; None where the dataset has a loader."""
        if not (self.hub or self.columns or self.config or self.hub_split):
            return None
        return Custom(self.hub, self.revision, self.config, self.hub_split, self.columns or Columns())

    def load(self) -> tuple[Question, ...]:
        """Its questions. Raises InputError for what is wrong with it, RunError where the hub cannot be reached."""
        return load_questions(self.dataset, self.split, self.limit, self.path, self.custom)


class Retrieval(Frozen):
    """How knowledge-graph paths are found."""

    endpoint: str = Field(
        default=STARTER,
        min_length=1,
        description="`starter` for the facts that come with factscale, the name of a graph that `factscale kg load` "
        "loaded, or the URL of a SPARQL endpoint",
    )
    snapshot: str | None = Field(
        default=None, description="A name for the endpoint's content (a date, a dump); compulsory for a URL"
    )
    user_agent: str | None = Field(
        default=None, description="Who asks, with an e-mail or URL; public endpoints want it"
    )
    in_flight: int | None = Field(
        default=None, ge=1, le=64, description="Requests at a time; empty: 2 at a public host, 4 at one of this machine"
    )
    requests_per_second: float | None = Field(
        default=None, gt=0, description="Empty: 2 at a public host, any number at one of this machine"
    )
    datasets: tuple[QuestionSet, ...] = Field(
        default=(),
        description="Further question sets to search, for analysis by hops; their paths are never shown to a model",
    )
    mid_map: str | None = Field(
        default=None, description="A TSV file (mid, qid) for Freebase ids; empty: the endpoint is asked (P646)"
    )
    link_labels: Literal["auto", "index", "lookup", "off"] = Field(
        default="auto",
        description="Links by name where a dataset gives none. index: all names of the graph (local graphs); lookup: a "
        "question's own words (any endpoint); auto: index for local graphs, lookup for URLs",
    )
    max_hops: int = Field(default=3, ge=1, le=4, description="Triples of a path at most")
    policy: Literal["minimal", "all"] = Field(
        default="minimal",
        description="minimal: the shortest paths of a pair (fs1); all: of every length up to max_hops",
    )
    joint: bool = Field(default=True, description="Add paths that use several entities of the question")
    cap: int = Field(default=500, ge=1, description="In-edges fetched for an entity at most; a cut is recorded")
    deep_cap: int = Field(
        default=20_000, ge=1, description="The cap for a cut entity of a pair that would otherwise have no path"
    )
    max_degree: int = Field(
        default=500, ge=1, description="Paths through nodes with more edges are dropped where a pair has others"
    )
    similarity: Literal["lexical", "embedding", "mixed", "auto"] = Field(
        default="auto",
        description="How relations are compared with the question: by words, by a small sentence encoder (one more "
        "package), or by both; auto: both where the encoder is installed",
    )
    qualifiers: bool = Field(
        default=True, description="Fetch start, end and point in time, precision and unit of kept facts"
    )
    form: Literal["fs1", "verbalised"] = Field(
        default="fs1", description="fs1: one `subject, relation, object` a line; verbalised: one sentence a line"
    )
    top_paths: int = Field(default=5, ge=1, description="Best-ranked paths of a question that a teacher sees")
    max_triples: int = Field(default=12, ge=1, description="Distinct triples that a teacher sees at most")
    max_tokens: int | None = Field(
        default=None, ge=8, description="Tokens of the linearised paths at most; the lowest-ranked paths are left out"
    )
    tokenizer: Alias = Field(default="smollm2-135m", description="The model whose tokenizer counts, usually a student")
    control: bool = Field(
        default=True, description="Search for a wrong answer of each question too: what coverage is worth"
    )

    @model_validator(mode="after")
    def _a_url_has_a_snapshot(self) -> Retrieval:
        if self.is_url and not self.snapshot:
            raise ValueError(f"endpoint {self.endpoint}: name its content in `snapshot`, for example the dump's date")
        if not self.is_url and not _GRAPH_NAME.fullmatch(self.endpoint):
            raise ValueError(f"endpoint {self.endpoint!r} is neither a loaded graph's name nor an http(s) URL")
        if not self.is_url and self.snapshot:
            raise ValueError(
                "snapshot names the content of a URL; a loaded graph is known by its content: leave it out"
            )
        if self.max_degree > self.cap:
            raise ValueError(f"max_degree {self.max_degree} is above cap {self.cap}, up to which degrees are counted")
        if self.deep_cap < self.cap:
            raise ValueError(f"deep_cap {self.deep_cap} is below cap {self.cap}: raise it")
        return self

    @property
    def is_url(self) -> bool:
        """Whether the endpoint is somebody else's server."""
        return self.endpoint.startswith(("http://", "https://"))
