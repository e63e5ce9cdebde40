"""The dashboard's pages: the shell that the browser fills, one change in full, the state as JSON."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

import msgspec
from django.contrib.admin.views.decorators import staff_member_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from mirror.changes import Change, Op, decode_change
from mirror.conf import conf
from mirror.errors import MirrorError, Refusal, Unauthorized
from mirror.models import Oplog
from mirror.oplog import of_row
from mirror.registry import mirrored_models
from mirror.status import collect
from streamer.access import check_user
from streamer.diff import FieldChange, Kind, field_changes, kind_of

__all__ = ["change", "dashboard", "healthz", "status"]

_POLICY = (
    "default-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_NOTES = {
    Kind.CREATED: "The row was created.",
    Kind.CHANGED: "",
    Kind.DELETED: "The row was deleted. This is how it last was.",
}
_NOT_KNOWN = (
    "Nothing earlier about this row is in the oplog: it was created here, or its earlier changes are gone."
)

_View = Callable[..., HttpResponseBase]


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One change in full. ``known``: whether the row before it is in the oplog, to compare with."""

    stream: str
    ts: int
    op: str
    kind: str
    model: str
    pk: Any
    key: str
    known: bool
    note: str
    fields: list[FieldChange]
    #: How many fields stayed as they were.
    unchanged: int
    previous: int | None
    next: int | None


def _guarded(view: _View) -> _View:
    """Headers for everything that shows what other servers' users wrote."""

    @never_cache
    @require_safe
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        response["Content-Security-Policy"] = _POLICY
        response["X-Content-Type-Options"] = "nosniff"
        response["X-Frame-Options"] = "DENY"
        response["Referrer-Policy"] = "same-origin"
        return response

    return guarded


def _json(view: _View) -> _View:
    """Refusals as JSON: a script is not helped by a log-in page."""

    @wraps(view)
    def answering(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            check_user(request.user)
        except MirrorError as error:
            refusal = {"error": {"code": error.code, "message": str(error)}}
            return _answer(refusal, 401 if isinstance(error, Unauthorized) else 403)
        return view(request, *args, **kwargs)

    return answering


@_guarded
@staff_member_required
def dashboard(request: HttpRequest) -> HttpResponse:
    try:
        check_user(request.user)
    except Refusal as error:
        raise PermissionDenied(str(error)) from error
    context = {"models": sorted(mirrored_models()), "host": request.get_host()}
    return render(request, "mirror/dashboard.html", context)


@_guarded
@_json
def change(request: HttpRequest, stream: UUID, ts: int) -> HttpResponse:
    """What a change did to its row, compared with the change of that row before it."""
    entries = Oplog.objects.using(conf().database).select_related("stream")
    entry = entries.filter(stream__uuid=stream, ts=ts).first()
    if entry is None:
        raise Http404("no such change is in the oplog")
    row = entries.filter(of_row(entry.model, entry.key, entry.row), stream=entry.stream)
    previous = row.filter(ts__lt=ts).order_by("-ts").first()
    following = row.filter(ts__gt=ts).order_by("ts").values_list("ts", flat=True).first()
    return _answer(_story(entry, previous, following))


@_guarded
@_json
def status(request: HttpRequest) -> HttpResponse:
    """What ``mirrorstatus --json`` prints."""
    return _answer(collect(timezone.now()).as_json())


@_guarded
def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers; nothing else is asked of it."""
    return HttpResponse("ok\n", content_type="text/plain")


def _story(entry: Oplog, previous: Oplog | None, following: int | None) -> Story:
    now = decode_change(entry.body)
    before = decode_change(previous.body) if previous is not None else None
    fields = field_changes(now, before)
    kind = kind_of(entry.op, previous.op if previous is not None else None)
    known = previous is not None or now.op is Op.DELETE
    return Story(
        stream=str(entry.stream.uuid),
        ts=entry.ts,
        op=entry.op,
        kind=kind,
        model=entry.model,
        pk=now.pk,
        key=entry.key,
        known=known,
        note=_NOTES[kind] if known else _NOT_KNOWN,
        fields=fields,
        unchanged=_unchanged(now, fields),
        previous=previous.ts if previous is not None else None,
        next=following,
    )


def _unchanged(now: Change, fields: list[FieldChange]) -> int:
    return len(now.fields.keys() - {field.name for field in fields})


def _answer(body: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(body), content_type="application/json", status=status)
