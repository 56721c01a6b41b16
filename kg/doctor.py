"""Whether a SPARQL endpoint can carry a study: about a dozen small requests, each with what to mend.

Every query is LIMITed and bound to a few entities or properties, so that a public endpoint is asked no scan; the forms of
the queries are those of retrieval itself (:mod:`kg.neighbourhoods`). Each request has one attempt: a throttled or dead
endpoint is told, not waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from kg.endpoint import PREFIXES, Endpoint, QueryTooHeavy, RequestRecord, Term, entity_values
from kg.neighbourhoods import expand_once, labels
from store.types import RunError, Triple

ROWS = 20_000  # as many as a batch of retrieval may need in one answer
SLOW_SECONDS = 3.0
STRIKES = 3  # queries that may fail before no more are sent
LONGEST_NAP = 30.0  # seconds that are waited for a turn

_ENTITY, _DIRECT = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
_XSD = "http://www.w3.org/2001/XMLSchema#"
_COMMON = ("P31", "P17", "P19", "P27", "P69", "P106", "P131", "P136")  # item-valued, in nearly every extract
_DATES, _NUMBERS = ("P569", "P571", "P577"), ("P1082", "P2046", "P2048")
_FREEBASE = "P646"
_TOLD_LIMITS = {"query.wikidata.org": "60 s a query, as its manual says"}


class Check(NamedTuple):
    """One finding. ``mend`` says what to do unless the verdict is ok; a check that was skipped warns and says why."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def examine(endpoint: Endpoint, sample: int = 200) -> list[Check]:
    """What a study would meet at the endpoint, at most 12 requests. ``sample`` bounds the items whose labels are asked.

    Never raises for a sick endpoint: what fails is a row, and what needs it is skipped.
    """
    patient = _Watched(endpoint)
    checks = _reached(patient)
    if checks[-1].verdict == "fail":
        return checks
    edges, used = list[Triple](), set[str]()
    checks += _attempted(("direct edges",), partial(_edges, patient, sample, edges))
    subjects = list(dict.fromkeys(edge.subject for edge in edges))
    items = list(dict.fromkeys(item for edge in edges for item in (edge.subject, edge.object)))[:sample]
    of_edges: dict[str, Callable[[], list[Check]]] = {
        "VALUES": partial(_out, patient, edges, subjects[:40], used),
        "UNION of LIMITs": partial(_in, patient, edges),
        "labels of items": partial(_labels, patient, items, "items"),
        "labels of properties": partial(_labels, patient, used, "properties"),
        "full statements": partial(_statements, patient, subjects[:10]),
    }
    for name, check in of_edges.items():
        checks += _attempted((name,), check) if edges else _skipped((name,), "there is no direct edge to start from")
    checks += _attempted(("declared properties",), partial(_declared, patient))
    checks += _attempted(("dates", "numbers", "Freebase ids"), partial(_literals, patient))
    checks += _attempted(("rows in an answer", "gzip"), partial(_rows, patient))
    return [*checks, _time_limit(patient)]


class _Watched(Endpoint):
    """The endpoint with one attempt a request, and none once it is lost; ``last`` is the record of the last one."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(
            endpoint.url,
            snapshot=endpoint.snapshot,
            user_agent=endpoint.user_agent,
            timeout=endpoint.timeout,
            attempts=1,
            on_request=self._note,
            sleep=_nap,
        )
        self.last: RequestRecord | None = None
        self.slowest = 0.0
        self._strikes = 0
        self._lost: str | None = None

    @property
    def local(self) -> bool:
        """Whether it runs on this machine."""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    def select(self, query: str) -> list[dict[str, Term]]:
        """As an endpoint does, but a heavy query is a plain failure, so that nobody asks it in halves."""
        if self._lost is not None:
            raise _Lost(self._lost)
        try:
            return super().select(query)
        except QueryTooHeavy as error:
            raise RunError(str(error)) from error

    def _note(self, record: RequestRecord) -> None:
        self.last = record
        self.slowest = max(self.slowest, record.seconds - record.waited)
        if record.outcome in (
            "passing",
            "unreached",
            "refused",
        ):  # throttled, overloaded, gone: asking on makes it worse
            self._lost = "the endpoint has failed before, so it is not asked any more"
        elif record.outcome != "ok":
            self._strikes += 1
            if self._strikes == STRIKES:
                self._lost = f"{STRIKES} requests have failed, so no more are sent"


class _Lost(RunError):
    """Not asked, for the reason given."""


def _nap(seconds: float) -> None:
    if seconds > LONGEST_NAP:
        raise RunError(f"the host has asked this machine to wait {seconds:.0f} s more: examine it after that")
    time.sleep(seconds)


def _attempted(names: Sequence[str], check: Callable[[], list[Check]]) -> list[Check]:
    """What the check finds, or a row for each of its names that says why it could not."""
    try:
        return check()
    except _Lost as error:
        return _skipped(names, str(error))
    except RunError as error:
        found, mend = str(error), "retrieval asks queries of this form: mend it at the server, or use another endpoint"
    except Exception as error:  # whatever a sick endpoint answers is a finding
        found, mend = f"the answer has another shape ({error!r})", "use an endpoint that holds Wikidata's RDF"
    return [Check(name, "fail", found, mend) for name in names]


def _skipped(names: Sequence[str], reason: str) -> list[Check]:
    return [Check(name, "warn", f"not examined: {reason}", "mend the failures above first") for name in names]


def _reached(patient: _Watched) -> list[Check]:
    """Reachability, the form of answers, and who asks: the last row fails if no more can be asked."""
    agent = "none is needed on this machine" if patient.local else f"{patient.user_agent!r} names a contact"
    asks = Check("user agent", "ok", agent)
    try:
        rows = patient.select("SELECT (1 AS ?one) WHERE {}")
    except Exception as error:
        if patient.last is None or patient.last.status != 200:
            return [asks, Check("reachable", "fail", str(error), "check the URL, the network, and who may ask")]
        mend = "give the query address of a SPARQL 1.1 endpoint, not that of its page"
        return [asks, Check("reachable", "ok", "it answers"), Check("SPARQL JSON", "fail", str(error), mend)]
    slow = patient.slowest > SLOW_SECONDS
    mend = "retrieval makes hundreds of requests: use a nearer endpoint or a local graph" if slow else ""
    reached = Check("reachable", "warn" if slow else "ok", f"answers in {1000 * patient.slowest:.0f} ms", mend)
    if [row["one"].value for row in rows if "one" in row] == ["1"]:
        return [asks, reached, Check("SPARQL JSON", "ok", "whole and in form")]
    found = f"a query for one row is answered with {len(rows)} others"
    mend = "name a contact in the user agent; check that it is a SPARQL 1.1 endpoint"
    return [asks, reached, Check("SPARQL JSON", "fail", found, mend)]


def _edges(patient: _Watched, sample: int, edges: list[Triple]) -> list[Check]:
    """Find direct edges between items, and put them into ``edges``."""
    each = -(-sample // len(_COMMON))
    found = _bounded(patient, _COMMON, each)
    # Without a match this reads the whole graph, which is for one's own machine only.
    if patient.local and not any(_item(row["o"]) for row in found):
        found = patient.select(
            f"""{PREFIXES}SELECT ?s (STRAFTER(STR(?r), "direct/") AS ?p) ?o WHERE {{ ?s ?r ?o .
  FILTER(STRSTARTS(STR(?r), "{_DIRECT}P") && isIRI(?o) && STRSTARTS(STR(?o), "{_ENTITY}Q")) }} LIMIT {sample}"""
        )
    # In turns of the properties, so that the first few edges are of many kinds.
    for row in (row for turn in range(each) for row in found[turn::each]):
        subject, value = _item(row["s"]), _item(row["o"])
        if subject and value:
            edges.append(Triple(subject, row["p"].value, value))
    if not edges:
        mend = "load Wikidata's truthy statements (wdt:P between wd:Q items)"
        found_none = f"no statement between two items{'' if patient.local else ' of ' + ', '.join(_COMMON)}"
        return [Check("direct edges", "fail", found_none, mend)]
    used = len({edge.predicate for edge in edges})
    return [Check("direct edges", "ok", f"{len(edges)} sampled, of {used} properties")]


def _bounded(patient: _Watched, properties: Sequence[str], limit: int) -> list[dict[str, Term]]:
    """Up to ``limit`` direct statements (?s ?p ?o) of each property, in one request."""
    branches = " UNION ".join(
        f'{{ SELECT ?s ("{one}" AS ?p) ?o WHERE {{ ?s wdt:{one} ?o }} LIMIT {limit} }}' for one in properties
    )
    return patient.select(f"{PREFIXES}SELECT ?s ?p ?o WHERE {{ {branches} }}")


def _item(term: Term) -> str | None:
    name = term.value.removeprefix(_ENTITY)
    return name if term.kind == "uri" and name[:1] == "Q" and name[1:].isdigit() else None


def _out(patient: _Watched, edges: Sequence[Triple], subjects: Sequence[str], used: set[str]) -> list[Check]:
    """Statements of many entities in one request; their properties are put into ``used``."""
    batch = expand_once(patient, subjects, "out", cap=1)
    triples = {triple for one in batch for triple in one.triples}
    missing = [edge for edge in edges if edge.subject in subjects and edge not in triples]
    if missing:
        found = f"{len(missing)} of {len(edges)} known edges do not come back, such as {' '.join(missing[0][:3])}"
        return [Check("VALUES", "fail", found, "use an engine that answers VALUES over many entities completely")]
    used |= {triple.predicate for triple in triples}
    return [
        Check("VALUES", "ok", f"{len(subjects)} items at once: {len(triples)} statements of {len(used)} properties")
    ]


def _in(patient: _Watched, edges: Sequence[Triple]) -> list[Check]:
    objects = list(dict.fromkeys(edge.object for edge in edges))[:10]
    batch = expand_once(patient, objects, "in", cap=3)
    missing = [one.entity for one in batch if not one.triples]
    if missing:
        found = f"edges that point at {', '.join(missing)} do not come back"
        return [Check("UNION of LIMITs", "fail", found, "use an engine that answers a UNION of LIMITed sub-selects")]
    hubs = sum(one.truncated for one in batch)
    return [Check("UNION of LIMITs", "ok", f"edges that point at {len(objects)} items; {hubs} have more than 3")]


def _labels(patient: _Watched, ids: Collection[str], what: str) -> list[Check]:
    if not ids:
        return _skipped((f"labels of {what}",), f"no {what} are known")
    share = len(labels(patient, ids, batch=len(ids))) / len(ids)
    verdict: Literal["ok", "warn", "fail"] = "ok" if share >= 0.98 else "warn" if share > 0 else "fail"
    mend = "" if verdict == "ok" else f'load rdfs:label in "en" (or "mul") of the {what}: unnamed ones read as ids'
    return [Check(f"labels of {what}", verdict, f"{share:.1%} of {len(ids)} have an English one", mend)]


def _statements(patient: _Watched, subjects: Sequence[str]) -> list[Check]:
    prop = "http://www.wikidata.org/prop/"
    rows = patient.select(
        f"""{PREFIXES}SELECT ?r WHERE {{ {entity_values(subjects)} ?s ?p ?statement . ?statement ?r ?value .
  FILTER(STRSTARTS(STR(?p), "{prop}P"))
  FILTER(STRSTARTS(STR(?r), "{prop}statement/P") || STRSTARTS(STR(?r), "{prop}qualifier/P")) }} LIMIT 1000"""
    )
    qualifiers = sum("/qualifier/" in row["r"].value for row in rows)
    if not rows:
        found = "direct ones only: no qualifiers, no precision of dates, no units"
        mend = "questions of time want p:, ps: and pq: as in Wikidata's full dump"
        return [Check("full statements", "warn", found, mend)]
    if not qualifiers:
        found = "present, but no qualifier in the sample"
        return [Check("full statements", "warn", found, "load pq: of the statements too")]
    return [Check("full statements", "ok", f"present; {qualifiers} qualifiers in the sample")]


def _declared(patient: _Watched) -> list[Check]:
    rows = patient.select(
        "SELECT (COUNT(*) AS ?n) WHERE { SELECT ?p WHERE { ?p <http://wikiba.se/ontology#directClaim> ?direct } LIMIT 20000 }"
    )
    count = int(rows[0]["n"].value)
    mend = "" if count else "load the properties' own statements (wikibase:directClaim, labels)"
    return [Check("declared properties", "ok" if count else "warn", f"{count:,}", mend)]


def _literals(patient: _Watched) -> list[Check]:
    rows = _bounded(patient, (*_DATES, *_NUMBERS, _FREEBASE), 3)
    dates = _typed(rows, "dates", _DATES, {_XSD + "dateTime"})
    numbers = _typed(rows, "numbers", _NUMBERS, {_XSD + "decimal", _XSD + "integer"})
    freebase = [row["o"].value for row in rows if row["p"].value == _FREEBASE]
    if freebase:
        return [dates, numbers, Check("Freebase ids", "ok", f"present, such as {freebase[0]}")]
    mend = "CWQ, WebQSP and GrailQA name entities by them: load wdt:P646, or give a map of ids"
    return [dates, numbers, Check("Freebase ids", "warn", f"none (wdt:{_FREEBASE})", mend)]


def _typed(rows: Sequence[dict[str, Term]], name: str, properties: Sequence[str], wanted: set[str]) -> Check:
    types = {row["o"].datatype for row in rows if row["p"].value in properties and row["o"].kind == "literal"}
    if types & wanted:
        return Check(name, "ok", "present")
    kinds = " or ".join(sorted(one.removeprefix(_XSD) for one in wanted))
    found = (
        f"only of type {', '.join(sorted(str(one) for one in types))}" if types else f"none of {', '.join(properties)}"
    )
    return Check(name, "warn", found, f"answers and paths that end in {name} need xsd:{kinds} values")


def _rows(patient: _Watched) -> list[Check]:
    """The most rows that one answer may have, and, seen on that answer, whether it is compressed."""
    name, scan = "rows in an answer", f"SELECT ?s WHERE {{ ?s ?p ?o }} LIMIT {ROWS}"
    before = patient.bytes
    rows = patient.select(scan)
    compressed = _gzip(patient, patient.bytes - before, sum(len(row["s"].value) for row in rows))
    if len(rows) == ROWS:
        return [Check(name, "ok", f"{ROWS:,} asked for, {ROWS:,} given"), compressed]
    held = int(patient.select(f"SELECT (COUNT(*) AS ?n) WHERE {{ {scan} }}")[0]["n"].value)
    if held == len(rows):
        return [Check(name, "ok", f"all {held:,} statements that it holds"), compressed]
    found = f"silently cut: {len(rows):,} of {held:,} rows are given"
    return [Check(name, "fail", found, "raise the server's limit of rows (Virtuoso: ResultSetMaxRows)"), compressed]


def _gzip(patient: _Watched, wire: int, text: int) -> Check:
    if wire < text:  # plain JSON is longer than the values in it
        return Check("gzip", "ok", f"used: {wire:,} bytes for more than {text:,}")
    if patient.local:
        return Check("gzip", "ok", "not used, nor needed on this machine")
    return Check(
        "gzip", "warn", f"not used: {wire:,} bytes", "switch compression on at the server or a proxy before it"
    )


def _time_limit(patient: _Watched) -> Check:
    told = _TOLD_LIMITS.get(urlsplit(patient.url).hostname or "", "not told, as by most")
    found = f"{told}; slowest answer here {patient.slowest:.1f} s of the {patient.timeout:g} s that are waited"
    close = patient.slowest > patient.timeout / 2
    return Check("time limit", "warn" if close else "ok", found, "allow more time for an answer" if close else "")
