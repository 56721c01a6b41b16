"""The sections of a study about how and where models are run: ``generation``, ``fan_out``, and the judges that others name."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from flows.parameter_types import Alias, unique
from models.engines.base import KEY_VARIABLE, plain_url
from store.types import Frozen, JudgeQuestion
from tasks.traces import Run


class Serving(Frozen):
    """A server that already runs one of the study's models as it is (students that the study trains are loaded here)."""

    model: Alias
    url: str = Field(description="The base of an OpenAI-compatible API: http://127.0.0.1:8000/v1 of `vllm serve`")
    served_as: str | None = Field(default=None, description="The server's name for the model; empty: its hub id")
    key_variable: str | None = Field(
        default=None, pattern=KEY_VARIABLE, description="The environment variable that holds the server's key"
    )
    in_flight: int = Field(default=64, ge=1, le=4096, description="Requests open at a time")

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        return plain_url(url)


class Generation(Run):
    """How models are run; nothing here enters a key."""

    servers: tuple[Serving, ...] = Field(
        default=(), description="Models that are asked through a server instead of being loaded here"
    )

    @model_validator(mode="after")
    def _one_server_a_model(self) -> Generation:
        unique(tuple(serving.model for serving in self.servers))
        return self


class FanOut(Frozen):
    """Where the units that load a model are made: thoughts and answers, students, verdicts. Nothing here enters a key."""

    kind: Literal["local", "workers", "ray"] = Field(
        default="local",
        description="local: in the flow's own process, one after another; workers: each as a run of the deployment `unit` on the "
        "work pool `gpu`, where one worker a GPU takes them; ray: as tasks of a Ray cluster",
    )
    at_once: int = Field(default=64, ge=1, le=1000, description="Units handed out at a time (workers, ray)")
    retries: int = Field(
        default=3, ge=0, le=20, description="How often a unit is started again, elsewhere, after its worker has died"
    )
    gpu_gib: float = Field(
        default=80.0, gt=0, le=1000, description="Memory of one GPU in GiB, which tells how many of them a model needs"
    )
    share_gpus: bool = Field(default=False, description="ray: small models take a part of a GPU each, several on one")
    address: str | None = Field(
        default=None,
        min_length=1,
        description="ray: the cluster, ray://host:10001 or `auto` for the one that this machine belongs to; empty: a Ray "
        "that is started here and ends with the flow",
    )
    local_gpus: int | None = Field(
        default=None, ge=0, le=64, description="ray, started here: the GPUs to declare; empty: those that are found"
    )

    @model_validator(mode="after")
    def _what_belongs_to_ray(self) -> FanOut:
        for name in ("address", "local_gpus", "share_gpus"):
            if self.kind != "ray" and getattr(self, name):
                raise ValueError(f"{name}: only fan-out `ray` has one, and kind is {self.kind!r}; leave it out")
        if self.address is not None and self.local_gpus is not None:
            raise ValueError("local_gpus: a cluster with an address knows its own GPUs; leave one of the two out")
        return self


class Judge(Frozen):
    """A model that judges predictions. In YAML its alias alone will do."""

    model: Alias
    question: JudgeQuestion = Field(
        default="contains",
        description="contains: does the prediction give a gold answer, 1 or 0 (fs1); grade: correct, incorrect or not "
        "attempted (SimpleQA)",
    )
    examples: bool = Field(default=False, description="Show it made-up cases: only very small ones need them")
    retries: int = Field(
        default=2,
        ge=0,
        le=5,
        description="How often an invalid reply is asked for again; what has landed as invalid is not asked again",
    )

    @model_validator(mode="before")
    @classmethod
    def _alias_alone(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value
