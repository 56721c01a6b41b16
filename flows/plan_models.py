"""What a plan's units take by model: tokens a second, GPUs, hours, money; what is measured and what is estimated is told of each.

Hours stand on the expected tokens where the store knows lengths, else on those at most. Speed is that which this store has
measured of the model on the same kind of device (``store/rates.py``), else a rule of thumb (``models/speeds.py``). GPUs a unit go
by the model's size (``models/placement.py``), or with fan-out ``local`` by ``generation.tensor_parallel``, as its engine does.
Wall time is never less than the longest unit, nor than all GPU hours of a stage over the GPUs there are; stages follow one
another, and with fan-out ``local`` units do, on GPUs or without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from flows.orders import Orders
from flows.parameters import Study
from flows.plan_units import Planned, Work, key_of_base
from models.fetching import downloaded
from models.placement import BYTES_A_WEIGHT, GIB, fits, gpus_for
from models.registry import EMBEDDED, HOSTED, ModelEntry
from models.speeds import Device, asking_speed, devices_here, training_speed
from store.rates import Rate, generation_rates, judging_rates, training_rates
from tasks.verdicts import REPLY_TOKENS
from tasks.weights import ModelChoice

Source = Literal["measured", "estimated", "API", "server"]
_WORK: dict[Work, str] = {
    "teacher": "teaches",
    "judge": "judges",
    "train": "is trained",
    "dev": "dev answers",
    "answers": "answers",
}
_STAGES: tuple[Work, ...] = ("teacher", "train", "dev", "answers", "judge")


class ModelPlan(NamedTuple):
    """What one model does in one role. ``tokens`` at most, ``expected`` by what is known (None: nothing is), ``prompt`` about;
    ``rate`` tokens a second of one unit (judging: calls a second where measured), ``source`` where it is from, over ``measured``
    units. ``gpus`` of a unit (0: none is needed here); ``hours`` of GPUs, or of this machine where it has none (``device`` cpu);
    ``longest`` hours of the longest unit, ``busy`` of all one after another; ``api`` US dollars of a provider at most, ``rent``
    of GPUs at the price given; ``fits``: whether the GPUs of a unit hold the model."""

    model: str
    work: Work
    role: str
    to_do: int
    units: int
    tokens: int
    expected: int | None
    prompt: int
    rate: float | None
    source: Source
    measured: int
    gpus: float
    device: Device
    hours: float
    longest: float
    busy: float
    api: float | None
    rent: float | None
    weights: str
    to_fetch: float
    fits: bool


class Totals(NamedTuple):
    """The whole plan: sums over models. ``wall`` in hours with ``gpus`` GPUs, at least; ``in_turn``: units follow one another,
    however many GPUs there are. ``too_large`` names models that need more GPUs than there are, or than a unit of theirs is
    given. ``at_most`` counts models whose lengths nothing is known of."""

    units: int
    to_do: int
    tokens: int
    expected: int
    hours: float
    api: float | None
    rent: float | None
    wall: float
    gpus: int
    in_turn: bool
    too_large: tuple[str, ...]
    at_most: int
    estimated: int
    device: Device


class Rates:
    """The speeds that the store knows, read once."""

    def __init__(self, orders: Orders, device: Device) -> None:
        self._device = device
        self._asking = generation_rates(orders.store)
        self._judging = judging_rates(orders.store)
        self._training = training_rates(orders.store)

    def asking(self, model: ModelChoice) -> Rate | None:
        """Generated tokens a second."""
        return self._asking.get((key_of_base(model), self._device))

    def judging(self, judge: str | None) -> Rate | None:
        """Calls a second."""
        return self._judging.get((judge, self._device)) if judge else None

    def training(self, model: ModelChoice, method: str) -> Rate | None:
        """Trained tokens a second."""
        return self._training.get((key_of_base(model), method, self._device))


def by_model(study: Study, orders: Orders, units: Iterable[Planned], gpu_price: float | None = None) -> list[ModelPlan]:
    """One row a model and role, in the order of the study; ``gpu_price`` in US dollars a GPU hour (None: no money for GPUs).

    A model that a server runs has a row of its own beside the students trained on it, which are loaded; and so has each wording
    of a judge, since its speed is known by that.
    """
    device: Device = "cuda" if study.fan_out.kind != "local" else devices_here()
    rates = Rates(orders, device)
    groups: dict[tuple[str, Work, bool, str | None], list[Planned]] = {}
    entries: dict[str, ModelEntry] = {}
    for unit in units:
        if unit.model is not None:
            groups.setdefault((unit.model.name, unit.work, unit.away, unit.judge), []).append(unit)
            entries[unit.model.entry.alias] = unit.model.entry
    to_fetch = {alias: gib_to_fetch(entry) for alias, entry in entries.items()}
    return [_model_plan(study, rates, device, mine, gpu_price, to_fetch) for mine in groups.values()]


def totals(study: Study, units: list[Planned], models: list[ModelPlan], gpus: int) -> Totals:
    """Sums and wall time with ``gpus`` GPUs."""
    local = study.fan_out.kind == "local"
    if local:
        wall = sum(one.busy for one in models)
    else:
        stages = [[one for one in models if one.work == work] for work in _STAGES]
        wall = sum(
            max([sum(one.hours for one in stage) / gpus, *(one.longest for one in stage)], default=0.0)
            for stage in stages
        )
    api, rent = [m.api for m in models if m.api is not None], [m.rent for m in models if m.rent is not None]
    busy = [one for one in models if one.to_do]
    asked = [one for one in busy if one.work != "train"]
    return Totals(
        units=len(units),
        to_do=sum(unit.state != "done" for unit in units),
        tokens=sum(one.tokens for one in asked),
        expected=sum(one.tokens if one.expected is None else one.expected for one in asked),
        hours=sum(one.hours for one in models),
        api=sum(api) if api else None,
        rent=sum(rent) if rent else None,
        wall=wall,
        gpus=gpus,
        in_turn=local,
        too_large=tuple(dict.fromkeys(one.model for one in busy if not one.fits or (one.gpus > gpus and not local))),
        at_most=sum(one.expected is None for one in busy),
        estimated=sum(one.source == "estimated" for one in busy),
        device=next((one.device for one in models), devices_here()),
    )


def gib_to_fetch(entry: ModelEntry) -> float:
    """GiB of weights that are not downloaded yet, about; 0 where there are none to download. Nothing is fetched by a plan."""
    if entry.hub_id is None or downloaded(entry.hub_id, str(entry.revision)):
        return 0.0
    return BYTES_A_WEIGHT * (entry.parameters or 0) / GIB


def weights_of(entry: ModelEntry, to_fetch: float) -> str:
    """Where a model's weights are, in words."""
    if entry.source == HOSTED:
        return "behind an API"
    if entry.source == EMBEDDED:
        return "come with factscale"
    if entry.hub_id is None:
        return "in a folder"
    return f"not downloaded yet (about {to_fetch:,.0f} GiB)" if to_fetch else "here"


def _model_plan(
    study: Study,
    rates: Rates,
    device: Device,
    units: list[Planned],
    price: float | None,
    to_fetch: Mapping[str, float],
) -> ModelPlan:
    first = units[0]
    model = first.model
    assert model is not None  # noqa: S101 - by_model groups those that have one
    entry, away = model.entry, first.away
    gpus = 0.0 if away or device == "cpu" else _gpus(study, first, entry)
    rate, source, measured, seconds = _seconds(study, rates, device, units, gpus)
    hours = [one / 3600 * (gpus or 1.0) if not away else 0.0 for one in seconds]
    known = [unit.expected for unit in units if unit.state != "done"]
    costs = [unit.cost for unit in units if unit.cost is not None]
    served = away and not model.hosted
    missing = 0.0 if served else to_fetch[entry.alias]
    return ModelPlan(
        model=entry.alias,
        work=first.work,
        role=_WORK.get(first.work, first.work),
        to_do=sum(unit.state != "done" for unit in units),
        units=len(units),
        tokens=sum(unit.tokens for unit in units),
        expected=None if None in known else sum(one for one in known if one is not None),
        prompt=sum(unit.prompt for unit in units),
        rate=rate,
        source=source,
        measured=measured,
        gpus=gpus,
        device=device,
        hours=sum(hours),
        longest=max((one / 3600 for one in seconds), default=0.0),
        busy=sum(seconds) / 3600,
        api=sum(costs) if costs else None,
        rent=None if price is None or not gpus else sum(hours) * price,
        weights="on a server" if served else weights_of(entry, missing),
        to_fetch=missing,
        fits=not gpus or first.work == "train" or gpus < 1 or fits(entry.parameters, study.fan_out.gpu_gib, int(gpus)),
    )


def _gpus(study: Study, unit: Planned, entry: ModelEntry) -> float:
    if unit.work == "train":
        return float(study.finetune.run.gpus * study.finetune.run.nodes)
    chosen = study.fan_out
    if chosen.kind == "local":  # whatever the size: nothing but the study gives a local engine more
        return float(study.generation.tensor_parallel)
    return gpus_for(entry.parameters, chosen.gpu_gib, study.generation.tensor_parallel, share=chosen.share_gpus)


def _seconds(
    study: Study, rates: Rates, device: Device, units: list[Planned], gpus: float
) -> tuple[float | None, Source, int, list[float]]:
    """The speed of a group of units, where it is from, over how many measured units, and the seconds of each unit."""
    model, first = units[0].model, units[0]
    assert model is not None  # noqa: S101
    if first.away:
        return None, "API" if model.hosted else "server", 0, [0.0 for _ in units]
    tokens = [unit.tokens if unit.expected is None else unit.expected for unit in units]
    if first.work == "train":
        return _training_seconds(study, rates, device, units, tokens)
    if first.work == "judge":
        found = rates.judging(first.judge)
        if found is not None:
            return found.value, "measured", found.units, [one / REPLY_TOKENS / found.value for one in tokens]
    elif (found := rates.asking(model)) is not None:
        return found.value, "measured", found.units, [one / found.value for one in tokens]
    size = model.entry.active_parameters or model.entry.parameters or 1
    speed = asking_speed(size, gpus or 1.0, device)
    seconds = [one / speed.generated + unit.prompt / speed.read for unit, one in zip(units, tokens, strict=True)]
    return speed.generated, "estimated", 0, seconds


def _training_seconds(
    study: Study, rates: Rates, device: Device, units: list[Planned], tokens: list[int]
) -> tuple[float | None, Source, int, list[float]]:
    run, seconds = study.finetune.run, []
    speeds: list[tuple[float, int]] = []
    for unit, one in zip(units, tokens, strict=True):
        assert unit.model is not None  # noqa: S101
        assert unit.hyper is not None  # noqa: S101
        found = rates.training(unit.model, unit.hyper.method)
        size = unit.model.entry.parameters or 1
        adapters = unit.hyper.kind == "lora"
        rule = training_speed(
            size, run.gpus * run.nodes, device, adapters=adapters, checkpointing=run.gradient_checkpointing
        )
        speeds.append((found.value, found.units) if found else (rule, 0))
        seconds.append(one / speeds[-1][0])
    measured = min(count for _, count in speeds)
    return speeds[0][0], "measured" if measured else "estimated", measured, seconds
