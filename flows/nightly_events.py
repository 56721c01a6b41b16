"""The events of nightly re-evaluations, and the trigger of an automation on them.

Each night emits one event: ``factscale.nightly.first | improved | same | worse``, about the resource ``factscale.study.NAME``,
whose labels say verdict and ``factscale.regression`` (true, false), since automations match labels; numbers are in the payload.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.events import emit_event
from prefect.events.schemas.automations import EventTrigger, Posture

PREFIX = "factscale.nightly."
FIRST, IMPROVED, SAME, WORSE = (f"{PREFIX}{verdict}" for verdict in ("first", "improved", "same", "worse"))
ALL_EVENTS = (FIRST, IMPROVED, SAME, WORSE)
STUDY_RESOURCE = "factscale.study."
"""What the resource id of a study begins with."""
REGRESSION_LABEL = "factscale.regression"
VERDICT_LABEL = "factscale.verdict"
_NUMBERS = (
    *("effect", "low", "high", "p_holm", "drift", "margin", "confidence", "regression"),
    *("questions", "new_questions", "gone_questions", "study_key", "against", "nightly_key"),
)


def regression_trigger(study: str = "*") -> EventTrigger:
    """Fires for each night on which a study (its name; ``*``: any) is worse beyond its margin."""
    return EventTrigger(
        expect={WORSE},
        match={"prefect.resource.id": f"{STUDY_RESOURCE}{study}", REGRESSION_LABEL: "true"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def emit_verdict(name: str, verdict: str, told: dict[str, Any], page: str | None) -> None:
    """Emit the event of one night of the study ``name``. ``told`` is the verdict's row; ``page`` is where its report lies.

    A night that is retried emits it again: an event that was lost with its process would be a loss that nobody hears of.
    """
    payload = {field: told.get(field) for field in _NUMBERS}
    emit_event(
        event=f"{PREFIX}{verdict}",
        resource={
            "prefect.resource.id": f"{STUDY_RESOURCE}{name}",
            "prefect.resource.name": name,
            "prefect.resource.role": "study",
            VERDICT_LABEL: verdict,
            REGRESSION_LABEL: str(bool(told.get("regression"))).lower(),
        },
        payload={"study": name, "verdict": verdict, **payload, "report": page},
    )
