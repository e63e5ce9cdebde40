"""Tokens: what a mirror shows to be let in. ``<prefix>.<secret>``; only the secret's hash is kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from mirror.conf import conf
from mirror.models import Token

_SHAPE = re.compile(r"[0-9a-f]{16}\.[A-Za-z0-9_-]{43}")

#: A storm of reconnects must not become a storm of writes.
_NOTE_EVERY = timedelta(minutes=1)


def create(name: str) -> str:
    """Return a new token, which cannot be shown again. Raises ValidationError for the name."""
    using = conf().database
    Token._meta.get_field("name").clean(name, None)
    prefix, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    try:
        with transaction.atomic(using=using):
            Token.objects.using(using).create(name=name, prefix=prefix, digest=_digest(secret))
    except IntegrityError as error:
        # Names are not used again, not even revoked ones: the log would not tell the two apart.
        raise ValidationError(
            f"There is, or was, a token named {name!r}. Choose another name, such as {name}-2."
        ) from error
    return f"{prefix}.{secret}"


def well_formed(token: str) -> bool:
    return _SHAPE.fullmatch(token) is not None


def authenticate(token: str, *, now: datetime | None = None) -> Token | None:
    """Return the token that this text is, if it is one and not revoked. Never raises for its content."""
    if not well_formed(token):
        return None
    prefix, _, secret = token.partition(".")
    found = Token.objects.using(conf().database).filter(prefix=prefix).first()
    if found is None or not secrets.compare_digest(found.digest, _digest(secret)):
        return None
    if found.revoked_at is not None:
        return None
    _note_use(found, timezone.now() if now is None else now)
    return found


def revoke(name: str) -> Token:
    """Let nobody in with this token from now on. Raises ValidationError for the name."""
    token = issued().filter(name=name).first()
    if token is None:
        raise ValidationError(f"There is no token named {name!r}; see `manage.py mirrortoken list`.")
    if token.revoked_at is None:
        token.revoked_at = timezone.now()
        token.save(update_fields=["revoked_at"])
    return token


def holds(name: str) -> bool:
    """Whether the token of this name may still be used."""
    return Token.objects.using(conf().database).filter(name=name, revoked_at=None).exists()


def issued() -> QuerySet[Token]:
    return Token.objects.using(conf().database).order_by("name")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _note_use(token: Token, now: datetime) -> None:
    # abs(): after the clock was set back, the last use lies in the future.
    if token.last_used_at is not None and abs(now - token.last_used_at) < _NOTE_EVERY:
        return
    same = Token.objects.using(conf().database).filter(pk=token.pk, last_used_at=token.last_used_at)
    same.update(last_used_at=now)
    token.last_used_at = now
