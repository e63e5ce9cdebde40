"""The tutorial's three pages and its vote."""

from __future__ import annotations

import uuid

from django.core.exceptions import ValidationError
from django.db.models import F, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views import generic
from django.views.decorators.http import require_POST

from demo.polls.access import only_shows
from demo.polls.models import Choice, Question


class IndexView(generic.ListView):
    template_name = "polls/index.html"
    context_object_name = "latest_question_list"

    def get_queryset(self) -> QuerySet[Question]:
        published = Question.objects.filter(pub_date__lte=timezone.now())
        return published.annotate(votes=Sum("choice__votes", default=0)).order_by("-pub_date")[:10]


class _QuestionView(generic.DetailView):
    model = Question
    slug_field = "id"
    slug_url_kwarg = "id"


class DetailView(_QuestionView):
    template_name = "polls/detail.html"

    def get_queryset(self) -> QuerySet[Question]:
        return Question.objects.filter(pub_date__lte=timezone.now())


class ResultsView(_QuestionView):
    template_name = "polls/results.html"


@require_POST
def vote(request: HttpRequest, id: uuid.UUID) -> HttpResponse:  # noqa: A002 (the field's name)
    question = get_object_or_404(Question, id=id)
    if only_shows():
        return _form_again(request, question, "This server only shows. Please vote on the local server.", 403)
    try:
        selected_choice = question.choice_set.get(id=request.POST["choice"])
    except (KeyError, ValidationError, Choice.DoesNotExist):
        return _form_again(request, question, "You didn't select a choice.", 200)
    selected_choice.votes = F("votes") + 1
    selected_choice.save()
    return HttpResponseRedirect(reverse("polls:results", args=(question.id,)))


def _form_again(request: HttpRequest, question: Question, error: str, status: int) -> HttpResponse:
    context = {"question": question, "error_message": error}
    return render(request, "polls/detail.html", context, status=status)
