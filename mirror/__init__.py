"""The record: what changed, in what order. Installed on the source and on the centre."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.permits import maintenance

__all__ = ["maintenance"]


def __getattr__(name: str) -> object:
    # Only when asked for: the pure modules of this package are imported where nothing else may be.
    if name == "maintenance":
        from mirror.permits import maintenance

        return maintenance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
