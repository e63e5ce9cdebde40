from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("mirror/", include("streamer.urls")),
    path("admin/", admin.site.urls),
    path("ledger/", include("django_ledger.urls", namespace="django_ledger")),
]
