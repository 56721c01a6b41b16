"""The shipped deployments: every entrypoint is a flow, every default is valid; and they can be served and run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]


def test_every_flow_has_a_deployment() -> None:
    assert {d["name"] for d in DEPLOYMENTS} == {"retrieve", "distill", "finetune", "evaluate", "report", "study"}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_its_entrypoint_is_a_flow_whose_defaults_are_valid(deployment: dict[str, Any]) -> None:
    file, name = deployment["entrypoint"].split(":")
    assert (ROOT / file).is_file()
    found = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    assert found.name == deployment["name"]
    assert found.validate_parameters(deployment["parameters"])
    assert deployment["description"]


@pytest.mark.slow
@pytest.mark.real
def test_a_run_started_from_the_server_is_done_by_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.server import prepare_environment
    from flows.ui import everything
    from store.home import Home

    home = Home(tmp_path)
    monkeypatch.setenv("FACTSCALE_HOME", str(tmp_path))
    prepare_environment(home)
    with everything(home, 4299) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        from prefect.deployments import run_deployment
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: url}):
            train = {"parameters": {"train": {"split": "train", "limit": 2}}}
            run = run_deployment("retrieve/retrieve", parameters=train, timeout=240)
    assert run.state.name == "Completed"
    assert home.store.query("SELECT count(*) AS n FROM retrievals") == [{"n": 2}]
