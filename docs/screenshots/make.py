"""Draws the pictures of docs/deployments.md from a real server: ``python docs/screenshots/make.py`` (minutes; needs Chromium).

A miniature study with the real small model gives the artifacts; an evaluation whose model server refuses half-way gives the
failed run and its retry. Everything is kept in a temporary folder.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[1] / "tests")]

import mini_study  # noqa: E402
from browser import Page, browser  # noqa: E402
from PIL import Image  # noqa: E402

from flows.server import free_port, prepare_environment  # noqa: E402
from store.home import Home  # noqa: E402

WIDTH, HEIGHT, TALL = 1280, 900, 1160
SETTLE_SECONDS = 6.0  # graphs are drawn after the page


def main() -> None:
    """Start everything, make the runs, take the pictures."""
    with tempfile.TemporaryDirectory(prefix="factscale-screenshots-") as folder, _running(Path(folder)) as url:
        runs = _runs(Path(folder))
        with browser() as page:
            page.call(
                "Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False
            )
            _take_all(page, url.removesuffix("/api"), runs)


@contextmanager
def _running(folder: Path) -> Iterator[str]:
    os.environ |= {
        "FACTSCALE_HOME": str(folder),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    home = Home.current()
    prepare_environment(home)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deploying import deploy
    from flows.ui import everything

    with (
        everything(home, free_port(), pools=["cpu", "kg"]) as running,
        temporary_settings({PREFECT_API_URL: running.url}),
    ):
        deploy(nightly=True)
        yield running.url


def _runs(folder: Path) -> dict[str, UUID]:
    """A whole study; an evaluation that fails; another that failed and was retried."""
    from served_study import start, wait_for

    whole = start("study/study", mini_study.mini())
    wait_for(whole, "Completed", seconds=1200)
    return {"study": whole, **_failing(folder)}


def _failing(folder: Path) -> dict[str, UUID]:
    from served_study import Served, retry, start, study, wait_for

    found = {}
    for name in ("failed", "retried"):
        served = Served()
        with served.server:
            served.lives_for = 11
            found[name] = start("evaluate/evaluate", study(folder, served, name))
            wait_for(found[name], "Failed")
            if name == "retried":
                served.lives_for = None
                time.sleep(3)
                retry(found[name])
                wait_for(found[name], "Completed")
    time.sleep(3)
    return found


def _take_all(page: Page, url: str, runs: dict[str, UUID]) -> None:
    from served_study import client

    with client() as api:
        ids = {name: api.read_deployment_by_name(f"{name}/{name}").id for name in ("study", "nightly")}
        artifacts: dict[str, Any] = {}
        for one in api.request("POST", "/artifacts/latest/filter", json={}).json():
            artifacts[one["key"]] = one
    artifact = f"{url}/artifacts/artifact/{{}}".format
    progress = next(one for key, one in artifacts.items() if key.startswith("progress-"))
    _take(page, f"{url}/deployments", "nightly", "deployments")
    _take(page, f"{url}/deployments/deployment/{ids['study']}/run", "Run Name", "run-form")
    _take(page, f"{url}/deployments/deployment/{ids['nightly']}", "At 02:00", "nightly")
    _take(page, f"{url}/runs/flow-run/{runs['study']}", "Completed", "study", tab="Subflow Runs")
    _take(page, f"{url}/runs/flow-run/{runs['failed']}", "Failed", "failed", tab="Task Runs")
    _take(page, f"{url}/runs/flow-run/{runs['retried']}", "Completed", "retried", tab="Task Runs", height=TALL)
    _take(page, f"{url}/artifacts", "leaderboard", "artifacts")
    _take(page, artifact(artifacts["leaderboard-mini"]["latest_id"]), "accuracy", "table")
    _take(page, artifact(artifacts["plots-mini"]["latest_id"]), "budgets", "plots")
    _take(page, artifact(progress["latest_id"]), "rows", "progress")


def _take(page: Page, address: str, shows: str, name: str, tab: str | None = None, height: int = HEIGHT) -> None:
    """A picture of a page once it shows a word, on one of its tabs; in 64 colours, which these pages have hardly more of."""
    page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=height, deviceScaleFactor=1, mobile=False)
    page.open(address)
    deadline = time.monotonic() + 30
    while not page.run(f"document.body.innerText.includes({shows!r})"):
        if time.monotonic() > deadline:
            text = page.run("document.body.innerText")
            sys.exit(f"{address} does not show {shows!r}: {text[:2000]}")
        time.sleep(0.2)
    if tab is not None:
        found = f"[...document.querySelectorAll('*')].filter(one => one.innerText?.trim() === {tab!r}).pop()"
        while not page.run(f"Boolean({found})"):
            time.sleep(0.2)
        page.run(f"{found}.click()")
    time.sleep(SETTLE_SECONDS)
    png = base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"])
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64).save(HERE / f"{name}.png", optimize=True)
    own = (f"{address.partition('//')[0]}//127.0.0.1", "data:", "blob:")
    if strangers := {one for one in page.requests if not one.startswith(own)}:
        sys.exit(f"{address} asked others than this machine: {strangers}")
    print(f"{name}.png {(HERE / f'{name}.png').stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
