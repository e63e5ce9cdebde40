"""A day at a django-oscar shop: its catalogue, a guest's order, the dashboard, offers and vouchers."""

from __future__ import annotations

from tests.applications.site import ApplicationSite
from tests.applications.visitor import Visitor

FIXTURES: list[str] = []

_CATALOGUE = """
from datetime import timedelta
from decimal import Decimal
from django.contrib.auth.models import User
from django.utils import timezone
from oscar.apps.address.models import Country
from oscar.apps.catalogue.categories import create_from_breadcrumbs
from oscar.apps.catalogue.models import *
from oscar.apps.partner.models import Partner, StockRecord
from oscar.test.factories import create_offer, create_order, create_product, create_voucher
User.objects.create_superuser("keeper", "keeper@example.com", "keeper")
Country.objects.create(
    iso_3166_1_a2="AT", iso_3166_1_a3="AUT", printable_name="Austria", name="Austria",
    is_shipping_country=True)
kind = ProductClass.objects.create(name="Book", track_stock=True)
for code, type_ in [("pages", "integer"), ("weight", "float"), ("printed", "date"), ("signed", "boolean")]:
    kind.attributes.create(name=code.title(), code=code, type=type_)
partner = Partner.objects.create(name="Publisher")
for trail in ["Books > Fiction > Old", "Books > Fiction > New", "Books > Science", "Other"]:
    create_from_breadcrumbs(trail)
for number in range(20):
    product = Product.objects.create(
        product_class=kind, title=f"Book {number} \\u2014 '\\U0001f4d6'", upc=f"upc-{number}",
        structure="standalone")
    product.attr.pages, product.attr.weight = number * 100, number / 7
    product.attr.signed = bool(number % 2)
    product.save()
    ProductCategory.objects.create(product=product, category=Category.objects.order_by("path")[number % 4])
    StockRecord.objects.create(product=product, partner=partner, partner_sku=f"s{number}",
                               price=Decimal("9.99") + number, num_in_stock=number + 10)
"""

#: Through what the shop's services do: orders, offers, vouchers, reviews, the category tree.
_TRADE = """
from decimal import Decimal
from django.contrib.auth.models import User
from django.db.models import F
from oscar.apps.catalogue.models import *
from oscar.apps.catalogue.reviews.models import ProductReview, Vote
from oscar.apps.customer.wishlists.views import *
from oscar.apps.order.models import *
from oscar.apps.order.processing import EventHandler
from oscar.apps.partner.models import StockRecord
from oscar.test.factories import create_offer, create_order, create_voucher
keeper = User.objects.get(username="keeper")
create_offer(name="Ten percent")
create_voucher()
orders = [create_order(number=f"n{number}", user=keeper) for number in range(3)]
EventHandler(keeper).handle_shipping_event(
    orders[0], ShippingEventType.objects.get_or_create(name="Shipped")[0], list(orders[0].lines.all()), [1])
fiction = Category.objects.get(name="Fiction")
fiction.move(Category.objects.get(name="Other"), "first-child")
Category.objects.get(name="Science").delete()
first, second, third = Product.objects.filter(structure="standalone").order_by("pk")[:3]
first.recommended_products.through.objects.create(primary=first, recommendation=second, ranking=3)
review = ProductReview.objects.create(product=first, user=keeper, score=4, title="Good", body="Yes")
Vote.objects.create(review=review, user=User.objects.create_user("voter"), delta=1)
StockRecord.objects.update(num_in_stock=F("num_in_stock") + 5, price=F("price") * 2)
third.delete()
"""


def drive(site: ApplicationSite) -> None:
    site.script(_CATALOGUE)
    _guest(site)
    site.script(_TRADE)
    _dashboard(site)
    for command in ["oscar_calculate_scores", "oscar_update_product_ratings", "oscar_cleanup_alerts"]:
        site.manage(command)


def _guest(site: ApplicationSite) -> None:
    """Somebody buys two books, step by step, and pays at the door."""
    visitor = site.visitor()
    for title in ["Book 3%", "Book 4%"]:
        product, slug = site.rows("SELECT id, slug FROM catalogue_product WHERE title LIKE ?", title)[0]
        visitor.open(f"/catalogue/{slug}_{product}/").submit(quantity="2")
    visitor.open("/checkout/").submit(username="guest@example.com", options="anonymous")
    visitor.open("/checkout/shipping-address/").submit(
        first_name="A", last_name="Guest", line1="1 Street", line4="Town", postcode="1010"
    )
    visitor.open("/checkout/preview/").submit(having="action")
    assert site.one("SELECT COUNT(*) FROM order_order WHERE guest_email = 'guest@example.com'") == 1


def _dashboard(site: ApplicationSite) -> None:
    visitor: Visitor = site.visitor()
    visitor.open("/dashboard/login/").submit(username="keeper@example.com", password="keeper")
    order = site.one("SELECT number FROM order_order WHERE guest_email = 'guest@example.com'")
    visitor.open(f"/dashboard/orders/{order}/").submit(having="message", message="Packed", note_type="Info")
    visitor.open("/dashboard/pages/create/").submit(title="About", url="/about/", content="<p>Us</p>")
    assert site.one("SELECT COUNT(*) FROM order_ordernote") == 1
    assert site.one("SELECT COUNT(*) FROM django_flatpage") == 1
