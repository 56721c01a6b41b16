"""What our HTML pages share: the template environment, embedded pictures, and files that are replaced as a whole.

A page needs no network: styles, plots and pictures are in it, and its content policy allows nothing else. Templates escape
every text; a picture from outside the templates is embedded as an image, in which no script runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval import findings
from eval.summary import SETTING_ORDER, budget_name
from store.types import RunError

TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """The environment of all templates: autoescape on, an unknown name an error, our filters."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": findings.percent,
        "points": findings.points,
        "magnitude": findings.magnitude,
        "p_value": findings.p_value,
        "budget": budget_name,
        "duration": duration,
        "size": size,
        "setting_class": lambda setting: setting if setting in SETTING_ORDER else "other",
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True),
    }
    return made


def style() -> Markup:
    """The style sheet of all pages."""
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - our own file


def plot(svg: str | None) -> Markup | None:
    """A plot of ``eval.plots`` or ``eval.retrieval_plots``, to stand inline; matplotlib has escaped every name in it."""
    return None if svg is None else Markup(svg)  # noqa: S704 - drawn by us


def image(svg: str | None) -> str | None:
    """An SVG from elsewhere as the ``src`` of an image."""
    return None if not svg else "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def file_slug(name: str) -> str:
    """A name as it may stand in file names and ids: lower-case letters, digits and dashes, another one for each name."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return slug if slug == name else f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".strip("-")


def write(path: Path, content: str | bytes) -> Path:
    """Write the file, replacing it as a whole, so that a reader never sees half of one. Returns its path.

    Raises RunError, with the file's name, where it cannot be written; the old file is then as it was.
    """
    content = content.encode("utf-8", errors="replace") if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(
            f"the report {path} could not be written ({error.strerror}): nothing of it was changed"
        ) from error
    return path
