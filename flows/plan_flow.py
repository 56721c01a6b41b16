"""The flow `plan`: what a study would take, as artifacts, before anything is spent.

Run alone: ``factscale study plan deployments/studies/demo.yaml``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flows.limits import Limit, limited
from flows.parameters import Study
from flows.plan import publish_plan
from flows.recorded import flow

GpuPrice = Annotated[float | None, Field(ge=0, description="US dollars a GPU hour; empty: no money for GPUs")]
Gpus = Annotated[int, Field(ge=1, le=10_000, description="GPUs that work at a time, for the wall time")]


@flow(name="plan")
def plan(parameters: Study, limit: Limit = None, gpu_price: GpuPrice = None, gpus: Gpus = 1) -> str:
    """The units of a study, what is missing of them, tokens, GPU hours and money by model. Returns what it comes to."""
    return publish_plan(limited(parameters, limit), None, gpu_price, gpus)
