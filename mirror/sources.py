"""Sources: which servers this one mirrors. Registering and forgetting them; following is the client's."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.dateparse import parse_datetime
from django.utils.timezone import make_aware

from mirror import loading
from mirror.changes import from_datetime
from mirror.conf import conf
from mirror.errors import Forked
from mirror.models import Source
from mirror.registry import mirrored_models
from mirror.tokens import well_formed

_ROUTE = "/mirror/stream/"


def add(name: str, url: str, token: str, begin: str = "start") -> Source:
    """Register a source. Raises ValidationError, whose text says the mend.

    ``begin``: "start", "now", or the time (ISO 8601) of the first change to mirror.
    """
    using = conf().database
    check_url(url)
    begin = begin if begin in {"start", "now"} else str(_microseconds(begin))
    if not token:
        raise ValidationError("Which token? Give --token or --token-file, or set MIRROR_TOKEN.")
    if not well_formed(token):
        raise ValidationError(
            "This is not a token. Paste the whole line that `manage.py mirrortoken create NAME` "
            "printed on the source: 16 characters, a dot, 43 characters."
        )
    try:
        Source._meta.get_field("name").clean(name, None)
    except ValidationError as error:
        raise ValidationError(
            f"{name!r} cannot name a source: use at most 100 letters, digits, '-' and '_'."
        ) from error
    try:
        with transaction.atomic(using=using):
            return Source.objects.using(using).create(name=name, url=url, token=token, begin=begin)
    except IntegrityError as error:
        raise ValidationError(
            f"There is a source named {name!r}. Choose another name, or first `manage.py mirrorsource "
            f"remove {name}` (its rows stay, its cursor is forgotten)."
        ) from error


def _microseconds(time: str) -> int:
    try:
        moment = parse_datetime(time)
    except ValueError:
        moment = None
    if moment is None:
        raise ValidationError(
            f"{time!r} is no place to begin: use start, now, or a time such as 2026-05-31T08:00:00+02:00."
        )
    if moment.tzinfo is None:
        moment = make_aware(moment)
    return from_datetime(moment)


def remove(name: str) -> None:
    """Forget a source and its cursor; the rows it brought stay. Raises ValidationError for the name."""
    _named(name).delete()


def resync(name: str, model: str | None) -> list[str]:
    """Have all rows of a source, or those of one model, loaded as they are there; return the models.

    One that was never followed, or has to begin anew, has all of them loaded in any case.
    A process that follows the source begins within a heartbeat. Raises ValidationError.
    """
    source, models = _named(name), _labels(model)
    # One that is not followed has no place in the log to go on from: what is not loaded would never come. Nor
    # has one whose place is in another history.
    known_here = source.stream_id is not None
    anew = not known_here or source.error_code == Forked.code
    if anew:
        models = _labels(None)
    with transaction.atomic(using=source._state.db):
        if anew and known_here:
            source.stream, source.cursor, source.position, source.mark = None, 0, 0, ""
            source.save(update_fields=["stream", "cursor", "position", "mark"])
        loading.begin(source, models, anew=anew, sweep=known_here)
    return models


def chosen(names: Iterable[str], model: str | None) -> tuple[list[Source], list[str]]:
    """Return the named sources, or all, and the model that is meant, or all. Raises ValidationError.

    There is at least one of either.
    """
    found = [_named(name) for name in dict.fromkeys(names)] or list(registered())
    if not found:
        raise ValidationError(
            "No source is registered here: `manage.py mirrorsource add NAME URL --token T` on the centre."
        )
    models = _labels(model)
    if not models:
        raise ValidationError("MIRROR['MODELS'] lists no models: there are no rows here to compare.")
    return found, models


def _named(name: str) -> Source:
    source = registered().filter(name=name).first()
    if source is None:
        raise ValidationError(f"There is no source named {name!r}; see `manage.py mirrorsource list`.")
    return source


def _labels(model: str | None) -> list[str]:
    """This model, or all that are mirrored."""
    known = mirrored_models()
    if model is None:
        return list(known)
    if model.lower() not in known:
        raise ValidationError(f"{model!r} is not mirrored here; MIRROR['MODELS'] gives {', '.join(known)}.")
    return [model.lower()]


def registered() -> QuerySet[Source]:
    return Source.objects.using(conf().database).order_by("name")


def check_url(url: str) -> None:
    """Raises ValidationError unless this is where a stream can be."""
    example = f"ws://localhost:8000{_ROUTE}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValidationError(f"{url!r} is not a URL ({error}). Write it like {example}") from error
    if parts.scheme in {"http", "https"}:
        path = parts.path if parts.path.strip("/") else _ROUTE
        likely = urlunsplit(parts._replace(scheme=parts.scheme.replace("http", "ws"), path=path))
        raise ValidationError(f"A stream is a WebSocket. Write {likely} instead of {url}")
    if parts.scheme not in {"ws", "wss"} or not host or port == 0 or _has_spaces(url):
        raise ValidationError(f"{url!r} is not a ws:// or wss:// URL. Write it like {example}")
    if parts.username is not None or parts.password is not None:
        raise ValidationError(
            "A URL is shown in logs and status: keep passwords out of it, --token is enough."
        )
    if parts.fragment:
        raise ValidationError(f"A WebSocket URL has no fragment: leave out '#{parts.fragment}'.")
    Source._meta.get_field("url").clean(url, None)


def lacks_path(url: str) -> bool:
    """True where the URL names a whole server; only a proxy that rewrites could serve a stream there."""
    return urlsplit(url).path in {"", "/"}


def _has_spaces(url: str) -> bool:
    # urlsplit drops tabs and line ends without a word.
    return any(character.isspace() or not character.isprintable() for character in url)
