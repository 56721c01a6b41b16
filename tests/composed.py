"""docker/compose.yaml read as Compose reads it, so that its processes can be started without an engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).resolve().parents[1] / "docker"
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?::(?P<how>[-?])(?P<other>[^}]*))?\}")


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables filled in. Raises KeyError for one that is compulsory and not given."""
    found: dict[str, Any] = _filled(yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8")), variables)
    return found


def wanted_variables() -> set[str]:
    """All variables that the file names."""
    return {found["name"] for found in _VARIABLE.finditer((DOCKER / "compose.yaml").read_text(encoding="utf-8"))}


def environment(service: Mapping[str, Any], moved: Mapping[str, str]) -> dict[str, str]:
    """A service's variables, with addresses of other services replaced by those where they are here."""
    found = {}
    for name, value in service["environment"].items():
        text = str(value)
        for there, here in moved.items():
            text = text.replace(there, here)
        found[name] = text
    return found


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        given = variables.get(found["name"], "")
        if given or found["how"] == "-":
            return given or found["other"]
        if found["how"] == "?":
            raise KeyError(f"{found['name']}: {found['other']}")
        return given

    return _VARIABLE.sub(fill, value)
