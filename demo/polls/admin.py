"""Editable on the local server, read-only on the central one."""

from __future__ import annotations

from django.contrib import admin

from demo.polls.access import only_shows
from demo.polls.models import Choice, Question
from mirror.admin import ReadOnlyAdmin


class ChoiceInline(admin.TabularInline):
    model = Choice
    extra = 3


class QuestionAdmin(admin.ModelAdmin):
    fields = ["question_text", "pub_date"]
    inlines = [ChoiceInline]
    list_display = ["question_text", "pub_date", "id"]
    list_filter = ["pub_date"]
    search_fields = ["question_text"]


class ShownChoiceInline(ReadOnlyAdmin, ChoiceInline):
    extra = 0


class ShownQuestionAdmin(ReadOnlyAdmin, QuestionAdmin):
    inlines = [ShownChoiceInline]


admin.site.register(Question, ShownQuestionAdmin if only_shows() else QuestionAdmin)
