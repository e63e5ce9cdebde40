"""A user model in the place of Django's."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models

from mirror.models import UUIDModel


class Person(UUIDModel, AbstractBaseUser, PermissionsMixin):
    name = models.CharField(max_length=30, unique=True)

    USERNAME_FIELD = "name"
    objects: BaseUserManager = BaseUserManager()

    class Meta:
        app_label = "zoo_users"


class Diary(models.Model):
    owner = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True)
    readers = models.ManyToManyField(settings.AUTH_USER_MODEL, related_name="+")
    text = models.TextField()

    class Meta:
        app_label = "zoo_users"
