"""All that a list of Prefect's API holds, which gives it in pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_PAGE = 200


def every(read: Callable[..., list[T]], **wanted: Any) -> list[T]:
    """What ``read``, a method of Prefect's client with ``limit`` and ``offset``, gives for these filters.

    All of it is read before any is returned, since changing an entry moves the later pages.
    """
    found: list[T] = []
    while True:
        page = read(**wanted, limit=_PAGE, offset=len(found))
        found += page
        if len(page) < _PAGE:
            return found
