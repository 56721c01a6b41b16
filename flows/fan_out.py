"""Where the units that load a model are made: here, on Prefect workers with a GPU each, or on a Ray cluster.

A flow hands them out in one way, whatever its study says in ``fan_out``::

    with handing_out(orders) as hand_out:
        hand_out([student_work(orders, name) for name in orders.student_names()])

Units that stand in the store are Cached task runs of the flow and are handed to nobody. docs/fan-out.md is the guide.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect.futures import PrefectFuture

from flows.artifacts import gather
from flows.generation_parameters import FanOut
from flows.orders import Orders, Waiting
from flows.parameters import Distill, Finetune
from flows.unit_names import GpuOrder, Work
from models.placement import gpus_for
from store.types import InputError
from tasks.landing import submit
from tasks.students import StudentOrder, student_missing

HandOut = Callable[[Sequence[Work]], list[Any]]


class Place(ABC):
    """Somewhere else than in the flow's process. It is entered when the first unit is missing, and left with the flow."""

    def __enter__(self) -> Place:
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None: ...

    @abstractmethod
    def check(self, needs: Sequence[float]) -> None:
        """Whether units that need so many GPUs each can be made here. Raises InputError that says what is missing."""

    @abstractmethod
    def submit(self, work: Work, gpus: float) -> PrefectFuture[Any]:
        """Hand out one unit that is missing."""


@contextmanager
def handing_out(orders: Orders) -> Iterator[HandOut]:
    """A function that makes units where the study of ``orders`` says, waits for all, and gives their results in their order.

    Raises what :func:`flows.artifacts.gather` raises for the first unit that failed, once all have ended; and before any is
    handed out InputError, where the place cannot be reached or does not hold a model.
    """
    parameters = orders.parameters
    if not isinstance(parameters, Distill):
        raise TypeError(f"{type(parameters).__name__} says nothing of where units are made")
    chosen = parameters.fan_out
    with ExitStack() as stack:
        places: list[Place] = []

        def place() -> Place:
            if not places:
                places.append(stack.enter_context(_place(parameters)))
            return places[0]

        def hand_out(works: Sequence[Work]) -> list[Any]:
            missing = [_is_missing(orders, work) for work in works]
            needs = [
                _gpus_elsewhere(work, chosen) if lacks else 0.0 for work, lacks in zip(works, missing, strict=True)
            ]
            if any(needs):
                place().check(sorted({gpus for gpus in needs if gpus}))
            return gather(
                [
                    place().submit(work, gpus) if gpus else submit(work.task, work.order, orders.store, missing=lacks)
                    for work, lacks, gpus in zip(works, missing, needs, strict=True)
                ]
            )

        yield hand_out


def check_place(parameters: Distill) -> None:
    """Whether the study can hand out its units at all, as far as this machine alone tells. Raises InputError."""
    if parameters.fan_out.kind == "workers":
        from flows.fan_out_workers import check_configured

        check_configured()
    elif parameters.fan_out.kind == "ray":
        from flows.fan_out_ray import check_started_here, packages

        packages()
        check_started_here(parameters.fan_out)


def warn_of_place(parameters: Distill) -> None:
    """Say in the run's log what units would wait for, where any is missing: nobody may have started a worker yet."""
    if parameters.fan_out.kind == "workers":
        from flows.fan_out_workers import warn_of_workers

        warn_of_workers()
    elif parameters.fan_out.kind == "ray":
        from flows.fan_out_ray import warn_of_cluster

        warn_of_cluster(parameters.fan_out)


def check_trainings(orders: Orders) -> None:
    """Whether trainings over several machines, where some are still to be made, are not handed out. Raises InputError."""
    parameters = orders.parameters
    if not isinstance(parameters, Finetune) or parameters.finetune.run.nodes == 1 or parameters.fan_out.kind == "local":
        return
    for name in orders.student_names():
        try:
            order = orders.student(*name)
            missing = student_missing(order, orders.home)
        except Waiting:
            missing = True  # its training set is
        if missing:
            raise _over_nodes(parameters.finetune.run.nodes, parameters.fan_out)


def _over_nodes(nodes: int, chosen: FanOut) -> InputError:
    return InputError(
        f"finetune.run.nodes {nodes} with fan_out.kind {chosen.kind!r}: a unit is handed to one machine, where it would wait for "
        "the ranks of the others; train with `fan_out: {kind: local}`, starting the study on the first machine "
        "(docs/training-several-gpus.md), or leave nodes and main_address out. Neither changes what is made"
    )


def gpus_needed(order: GpuOrder, chosen: FanOut) -> float:
    """GPUs of ``chosen.gpu_gib`` that a unit takes: 0 for a model that a server runs, a part of one where GPUs are shared.

    By model size as in ``models.placement``; a training takes what ``finetune.run.gpus`` says, and never a part.

    Raises:
        InputError: no number of such GPUs holds the model, or a training over several machines would be handed to one.
    """
    if isinstance(order, StudentOrder):
        if order.options.nodes > 1 and chosen.kind != "local":
            raise _over_nodes(order.options.nodes, chosen)
        return float(order.options.gpus)
    if order.model.asked_at is not None:
        return 0.0
    try:
        return gpus_for(
            order.model.entry.parameters, chosen.gpu_gib, order.run.tensor_parallel, share=chosen.share_gpus
        )
    except ValueError as error:
        raise InputError(f"fan_out.gpu_gib: model {order.model.name!r}: {error}") from None


def placed(order: GpuOrder, gpus: float) -> GpuOrder:
    """The order as it is run on so many GPUs: as many share the model, and of a part of one only that part is filled.

    Neither is in a key, so the order's key stays as it is.
    """
    if isinstance(order, StudentOrder) or gpus == 0:
        return order
    run = order.run
    changed = {
        "tensor_parallel": max(run.tensor_parallel, int(gpus)),
        "gpu_memory": round(run.gpu_memory * min(1.0, gpus), 4),
    }
    return order.model_copy(update={"run": run.model_copy(update=changed)})


def _gpus_elsewhere(work: Work, chosen: FanOut) -> float:
    """GPUs of another place that a missing unit is handed to; 0: it is made here, as is what a server runs."""
    return 0.0 if chosen.kind == "local" else gpus_needed(work.order, chosen)


def _is_missing(orders: Orders, work: Work) -> bool:
    return not orders.store.has_unit(work.order.key) if work.missing is None else work.missing


def _place(parameters: Distill) -> Place:
    # Each is imported where it is used: Ray is an extra, and takes a second to import.
    if parameters.fan_out.kind == "ray":
        from flows.fan_out_ray import RayPlace

        return RayPlace(parameters.fan_out)
    from flows.fan_out_workers import WorkersPlace

    return WorkersPlace(parameters)
