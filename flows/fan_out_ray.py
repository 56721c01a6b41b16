"""Units as tasks of a Ray cluster: ``fan_out: {kind: ray}``, for many machines under a scheduler, or for parts of GPUs.

Ray gives each task its own CUDA_VISIBLE_DEVICES and runs one again whose worker has died; what had landed of it is kept. The
model's process is bound to the Ray worker that started it and dies with it.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any
from urllib.parse import urlsplit

from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.task_engine import run_task_sync
from prefect.utilities.annotations import quote

from flows.fan_out import Place, placed
from flows.generation_parameters import FanOut
from flows.unit_names import Work
from store.home import HOME_VARIABLE, STORE_VARIABLE, Home
from store.types import InputError, RunError
from tasks.landing import submit

logger = logging.getLogger(__name__)
_HANDED_ON = ("FACTSCALE_LOCK_TIMEOUT", "PREFECT_HOME", "PREFECT_API_URL", "OMP_WAIT_POLICY")
"""Variables that a task needs as the flow has them. No secrets: Ray's dashboard shows them (Prefect hands on its own)."""
_AUTHENTICATION = "RAY_AUTH_MODE"
_CONNECT_SECONDS = 10
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",  # the default is too short for a machine that is busy
}


class RayPlace(Place):
    """A Ray cluster: the one at the study's address, or one of this machine that ends with the flow."""

    def __init__(self, chosen: FanOut) -> None:
        self._chosen = chosen
        self._ray, self._runner, self._options = packages()
        self._open: list[Any] = []
        self._most = 0.0
        self._cpus, self._cpus_a_gpu = 1.0, 0.0

    def __enter__(self) -> RayPlace:
        _start(self._ray, self._chosen)
        try:
            alive = [node for node in self._ray.nodes() if node["Alive"]]
            _check_reach({node["NodeManagerHostname"] for node in alive})
            nodes = [node["Resources"] for node in alive]
            self._most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
            self._cpus = min((node["CPU"] for node in nodes if node.get("CPU")), default=1.0)
            self._cpus_a_gpu = min(
                (node.get("CPU", 0.0) / node["GPU"] for node in nodes if node.get("GPU")), default=0.0
            )
            self._runner.__enter__()
        except BaseException:
            self._ray.shutdown()
            raise
        get_run_logger().info("Ray: %d nodes, at most %g GPUs on one", len(nodes), self._most)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._runner.__exit__(*error)
        finally:
            self._ray.shutdown()

    def check(self, needs: Sequence[float]) -> None:
        if not self._most:
            get_run_logger().warning("Ray: the cluster has no GPU, so models run on CPUs, one at a time on a node")
        elif max(needs) > self._most:
            raise InputError(
                f"fan_out: a unit needs {max(needs):g} GPUs of one machine, and those of this Ray cluster have {self._most:g} at "
                "most; add larger ones, serve the model (generation.servers), or say in fan_out.gpu_gib what a GPU holds"
            )

    def submit(self, work: Work, gpus: float) -> PrefectFuture[Any]:
        self._wait_for_room()
        order = placed(work.order, gpus) if self._most else work.order
        # Ray would start its process anew for each task with a GPU, to free the memory: models are in processes of their own.
        with self._options(**self._resources(gpus), max_retries=self._chosen.retries, max_calls=0):
            future = submit(work.task, order, Home.current().store, missing=True, runner=self._runner)
        reference: Any = future
        self._open.append(reference.wrapped_future)
        return future

    def _resources(self, gpus: float) -> dict[str, float]:
        if not self._most:
            return {"num_cpus": self._cpus}
        # Its share of the cores as well: Ray's default of one would leave GPUs idle where cores are fewer, and tells libraries
        # to use one thread.
        cpus = self._cpus_a_gpu * gpus
        return {"num_gpus": gpus, "num_cpus": math.floor(cpus) if cpus >= 1 else math.floor(cpus * 1000) / 1000}

    def _wait_for_room(self) -> None:
        # Orders hold all prompts of their units: not more of them than asked for lie in the cluster.
        while len(self._open) >= self._chosen.at_once:
            _, self._open = self._ray.wait(self._open, num_returns=1)


def packages() -> tuple[Any, Any, Any]:
    """Ray, a task runner on it and the context of its options. Raises InputError where they are not installed."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise InputError(
            f"fan_out.kind 'ray': {error.name or 'ray'} is not installed: pip install 'factscale[ray]'"
        ) from None

    class Runner(RayTaskRunner):  # type: ignore[misc]
        """Does not look for futures in all prompts of a unit, which takes seconds. A quote does not survive pickling."""

        def _exchange_prefect_for_ray_futures(self, parameters: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
            return {name: value.unwrap() for name, value in parameters.items()}, []

        @staticmethod
        def _run_prefect_task(*_references: Any, parameters: dict[str, Any], **given: Any) -> Any:
            quoted = {name: quote(value) for name, value in parameters.items()}
            return run_task_sync(parameters=quoted, return_type="state", **given)

    return ray, Runner(), remote_options


def _start(ray: Any, chosen: FanOut) -> None:
    if ray.is_initialized():  # whoever did it in this process ends it as well
        ray.shutdown()
    check_started_here(chosen)
    check_answers(chosen)
    given: dict[str, Any] = {"num_gpus": chosen.local_gpus, "include_dashboard": False} if not chosen.address else {}
    try:
        with nullcontext() if chosen.address else _on_loopback():
            ray.init(
                address=chosen.address or "local",
                namespace="factscale",
                log_to_driver=False,
                logging_level=logging.WARNING,
                runtime_env={"env_vars": _variables(chosen)},
                **given,
            )
    except Exception as error:  # Ray's own way to say that it took too long is a bare one
        with suppress(Exception):
            ray.shutdown()
        said = " ".join(str(error).split())[:300]
        if chosen.address:
            raise _unanswered(chosen, said) from None
        raise RunError(f"fan_out.kind 'ray': Ray did not start on this machine: {said}") from None


def check_started_here(chosen: FanOut) -> None:
    """Whether a Ray that is started here asks for its token. Raises InputError."""
    if not chosen.address and os.environ.get(_AUTHENTICATION, "token").lower() != "token":
        raise InputError(
            f"{_AUTHENTICATION} {os.environ[_AUTHENTICATION]!r}: everyone on this machine could run code as you in the Ray that "
            "is started here; unset it"
        )


def check_answers(chosen: FanOut) -> None:
    """Whether anybody listens at the cluster's address: Ray itself would try for a quarter of an hour. Raises InputError."""
    named = os.environ.get("RAY_ADDRESS", "") if chosen.address == "auto" else chosen.address or ""
    host, _, port = named.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise _unanswered(chosen, f"{named}: {error}") from None


def warn_of_cluster(chosen: FanOut) -> None:
    """Say in the run's log where no cluster answers. It does not end the run: units that have landed need none."""
    try:
        check_answers(chosen)
    except InputError as error:
        get_run_logger().warning("units that are missing cannot be handed out as it is: %s", error)


def _unanswered(chosen: FanOut, said: str) -> InputError:
    return InputError(
        f"fan_out.address {chosen.address!r}: no Ray cluster answers there ({said}); start one (`ray start --head`), or "
        "leave the address out to start Ray here"
    )


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that is started inside listens on the loopback address alone.

    Ray takes an address 127.0.0.1 for one that it has to replace by the machine's; on systems where it starts no clusters it
    uses loopback, and that can be chosen. It has read the variable by now; its processes read it anew.
    """
    from ray._private import ray_constants

    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    variable = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if variable is None:
            del os.environ[name]
        else:
            os.environ[name] = variable


def _check_reach(hosts: set[str]) -> None:
    """Whether all machines reach the Prefect server. Raises InputError."""
    server = urlsplit(PREFECT_API_URL.value() or "").hostname
    others = sorted(hosts - {socket.gethostname()})
    if others and server in ("127.0.0.1", "localhost", "::1"):
        raise InputError(
            f"fan_out.kind 'ray': tasks on {', '.join(others[:3])} cannot reach the Prefect server at {server}, which is this "
            "machine alone; start one on an address that they reach, and set PREFECT_API_URL to it"
        )


def _variables(chosen: FanOut) -> dict[str, str]:
    known = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    home = Home.current()
    # A Ray of this machine inherits FACTSCALE_STORE, with a password that may stand in it.
    store = home.store_variable() if chosen.address else None
    return {HOME_VARIABLE: str(home.folder), **known, **({STORE_VARIABLE: store} if store else {})}
