"""A real PostgreSQL for benchmarks and tests, from the Debian package: on a free port, in a folder of its own.

It ends with the process that started it, even if that is killed: the kernel then interrupts it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flows.server import free_port

USER, PASSWORD = "factscale", "g%h:ei/m@42"  # of characters that a URL has to write otherwise
SHARED = "ducklake:postgres://{user}@127.0.0.1:{port}/{database}?data={data}"


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL of the Debian packages; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def missing() -> str | None:
    """Why no server can be started here; None if one can."""
    if binaries() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed"
    if os.geteuid() == 0 and not _postgres_user():
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


class Postgres(NamedTuple):
    """A running server."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def url(self, database: str, data: Path, *, password: str | None = None) -> str:
        """The URL of a lake, with a password as it is to stand there."""
        user = USER if password is None else f"{USER}:{password}"
        return SHARED.format(user=user, port=self.port, database=database, data=data)

    def execute(self, sql: str, database: str = "postgres") -> str:
        """What ``psql`` answers, rows as lines."""
        command = [_binary("psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database, "-qAtc", sql]
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=60)
        return done.stdout.strip()

    def create(self, database: str) -> None:
        """An empty database."""
        self.execute(f'CREATE DATABASE "{database}"')


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[Postgres]:
    """A server with the user :data:`USER`, whose password is :data:`PASSWORD`. ``durable``: commits wait for the disk."""
    folder = Path(tempfile.mkdtemp(prefix="factscale-postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        given = folder / "password"
        given.write_text(PASSWORD, encoding="utf-8")
        given.chmod(0o644)
        data = folder / "data"
        initdb = [
            _binary("initdb"),
            "-D",
            str(data),
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            "--pwfile",
            str(given),
            "-E",
            "UTF8",
        ]
        subprocess.run([*_as_postgres(), *initdb, "--no-sync"], check=True, capture_output=True, cwd="/", timeout=120)
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(folder),
            "max_connections": "200",
        }
        settings |= {} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [_binary("postgres"), "-D", str(data)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*_as_postgres(dies=True), *command], stdout=log, stderr=log, cwd="/")
        server = Postgres(folder, port, process)
        try:
            _wait(server)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nobody reads it again
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: Postgres) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            server.execute("SELECT 1")
            return
        except subprocess.CalledProcessError as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                told = (server.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"PostgreSQL does not start: {told}\n{error.stderr}") from None
            time.sleep(0.1)


def _as_postgres(*, dies: bool = False) -> list[str]:
    who = ["--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *who, *(["--pdeathsig", "INT"] if dies else [])]


def _postgres_user() -> bool:
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return False
    return True


def _binary(name: str) -> str:
    folder = binaries()
    if folder is None:
        raise FileNotFoundError("PostgreSQL is not installed")
    return str(folder / name)
