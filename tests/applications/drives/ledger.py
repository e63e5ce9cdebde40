"""Bookkeeping with django-ledger: an entity with its accounts, bills, invoices and a closed year."""

from __future__ import annotations

from tests.applications.site import ApplicationSite

FIXTURES: list[str] = []

_USER = """
from django.contrib.auth.models import User
User.objects.create_superuser("owner", "owner@example.com", "owner")
"""

#: The application's own generator of a company's life: every kind of document, posted and paid.
_A_YEAR = """
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo
from django.contrib.auth.models import User
from django_ledger.io.io_generator import EntityDataGenerator
from django_ledger.models import EntityModel
owner = User.objects.get(username="owner")
entity = EntityModel.create_entity(name="A company", admin=owner, use_accrual_method=True, fy_start_month=1)
EntityDataGenerator(
    user_model=owner, entity_model=entity, start_dttm=datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
    capital_contribution=Decimal("250000.00"), days_forward=200, tx_quantity=25,
).populate_entity(create_closing_entry=True)
"""

_AFTERWARDS = """
from decimal import Decimal
from django.db.models import F
from django_ledger.models import *
ledger = LedgerModel.objects.order_by("created").first()
ledger.lock(commit=True) if ledger.can_lock() else ledger.unlock(commit=True)
EstimateModel.objects.update(title=F("title"))
customer = CustomerModel.objects.first()
customer.customer_name = "Renamed \\u00fc"
customer.save()
BankAccountModel.objects.filter(active=True).update(hidden=True)
entity = EntityModel.objects.get(name="A company")
entity.create_chart_of_accounts(coa_name="Second", commit=True)
invoice = InvoiceModel.objects.filter(invoice_status="draft").first()
if invoice is not None:
    invoice.delete()
"""


def drive(site: ApplicationSite) -> None:
    site.script(_USER)
    site.script(_A_YEAR)
    visitor = site.visitor()
    visitor.open("/ledger/auth/login/").submit(username="owner", password="owner")
    visitor.open("/ledger/entity/create/").submit(
        name="From a form",
        address_1="1 Street",
        city="Town",
        state="AA",
        zip_code="1",
        country="AT",
        email="form@example.com",
        phone="1",
        default_coa="on",
        activate_all_accounts="on",
    )
    assert site.one("SELECT COUNT(*) FROM django_ledger_entitymodel") == 2
    site.script(_AFTERWARDS)
