"""docker/healthy.py, what the health checks of the containers run, against a server that says what a Prefect server might."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import prefect
import pytest
from composed import DOCKER

from flows.server import free_port

HEALTHY = DOCKER / "healthy.py"


class Fake(BaseHTTPRequestHandler):
    """The paths that are answered, and with what."""

    answers: ClassVar[dict[str, object]] = {}

    def do_GET(self) -> None:
        found = self.answers.get(self.path)
        self.send_response(404 if found is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Fake) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def healthy(url: str, *check: str, gpus: str = "") -> bool:
    environment = {**os.environ, "PREFECT_API_URL": url, "CUDA_VISIBLE_DEVICES": gpus}
    done = subprocess.run(
        [sys.executable, HEALTHY, *check], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 0


def test_a_server_is_well_when_it_serves_the_ui_too(url: str) -> None:
    Fake.answers = {"/api/health": True}
    assert not healthy(url, "server")
    Fake.answers["/"] = "<html>"
    assert healthy(url, "server")


def test_workers_are_well_when_each_gpu_has_one(url: str) -> None:
    workers = [
        {"name": f"{host}-gpu{number}", "status": status}
        for number, (host, status) in enumerate(
            [(socket.gethostname(), "ONLINE"), (socket.gethostname(), "OFFLINE"), ("elsewhere", "ONLINE")]
        )
    ]
    Fake.answers = {"/api/work_pools/gpu/workers/filter": workers}
    assert healthy(url, "workers", "gpu", gpus="0")
    assert not healthy(url, "workers", "gpu", gpus="0,1")
    assert healthy(url, "workers", "gpu", "1", gpus="0,1")
    assert not healthy(url, "workers", "gpu", "2")


# The package as the container's user sees it: in a view of the file system of this process's own.
READ_ONLY = """
mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" || exit
copied="$0/server/ui_build"  # by an earlier server, who might write
if [ -d "$copied" ]; then mount -t tmpfs none "$copied" || exit; fi
exec "$@"
"""
VIEW = ["unshare", *([] if os.getuid() == 0 else ["--user", "--map-root-user"]), "--mount", "sh", "-c", READ_ONLY]


@pytest.mark.slow
@pytest.mark.real
def test_the_ui_is_served_where_the_package_cannot_be_written(tmp_path: Path) -> None:
    """The container's server command with its setting."""
    package = Path(prefect.__file__).parent
    seen = subprocess.run([*VIEW, str(package), "touch", str(package / "written")], capture_output=True, check=False)
    if b"Read-only" not in seen.stderr:
        pytest.skip("this machine gives no process a view of the file system of its own")
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {
        **kept,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(tmp_path / "ui"),
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = [sys.executable, "-m", "prefect", "server", "start"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*VIEW, str(package), *command], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 180
        while not healthy(f"http://127.0.0.1:{port}/api", "server"):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text(encoding="utf-8")
            time.sleep(0.5)
    finally:
        server.terminate()
        server.wait(30)
