"""The one error that the demo reports instead of raising."""

from __future__ import annotations

__all__ = ["Trouble"]


class Trouble(Exception):
    """Something that the person at the keyboard has to mend; the text is one line that says how."""
