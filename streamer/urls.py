from __future__ import annotations

from django.urls import path

from streamer import views

app_name = "mirror"

urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("changes/<uuid:stream>/<int:ts>/", views.change, name="change"),
    path("status.json", views.status, name="status"),
    path("healthz", views.healthz, name="healthz"),
]
