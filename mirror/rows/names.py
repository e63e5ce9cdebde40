"""What a content type was called when a row that names it was written.

Rows refer to content types by number and travel with their names. Between a write and the pass of the
sequencer a content type may have been deleted, as ``remove_stale_contenttypes`` does together with its
permissions, or numbered anew. Where content types are mirrored themselves, the outbox tells of both.
"""

from __future__ import annotations

from typing import Any

import msgspec
from django.contrib.contenttypes.models import ContentType

from mirror.models import Outbox
from mirror.registry import CONTENT_TYPE
from mirror.rows.reading import merge_payload


class ContentTypeNames:
    """During one pass over the outbox, in its order."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._names: dict[Any, list[str]] | None = None

    def forget(self) -> None:
        """A new pass begins."""
        if self._names:
            ContentType.objects.clear_cache()
        self._names = None

    def note(self, columns: dict[str, Any]) -> None:
        """The pass has come to a change of a content type."""
        self._known()[columns.get("id")] = _names(columns)

    def of(self, number: Any) -> list[str] | None:
        """App label and model, as they were at this place of the outbox; None where it does not say."""
        return self._known().get(number)

    def _known(self) -> dict[Any, list[str]]:
        if self._names is None:
            self._names = {}
            entries = Outbox.objects.using(self._using).filter(model=CONTENT_TYPE).order_by("id")
            for payload in entries.values_list("payload", flat=True).iterator():
                columns = merge_payload(msgspec.json.decode(payload))
                # The first that is told of a number says what it was until then: one that gets another name
                # is told as deleted first.
                self._names.setdefault(columns.get("id"), _names(columns))
        return self._names


def _names(columns: dict[str, Any]) -> list[str]:
    return [columns.get("app_label", ""), columns.get("model", "")]
