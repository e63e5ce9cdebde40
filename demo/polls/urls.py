"""Pages are addressed by ``id``: a poll has the same address on both servers."""

from __future__ import annotations

from django.urls import path

from demo.polls import views

app_name = "polls"

urlpatterns = [
    path("", views.IndexView.as_view(), name="index"),
    path("<uuid:id>/", views.DetailView.as_view(), name="detail"),
    path("<uuid:id>/results/", views.ResultsView.as_view(), name="results"),
    path("<uuid:id>/vote/", views.vote, name="vote"),
]
