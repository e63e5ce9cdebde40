"""A day at a help desk: queues, tickets of staff and public, follow-ups with files, merges, checklists."""

from __future__ import annotations

from tests.applications.site import ApplicationSite
from tests.applications.visitor import Visitor

FIXTURES = ["emailtemplate.json"]

_USERS = """
from django.contrib.auth.models import User
User.objects.create_superuser("chief", "chief@example.com", "chief")
for name in ["first", "second"]:
    User.objects.create_user(name, f"{name}@example.com", name, is_staff=True)
"""

#: What has no page of its own, and what helpdesk does by itself: escalation, mail that comes in.
_BY_MODELS = r"""
from datetime import date, timedelta
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
import logging
from django.contrib.auth.models import User
from django.utils import timezone
from helpdesk.email import extract_email_metadata
from helpdesk.models import *

chief = User.objects.get(username="chief")
printers = Queue.objects.get(slug="printers")
network = Queue.objects.get(slug="network")
log = logging.getLogger("drive")

# Mail makes a ticket, an answer a follow-up on it with its files.
mail = MIMEMultipart()
mail["Subject"], mail["From"], mail["To"] = "No paper \u2014 again", "a@example.com", "desk@example.com"
mail["Message-ID"], mail["Cc"] = "<one@example.com>", "b@example.com"
mail.attach(MIMEText("The tray is empty \U0001f5a8", "plain", "utf-8"))
mail.attach(MIMEApplication(bytes(range(256)), Name="log.txt"))
extract_email_metadata(mail.as_string(), printers, log)
ticket = Ticket.objects.get(title__startswith="No paper")
answer = MIMEText("It is full now", "plain", "utf-8")
answer["Subject"] = f"Re: [printers-{ticket.id}] No paper"
answer["From"], answer["Message-ID"] = "a@example.com", "<two@example.com>"
answer["In-Reply-To"] = "<one@example.com>"
extract_email_metadata(answer.as_string(), printers, log)

# Writes that pass no save().
Ticket.objects.filter(queue=network).update(priority=1, modified=timezone.now())
tickets = Ticket.objects.bulk_create(
    Ticket(queue=network, title=f"Bulk {n}", submitter_email="bulk@example.com") for n in range(40))
FollowUp.objects.bulk_create(
    FollowUp(ticket=t, date=timezone.now(), title="Seen", comment="x" * 5000, user=chief,
             time_spent=timedelta(days=-1, microseconds=7))
    for t in Ticket.objects.filter(title__startswith="Bulk"))
Ticket.objects.filter(title__in=["Bulk 3", "Bulk 4"]).delete()
EscalationExclusion.objects.create(name="Holiday", date=date.today()).queues.add(printers, network)
reply = PreSetReply.objects.create(name="Thanks", body="{{ ticket.title }}")
reply.queues.set([printers])
reply.queues.set([network, printers])
reply.queues.clear()
reply.queues.add(network)
category = KBCategory.objects.create(
    name="papers", title="Papers", slug="papers", description="All", queue=printers)
item = KBItem.objects.create(category=category, title="Which?", question="Which?", answer="A4")
item.voted_by.add(chief)
item.downvoted_by.add(*User.objects.exclude(pk=chief.pk))
item.downvoted_by.clear()
ignored = IgnoreEmail.objects.create(name="noise", date=date.today(), email_address="*@noise.example")
ignored.queues.add(printers)
TicketDependency.objects.create(ticket=ticket, depends_on=Ticket.objects.get(title="Bulk 5"))
"""

_COMMANDS = [["escalate_tickets"], ["create_queue_permissions"], ["create_usersettings"]]


def drive(site: ApplicationSite) -> None:
    site.script(_USERS)
    visitor = site.visitor()
    visitor.open("/helpdesk/login/").submit(username="chief", password="chief")
    _queues(visitor)
    _tickets(site, visitor)
    _public(site)
    _follow_ups(site, visitor)
    _merge_and_delete(site, visitor)
    site.script(_BY_MODELS)
    for command in _COMMANDS:
        site.manage(*command)


def _queues(visitor: Visitor) -> None:
    for title in ["Printers", "Network"]:
        visitor.open("/admin/helpdesk/queue/add/").submit(
            title=title, slug=title.lower(), allow_public_submission="on", escalate_days="1"
        )
    for name, kind in [("floor", "integer"), ("bought", "date"), ("note", "text")]:
        visitor.open("/admin/helpdesk/customfield/add/").submit(
            name=name, label=name.title(), data_type=kind, ordering="1", max_length="50", decimal_places="0"
        )


def _tickets(site: ApplicationSite, visitor: Visitor) -> None:
    for number in range(6):
        visitor.open("/helpdesk/tickets/submit/").submit(
            queue=_id(site, "queue", "slug", "printers" if number % 2 else "network"),
            title=f"Ticket {number}",
            body=f"It is broken \U0001f525 'really' {number}\nand\\so on",
            submitter_email="somebody@example.com",
            assigned_to=_user(site, "first") if number % 3 else "",
            priority="2",
            due_date="2026-12-24 12:30:00",
            custom_floor=str(number),
            custom_bought="2024-02-29",
            custom_note="",
            files={"attachment": (f"seen {number}.txt", b"what was seen\n" * (number + 1), "text/plain")},
        )
    assert site.one("SELECT COUNT(*) FROM helpdesk_ticketcustomfieldvalue")


def _public(site: ApplicationSite) -> None:
    """Somebody who is not logged in."""
    site.visitor().open("/helpdesk/tickets/submit/").submit(
        queue=_id(site, "queue", "slug", "printers"),
        title="From outside",
        body="Can I have paper?",
        submitter_email="outside@example.com",
        custom_note="please",
    )


def _follow_ups(site: ApplicationSite, visitor: Visitor) -> None:
    first, second = _ticket(site, "Ticket 0"), _ticket(site, "Ticket 1")
    for status, comment in [("2", "Again"), ("3", "Done"), ("4", "Closed")]:
        visitor.open(f"/helpdesk/tickets/{first}/").submit(
            having="comment",
            comment=f"{comment}, with \u2013 a dash",
            new_status=status,
            public="1",
            time_spent="1:30",
            owner=_user(site, "second"),
            files={"attachment": ("answer.txt", b"yes", "text/plain")},
        )
    visitor.open(f"/helpdesk/tickets/{second}/edit/").submit(
        title="Ticket 1, renamed", queue=_id(site, "queue", "slug", "network"), priority="5"
    )
    follow_up = site.one("SELECT MIN(id) FROM helpdesk_followup WHERE ticket_id = ?", first)
    visitor.open(f"/helpdesk/tickets/{first}/followup_edit/{follow_up}/").submit(
        title="Said otherwise", comment="Shorter", ticket=first
    )
    visitor.open(f"/helpdesk/tickets/{second}/cc/add/").submit(
        having="email", email="cc@example.com", can_view="on"
    )
    visitor.open(f"/helpdesk/tickets/{second}/dependency/add/").submit(depends_on=_ticket(site, "Ticket 2"))
    visitor.open(f"/helpdesk/tickets/{second}/hold/")
    visitor.call("/helpdesk/save_query/", title="Mine", shared="on", query_encoded="eyJmaWx0ZXJpbmciOiB7fX0=")
    _checklists(site, visitor, second)
    visitor.open("/helpdesk/settings/").submit(tickets_per_page="50")
    assert site.one("SELECT status FROM helpdesk_ticket WHERE id = ?", first) == 4
    assert site.one("SELECT COUNT(*) FROM helpdesk_followupattachment WHERE filename = 'answer.txt'") == 3
    assert site.one("SELECT COUNT(*) FROM helpdesk_ticketdependency") == 1


def _checklists(site: ApplicationSite, visitor: Visitor, ticket: int) -> None:
    templates = visitor.open("/helpdesk/checklist-templates/")
    templates.submit(having="name", name="Steps", task_list='["look", "think"]')
    visitor.open(f"/helpdesk/tickets/{ticket}/").submit(having="checklist_template", name="By hand")
    made = site.one("SELECT MAX(id) FROM helpdesk_checklist")
    visitor.open(f"/helpdesk/tickets/{ticket}/checklists/{made}/").submit(
        having="name",
        name="Renamed",
        **{"tasks-TOTAL_FORMS": "1", "tasks-0-description": "look", "tasks-0-position": "0"},
    )


def _merge_and_delete(site: ApplicationSite, visitor: Visitor) -> None:
    kept, merged = _ticket(site, "Ticket 2"), _ticket(site, "Ticket 4")
    visitor.open(f"/helpdesk/tickets/merge?tickets={kept}&tickets={merged}").submit(chosen_ticket=kept)
    away = _ticket(site, "Ticket 3")
    visitor.open(f"/helpdesk/tickets/{away}/delete/").submit(having="next")
    last = _ticket(site, "Ticket 5")
    visitor.call("/helpdesk/tickets/update/", ticket_id=str(last), action="close_public")
    assert site.one("SELECT merged_to_id FROM helpdesk_ticket WHERE id = ?", merged) == kept
    assert site.one("SELECT COUNT(*) FROM helpdesk_ticket WHERE id = ?", away) == 0
    assert site.one("SELECT status FROM helpdesk_ticket WHERE id = ?", last) == 4


def _ticket(site: ApplicationSite, title: str) -> int:
    return _id(site, "ticket", "title", title)


def _id(site: ApplicationSite, table: str, column: str, value: str) -> int:
    found: int = site.one(f"SELECT id FROM helpdesk_{table} WHERE {column} = ?", value)
    return found


def _user(site: ApplicationSite, name: str) -> int:
    found: int = site.one("SELECT id FROM auth_user WHERE username = ?", name)
    return found
