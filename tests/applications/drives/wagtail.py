"""A day of a Wagtail editor: pages, images, documents, workflows, translations; and the housekeeping."""

from __future__ import annotations

import io
import json

from PIL import Image

from tests.applications.site import ApplicationSite
from tests.applications.visitor import Page, Visitor

FIXTURES = ["demosite.json"]

_USER = """
from django.contrib.auth.models import Group, User
User.objects.create_superuser("editor", "editor@example.com", "editor")
for name in ["Editors", "Moderators"]:
    user = User.objects.create_user(name.lower(), f"{name.lower()}@example.com", "x")
    user.groups.add(Group.objects.get(name=name))
"""

#: What the pages of the admin do not offer, or offer to scripts only.
_BY_MODELS = """
from django.utils import timezone
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from wagtail.models import *
from wagtail.images.models import Image
from wagtail.test.demosite.models import *
from wagtail.contrib.redirects.models import Redirect
from wagtail.contrib.forms.models import FormSubmission
from wagtail.contrib.search_promotions.models import Query, SearchPromotion
editor = User.objects.get(username="editor")
home = HomePage.objects.first()

# Trees: treebeard writes paths with SQL of its own.
blog = BlogIndexPage.objects.first()
copy = blog.copy(recursive=True, update_attrs={"slug": "blog-copy", "title": "Blog again"}, user=editor)
copy.move(StandardIndexPage.objects.first(), pos="first-child", user=editor)
for number in range(12):
    page = home.add_child(instance=StandardPage(
        title=f"Page {number} \\U0001f333 'quoted' \\\\ back", slug=f"page-{number}", intro="<p>Hello</p>"))
    page.save_revision(user=editor).publish(user=editor)
def page(number):
    # Anew each time: an instance does not know where its row was moved to.
    return StandardPage.objects.get(slug=f"page-{number}")
page(0).move(page(1), pos="right")
page(2).move(page(3), pos="last-child")
page(4).delete()
Page.objects.filter(slug__startswith="page-").update(search_description="many at once")
EventPage.objects.update(signup_link="https://example.com/", audience="private")

# Drafts, schedules, aliases, a page in another language.
draft = page(5)
draft.title = "A draft"
draft.save_revision(user=editor, approved_go_live_at=timezone.now())
draft.go_live_at = timezone.now()
draft.save_revision(user=editor).publish(user=editor)
page(6).create_alias(parent=page(7), update_slug="alias", user=editor)
page(6).unpublish(user=editor)
french = Locale.objects.create(language_code="fr")
home = HomePage.objects.get(pk=home.pk)
home.copy_for_translation(french)
home.get_children().last().copy_for_translation(french, copy_parents=True, alias=True)

# A workflow: a moderator approves one page and rejects another.
task = GroupApprovalTask.objects.create(name="Read it")
task.groups.set(Group.objects.filter(name="Moderators"))
workflow = Workflow.objects.create(name="Two eyes")
WorkflowTask.objects.create(workflow=workflow, task=task, sort_order=0)
WorkflowPage.objects.create(workflow=workflow, page=home)
kind = ContentType.objects.get_for_model(FormPage)
WorkflowContentType.objects.create(workflow=workflow, content_type=kind)
moderator = User.objects.get(username="moderators")
for number, approve in [(8, True), (9, False)]:
    checked = page(number)
    checked.title += " (checked)"
    checked.save_revision(user=editor)
    workflow.start(checked, editor)
    current = checked.current_workflow_state.current_task_state.specific
    (current.approve if approve else current.reject)(user=moderator)

# Comments, locks, restrictions, redirects, submissions, searches.
comment = Comment.objects.create(page=page(8), user=editor, text="Why?", contentpath="title", position="")
CommentReply.objects.create(comment=comment, user=moderator, text="Because.")
PageSubscription.objects.create(page=page(8), user=moderator, comment_notifications=True)
restriction = PageViewRestriction.objects.create(
    page=page(8), restriction_type=PageViewRestriction.GROUPS)
restriction.groups.set(User.objects.get(username="editors").groups.all())
Redirect.objects.create(old_path="/old", redirect_page=home)
Redirect.add_redirect("/older", "https://example.com/?q=\\u00e9", is_permanent=False)
home = HomePage.objects.get(pk=home.pk)
form = home.add_child(instance=FormPage(title="Ask", slug="ask", form_fields=[
    FormField(label="Name", field_type="singleline", sort_order=1)]))
for number in range(3):
    deep = [None, 1.5, {"a": "\\u2028"}]
    FormSubmission.objects.create(page=form, form_data={"name": f"n{number}", "deep": deep})
query = Query.get("tree")
query.add_hit()
query.add_hit()
SearchPromotion.objects.create(query=query, page=home, description="best")

# Images: renditions are made in bulk, tags by generic relations.
picture = Image.objects.filter(title="A picture").get()
picture.get_renditions("width-10", "fill-8x8", "max-20x20", "original|format-webp")
picture.tags.add("tree", "green")
picture.tags.remove("green")
Site.objects.update_or_create(hostname="second.example.com", port=8080, defaults={"root_page": home})
"""

_COMMANDS = [
    ["publish_scheduled"],
    ["fixtree"],
    ["rebuild_references_index"],
    ["wagtail_update_index"],
    ["purge_revisions", "--days", "0"],
    ["wagtail_update_image_renditions", "--purge-only"],
]


def drive(site: ApplicationSite) -> None:
    site.script(_USER)
    visitor = site.visitor()
    visitor.open("/admin/login/").submit(username="editor", password="editor")
    _pages(site, visitor)
    _files(site, visitor)
    _settings(visitor)
    site.script(_BY_MODELS)
    for command in _COMMANDS:
        site.manage(*command)


def _pages(site: ApplicationSite, visitor: Visitor) -> None:
    home = _page_id(site, "home-page")
    for number in range(3):
        visitor.open(f"/admin/pages/add/demosite/standardpage/{home}/").submit(
            title=f"From a form {number}",
            slug=f"form-{number}",
            body=_rich_text(f"Text {number} with ünicode"),
            press="action-publish" if number else "",
        )
    first, second, third = (_page_id(site, f"form-{number}") for number in range(3))
    _edit(visitor, first, title="Published later", press="action-publish")
    _edit(visitor, second, title="A draft of a change", show_in_menus="on")
    visitor.open(f"/admin/pages/{third}/copy/").submit(
        new_title="A copy", new_slug="form-copy", new_parent_page=home, publish_copies="on"
    )
    visitor.open(f"/admin/pages/{third}/move/{first}/confirm/").submit(having="csrfmiddlewaretoken")
    visitor.open(f"/admin/pages/{second}/unpublish/").submit(having="csrfmiddlewaretoken")
    visitor.call(f"/admin/pages/{second}/lock/")
    visitor.open(f"/admin/pages/{_page_id(site, 'form-copy')}/delete/").submit(having="csrfmiddlewaretoken")
    assert site.one("SELECT depth FROM wagtailcore_page WHERE id = ?", third) == 4
    assert site.rows("SELECT locked, live FROM wagtailcore_page WHERE id = ?", second) == [(1, 0)]
    assert _page_id(site, "form-copy") is None


def _files(site: ApplicationSite, visitor: Visitor) -> None:
    visitor.open("/admin/images/add/").submit(
        title="A picture", tags="sky, water", files={"file": ("sky.png", _picture(), "image/png")}
    )
    visitor.open("/admin/images/add/").submit(
        title="Thrown away", files={"file": ("away.png", _picture(), "image/png")}
    )
    image = site.one("SELECT id FROM wagtailimages_image WHERE title = 'A picture'")
    visitor.open(f"/admin/images/{image}/").submit(
        title="A picture", focal_point_x="3", focal_point_y="4", focal_point_width="2", focal_point_height="2"
    )
    away = site.one("SELECT id FROM wagtailimages_image WHERE title = 'Thrown away'")
    visitor.open(f"/admin/images/{away}/delete/").submit(having="csrfmiddlewaretoken")
    visitor.open("/admin/documents/add/").submit(
        title="A document", files={"file": ("read me.txt", b"to read\n", "text/plain")}
    )
    assert site.one("SELECT focal_point_x FROM wagtailimages_image WHERE id = ?", image) == 3
    assert site.one("SELECT file_hash FROM wagtaildocs_document WHERE title = 'A document'")


def _settings(visitor: Visitor) -> None:
    visitor.open("/admin/sites/edit/1/").submit(site_name="Renamed")
    visitor.open("/admin/collections/add/").submit(name="Holidays", parent="1")
    visitor.open("/admin/groups/new/").submit(name="Readers", having="name")
    visitor.open("/admin/users/new/").submit(
        username="writer",
        email="writer@example.com",
        first_name="W",
        last_name="R",
        password1="a-Long-one-9",
        password2="a-Long-one-9",
    )


def _edit(visitor: Visitor, page: int, *, press: str = "", **fields: str) -> Page:
    return visitor.open(f"/admin/pages/{page}/edit/").submit(press=press, having="title", **fields)


def _page_id(site: ApplicationSite, slug: str) -> int:
    found: int = site.one("SELECT id FROM wagtailcore_page WHERE slug = ?", slug)
    return found


def _rich_text(text: str) -> str:
    """As the editor's script puts it into the form."""
    block = {
        "key": "a1b2c",
        "text": text,
        "type": "unstyled",
        "depth": 0,
        "inlineStyleRanges": [],
        "entityRanges": [],
    }
    return json.dumps({"blocks": [block], "entityMap": {}})


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (10, 120, 200)).save(file, "PNG")
    return file.getvalue()
