from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.urls import reverse
from django.utils import timezone

from mirror import tokens
from mirror.admin import CappedPaginator, ReadOnlyAdmin
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

pytestmark = pytest.mark.django_db

TS = 1698395500971553
MODELS = [
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
]


@pytest.fixture
def rows():
    """One row of each table, the secret things recognisable."""
    Stream.objects.all().delete()
    stream = Stream.objects.create(local=True, head=TS, position=1, anchor=TS - 1)
    source = Source.objects.create(
        name="shop", url="ws://shop/", token="0123456789abcdef.secret", cursor=TS, fence=987654321
    )
    return {
        Again: Again.objects.create(source=source, model="shop.tag", pk_there="1", known=True),
        Difference: Difference.objects.create(
            source=source, model="shop.tag", key="a3f4", kind="missing", cursor=TS, found_at=timezone.now()
        ),
        Loading: Loading.objects.create(source=source, model="shop.tag", anew=False),
        Verification: Verification.objects.create(source=source, model="shop.tag", missing=1),
        Stream: stream,
        Source: source,
        Oplog: Oplog.objects.create(
            stream=stream,
            ts=TS,
            position=1,
            op="SAVE",
            model="shop.tag",
            key="a3f4",
            ends_group=True,
            body='{"fields":{"label":"<b>new</b>"}}',
        ),
        Outbox: Outbox.objects.create(op="SAVE", model="shop.tag", captured_at=TS, payload="{}"),
        Mirror: Mirror.objects.create(
            stream=stream,
            token="centre",
            mirror="m",
            cursor=TS,
            position=1,
            first_seen=timezone.now(),
            last_seen=timezone.now(),
        ),
        ModelOwner: ModelOwner.objects.create(model="shop.counter", source=source),
        Token: Token.objects.create(name="centre", prefix="0123456789abcdef", digest="d1d1" * 16),
        Untold: Untold.objects.create(model="shop.tag", since=timezone.now()),
    }


def url(model, page, *args):
    return reverse(f"admin:mirror_{model._meta.model_name}_{page}", args=args)


@pytest.mark.parametrize("model", MODELS)
def test_every_table_can_be_looked_at(admin_client, rows, model):
    for response in (
        admin_client.get(url(model, "changelist")),
        admin_client.get(url(model, "change", rows[model].pk)),
    ):
        assert response.status_code == 200
        page = response.content.decode()
        assert "0123456789abcdef.secret" not in page
        assert "d1d1" not in page
        assert "987654321" not in page


@pytest.mark.parametrize("model", MODELS)
def test_nothing_can_be_added_changed_or_deleted(admin_client, rows, model):
    before = model.objects.values().get(pk=rows[model].pk)
    pk = rows[model].pk
    assert admin_client.get(url(model, "add")).status_code == 403
    assert admin_client.post(url(model, "add"), {"name": "x"}).status_code == 403
    assert admin_client.post(url(model, "change", pk), {"name": "x"}).status_code == 403
    assert admin_client.post(url(model, "delete", pk), {"post": "yes"}).status_code == 403
    admin_client.post(url(model, "changelist"), {"action": "delete_selected", "_selected_action": [pk]})
    assert model.objects.values().get(pk=pk) == before


def test_the_mixin_leaves_looking_to_the_permissions(rf):
    class LookAdmin(ReadOnlyAdmin, admin.ModelAdmin):
        pass

    request = rf.get("/")
    request.user = User.objects.create_user("reader", is_staff=True)
    look = LookAdmin(User, admin.site)
    assert not look.has_view_permission(request)
    request.user.user_permissions.add(Permission.objects.get(codename="view_user"))
    request.user = User.objects.get(username="reader")
    assert look.has_view_permission(request)
    assert not look.has_add_permission(request)
    assert not look.has_change_permission(request)
    assert not look.has_delete_permission(request)


def test_the_mixin_works_for_inlines(rf):
    class LookInline(ReadOnlyAdmin, admin.TabularInline):
        model = Permission

    inline = LookInline(User, admin.site)
    assert not inline.has_add_permission(rf.get("/"), None)


def test_the_mixin_leaves_out_actions_that_may_write(admin_user, rf):
    @admin.action(permissions=["view"])
    def export(modeladmin, request, chosen): ...

    @admin.action(permissions=["change"])
    def publish(modeladmin, request, chosen): ...

    def rename(modeladmin, request, chosen): ...

    class LookAdmin(ReadOnlyAdmin, admin.ModelAdmin):
        actions = [export, publish, rename]

    request = rf.get("/")
    request.user = admin_user
    assert list(LookAdmin(User, admin.site).get_actions(request)) == ["export"]


# The oplog


def test_the_oplog_shows_times_to_the_microsecond(admin_client, rows):
    assert "2023-10-27 08:31:40.971553" in admin_client.get(url(Oplog, "changelist")).content.decode()


def test_a_change_is_shown_as_text(admin_client, rows):
    page = admin_client.get(url(Oplog, "change", rows[Oplog].pk)).content.decode()
    assert "&lt;b&gt;new&lt;/b&gt;" in page
    assert "<b>new</b>" not in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "a3f4"}, 1),
        ({"q": "a3"}, 0),  # a whole key, so that an index can serve it
        ({"op__exact": "SAVE"}, 1),
        ({"op__exact": "DELETE"}, 0),
        ({"model": "shop.tag"}, 1),
        ({"model": "shop.brand"}, 0),
    ],
)
def test_the_oplog_can_be_searched_and_filtered(admin_client, rows, query, found):
    assert admin_client.get(url(Oplog, "changelist"), query).context["cl"].result_count == found


def test_the_oplog_can_be_filtered_by_stream(admin_client, rows):
    other = Stream.objects.create()
    counts = [
        admin_client.get(url(Oplog, "changelist"), {"stream": stream.pk}).context["cl"].result_count
        for stream in (rows[Stream], other)
    ]
    assert counts == [1, 0]


def test_the_filter_by_model_offers_what_is_mirrored(admin_client, rows):
    page = admin_client.get(url(Oplog, "changelist")).content.decode()
    assert "?model=shop.product_tags" in page


def test_the_pages_of_a_log_count_no_further_than_a_cap(admin_client, rows, monkeypatch):
    monkeypatch.setattr(CappedPaginator, "CAP", 3)
    Outbox.objects.bulk_create(Outbox(op="SAVE", model="shop.tag", captured_at=TS) for _ in range(10))
    assert admin_client.get(url(Outbox, "changelist")).context["cl"].result_count == 3


@pytest.mark.parametrize("model", [Oplog, Outbox])
def test_no_page_of_a_log_counts_it_all(admin_client, rows, model, django_assert_max_num_queries):
    with django_assert_max_num_queries(10) as captured:
        admin_client.get(url(model, "changelist"), {"model": "shop.tag"})
    counting = [query["sql"] for query in captured if "COUNT(" in query["sql"]]
    assert counting
    assert all("LIMIT 10000" in sql for sql in counting)
    assert not any("DISTINCT" in query["sql"] for query in captured)


# Tokens


def revoke(client, *chosen):
    return client.post(
        url(Token, "changelist"),
        {"action": "revoke", "_selected_action": [token.pk for token in chosen]},
        follow=True,
    )


def test_tokens_can_be_revoked(admin_client):
    first, second = tokens.create("first"), tokens.create("second")
    assert "Revoked." in revoke(admin_client, Token.objects.get(name="first")).content.decode()
    assert tokens.authenticate(first) is None
    assert tokens.authenticate(second) is not None


def test_whoever_may_only_look_cannot_revoke(client):
    token = tokens.create("centre")
    reader = User.objects.create_user("reader", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_token"))
    client.force_login(reader)
    revoke(client, Token.objects.get())
    assert tokens.authenticate(token) is not None


def test_the_list_of_tokens_names_the_command_that_makes_one(admin_client):
    assert "mirrortoken create" in admin_client.get(url(Token, "changelist")).content.decode()


# Sources


def test_a_source_shows_how_far_it_is_mirrored(admin_client, rows):
    assert "2023-10-27 08:31:40.971553" in admin_client.get(url(Source, "changelist")).content.decode()


# Differences


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "a3f4"}, 1),
        ({"q": "a3"}, 0),
        ({"kind__exact": "missing"}, 1),
        ({"kind__exact": "extra"}, 0),
        ({"model": "shop.tag"}, 1),
        ({"model": "shop.brand"}, 0),
        ({"repaired__exact": "1"}, 0),
    ],
)
def test_differences_can_be_searched_and_filtered(admin_client, rows, query, found):
    assert admin_client.get(url(Difference, "changelist"), query).context["cl"].result_count == found


@pytest.mark.parametrize("model", [Again, Difference, Loading, Verification])
def test_what_came_of_a_source_can_be_filtered_by_it(admin_client, rows, model):
    other = Source.objects.create(name="other", url="ws://other/", token="t")
    counts = [
        admin_client.get(url(model, "changelist"), {"source": source.pk}).context["cl"].result_count
        for source in (rows[Source], other)
    ]
    assert counts == [1, 0]
