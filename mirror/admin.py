"""The admin: everything can be looked at, nothing can be changed behind the mirror's back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from mirror import tokens
from mirror.changes import to_datetime
from mirror.conf import conf
from mirror.models import (
    Again,
    Difference,
    Loading,
    Mirror,
    ModelOwner,
    Oplog,
    Outbox,
    Source,
    Stream,
    Token,
    Untold,
    Verification,
)
from mirror.registry import mirrored_models

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    _Paginator = Paginator[Any]
else:
    ModelAdmin = admin.ModelAdmin
    _Paginator = Paginator


class ReadOnlyAdmin:
    """Mix into the admin of a mirrored model on the central server: look, don't touch.

    Works for inlines too. What the mirror writes there would overwrite, or collide with, whatever
    somebody changed by hand. Actions stay that ask for a permission which is given, such as
    ``@admin.action(permissions=["view"])``; one that asks for none may write, and is left out.
    """

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> dict[str, Any]:
        # Django tells where the actions are shown from 6.1 on, and asks every override to take it.
        where = {} if action_location is None else {"action_location": action_location}
        actions: dict[str, Any] = super().get_actions(request, **where)  # type: ignore[misc]
        return {name: action for name, action in actions.items() if _asks_permission(action)}

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def _asks_permission(action: Any) -> bool:
    # A tuple that starts with the function until Django 6.0, an object with attributes since.
    function = action[0] if type(action) is tuple else action.func
    return bool(getattr(function, "allowed_permissions", ()))


class CappedPaginator(_Paginator):
    """Counts the first ten thousand rows only: an oplog has millions, and counting them reads them."""

    CAP = 10_000

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows[: self.CAP].count())


class RecordAdmin(ReadOnlyAdmin, ModelAdmin):
    show_full_result_count = False
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).using(conf().database)


class StreamFilter(admin.SimpleListFilter):
    title = _("stream")
    parameter_name = "stream"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(stream.pk), str(stream)) for stream in Stream.objects.using(conf().database)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        return queryset.filter(stream=chosen) if chosen else queryset


class SourceFilter(admin.SimpleListFilter):
    title = _("source")
    parameter_name = "source"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(source.pk), str(source)) for source in Source.objects.using(conf().database)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        return queryset.filter(source=chosen) if chosen else queryset


class ModelFilter(admin.SimpleListFilter):
    """Offers what MIRROR lists: asking the oplog for its models would read it all."""

    title = _("model")
    parameter_name = "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(label, label) for label in sorted(mirrored_models())]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        return queryset.filter(model=chosen) if chosen else queryset


@admin.register(Oplog)
class OplogAdmin(RecordAdmin):
    list_display = ["time", "stream", "op", "model", "key"]
    list_filter = [StreamFilter, "op", ModelFilter]
    list_select_related = ["stream"]
    search_fields = ["key__exact"]
    search_help_text = _("A whole key: the UUID, or the primary key.")
    fields = ["time", "ts", "stream", "position", "op", "model", "key", "ends_group", "change"]
    paginator = CappedPaginator
    sortable_by = ()

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        # Whichever an index serves: a stream in its own order, else the order of arrival.
        return ("stream", "-ts") if StreamFilter.parameter_name in request.GET else ("-id",)

    @admin.display(description=_("time"))
    def time(self, entry: Oplog) -> str:
        return _precise(entry.ts)

    @admin.display(description=_("change"))
    def change(self, entry: Oplog) -> SafeString:
        return format_html("<pre>{}</pre>", msgspec.json.format(entry.body))


@admin.register(Outbox)
class OutboxAdmin(RecordAdmin):
    list_display = ["id", "time", "op", "model"]
    list_filter = [ModelFilter]
    paginator = CappedPaginator
    ordering = ["-id"]
    sortable_by = ()

    @admin.display(description=_("captured"))
    def time(self, entry: Outbox) -> str:
        return _precise(entry.captured_at)


@admin.register(Stream)
class StreamAdmin(RecordAdmin):
    list_display = ["uuid", "local", "position", "head", "head_time", "anchor_time", "created_at"]

    @admin.display(description=_("newest change"))
    def head_time(self, stream: Stream) -> str:
        return _precise(stream.head)

    @admin.display(description=_("pruned up to"))
    def anchor_time(self, stream: Stream) -> str:
        return _precise(stream.anchor)


@admin.register(Mirror)
class MirrorAdmin(RecordAdmin):
    list_display = ["mirror", "token", "stream", "cursor_time", "position", "first_seen", "last_seen"]
    list_select_related = ["stream"]

    @admin.display(description=_("committed up to"))
    def cursor_time(self, mirror: Mirror) -> str:
        return _precise(mirror.cursor)


@admin.register(Source)
class SourceAdmin(RecordAdmin):
    list_display = ["name", "url", "state", "cursor_time", "changes_behind", "heard_at", "error_code"]
    # The token lets in whoever has it; the fence means nothing to people.
    exclude = ["token", "fence"]

    @admin.display(description=_("mirrored up to"))
    def cursor_time(self, source: Source) -> str:
        return _precise(source.cursor)


@admin.register(ModelOwner)
class ModelOwnerAdmin(RecordAdmin):
    list_display = ["model", "source"]


@admin.register(Loading)
class LoadingAdmin(RecordAdmin):
    list_display = ["model", "source", "state", "rows", "total", "began_at", "ended_at"]
    list_filter = [SourceFilter, "state"]
    list_select_related = ["source"]


@admin.register(Again)
class AgainAdmin(RecordAdmin):
    list_display = ["model", "source", "pk_there", "known"]
    list_filter = [SourceFilter, ModelFilter]
    list_select_related = ["source"]
    paginator = CappedPaginator
    sortable_by = ()


@admin.register(Verification)
class VerificationAdmin(RecordAdmin):
    list_display = [
        "model",
        "source",
        "state",
        "rows",
        "missing",
        "different",
        "extra",
        "refused",
        "ended_at",
    ]
    list_filter = [SourceFilter, "state"]
    list_select_related = ["source"]


@admin.register(Difference)
class DifferenceAdmin(RecordAdmin):
    list_display = ["model", "key", "source", "kind", "fields", "found_time", "repaired"]
    list_filter = [SourceFilter, ModelFilter, "kind", "repaired"]
    list_select_related = ["source"]
    search_fields = ["key__exact"]
    search_help_text = _("A whole key: the UUID, or the primary key.")
    ordering = ["-id"]

    @admin.display(description=_("found at"))
    def found_time(self, difference: Difference) -> str:
        return _precise(difference.cursor)


@admin.register(Untold)
class UntoldAdmin(RecordAdmin):
    list_display = ["model", "since"]


@admin.register(Token)
class TokenAdmin(RecordAdmin):
    list_display = ["name", "prefix", "created_at", "last_used_at", "revoked_at"]
    exclude = ["digest"]
    actions = ["revoke"]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # A token is shown once, by the command: no page and no history may keep it.
        note = {"subtitle": _("New tokens: manage.py mirrortoken create NAME")}
        return super().changelist_view(request, {**note, **(extra_context or {})})

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("mirror.change_token")

    @admin.action(description=_("Revoke: let nobody in with it"), permissions=["revoke"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[Token]) -> None:
        for token in chosen:
            tokens.revoke(token.name)
        self.message_user(request, _("Revoked."), messages.SUCCESS)


def _precise(ts: int) -> str:
    return f"{timezone.localtime(to_datetime(ts)):%Y-%m-%d %H:%M:%S.%f}" if ts else ""
