"""The processes of docker/compose.yaml without an engine: its own commands and variables, on this machine's PostgreSQL and Redis.

Only addresses differ: ports of the other services, and folders where the containers have volumes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from composed import DOCKER, compose, environment

from bench import postgres
from flows.server import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.timeout(900),
    pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing())),
    pytest.mark.skipif(
        shutil.which("redis-server") is None, reason="Redis is not installed (apt-get install redis-server)"
    ),
]
SECRETS = {
    "POSTGRES_PASSWORD": "",  # what tests/postgres.py gives its server, set below as a URL writes it
    "REDIS_PASSWORD": "redissecret",
    "PREFECT_AUTH_STRING": "admin:prefectsecret",
}


class Composed:
    """The services, with the addresses where they are here."""

    def __init__(self, folder: Path, database: postgres.Postgres) -> None:
        from urllib.parse import quote

        self.folder = folder
        self.redis, self.server = free_port(), free_port()
        secrets = SECRETS | {"POSTGRES_PASSWORD": quote(postgres.PASSWORD, safe=""), "UI_PORT": str(self.server)}
        self.services: dict[str, Any] = compose(secrets)["services"]
        self.moved = {
            "postgres:5432": f"127.0.0.1:{database.port}",
            "redis:6379": f"127.0.0.1:{self.redis}",
            "server:4200": f"127.0.0.1:{self.server}",
            "127.0.0.1:4200": f"127.0.0.1:{self.server}",
            "0.0.0.0": "127.0.0.1",  # noqa: S104
            "/data": str(folder / "data"),
            "/var/lib/prefect-ui": str(folder / "prefect-ui"),
            "/app": str(DOCKER.parent),
        }

    def variables(self, service: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FACTSCALE_"))}
        found = kept | environment(self.services[service], self.moved)
        found["PATH"] = f"{Path(sys.executable).parent}:{found['PATH']}"
        found["PREFECT_HOME"] = str(self.folder / f"prefect-{service}")
        if "PREFECT_SERVER_API_PORT" in found:
            found["PREFECT_SERVER_API_PORT"] = str(self.server)
        if "PREFECT_WORKER_WEBSERVER_PORT" in found:
            found["PREFECT_WORKER_WEBSERVER_PORT"] = str(self.server + 1)
        if "PGPASSWORD" in found:
            found["PGPASSWORD"] = postgres.PASSWORD
        return found

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text(encoding="utf-8", errors="replace")

    def once(self, service: str) -> None:
        """Run a service that ends."""
        command = self.services[service]["command"]
        done = subprocess.run(
            command, env=self.variables(service), cwd=DOCKER.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    @contextmanager
    def running(self, service: str, *more: str) -> Iterator[None]:
        """A service that stays, until the end of the block."""
        command = [*self.services[service]["command"], *more]
        with (self.folder / f"{service}.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.variables(service), cwd=DOCKER.parent, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def is_healthy(self, service: str) -> bool:
        """What the engine does: the service's own check."""
        how, *command = self.services[service]["healthcheck"]["test"]
        assert how == "CMD"
        done = subprocess.run(
            command, env=self.variables(service), cwd=DOCKER.parent, capture_output=True, check=False, timeout=30
        )
        return done.returncode == 0

    def healthy(self, service: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not self.is_healthy(service):
            assert time.monotonic() < deadline, self.log(service)[-3000:]
            time.sleep(0.5)


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    """PostgreSQL with the databases of docker/databases.sh, Redis, the migrated server, its services, and the deployments."""
    with postgres.postgres_server() as database, ExitStack() as stack:
        made = Composed(tmp_path, database)
        binaries = postgres.binaries()
        assert binaries is not None
        connection = {"PGHOST": "127.0.0.1", "PGPORT": str(database.port), "PGPASSWORD": postgres.PASSWORD}
        variables = {
            **os.environ,
            **connection,
            "POSTGRES_USER": postgres.USER,
            "PATH": f"{binaries}:{os.environ['PATH']}",
        }
        subprocess.run(["sh", str(DOCKER / "databases.sh")], env=variables, check=True, capture_output=True)
        stack.enter_context(
            made.running("redis", "--port", str(made.redis), "--bind", "127.0.0.1", "--dir", str(tmp_path))
        )
        until_redis(made)
        made.once("migrate")
        for service in ("services", "server"):
            stack.enter_context(made.running(service))
        made.healthy("server")
        made.once("deploy")
        yield made


def until_redis(made: Composed) -> None:
    """Its own check, with the port that it has here."""
    command = [
        *made.services["redis"]["healthcheck"]["test"][1:],
    ]
    command[1:1] = ["-p", str(made.redis)]
    deadline = time.monotonic() + 30
    while True:
        done = subprocess.run(command, env=made.variables("redis"), capture_output=True, text=True, check=False)
        if "PONG" in done.stdout:
            return
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.2)


def test_a_run_is_made_by_the_worker_and_lands_in_the_shared_store(composed: Composed) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{composed.server}/api/admin/version", timeout=5)
    with composed.running("worker-kg"):
        composed.healthy("worker-kg")
        asked = composed.variables("worker-kg") | {"COLUMNS": "200"}
        script = (
            "from prefect.deployments import run_deployment\n"
            "train = {'parameters': {'train': {'split': 'train', 'limit': 2}}}\n"
            "run = run_deployment('retrieve/retrieve', parameters=train, timeout=300)\n"
            "print(run.state_name)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], env=asked, capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["Completed"], done.stderr[-2000:] + composed.log("worker-kg")[-3000:]
        command = ["factscale", "status", "--format", "json"]
        told = subprocess.run(command, env=asked, capture_output=True, text=True, check=False)
        assert '"table": "differences"' not in told.stdout
        assert '"kind": "paths"' in told.stdout, told.stdout + told.stderr
    for service in ("services", "server", "worker-kg"):
        assert "secret" not in composed.log(service)
    assert not list((composed.folder / "data").glob("*.duckdb")), "the run landed in a file instead of the shared store"
