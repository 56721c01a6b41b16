"""A Prefect API for a command: the one that is configured, or a server of our own that ends with the command.

Prefect would start such a server by itself, but it survives a `kill -9` of the command. Ours is bound to its parent's life,
keeps its database in the home, binds to 127.0.0.1, asks for the password of PREFECT_SERVER_API_AUTH_STRING if there is one, and
sends no telemetry.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows.processes import mark_abandoned
from models.training_process import die_with_parent
from store.home import Home
from store.types import InputError, RunError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

FLOWS = ("retrieve", "distill", "finetune", "evaluate", "report", "study", "nightly", "plan", "unit")
"""The names of all flows; a test holds them against the deployments."""

HEARTBEAT_SECONDS = "30"
"""What runs are told to send a sign of life after; whoever marks those that send none waits for three of these."""

_START_SECONDS = 120
_DRAIN_SECONDS = 20

# The server's queues hold 10,000 events each and drop what comes beyond. Written down one by one, they fill at 50 task runs a
# second; in batches of 500 they do not at 150. A batch waits for the next flush, of which Prefect makes one in five seconds.
# Whole seconds: its recorder cuts the rest off, and at 0 it flushes without a pause and takes a core.
_BATCHES = {
    f"PREFECT_SERVER_SERVICES_{service}_{name}": value
    for service in ("TASK_RUN_RECORDER", "EVENT_PERSISTER")
    for name, value in (("BATCH_SIZE", "500"), ("READ_BATCH_SIZE", "500"), ("FLUSH_INTERVAL", "1"))
}
SERVER_SETTINGS = {
    **_BATCHES,
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "500",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its page sends telemetry of its own
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
"""What a Prefect server of factscale's is told: here, in docker/compose.yaml and in deployments/cluster/slurm-ray.sbatch."""

_PASSWORDS = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")


def prepare_environment(home: Home, *, quiet: bool = False) -> None:
    """Settings that Prefect reads when it is imported; what the user has set stays. ``quiet``: its log goes to its API alone."""
    defaults = {
        "PREFECT_HOME": str(home.folder / "prefect"),
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": HEARTBEAT_SECONDS,
        **SERVER_SETTINGS,
        **({"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"} if quiet else {}),
    }
    try:
        home.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"FACTSCALE_HOME: {home.folder} cannot be made ({error.strerror}): name another folder"
        ) from None
    if "PREFECT_API_URL" in os.environ or "PREFECT_PROFILE" in os.environ or "PREFECT_HOME" in os.environ:
        defaults.pop("PREFECT_HOME")
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def password() -> str | None:
    """What a server that is started here asks for, as ``user:password``; None: nothing."""
    return next((os.environ[name] for name in _PASSWORDS if os.environ.get(name)), None)


def bound() -> Callable[[], None]:
    """A ``preexec_fn`` that binds a child to the life of this process, however that ends."""
    return partial(die_with_parent, os.getpid())


@contextmanager
def prefect_api(home: Home) -> Iterator[str]:
    """The URL of a Prefect API: the configured one, or that of a server that ends with the block."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    configured = PREFECT_API_URL.value()
    if configured:
        yield configured
        return
    with ExitStack() as stack:
        url = stack.enter_context(running_server(home, free_port(), with_ui=False))
        stack.enter_context(temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: password()}))
        os.environ["PREFECT_API_URL"] = url
        try:
            mark_abandoned(FLOWS)
            yield url
        finally:
            del os.environ["PREFECT_API_URL"]


@contextmanager
def configured_client(mend: str) -> Iterator[SyncPrefectClient]:
    """A client of the server that PREFECT_API_URL names; ``mend`` says what to do where it names none.

    Raises InputError where none is named, none answers, it asks for another password, or refuses what the block asks.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        raise InputError(f"PREFECT_API_URL is not set: {mend}")
    with get_client(sync_client=True) as client:
        wrong = client.api_healthcheck()
        if wrong is not None:
            raise InputError(
                f"PREFECT_API_URL: no Prefect server answers at {url} ({wrong}): start it, or name another"
            )
        try:
            client.read_work_pools(limit=1)
            yield client
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 401:
                raise InputError(
                    f"PREFECT_API_AUTH_STRING: the server at {url} asks for another user:password"
                ) from None
            raise InputError(f"PREFECT_API_URL: the server at {url} refuses: {error}") from None
        except httpx.HTTPError as error:
            raise InputError(f"PREFECT_API_URL: the server at {url} does not answer any more ({error})") from None


@contextmanager
def running_server(home: Home, port: int, *, with_ui: bool) -> Iterator[str]:
    """A Prefect server on 127.0.0.1:``port`` with its database in the home; yields the API's URL, ends with the block.

    Raises RunError if the server does not answer in time; its log is named in the message.
    """
    home.logs.mkdir(parents=True, exist_ok=True)
    log = home.logs / "prefect-server.log"
    url = f"http://127.0.0.1:{port}/api"
    with ExitStack() as stack:
        with (home.logs / "prefect-start.lock").open("w", encoding="utf-8") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # two servers that migrate one new database fail
            server = _start(port, log, with_ui=with_ui)
            stack.callback(end, server)
            _wait(server, url, log)
        # Whatever this process tells a server goes through one thread, which would go on telling this one when it has gone.
        stack.callback(_drain)
        yield url


def end(child: subprocess.Popen[bytes], patience: float = 15) -> None:
    """Ask a child to end, and kill it if it does not within ``patience`` seconds."""
    child.terminate()
    try:
        child.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _start(port: int, log: Path, *, with_ui: bool) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PREFECT__SERVER_FINAL": "1"}
    if secret := password():
        environment["PREFECT_SERVER_API_AUTH_STRING"] = secret
    # Else any page in the user's browser could start runs here.
    own = ",".join(f"http://{name}:{port}" for name in ("127.0.0.1", "localhost"))
    environment.setdefault("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", own)
    if with_ui:
        address = f"http://127.0.0.1:{port}/api"
        environment |= {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_SERVER_UI_API_URL": address}
    else:
        environment |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, *options],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal is for the command, which ends its server
            preexec_fn=bound(),
        )


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            free = shutil.disk_usage(log.parent).free // 1024**2
            raise RunError(
                f"the Prefect server ended at once with code {server.returncode} ({free} MiB are free on its disk); see {log}"
            )
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    raise RunError(f"the Prefect server did not answer at {url} within {_START_SECONDS} s; see {log}")


def _drain() -> None:
    """Send what Prefect still holds back in its threads, so that the server does not end before the last log and event."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=_DRAIN_SECONDS)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
