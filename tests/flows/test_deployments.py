"""The shipped deployments: entrypoints, defaults, run forms; and registered twice on a real server, each is there once."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema

from flows.server import FLOWS, HEARTBEAT_SECONDS

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]
each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])


def flow_of(deployment: dict[str, Any]) -> Flow[Any, Any]:
    file, name = deployment["entrypoint"].split(":")
    assert (ROOT / file).is_file()
    found = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    return found


def test_every_flow_has_a_deployment() -> None:
    assert [d["name"] for d in DEPLOYMENTS] == list(dict.fromkeys(d["name"] for d in DEPLOYMENTS))
    assert {d["name"] for d in DEPLOYMENTS} == set(FLOWS)


@each_deployment
def test_its_entrypoint_is_a_flow_whose_defaults_are_valid(deployment: dict[str, Any]) -> None:
    found = flow_of(deployment)
    assert found.name == deployment["name"]
    assert deployment["description"]
    asked = inspect.signature(found.fn).parameters.values()
    needed = {one.name for one in asked if one.default is inspect.Parameter.empty} - set(deployment["parameters"])
    if needed:  # a run form with a field that a person has to fill in
        assert (found.name, needed) == ("unit", {"unit"})
    else:
        assert found.validate_parameters(deployment["parameters"])


@each_deployment
def test_its_pool_queue_and_limits(deployment: dict[str, Any]) -> None:
    from flows.deploying import POOLS, QUEUES

    pool = deployment["work_pool"]
    assert pool["name"] in POOLS
    if queue := pool.get("work_queue_name"):
        assert queue in QUEUES[pool["name"]]
    # With Prefect's own 180 s the automation would mark healthy runs.
    assert pool["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == HEARTBEAT_SECONDS
    assert pool["job_variables"]["env"]["DO_NOT_TRACK"] == "1"
    limit = deployment.get("concurrency_limit")
    assert limit in (None, {"limit": 1, "collision_strategy": "ENQUEUE"})
    assert "factscale" in deployment["tags"]


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a run form, by its path."""
    definitions = schema.get("definitions", {})
    for name, field in schema["properties"].items():
        if "$ref" in field:  # what stands there is told by the model itself
            field = {"description": definitions[field["$ref"].rpartition("/")[2]].get("description"), **field}
        yield name, field
    for owner, definition in definitions.items():
        for name, field in definition.get("properties", {}).items():
            yield f"{owner}.{name}", field
        if definition.get("type") == "object":
            yield owner, {"description": "a model", **definition}


@each_deployment
def test_its_run_form_has_help_for_every_field_and_no_free_dict(deployment: dict[str, Any]) -> None:
    schema = parameter_schema(flow_of(deployment)).model_dump_for_openapi()
    for path, field in fields(schema):
        assert field.get("description"), f"{path} has no help"
        if field.get("type") == "object":
            assert field.get("properties"), f"{path} is a free dict"
        for choice in (field, *field.get("anyOf", [])):
            assert "const" not in choice, f"{path} is a single literal, which the form cannot show"


def test_the_schedule_of_the_nightly_waits_for_a_person() -> None:
    (nightly,) = [d for d in DEPLOYMENTS if d["name"] == "nightly"]
    (schedule,) = nightly["schedules"]
    assert schedule["cron"] == "0 2 * * *"
    assert schedule["timezone"] == "UTC"
    assert schedule["active"] is False
