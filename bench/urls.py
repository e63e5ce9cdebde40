"""What a benched server serves over HTTP."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("mirror/", include("streamer.urls"))]
